# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in of Envoy Gateway: what it makes, what it says, and what must be there first."""

from __future__ import annotations

from typing import Any

import pytest

from lab.world.addresses import behind_hosts
from lab.world.controllers import envoy_gateway, envoy_policies
from tests.lab import world_objects as w
from tests.lab.world_objects import EG, MODELS, World, obj, policy, route

RECONCILERS = [*envoy_gateway.RECONCILERS, *envoy_policies.RECONCILERS]
ROUTE_REF = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "one"}


def world(*objects: Any, controller: list[Any] | None = None) -> World:
    return World([*(w.envoy_gateway() if controller is None else controller), *objects], RECONCILERS).settle()


def test_names_are_those_of_upstream() -> None:
    gateway = obj("Gateway", "token-labs-gateway", "token-labs")
    assert envoy_gateway.hashed_name(gateway) == "envoy-token-labs-token-labs-gateway-bd0838a6"


def test_a_gateway_gets_its_envoy_and_waits_for_it_and_an_address() -> None:
    found = world(w.gateway())
    name = envoy_gateway.hashed_name(w.gateway())
    envoy = found.get("Deployment", name, EG)
    labels = envoy["spec"]["template"]["metadata"]["labels"]
    assert labels["gateway.envoyproxy.io/owning-gateway-name"] == "gw"
    assert labels["app.kubernetes.io/managed-by"] == "envoy-gateway"
    assert found.get("Service", name, EG)["spec"]["ports"][0]["targetPort"] == 10080
    assert found.status("Gateway", "gw", MODELS, "Accepted") == "True:Accepted"
    assert found.status("Gateway", "gw", MODELS, "Programmed") == "False:AddressNotAssigned"

    found = world(w.gateway(), *w.programmed())
    assert found.status("Gateway", "gw", MODELS, "Programmed") == "True:Programmed"
    assert found.get("Gateway", "gw", MODELS)["status"]["addresses"][0]["value"] == "10.77.0.200"


def test_addresses_of_a_gateway_become_those_of_its_service() -> None:
    own, name = w.gateway(), envoy_gateway.hashed_name(w.gateway())
    own["spec"]["addresses"] = [{"type": "IPAddress", "value": "10.77.0.10"}]
    found = world(own, *w.programmed())
    service = found.get("Service", name, EG)
    assert service["spec"]["externalIPs"] == ["10.77.0.10"]
    assert found.get("Gateway", "gw", MODELS)["status"]["addresses"][0]["value"] == "10.77.0.10"
    assert found.status("Gateway", "gw", MODELS, "Programmed") == "True:Programmed"

    slice_labels = {"kubernetes.io/service-name": name}
    endpoints = [{"addresses": ["10.1.0.7"], "conditions": {"ready": True}}]
    found.store.put("EndpointSlice", obj("EndpointSlice", name, EG, labels=slice_labels, endpoints=endpoints))
    assert behind_hosts(found.store) == {"10.1.0.7"}


def test_an_envoy_that_is_not_available_leaves_the_gateway_unprogrammed() -> None:
    service = w.programmed()[1]
    assert world(w.gateway(), service).status("Gateway", "gw", MODELS, "Programmed") == "False:NoResources"


@pytest.mark.parametrize(
    "controller",
    [
        pytest.param([], id="not installed"),
        pytest.param([w.deployment("envoy-gateway", EG, available=False), *w.envoy_gateway()[1:]], id="not available"),
        pytest.param(w.envoy_gateway()[:2], id="no class"),
        pytest.param([*w.envoy_gateway()[:2], obj("GatewayClass", "eg", spec={"controllerName": "istio.io/x"})],
                     id="another's class"),
    ],
)  # fmt: skip
def test_without_its_prerequisites_nothing_happens(controller: list[Any]) -> None:
    found = world(w.gateway(), route("one"), controller=controller)
    assert "status" not in found.get("Gateway", "gw", MODELS)
    assert "status" not in found.get("HTTPRoute", "one", MODELS)
    assert not [item for item in found.store.all("Deployment") if item["metadata"]["name"].startswith("envoy-token")]


def test_a_missing_envoyproxy_is_told() -> None:
    ref = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "absent"}
    found = world(w.gateway(infrastructure={"parametersRef": ref}))
    assert found.status("Gateway", "gw", MODELS, "Accepted") == "False:InvalidParameters"


