# SPDX-License-Identifier: GPL-3.0-or-later
"""The values of models through the real charts, and what comes out through a real API server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.tokenlabs.platform.plugins.module_utils._catalog import derive
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory import Host, Inventory, validate

from tests.contract.crds import Definitions
from tests.integration.apiserver import ApiServer

SIM = "ghcr.io/llm-d/llm-d-inference-sim:v0.7.1"
PLAIN = {
    "name": "llama-8b",
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "image": "ghcr.io/llm-d/llm-d-cuda:v0.5.0",
    "args": ["--max-model-len=32768"],
    "env": {"FLASHINFER_DISABLE_VERSION_CHECK": "1"},
    "resources": {"limits": {"memory": "100Gi"}},
    "startup_seconds": 605,
}
SIMULATED = {"name": "sim", "model": "tokenlabs/sim", "engine": "sim", "image": SIM, "args": ["--mode=random"]}
CUSTOM = {
    "name": "m" * 35,
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "served_name": "qwen",
    "engine": "custom",
    "image": "lmsysorg/sglang:v0.5.0",
    "command": ["python3", "-m", "sglang.launch_server"],
    "args": ["--port=8000", "--served-model-name=qwen"],
    "picker_flags": {"total-queued-requests-metric": "sglang:num_queue_reqs", "lora-info-metric": "-"},
    "gpus": 2,
}
SHARED = {
    "tokenlabs_tiers": {"free": {"requests": {"1m": 1}, "tokens": {"1m": 1}}},
    "tokenlabs_hf_token": "hf_" + "aB3dE5gH7jK9" * 2,
}


def spark(number: int, *models: dict[str, Any]) -> Host:
    return Host(
        f"spark-{number:02}",
        False,
        True,
        {"ansible_host": f"10.0.1.{number}", "tokenlabs_models": list(models), "tokenlabs_gpu_slots": 4},
    )


@pytest.fixture(scope="module")
def catalog() -> dict[str, Any]:
    controller = Host("controller", True, False, {"ansible_host": "10.0.0.1"})
    inventory = Inventory((controller, spark(1, PLAIN, SIMULATED), spark(2, PLAIN, CUSTOM)), SHARED)
    assert validate(inventory, lambda host, path: str(host)) == []
    return derive(inventory)


Rendered = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def rendered(catalog: dict[str, Any], upstream: Path, helm: str, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The objects of every release, by the release's name."""
    directory = tmp_path_factory.mktemp("helm")
    objects: Rendered = {}
    for release in catalog["helmfile"]["releases"]:
        name = release["name"]
        values = directory / f"{name}.json"
        values.write_text(json.dumps(catalog["helmfile"]["values"][name]))
        chart = upstream / "charts" / f"{release['chart'].split('/')[-1]}-{release['version']}.tgz"
        if not chart.exists():
            pytest.skip(f"no chart {chart.name} under LAB_UPSTREAM/charts")
        ran = subprocess.run(
            [helm, "template", name, str(chart), "--namespace", release["namespace"], "--values", str(values)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"HOME": str(directory), "PATH": "/usr/bin:/bin"},
        )
        assert ran.returncode == 0, ran.stderr
        objects[name] = [document for document in yaml.safe_load_all(ran.stdout) if document]
    return objects


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    found = [each for each in objects if each["kind"] == kind]
    assert len(found) == 1, [each["kind"] for each in objects]
    return found[0]


def test_pools_are_where_routes_look_for_them(catalog: dict[str, Any], rendered: Rendered) -> None:
    for model in catalog["models"]:
        pool = one(rendered[model["pool"]], "InferencePool")
        picker = one(rendered[model["pool"]], "Deployment")
        service = one(rendered[model["pool"]], "Service")
        assert pool["metadata"]["name"] == model["pool"]
        assert pool["spec"]["endpointPickerRef"]["name"] == service["metadata"]["name"] == f"{model['pool']}-epp"
        container = picker["spec"]["template"]["spec"]["containers"][0]
        assert container["image"] == "ghcr.io/llm-d/llm-d-inference-scheduler:v0.5.0"
        assert "--secure-serving=false" not in container["args"]


