# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in of Kuadrant: readiness by its prerequisites, policies that hold only where a route is."""

from __future__ import annotations

from typing import Any

import pytest

from lab.world.controllers import envoy_gateway, envoy_policies, kuadrant
from tests.lab import world_objects as w
from tests.lab.world_objects import KUADRANT, MODELS, World, obj, policy, route

RECONCILERS = [*envoy_gateway.RECONCILERS, *kuadrant.RECONCILERS, *envoy_policies.RECONCILERS]
OPERATOR = "kuadrant-operator-controller-manager"
OPERATORS = (OPERATOR, "limitador-operator-controller-manager", "authorino-operator")
LIMITS = {"limits": {"free": {"rates": [{"limit": 10, "window": "1m"}]}}}
ROUTE_REF = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "one"}


def installed(crds: str = "2026-06-01T09:00:00Z", without: str = "") -> list[Any]:
    operators = [w.deployment(name, KUADRANT, available=name != without) for name in OPERATORS]
    kinds = ("Gateway", "HTTPRoute", "EnvoyExtensionPolicy", "EnvoyPatchPolicy")
    return [*w.envoy_gateway(), *operators, w.pod_of(operators[0], "operator-1", started="2026-06-01T10:00:00Z"),
            *(w.crd(kind, crds) for kind in kinds)]  # fmt: skip


def servers(authorino: bool = True, limitador: bool = True) -> list[Any]:
    return [w.deployment("authorino", KUADRANT, authorino), w.deployment("limitador-limitador", KUADRANT, limitador)]


def platform(*objects: Any) -> World:
    """Kuadrant ready beside a Gateway with one route."""
    base = [*installed(), *servers(), obj("Kuadrant", "kuadrant", KUADRANT, spec={}), w.gateway(), *w.programmed()]
    routes = [] if any(item["kind"] == "HTTPRoute" for item in objects) else [route("one")]
    return World([*base, *routes, *objects], RECONCILERS).settle()


# --- Kuadrant, Limitador, Authorino
def test_the_servers_have_the_names_that_upstream_gives_them() -> None:
    found = World([*installed(), obj("Kuadrant", "kuadrant", KUADRANT, spec={})], RECONCILERS).settle()
    assert found.get("Deployment", "limitador-limitador", KUADRANT)["spec"]["replicas"] == 1
    assert found.get("Deployment", "authorino", KUADRANT)
    ports = {
        port["name"]: port["port"] for port in found.get("Service", "limitador-limitador", KUADRANT)["spec"]["ports"]
    }
    assert ports == {"http": 8080, "grpc": 8081}
    assert found.get("Service", "authorino-authorino-authorization", KUADRANT)
    assert found.get("ConfigMap", "limitador-limits-config-limitador", KUADRANT)
    assert found.status("Kuadrant", "kuadrant", KUADRANT, "Ready") == "False:LimitadorNotReady"


def test_kuadrant_is_ready_once_its_servers_are() -> None:
    found = World([*installed(), *servers(), obj("Kuadrant", "kuadrant", KUADRANT, spec={})], RECONCILERS).settle()
    assert found.status("Kuadrant", "kuadrant", KUADRANT, "Ready") == "True:Ready"
    found = World(
        [*installed(), *servers(authorino=False), obj("Kuadrant", "k", KUADRANT, spec={})], RECONCILERS
    ).settle()
    assert found.status("Kuadrant", "k", KUADRANT, "Ready") == "False:AuthorinoNotReady"


@pytest.mark.parametrize("without", OPERATORS)
def test_each_operator_does_its_own_part_only(without: str) -> None:
    found = World([*installed(without=without), obj("Kuadrant", "k", KUADRANT, spec={})], RECONCILERS).settle()
    made = {item["metadata"]["name"] for item in found.store.all("Deployment")}
    assert ("limitador-limitador" in made) == (without not in (OPERATOR, OPERATORS[1]))
    assert ("authorino" in made) == (without not in (OPERATOR, OPERATORS[2]))


