# SPDX-License-Identifier: GPL-3.0-or-later
"""The policies, judged by what they decide: their CEL is evaluated on requests as Authorino and wasm-shim see them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import cel
import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _policies as policies
from ansible_collections.tokenlabs.platform.plugins.module_utils._policies import PolicyError, Spec

SPEC = Spec(
    tiers={
        "free": {"requests": {"24h": 100, "1m": 10}, "tokens": {"1m": 5000, "24h": 50000}, "models": ["small"]},
        "pro": {"requests": {"1m": 100}, "tokens": {"1m": 50000}, "models": None},
    },
    paths=["/v1/chat/completions", "/v1/embeddings", "/v1/models"],
    models={"small": "org/small-8b", "large": 'org/large"70b'},
    gateway="token-labs-gateway",
    namespace="token-labs",
)
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Request:
    """A request with a key whose annotations say tier and tenant."""

    tier: str = "free"
    tenant: str = "acme"
    path: str = CHAT
    headers: dict[str, str] = field(default_factory=lambda: {"x-ai-eg-model": "org/small-8b"})


def authorised(spec: Spec, request: Request) -> bool:
    rules = policies.auth_policy(spec)["spec"]["overrides"]["rules"]["authorization"]
    context = {
        "auth": {"identity": {"tier": request.tier, "tenant": request.tenant}},
        "request": {"url_path": request.path, "headers": request.headers},
    }
    return all(
        truth(pattern["predicate"], context)
        for rule in rules.values()
        for pattern in rule["patternMatching"]["patterns"]
    )


def truth(predicate: str, context: dict[str, Any]) -> bool:
    return bool(cel.evaluate(predicate, context))


@pytest.mark.parametrize(
    ("request_", "allowed"),
    [
        (Request(), True),
        (Request(path="/v1/models", headers={}), True),
        (Request(tier="pro", headers={"x-ai-eg-model": 'org/large"70b'}), True),
        (Request(tier="pro", headers={"x-ai-eg-model": "org/of-tomorrow"}), True),
        # a model of another tier, one that nobody knows, none, two at once
        (Request(headers={"x-ai-eg-model": 'org/large"70b'}), False),
        (Request(headers={"x-ai-eg-model": "org/of-tomorrow"}), False),
        (Request(headers={}), False),
        (Request(headers={"x-ai-eg-model": 'org/small-8b,org/large"70b'}), False),
        # tiers that are none
        (Request(tier="gold"), False),
        (Request(tier="free,pro"), False),
        (Request(tier=""), False),
        (Request(tier="FREE"), False),
        # tenants that are none
        (Request(tenant=""), False),
        (Request(tenant="a/b"), False),
        (Request(tenant="acme\n"), False),
        # paths that nobody meters
        (Request(path="/v1/completions"), False),
        (Request(path="/v1/responses"), False),
        (Request(path="/v1/chat/completions/"), False),
        (Request(path="/V1/chat/completions"), False),
        (Request(path="/"), False),
        (Request(path=""), False),
    ],
)
def test_who_may_call_what(request_: Request, allowed: bool) -> None:
    assert authorised(SPEC, request_) is allowed


def test_what_is_no_model_is_open_to_the_tiers_that_it_is_for() -> None:
    """Also to those that may use some models only, as such a request names none."""
    speech, text = "/v1/audio/speech", "/v1/audio/transcriptions"
    spec = replace(SPEC, services={speech: None, text: ["pro"]})
    allowed = {
        (tier, path): authorised(spec, Request(tier=tier, path=path, headers={}))
        for tier in ("free", "pro")
        for path in (speech, text)
    }
    assert allowed == {("free", speech): True, ("free", text): False, ("pro", speech): True, ("pro", text): True}
    assert not authorised(spec, Request(tier="gold", path=speech, headers={}))
    assert not authorised(SPEC, Request(tier="pro", path=speech, headers={}))
    # Whoever may speak may not therefore use a model.
    assert not authorised(spec, Request(headers={"x-ai-eg-model": "org/of-tomorrow"}))


def test_all_models_for_all_needs_no_entitlement() -> None:
    spec = replace(SPEC, tiers={"pro": SPEC.tiers["pro"]})
    assert "model-of-the-tier" not in policies.auth_policy(spec)["spec"]["overrides"]["rules"]["authorization"]


def test_each_tier_has_its_own_limits() -> None:
    """Exactly one limit answers to each tier, or a second one would be checked too late or not at all."""
    for limits in (
        policies.request_limits(SPEC)["spec"]["overrides"]["limits"],
        policies.token_limits(replace(SPEC, token_limits="kuadrant"))["spec"]["limits"],
    ):
        for tier in SPEC.tiers:
            context = {"auth": {"identity": {"groups": tier}}}
            hits = [name for name, limit in limits.items() if truth(limit["when"][0]["predicate"], context)]
            assert hits == [tier]
        assert limits["free"]["counters"] == [{"expression": "auth.identity.userid"}]


def test_rates_go_from_short_to_long() -> None:
    rates = policies.request_limits(SPEC)["spec"]["overrides"]["limits"]["free"]["rates"]
    assert rates == [{"limit": 10, "window": "1m"}, {"limit": 100, "window": "24h"}]


def test_tokens_counted_by_envoy() -> None:
    policy = policies.token_limits(SPEC)
    assert policy["kind"] == "BackendTrafficPolicy"
    assert policy["spec"]["targetRefs"] == [
        {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "llm-inference"}
    ]
    rules = policy["spec"]["rateLimit"]["global"]["rules"]
    told = [(rule["clientSelectors"][0]["headers"][0]["value"], rule["limit"]) for rule in rules]
    assert told == [
        ("free", {"requests": 5000, "unit": "Minute"}),
        ("free", {"requests": 50000, "unit": "Day"}),
        ("pro", {"requests": 50000, "unit": "Minute"}),
    ]
    for rule in rules:
        # Asking costs nothing, the answer costs its tokens; every tenant has a counter of its own.
        assert rule["cost"]["request"] == {"from": "Number", "number": 0}
        assert rule["cost"]["response"]["metadata"]["key"] == "llm_total_token"
        assert rule["clientSelectors"][0]["headers"][1] == {"name": "x-tokenlabs-tenant", "type": "Distinct"}


def test_only_one_way_of_counting() -> None:
    assert policies.other_token_limits(SPEC)["kind"] == "TokenRateLimitPolicy"
    assert policies.other_token_limits(replace(SPEC, token_limits="kuadrant"))["kind"] == "BackendTrafficPolicy"


def test_no_policy_on_a_route_can_replace_ours() -> None:
    for policy in policies.render(SPEC):
        if policy["kind"] in ("AuthPolicy", "RateLimitPolicy"):
            assert set(policy["spec"]) == {"targetRef", "overrides"}
            assert policy["spec"]["targetRef"]["kind"] == "Gateway"


def test_the_key_ends_at_the_gateway() -> None:
    rules = policies.auth_policy(SPEC)["spec"]["overrides"]["rules"]
    assert rules["response"]["success"]["headers"]["authorization"] == {"plain": {"expression": '"Bearer redacted"'}}
    labels = rules["authentication"]["api-key"]["apiKey"]["selector"]["matchLabels"]
    # Without the first, new keys are not noticed; without the last, suspended ones go on.
    assert labels["authorino.kuadrant.io/managed-by"] == "authorino"
    assert labels["tokenlabs.io/state"] == "active"
    assert "allNamespaces" not in rules["authentication"]["api-key"]["apiKey"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tiers": {}}, "there is no tier"),
        ({"services": {"/v1/audio/.*": None}}, "not one plain path"),
        ({"services": {"/v1/audio/speech": ["gold"]}}, "is for 'gold', which is no tier"),
        ({"paths": []}, "there is no path"),
        ({"paths": ["/"]}, "is not one plain path"),
        ({"paths": ["/v1/*"]}, "is not one plain path"),
        ({"paths": ['/v1/x"] || true || ["']}, "is not one plain path"),
        ({"tiers": {"free": {"requests": {}, "tokens": {"1m": 1}}}}, "without a limit"),
        ({"tiers": {"free": {"requests": {"1m": 1}}}}, "tiers.free.tokens: without a limit"),
        ({"tiers": {"free": {"requests": {"1m": 0}, "tokens": {"1m": 1}}}}, "a number from 1"),
        ({"tiers": {"free": {"requests": {"1m": True}, "tokens": {"1m": 1}}}}, "a number from 1"),
        ({"tiers": {"free": {"requests": {"1d": 1}, "tokens": {"1m": 1}}}}, "write 24h"),
        ({"tiers": {"free": {"requests": {"1m": 1}, "tokens": {"2m": 1}}}}, "kuadrant"),
        ({"tiers": {'x"': {"requests": {"1m": 1}, "tokens": {"1m": 1}}}}, "cannot be the name of a tier"),
        ({"tiers": {"free": {**SPEC.tiers["free"], "models": []}}}, "at least one model"),
        ({"tiers": {"free": {**SPEC.tiers["free"], "models": ["huge"]}}}, "huge is no model"),
        ({"tiers": {f"t{n}": {"requests": {"1m": 1}, "tokens": {"1m": 1}} for n in range(129)}}, "129 token limits"),
    ],
)
def test_what_would_open_a_hole_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policies.render(replace(SPEC, **changes))
    assert any(reason in each for each in caught.value.reasons), caught.value.reasons


def named(name: str, kind: str = "", **spec: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, "spec": spec}


GATEWAY_TARGET = {"kind": "Gateway", "name": "token-labs-gateway"}
ROUTE_TARGET = {"kind": "HTTPRoute", "name": "llm-inference"}


@pytest.mark.parametrize(
    ("live", "reason"),
    [
        ({"gateway": named("token-labs-gateway", listeners=[{"name": "http", "hostname": "a.example"}])}, "a hostname"),
        (
            {"routes": [named("r", hostnames=["a.example"], parentRefs=[{"name": "token-labs-gateway"}])]},
            "the HTTPRoute r has hostnames",
        ),
        ({"extensions": [named("mine", targetRefs=[GATEWAY_TARGET])]}, "EnvoyExtensionPolicy mine"),
        ({"policies": [named("theirs", "AuthPolicy", targetRef=GATEWAY_TARGET)]}, "AuthPolicy theirs"),
        # Any route of the Gateway, also one that the platform did not make, and whatever a label selects.
        (
            {
                "routes": [named("tts", parentRefs=[{"name": "token-labs-gateway"}])],
                "extensions": [named("mine", targetRefs=[{"kind": "HTTPRoute", "name": "tts"}])],
            },
            "EnvoyExtensionPolicy mine",
        ),
        (
            {
                "gateway": {"metadata": {"name": "token-labs-gateway", "labels": {"a": "b"}}, "spec": {}},
                "extensions": [named("mine", targetSelectors=[{"kind": "Gateway", "matchLabels": {"a": "b"}}])],
            },
            "EnvoyExtensionPolicy mine",
        ),
        ({"policies": [named("b", "BackendTrafficPolicy", targetRefs=[ROUTE_TARGET])]}, "BackendTrafficPolicy b"),
    ],
)
def test_holes_in_the_cluster_are_seen(live: dict[str, Any], reason: str) -> None:
    found: dict[str, Any] = {"gateway": None, "routes": [], "extensions": [], "policies": [], **live}
    reasons = policies.holes(SPEC, **found)
    assert len(reasons) == 1 and reason in reasons[0]


def test_what_belongs_there_is_no_hole() -> None:
    listeners = [{"name": "http"}]
    assert (
        policies.holes(
            SPEC,
            named("token-labs-gateway", listeners=listeners),
            [named("models", parentRefs=[{"name": "token-labs-gateway"}]), named("x", hostnames=["a"], parentRefs=[])],
            [
                named("kuadrant-token-labs-gateway", targetRefs=[GATEWAY_TARGET]),
                named("elsewhere", targetRefs=[{"kind": "Gateway", "name": "theirs"}]),
                named("others", targetSelectors=[{"kind": "Gateway", "matchLabels": {"a": "b"}}]),
            ],
            [
                {"kind": each["kind"], "metadata": each["metadata"], "spec": each["spec"]}
                for each in policies.render(SPEC)
            ]
            # Harmless: ours are overrides.
            + [named("theirs", "AuthPolicy", targetRef=ROUTE_TARGET)],
        )
        == []
    )


def test_a_tier_in_use_is_not_removed() -> None:
    live = policies.request_limits(replace(SPEC, tiers={**SPEC.tiers, "gold": SPEC.tiers["pro"]}))
    assert policies.removed_tiers(live, SPEC) == ["gold"]
    assert policies.removed_tiers(None, SPEC) == []
    tenants = [(f"tenant-{n}", "gold") for n in range(10, 22)] + [("tenant-10", "gold"), ("acme", "free")]
    [reason] = policies.in_use(["gold"], tenants)
    named = ", ".join(f"tenant-{n}" for n in range(10, 20))
    assert f"12 tenants still use it ({named}, ...)" in reason
    assert policies.in_use(["gold"], [("acme", "free")]) == []


def test_policies_stay_while_there_is_something_to_close() -> None:
    gateway = {"metadata": {"name": SPEC.gateway}}
    attached = {"metadata": {"name": "models"}, "spec": {"parentRefs": [{"name": SPEC.gateway}]}}
    other = {"metadata": {"name": "other"}, "spec": {"parentRefs": [{"name": "another-gateway"}]}}
    [reason] = policies.still_open(SPEC, gateway, [other, attached])
    assert "still has the HTTPRoutes models," in reason
    assert policies.still_open(SPEC, gateway, [other]) == []
    assert policies.still_open(SPEC, None, [attached]) == []


def test_removal_knows_every_policy() -> None:
    def names(objects: list[policies.Data]) -> set[tuple[str, str]]:
        return {(each["kind"], each["metadata"]["name"]) for each in objects}

    rendered = [*policies.render(SPEC), *policies.render(replace(SPEC, token_limits="kuadrant"))]
    assert names(policies.all_policies(SPEC)) == names(rendered)


def test_every_429_says_the_same() -> None:
    """A policy on the route replaces the Gateway's, so both must say it."""
    tokens, elsewhere = policies.token_limits(SPEC)["spec"], policies.answers(SPEC)["spec"]
    assert tokens["responseOverride"] == elsewhere["responseOverride"]
    [rule] = elsewhere["responseOverride"]
    assert rule["match"]["statusCodes"] == [{"type": "Value", "value": 429}]
    body = json.loads(rule["response"]["body"]["inline"])
    assert body["error"]["code"] == "rate_limit_exceeded"
    # The shortest window of all tiers, and one header only.
    assert rule["response"]["header"] == {"set": [{"name": "retry-after", "value": "60"}]}
    shorter = replace(SPEC, tiers={**SPEC.tiers, "fast": {"requests": {"5s": 1}, "tokens": {"1m": 1}, "models": None}})
    assert policies.answers(shorter)["spec"]["responseOverride"][0]["response"]["header"]["set"][0]["value"] == "5"


def test_what_others_wrote_is_told_from_what_we_wrote() -> None:
    policy = policies.auth_policy(replace(SPEC))
    ours = {"manager": "tokenlabs", "operation": "Apply", "fieldsV1": {"f:spec": {"f:gone": {}}}}
    status = {
        "manager": "kuadrant",
        "operation": "Update",
        "subresource": "status",
        "fieldsV1": {"f:spec": {"f:x": {}}},
    }
    same = {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:targetRef": {"f:name": {}}}}}
    more = {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:rules": {}}}}
    live = {"metadata": {"managedFields": [ours, status, same]}}
    assert policies.meddled(policy, live) == []
    live["metadata"]["managedFields"].append(more)
    assert policies.meddled(policy, live) == ["kubectl: spec.rules"]


def test_a_nudge_changes_no_decision() -> None:
    before = policies.auth_policy(SPEC)
    after = policies.nudged(before)
    assert after != before
    assert after["spec"]["overrides"]["rules"] == before["spec"]["overrides"]["rules"]
    assert "when" not in after["spec"]["overrides"]
    assert policies.nudged(policies.token_limits(SPEC)) == policies.token_limits(SPEC)
