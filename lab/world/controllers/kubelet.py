# SPDX-License-Identifier: GPL-3.0-or-later
"""What a kubelet checks before a container may start, and what a controller's readiness probe would say.

KWOK plays the pods: it takes one once PodReadyToStartContainers is True, and ends one once it is False, as kubelets set
it. A pod that lacks a Secret, a ConfigMap or a runtime handler waits and says so, as it would on a real node; on a
dead node nothing starts and nothing ends.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator

from lab.world import faults, images
from lab.world.actions import Action, Event, Patch, cond, stamped
from lab.world.controllers import envoy_gateway
from lab.world.engine import Reconciler
from lab.world.store import Json, Store, condition, deleting, is_true, labels, notes

HANDLERS = "lab.tokenlabs.invalid/runtime-handlers"
STALE = "lab.tokenlabs.invalid/network-stale-since"  # when the host's MicroK8s went to another revision
GPU = "lab.tokenlabs.invalid/gpu"  # written by the host's kubelet when the machine has the hardware
DRIVER = "lab.tokenlabs.invalid/gpu-driver"  # likewise: the version of a driver that works
SANDBOX = "Failed to create pod sandbox: rpc error: code = Unknown desc = "
STARTABLE = "PodReadyToStartContainers"
NO_IMAGE = "ImagePullBackOff"


# --- after a refresh of the host's MicroK8s
def _stale(pod: Json, node: Json | None) -> bool:
    """Has this pod mounted files of a revision that is gone? It stays so until somebody deletes it."""
    since = notes(node).get(STALE, "") if node else ""
    marks = labels(pod)
    mounted = marks.get("k8s-app") == "calico-node" or marks.get("app") == "nvidia-container-toolkit-daemonset"
    return mounted and pod["metadata"].get("creationTimestamp", "") < since


def _no_network(pod: Json, store: Store) -> str:
    """A node's stale calico cannot connect new pods any more; those that are connected go on."""
    name = pod["spec"]["nodeName"]
    node = store.get("Node", "", name)
    if pod["spec"].get("hostNetwork") or not node or not notes(node).get(STALE):
        return ""
    networks = store.select("Pod", "kube-system", {"k8s-app": "calico-node"})
    if not any(other["spec"].get("nodeName") == name and _stale(other, node) for other in networks):
        return ""
    return (
        f"{SANDBOX}failed to setup network for sandbox: "
        'plugin type="calico" failed (add): error getting ClusterInformation: connection is unauthorized: Unauthorized'
    )


# --- may it start?
def blocked(pod: Json, store: Store) -> tuple[str, str]:
    """Why a pod's containers cannot be started, as (reason, message); empty when they can."""
    spec, space = pod["spec"], pod["metadata"]["namespace"]
    if faults.hit_prefix(store, "pods_never_start", pod["metadata"]["name"]):
        return "ContainerCreating", "held back"
    if problem := _no_handler(spec, store) or _no_network(pod, store):
        return "FailedCreatePodSandBox", problem
    if problem := _no_driver(spec, store):
        return "RunContainerError", problem
    for volume in spec.get("volumes") or []:
        for kind, name, optional in _volume_sources(volume):
            if not optional and not store.get(kind, space, name):
                what = "secret" if kind == "Secret" else "configmap"
                return (
                    "FailedMount",
                    f'MountVolume.SetUp failed for volume "{volume["name"]}" : {what} "{name}" not found',
                )
    for container in [*(spec.get("initContainers") or []), *spec["containers"]]:
        if problem := _no_image(container["image"]):
            return NO_IMAGE, problem
        if problem := _missing_env(container, space, store):
            return "CreateContainerConfigError", problem
    return "", ""


def _no_image(image: str) -> str:
    """Every image can be had here, but from a registry whose name cannot exist (RFC 2606)."""
    host = image.partition("/")[0].partition(":")[0]
    if not host.endswith(".invalid"):
        return ""
    return (
        f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": failed to do request: '
        f"dial tcp: lookup {host}: no such host"
    )


def _no_handler(spec: Json, store: Store) -> str:
    name = spec.get("runtimeClassName")
    if not name:
        return ""
    handler = (store.get("RuntimeClass", "", name) or {}).get("handler", name)
    node = store.get("Node", "", spec["nodeName"])
    known = (notes(node) if node else {}).get(HANDLERS, "").replace(",", " ").split()
    if handler not in known:
        return f'{SANDBOX}failed to get sandbox runtime: no runtime for "{handler}" is configured'
    return ""


def _no_driver(spec: Json, store: Store) -> str:
    """NVIDIA's runtime starts no container on a machine whose driver does not work."""
    node = store.get("Node", "", spec["nodeName"])
    if not str(spec.get("runtimeClassName", "")).startswith("nvidia") or not node or not notes(node).get(GPU):
        return ""
    if notes(node).get(DRIVER):
        return ""
    return (
        "Error: failed to create containerd task: failed to create shim task: OCI runtime create failed: "
        "nvidia-container-cli: initialization error: nvml error: driver not loaded: unknown"
    )


def _volume_sources(volume: Json) -> Iterator[tuple[str, str, bool]]:
    for source in [volume, *((volume.get("projected") or {}).get("sources") or [])]:
        if secret := source.get("secret"):
            yield "Secret", secret.get("secretName") or secret.get("name"), bool(secret.get("optional"))
        if config := source.get("configMap"):
            yield "ConfigMap", config["name"], bool(config.get("optional"))


