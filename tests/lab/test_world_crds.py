# SPDX-License-Identifier: GPL-3.0-or-later
"""Condensed CRDs against a real API server, which must refuse and accept what it does with upstream's."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.world import crdgen, publish
from lab.world.api import APPLY, Api, ApiError
from tests.integration import apiserver
from tests.lab.netlab import upstream_dir

TABLES = sorted(path.stem for path in crdgen.TABLES.glob("*.yaml"))
# Kinds that stand-in charts bring and that are not among upstream's stored definitions.
OURS_ALONE = {"gpu-operator", "prometheus"}


@pytest.fixture(scope="module", params=["condensed", "upstream"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API server with all definitions, ours or upstream's."""
    tools = apiserver.find_tools()
    if tools is None:
        pytest.skip("no kube-apiserver and etcd: build the lab's tools first, or set LAB_TOOLS to their directory")
    upstream = upstream_dir() if request.param == "upstream" else None
    if request.param == "upstream" and upstream is None:
        pytest.skip("no real CRDs: set LAB_UPSTREAM to a directory that has crds/NAME-VERSION/*.yaml")
    release = publish.load_releases()["2026.07"]
    documents = [
        document
        for table in TABLES
        if upstream is None or table not in OURS_ALONE
        for document in yaml.safe_load_all(publish.crd_text(table, release, upstream))
        if document
    ]
    with apiserver.running(tools, tmp_path_factory.mktemp("crds")) as server:
        api = Api(server.kubeconfig)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda document: install(api, document), documents))
        for document in documents:
            established(api, document["metadata"]["name"])
        yield api


def install(api: Api, document: dict[str, Any]) -> None:
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{document['metadata']['name']}"
    api.request("PATCH", path, document, content_type=APPLY, query={"fieldManager": "test"})


def established(api: Api, name: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        found = api.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}") or {}
        conditions = {item["type"]: item for item in (found.get("status") or {}).get("conditions") or []}
        assert conditions.get("NonStructuralSchema", {}).get("status") != "True", conditions
        if conditions.get("Established", {}).get("status") == "True":
            return
        assert time.monotonic() < deadline, f"{name}: {conditions}"
        time.sleep(0.1)


HTTP = {"name": "http", "port": 80, "protocol": "HTTP"}
GATEWAY = {"gatewayClassName": "eg", "listeners": [HTTP]}
TO_GATEWAY = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"}
TO_ROUTE = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "r"}
TO_AI_ROUTE = {"group": "aigateway.envoyproxy.io", "kind": "AIGatewayRoute", "name": "r"}
POOL_REF = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "pool"}
MATCH = {"headers": [{"name": "x-ai-eg-model", "value": "m"}]}
AI_ROUTE = {"parentRefs": [{"name": "gw", "kind": "Gateway", "group": "gateway.networking.k8s.io"}],
            "rules": [{"matches": [MATCH], "backendRefs": [POOL_REF]}]}  # fmt: skip
