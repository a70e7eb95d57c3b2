# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens on nodes: containers that may start or not, GPUs, volumes and load balancer addresses."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from lab.world.actions import cond
from lab.world.controllers import gpu_operator, kubelet, microk8s
from lab.world.images import jq_played, runner
from lab.world.kwok import kwok_stages
from tests.lab import world_objects as w
from tests.lab.world_objects import World, obj

HANDLERS = kubelet.HANDLERS


def node(name: str = "n", ready: bool = True, gpu: bool = False, handlers: str = "runc", **labels: str) -> Any:
    notes = {HANDLERS: handlers}
    if gpu:
        notes |= {kubelet.GPU: "NVIDIA GB10", kubelet.DRIVER: "580.126.09"}
    return obj("Node", name, annotations=notes, labels=labels, status={"conditions": [cond("Ready", ready)]})


def pod(name: str = "p", phase: str = "Pending", image: str = "i", **more: Any) -> Any:
    meta = {key: more.pop(key) for key in ("labels", "deletionTimestamp") if key in more}
    conditions = more.pop("conditions", [])
    container = {"name": "c", "image": image, **more.pop("container", {})}
    spec = {"nodeName": "n", "containers": [container], **more}
    return obj("Pod", name, "ns", spec=spec, status={"phase": phase, "conditions": conditions}, **meta)


def played(*objects: Any) -> World:
    return World(objects, kubelet.RECONCILERS).settle()


def startable(found: World) -> str | None:
    conditions = found.get("Pod", "p", "ns")["status"].get("conditions") or []
    return next((item["status"] for item in conditions if item["type"] == kubelet.STARTABLE), None)


def reason(found: World) -> str:
    return found.get("Pod", "p", "ns")["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]


# --- starting
def test_a_pod_with_all_it_needs_may_start() -> None:
    assert startable(played(node(), pod())) == "True"


def from_secret(**ref: Any) -> dict[str, Any]:
    return {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", **ref}}}]}


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"container": from_secret()}, "CreateContainerConfigError"),
        ({"container": {"envFrom": [{"configMapRef": {"name": "s"}}]}}, "CreateContainerConfigError"),
        ({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}, "ContainerCreating"),
        ({"volumes": [{"name": "v", "configMap": {"name": "s"}}]}, "ContainerCreating"),
        ({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}]}}]}, "ContainerCreating"),
        ({"runtimeClassName": "nvidia"}, "ContainerCreating"),
    ],
)
def test_a_pod_waits_for_what_is_missing_and_says_so(more: dict[str, Any], why: str) -> None:
    found = played(node(), pod(**more))
    assert startable(found) is None and reason(found) == why
    assert found.events and found.events[0].type == "Warning"
    secret = obj("Secret", "s", "ns", data={"k": "eA=="})
    config = obj("ConfigMap", "s", "ns", data={})
    runtime = obj("RuntimeClass", "nvidia", handler="nvidia")
    assert startable(played(node(handlers="runc,nvidia"), pod(**more), secret, config, runtime)) == "True"


def test_a_secret_without_the_key_is_not_enough() -> None:
    found = played(node(), pod(container=from_secret()), obj("Secret", "s", "ns", data={"other": "eA=="}))
    assert reason(found) == "CreateContainerConfigError" and "find key k" in found.events[0].message


def test_optional_things_may_be_missing() -> None:
    volumes = [{"name": "v", "configMap": {"name": "s", "optional": True}}]
    assert startable(played(node(), pod(container=from_secret(optional=True), volumes=volumes))) == "True"


def test_on_a_dead_node_nothing_starts_and_nothing_ends() -> None:
    stale = obj("Lease", "n", "kube-node-lease", spec={"renewTime": "2026-06-01T11:59:00.000000Z"})
    fresh = obj("Lease", "n", "kube-node-lease", spec={"renewTime": "2026-06-01T11:59:55.000000Z"})
    assert startable(played(node(), stale, pod())) is None
    assert startable(played(node(ready=False), fresh, pod())) is None
    assert startable(played(node(), fresh, pod())) == "True"
    going = {"deletionTimestamp": "2026-06-01T11:59:58Z", "conditions": [cond(kubelet.STARTABLE, True)]}
    assert startable(played(node(), stale, pod(**going))) == "True"
    assert startable(played(node(), fresh, pod(**going))) == "False"


