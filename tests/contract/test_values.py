# SPDX-License-Identifier: GPL-3.0-or-later
"""The values of models through the real charts, and what comes out through a real API server."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ansible_collections.tokenlabs.platform.plugins.module_utils._catalog import derive
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory import Host, Inventory
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory_rules import validate

from tests.contract.crds import Definitions
from tests.contract.test_roles import documents as role_documents
from tests.integration.apiserver import ApiServer

IMAGE = "ghcr.io/llm-d/llm-d-cuda:v0.5.0"
PLAIN = {
    "name": "llama-8b",
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "image": IMAGE,
    "args": ["--max-model-len=32768"],
    "env": {"FLASHINFER_DISABLE_VERSION_CHECK": "1"},
    "resources": {"limits": {"memory": "100Gi"}},
    "memory_fraction": 0.4,
    "startup_seconds": 605,
}
SIMULATED = {
    "name": "sim",
    "model": "tokenlabs/sim",
    "engine": "sim",
    "image": "ghcr.io/llm-d/llm-d-inference-sim:v0.7.1",
    "args": ["--mode=random"],
}
CUSTOM = {
    "name": "m" * 35,
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "served_name": "qwen",
    "engine": "custom",
    "image": "example.com/server:v1",
    "command": ["python3", "-m", "server"],
    "args": ["--port=8000", "--served-model-name=qwen"],
    "picker_flags": {"total-queued-requests-metric": "own:queue", "lora-info-metric": ""},
    "gpus": 2,
    "memory_fraction": 0.4,
}
SGLANG = {
    "name": "r1",
    "model": "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
    "served_name": "r1",
    "engine": "sglang",
    "image": "lmsysorg/sglang:v0.5.0",
    "args": ["--attention-backend=triton"],
    "tool_parser": "qwen25",
    "memory_fraction": 0.3,
    "grace_seconds": 10,
}
TRTLLM = {
    "name": "qwen-7b",
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "engine": "trtllm",
    "image": "nvcr.io/nvidia/tensorrt-llm/release:1.3.0rc10",
    "args": ["--max_batch_size=8"],
    "memory_fraction": 0.2,
}
ADOPTED = {
    **PLAIN,
    "name": "old",
    "served_name": "old",
    "memory_fraction": 0.2,
    "adopt": {"pool": "llm-d-inferencepool", "worker": "llm-d-modelservice", "label": "llama-3-1-8b"},
}
SHARED = {
    "tokenlabs_tiers": {"free": {"requests": {"1m": 1}, "tokens": {"1m": 1}}},
    "tokenlabs_hf_token": "hf_" + "aB3dE5gH7jK9" * 2,
}
MORE = [
    {**PLAIN, "name": f"more-{number}", "served_name": f"more-{number}", "memory_fraction": 0.03, "replicas": number}
    for number in range(1, 7)
]
# What is on each Spark: one, three and twelve models, in all engines.
SETS = {
    "1": [[PLAIN]],
    "3": [[SGLANG, TRTLLM], [SIMULATED]],
    "12": [[PLAIN, SIMULATED, SGLANG, TRTLLM], [PLAIN, CUSTOM], [*MORE, ADOPTED]],
}


def spark(number: int, *models: dict[str, Any]) -> Host:
    return Host(
        f"spark-{number:02}",
        False,
        True,
        {"ansible_host": f"10.0.1.{number}", "tokenlabs_models": list(models), "tokenlabs_gpu_slots": 32},
    )


def derived(placed: list[list[dict[str, Any]]]) -> dict[str, Any]:
    controller = Host("controller", True, False, {"ansible_host": "10.0.0.1"})
    sparks = [spark(number, *models) for number, models in enumerate(placed, start=1)]
    inventory = Inventory((controller, *sparks), SHARED)
    assert [str(problem) for problem in validate(inventory, lambda host, path: str(host))] == []
    return derive(inventory)


@pytest.fixture(scope="module", params=SETS)
def catalog(request: pytest.FixtureRequest) -> dict[str, Any]:
    return derived(SETS[request.param])


Rendered = dict[str, list[dict[str, Any]]]


def render(
    catalog: dict[str, Any], name: str, upstream: Path, helm: str, directory: Path, changes: Any = None
) -> list[dict[str, Any]]:
    """The objects of one release; helm holds the values against the chart's schema, where it has one."""
    release = next(each for each in catalog["helmfile"]["releases"] if each["name"] == name)
    values = directory / f"{name}.json"
    content = copy.deepcopy(catalog["helmfile"]["values"][name])
    if changes:
        changes(content)
    values.write_text(json.dumps(content))
    source = next(each for each in catalog["helmfile"]["charts"] if each["name"] == release["chart"])
    chart = upstream / "charts" / f"{source['ref'].split('/')[-1]}-{source['version']}.tgz"
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
    return [document for document in yaml.safe_load_all(ran.stdout) if document]