POOL = {"selector": {"matchLabels": {"a": "b"}}, "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "epp", "port": {"number": 9002}}}  # fmt: skip
LIMITS = {"targetRef": TO_GATEWAY, "limits": {"free": {"rates": [{"limit": 1, "window": "1m"}]}}}
TOKENS = {"targetRefs": [TO_ROUTE], "rateLimit": {"type": "Global", "global": {"rules": [
    {"clientSelectors": [{"headers": [{"name": "x-tier", "type": "Exact", "value": "free"},
                                      {"name": "x-tenant", "type": "Distinct"}]}],
     "limit": {"requests": 5000, "unit": "Minute"},
     "cost": {"request": {"from": "Number", "number": 0},
              "response": {"from": "Metadata", "metadata": {"namespace": "n", "key": "k"}}}}]}}}  # fmt: skip
AUTH = {"targetRef": TO_GATEWAY, "overrides": {"rules": {
    "authentication": {"key": {"apiKey": {"selector": {"matchLabels": {"app": "x"}}},
                               "credentials": {"authorizationHeader": {"prefix": "Bearer"}},
                               "overrides": {"tier": {"expression": "1"}}}},
    "authorization": {"tier": {"patternMatching": {"patterns": [{"predicate": "true"}]}}},
    "response": {"success": {"headers": {"x": {"plain": {"expression": "'a'"}}},
                             "filters": {"i": {"json": {"properties": {"a": {"expression": "1"}}}}}},
                 "unauthenticated": {"code": 401, "body": {"value": "{}"}}}}}}  # fmt: skip
VERSIONS = {
    "Gateway": "gateway.networking.k8s.io/v1", "HTTPRoute": "gateway.networking.k8s.io/v1",
    "GatewayClass": "gateway.networking.k8s.io/v1", "BackendTLSPolicy": "gateway.networking.k8s.io/v1",
    "AIGatewayRoute": "aigateway.envoyproxy.io/v1alpha1", "InferencePool": "inference.networking.k8s.io/v1",
    "BackendSecurityPolicy": "aigateway.envoyproxy.io/v1alpha1", "AuthPolicy": "kuadrant.io/v1",
    "RateLimitPolicy": "kuadrant.io/v1", "TokenRateLimitPolicy": "kuadrant.io/v1alpha1",
    "Kuadrant": "kuadrant.io/v1beta1", "Limitador": "limitador.kuadrant.io/v1alpha1",
    "BackendTrafficPolicy": "gateway.envoyproxy.io/v1alpha1", "ClientTrafficPolicy": "gateway.envoyproxy.io/v1alpha1",
    "EnvoyProxy": "gateway.envoyproxy.io/v1alpha1", "HTTPRouteFilter": "gateway.envoyproxy.io/v1alpha1",
    "Backend": "gateway.envoyproxy.io/v1alpha1",
}  # fmt: skip


def but(spec: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A spec with some places changed: `a__0__b=value`; None removes."""
    changed = copy.deepcopy(spec)
    for place, value in changes.items():
        *way, last = [int(part) if part.isdigit() else part for part in place.split("__")]
        node: Any = changed
        for part in way:
            node = node[part]
        if value is None:
            del node[last]
        else:
            node[last] = value
    return changed


ACCEPTED = [
    ("GatewayClass", {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"}),
    ("Gateway", GATEWAY),
    ("Gateway", but(GATEWAY, infrastructure={"parametersRef": {"group": "g", "kind": "EnvoyProxy", "name": "p"}})),
    ("HTTPRoute", {"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "s", "port": 80}]}]}),
    ("HTTPRoute", {"rules": [{"backendRefs": [POOL_REF]}]}),
    ("AIGatewayRoute", AI_ROUTE),
    ("AIGatewayRoute", but(AI_ROUTE, llmRequestCosts=[{"metadataKey": "t", "type": "TotalToken"}])),
    ("InferencePool", POOL),
    ("AuthPolicy", AUTH),
    ("RateLimitPolicy", LIMITS),
    ("RateLimitPolicy", but(LIMITS, limits__free__rates__0__window="1h30m")),
    ("TokenRateLimitPolicy", LIMITS),
    ("BackendTrafficPolicy", TOKENS),
    ("ClientTrafficPolicy", {"targetRefs": [TO_GATEWAY], "connection": {"bufferLimit": "50Mi"}}),
    ("EnvoyProxy", {"provider": {"type": "Kubernetes", "kubernetes": {"envoyDeployment": {"replicas": 1}}}}),
    ("HTTPRouteFilter", {"directResponse": {"statusCode": 200, "contentType": "application/json",
                                            "body": {"type": "Inline", "inline": "{}"}}}),
    ("Kuadrant", {}),
    ("Limitador", {"storage": {"redis": {"configSecretRef": {"name": "s"}}}, "telemetry": "exhaustive"}),
]  # fmt: skip
REFUSED = [
    ("Gateway", but(GATEWAY, gatewayClassName=None), "gatewayClassName"),
    ("Gateway", but(GATEWAY, listner=[]), "listner"),
    ("Gateway", but(GATEWAY, listeners__0__tls={"mode": "Terminate", "certificateRefs": [{"name": "x"}]}), "tls"),
    ("Gateway", but(GATEWAY, listeners=[HTTP, {**HTTP, "name": "b"}]), "unique"),
    ("HTTPRoute", {"rules": [{"matches": [{"path": {"type": "Exact", "value": "v1/models"}}]}]}, "absolute path"),
    ("HTTPRoute", {"rules": [{"backendRefs": [{"name": "s"}]}]}, "port"),
    ("HTTPRoute", {"rules": [{"filters": [{"type": "ExtensionRef"}]}]}, "extensionRef"),
    ("HTTPRoute", {"rules": [{"timeouts": {"request": "10 minutes"}}]}, "timeouts"),
    ("AIGatewayRoute", but(AI_ROUTE, hostnames=["a.example.com"]), "hostnames"),
    ("AIGatewayRoute", but(AI_ROUTE, rules__0__backendRefs=[POOL_REF, {**POOL_REF, "name": "b"}]), "one InferencePool"),
    ("AIGatewayRoute", but(AI_ROUTE, rules__0__backendRefs=[POOL_REF, {"name": "b"}]), "cannot mix"),
    ("AIGatewayRoute", but(AI_ROUTE, rules__0__backendRefs__0__group=None), "specified together"),
    ("AIGatewayRoute", but(AI_ROUTE, parentRefs__0__kind="Service"), "only Gateway"),
    ("AIGatewayRoute", but(AI_ROUTE, llmRequestCosts=[{"metadataKey": "t", "type": "Total"}]), "type"),
    ("InferencePool", but(POOL, endpointPickerRef__port=None), "port is required"),
    ("InferencePool", but(POOL, selector=None), "selector"),
    ("BackendSecurityPolicy", {"type": "APIKey", "targetRefs": [
        {"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "b"}]}, "targetRefs must reference"),
    ("AuthPolicy", but(AUTH, targetRef=TO_AI_ROUTE), "targetRef"),
    ("AuthPolicy", but(AUTH, rules=AUTH["overrides"]["rules"]), "mutually exclusive"),
    ("AuthPolicy", but(AUTH, override={}), "override"),
    ("RateLimitPolicy", but(LIMITS, limits__free__rates__0__window="1d"), "window"),
    ("RateLimitPolicy", but(LIMITS, limits={}), "At least one"),
    ("RateLimitPolicy", but(LIMITS, limits__free__rates__0__limit="ten"), "limit"),
    ("TokenRateLimitPolicy", but(LIMITS, targetRef=TO_AI_ROUTE), "targetRef"),
    ("TokenRateLimitPolicy", but(LIMITS, limits__free__rates__0__window="24 h"), "window"),
    ("BackendTrafficPolicy", but(TOKENS, rateLimit__global__rules__0__limit__unit="Week"), "unit"),
    ("BackendTrafficPolicy", but(TOKENS, targetRefs=None), "targetRef"),
    ("BackendTrafficPolicy", but(TOKENS, targetRefs=[TO_AI_ROUTE]), "targetRef"),
    ("ClientTrafficPolicy", {"targetRefs": [TO_ROUTE]}, "Gateway"),
    ("BackendTLSPolicy", {"targetRefs": [{"group": "", "kind": "Service", "name": "s"}],
                          "validation": {"hostname": "h"}}, "must specify either"),
    ("Limitador", {"storage": {"reddis": {}}}, "reddis"),
    ("EnvoyProxy", {"provder": {}}, "provder"),
]  # fmt: skip


def create(api: Api, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A dry run of a server-side apply: refuses fields that no definition knows."""
    version = VERSIONS[kind]
    resources = api.request("GET", f"/apis/{version}")["resources"]
    plural = next(item["name"] for item in resources if item["kind"] == kind and "/" not in item["name"])
    namespaced = next(item["namespaced"] for item in resources if item["name"] == plural)
    place = f"/apis/{version}/{'namespaces/default/' if namespaced else ''}{plural}/x"
    body = {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    return api.request("PATCH", place, body, content_type=APPLY, query={"fieldManager": "t", "dryRun": "All"})


@pytest.mark.parametrize(("kind", "spec"), ACCEPTED)
def test_what_is_right_is_accepted(api: Api, kind: str, spec: dict[str, Any]) -> None:
    create(api, kind, spec)


@pytest.mark.parametrize(("kind", "spec", "why"), REFUSED)
def test_what_people_get_wrong_is_refused(api: Api, kind: str, spec: dict[str, Any], why: str) -> None:
    with pytest.raises(ApiError) as refusal:
        create(api, kind, spec)
    assert refusal.value.status in (400, 422, 500), refusal.value
    assert why in refusal.value.message


def test_old_versions_are_not_served(api: Api) -> None:
    with pytest.raises(ApiError) as refusal:
        api.request("GET", "/apis/gateway.networking.k8s.io/v1alpha3/backendtlspolicies")
    assert refusal.value.status == 404


def test_defaults_are_filled_in(api: Api) -> None:
    route = create(api, "HTTPRoute", {"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [POOL_REF]}]})["spec"]
    assert route["parentRefs"][0]["kind"] == "Gateway"
    assert route["rules"][0]["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    assert route["rules"][0]["backendRefs"][0]["weight"] == 1
    gateway = create(api, "Gateway", GATEWAY)
    assert gateway["spec"]["listeners"][0]["allowedRoutes"] == {"namespaces": {"from": "Same"}}
    assert [item["status"] for item in gateway["status"]["conditions"]] == ["Unknown", "Unknown"]
    assert create(api, "InferencePool", POOL)["spec"]["endpointPickerRef"]["kind"] == "Service"
    ai_route = create(api, "AIGatewayRoute", AI_ROUTE)["spec"]["rules"][0]
    assert (ai_route["backendRefs"][0]["priority"], ai_route["modelsOwnedBy"]) == (0, "Envoy AI Gateway")


def test_tables_say_the_same_of_every_kind_as_upstream() -> None:
    upstream = upstream_dir()
    if upstream is None:
        pytest.skip("no real CRDs: set LAB_UPSTREAM to a directory that has crds/NAME-VERSION/*.yaml")
    release = publish.load_releases()["2026.07"]
    for table in TABLES:
        real = publish.crd_text(table, release, upstream)
        if table in OURS_ALONE:
            continue
        assert _facts(yaml.safe_load_all(real)) == _facts(crdgen.crds(table)), table


def _facts(documents: Any) -> dict[str, Any]:
    """Name, scope, and the versions that are served and stored."""
    found = {}
    for document in filter(None, documents):
        spec = document["spec"]
        versions = {item["name"]: (item["served"], item["storage"], "status" in (item.get("subresources") or {}))
                    for item in spec["versions"]}  # fmt: skip
        names = {key: spec["names"].get(key) for key in ("kind", "listKind", "plural", "singular")}
        found[document["metadata"]["name"]] = (spec["group"], spec["scope"], names, versions)
    return found


def test_crd_files_are_where_the_charts_want_them(tmp_path: Path) -> None:
    written = publish.publish_manifests(tmp_path, None, publish.load_releases())
    places = {str(path.relative_to(tmp_path)) for path in written}
    assert "github.com/kubernetes-sigs/gateway-api/releases/download/v1.4.1/standard-install.yaml" in places
    kinds = {path.parent.name: {item["kind"] for item in yaml.safe_load_all(path.read_text())} for path in written}
    assert kinds["v1.4.1"] == {"CustomResourceDefinition"}
    # From 1.5 on, the Gateway API refuses older definitions of itself.
    assert "ValidatingAdmissionPolicy" in kinds["v1.5.1"]
