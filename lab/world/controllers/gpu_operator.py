# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA GPU operator: feature discovery, runtime classes, operands, and GPUs that the scheduler can count."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from lab.world import faults
from lab.world.actions import Action, Apply, Delete, Patch, SetStatus, cond, owner
from lab.world.controllers.kubelet import DRIVER, GPU, HANDLERS
from lab.world.engine import Reconciler
from lab.world.store import Json, Store, deleting, is_true, labels, notes

MANAGER = "gpu-operator"
TOOLKIT = "lab.tokenlabs.invalid/toolkit"  # for the host: what the toolkit's pod on it is told
PLUGIN = "lab.tokenlabs.invalid/device-plugin"  # our own: what the device plugin's pod read when it started
PCI = "feature.node.kubernetes.io/pci-10de.present"
PRESENT = "nvidia.com/gpu.present"
RESOURCE = "nvidia.com/gpu"
RUNTIME_CLASSES = ("nvidia", "nvidia-cdi", "nvidia-legacy")


@dataclass(frozen=True)
class Operand:
    """A DaemonSet of the operator: its name, the key of its switch in ClusterPolicy.spec, and its node label."""

    name: str
    switch: str
    deploy: str
    default: bool = True
    runtime: bool = True

    def on(self, spec: Json) -> bool:
        return bool((spec.get(self.switch) or {}).get("enabled", self.default)) if self.switch else True


EXPORTER = "nvidia-dcgm-exporter"
OPERANDS = (
    Operand("nvidia-driver-daemonset", "driver", "driver", runtime=False),
    Operand("nvidia-container-toolkit-daemonset", "toolkit", "container-toolkit", runtime=False),
    Operand("nvidia-operator-validator", "", "operator-validator"),
    Operand("nvidia-device-plugin-daemonset", "devicePlugin", "device-plugin"),
    Operand("gpu-feature-discovery", "gfd", "gpu-feature-discovery"),
    Operand(EXPORTER, "dcgmExporter", "dcgm-exporter"),
)


def controller(store: Store) -> Json | None:
    return store.controller("gpu-operator")


def hardware(node: Json) -> str:
    """The GPU of a node, as its own machine tells it."""
    value = notes(node).get(GPU, "").strip()
    return "" if value.lower() in ("", "false", "none", "0") else value


def policy_of(store: Store) -> Json | None:
    return next((item for item in store.all("ClusterPolicy") if not deleting(item)), None)


# --- node feature discovery
def discover(obj: Json, store: Store) -> Iterator[Action]:
    """The label by which GPU machines are known, once a discovery worker runs on the node."""
    if not hardware(obj) or labels(obj).get(PCI) == "true":
        return
    workers = store.select("Pod", None, {"app.kubernetes.io/name": "node-feature-discovery", "role": "worker"})
    name = obj["metadata"]["name"]
    if any(pod["spec"].get("nodeName") == name and is_true(pod, "Ready") for pod in workers):
        yield Patch(obj, {"metadata": {"labels": {PCI: "true"}}})


# --- the operator
def cluster_policy(obj: Json, store: Store) -> Iterator[Action]:
    running = controller(store)
    if not running or deleting(obj):
        return
    space, spec = running["metadata"]["namespace"], obj.get("spec") or {}
    for name in RUNTIME_CLASSES:
        yield Apply(
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "handler": name,
                "metadata": {
                    "name": name,
                    "labels": {"app.kubernetes.io/component": "gpu-operator"},
                    "ownerReferences": [owner(obj)],
                },
            },
            MANAGER,
        )
    for operand in OPERANDS:
        if operand.on(spec):
            yield Apply(_daemon_set(operand, obj, space), MANAGER)
            if operand.name == EXPORTER:
                yield Apply(_exporter(obj, space), MANAGER)
        elif found := store.get("DaemonSet", space, operand.name):
            yield Delete(found)
    waiting = [operand.name for operand in OPERANDS if operand.on(spec) and not _rolled_out(operand, space, store)]
    nodes = [node for node in store.all("Node") if labels(node).get(PCI) == "true"]
    ready = not waiting and all(_allocatable(node) for node in nodes)
    if ready:
        text = "ClusterPolicy is ready as all resources have been successfully reconciled"
        conditions = [cond("Ready", True, "Reconciled", text), cond("Error", False, "Ready", "")]
    else:
        text = f"ClusterPolicy is not ready, states not ready: {waiting or ['state-device-plugin']}".replace("'", "")
        conditions = [cond("Ready", False, "Error", ""), cond("Error", True, "OperandNotReady", text)]
    yield SetStatus(obj, {"state": "ready" if ready else "notReady", "namespace": space, "conditions": conditions})


