# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that the collection renders, for every release set, one to five models and every option on and off.

A real API server with the set's real definitions takes it as a dry run: no unknown field, no broken rule. What of a
set is not under LAB_UPSTREAM is named.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml
from ansible.errors import AnsibleUndefinedVariable
from ansible.template import trust_as_template
from ansible_collections.tokenlabs.platform.plugins.filter import autoscaling_objects, observability_objects
from ansible_collections.tokenlabs.platform.plugins.module_utils import _policies as policies
from ansible_collections.tokenlabs.platform.plugins.module_utils._catalog import derive
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory import Host, Inventory
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory_rules import validate
from ansible_collections.tokenlabs.platform.plugins.module_utils._releases import RELEASES

from tests.contract import crds
from tests.contract.charts import Chart, chart
from tests.contract.test_roles import DEFINED, OBJECTS, templar
from tests.integration import apiserver

Body = dict[str, Any]

IMAGE = "ghcr.io/llm-d/llm-d-cuda:v0.5.0"
MODELS: list[Body] = [
    {"name": "first", "model": "org/first-8b", "image": IMAGE, "args": ["--max-model-len=32768"], "env": {"A": "b"}},
    {"name": "sim", "model": "org/sim", "engine": "sim", "image": "ghcr.io/llm-d/llm-d-inference-sim:v0.7.1"},
    {"name": "own", "model": "org/own", "served_name": "own", "engine": "custom", "image": "example.com/own:v1",
     "command": ["serve"], "picker_flags": {"total-queued-requests-metric": "own:queue"}},
    {"name": "m" * 35, "model": "org/long-70b", "image": IMAGE, "resources": {"limits": {"memory": "100Gi"}}},
    {"name": "fifth", "model": "org/fifth", "image": IMAGE, "startup_seconds": 605},
]  # fmt: skip
TIERS = {
    "free": {"requests": {"1m": 10, "24h": 100}, "tokens": {"1m": 5000, "24h": 50000}, "models": ["first"]},
    "pro": {"requests": {"1m": 100}, "tokens": {"1m": 50000}},
}
SHARED = {"tokenlabs_tiers": TIERS, "tokenlabs_loadbalancer_range": "10.0.0.240-10.0.0.250"}
# Each option apart from its default: what the inventory says, and what a role is told. None takes a variable away.
OPTIONS: dict[str, tuple[Body, Body]] = {
    "nothing": ({}, {}),
    "tokens counted by Kuadrant": ({"tokenlabs_token_limits": "kuadrant"}, {}),
    "token of Hugging Face": ({"tokenlabs_hf_token": "hf_" + "aB3dE5gH7jK9" * 2}, {}),
    "a namespace of its own": ({"tokenlabs_namespace": "inference"}, {}),
    "an address and a port": ({"tokenlabs_gateway": {"address": "10.0.0.241", "http_port": 8080}}, {}),
    "HTTPS": ({"tokenlabs_gateway": {"tls": {"secret": "gateway-tls"}, "https_port": 8443}}, {}),
    "HTTPS alone": ({"tokenlabs_gateway": {"tls": {"secret": "gateway-tls"}, "http": "redirect"}}, {}),
    "self-signed": ({"tokenlabs_gateway": {"tls": {"self_signed": ["api.example.com", "10.0.0.241"]}}}, {}),
    "browsers": ({"tokenlabs_gateway": {"cors": {"origins": ["https://chat.example.com"]}}}, {}),
    "several Envoys": ({"tokenlabs_gateway": {"replicas": 2, "node_selector": {"rack": "a1"}}}, {}),
    "an issuer of tokens": ({"tokenlabs_oidc": {"issuer": "https://login.example.com/realms/x", "tier_claim": "tier",
                                                "tenant_claim": "tenant"}}, {}),
    "Redis elsewhere": ({"tokenlabs_redis": {"host": "redis.example.com", "port": 6380, "tls": True},
                         "tokenlabs_redis_password": "aB3dE5gH7jK9mN1p"}, {}),
    "no requests without counters": ({"tokenlabs_limits_unavailable": "deny"}, {}),
    "monitored": ({"tokenlabs_observability": {"prometheus": "stack"}}, {}),
    "hosts answer": ({"tokenlabs_loadbalancer_range": None}, {}),
    "a mirror": ({"tokenlabs_mirrors": {"charts": "oci://mirror:5000", "downloads": "http://mirror"}}, {}),
    "images from elsewhere": ({"tokenlabs_images": {"redis": "mirror:5/redis:7", "epp": "mirror:5/x/epp:v1"}}, {}),
    "a placed gateway": ({"tokenlabs_gateway": {"replicas": 2, "node_selector": {"rack": "a1"}}}, {}),
    "a certificate that is made": (
        {"tokenlabs_gateway": {"tls": {"self_signed": ["a.example.com", "10.0.0.241"]}}}, {}),
    "HTTP sent to HTTPS": ({"tokenlabs_gateway": {"tls": {"secret": "mine"}, "http": "redirect"}}, {}),
    "another port for HTTPS": (
        {"tokenlabs_gateway": {"tls": {"secret": "mine"}, "http": "redirect", "https_port": 8443}}, {}),
    "web pages": (
        {"tokenlabs_gateway": {"cors": {"origins": ["https://chat.example.com", "http://localhost:3000"]}}}, {}),
    "a Redis of one's own": (
        {"tokenlabs_redis": {"host": "redis.example.com"}, "tokenlabs_redis_password": "k7Qm2ZxPw9LsR4tB"}, {}),
    "an identity provider": (
        {"tokenlabs_oidc": {"issuer": "https://id.example.com", "tier_claim": "tier", "tenant_claim": "tenant"}}, {}),
    "nothing uncounted": ({"tokenlabs_limits_unavailable": "deny"}, {}),
    "other limits of the gateway": ({}, {"gateway_body_limit": "1Mi", "gateway_idle_timeout": "5m"}),
    "a storage class": ({}, {"redis_storage_class": "fast", "redis_storage_size": "5Gi", "redis_memory_limit": "2Gi"}),
    "two Limitadors": ({}, {"kuadrant_limitador_replicas": 2}),
    "talkative": ({}, {"envoy_gateway_log_level": "debug"}),
    "values of one's own": ({}, {"envoy_gateway_values": {"deployment": {"replicas": 2}},
                                 "ai_gateway_values": {"controller": {"replicaCount": 2}}}),
}  # fmt: skip
# What a task is told by others before it renders.
TOLD: Body = {
    "__redis_secret_version": "1",
    "__redis_stored": {"resources": [{"data": {"password": "cGFzc3dvcmQ="}}]},
    "redis_client_namespace": "kuadrant-system",
    "redis_client_secret": "limitador-redis",
    "redis_client_key": "URL",
    "redis_client_deployment": "limitador-limitador",
    "redis_client_database": "1",
    "redis_password": "a-password-of-length",
    "llm_d_hf_token": "hf_" + "aB3dE5gH7jK9" * 2,
    "teardown_namespaces": [],
    "kubernetes_kubeconfig": "/nowhere",
}


