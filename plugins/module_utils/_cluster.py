# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cluster has already, and whether the inventory fits it. Reads alone.

This module util is private to the collection: it may change in any way at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._helm_release import Record, newest, parse_record
from ansible_collections.tokenlabs.platform.plugins.module_utils._hosts import table
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import Kube, UnknownKind
from ansible_collections.tokenlabs.platform.plugins.module_utils._releases import RELEASES, version_key

Data = dict[str, Any]

GPU = "nvidia.com/gpu"
# Which helm release, in which namespace, tells the version of a component.
HELM_RELEASES = {
    "gpu_operator": (("gpu-operator", "gpu-operator"),),
    "ai_gateway": (("envoy-ai-gateway-system", "aieg"), ("envoy-ai-gateway-system", "aieg-crd")),
    "envoy_gateway": (("envoy-gateway-system", "eg"),),
    "kuadrant_operator": (("kuadrant-system", "kuadrant-operator"),),
}
# Charts of the models' releases, of which there are many.
MODEL_CHARTS = {"inferencepool": "inferencepool", "llm-d-modelservice": "modelservice"}
# The definition that says in an annotation of which release its bundle is.
BUNDLES = {
    "gateway_api": ("gateways.gateway.networking.k8s.io", "gateway.networking.k8s.io/bundle-version"),
    "inference_extension": (
        "inferencepools.inference.networking.k8s.io",
        "inference.networking.k8s.io/bundle-version",
    ),
}
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def installed(kube: Kube, namespace: str) -> Data:
    """Versions of what this platform is made of, by component: the newest where there are several, and where it is."""
    found: Data = {}

    def note(component: str, version: str, source: str) -> None:
        known = found.get(component)
        if version and (known is None or version_key(version) > version_key(known["version"])):
            found[component] = {"version": version, "source": source}

    for component, places in HELM_RELEASES.items():
        for inside, name in places:
            record = newest(kube, inside, name)
            if record is not None:
                note(component, record.version, f"helm release {name} in {inside}")
    for record in _models(kube, namespace):
        component = MODEL_CHARTS.get(record.chart, "")
        if component:
            note(component, record.version, f"helm release {record.name} in {namespace}")
    for component, (name, annotation) in BUNDLES.items():
        crd = kube.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        version = ((crd or {}).get("metadata", {}).get("annotations") or {}).get(annotation, "")
        note(component, version, f"definition {name}")
    return found


def _models(kube: Kube, namespace: str) -> list[Record]:
    path = f"/api/v1/namespaces/{namespace}/secrets"
    return kube.list(path, label_selector="owner=helm,status=deployed", each=parse_record)