def test_pods_are_ready_again_when_their_node_came_back() -> None:
    lost = [cond(kubelet.STARTABLE, True), cond("Ready", False), cond("ContainersReady", False)]
    found = played(node(), pod(phase="Running", conditions=lost))
    assert {item["type"]: item["status"] for item in found.get("Pod", "p", "ns")["status"]["conditions"]}[
        "Ready"
    ] == "True"


def test_after_a_refresh_a_worker_needs_a_new_calico() -> None:
    def refreshed(created: str) -> World:
        host = node()
        host["metadata"]["annotations"][kubelet.STALE] = "2026-06-01T11:00:00Z"
        calico = obj("Pod", "calico", "kube-system", labels={"k8s-app": "calico-node"}, created=created,
                     spec={"nodeName": "n", "hostNetwork": True, "containers": [{"name": "c", "image": "calico"}]},
                     status={"phase": "Running", "conditions": [cond("Ready", True)]})  # fmt: skip
        return played(host, calico, pod())

    old, new = refreshed("2026-06-01T10:59:59Z"), refreshed("2026-06-01T11:00:00Z")
    conditions = old.get("Pod", "calico", "kube-system")["status"]["conditions"]
    assert {c["type"]: c["status"] for c in conditions}["Ready"] == "False"
    assert startable(old) is None
    assert any(e.reason == "FailedCreatePodSandBox" and "calico" in e.message for e in old.events)
    assert startable(new) == "True"


def test_envoy_gateway_does_not_become_ready_without_its_crds() -> None:
    container = {"args": ["server"]}
    found = played(node(), pod(image="docker.io/envoyproxy/gateway:v1.7.5", container=container))
    assert startable(found) is None and "caches are not synced" in found.events[0].message


def test_counting_servers_need_redis_when_they_start() -> None:
    def objects() -> list[Any]:
        env = [{"name": "REDIS_URL", "value": "redis.redis-system.svc.cluster.local:6379"}]
        return [node(), pod(image="docker.io/envoyproxy/ratelimit:1", container={"env": env})]

    up = obj("EndpointSlice", "redis-1", "redis-system", labels={"kubernetes.io/service-name": "redis"},
             endpoints=[{"addresses": ["10.1.0.1"], "conditions": {"ready": True}}])  # fmt: skip
    assert startable(played(*objects())) is None
    assert startable(played(*objects(), up)) == "True"


def test_a_redis_outside_is_asked_at_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        container = {"env": [{"name": "REDIS_URL", "value": address}]}
        objects = [node(), pod(image="docker.io/envoyproxy/ratelimit:1", container=container)]
        assert startable(played(*objects)) == "True"
    found = played(*objects)
    assert startable(found) is None and f"cannot connect to Redis at {address}" in found.events[0].message


@pytest.mark.parametrize("fault", ["pods_never_start", "pods_never_ready"])
def test_faults_keep_pods_from_starting(fault: str) -> None:
    config = obj("ConfigMap", "lab-faults", "lab-system", data={fault: "p"})
    assert startable(played(node(), pod(), config)) is None


def test_an_image_of_a_registry_that_cannot_exist_is_never_pulled() -> None:
    found = played(node(), pod(image="registry.invalid:5000/server:v1"))
    assert startable(found) is None
    waiting = found.get("Pod", "p", "ns")["status"]["containerStatuses"][0]["state"]["waiting"]
    assert waiting["reason"] == "ImagePullBackOff" and "lookup registry.invalid: no such host" in waiting["message"]
    assert {event.reason for event in found.events} == {"Failed"}