@pytest.fixture(scope="module")
def rendered(catalog: dict[str, Any], upstream: Path, helm: str, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The objects of every release, by the release's name."""
    directory = tmp_path_factory.mktemp("helm")
    names = [release["name"] for release in catalog["helmfile"]["releases"]]
    return {name: render(catalog, name, upstream, helm, directory) for name in names}


@pytest.fixture(scope="module")
def route(catalog: dict[str, Any]) -> dict[str, Any]:
    """The AIGatewayRoute as the role renders it."""
    (found,) = [body for body in role_documents("llm_d", catalog) if body["kind"] == "AIGatewayRoute"]
    return found


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    found = [each for each in objects if each["kind"] == kind]
    assert len(found) == 1, [each["kind"] for each in objects]
    return found[0]


def container_of(rendered: Rendered, name: str) -> dict[str, Any]:
    return one(rendered[name], "Deployment")["spec"]["template"]["spec"]["containers"][0]


def words_of(container: dict[str, Any]) -> list[str]:
    """The words of a container's command, with `--name=value` as two."""
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    return [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]


def option(container: dict[str, Any], name: str) -> str:
    words = words_of(container)
    return words[words.index(name) + 1]


# --- what must equal what, between the two charts, the route and the rest of the platform ----------------------------


def test_a_rule_asks_for_the_name_that_the_server_serves(
    catalog: dict[str, Any], rendered: Rendered, route: dict[str, Any]
) -> None:
    asked = {rule["backendRefs"][0]["name"]: rule["matches"][0]["headers"][0] for rule in route["spec"]["rules"]}
    for model in catalog["models"]:
        header = asked[model["pool"]]
        assert (header["name"], header["value"]) == ("x-ai-eg-model", model["served_name"])
        assert catalog["helmfile"]["values"][model["release"]]["modelArtifacts"]["name"] == model["served_name"]
        container = container_of(rendered, model["release"])
        if model["engine"] == "trtllm":
            # It knows its model by the id that it is started with.
            assert model["served_name"] == model["model"] == container["args"][0]
        else:
            assert option(container, "--served-model-name") == model["served_name"]


def test_a_rule_leads_to_the_pool_that_the_chart_makes(
    catalog: dict[str, Any], rendered: Rendered, route: dict[str, Any]
) -> None:
    targets = [rule["backendRefs"] for rule in route["spec"]["rules"]]
    for references, model in zip(targets, catalog["models"], strict=True):
        (reference,) = references
        assert (reference["group"], reference["kind"]) == ("inference.networking.k8s.io", "InferencePool")
        assert reference["name"] == one(rendered[model["pool"]], "InferencePool")["metadata"]["name"] == model["pool"]


def test_a_pool_selects_the_workers_of_its_model_only(catalog: dict[str, Any], rendered: Rendered) -> None:
    pods = {
        model["name"]: one(rendered[model["release"]], "Deployment")["spec"]["template"]["metadata"]["labels"]
        for model in catalog["models"]
    }
    for model in catalog["models"]:
        wanted = one(rendered[model["pool"]], "InferencePool")["spec"]["selector"]["matchLabels"]
        assert [name for name, labels in pods.items() if wanted.items() <= labels.items()] == [model["name"]]


def test_a_pool_sends_to_the_port_that_the_server_opens(catalog: dict[str, Any], rendered: Rendered) -> None:
    for model in catalog["models"]:
        (port,) = one(rendered[model["pool"]], "InferencePool")["spec"]["targetPorts"]
        container = container_of(rendered, model["release"])
        values = catalog["helmfile"]["values"][model["release"]]
        assert port["number"] == values["routing"]["servicePort"] == container["ports"][0]["containerPort"]
        assert option(container, "--port") == str(port["number"])
        assert len(one(rendered[model["release"]], "Deployment")["spec"]["template"]["spec"]["containers"]) == 1


def test_a_pool_asks_the_picker_that_the_chart_makes(catalog: dict[str, Any], rendered: Rendered) -> None:
    for model in catalog["models"]:
        objects = rendered[model["pool"]]
        reference = one(objects, "InferencePool")["spec"]["endpointPickerRef"]
        assert reference["name"] == one(objects, "Service")["metadata"]["name"] == model["picker"]
        assert one(objects, "Deployment")["metadata"]["name"] == model["picker"]
        container = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
        assert container["image"] == "ghcr.io/llm-d/llm-d-inference-scheduler:v0.5.0"
        # The AI gateway speaks TLS to it.
        assert "--secure-serving=false" not in container["args"]


def test_a_pod_monitor_finds_the_port_of_the_server(
    catalog: dict[str, Any], upstream: Path, helm: str, tmp_path: Path
) -> None:
    """By the chart's own PodMonitor: the port that the values call http is there."""

    def monitored(values: dict[str, Any]) -> None:
        values["decode"]["monitoring"]["podmonitor"] = {"enabled": True, "portName": "http"}

    for model in catalog["models"]:
        objects = render(catalog, model["release"], upstream, helm, tmp_path, monitored)
        template = one(objects, "Deployment")["spec"]["template"]
        monitor = one(objects, "PodMonitor")["spec"]
        ports = [port["name"] for port in template["spec"]["containers"][0]["ports"]]
        assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == ports
        assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


def test_an_autoscaler_finds_the_deployment(catalog: dict[str, Any], rendered: Rendered) -> None:
    for model in catalog["models"]:
        worker = one(rendered[model["release"]], "Deployment")
        values = catalog["helmfile"]["values"][model["release"]]
        assert worker["metadata"]["name"] == f"{values['fullnameOverride']}-decode" == model["deployment"]
        assert worker["spec"]["replicas"] == model["replicas"]


def test_the_token_comes_from_the_secret_that_the_role_makes(catalog: dict[str, Any], rendered: Rendered) -> None:
    for model in catalog["models"]:
        environment = {each["name"]: each for each in container_of(rendered, model["release"]).get("env") or []}
        if model["engine"] == "sim":
            assert "HF_TOKEN" not in environment
        else:
            reference = {"name": catalog["hf_secret"], "key": "HF_TOKEN"}
            assert environment["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": reference}


# --- what must not be lost on the way, which these charts do without a word -------------------------------------------


def test_nothing_that_was_not_asked_for(rendered: Rendered) -> None:
    """No sidecar, no second Deployment for a prefill, no image that changes."""
    for objects in rendered.values():
        one(objects, "Deployment")
        for each in objects:
            pod = each.get("spec", {}).get("template", {}).get("spec", {})
            assert "initContainers" not in pod
            for container in pod.get("containers", []):
                assert ":" in container["image"] and not container["image"].endswith(":latest")


def test_workers_are_replaced_where_they_are(catalog: dict[str, Any], rendered: Rendered) -> None:
    for model in catalog["models"]:
        worker = one(rendered[model["release"]], "Deployment")
        strategy = worker["spec"]["strategy"]
        if model["replicas"] == 1:
            assert strategy == {"type": "Recreate"}
        else:
            assert strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
        pod = worker["spec"]["template"]["spec"]
        terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert terms[0]["matchExpressions"][0]["values"] == model["hosts"]
        assert bool(pod["affinity"].get("podAntiAffinity")) is (model["replicas_per_host"] == 1)
        assert bool(pod.get("topologySpreadConstraints")) is (model["replicas_per_host"] > 1)


def test_probes_give_the_model_its_own_time(catalog: dict[str, Any], rendered: Rendered) -> None:
    for model in catalog["models"]:
        container = container_of(rendered, model["release"])
        start = container["startupProbe"]
        assert 0 <= start["failureThreshold"] * start["periodSeconds"] - model["startup_seconds"] < 10
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[name]["httpGet"]["port"] == container["ports"][0]["name"]


def test_a_gpu_where_one_is_wanted(catalog: dict[str, Any], rendered: Rendered) -> None:
    for model in catalog["models"]:
        pod = one(rendered[model["release"]], "Deployment")["spec"]["template"]["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        assert limits.get("nvidia.com/gpu") == (str(model["gpus"]) if model["gpus"] else None)
        assert pod.get("runtimeClassName") == ("nvidia" if model["gpus"] else None)
        cached = {"name": "model-cache", "mountPath": "/model-cache"} in pod["containers"][0].get("volumeMounts", [])
        assert cached is (model["engine"] != "sim")


def test_pickers_are_told_the_metrics_of_the_engine(catalog: dict[str, Any], rendered: Rendered) -> None:
    queue = {"sglang": "sglang:num_queue_reqs", "trtllm": "", "custom": "own:queue"}
    for model in catalog["models"]:
        arguments = container_of(rendered, model["pool"])["args"]
        if model["engine"] in queue:
            assert arguments[arguments.index("--total-queued-requests-metric") + 1] == queue[model["engine"]]
        else:
            assert "--total-queued-requests-metric" not in arguments


@pytest.mark.parametrize("version", ["v0.4.5", "v0.4.12"])
def test_other_versions_of_the_chart_know_the_same_values(
    version: str, catalog: dict[str, Any], upstream: Path
) -> None:
    schema = upstream / "values" / f"llm-d-modelservice-{version}" / "values.schema.json"
    if not schema.exists():
        pytest.skip(f"no {schema.name} of {version} under LAB_UPSTREAM/values")
    for model in catalog["models"]:
        jsonschema.validate(catalog["helmfile"]["values"][model["release"]], json.loads(schema.read_text()))


def test_pools_are_of_the_right_form(catalog: dict[str, Any], rendered: Rendered, definitions: Definitions) -> None:
    checked = 0
    for objects in rendered.values():
        for each in filter(definitions.knows, objects):
            assert definitions.errors(each) == []
            checked += 1
    assert checked == len(catalog["models"])


def test_a_whole_worker(upstream: Path, helm: str, tmp_path: Path) -> None:
    pod = one(render(derived([[PLAIN]]), "ms-llama-8b", upstream, helm, tmp_path), "Deployment")["spec"]["template"][
        "spec"
    ]
    (container,) = pod["containers"]
    assert container["command"] == ["vllm", "serve"]
    assert container["args"] == [
        "meta-llama/Llama-3.1-8B-Instruct",
        "--port",
        "8000",
        "--served-model-name",
        "meta-llama/Llama-3.1-8B-Instruct",
        "--enable-force-include-usage",
        "--gpu-memory-utilization=0.4",
        "--max-model-len=32768",
    ]
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "100Gi", "nvidia.com/gpu": "1"}
    assert container["resources"]["requests"] == {"cpu": "4", "nvidia.com/gpu": "1"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["HF_HOME"] == "/model-cache"
    assert environment["FLASHINFER_DISABLE_VERSION_CHECK"] == "1"
    cache = next(each for each in pod["volumes"] if each["name"] == "model-cache")
    assert cache["hostPath"] == {"path": "/var/lib/tokenlabs/models", "type": "DirectoryOrCreate"}
    assert pod["enableServiceLinks"] is False
    assert pod["terminationGracePeriodSeconds"] == 60


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