def test_an_envoyproxy_shapes_deployment_and_service() -> None:
    kubernetes = {
        "envoyDeployment": {"replicas": 2, "pod": {"nodeSelector": {"a": "b"}}},
        "envoyService": {"type": "ClusterIP", "annotations": {"metallb.io/loadBalancerIPs": "10.77.0.205"}},
    }
    proxy = obj("EnvoyProxy", "p", MODELS, spec={"provider": {"type": "Kubernetes", "kubernetes": kubernetes}})
    ref = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "p"}
    found = world(proxy, w.gateway(infrastructure={"parametersRef": ref}))
    name = envoy_gateway.hashed_name(w.gateway())
    spec = found.get("Deployment", name, EG)["spec"]
    assert (spec["replicas"], spec["template"]["spec"]["nodeSelector"]) == (2, {"a": "b"})
    service = found.get("Service", name, EG)
    assert service["spec"]["type"] == "ClusterIP"
    assert service["metadata"]["annotations"] == {"metallb.io/loadBalancerIPs": "10.77.0.205"}


def test_what_was_made_for_a_gateway_goes_with_it() -> None:
    found = world(w.gateway())
    found.store.drop("Gateway", (MODELS, "gw"))
    found.settle()
    name = envoy_gateway.hashed_name(w.gateway())
    assert not found.store.get("Deployment", EG, name) and not found.store.get("Service", EG, name)


def test_certgen_leaves_its_secrets_once() -> None:
    containers = [{"name": "c", "image": "i", "command": ["envoy-gateway", "certgen"]}]
    job = obj("Job", "eg-certgen", EG, spec={"template": {"spec": {"containers": containers}}}, status={"succeeded": 1})
    found = World([job], RECONCILERS).settle()
    names = {item["metadata"]["name"] for item in found.store.all("Secret")}
    assert names == {"envoy-gateway", "envoy", "envoy-rate-limit", "envoy-oidc-hmac"}
    before = found.get("Secret", "envoy", EG)["data"]
    assert found.settle().get("Secret", "envoy", EG)["data"] == before


def test_certgen_makes_certificates_anew_when_it_is_told_to() -> None:
    def job(name: str, *args: str) -> Any:
        containers = [{"name": "c", "image": "i", "command": ["envoy-gateway", "certgen"], "args": list(args)}]
        return obj("Job", name, EG, spec={"template": {"spec": {"containers": containers}}}, status={"succeeded": 1})

    found = World([job("first")], RECONCILERS).settle()
    before = found.get("Secret", "envoy", EG)["data"]
    found.store.put("Job", job("second", "--overwrite"))
    after = found.settle().get("Secret", "envoy", EG)["data"]
    assert after != before
    assert found.settle().get("Secret", "envoy", EG)["data"] == after


def test_an_unfinished_or_foreign_job_makes_no_certificates() -> None:
    def job(name: str, command: list[str], done: int) -> Any:
        containers = [{"name": "c", "image": "i", "command": command}]
        return obj("Job", name, EG, spec={"template": {"spec": {"containers": containers}}}, status={"succeeded": done})

    found = World([job("one", ["envoy-gateway", "certgen"], 0), job("two", ["other"], 1)], RECONCILERS).settle()
    assert not found.store.all("Secret")


# --- readiness of the controller
def _installed() -> list[Any]:
    account = {"kind": "ServiceAccount", "name": "envoy-gateway", "namespace": EG}
    binding = obj("ClusterRoleBinding", "envoy-ai-gateway-inference-pool-reader-binding:x", subjects=[account],
                  roleRef={"name": "envoy-ai-gateway-inference-pool-reader:x"})  # fmt: skip
    kinds = ("GatewayClass", "Gateway", "HTTPRoute", "ReferenceGrant", "EnvoyProxy", "EnvoyPatchPolicy",
             "ClientTrafficPolicy", "BackendTrafficPolicy", "SecurityPolicy", "EnvoyExtensionPolicy", "Backend",
             "HTTPRouteFilter", "InferencePool")  # fmt: skip
    return [binding, *w.envoy_gateway(), *(w.crd(kind) for kind in kinds)]


def test_ready_with_all_crds_and_the_right_to_list_pools() -> None:
    assert envoy_gateway.not_ready(World(_installed(), []).store, EG) == ""


@pytest.mark.parametrize("kind", ["Gateway", "EnvoyProxy", "InferencePool"])
def test_never_ready_without_a_crd(kind: str) -> None:
    store = World([item for item in _installed() if item["metadata"]["name"] != w.KINDS[kind].crd], []).store
    assert w.KINDS[kind].crd in envoy_gateway.not_ready(store, EG)


def test_never_ready_without_the_role_that_the_ai_gateways_chart_brings() -> None:
    store = World([item for item in _installed() if item["kind"] != "ClusterRoleBinding"], []).store
    assert "InferencePool" in envoy_gateway.not_ready(store, EG)