def derived(release: str, count: int, changes: Body) -> Body:
    shared = {**SHARED, **changes, "tokenlabs_release": release}
    hosts = [Host("controller", True, False, {"ansible_host": "10.0.0.1"})]
    for number, model in enumerate(MODELS[:count], start=1):
        address = {"ansible_host": f"10.0.1.{number}"}
        hosts.append(Host(f"spark-{number:02}", False, True, {**address, "tokenlabs_models": [copy.deepcopy(model)]}))
    inventory = Inventory(tuple(hosts), {name: value for name, value in shared.items() if value is not None})
    assert [str(problem) for problem in validate(inventory, lambda host, path: str(host))] == []
    return derive(inventory)


def variants() -> Iterator[tuple[str, int, Body, Body]]:
    """Every option with two models, and one to five models without any."""
    for name, (changes, told) in OPTIONS.items():
        yield name, 2, changes, told
    for count in (1, 3, 4, 5):
        yield f"{count} models", count, {}, {}


def inline(role: str) -> Iterator[Any]:
    """Objects that tasks spell out themselves."""

    def walk(node: Any) -> Iterator[Any]:
        if isinstance(node, list):
            for each in node:
                yield from walk(each)
        elif isinstance(node, dict):
            told = node.get("tokenlabs.platform.apply") or {}
            if told.get("state", "present") == "present" and isinstance(told.get("definitions"), list):
                for body in told["definitions"]:
                    yield body, node.get("vars") or {}
            for key in ("block", "rescue", "always"):
                yield from walk(node.get(key) or [])

    for file in sorted((crds.ROOT / "roles" / role / "tasks").glob("*.yml")):
        yield from walk(yaml.safe_load(file.read_text()))