def _missing_env(container: Json, space: str, store: Store) -> str:
    for variable in container.get("env") or []:
        source = variable.get("valueFrom") or {}
        for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            ref = source.get(field)
            if not ref or ref.get("optional"):
                continue
            found = store.get(kind, space, ref["name"])
            if not found:
                return f'{kind.lower()} "{ref["name"]}" not found'
            if ref["key"] not in (found.get("data") or {}):
                return f"couldn't find key {ref['key']} in {kind} {space}/{ref['name']}"
    for source in container.get("envFrom") or []:
        for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            ref = source.get(field)
            if ref and not ref.get("optional") and not store.get(kind, space, ref["name"]):
                return f'{kind.lower()} "{ref["name"]}" not found'
    return ""


# --- is it ready?
def _redis_ready(pod: Json, store: Store) -> str:
    """A server that counts in Redis ends when it cannot reach it at its start."""
    for container in pod["spec"]["containers"]:
        for item in container.get("env") or []:
            if item["name"] != "REDIS_URL":
                continue
            host, _colon, port = item["value"].rpartition(":")
            service = re.fullmatch(r"([^.]+)\.([^.]+)(\.svc(\.cluster\.local)?)?", host)
            if not (store.endpoints(service[2], service[1]) if service else _listens(host, int(port))):
                return f"cannot connect to Redis at {host}:{port}"
    return ""


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=0.3).close()
    except OSError:
        return False
    return True


# Image (a part of its name) -> why its readiness probe fails just now.
PROBES: dict[str, Callable[[Json, Store], str]] = {
    "envoyproxy/gateway:": lambda pod, store: (
        envoy_gateway.not_ready(store, pod["metadata"]["namespace"])
        if "server" in (pod["spec"]["containers"][0].get("args") or [])
        else ""
    ),
    "envoyproxy/ratelimit:": _redis_ready,
}


def unready(pod: Json, store: Store) -> str:
    """Why a started pod is not ready."""
    if faults.hit_prefix(store, "pods_never_ready", pod["metadata"]["name"]):
        return "held back"
    if _stale(pod, store.get("Node", "", pod["spec"].get("nodeName", ""))):
        return "felix is not ready: readiness probe reporting 503"
    image = pod["spec"]["containers"][0]["image"]
    return next((problem for part, probe in PROBES.items() if part in image and (problem := probe(pod, store))), "")


# --- the pod's life
def pod(obj: Json, store: Store) -> Iterator[Action]:
    node = obj["spec"].get("nodeName")
    if not node or not store.node_alive(node):
        return
    phase, real = (obj.get("status") or {}).get("phase"), images.runner(obj)
    if deleting(obj):
        if not real and condition(obj, STARTABLE).get("status") != "False":
            yield _conditions(obj, store, cond(STARTABLE, False))
        return
    if phase == "Pending" and not is_true(obj, STARTABLE):
        reason, problem = blocked(obj, store)
        if reason == NO_IMAGE:
            yield Event(obj, "Failed", f"Failed to pull image: {problem}", "kubelet")
            yield _waiting(obj, reason, f"Back-off pulling image: ErrImagePull: {problem}")
        elif reason:
            yield Event(obj, reason if reason.startswith("Failed") else "Failed", problem, "kubelet")
            yield _waiting(obj, reason, problem)
        elif real:
            return  # the pod runner starts it
        elif problem := unready(obj, store):
            yield Event(obj, "Unhealthy", f"Readiness probe failed: {problem}", "kubelet")
        else:
            yield _conditions(obj, store, cond(STARTABLE, True, ""))
    elif phase == "Running" and not real and not is_true(obj, "Ready") and not unready(obj, store):
        # The node was away and came back: its kubelet says again what is ready.
        yield _conditions(obj, store, cond("Ready", True, ""), cond("ContainersReady", True, ""))
    elif phase == "Running" and is_true(obj, "Ready") and _stale(obj, store.get("Node", "", node)):
        yield Event(obj, "Unhealthy", f"Readiness probe failed: {unready(obj, store)}", "kubelet")
        yield _conditions(obj, store, cond("Ready", False), cond("ContainersReady", False))
        containers = [{**item, "ready": False} for item in obj["status"].get("containerStatuses") or []]
        yield Patch(obj, {"status": {"containerStatuses": containers}}, "status")


def _conditions(obj: Json, store: Store, *wanted: Json) -> Patch:
    bare = [{key: value for key, value in item.items() if key in ("type", "status")} for item in wanted]
    live = (obj.get("status") or {}).get("conditions") or []
    return Patch(obj, {"status": {"conditions": stamped(bare, live, store.now)}}, "status", strategic=True)


def _waiting(obj: Json, reason: str, message: str) -> Patch:
    told = ("CreateContainerConfigError", "RunContainerError", NO_IMAGE)
    shown = reason if reason in told else "ContainerCreating"
    statuses = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "started": False,
            "state": {"waiting": {"reason": shown, "message": message}},
        }
        for container in obj["spec"]["containers"]
    ]
    return Patch(obj, {"status": {"containerStatuses": statuses}}, "status", strategic=True)


RECONCILERS = [
    Reconciler(
        "kubelet",
        "Pod",
        pod,
        frozenset(
            {
                "Node",
                "Secret",
                "RuntimeClass",
                "CustomResourceDefinition",
                "ClusterRoleBinding",
                "EndpointSlice",
                "Lease",
            }
        ),
        ticks=True,
    )
]