# --- routes
def test_a_route_is_accepted_and_counted() -> None:
    found = world(w.gateway(), route("one"))
    assert found.status("HTTPRoute", "one", MODELS, "Accepted") == "True:Accepted"
    assert found.status("HTTPRoute", "one", MODELS, "ResolvedRefs") == "True:ResolvedRefs"
    assert found.get("Gateway", "gw", MODELS)["status"]["listeners"][0]["attachedRoutes"] == 1


@pytest.mark.parametrize(
    ("listener", "hostnames", "expected"),
    [
        ({}, [], "True:Accepted"),
        ({"hostname": "api.example.com"}, ["api.example.com"], "True:Accepted"),
        ({"hostname": "*.example.com"}, ["api.example.com"], "True:Accepted"),
        ({"hostname": "api.example.com"}, ["*.example.com"], "True:Accepted"),
        ({"hostname": "api.example.com"}, ["other.example.com"], "False:NoMatchingListenerHostname"),
        ({"hostname": "*.example.com"}, ["example.com"], "False:NoMatchingListenerHostname"),
        ({"allowedRoutes": {"kinds": [{"kind": "GRPCRoute"}]}}, [], "False:NotAllowedByListeners"),
    ],
)
def test_listeners_choose_their_routes(listener: dict[str, Any], hostnames: list[str], expected: str) -> None:
    listeners = [{"name": "http", "port": 80, "protocol": "HTTP", **listener}]
    found = world(w.gateway(listeners=listeners), route("one", hostnames=hostnames))
    assert found.status("HTTPRoute", "one", MODELS, "Accepted") == expected


def test_a_section_that_is_not_there_has_no_routes() -> None:
    refs = [{**w.GATEWAY_REF, "sectionName": "https"}]
    found = world(w.gateway(), route("one", parentRefs=refs))
    assert found.status("HTTPRoute", "one", MODELS, "Accepted") == "False:NoMatchingParent"


def _to(**ref: Any) -> list[Any]:
    return [{"backendRefs": [ref]}]


POOL = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "pool"}


@pytest.mark.parametrize(
    ("rules", "objects", "config", "expected"),
    [
        (_to(**POOL), [], w.CONFIG, "False:BackendNotFound"),
        (_to(**POOL), [obj("InferencePool", "pool", MODELS)], w.CONFIG, "True:ResolvedRefs"),
        (_to(**POOL), [obj("InferencePool", "pool", MODELS)], "{}", "False:InvalidKind"),
        (_to(name="svc", port=80), [], w.CONFIG, "False:BackendNotFound"),
        (_to(name="svc", port=80), [obj("Service", "svc", MODELS, spec={"ports": [{"port": 80}]})], w.CONFIG,
         "True:ResolvedRefs"),
        (_to(name="svc", port=81), [obj("Service", "svc", MODELS, spec={"ports": [{"port": 80}]})], w.CONFIG,
         "False:PortNotFound"),
        (_to(name="svc", port=80, namespace="other"), [obj("Service", "svc", "other", spec={"ports": [{"port": 80}]})],
         w.CONFIG, "False:RefNotPermitted"),
        (_to(group="gateway.envoyproxy.io", kind="Backend", name="b"), [obj("Backend", "b", MODELS, spec={})], "{}",
         "False:UnsupportedValue"),
    ],
)  # fmt: skip
def test_references_are_looked_up(rules: list[Any], objects: list[Any], config: str, expected: str) -> None:
    found = world(w.gateway(), route("one", rules=rules), *objects, controller=w.envoy_gateway(config))
    assert found.status("HTTPRoute", "one", MODELS, "ResolvedRefs") == expected


def test_a_filter_without_its_secret_fails_the_route() -> None:
    ref = {"type": "ExtensionRef",
           "extensionRef": {"group": "gateway.envoyproxy.io", "kind": "HTTPRouteFilter", "name": "f"}}  # fmt: skip
    spec = {"credentialInjection": {"credential": {"valueRef": {"name": "key"}}}}
    objects = [w.gateway(), route("one", rules=[{"filters": [ref]}]), obj("HTTPRouteFilter", "f", MODELS, spec=spec)]
    assert world(*objects).status("HTTPRoute", "one", MODELS, "Accepted") == "False:UnsupportedValue"
    secret = obj("Secret", "key", MODELS, data={"credential": "eA=="})
    assert world(*objects, secret).status("HTTPRoute", "one", MODELS, "Accepted") == "True:Accepted"


