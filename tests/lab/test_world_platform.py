# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole platform on the lab's own control plane: charts by helm, controllers, pods that really run, breakage.

The tests share one platform and leave it as they found it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from lab.world import publish
from tests.lab import netlab
from tests.lab.netlab import Lab

REGISTRY = "oci://10.77.255.254:5000"
RELEASE = publish.load_releases()["2026.07"]
OFFERS = {offer.name: offer for offer in publish.offers(RELEASE)}
PODS, GATEWAYS = "/api/v1/namespaces/{}/pods", "/apis/gateway.networking.k8s.io/v1/namespaces/token-labs/gateways/gw"
KUADRANT = "/apis/kuadrant.io/v1/namespaces/token-labs"
PASSWORD = "a-password"

ADDONS = """
apiVersion: v1
kind: Namespace
metadata: {name: metallb-system}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ipaddresspools.metallb.io}
spec:
  group: metallb.io
  names: {kind: IPAddressPool, listKind: IPAddressPoolList, plural: ipaddresspools, singular: ipaddresspool}
  scope: Namespaced
  versions:
  - name: v1beta1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: controller, namespace: metallb-system}
spec:
  selector: {matchLabels: {app: metallb}}
  template:
    metadata: {labels: {app: metallb}}
    spec: {containers: [{name: controller, image: quay.io/metallb/controller:v0}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: hostpath-provisioner, namespace: kube-system}
spec:
  selector: {matchLabels: {app: hostpath}}
  template:
    metadata: {labels: {app: hostpath}}
    spec: {containers: [{name: hostpath, image: hostpath-provisioner:1}]}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: microk8s-hostpath}
provisioner: microk8s.io/hostpath
volumeBindingMode: WaitForFirstConsumer
"""
REDIS = """
apiVersion: v1
kind: Secret
metadata: {name: redis, namespace: redis-system}
stringData: {password: a-password}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: redis, namespace: redis-system}
data: {redis.conf: "appendonly yes\\nappendfsync always\\ndir /data\\n"}
---
apiVersion: v1
kind: Service
metadata: {name: redis, namespace: redis-system}
spec: {selector: {app: redis}, ports: [{name: redis, port: 6379}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: redis, namespace: redis-system}
spec:
  serviceName: redis
  selector: {matchLabels: {app: redis}}
  template:
    metadata: {labels: {app: redis}}
    spec:
      securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999}
      containers:
      - name: redis
        image: docker.io/library/redis:7.4.1-alpine
        args: [/etc/redis/redis.conf, --requirepass, $(PASSWORD)]
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: redis, key: password}}}]
        ports: [{name: redis, containerPort: 6379}]
        readinessProbe: {exec: {command: [sh, -c, 'REDISCLI_AUTH=$PASSWORD redis-cli ping | grep PONG']}}
        livenessProbe: {tcpSocket: {port: redis}}
        volumeMounts: [{name: data, mountPath: /data}, {name: config, mountPath: /etc/redis}]
      volumes: [{name: config, configMap: {name: redis}}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      storageClassName: microk8s-hostpath
      resources: {requests: {storage: 1Gi}}
"""
SECRETS = """
apiVersion: v1
kind: Secret
metadata: {name: limitador-redis, namespace: kuadrant-system}
stringData: {URL: "redis://:a-password@redis.redis-system.svc.cluster.local:6379/1"}
---
apiVersion: v1
kind: Secret
metadata: {name: ratelimit-redis, namespace: envoy-gateway-system}
stringData: {password: a-password}
"""
EG_VALUES = {
    "config": {
        "envoyGateway": {
            "extensionApis": {"enableBackend": True, "enableEnvoyPatchPolicy": True},
            "extensionManager": {
                "backendResources": [
                    {"group": "inference.networking.k8s.io", "kind": "InferencePool", "version": "v1"}
                ],
                "hooks": {"xdsTranslator": {"post": ["Translation", "Cluster", "Route"]}},
                "service": {"fqdn": {"hostname": "ai-gateway-controller.envoy-ai-gateway-system.svc", "port": 1063}},
            },
            "rateLimit": {"backend": {"type": "Redis", "redis": {"url": "redis.redis-system.svc.cluster.local:6379"}}},
        }
    }
}
KUADRANT_CRS = """
apiVersion: kuadrant.io/v1beta1
kind: Kuadrant
metadata: {name: kuadrant, namespace: kuadrant-system}
spec: {}
---
apiVersion: limitador.kuadrant.io/v1alpha1
kind: Limitador
metadata: {name: limitador, namespace: kuadrant-system}
spec: {storage: {redis: {configSecretRef: {name: limitador-redis}}}}
"""
GATEWAY = """
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: default, namespace: metallb-system}
spec: {addresses: [10.77.0.200-10.77.0.210]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: token-labs}
spec: {gatewayClassName: eg, listeners: [{name: http, port: 80, protocol: HTTP}]}
"""
POLICIES = """
apiVersion: kuadrant.io/v1
kind: AuthPolicy
metadata: {name: auth, namespace: token-labs}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
  overrides:
    rules:
      authentication:
        key: {apiKey: {selector: {matchLabels: {app: token-labs}}}}
---
apiVersion: kuadrant.io/v1
kind: RateLimitPolicy
metadata: {name: limits, namespace: token-labs}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
  limits: {free: {rates: [{limit: 10, window: 1m}], when: [{predicate: auth.identity.groups == "free"}]}}
"""
ROUTES = """
apiVersion: aigateway.envoyproxy.io/v1alpha1
kind: AIGatewayRoute
metadata: {name: llm, namespace: token-labs}
spec:
  parentRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]
  llmRequestCosts: [{metadataKey: llm_total_token, type: TotalToken}]
  rules:
  - matches: [{headers: [{name: x-ai-eg-model, value: org/model}]}]
    backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: pool-a}]
"""
POOL_VALUES = {"inferencePool": {"modelServers": {"matchLabels": {"llm-d.ai/model": "a"}}}}
MODEL_VALUES = {
    "fullnameOverride": "ms-a",
    "modelArtifacts": {"name": "org/model", "uri": "hf://org/model",
                       "labels": {"llm-d.ai/inference-serving": "true", "llm-d.ai/model": "a"}},
    "routing": {"servicePort": 8000, "proxy": {"enabled": False}},
    "prefill": {"create": False},
    "decode": {
        "extraConfig": {"runtimeClassName": "nvidia"}, "nodeSelector": {"kubernetes.io/hostname": "spark-01"},
        "strategy": {"type": "Recreate"},
        "containers": [{"name": "vllm", "image": "vllm/vllm-openai:v1", "modelCommand": "vllmServe",
                        "ports": [{"name": "http", "containerPort": 8000}],
                        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}}}],
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=["stand-in", pytest.param("upstream", marks=pytest.mark.long)])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The platform as the collection installs it, in the order that avoids the traps."""
    if problem := netlab.missing():
        pytest.skip(problem)
    upstream = netlab.upstream_dir() if request.param == "upstream" else None
    if request.param == "upstream" and upstream is None:
        pytest.skip("no real charts: set LAB_UPSTREAM to a directory that has charts/NAME-VERSION.tgz")
    with netlab.running(tmp_path_factory.mktemp("lab"), upstream=str(upstream or "")) as lab:
        lab.kubelets.add("controller")
        for name in ("spark-01", "spark-02"):
            lab.kubelets.add(name, gpu=True, handlers="runc,nvidia")
        install(lab)
        yield lab


def chart(lab: Lab, release: str, name: str, namespace: str, values: dict[str, Any] | None = None, *more: str) -> None:
    file = lab.state / f"values-{release}.json"
    file.write_text(json.dumps(values or {}))
    offer = OFFERS[name]
    lab.helm("upgrade", "--install", release, f"{REGISTRY}/{offer.repository}", "--version", offer.version,
             "-n", namespace, "--create-namespace", "--plain-http", "-f", str(file), *more)  # fmt: skip


def install(lab: Lab) -> None:
    wait = ("--wait", "--timeout", "120s")
    for name in ("redis-system", "kuadrant-system", "envoy-gateway-system", "token-labs"):
        lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    manifests = sorted((lab.state / "downloads").rglob("*.yaml"))
    lab.apply(ADDONS, *(path.read_text() for path in manifests))
    crds = OFFERS["gateway-crds-helm"]
    rendered = lab.helm("template", "crds", f"{REGISTRY}/{crds.repository}", "--version", crds.version, "--plain-http",
                        "--set", "crds.envoyGateway.enabled=true")  # fmt: skip
    lab.apply(rendered)
    chart(lab, "aieg-crd", "ai-gateway-crds-helm", "envoy-ai-gateway-system")
    lab.apply(REDIS, SECRETS)
    off = {"driver": {"enabled": False}, "toolkit": {"enabled": False}}
    chart(lab, "gpu-operator", "gpu-operator", "gpu-operator", off, *wait)
    chart(lab, "aieg", "ai-gateway-helm", "envoy-ai-gateway-system", None, *wait)
    lab.wait("the webhook's CA", lambda: lab.webhook_ca())
    lab.condition(f"{PODS.format('redis-system')}/redis-0", "Ready")
    chart(lab, "eg", "gateway-helm", "envoy-gateway-system", EG_VALUES, "--skip-crds", *wait)
    chart(lab, "kuadrant-operator", "kuadrant-operator", "kuadrant-system", None, *wait)
    lab.apply(KUADRANT_CRS)
    lab.condition("/apis/kuadrant.io/v1beta1/namespaces/kuadrant-system/kuadrants/kuadrant", "Ready")
    lab.apply(GATEWAY)
    lab.condition(GATEWAYS, "Programmed")
    chart(lab, "pool-a", "inferencepool", "token-labs", POOL_VALUES, *wait)
    chart(lab, "ms-a", "llm-d-modelservice", "token-labs", MODEL_VALUES, *wait)
    lab.apply(POLICIES, ROUTES)
    lab.condition(f"{KUADRANT}/authpolicies/auth", "Enforced")
    lab.condition(f"{KUADRANT}/ratelimitpolicies/limits", "Enforced")


def pods(lab: Lab, namespace: str, **labels: str) -> list[dict[str, Any]]:
    selector = ",".join(f"{name}={value}" for name, value in labels.items())
    return lab.api.list(PODS.format(namespace), {"labelSelector": selector} if selector else None)[0]


def model_pod(lab: Lab) -> dict[str, Any]:
    found = [pod for pod in lab.api.list(PODS.format("token-labs"))[0] if pod["metadata"]["name"].startswith("ms-a")]
    return next(pod for pod in found if "deletionTimestamp" not in pod["metadata"])


def ready(pod: dict[str, Any]) -> bool:
    return any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"].get("conditions") or [])


def redis(lab: Lab, *words: str) -> str:
    """One command to the Redis that the pod runs."""
    pod = lab.get(f"{PODS.format('redis-system')}/redis-0")
    with socket.create_connection((pod["status"]["podIP"], 6379), 2) as connection:
        connection.sendall(f"AUTH {PASSWORD}\r\n{' '.join(words)}\r\n".encode())
        reader = connection.makefile("rb")
        assert reader.readline() == b"+OK\r\n"
        answer = reader.readline()
        return (reader.readline() if answer.startswith(b"$") else answer).decode().strip()


def process_of(lab: Lab, name: str) -> int:
    """PID of a real program of the world, by a part of its command line."""
    found = subprocess.run(["pgrep", "-f", f"^[^ ]*{name}"], capture_output=True, text=True).stdout.split()
    mine = os.readlink("/proc/self/ns/net")
    return next(int(pid) for pid in found if os.readlink(f"/proc/{pid}/ns/net") != mine and _of(lab, int(pid)))


def _of(lab: Lab, pid: int) -> bool:
    address = subprocess.run(
        ["nsenter", "-t", str(pid), "--net", "ip", "-o", "-4", "addr"], capture_output=True, text=True
    )
    known = {pod["status"].get("podIP") for pod in lab.api.list("/api/v1/pods")[0]}
    return any(f" {ip}/32 " in address.stdout for ip in known if ip)


# --- what is there
def test_the_gateway_has_an_address_and_the_bridge_holds_it(lab: Lab) -> None:
    assert lab.get(GATEWAYS)["status"]["addresses"][0]["value"] == "10.77.0.200"
    shown = subprocess.run(["ip", "-4", "-o", "addr", "show", "dev", "br0"], capture_output=True, text=True).stdout
    assert "10.77.0.200/32" in shown


def test_envoy_runs_with_the_filter_beside_it(lab: Lab) -> None:
    def look() -> bool:
        found = pods(lab, "envoy-gateway-system", **{"gateway.envoyproxy.io/owning-gateway-name": "gw"})
        names = [[item["name"] for item in pod["spec"].get("initContainers") or []] for pod in found]
        return names == [["ai-gateway-extproc"]] and ready(found[0])

    lab.wait("one Envoy pod with the filter", look)


def test_gpus_are_counted_on_the_sparks_only(lab: Lab) -> None:
    nodes = {item["metadata"]["name"]: item["status"]["allocatable"] for item in lab.api.list("/api/v1/nodes")[0]}
    assert {name: room.get("nvidia.com/gpu") for name, room in nodes.items()} == {
        "controller": None, "spark-01": "1", "spark-02": "1"}  # fmt: skip
    assert lab.get("/apis/nvidia.com/v1/clusterpolicies/cluster-policy")["status"]["state"] == "ready"


def test_the_model_answers_at_the_pods_address(lab: Lab) -> None:
    pod = lab.wait("the model's pod", lambda: (found := model_pod(lab)) and ready(found) and found)
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8000/v1/models", timeout=5) as answer:
        assert json.load(answer)["data"][0]["id"] == "org/model"


def test_a_world_at_rest_writes_nothing(lab: Lab) -> None:
    changing = ("create", "update", "patch", "delete")

    def writes() -> int:
        with (lab.state / "audit.log").open() as log:
            events = [json.loads(line) for line in log]
        return sum(event["user"]["username"] == "lab-world" and event["verb"] in changing for event in events)

    settled = lab.settled(writes)
    time.sleep(8)  # longer than its tick: what is looked for is that nothing happens
    assert writes() == settled


# --- pods
def test_redis_keeps_its_data_over_a_new_pod(lab: Lab) -> None:
    assert redis(lab, "SET", "a", "1") == "+OK"
    path = f"{PODS.format('redis-system')}/redis-0"
    old = lab.get(path)["metadata"]["uid"]
    lab.api.request("DELETE", path)
    lab.wait("a new Redis", lambda: (pod := lab.get(path))["metadata"]["uid"] != old and ready(pod))
    assert redis(lab, "GET", "a") == "1"


def test_a_process_that_dies_is_started_again(lab: Lab) -> None:
    path = f"{PODS.format('redis-system')}/redis-0"
    before = lab.get(path)["status"]["containerStatuses"][0]["restartCount"]
    os.kill(process_of(lab, "redis-server"), signal.SIGKILL)

    def again() -> bool:
        pod = lab.get(path)
        return pod["status"]["containerStatuses"][0]["restartCount"] == before + 1 and ready(pod)

    lab.wait("one restart", again)
    assert lab.get(path)["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137


def workload(name: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "registry.example/app:1", **spec.pop("container", {})}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container], **spec}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": name}}, "template": template}}  # fmt: skip


@contextlib.contextmanager
def deployed(lab: Lab, document: dict[str, Any]) -> Iterator[str]:
    lab.apply(document)
    path = f"{lab.path(document)}/{document['metadata']['name']}"
    try:
        yield path
    finally:
        lab.api.request("DELETE", path)
        name = document["metadata"]["name"]
        lab.wait(f"{name}'s pods to be gone", lambda: not pods(lab, "default", app=name))


def test_a_container_waits_for_its_secret(lab: Lab) -> None:
    env = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}]
    with deployed(lab, workload("waits", container={"env": env})) as path:

        def waiting() -> bool:
            state = pods(lab, "default", app="waits")[0]["status"]["containerStatuses"][0]["state"]
            return state["waiting"]["reason"] == "CreateContainerConfigError"

        lab.wait("a complaint", waiting)
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late", "namespace": "default"}}
        lab.apply({**secret, "stringData": {"k": "v"}})
        lab.condition(path, "Available")


def test_a_runtime_class_needs_its_handler_on_the_node(lab: Lab) -> None:
    where = {"kubernetes.io/hostname": "controller"}
    with deployed(lab, workload("gpu-app", runtimeClassName="nvidia", nodeSelector=where)):

        def told() -> bool:
            events = lab.api.list("/api/v1/namespaces/default/events")[0]
            return any(item["reason"] == "FailedCreatePodSandBox" and 'no runtime for "nvidia"' in item["message"]
                       for item in events)  # fmt: skip

        lab.wait("an event", told)
        assert not ready(pods(lab, "default", app="gpu-app")[0])


def test_the_world_takes_up_where_it_was_killed(lab: Lab) -> None:
    model = model_pod(lab)
    lab.restart("world")

    def back() -> bool:
        pod = model_pod(lab)
        return (
            pod["metadata"]["uid"] == model["metadata"]["uid"]
            and ready(pod)
            and pod["status"]["containerStatuses"][0]["restartCount"] == 1
        )

    lab.wait("the model's pod", back)
    assert model_pod(lab)["status"]["podIP"] == model["status"]["podIP"]
    redis_path = f"{PODS.format('redis-system')}/redis-0"
    lab.wait("Redis", lambda: ready(lab.get(redis_path)))
    assert redis(lab, "PING") == "+PONG"


# --- breaking it
def test_faults_come_and_go(lab: Lab) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "lab-faults", "namespace": "lab-system"}}
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lab-system"}})
    lab.apply({**config, "data": {"policy_never_enforced": "auth"}})
    lab.condition(f"{KUADRANT}/authpolicies/auth", "Enforced", "False")
    lab.api.request("DELETE", "/api/v1/namespaces/lab-system/configmaps/lab-faults")
    lab.condition(f"{KUADRANT}/authpolicies/auth", "Enforced")


def test_a_policy_is_enforced_anew_after_its_parts_are_deleted(lab: Lab) -> None:
    place = "/apis/gateway.envoyproxy.io/v1alpha1/namespaces/token-labs"
    lab.api.request("DELETE", f"{place}/envoyextensionpolicies/kuadrant-gw")
    lab.wait("the extension policy", lambda: lab.get(f"{place}/envoyextensionpolicies/kuadrant-gw")["status"])
    lab.condition(f"{KUADRANT}/authpolicies/auth", "Enforced")


def test_deleting_routes_takes_enforcement_away_and_back(lab: Lab) -> None:
    route = "/apis/aigateway.envoyproxy.io/v1alpha1/namespaces/token-labs/aigatewayroutes/llm"
    made = "/apis/gateway.networking.k8s.io/v1/namespaces/token-labs/httproutes/llm"
    lab.api.request("DELETE", route)
    lab.wait("both routes to be gone", lambda: not lab.get(route) and not lab.get(made))
    lab.condition(f"{KUADRANT}/authpolicies/auth", "Enforced", "False")
    lab.apply(ROUTES)
    lab.condition(f"{KUADRANT}/authpolicies/auth", "Enforced")
    lab.condition(route, "Accepted")


def test_a_gateway_that_goes_takes_its_envoy_and_its_address(lab: Lab) -> None:
    lab.api.request("DELETE", GATEWAYS)
    services = "/api/v1/namespaces/envoy-gateway-system/services"

    def gone() -> bool:
        shown = subprocess.run(["ip", "-4", "-o", "addr", "show", "dev", "br0"], capture_output=True, text=True).stdout
        left = [item for item in lab.api.list(services)[0] if item["metadata"]["name"].startswith("envoy-token-labs")]
        return not left and "10.77.0.200/32" not in shown

    lab.wait("Envoy and its address to be gone", gone)
    lab.apply(GATEWAY)
    lab.condition(GATEWAYS, "Programmed")
    lab.condition(f"{KUADRANT}/authpolicies/auth", "Enforced")


@pytest.mark.long
def test_a_dead_node_takes_its_processes_with_it(lab: Lab) -> None:
    pod = lab.wait("the model", lambda: (found := model_pod(lab)) and ready(found) and found)
    address = pod["status"]["podIP"]
    lab.kubelets.alive.discard("spark-01")

    def silent() -> bool:
        try:
            socket.create_connection((address, 8000), 1).close()
            return False
        except OSError:
            return True

    lab.wait("the model to fall silent", silent, 60)
    lab.kubelets.alive.add("spark-01")

    def back() -> bool:
        found = model_pod(lab)
        return ready(found) and found["status"]["containerStatuses"][0]["restartCount"] > 0

    lab.wait("the model to answer again", back, 90)
    assert model_pod(lab)["metadata"]["uid"] == pod["metadata"]["uid"]


def test_namespaces_go_at_once(lab: Lab) -> None:
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "short"}})
    document = workload("lives-long", terminationGracePeriodSeconds=600)
    document["metadata"]["namespace"] = "short"
    lab.apply(document)
    lab.condition(f"{lab.path(document)}/lives-long", "Available")
    lab.api.request("DELETE", f"{lab.path(document)}/lives-long")
    lab.wait("its pods to be gone", lambda: not pods(lab, "short"), 10)


def test_nothing_of_kwoks_failed(lab: Lab) -> None:
    lines = (lab.state / "logs" / "kwok.log").read_text().splitlines()
    failed = [line for line in lines if "failed to apply stage" in line and "not found" not in line]
    assert not failed