def test_users_fields_of_the_limitador_stay() -> None:
    mine = obj("Limitador", "limitador", KUADRANT, spec={"replicas": 2, "telemetry": "exhaustive"})
    found = World([*installed(), obj("Kuadrant", "k", KUADRANT, spec={}), mine], RECONCILERS).settle()
    assert found.get("Limitador", "limitador", KUADRANT)["spec"]["telemetry"] == "exhaustive"
    assert found.get("Deployment", "limitador-limitador", KUADRANT)["spec"]["replicas"] == 2


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (None, "not found"),
        ({"url": "eA=="}, "URL"),
        ({"URL": "eA=="}, ""),
    ],
)
def test_limitador_needs_its_redis_secret(secret: dict[str, str] | None, message: str) -> None:
    storage = {"storage": {"redis": {"configSecretRef": {"name": "limitador-redis"}}}}
    objects = [*installed(), *servers(), obj("Limitador", "limitador", KUADRANT, spec=storage)]
    if secret:
        objects.append(obj("Secret", "limitador-redis", KUADRANT, data=secret))
    found = World(objects, RECONCILERS).settle()
    assert found.status("Limitador", "limitador", KUADRANT, "Ready").startswith("False" if message else "True")
    assert message in found.message("Limitador", "limitador", KUADRANT, "Ready")
    if not message:
        container = found.get("Deployment", "limitador-limitador", KUADRANT)["spec"]["template"]["spec"]["containers"][
            0
        ]
        assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "limitador-redis", "key": "URL"}


def test_crds_that_came_after_the_operator_are_not_seen_until_it_starts_again() -> None:
    late = [*installed(crds="2026-06-01T10:30:00Z"), *servers(), obj("Kuadrant", "k", KUADRANT, spec={})]
    found = World(
        [*late, w.gateway(), *w.programmed(), route("one"), policy("AuthPolicy", "auth")], RECONCILERS
    ).settle()
    assert found.status("Kuadrant", "k", KUADRANT, "Ready") == "False:MissingDependency"
    assert "restart Kuadrant Operator" in found.message("Kuadrant", "k", KUADRANT, "Ready")
    assert found.status("AuthPolicy", "auth", MODELS, "Accepted") == "False:MissingDependency"
    assert not found.store.all("EnvoyPatchPolicy")

    found.store.drop("Pod", (KUADRANT, "operator-1"))
    found.store.put("Pod", w.pod_of(found.get("Deployment", OPERATOR, KUADRANT), "operator-2"))
    found.settle()
    assert found.status("Kuadrant", "k", KUADRANT, "Ready") == "True:Ready"
    assert found.status("AuthPolicy", "auth", MODELS, "Enforced") == "True:Enforced"


# --- policies
def test_a_policy_on_a_gateway_with_a_route_is_enforced() -> None:
    found = platform(policy("AuthPolicy", "auth"), policy("RateLimitPolicy", "limits", **LIMITS))
    for kind, name in (("AuthPolicy", "auth"), ("RateLimitPolicy", "limits")):
        assert found.status(kind, name, MODELS, "Accepted") == "True:Accepted"
        assert found.status(kind, name, MODELS, "Enforced") == "True:Enforced"
    assert {item["metadata"]["name"] for item in found.store.all("EnvoyPatchPolicy")} == {
        "kuadrant-auth-gw", "kuadrant-ratelimiting-gw"}  # fmt: skip
    assert found.get("EnvoyExtensionPolicy", "kuadrant-gw", MODELS)["spec"]["targetRefs"] == [w.GATEWAY_REF]


def test_without_a_route_nothing_is_enforced_and_nothing_is_put_into_envoy() -> None:
    found = World([*installed(), *servers(), obj("Kuadrant", "k", KUADRANT, spec={}), w.gateway(), *w.programmed(),
                   policy("AuthPolicy", "auth")], RECONCILERS).settle()  # fmt: skip
    assert found.status("AuthPolicy", "auth", MODELS, "Accepted") == "True:Accepted"
    assert found.status("AuthPolicy", "auth", MODELS, "Enforced") == "False:Unknown"
    assert "not in the path" in found.message("AuthPolicy", "auth", MODELS, "Enforced")
    assert not found.store.all("EnvoyExtensionPolicy")


def test_a_missing_target_is_told() -> None:
    found = platform(policy("AuthPolicy", "auth", {**ROUTE_REF, "name": "absent"}))
    assert found.status("AuthPolicy", "auth", MODELS, "Accepted") == "False:TargetNotFound"
    assert found.status("AuthPolicy", "auth", MODELS, "Enforced") == "none"


def test_deleting_the_policy_takes_its_parts_out_of_envoy() -> None:
    found = platform(policy("AuthPolicy", "auth"))
    found.store.drop("AuthPolicy", (MODELS, "auth"))
    found.settle()
    assert not found.store.all("EnvoyPatchPolicy") and not found.store.all("EnvoyExtensionPolicy")