def _rolled_out(operand: Operand, space: str, store: Store) -> bool:
    found = store.get("DaemonSet", space, operand.name)
    status = (found or {}).get("status") or {}
    return bool(
        found
        and status.get("observedGeneration") == found["metadata"]["generation"]
        and status.get("numberReady", 0) == status.get("desiredNumberScheduled", -1)
        and status.get("updatedNumberScheduled", 0) == status.get("desiredNumberScheduled")
    )


def _allocatable(node: Json) -> int:
    have = (node.get("status") or {}).get("allocatable") or {}
    return int(have.get(RESOURCE, 0)) + int(have.get(f"{RESOURCE}.shared", 0))


def _exporter(policy: Json, space: str) -> Json:
    """The Service of the GPUs' metrics."""
    marks = {"app": EXPORTER}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": EXPORTER, "namespace": space, "labels": marks, "ownerReferences": [owner(policy)]},
        "spec": {
            "selector": marks,
            "ports": [{"name": "gpu-metrics", "port": 9400, "protocol": "TCP", "targetPort": 9400}],
        },
    }


def _daemon_set(operand: Operand, policy: Json, space: str) -> Json:
    spec, marks = policy.get("spec") or {}, {"app": operand.name}
    daemons = spec.get("daemonsets") or {}
    image = spec.get(operand.switch) or {} if operand.switch else spec.get("validator") or {}
    reference = (
        f"{image.get('repository', 'nvcr.io/nvidia')}/{image.get('image', operand.name)}:"
        f"{image.get('version', 'v25.10.1')}"
    )
    pod: Json = {
        "nodeSelector": {f"nvidia.com/gpu.deploy.{operand.deploy}": "true"},
        "tolerations": daemons.get("tolerations") or [{"key": RESOURCE, "operator": "Exists", "effect": "NoSchedule"}],
        "priorityClassName": daemons.get("priorityClassName", "system-node-critical"),
        "containers": [{"name": operand.name, "image": reference}],
    }
    if operand.name == EXPORTER:
        pod["containers"][0]["ports"] = [{"name": "metrics", "containerPort": 9400, "protocol": "TCP"}]
    if operand.runtime:
        pod["runtimeClassName"] = (spec.get("operator") or {}).get("runtimeClass", "nvidia")
    config = ((spec.get("devicePlugin") or {}).get("config") or {}).get("name")
    if config and operand.switch in ("devicePlugin", "gfd"):
        pod["volumes"] = [{"name": config, "configMap": {"name": config}}]
    if operand.switch == "toolkit":
        pod["containers"][0]["env"] = image.get("env") or []
    digest = hashlib.sha256(json.dumps(pod, sort_keys=True).encode()).hexdigest()[:10]
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": operand.name,
            "namespace": space,
            "labels": marks,
            "annotations": {"nvidia.com/last-applied-hash": digest},
            "ownerReferences": [owner(policy)],
        },
        "spec": {"selector": {"matchLabels": marks}, "template": {"metadata": {"labels": marks}, "spec": pod}},
    }


# --- what the operands do on a node
def node(obj: Json, store: Store) -> Iterator[Action]:
    policy = policy_of(store)
    if not controller(store) or not policy or labels(obj).get(PCI) != "true":
        return
    spec, name = policy.get("spec") or {}, obj["metadata"]["name"]
    yield _told(obj, spec, store)
    wanted = {
        PRESENT: "true",
        **{f"nvidia.com/gpu.deploy.{operand.deploy}": "true" for operand in OPERANDS if operand.on(spec)},
    }
    plugin = _running("nvidia-device-plugin-daemonset", name, store)
    read = _read(obj, plugin, spec, store) if plugin else {}
    if plugin:
        yield Patch(obj, {"metadata": {"annotations": {PLUGIN: json.dumps(read, sort_keys=True)}}})
    if _running("gpu-feature-discovery", name, store):
        wanted |= _features(obj, read.get("sharing") or {})
    yield Patch(obj, {"metadata": {"labels": wanted}})
    if plugin and not read.get("error") and not faults.hit(store, "gpu_never_ready", name):
        yield from _amounts(obj, read.get("sharing") or {})
    elif plugin or "nvidia" not in notes(obj).get(HANDLERS, "").split(","):
        yield from _amounts(obj, None)