def trusted(value: Any) -> Any:
    """A value out of a file, whose templates Ansible may render."""
    if isinstance(value, dict):
        return {trusted(key): trusted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [trusted(each) for each in value]
    return trust_as_template(value) if isinstance(value, str) else value


def objects(catalog: Body, told: Body) -> Iterator[tuple[str, Body]]:
    for role in sorted(path.name for path in (crds.ROOT / "roles").iterdir() if path.is_dir()):
        found = templar(role, catalog)
        found.available_variables.update({**TOLD, **told})
        if role in OBJECTS:
            text = found.template(trust_as_template("{{ lookup('ansible.builtin.template', 'objects.yaml.j2') }}"))
            yield from ((role, body) for body in yaml.safe_load_all(text) if body)
        for owner, name in DEFINED:
            if owner == role:
                yield from ((role, body) for body in found.template(trust_as_template("{{ " + name + " }}")))
        for body, variables in inline(role):
            found.available_variables.update(trusted(variables))
            try:
                rendered = found.template(trusted(body))
            except AnsibleUndefinedVariable:
                # A task whose condition does not hold: its option is off. With the option on it renders.
                continue
            # A task whose condition does not hold has no name for its object.
            if isinstance(rendered, dict) and rendered["metadata"]["name"]:
                yield role, rendered
    for body in policies.render(spec(catalog)):
        yield "policies", body
    for body in observability_objects.objects(catalog)["present"]:
        yield "observability", body
    for body in autoscaling_objects.objects(catalog)["present"]:
        yield "autoscaling", body


def spec(catalog: Body) -> policies.Spec:
    """As the role policies hands it to its module."""
    return policies.Spec(
        tiers=catalog["tiers"],
        paths=catalog["paths"],
        models={model["name"]: model["served_name"] for model in catalog["models"]},
        gateway=catalog["gateway"]["name"],
        namespace=catalog["gateway"]["namespace"],
        token_limits=catalog["token_limits"],
        oidc=catalog["oidc"],
    )


def values(catalog: Body, told: Body) -> Iterator[tuple[str, Body]]:
    """What charts are told, by the chart's key in the catalog."""
    for role, expression, key in (
        ("envoy_gateway",
         "envoy_gateway_values | combine(__envoy_gateway_values, __envoy_gateway_crds, recursive=true)",
         "envoy_gateway"),
        ("ai_gateway", "__ai_gateway_values | combine(ai_gateway_values, recursive=true)", "ai_gateway"),
    ):  # fmt: skip
        found = templar(role, catalog)
        found.available_variables.update(told)
        yield key, found.template(trust_as_template("{{ " + expression + " }}"))
    for release in catalog["helmfile"]["releases"]:
        yield release["chart"], catalog["helmfile"]["values"][release["name"]]


@dataclass
class Collected:
    """What a set renders, each thing once."""

    release: str
    bodies: dict[str, tuple[str, Body]] = field(default_factory=dict)
    values: dict[str, tuple[str, Body]] = field(default_factory=dict)
    catalog: Body = field(default_factory=dict)


@pytest.fixture(scope="module", params=sorted(RELEASES))
def collected(request: pytest.FixtureRequest) -> Collected:
    found = Collected(request.param)
    for name, count, changes, told in variants():
        catalog = derived(request.param, count, changes)
        found.catalog = catalog
        for origin, body in objects(catalog, told):
            found.bodies.setdefault(json.dumps(body, sort_keys=True, default=str), (f"{origin} ({name})", body))
        for key, value in values(catalog, told):
            found.values.setdefault(f"{key} {json.dumps(value, sort_keys=True)}", (key, value))
    return found


class Taker:
    """An API server with the definitions of one set; asked by several threads, each object as a dry run."""

    def __init__(self, server: apiserver.ApiServer):
        self._server = server
        self._kinds: dict[str, dict[str, Body]] = {}
        self._namespaces: set[str] = {"default"}
        self._pool = urllib3.PoolManager(
            maxsize=8,
            ca_certs=str(server.pki / "ca.crt"),
            cert_file=str(server.pki / "admin.crt"),
            key_file=str(server.pki / "admin.key"),
        )

    def _kind(self, body: Body) -> tuple[str, Body]:
        version = body["apiVersion"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if root not in self._kinds:
            listed = self._server.raw("GET", root)["resources"]
            self._kinds[root] = {each["kind"]: each for each in listed if "/" not in each["name"]}
        return root, self._kinds[root][body["kind"]]

    def path(self, body: Body) -> str:
        root, kind = self._kind(body)
        namespace = body["metadata"].get("namespace", "default") if kind["namespaced"] else None
        if namespace and namespace not in self._namespaces:
            self._server.raw("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
            self._namespaces.add(namespace)
        inside = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{inside}/{kind['name']}/{body['metadata']['name']}"

    def refusals(self, bodies: list[tuple[str, Body]]) -> list[str]:
        """What the server has against them; empty when it takes all."""
        query = "?dryRun=All&fieldManager=test&fieldValidation=Strict&force=true"
        asked = [(origin, body, self._server.url + self.path(body) + query) for origin, body in bodies]

        def ask(each: tuple[str, Body, str]) -> str:
            origin, body, url = each
            headers = {"Content-Type": "application/apply-patch+yaml"}
            answer = self._pool.request("PATCH", url, body=json.dumps(body, default=str), headers=headers)
            if answer.status < 300:
                return ""
            return f"{origin}: {body['kind']} {body['metadata']['name']}: {json.loads(answer.data).get('message')}"

        with ThreadPoolExecutor(8) as pool:
            return [text for text in pool.map(ask, asked) if text]


@pytest.fixture(scope="module")
def taker(collected: Collected, upstream: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taker]:
    absent = crds.absent(upstream, dict(RELEASES[collected.release].versions))
    if absent:
        pytest.skip(f"release {collected.release}: no {', '.join(absent)} under LAB_UPSTREAM/crds")
    tools = apiserver.find_tools()
    if tools is None:
        pytest.skip("no kube-apiserver and etcd: build the lab's tools first, or set LAB_TOOLS to their directory")
    files = crds.definition_files(upstream, dict(RELEASES[collected.release].versions))
    files += sorted((upstream / "crds").glob("prometheus-operator-*/*.yaml"))
    with apiserver.running(tools, tmp_path_factory.mktemp("sets")) as server:
        taker = Taker(server)
        for file in files:
            for body in crds.documents(file):
                server.raw(
                    "PATCH", taker.path(body) + "?fieldManager=test&force=true", body, "application/apply-patch+yaml"
                )
        yield taker


def models_objects(collected: Collected, upstream: Path, helm: str, folder: Path) -> list[tuple[str, Body]]:
    """What the real charts make of the models' values, where they are at hand."""
    found = []
    for number, (key, told) in enumerate(collected.values.values()):
        archive = chart(upstream, collected.catalog["charts"][key])
        if key not in ("inferencepool", "modelservice") or archive.file is None:
            continue
        file = folder / f"{number}.json"
        file.write_text(json.dumps(told))
        command = [
            helm,
            "template",
            f"r-{number}",
            str(archive.file),
            "--namespace",
            "token-labs",
            "--values",
            str(file),
        ]
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env={"HOME": str(folder), "PATH": ""}
        )
        assert ran.returncode == 0, f"{key}: {ran.stderr}"
        found += [(key, body) for body in yaml.safe_load_all(ran.stdout) if body]
    return found


def test_the_api_server_takes_everything(
    collected: Collected, taker: Taker, upstream: Path, helm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = [*collected.bodies.values(), *models_objects(collected, upstream, helm, tmp_path)]
    assert taker.refusals(bodies) == []
    kinds = Counter(body["kind"] for _origin, body in bodies)
    with capsys.disabled():
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        print(f"\nrelease {collected.release}: {len(bodies)} different objects taken ({told})")
    assert len(bodies) > 50
    wanted = {"Gateway", "AIGatewayRoute", "HTTPRoute", "AuthPolicy", "RateLimitPolicy", "BackendTrafficPolicy",
              "TokenRateLimitPolicy", "Kuadrant", "Limitador", "StatefulSet", "InferencePool"}  # fmt: skip
    assert wanted <= set(kinds)


def broken(bodies: list[tuple[str, Body]]) -> Iterator[tuple[str, Body]]:
    """One object of every kind with a field that does not exist, and one that breaks a rule of its definition."""
    for kind in sorted({body["kind"] for _origin, body in bodies}):
        origin, body = next(each for each in bodies if each[1]["kind"] == kind)
        body = copy.deepcopy(body)
        body.setdefault("spec" if "spec" in body else "tokenlabsNonsense", {})
        body["spec" if "spec" in body else "tokenlabsNonsense"]["tokenlabsNonsense"] = "x"
        yield f"{kind} with an unknown field", body
    _origin, route = next(each for each in bodies if each[1]["kind"] == "AIGatewayRoute")
    route = copy.deepcopy(route)
    route["spec"]["rules"][0]["backendRefs"] *= 2
    yield "AIGatewayRoute with two pools in a rule", route


def test_what_is_broken_is_refused(collected: Collected, taker: Taker) -> None:
    wrong = list(broken(list(collected.bodies.values())))
    refused = taker.refusals(wrong)
    assert len(refused) == len(wrong), [name for name, _body in wrong if not any(name in text for text in refused)]


def test_charts_know_every_key(collected: Collected, upstream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong: list[str] = []
    checked: Counter[str] = Counter()
    absent: set[str] = set()
    for key, told in collected.values.values():
        archive = chart(upstream, collected.catalog["charts"][key])
        if archive.values is None:
            absent.add(archive.name)
            continue
        checked[archive.name] += 1
        wrong += [f"{archive.name}: {found}" for found in archive.errors(told)]
    with capsys.disabled():
        told_all = ", ".join(f"{count} for {name}" for name, count in sorted(checked.items()))
        print(f"\nrelease {collected.release}: values known to their charts: {told_all or 'none'}")
        if absent:
            print(f"release {collected.release}: no {', '.join(sorted(absent))} under LAB_UPSTREAM, so not checked")
    assert sorted(set(wrong)) == []


def test_a_wrong_key_is_found(collected: Collected, upstream: Path) -> None:
    seen = 0
    for key, told in collected.values.values():
        archive: Chart = chart(upstream, collected.catalog["charts"][key])
        if archive.values is not None:
            assert archive.errors({**told, "tokenlabsNonsense": 1}) != [], archive.name
            seen += 1
    if not seen:
        pytest.skip(f"release {collected.release}: none of its charts is under LAB_UPSTREAM")