# --- who plays a pod
@pytest.mark.parametrize(
    ("image", "labels", "expected"),
    [
        ("docker.io/library/redis:7.4.1-alpine", {}, "redis"),
        ("redis@sha256:0", {}, "redis"),
        ("oliver006/redis_exporter:v1", {}, ""),
        ("docker.io/envoyproxy/ai-gateway-controller:v0.5.0", {}, "webhook"),
        ("ghcr.io/llm-d/llm-d-cuda:v0.5.0", {"llm-d.ai/inference-serving": "true"}, "model"),
        ("ghcr.io/llm-d/llm-d-cuda:v0.5.0", {}, ""),
        ("tokenlabs.local/magpie-tts:0123456789ab", {}, "speech"),
    ],
)
def test_real_programs_are_known_by_image_or_label(image: str, labels: dict[str, str], expected: str) -> None:
    assert runner(pod(image=image, labels=labels)) == expected


def test_kwoks_stages_wait_for_the_kubelet_and_leave_real_programs_alone() -> None:
    def stage(name: str, kind: str = "Pod") -> Any:
        return {"metadata": {"name": name}, "spec": {"resourceRef": {"kind": kind}, "selector": {}}}

    before = [stage("pod-ready"), stage("pod-delete"), stage("other", "PersistentVolume")]
    ready, delete, other = kwok_stages(before)
    rules = ready["spec"]["selector"]["matchExpressions"]
    assert rules[0]["jq"]["key"] == jq_played() and rules[1]["jq"]["values"] == ["True"]
    assert delete["spec"]["selector"]["matchExpressions"][1]["jq"]["values"] == ["False"]
    assert other == stage("other", "PersistentVolume")
    assert before[0] == stage("pod-ready")  # what was handed in stays as it was


# --- GPUs
def gpu_world(*nodes: Any, **policy: Any) -> World:
    operator = w.deployment("gpu-operator", "gpu-operator")
    spec = {"driver": {"enabled": False}, "toolkit": {"enabled": False}, **policy}
    found = World([operator, obj("ClusterPolicy", "cluster-policy", spec=spec), *nodes], gpu_operator.RECONCILERS)
    labels = {"app.kubernetes.io/name": "node-feature-discovery", "role": "worker"}
    for item in nodes:
        name = item["metadata"]["name"]
        found.store.put("Pod", obj("Pod", f"nfd-{name}", "gpu-operator", labels=labels, spec={"nodeName": name},
                                   status={"conditions": [cond("Ready", True)]}))  # fmt: skip
    return found.settle()


def run_operands(found: World) -> World:
    """What the DaemonSet controller and the kubelets do with the operands."""
    gpus = [
        item for item in found.store.all("Node") if "nvidia.com/gpu.deploy.device-plugin" in item["metadata"]["labels"]
    ]
    for daemons in found.store.all("DaemonSet"):
        pod_spec = daemons["spec"]["template"]["spec"]
        name = daemons["metadata"]["name"]
        able = [item for item in gpus if not pod_spec.get("runtimeClassName")
                or "nvidia" in item["metadata"]["annotations"][HANDLERS]]  # fmt: skip
        for item in able:
            where = item["metadata"]["name"]
            running = {"conditions": [cond("Ready", True)]}
            plugin = obj("Pod", f"{name}-{where}", "gpu-operator", labels={"app": name}, spec={"nodeName": where})
            found.store.put("Pod", {**plugin, "status": running})
        daemons["status"] = {"observedGeneration": 1, "desiredNumberScheduled": len(gpus),
                             "updatedNumberScheduled": len(gpus), "numberReady": len(able)}  # fmt: skip
    return found.settle()


def gpus(found: World, name: str) -> str | None:
    return (found.get("Node", name)["status"].get("allocatable") or {}).get("nvidia.com/gpu")