def _running(app: str, node_name: str, store: Store) -> Json | None:
    pods = store.select("Pod", None, {"app": app})
    return next((pod for pod in pods if pod["spec"].get("nodeName") == node_name and is_true(pod, "Ready")), None)


def _told(obj: Json, spec: Json, store: Store) -> Patch:
    """The host's own part: the toolkit's pod there completes the configuration that its variables name."""
    pod = _running("nvidia-container-toolkit-daemonset", obj["metadata"]["name"], store)
    env = {item["name"]: str(item.get("value", "")) for item in (spec.get("toolkit") or {}).get("env") or []}
    told = json.dumps({"pod": pod["metadata"]["uid"], "env": env}, sort_keys=True) if pod else None
    return Patch(obj, {"metadata": {"annotations": {TOOLKIT: told}}})


def _read(obj: Json, plugin: Json, spec: Json, store: Store) -> Json:
    """What the plugin works with: read at its start, and again only when the node is given another configuration."""
    chosen = (spec.get("devicePlugin") or {}).get("config") or {}
    label = labels(obj).get("nvidia.com/device-plugin.config", "")
    at = {"pod": plugin["metadata"]["uid"], "config": chosen.get("name", ""), "label": label}
    before = json.loads(notes(obj).get(PLUGIN) or "{}")
    if all(before.get(key) == value for key, value in at.items()):
        return before
    if not chosen.get("name"):
        return at
    data = (store.get("ConfigMap", plugin["metadata"]["namespace"], chosen["name"]) or {}).get("data") or {}
    key = label or chosen.get("default") or ""
    if not key:  # config-manager's fall-back: the one called default, else the only one, else none
        key = "default" if "default" in data else next(iter(data)) if len(data) == 1 else ""
    elif key not in data:
        return {**at, "error": f"specified config {key} does not exist"}
    sharing = (yaml.safe_load(data.get(key) or "{}") or {}).get("sharing") or {}
    return {**at, "sharing": sharing}


def _replicas(sharing: Json) -> tuple[int, str]:
    """How often a GPU is given out, and how it is shared."""
    for strategy, name in (("timeSlicing", "time-slicing"), ("mps", "mps")):
        for resource in (sharing.get(strategy) or {}).get("resources") or []:
            if resource["name"] == RESOURCE and int(resource["replicas"]) > 1:
                return int(resource["replicas"]), name
    return 1, "none"


def _resource(sharing: Json) -> str:
    renamed = (sharing.get("timeSlicing") or {}).get("renameByDefault")
    return f"{RESOURCE}.shared" if renamed and _replicas(sharing)[0] > 1 else RESOURCE


def _amounts(obj: Json, sharing: Json | None) -> Iterator[Action]:
    """One GPU, as often as it is shared (None: not at all); a name that was used before goes down to nothing."""
    have = (obj.get("status") or {}).get("capacity") or {}
    wanted = {name: "0" for name in (RESOURCE, f"{RESOURCE}.shared") if name in have}
    if sharing is not None:
        wanted[_resource(sharing)] = str(_replicas(sharing)[0])
    if wanted:
        yield Patch(obj, {"status": {"capacity": wanted, "allocatable": wanted}}, "status")


def _features(obj: Json, sharing: Json) -> dict[str, str]:
    """What GPU feature discovery says of a GB10."""
    replicas, strategy = _replicas(sharing)
    shared = replicas > 1 and _resource(sharing) == RESOURCE
    return {
        "nvidia.com/gpu.count": "1",
        "nvidia.com/gpu.replicas": str(replicas),
        "nvidia.com/gpu.sharing-strategy": strategy,
        "nvidia.com/gpu.product": "NVIDIA-GB10" + ("-SHARED" if shared else ""),
        "nvidia.com/gpu.family": "blackwell",
        "nvidia.com/gpu.compute.major": "12",
        "nvidia.com/gpu.compute.minor": "1",
        "nvidia.com/gpu.machine": "NVIDIA_DGX_Spark",
        "nvidia.com/mig.capable": "false",
        "nvidia.com/mps.capable": "false",
        "nvidia.com/cuda.driver-version.full": notes(obj).get(DRIVER, ""),
        "nvidia.com/cuda.runtime-version.full": "13.0",
    }


_SEEN = frozenset({"Deployment", "DaemonSet", "Node", "Pod"})
RECONCILERS = [
    Reconciler("nfd", "Node", discover, frozenset({"Pod"})),
    Reconciler("gpu-node", "Node", node, _SEEN | {"ClusterPolicy", "ConfigMap"}),
    Reconciler("gpu-operator", "ClusterPolicy", cluster_policy, _SEEN),
]