def test_workers_are_what_pools_select(catalog: dict[str, Any], rendered: Rendered) -> None:
    for model in catalog["models"]:
        worker = one(rendered[model["release"]], "Deployment")
        wanted = one(rendered[model["pool"]], "InferencePool")["spec"]["selector"]["matchLabels"]
        labels = worker["spec"]["template"]["metadata"]["labels"]
        assert worker["metadata"]["name"] == model["deployment"]
        assert wanted.items() <= labels.items()
        others = [each["name"] for each in catalog["models"] if each is not model]
        assert labels["llm-d.ai/model"] not in others
        assert worker["spec"]["replicas"] == model["replicas"]
        assert [each["name"] for each in worker["spec"]["template"]["spec"]["containers"]] == [model["engine"]]
        assert "initContainers" not in worker["spec"]["template"]["spec"]


def container_of(rendered: Rendered, name: str) -> dict[str, Any]:
    return one(rendered[name], "Deployment")["spec"]["template"]["spec"]["containers"][0]


def test_vllm(rendered: Rendered) -> None:
    """Nothing of the values is dropped on the way, which these charts do without a word."""
    worker = one(rendered["ms-llama-8b"], "Deployment")
    pod = worker["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["command"] == ["vllm", "serve"]
    assert container["args"] == [
        "meta-llama/Llama-3.1-8B-Instruct",
        "--port",
        "8000",
        "--served-model-name",
        "meta-llama/Llama-3.1-8B-Instruct",
        "--enable-force-include-usage",
        "--max-model-len=32768",
    ]
    assert worker["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "100Gi", "nvidia.com/gpu": "1"}
    assert container["resources"]["requests"] == {"cpu": "4", "nvidia.com/gpu": "1"}
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["affinity"]["nodeAffinity"] and pod["affinity"]["podAntiAffinity"]
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= 605
    environment = {each["name"]: each for each in container["env"]}
    assert environment["HF_HOME"]["value"] == "/model-cache"
    assert environment["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "hf-token", "key": "HF_TOKEN"}}
    assert {"name": "model-cache", "mountPath": "/model-cache"} in container["volumeMounts"]
    cache = next(each for each in pod["volumes"] if each["name"] == "model-cache")
    assert cache["hostPath"] == {"path": "/var/lib/tokenlabs/models", "type": "DirectoryOrCreate"}
    assert pod["enableServiceLinks"] is False


def test_the_simulator_needs_no_gpu(rendered: Rendered) -> None:
    pod = one(rendered["ms-sim"], "Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert "runtimeClassName" not in pod and "tolerations" not in pod
    assert "nvidia.com/gpu" not in json.dumps(container["resources"])
    assert container["args"][:2] == ["--model", "tokenlabs/sim"]
    assert "HF_TOKEN" not in json.dumps(container["env"])
    assert one(rendered["ms-sim"], "Deployment")["spec"]["strategy"] == {"type": "Recreate"}


def test_an_engine_of_ones_own(rendered: Rendered) -> None:
    container = container_of(rendered, "ms-" + "m" * 35)
    assert container["command"] == CUSTOM["command"] and container["args"] == CUSTOM["args"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    picker = one(rendered["pool-" + "m" * 35], "Deployment")["spec"]["template"]["spec"]["containers"][0]
    place = picker["args"].index("--total-queued-requests-metric")
    assert picker["args"][place + 1] == "sglang:num_queue_reqs"


def test_no_image_is_latest(rendered: Rendered) -> None:
    for objects in rendered.values():
        for each in objects:
            for container in each.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
                assert ":" in container["image"] and not container["image"].endswith(":latest")


def test_pools_are_of_the_right_form(rendered: Rendered, definitions: Definitions) -> None:
    checked = 0
    for objects in rendered.values():
        for each in filter(definitions.knows, objects):
            assert definitions.errors(each) == []
            checked += 1
    assert checked == 3


def test_a_real_api_server_takes_everything(rendered: Rendered, server: ApiServer) -> None:
    plurals = {
        "Deployment": "apis/apps/v1/namespaces/token-labs/deployments",
        "InferencePool": "apis/inference.networking.k8s.io/v1/namespaces/token-labs/inferencepools",
        "Role": "apis/rbac.authorization.k8s.io/v1/namespaces/token-labs/roles",
        "RoleBinding": "apis/rbac.authorization.k8s.io/v1/namespaces/token-labs/rolebindings",
        "Service": "api/v1/namespaces/token-labs/services",
        "ServiceAccount": "api/v1/namespaces/token-labs/serviceaccounts",
        "ConfigMap": "api/v1/namespaces/token-labs/configmaps",
    }
    for objects in rendered.values():
        for body in objects:
            path = f"/{plurals[body['kind']]}/{body['metadata']['name']}"
            query = "?dryRun=All&fieldManager=test&fieldValidation=Strict&force=true"
            server.raw("PATCH", path + query, body, "application/apply-patch+yaml")