def test_gpus_become_allocatable_where_the_hardware_and_the_handler_are() -> None:
    found = run_operands(gpu_world(node("spark", gpu=True, handlers="runc,nvidia"), node("controller")))
    assert gpus(found, "spark") == "1" and gpus(found, "controller") is None
    labels = found.get("Node", "spark")["metadata"]["labels"]
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-GB10" and labels["nvidia.com/gpu.present"] == "true"
    assert "nvidia.com/gpu.memory" not in labels
    assert "nvidia.com/gpu.present" not in found.get("Node", "controller")["metadata"].get("labels", {})
    assert found.get("ClusterPolicy", "cluster-policy")["status"]["state"] == "ready"
    assert {item["metadata"]["name"] for item in found.store.all("RuntimeClass")} == {
        "nvidia", "nvidia-cdi", "nvidia-legacy"}  # fmt: skip


def test_a_node_without_the_handler_keeps_the_policy_from_being_ready() -> None:
    found = run_operands(gpu_world(node("good", gpu=True, handlers="nvidia"), node("bad", gpu=True, handlers="runc")))
    assert gpus(found, "good") == "1" and gpus(found, "bad") is None
    assert found.get("ClusterPolicy", "cluster-policy")["status"]["state"] == "notReady"


def test_operands_that_are_switched_off_are_not_made() -> None:
    found = gpu_world(node("spark", gpu=True, handlers="nvidia"), dcgmExporter={"enabled": False})
    names = {item["metadata"]["name"] for item in found.store.all("DaemonSet")}
    assert "nvidia-device-plugin-daemonset" in names
    assert not names & {"nvidia-dcgm-exporter", "nvidia-driver-daemonset", "nvidia-container-toolkit-daemonset"}


def test_without_the_operator_no_gpu() -> None:
    found = gpu_world(node("spark", gpu=True, handlers="nvidia"))
    found.store.put("Deployment", w.deployment("gpu-operator", "gpu-operator", available=False))
    assert gpus(run_operands(found), "spark") is None


@pytest.mark.parametrize(
    ("rename", "resource", "product"),
    [(False, "nvidia.com/gpu", "NVIDIA-GB10-SHARED"), (True, "nvidia.com/gpu.shared", "NVIDIA-GB10")],
)
def test_time_slicing(rename: bool, resource: str, product: str) -> None:
    sharing = f"{{sharing: {{timeSlicing: {{renameByDefault: {str(rename).lower()}, " \
              "resources: [{name: nvidia.com/gpu, replicas: 4}]}}}"  # fmt: skip
    found = gpu_world(
        node("spark", gpu=True, handlers="nvidia"), devicePlugin={"config": {"name": "c", "default": "any"}}
    )
    found.store.put("ConfigMap", obj("ConfigMap", "c", "gpu-operator", data={"any": sharing}))
    run_operands(found)
    assert found.get("Node", "spark")["status"]["allocatable"][resource] == "4"
    labels = found.get("Node", "spark")["metadata"]["labels"]
    assert (labels["nvidia.com/gpu.product"], labels["nvidia.com/gpu.replicas"]) == (product, "4")
    for name in ("nvidia-device-plugin-daemonset", "gpu-feature-discovery"):
        assert found.get("DaemonSet", name, "gpu-operator")["spec"]["template"]["spec"]["volumes"]
    # another content is read when the plugin starts again, and the old resource goes
    other = sharing.replace(str(rename).lower(), str(not rename).lower()).replace("4", "2")
    found.get("ConfigMap", "c", "gpu-operator")["data"]["any"] = other
    found.settle()
    assert found.get("Node", "spark")["status"]["allocatable"][resource] == "4"
    found.get("Pod", "nvidia-device-plugin-daemonset-spark", "gpu-operator")["metadata"]["uid"] = "again"
    amounts = found.settle().get("Node", "spark")["status"]["allocatable"]
    changed = "nvidia.com/gpu" if rename else "nvidia.com/gpu.shared"
    assert (amounts[changed], amounts[resource]) == ("2", "0")


