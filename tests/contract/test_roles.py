# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles render from the lab's inventory, against the real definitions and a real API server."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.contract.crds import ROOT, Definitions
from tests.integration.apiserver import ApiServer
from tests.unit.plugins.catalog.inventories import load, load_plugins

# What tasks find out before they render.
FOUND_OUT: dict[str, dict[str, Any]] = {"redis": {"__redis_secret_version": "1"}}
# What the lab's inventory does not ask for.
FOUND_OUT["magpie_tts"] = {
    "magpie_tts_service": {
        "host": "spark-01",
        "image": "registry.example.com/magpie-tts:v1",
        "startup_seconds": 905,
        "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "8Gi"}},
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}],
        "pull_secret": "registry",
    }
}
NVIDIA = {"host": "integrate.api.nvidia.com", "port": 443, "path": "/v1/asr", "tls": True, "credential": True}
FOUND_OUT["riva_stt"] = {"riva_stt_service": {**NVIDIA, "timeout_seconds": 120}}
# Charts whose values are a role's variables: role, variable, chart in the catalog.
VALUES = [
    ("envoy_gateway", "__envoy_gateway_values", "envoy_gateway"),
    ("ai_gateway", "__ai_gateway_values", "ai_gateway"),
]
OBJECTS = sorted(path.parent.parent.name for path in ROOT.glob("roles/*/templates/objects.yaml.j2"))
DEFINED = sorted(
    (path.parent.parent.name, name)
    for path in ROOT.glob("roles/*/vars/main.yml")
    for name in re.findall(r"^(__\w+_definitions):", path.read_text(), re.MULTILINE)
)


# Every option of the gateway on; the inventory of the lab has them off.
OPTIONS: dict[str, dict[str, Any]] = {
    "as the lab": {},
    "all options": {
        "gateway": {
            "address": "10.77.0.200",
            "https_port": 443,
            "redirect": True,
            "tls": {"secret": "token-labs-gateway-tls", "names": ["api.example.com"]},
            "cors": {"origins": ["https://chat.example.com"]},
            "replicas": 2,
            "node_selector": {"kubernetes.io/hostname": "controller"},
        },
        "redis": {"own": False, "host": "redis.example.com", "port": 6380, "tls": True},
        "limits_unavailable": "deny",
    },
}


@pytest.fixture(scope="module", params=OPTIONS)
def catalog(request: pytest.FixtureRequest, lab_catalog: dict[str, Any]) -> dict[str, Any]:
    """The lab's catalog, with options laid over it."""
    changes = OPTIONS[request.param]
    return {
        **lab_catalog,
        **{key: {**lab_catalog[key], **value} if isinstance(value, dict) else value for key, value in changes.items()},
    }


