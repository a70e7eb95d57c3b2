# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in charts: they render, have upstream's traps, and give what the real ones give for the values we use."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.world import publish
from tests.integration import apiserver
from tests.lab.netlab import upstream_dir

RELEASE = publish.load_releases()["2026.07"]
OFFERS = {offer.name: offer for offer in publish.offers(RELEASE)}
MODEL = {
    "fullnameOverride": "ms-a",
    "modelArtifacts": {"name": "org/model", "uri": "hf://org/model", "authSecretName": "hf-token",
                       "labels": {"llm-d.ai/inference-serving": "true", "llm-d.ai/model": "a"}},
    "accelerator": {"type": "nvidia"},
    "routing": {"servicePort": 8000, "proxy": {"enabled": False}},
    "decode": {
        "create": True, "replicas": 2, "parallelism": {"tensor": 1}, "strategy": {"type": "Recreate"},
        "extraConfig": {"runtimeClassName": "nvidia", "affinity": {"podAntiAffinity": {}}},
        "nodeSelector": {"kubernetes.io/hostname": "spark-01"}, "terminationGracePeriodSeconds": 10,
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}], "enableServiceLinks": False,
        "containers": [{
            "name": "vllm", "image": "vllm:1", "modelCommand": "vllmServe", "args": ["--max-model-len=1024"],
            "env": [{"name": "HF_HOME", "value": "/model-cache"}],
            "ports": [{"name": "http", "containerPort": 8000, "protocol": "TCP"}],
            "resources": {"requests": {"cpu": "4"}, "limits": {"memory": "64Gi"}},
            "volumeMounts": [{"name": "model-cache", "mountPath": "/model-cache"}],
            "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}},
        }],
        "volumes": [{"name": "model-cache", "hostPath": {"path": "/models"}}],
    },
    "prefill": {"create": False},
}  # fmt: skip
POOL = {
    "inferencePool": {"targetPorts": [{"number": 8000}], "modelServers": {"matchLabels": {"llm-d.ai/model": "a"}}},
    "inferenceExtension": {"image": {"hub": "ghcr.io/llm-d", "name": "scheduler", "tag": "v1", "pullPolicy": "Always"},
                           "resources": {"limits": {"cpu": "1"}}, "monitoring": {"prometheus": {"enabled": True}}},
}  # fmt: skip
EG = {"config": {"envoyGateway": {"extensionApis": {"enableEnvoyPatchPolicy": True}, "rateLimit": {"timeout": "200ms"},
                                  "provider": {"type": "Kubernetes", "kubernetes": {"rateLimitDeployment": {
                                      "container": {"env": [{"name": "A", "value": "b"}]}}}}}}}  # fmt: skip
VALUES: dict[str, dict[str, Any]] = {"llm-d-modelservice": MODEL, "inferencepool": POOL, "gateway-helm": EG,
                                     "gateway-crds-helm": {"crds": {"envoyGateway": {"enabled": True}}}}  # fmt: skip


@pytest.fixture(scope="module")
def helm() -> Path:
    tools = apiserver.find_tools()
    if tools is None or not (tools / "helm").exists():
        pytest.skip("no helm: build the lab's tools first, or set LAB_TOOLS to their directory")
    return tools / "helm"


Rendered = dict[tuple[str, str], dict[str, Any]]


def render(helm: Path, tmp_path: Path, name: str, values: dict[str, Any], upstream: Path | None = None,
           release: str = "a") -> Rendered:  # fmt: skip
    archive, _ = publish.package(OFFERS[name], RELEASE, upstream)
    (tmp_path / "chart.tgz").write_bytes(archive)
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    command = [helm, "template", release, tmp_path / "chart.tgz", "-n", "ns", "-f", tmp_path / "values.yaml"]
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr)
    return {(item["kind"], item["metadata"]["name"]): item for item in yaml.safe_load_all(done.stdout) if item}


@pytest.mark.parametrize("name", sorted(OFFERS))
def test_every_chart_of_the_release_set_renders(helm: Path, tmp_path: Path, name: str) -> None:
    assert render(helm, tmp_path, name, VALUES.get(name, {}))