def test_a_routes_policy_replaces_the_gateways_defaults() -> None:
    found = platform(route("one"), route("two"), policy("AuthPolicy", "all", defaults={"rules": {}}),
                     policy("AuthPolicy", "own", ROUTE_REF))  # fmt: skip
    assert found.status("AuthPolicy", "own", MODELS, "Enforced") == "True:Enforced"
    assert "partially" in found.message("AuthPolicy", "all", MODELS, "Enforced")


def test_a_gateways_overrides_cannot_be_replaced() -> None:
    found = platform(policy("AuthPolicy", "all", overrides={"rules": {}}), policy("AuthPolicy", "own", ROUTE_REF))
    assert found.status("AuthPolicy", "all", MODELS, "Enforced") == "True:Enforced"
    assert found.status("AuthPolicy", "own", MODELS, "Enforced") == "False:Overridden"


def test_the_older_of_two_on_one_target_wins() -> None:
    found = platform(policy("AuthPolicy", "old", created="2026-06-01T08:00:00Z"),
                     policy("AuthPolicy", "new", created="2026-06-01T09:00:00Z"))  # fmt: skip
    assert found.status("AuthPolicy", "old", MODELS, "Enforced") == "True:Enforced"
    assert found.status("AuthPolicy", "new", MODELS, "Enforced") == "False:Overridden"


def test_a_foreign_extension_policy_keeps_every_policy_from_being_enforced() -> None:
    foreign = policy("EnvoyExtensionPolicy", "foreign", created="2026-06-01T08:00:00Z")
    found = platform(policy("AuthPolicy", "auth"), foreign)
    # The stand-in's object is made now; ours came first.
    found.get("EnvoyExtensionPolicy", "kuadrant-gw", MODELS)["metadata"]["creationTimestamp"] = "2026-06-01T12:00:00Z"
    found.settle()
    assert found.status("EnvoyExtensionPolicy", "kuadrant-gw", MODELS, "Accepted") == "False:Conflicted"
    assert "EnvoyExtensionPolicy (token-labs/kuadrant-gw)" in found.message("AuthPolicy", "auth", MODELS, "Enforced")


def test_patch_policies_that_are_disabled_keep_it_from_being_enforced() -> None:
    found = platform(policy("AuthPolicy", "auth"))
    found.get("ConfigMap", "envoy-gateway-config", w.EG)["data"]["envoy-gateway.yaml"] = "{}"
    found.settle()
    assert "EnvoyPatchPolicy (token-labs/kuadrant-auth-gw)" in found.message("AuthPolicy", "auth", MODELS, "Enforced")


@pytest.mark.parametrize("bad", ["auth.identity.groups ==", "a b"])
def test_a_predicate_that_does_not_parse_is_only_seen_in_enforced(bad: str) -> None:
    limits = {"limits": {"free": {"rates": [{"limit": 1, "window": "1m"}], "when": [{"predicate": bad}]}}}
    found = platform(policy("RateLimitPolicy", "limits", **limits))
    assert found.status("RateLimitPolicy", "limits", MODELS, "Accepted") == "True:Accepted"
    assert found.status("RateLimitPolicy", "limits", MODELS, "Enforced") == "False:Unknown"
    assert "CEL" in found.message("RateLimitPolicy", "limits", MODELS, "Enforced")


def test_an_old_complaint_about_authorino_outlives_its_cause() -> None:
    found = platform(policy("AuthPolicy", "auth"))
    authorino = found.get("Deployment", "authorino", KUADRANT)
    authorino["status"]["conditions"][0]["status"] = "False"
    found.settle()
    assert "[Authorino]" in found.message("AuthPolicy", "auth", MODELS, "Enforced")
    authorino = found.get("Deployment", "authorino", KUADRANT)
    authorino["status"]["conditions"][0]["status"] = "True"
    found.settle()
    assert found.status("AuthPolicy", "auth", MODELS, "Enforced") == "False:Unknown"

    found.get("AuthPolicy", "auth", MODELS)["metadata"]["generation"] = 2  # any change of the spec clears it
    found.settle()
    assert found.status("AuthPolicy", "auth", MODELS, "Enforced") == "True:Enforced"


def test_a_fault_keeps_one_policy_from_being_enforced() -> None:
    fault = obj("ConfigMap", "lab-faults", "lab-system", data={"policy_never_enforced": "auth"})
    found = platform(policy("AuthPolicy", "auth"), policy("RateLimitPolicy", "limits", **LIMITS), fault)
    assert found.status("AuthPolicy", "auth", MODELS, "Enforced") == "False:Unknown"
    assert found.status("RateLimitPolicy", "limits", MODELS, "Enforced") == "True:Enforced"