def look(kube: Kube) -> Data:
    """What the platform needs of a cluster that somebody else runs."""
    nodes = {
        node["metadata"]["name"]: {
            "gpus": int((node.get("status", {}).get("allocatable") or {}).get(GPU, 0)),
            "ready": any(
                each["type"] == "Ready" and each["status"] == "True"
                for each in node.get("status", {}).get("conditions") or []
            ),
            "hostname": node["metadata"].get("labels", {}).get("kubernetes.io/hostname", ""),
            "cloud": bool(node.get("spec", {}).get("providerID")),
        }
        for node in kube.list("/api/v1/nodes")
    }
    classes = {
        each["metadata"]["name"]: (each["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true"
        for each in kube.list("/apis/storage.k8s.io/v1/storageclasses")
    }
    return {
        "kubernetes": kube.request("GET", "/version")["gitVersion"],
        "nodes": nodes,
        "storage_classes": classes,
        "load_balancer": _load_balancer(kube, nodes),
    }


def _load_balancer(kube: Kube, nodes: Data) -> str:
    """Who gives addresses to Services, as far as one can see from outside; empty when nobody seems to."""
    try:
        if kube.list(kube.resource("metallb.io/v1beta1", "IPAddressPool").path()):
            return "MetalLB"
    except UnknownKind:
        pass
    for service in kube.list("/api/v1/services"):
        balanced = (service.get("status", {}).get("loadBalancer") or {}).get("ingress")
        if service.get("spec", {}).get("type") == "LoadBalancer" and balanced:
            return f"whoever serves Service {service['metadata']['namespace']}/{service['metadata']['name']}"
    return "the cloud" if any(node["cloud"] for node in nodes.values()) else ""


# --- verdicts ---------------------------------------------------------------------------------------------------------


def downgrades(found: Mapping[str, Any], versions: Mapping[str, str]) -> list[str]:
    """What would go back, with what is installed and what is asked for."""
    return [
        f"{component}: {each['version']} is installed ({each['source']}), {versions[component]} is asked for"
        for component, each in sorted(found.items())
        if component in versions and version_key(each["version"]) > version_key(versions[component])
    ]


def likely_release(found: Mapping[str, Any]) -> str:
    """The set that is installed, if what is installed is one; empty otherwise."""
    if not found:
        return ""
    names = [
        name
        for name, release in RELEASES.items()
        if all(each["version"] == release.versions[component] for component, each in found.items())
    ]
    return names[0] if len(names) == 1 else ""


def refusal(found: Mapping[str, Any], release: Mapping[str, Any]) -> str:
    """Why a run must not begin; empty when it may."""
    backwards = downgrades(found, release["versions"])
    if not backwards:
        return ""
    now = likely_release(found)
    known = f"; what is installed is the release {now}" if now else ""
    return "\n".join(
        [
            f"Nothing of it was changed: the release {release['name']} is older than what is installed{known}.",
            *backwards,
            "Definitions and counters are not made for a way back. Ask for what is installed, with tokenlabs_release "
            "and tokenlabs_versions, or take the platform down with teardown.yml first.",
        ]
    )


def lacks(seen: Mapping[str, Any], catalog: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """What a cluster of somebody else's lacks: level, what, found, what to do."""
    release = catalog["release"]
    version = seen["kubernetes"]
    oldest, newest_minor = release["kubernetes_oldest"], release["kubernetes_newest"]
    if not version_key(oldest) <= version_key(version)[:2] <= version_key(newest_minor):
        remedy = f"upgrade the cluster to {oldest} to {newest_minor}, or choose another tokenlabs_release"
        yield ("warning" if release["unsupported"] else "error"), "Kubernetes", version, remedy
    if not any(seen["storage_classes"].values()):
        told = ", ".join(seen["storage_classes"]) or "none"
        remedy = "mark one as default, or set redis_storage_class: Redis, which counts, needs a volume"
        yield "warning", "storage class", f"{told}, no default", remedy
    if not seen["load_balancer"]:
        remedy = "install one, such as MetalLB: without it the gateway gets no address"
        yield "warning", "load balancer", "none seen", remedy
    by_name = {node["hostname"] or name: node for name, node in seen["nodes"].items()}
    for name, node in catalog["nodes"].items():
        if not node["gpu"]:
            continue
        needed = sum(model["gpus"] for model in catalog["models"] if name in model["hosts"])
        live = by_name.get(name)
        if live is None:
            remedy = f"name in the group sparks what the cluster has: {', '.join(sorted(by_name)) or 'it has no node'}"
            yield "error", f"node {name}", "not in the cluster", remedy
        elif live["gpus"] < needed:
            remedy = "install the GPU operator or device plugin there; until then its models do not start"
            yield "warning", f"node {name}", f"{live['gpus']} allocatable {GPU}, its models ask for {needed}", remedy
        elif not live["ready"]:
            yield "warning", f"node {name}", "not Ready", "bring it up; until then its models do not start"


def report(seen: Mapping[str, Any], catalog: Mapping[str, Any]) -> Data:
    """The table of what a cluster lacks, a sentence, and how many of its lines stop the run."""
    rows: Sequence[Sequence[str]] = sorted(lacks(seen, catalog))
    fatal = sum(row[0] == "error" for row in rows)
    lines = [f"Kubernetes {seen['kubernetes']}, {len(seen['nodes'])} nodes"]
    if seen["load_balancer"]:
        lines.append(f"Addresses come from {seen['load_balancer']}")
    if rows:
        lines += ["", *table([("LEVEL", "WHAT", "FOUND", "WHAT TO DO"), *rows])]
    verdict = f"{fatal} errors above; nothing was changed." if fatal else "the cluster has what it must have"
    return {"text": "\n".join(lines), "verdict": verdict, "fatal": fatal}