def test_a_nodes_own_configuration_is_followed_at_once() -> None:
    config = {"config": {"name": "c", "default": "any"}}
    found = gpu_world(node("spark", gpu=True, handlers="nvidia"), devicePlugin=config)
    two = "{sharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 2}]}}}"
    found.store.put("ConfigMap", obj("ConfigMap", "c", "gpu-operator", data={"any": "{}", "two": two}))
    assert gpus(run_operands(found), "spark") == "1"
    labels = found.get("Node", "spark")["metadata"]["labels"]
    labels["nvidia.com/device-plugin.config"] = "two"
    assert gpus(found.settle(), "spark") == "2"
    labels = found.get("Node", "spark")["metadata"]["labels"]
    labels["nvidia.com/device-plugin.config"] = "three"
    assert gpus(found.settle(), "spark") == "0", "a key that is not there"


def test_machines_without_a_working_driver_start_no_gpu_container() -> None:
    broken = node(handlers="nvidia", gpu=True)
    del broken["metadata"]["annotations"][kubelet.DRIVER]
    runtime = obj("RuntimeClass", "nvidia", handler="nvidia")
    found = played(broken, pod(runtimeClassName="nvidia"), runtime)
    assert reason(found) == "RunContainerError" and "driver not loaded" in found.events[0].message
    assert startable(played(node(handlers="nvidia", gpu=True), pod(runtimeClassName="nvidia"), runtime)) == "True"


def test_a_missing_handler_is_said_as_the_real_one_says_it() -> None:
    found = played(node(), pod(runtimeClassName="nvidia"), obj("RuntimeClass", "nvidia", handler="nvidia"))
    assert found.events[0].reason == "FailedCreatePodSandBox"
    assert found.events[0].message == (
        "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to get sandbox runtime: "
        'no runtime for "nvidia" is configured'
    )


def test_toolkits_pod_tells_its_host_what_it_was_told() -> None:
    def told(found: World) -> str | None:
        return found.get("Node", "spark")["metadata"]["annotations"].get(gpu_operator.TOOLKIT)

    toolkit = {"enabled": True, "env": [{"name": "CONTAINERD_CONFIG", "value": "/x"}]}
    found = gpu_world(node("spark", gpu=True), toolkit=toolkit)
    assert told(found) is None, "no pod yet"
    run_operands(found)
    assert json.loads(told(found) or "")["env"] == {"CONTAINERD_CONFIG": "/x"}
    found.store.drop("Pod", ("gpu-operator", "nvidia-container-toolkit-daemonset-spark"))
    assert told(found.settle()) is None


def test_a_fault_keeps_a_gpu_from_being_allocatable() -> None:
    found = gpu_world(node("spark", gpu=True, handlers="nvidia"))
    found.store.put("ConfigMap", obj("ConfigMap", "lab-faults", "lab-system", data={"gpu_never_ready": "spark"}))
    assert gpus(run_operands(found), "spark") is None


# --- MetalLB
def metallb(*services: Any, addresses: str = "10.77.0.200-10.77.0.201", available: bool = True) -> World:
    controller = w.deployment("controller", "metallb-system", available)
    pool = obj("IPAddressPool", "default", "metallb-system", spec={"addresses": [addresses]})
    return World([controller, pool, *services], microk8s.RECONCILERS).settle()


def balancer(name: str, held: str = "", **more: Any) -> Any:
    status = {"loadBalancer": {"ingress": [{"ip": held}]}} if held else {}
    meta = {"annotations": more.pop("annotations")} if "annotations" in more else {}
    return obj("Service", name, "ns", spec={"type": "LoadBalancer", **more}, status=status, **meta)


def address(found: World, name: str) -> list[str]:
    return microk8s.current_addresses(found.get("Service", name, "ns"))