def test_others_entries_in_a_routes_status_stay() -> None:
    foreign = {"controllerName": "kuadrant.io/policy-controller", "parentRef": w.GATEWAY_REF, "conditions": []}
    one = route("one")
    one["status"] = {"parents": [foreign]}
    parents = world(w.gateway(), one).get("HTTPRoute", "one", MODELS)["status"]["parents"]
    assert [entry["controllerName"] for entry in parents] == [foreign["controllerName"], envoy_gateway.CONTROLLER]


# --- policies
def test_a_policy_on_a_missing_target_is_passed_over_in_silence() -> None:
    found = world(w.gateway(), policy("BackendTrafficPolicy", "p", {**ROUTE_REF, "name": "absent"}))
    assert found.get("BackendTrafficPolicy", "p", MODELS).get("status") is None


def test_the_older_of_two_policies_on_one_target_wins() -> None:
    old = policy("EnvoyExtensionPolicy", "zz-first", created="2026-06-01T08:00:00Z")
    new = policy("EnvoyExtensionPolicy", "aa-second", created="2026-06-01T09:00:00Z")
    found = world(w.gateway(), old, new)
    assert found.status("EnvoyExtensionPolicy", "zz-first", MODELS, "Accepted") == "True:Accepted"
    assert found.status("EnvoyExtensionPolicy", "aa-second", MODELS, "Accepted") == "False:Conflicted"


def test_a_routes_own_extension_policy_replaces_the_gateways() -> None:
    objects = [w.gateway(), route("one"), policy("EnvoyExtensionPolicy", "all"),
               policy("EnvoyExtensionPolicy", "own", ROUTE_REF)]  # fmt: skip
    found = world(*objects)
    assert found.status("EnvoyExtensionPolicy", "all", MODELS, "Overridden") == "True:Overridden"
    assert "token-labs/one" in found.message("EnvoyExtensionPolicy", "all", MODELS, "Overridden")


def test_global_limits_need_the_rate_limit_service() -> None:
    limits = {"rateLimit": {"type": "Global", "global": {"rules": []}}}
    objects = [w.gateway(), route("one"), policy("BackendTrafficPolicy", "p", ROUTE_REF, **limits)]
    assert world(*objects).status("BackendTrafficPolicy", "p", MODELS, "Accepted") == "True:Accepted"
    bare = world(*objects, controller=w.envoy_gateway("{}"))
    assert bare.status("BackendTrafficPolicy", "p", MODELS, "Accepted") == "False:Invalid"


def test_patch_policies_must_be_enabled() -> None:
    objects = [w.gateway(), policy("EnvoyPatchPolicy", "p")]
    assert world(*objects).status("EnvoyPatchPolicy", "p", MODELS, "Programmed") == "True:Programmed"
    off = world(*objects, controller=w.envoy_gateway("{}"))
    assert off.status("EnvoyPatchPolicy", "p", MODELS, "Accepted") == "False:Disabled"
    assert off.status("EnvoyPatchPolicy", "p", MODELS, "Programmed") == "none"


def test_the_rate_limit_service_comes_and_goes_with_the_configuration() -> None:
    found = world()
    limiter = found.get("Deployment", "envoy-ratelimit", EG)
    env = {item["name"]: item.get("value") for item in limiter["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["REDIS_URL"] == "redis.redis-system.svc.cluster.local:6379"
    found.get("ConfigMap", "envoy-gateway-config", EG)["data"]["envoy-gateway.yaml"] = "{}"
    found.settle()
    assert not found.store.get("Deployment", EG, "envoy-ratelimit")


@pytest.mark.parametrize(
    ("fault", "kind", "name", "condition"),
    [
        ("gateway_never_programmed", "Gateway", "gw", "Programmed"),
        ("route_never_accepted", "HTTPRoute", "one", "Accepted"),
        ("policy_never_accepted", "BackendTrafficPolicy", "p", "Accepted"),
    ],
)
def test_faults_hold_things_back(fault: str, kind: str, name: str, condition: str) -> None:
    objects = [w.gateway(), *w.programmed(), route("one"), policy("BackendTrafficPolicy", "p")]
    assert world(*objects).status(kind, name, MODELS, condition).startswith("True")
    config = obj("ConfigMap", "lab-faults", "lab-system", data={fault: name})
    objects = [w.gateway(), *w.programmed(), route("one"), policy("BackendTrafficPolicy", "p")]
    assert world(*objects, config).status(kind, name, MODELS, condition).startswith("False")
    config = obj("ConfigMap", "lab-faults", "lab-system", data={fault: "another"})
    objects = [w.gateway(), *w.programmed(), route("one"), policy("BackendTrafficPolicy", "p")]
    assert world(*objects, config).status(kind, name, MODELS, condition).startswith("True")