@pytest.mark.parametrize("name", sorted(OFFERS))
def test_archives_depend_on_their_contents_alone(name: str) -> None:
    one, two = (publish.package(OFFERS[name], RELEASE, None)[0] for _ in range(2))
    assert one == two and gzip.decompress(one)
    about = publish.metadata(one)
    assert (about["name"], about["version"]) == (name, OFFERS[name].version)


def test_charts_are_offered_under_the_path_of_their_original_place() -> None:
    assert OFFERS["gateway-helm"].repository == "docker.io/envoyproxy/gateway-helm"
    assert OFFERS["kuadrant-operator"].repository == "kuadrant.io/helm-charts/kuadrant-operator"
    assert OFFERS["inferencepool"].repository == (
        "registry.k8s.io/gateway-api-inference-extension/charts/inferencepool"
    )


NEWEST = publish.load_releases()["2026.08"]


def test_versions_of_all_sets_are_offered() -> None:
    offered = {
        (offer.name, offer.version) for each in publish.load_releases().values() for offer in publish.offers(each)
    }
    assert {("gateway-helm", version) for version in ("v1.6.7", "v1.7.5", "v1.8.3")} <= offered
    assert {("kuadrant-operator", version) for version in ("1.4.3", "1.5.2")} <= offered


def test_the_newest_pool_chart_has_other_names_for_its_image(helm: Path, tmp_path: Path) -> None:
    """And does not look at the old ones."""
    offer = next(each for each in publish.offers(NEWEST) if each.name == "inferencepool")
    (tmp_path / "chart.tgz").write_bytes(publish.package(offer, NEWEST, None)[0])
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(POOL))
    command = [helm, "template", "a", tmp_path / "chart.tgz", "-f", tmp_path / "values.yaml"]
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert "image: registry.k8s.io/gateway-api-inference-extension/epp:v1\n" in told