def test_services_get_addresses_one_each() -> None:
    found = metallb(balancer("a"), balancer("b"), balancer("c"))
    given = [address(found, name) for name in "abc"]
    assert sorted(given) == [[], ["10.77.0.200"], ["10.77.0.201"]]
    assert found.events[0].reason == "AllocationFailed" and "no available IPs" in found.events[0].message
    assert microk8s.in_use(found.store) == {"10.77.0.200", "10.77.0.201"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"loadBalancerIP": "10.77.0.201"}, ["10.77.0.201"]),
        ({"annotations": {"metallb.io/loadBalancerIPs": "10.77.0.201"}}, ["10.77.0.201"]),
        ({"loadBalancerIP": "10.77.0.99"}, []),
    ],
)
def test_an_address_may_be_asked_for(more: dict[str, Any], expected: list[str]) -> None:
    assert address(metallb(balancer("a", **more)), "a") == expected


def test_an_address_that_another_holds_is_refused() -> None:
    found = metallb(balancer("a", held="10.77.0.200"), balancer("b", loadBalancerIP="10.77.0.200"))
    assert address(found, "a") == ["10.77.0.200"] and address(found, "b") == []


def test_an_address_is_kept_while_the_pool_has_it() -> None:
    assert address(metallb(balancer("a", held="10.77.0.201")), "a") == ["10.77.0.201"]
    moved = metallb(balancer("a", held="10.77.0.150"))
    assert address(moved, "a") == ["10.77.0.200"]


def test_no_metallb_no_address() -> None:
    assert address(metallb(balancer("a"), available=False), "a") == []


def test_a_service_that_is_no_balancer_any_more_gives_its_address_back() -> None:
    plain = obj(
        "Service", "a", "ns", spec={"type": "ClusterIP"}, status={"loadBalancer": {"ingress": [{"ip": "10.77.0.200"}]}}
    )
    assert address(metallb(plain), "a") == []


def test_a_network_is_a_pool_too() -> None:
    assert address(metallb(balancer("a"), addresses="10.77.0.208/31"), "a") == ["10.77.0.208"]


# --- volumes
def claim(**more: Any) -> Any:
    spec = {"storageClassName": "microk8s-hostpath", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}  # fmt: skip
    return obj("PersistentVolumeClaim", "data", "ns", spec=spec, **more)


def storage(mode: str = "WaitForFirstConsumer", provisioner: str = microk8s.PROVISIONER) -> list[Any]:
    return [obj("StorageClass", "microk8s-hostpath", provisioner=provisioner, volumeBindingMode=mode),
            w.deployment("hostpath-provisioner", "kube-system")]  # fmt: skip


def test_a_claim_gets_a_volume_on_the_node_that_the_scheduler_chose() -> None:
    chosen = claim(annotations={"volume.kubernetes.io/selected-node": "spark"})
    found = World([*storage(), chosen], microk8s.RECONCILERS).settle()
    (volume,) = found.store.all("PersistentVolume")
    assert volume["spec"]["claimRef"]["uid"] == chosen["metadata"]["uid"]
    match = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]
    assert match["values"] == ["spark"]


@pytest.mark.parametrize(
    "objects",
    [
        pytest.param([*storage(), claim()], id="no node chosen"),
        pytest.param([*storage(provisioner="other/x"), claim(annotations={"volume.kubernetes.io/selected-node": "n"})],
                     id="another's class"),
        pytest.param([storage("Immediate")[0], claim()], id="no provisioner"),
    ],
)  # fmt: skip
def test_a_claim_waits_without_its_prerequisites(objects: list[Any]) -> None:
    assert not World(objects, microk8s.RECONCILERS).settle().store.all("PersistentVolume")


def test_released_volumes_are_taken_back() -> None:
    def volume(phase: str, policy: str) -> Any:
        notes = {"pv.kubernetes.io/provisioned-by": microk8s.PROVISIONER}
        return obj("PersistentVolume", "v", annotations=notes, spec={"persistentVolumeReclaimPolicy": policy},
                   status={"phase": phase})  # fmt: skip

    def left(phase: str, policy: str) -> bool:
        found = World([*storage(), volume(phase, policy)], microk8s.RECONCILERS).settle()
        return bool(found.store.all("PersistentVolume"))

    assert left("Bound", "Delete") and left("Bound", "Retain") and left("Released", "Retain")
    assert not left("Released", "Delete")
