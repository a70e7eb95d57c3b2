# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cluster says about the platform in it, reduced to what people ask for. Private to the collection.

Each reduction drops what must not leave the controller: a Helm record holds values, a TLS Secret a private key.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._helm_release import payload
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import Kube, KubeError
from ansible_collections.tokenlabs.platform.plugins.module_utils._microk8s import certificate_end
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_keeper import list_credentials
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_report import KeyInfo, keys_of

Data = dict[str, Any]

GPU = "nvidia.com/gpu"
ROLE_LABEL = "node-role.kubernetes.io/control-plane"
MICROK8S_ROLE = "node.kubernetes.io/microk8s-controlplane"
PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")
# helm/helm pkg/storage/driver/secrets.go at v3.19: what a Secret of a release says of it beside its payload.
HELM_RELEASES = "owner=helm,status!=superseded,status!=uninstalled"
# A certificate in a Secret that does not say so by its type (envoyproxy/ai-gateway v0.5.0
# manifests/charts/ai-gateway-helm/templates/admission_webhook.yaml).
WEBHOOK_SECRET = "/api/v1/namespaces/envoy-ai-gateway-system/secrets/self-signed-cert-for-mutating-webhook"


def node(live: Mapping[str, Any]) -> Data:
    """A Node, without what only its controllers need."""
    meta, spec, status = live["metadata"], live.get("spec") or {}, live.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or []}
    ready = conditions.get("Ready") or {}
    labels = meta.get("labels") or {}
    return {
        "name": meta["name"],
        "ready": ready.get("status") == "True",
        "reason": str(ready.get("message") or ready.get("reason") or "its kubelet has not reported"),
        "since": str(ready.get("lastTransitionTime") or ""),
        "cordoned": bool(spec.get("unschedulable")),
        "pressure": [name for name in PRESSURES if (conditions.get(name) or {}).get("status") == "True"],
        "control_plane": ROLE_LABEL in labels or MICROK8S_ROLE in labels,
        "kubelet": str((status.get("nodeInfo") or {}).get("kubeletVersion") or ""),
        "arch": str((status.get("nodeInfo") or {}).get("architecture") or ""),
        "gpus": int((status.get("allocatable") or {}).get(GPU) or 0),
    }


def pod_gpus(live: Mapping[str, Any]) -> tuple[str, int]:
    """The node of a pod that holds GPUs, and how many; a pod that has ended holds none."""
    spec = live.get("spec") or {}
    if (live.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return "", 0
    wanted = sum(
        int(((each.get("resources") or {}).get("limits") or {}).get(GPU) or 0) for each in spec.get("containers") or []
    )
    return str(spec.get("nodeName") or ""), wanted


def release(secret: Mapping[str, Any]) -> Data:
    """Name, chart and state of a Helm release; nothing of its values."""
    labels = (secret.get("metadata") or {}).get("labels") or {}
    try:
        chart = payload(secret)["chart"]["metadata"]
    except (KeyError, TypeError, ValueError, OSError):
        chart = {}
    return {
        "name": labels.get("name", ""),
        "namespace": secret["metadata"]["namespace"],
        "chart": str(chart.get("name") or ""),
        "version": str(chart.get("version") or ""),
        "status": labels.get("status", ""),
        "revision": int(labels.get("version") or 0),
    }


def newest(releases: Iterable[Data]) -> list[Data]:
    """Of each release the last revision."""
    last: dict[tuple[str, str], Data] = {}
    for each in sorted(releases, key=lambda each: each["revision"]):
        last[each["namespace"], each["name"]] = each
    return [last[key] for key in sorted(last)]


def certificate(secret: Mapping[str, Any]) -> Data:
    """Whose certificate a Secret holds and when it ends; its key is not kept."""
    try:
        end = certificate_end(base64.b64decode((secret.get("data") or {}).get("tls.crt") or "").decode())
    except ValueError:
        end = None
    return {"name": f"{secret['metadata']['namespace']}/{secret['metadata']['name']}", "ends": end}


def worker(live: Mapping[str, Any]) -> Data:
    """How many replicas of a Deployment there are."""
    return {
        "name": live["metadata"]["name"],
        "wanted": int((live.get("spec") or {}).get("replicas", 1)),
        "available": int((live.get("status") or {}).get("availableReplicas") or 0),
    }


def tenants(keys: Iterable[KeyInfo], now: datetime, soon: timedelta) -> Data:
    """Tenants by tier and keys by state, and what is due."""
    known = list(keys)
    return {
        "tiers": dict(sorted(Counter({key.tenant: key.tier for key in known}.values()).items())),
        "keys": dict(sorted(Counter(key.state(now) for key in known).items())),
        "overdue": sorted({key.tenant for key in known if key.overdue(now)}),
        "soon": sorted({key.tenant for key in known if key.active and key.due and now < key.due <= now + soon}),
    }


def look(kube: Kube, namespace: str, gateway: str, now: datetime, soon: timedelta) -> Data:
    """One look at everything; what could not be read is in ``unread`` with the reason."""
    unread: dict[str, str] = {}

    def read(what: str, get: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return get()
        except KubeError as error:
            # A kind whose definition is not installed has no objects.
            if error.status != 404:
                unread[what] = str(error)
            return otherwise

    def addresses() -> list[str]:
        path = kube.resource("gateway.networking.k8s.io/v1", "Gateway").path(namespace, gateway)
        return [each["value"] for each in ((kube.get(path) or {}).get("status") or {}).get("addresses") or []]

    def certificates() -> list[Data]:
        found = kube.list("/api/v1/secrets", field_selector="type=kubernetes.io/tls", each=certificate)
        webhook = kube.get(WEBHOOK_SECRET)
        return [each for each in [*found, *([certificate(webhook)] if webhook else [])] if each["ends"]]

    held: Counter[str] = Counter()
    for where, count in read("pods", lambda: kube.list("/api/v1/pods", each=pod_gpus), []):
        held[where] += count
    return {
        "nodes": [
            {**each, "gpus_used": held[each["name"]]}
            for each in read("nodes", lambda: kube.list("/api/v1/nodes", each=node), [])
        ],
        "releases": newest(
            read("releases", lambda: kube.list("/api/v1/secrets", label_selector=HELM_RELEASES, each=release), [])
        ),
        "certificates": read("certificates", certificates, []),
        "workers": read(
            "workers", lambda: kube.list(f"/apis/apps/v1/namespaces/{namespace}/deployments", each=worker), []
        ),
        "addresses": read("gateway", addresses, []),
        "tenants": tenants(keys_of(read("tenants", lambda: list_credentials(kube, "kuadrant-system"), [])), now, soon),
        "unread": unread,
    }