# --- upstream's traps
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"modelArtifact": {}}, "modelArtifact"),
        ({"modelArtifacts": {"nmae": "x"}}, "nmae"),
        ({"routing": {"porxy": {}}}, "porxy"),
        ({"decode": {"parallelism": {"tensors": 2}}}, "tensors"),
    ],
)
def test_the_worker_charts_schema_is_strict(helm: Path, tmp_path: Path, change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        render(helm, tmp_path, "llm-d-modelservice", change)


def test_unknown_keys_of_a_role_are_ignored_in_silence(helm: Path, tmp_path: Path) -> None:
    values = {**MODEL, "decode": {**MODEL["decode"], "affinity": {"x": {}}, "runtimeClassName": "y"}}
    assert render(helm, tmp_path, "llm-d-modelservice", values) == render(helm, tmp_path, "llm-d-modelservice", MODEL)


def test_the_routing_proxy_is_on_by_default_and_takes_the_port(helm: Path, tmp_path: Path) -> None:
    found = render(helm, tmp_path, "llm-d-modelservice", {**MODEL, "routing": {}})
    pod = found["Deployment", "ms-a-decode"]["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["image"].endswith(":latest")
    assert pod["containers"][0]["args"][1:3] == ["--port", "8200"]


def test_prefill_is_there_unless_it_is_refused(helm: Path, tmp_path: Path) -> None:
    values = {key: value for key, value in MODEL.items() if key != "prefill"}
    assert ("Deployment", "ms-a-prefill") in render(helm, tmp_path, "llm-d-modelservice", values)


def test_without_a_name_of_its_own_a_worker_is_called_after_the_chart(helm: Path, tmp_path: Path) -> None:
    values = {**MODEL, "fullnameOverride": ""}
    found = render(helm, tmp_path, "llm-d-modelservice", values, release="ms-foo")
    assert ("Deployment", "ms-foo-llm-d-modelservice-decode") in found


def test_a_pool_ignores_resources_and_needs_labels(helm: Path, tmp_path: Path) -> None:
    found = render(helm, tmp_path, "inferencepool", POOL)
    assert "resources" not in found["Deployment", "a-epp"]["spec"]["template"]["spec"]["containers"][0]
    with pytest.raises(ValueError, match="matchLabels is required"):
        render(helm, tmp_path, "inferencepool", {})


def test_two_monitored_pools_collide_on_one_secret(helm: Path, tmp_path: Path) -> None:
    names = [{name for kind, name in render(helm, tmp_path, "inferencepool", POOL, release=release) if kind == "Secret"}
             for release in ("one", "two")]  # fmt: skip
    assert names[0] == names[1] == {"inference-gateway-sa-metrics-reader-secret"}


def test_definitions_are_where_upstream_has_them(helm: Path, tmp_path: Path) -> None:
    def definitions(name: str, values: dict[str, Any]) -> int:
        return sum(kind == "CustomResourceDefinition" for kind, _ in render(helm, tmp_path, name, values))

    # Templates: Helm owns them, upgrades them, and deletes them.
    assert definitions("kuadrant-operator", {}) == 18
    assert definitions("ai-gateway-crds-helm", {}) == 5
    # Off by default, and not the channel that one wants.
    assert definitions("gateway-crds-helm", {}) == 0
    assert definitions("gateway-crds-helm", VALUES["gateway-crds-helm"]) == 8
    # In crds/: installed once, not rendered.
    assert definitions("gateway-helm", {}) == definitions("gpu-operator", {}) == 0
    files = publish.chart_files(OFFERS["gateway-helm"], RELEASE, None)
    assert {"crds/gateway-api.yaml", "crds/envoy-gateway.yaml"} <= files.keys()


# --- beside the real ones
SAME = {
    # Kinds whose specs must be equal, with our values; of the others the names.
    "llm-d-modelservice": ("Deployment", "PodMonitor"),
    "inferencepool": ("InferencePool", "Deployment", "Service", "ServiceMonitor"),
    "gateway-helm": ("ConfigMap", "Service"),
}
NAMES = {
    "gpu-operator": {("Deployment", "gpu-operator"), ("ClusterPolicy", "cluster-policy"),
                     ("DaemonSet", "a-node-feature-discovery-worker")},
    "ai-gateway-helm": {("Deployment", "ai-gateway-controller"), ("Service", "ai-gateway-controller"),
                        ("Secret", "self-signed-cert-for-mutating-webhook"),
                        ("MutatingWebhookConfiguration", "envoy-ai-gateway-gateway-pod-mutator.ns"),
                        ("ClusterRole", "envoy-ai-gateway-inference-pool-reader:ns")},
    "gateway-helm": {("Deployment", "envoy-gateway"), ("Job", "a-gateway-helm-certgen"),
                     ("ConfigMap", "envoy-gateway-config"), ("Service", "envoy-gateway")},
    "kuadrant-operator": {("Deployment", name) for name in (
        "kuadrant-operator-controller-manager", "authorino-operator", "limitador-operator-controller-manager",
        "dns-operator-controller-manager")},
}  # fmt: skip


@pytest.fixture
def upstream() -> Path:
    found = upstream_dir()
    if found is None or not (found / "charts").is_dir():
        pytest.skip("no real charts: set LAB_UPSTREAM to a directory that has charts/NAME-VERSION.tgz")
    return found


@pytest.mark.parametrize("name", sorted(SAME))
def test_stand_ins_give_what_the_real_charts_give(helm: Path, tmp_path: Path, upstream: Path, name: str) -> None:
    ours, theirs = (render(helm, tmp_path, name, VALUES[name], source) for source in (None, upstream))
    for key, item in ours.items():
        if key[0] in SAME[name]:
            assert item.get("spec", item.get("data")) == theirs[key].get("spec", theirs[key].get("data")) or (
                _documents(item) == _documents(theirs[key])
            ), key
    assert {key for key in ours if key[0] in SAME[name]} == {key for key in theirs if key[0] in SAME[name]}


def _documents(config: dict[str, Any]) -> dict[str, Any]:
    """A ConfigMap's data, read as YAML where order and quotes do not count."""
    found = {name: yaml.safe_load(text) for name, text in (config.get("data") or {}).items()}
    for document in found.values():
        # The real chart also patches the image's pull policy in.
        limiter = ((document.get("provider") or {}).get("kubernetes") or {}).get("rateLimitDeployment") or {}
        limiter.pop("patch", None)
    return found


@pytest.mark.parametrize("name", sorted(NAMES))
def test_objects_have_the_real_names(helm: Path, tmp_path: Path, upstream: Path, name: str) -> None:
    for source in (None, upstream):
        found = render(helm, tmp_path, name, VALUES.get(name, {}), source)
        assert found.keys() >= NAMES[name], source