@pytest.fixture(scope="module")
def lab_catalog(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    state = tmp_path_factory.mktemp("lab")
    (state / "checksums.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENLABS_LAB", str(state))
        answer = load(ROOT / "inventories" / "lab")
    assert not answer.get("failed"), answer.get("msg")
    return answer["catalog"]


def templar(role: str, catalog: dict[str, Any]) -> Templar:
    """Ansible's own rendering, with the role's variables."""
    load_plugins()
    loader = DataLoader()
    folder = ROOT / "roles" / role
    variables: dict[str, Any] = {}
    for name in ("defaults", "vars"):
        file = folder / name / "main.yml"
        if file.exists():
            variables.update(loader.load_from_file(str(file), trusted_as_template=True) or {})
    variables.update({"tokenlabs_catalog": catalog, "role_path": str(folder), "ansible_search_path": [str(folder)]})
    variables.update(FOUND_OUT.get(role, {}))
    return Templar(loader=loader, variables=variables)


def render(role: str, expression: str, catalog: dict[str, Any]) -> Any:
    return templar(role, catalog).template(trust_as_template("{{ " + expression + " }}"))


def documents(role: str, catalog: dict[str, Any]) -> list[dict[str, Any]]:
    text = render(role, "lookup('ansible.builtin.template', 'objects.yaml.j2')", catalog)
    return [document for document in yaml.safe_load_all(text) if document]


def everything(catalog: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = [(role, body) for role in OBJECTS for body in documents(role, catalog)]
    return found + [(role, body) for role, name in DEFINED for body in render(role, name, catalog)]


def test_there_is_something_to_check(catalog: dict[str, Any]) -> None:
    kinds = {body["kind"] for _role, body in everything(catalog)}
    assert {"Gateway", "AIGatewayRoute", "HTTPRoute", "Kuadrant", "Limitador", "StatefulSet"} <= kinds


def test_every_custom_object_is_of_the_right_form(catalog: dict[str, Any], definitions: Definitions) -> None:
    wrong = {
        f"{role}: {body['kind']} {body['metadata']['name']}": definitions.errors(body)
        for role, body in everything(catalog)
        if definitions.knows(body) and definitions.errors(body)
    }
    assert wrong == {}


def test_no_host_name_opens_a_way_around_the_policies(catalog: dict[str, Any]) -> None:
    for _role, body in everything(catalog):
        if body["kind"] == "Gateway":
            assert not [each for each in body["spec"]["listeners"] if each.get("hostname")]
        if body["kind"] in ("HTTPRoute", "AIGatewayRoute"):
            assert "hostnames" not in body["spec"]


def test_hosts_can_answer_for_the_gateway(catalog: dict[str, Any], definitions: Definitions) -> None:
    own = {**catalog["gateway"], "host_addresses": ["10.77.0.10", "10.77.0.20"]}
    bodies = {body["kind"]: body for body in documents("gateway", {**catalog, "gateway": own})}
    assert [
        definitions.errors(body) for body in bodies.values() if definitions.knows(body) and definitions.errors(body)
    ] == []
    assert [each["value"] for each in bodies["Gateway"]["spec"]["addresses"]] == ["10.77.0.10", "10.77.0.20"]
    service = bodies["EnvoyProxy"]["spec"]["provider"]["kubernetes"]["envoyService"]
    # With Local, Envoy Gateway's default, only the node that Envoy happens to be on would answer.
    assert service == {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Cluster",
        "allocateLoadBalancerNodePorts": False,
    }


def test_routes_and_pools_fit_together(catalog: dict[str, Any]) -> None:
    route = next(body for _role, body in everything(catalog) if body["kind"] == "AIGatewayRoute")
    told = {
        rule["matches"][0]["headers"][0]["value"]: rule["backendRefs"][0]["name"] for rule in route["spec"]["rules"]
    }
    assert told == {model["served_name"]: model["pool"] for model in catalog["models"]}
    assert route["metadata"]["name"] == "llm-inference"
    # Without it no tokens are counted, and streams may end without usage.
    assert {"metadataKey": "llm_total_token", "type": "TotalToken"} in route["spec"]["llmRequestCosts"]


def test_a_tenants_key_is_written_over_on_the_way_to_nvidia(catalog: dict[str, Any]) -> None:
    objects = {body["kind"]: body for body in documents("riva_stt", catalog)}
    assert objects["HTTPRouteFilter"]["spec"]["credentialInjection"]["overwrite"] is True
    assert objects["BackendTLSPolicy"]["spec"]["validation"]["hostname"] == NVIDIA["host"]
    (rule,) = objects["HTTPRoute"]["spec"]["rules"]
    filters = {each["type"]: each for each in rule["filters"]}
    assert filters["ExtensionRef"]["extensionRef"]["name"] == objects["HTTPRouteFilter"]["metadata"]["name"]
    assert filters["URLRewrite"]["urlRewrite"] == {
        "hostname": NVIDIA["host"],
        "path": {"type": "ReplaceFullPath", "replaceFullPath": "/v1/asr"},
    }
    removed = filters["RequestHeaderModifier"]["requestHeaderModifier"]["remove"]
    assert removed == ["x-tokenlabs-tenant", "x-tokenlabs-tier"]


def test_a_server_of_ones_own_gets_no_key_at_all(
    catalog: dict[str, Any], definitions: Definitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {**NVIDIA, "host": "192.168.1.7", "port": 9000, "path": "/v1/audio/transcriptions"}
    service = {**own, "tls": False, "credential": False, "timeout_seconds": 5}
    monkeypatch.setitem(FOUND_OUT, "riva_stt", {"riva_stt_service": service})
    objects = {body["kind"]: body for body in documents("riva_stt", catalog)}
    assert set(objects) == {"Backend", "HTTPRoute"}
    assert [definitions.errors(body) for body in objects.values()] == [[], []]
    assert objects["Backend"]["spec"]["endpoints"] == [{"ip": {"address": "192.168.1.7", "port": 9000}}]
    (only,) = objects["HTTPRoute"]["spec"]["rules"][0]["filters"]
    assert "authorization" in only["requestHeaderModifier"]["remove"]


def test_a_real_api_server_takes_everything(catalog: dict[str, Any], server: ApiServer) -> None:
    """With every unknown field an error, and the rules of the definitions evaluated."""
    bodies = [body for _role, body in everything(catalog)]
    present = {each["metadata"]["name"] for each in server.raw("GET", "/api/v1/namespaces")["items"]}
    for namespace in sorted({body["metadata"].get("namespace", "default") for body in bodies} - present):
        server.raw("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    for body in bodies:
        version = body["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        resources = server.raw("GET", root)["resources"]
        kind = next(each for each in resources if each["kind"] == body["kind"] and "/" not in each["name"])
        namespace = body["metadata"].get("namespace")
        inside = f"/namespaces/{namespace}" if kind["namespaced"] else ""
        query = "?dryRun=All&fieldManager=test&fieldValidation=Strict&force=true"
        path = f"{root}{inside}/{kind['name']}/{body['metadata']['name']}{query}"
        server.raw("PATCH", path, body, "application/apply-patch+yaml")


@pytest.mark.parametrize(("role", "variable", "chart"), VALUES, ids=[each[0] for each in VALUES])
def test_charts_take_the_values(
    role: str, variable: str, chart: str, catalog: dict[str, Any], upstream: Path, helm: str, tmp_path: Path
) -> None:
    values = tmp_path / "values.json"
    values.write_text(json.dumps(render(role, variable, catalog)))
    told = catalog["charts"][chart]
    archive = upstream / "charts" / f"{told['ref'].split('/')[-1]}-{told['version']}.tgz"
    if not archive.exists():
        pytest.skip(f"no chart {archive.name} under LAB_UPSTREAM/charts")
    ran = subprocess.run(
        [helm, "template", "x", str(archive), "--namespace", "x", "--values", str(values), "--skip-crds"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert ran.returncode == 0, ran.stderr
    if role == "envoy_gateway":
        configs = [
            each for each in yaml.safe_load_all(ran.stdout) if each and "envoy-gateway.yaml" in (each.get("data") or {})
        ]
        config = yaml.safe_load(configs[0]["data"]["envoy-gateway.yaml"])
        wanted = json.loads(values.read_text())["config"]["envoyGateway"]
        assert missing(wanted, config) == []


def missing(wanted: Any, given: Any, path: str = "") -> list[str]:
    """What of a value did not arrive; the chart adds its own beside it."""
    if isinstance(wanted, dict) and isinstance(given, dict):
        return [each for key, value in wanted.items() for each in missing(value, given.get(key), f"{path}.{key}")]
    return [] if wanted == given else [path]
