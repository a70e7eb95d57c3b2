# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tiers as policies: who may call what, and how often. Pure. Private to the collection.

Everything here is written so that a mistake closes the gateway rather than opens it: policies are overrides, so that no
policy on a route can replace them; rules name what is allowed; what cannot be counted is not rendered at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._fields import not_sent
from ansible_collections.tokenlabs.platform.plugins.module_utils._limits import (
    MAXIMUM,
    WindowError,
    envoy_unit,
    window_seconds,
)

Data = dict[str, Any]

# Under this name the fields of the policies are owned.
MANAGER = "tokenlabs"

AUTH_POLICY = "token-labs-auth"
REQUEST_LIMITS = "token-labs-request-limits"
TOKEN_LIMITS = "token-labs-token-limits"
USAGE = "token-labs-usage"
ANSWERS = "token-labs-answers"
# The HTTPRoute that Envoy AI Gateway makes of the AIGatewayRoute of this name.
MODEL_ROUTE = "llm-inference"

MODELS_PATH = "/v1/models"
# Envoy AI Gateway writes the model of a request's body here before the policies run.
MODEL_HEADER = "x-ai-eg-model"
TENANT_HEADER = "x-tokenlabs-tenant"
TIER_HEADER = "x-tokenlabs-tier"

TIER_ANNOTATION = "kuadrant.io/groups"
TENANT_ANNOTATION = "secret.kuadrant.io/user-id"
CREDENTIAL_LABELS = {
    # Without this one Authorino does not notice a new key.
    "authorino.kuadrant.io/managed-by": "authorino",
    "app": "token-labs",
    "tokenlabs.io/credential": "api-key",
    # Suspending a tenant takes its Secrets out of the selection.
    "tokenlabs.io/state": "active",
}
TENANT_SELECTOR = "app=token-labs,tokenlabs.io/credential=api-key"

_TIER = re.compile(r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?")
_TENANT = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")
_TOKEN_RULES = 128

KUADRANT = "kuadrant.io/v1"
TOKEN_POLICY_VERSION = "kuadrant.io/v1alpha1"
TELEMETRY_VERSION = "extensions.kuadrant.io/v1alpha1"
ENVOY_GATEWAY = "gateway.envoyproxy.io/v1alpha1"
GATEWAY_API = "gateway.networking.k8s.io"


class PolicyError(Exception):
    """Policies that must not be applied, with every reason."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = list(reasons)


@dataclass(frozen=True)
class Spec:
    """What the policies are made of."""

    tiers: Mapping[str, Any]
    paths: Sequence[str]
    # Name of a model in the inventory -> name that clients send.
    models: Mapping[str, str]
    gateway: str
    namespace: str
    token_limits: str = "envoy"
    # An issuer of tokens beside the keys: issuer, tier_claim, tenant_claim.
    oidc: Mapping[str, str] | None = None
    # Paths that are no model's, each with the tiers that it is for; None: all of them.
    services: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=lambda: {"app.kubernetes.io/managed-by": "tokenlabs"})


# --- checks ----------------------------------------------------------------------------------------------------------


def check(spec: Spec) -> list[str]:
    """Why a spec would open a hole, or could not be enforced; empty when it is fine."""
    reasons = []
    if not spec.tiers:
        reasons.append("there is no tier, so no key could be told from another")
    if not spec.paths:
        reasons.append("there is no path to allow")
    for path, tiers in spec.services.items():
        for tier in tiers or ():
            if tier not in spec.tiers:
                reasons.append(f"services: {path} is for {tier!r}, which is no tier")
    for path in (*spec.paths, *spec.services):
        if not _PATH.fullmatch(path):
            reasons.append(f"paths: {path!r} is not one plain path; a pattern would open what nobody meters")
    rules = 0
    for name, tier in spec.tiers.items():
        if not _TIER.fullmatch(str(name)):
            reasons.append(f"tiers: {name!r} cannot be the name of a tier")
        if not isinstance(tier, Mapping):
            reasons.append(f"tiers.{name}: must be a mapping")
            continue
        for what in ("requests", "tokens"):
            reasons += _check_limits(f"tiers.{name}.{what}", tier.get(what), what, spec.token_limits)
        rules += len(tier.get("tokens") or {})
        reasons += _check_models(f"tiers.{name}.models", tier.get("models"), spec.models)
    if spec.token_limits == "envoy" and rules > _TOKEN_RULES:
        reasons.append(f"tiers: {rules} token limits are more than the {_TOKEN_RULES} that one policy takes")
    return reasons


def _check_limits(where: str, limits: Any, what: str, token_limits: str) -> list[str]:
    if not isinstance(limits, Mapping) or not limits:
        return [f"{where}: without a limit this tier would be free of any"]
    reasons = []
    for window, limit in limits.items():
        try:
            window_seconds(str(window))
            if what == "tokens" and token_limits == "envoy":
                envoy_unit(str(window))
        except WindowError as error:
            reasons.append(f"{where}.{window} {error.reason}; {error.remedy}")
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAXIMUM:
            reasons.append(f"{where}.{window}: the limit must be a number from 1 to {MAXIMUM}")
    return reasons


def _check_models(where: str, allowed: Any, models: Mapping[str, str]) -> list[str]:
    if allowed is None:
        return []
    if not isinstance(allowed, (list, tuple)) or not allowed:
        return [f"{where}: must name at least one model, or be left out to allow all"]
    return [f"{where}: {name} is no model of this platform" for name in allowed if name not in models]


# --- policies --------------------------------------------------------------------------------------------------------


def render(spec: Spec) -> list[Data]:
    """Every policy object of a spec, in the order in which they are applied."""
    reasons = check(spec)
    if reasons:
        raise PolicyError(reasons)
    return [auth_policy(spec), request_limits(spec), token_limits(spec), answers(spec), telemetry(spec)]


def other_token_limits(spec: Spec) -> Data:
    """The token limits of the way that is not chosen: both on one route would lose counts."""
    other = "kuadrant" if spec.token_limits == "envoy" else "envoy"
    return {**_TOKEN_KINDS[other], "metadata": {"name": TOKEN_LIMITS, "namespace": spec.namespace}}


_TOKEN_KINDS: dict[str, Data] = {
    "envoy": {"apiVersion": ENVOY_GATEWAY, "kind": "BackendTrafficPolicy"},
    "kuadrant": {"apiVersion": TOKEN_POLICY_VERSION, "kind": "TokenRateLimitPolicy"},
}


def _metadata(name: str, spec: Spec) -> Data:
    return {"name": name, "namespace": spec.namespace, "labels": dict(spec.labels)}


def _gateway(spec: Spec) -> Data:
    return {"group": GATEWAY_API, "kind": "Gateway", "name": spec.gateway}


def _route() -> Data:
    return {"group": GATEWAY_API, "kind": "HTTPRoute", "name": MODEL_ROUTE}


def _cel(value: Any) -> str:
    """A CEL literal: JSON's texts and lists are CEL's."""
    return json.dumps(value)


def _sorted(limits: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(limits.items(), key=lambda item: window_seconds(item[0]))


def _error(code: int, message: str, kind: str, error: str) -> Data:
    body = {"error": {"message": message, "type": kind, "param": None, "code": error}}
    return {
        "code": code,
        "headers": {"content-type": {"value": "application/json"}},
        "body": {"value": json.dumps(body, separators=(",", ":"))},
    }


def auth_policy(spec: Spec) -> Data:
    """Only an active key, of a known tier, on a metered path, for a model of its tier."""
    tiers = sorted(spec.tiers)
    api_key = {
        "apiKey": {"selector": {"matchLabels": dict(CREDENTIAL_LABELS)}},
        "credentials": {"authorizationHeader": {"prefix": "Bearer"}},
        # A missing annotation makes the identity fail, which is a 401.
        "overrides": {
            "tier": {"expression": f"auth.identity.metadata.annotations[{_cel(TIER_ANNOTATION)}]"},
            "tenant": {"expression": f"auth.identity.metadata.annotations[{_cel(TENANT_ANNOTATION)}]"},
        },
    }
    authorization = {
        # Equality with one name: a list of tiers in the annotation is no tier.
        "known-tier": _patterns(f"auth.identity.tier in {_cel(tiers)}"),
        "tenant-id-well-formed": _patterns(f"auth.identity.tenant.matches({_cel(_TENANT)})"),
        # url_path, as request.path has the query in it: `?x` would be another path.
        "metered-paths-only": _patterns(f"request.url_path in {_cel(sorted({*spec.paths, *spec.services}))}"),
    }
    kept = [
        f"request.url_path != {_cel(path)} || auth.identity.tier in {_cel(sorted(only))}"
        for path, only in sorted(spec.services.items())
        if only
    ]
    if kept:
        authorization["service-of-the-tier"] = _patterns(*kept)
    entitlements = [_entitlement(name, tier["models"], spec) for name, tier in sorted(spec.tiers.items()) if _few(tier)]
    if entitlements:
        authorization["model-of-the-tier"] = _patterns(*entitlements)
    response = {
        "success": {
            "filters": {
                "identity": {
                    "json": {
                        "properties": {
                            "groups": {"expression": "auth.identity.tier"},
                            "userid": {"expression": "auth.identity.tenant"},
                        }
                    }
                }
            },
            "headers": {
                TENANT_HEADER: {"plain": {"expression": "auth.identity.tenant"}},
                TIER_HEADER: {"plain": {"expression": "auth.identity.tier"}},
                # The tenant's key ends here. An expression, as Authorino would send `value` as a printed byte list.
                "authorization": {"plain": {"expression": '"Bearer redacted"'}},
            },
        },
        "unauthenticated": _error(401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
        "unauthorized": _error(
            403,
            "This API key is not allowed to use this endpoint or model.",
            "permission_error",
            "permission_denied",
        ),
    }
    authentication = {"api-key": api_key, **({"oidc": _issuer(spec.oidc)} if spec.oidc else {})}
    rules = {"authentication": authentication, "authorization": authorization, "response": response}
    return {
        "apiVersion": KUADRANT,
        "kind": "AuthPolicy",
        "metadata": _metadata(AUTH_POLICY, spec),
        "spec": {"targetRef": _gateway(spec), "overrides": {"rules": rules}},
    }


def _issuer(oidc: Mapping[str, str]) -> Data:
    """Tokens of an issuer beside the keys, with the same meaning: from here on nobody can tell which it was."""
    return {
        # A key is not sent to the issuer's library, and the reason for a refusal stays readable.
        "when": [
            {"predicate": '"authorization" in request.headers'},
            {"predicate": 'request.headers["authorization"].startsWith("Bearer ey")'},
        ],
        "jwt": {"issuerUrl": oidc["issuer"]},
        "credentials": {"authorizationHeader": {"prefix": "Bearer"}},
        # A missing claim makes the identity fail, which is a 401.
        "overrides": {
            "tier": {"expression": f"auth.identity[{_cel(oidc['tier_claim'])}]"},
            "tenant": {"expression": f"auth.identity[{_cel(oidc['tenant_claim'])}]"},
        },
    }


def _patterns(*predicates: str) -> Data:
    return {"patternMatching": {"patterns": [{"predicate": predicate} for predicate in predicates]}}


def _few(tier: Mapping[str, Any]) -> bool:
    return tier.get("models") is not None


def _entitlement(name: str, allowed: Iterable[str], spec: Spec) -> str:
    served = sorted({spec.models[model] for model in allowed})
    # The list of models is the same for everybody and has no model header; nor has what is no model.
    free = _cel(sorted([MODELS_PATH, *spec.services]))
    return (
        f"auth.identity.tier != {_cel(name)} || request.url_path in {free} || "
        f"({_cel(MODEL_HEADER)} in request.headers && request.headers[{_cel(MODEL_HEADER)}] in {_cel(served)})"
    )


def _kuadrant_limits(spec: Spec, what: str) -> Data:
    return {
        name: {
            "rates": [{"limit": limit, "window": window} for window, limit in _sorted(tier[what])],
            "when": [{"predicate": f"auth.identity.groups == {_cel(name)}"}],
            "counters": [{"expression": "auth.identity.userid"}],
        }
        for name, tier in sorted(spec.tiers.items())
    }


def request_limits(spec: Spec) -> Data:
    """Requests per tenant, by tier."""
    return {
        "apiVersion": KUADRANT,
        "kind": "RateLimitPolicy",
        "metadata": _metadata(REQUEST_LIMITS, spec),
        "spec": {"targetRef": _gateway(spec), "overrides": {"limits": _kuadrant_limits(spec, "requests")}},
    }


def token_limits(spec: Spec) -> Data:
    """Tokens per tenant, by tier, counted by Envoy Gateway or by Kuadrant."""
    body: Data = {**_TOKEN_KINDS[spec.token_limits], "metadata": _metadata(TOKEN_LIMITS, spec)}
    if spec.token_limits == "kuadrant":
        return {**body, "spec": {"targetRef": _route(), "limits": _kuadrant_limits(spec, "tokens")}}
    rules = [
        _envoy_rule(name, window, limit)
        for name, tier in sorted(spec.tiers.items())
        for window, limit in _sorted(tier["tokens"])
    ]
    limit = {"type": "Global", "global": {"rules": rules}}
    # A policy on a route replaces the Gateway's: what that one says of answers must be said here again.
    return {**body, "spec": {"targetRefs": [_route()], "rateLimit": limit, **_traffic(spec)}}


def answers(spec: Spec) -> Data:
    """One form for every answer that says that a limit is reached, whoever gave it."""
    return {
        "apiVersion": ENVOY_GATEWAY,
        "kind": "BackendTrafficPolicy",
        "metadata": _metadata(ANSWERS, spec),
        "spec": {"targetRefs": [_gateway(spec)], **_traffic(spec)},
    }


def _traffic(spec: Spec) -> Data:
    """What holds for all routes. A worker that was not reached has seen nothing, so nothing is counted twice."""
    retry = {"numRetries": 2, "retryOn": {"triggers": ["connect-failure", "refused-stream"]}}
    return {"retry": retry, "responseOverride": [_limited(spec)]}


def _limited(spec: Spec) -> Data:
    """A 429 as clients of OpenAI understand it.

    The answer is made anew, so the limits' own headers are not in it (envoyproxy/envoy custom_response,
    local_response_policy.cc). A header can say only what is known beforehand: the shortest window, after which it is
    worth a try. What Envoy knows of this request it can write into the body.
    """
    message = "Rate limit reached. Seconds until it is counted anew: %RESP(x-ratelimit-reset)%."
    error = {"message": message, "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}
    windows = [
        window_seconds(window)
        for tier in spec.tiers.values()
        for what in ("requests", "tokens")
        for window in tier[what]
    ]
    return {
        "match": {"statusCodes": [{"type": "Value", "value": 429}]},
        "response": {
            "contentType": "application/json",
            "body": {"type": "Inline", "inline": json.dumps({"error": error}, separators=(",", ":"))},
            "header": {"set": [{"name": "retry-after", "value": str(min(windows))}]},
        },
    }


def _envoy_rule(tier: str, window: str, limit: int) -> Data:
    # The headers are the AuthPolicy's: what a client sends under these names is overwritten before.
    selectors = [
        {"name": TIER_HEADER, "type": "Exact", "value": tier},
        {"name": TENANT_HEADER, "type": "Distinct"},
    ]
    tokens = {"namespace": "io.envoy.ai_gateway", "key": "llm_total_token"}
    return {
        "clientSelectors": [{"headers": selectors}],
        # Otherwise each rule of the route, so each model, would have a count of its own
        # (envoyproxy/gateway v1.7.5 internal/xds/translator/ratelimit.go).
        "shared": True,
        "limit": {"requests": limit, "unit": envoy_unit(window)},
        "cost": {
            "request": {"from": "Number", "number": 0},
            "response": {"from": "Metadata", "metadata": tokens},
        },
    }


def telemetry(spec: Spec) -> Data:
    """Labels that tell Limitador's counts by tenant and tier."""
    labels = {"user": "auth.identity.userid", "tier": "auth.identity.groups"}
    if spec.token_limits == "kuadrant":
        # Only reports of tokens have it. Not set otherwise, as every answer would be buffered to read it.
        labels["model"] = 'responseBodyJSON("/model")'
    return {
        "apiVersion": TELEMETRY_VERSION,
        "kind": "TelemetryPolicy",
        "metadata": _metadata(USAGE, spec),
        "spec": {"targetRef": _gateway(spec), "metrics": {"default": {"labels": labels}}},
    }


def nudged(policy: Data) -> Data:
    """An AuthPolicy with a spec that differs in nothing that matters, to have its controller look at it again.

    Deleting and creating it would do so too, but with an open gateway in between.
    """
    if policy["kind"] != "AuthPolicy":
        return policy
    # A named set of patterns that no rule refers to.
    unused = {"reconcile": {"allOf": [{"selector": "request.method", "operator": "neq", "value": ""}]}}
    spec = policy["spec"]
    return {**policy, "spec": {**spec, "overrides": {**spec["overrides"], "patterns": unused}}}


# --- the cluster -----------------------------------------------------------------------------------------------------


def removed_tiers(live: Mapping[str, Any] | None, spec: Spec) -> list[str]:
    """Tiers that the live request limits know and the spec does not."""
    limits = (((live or {}).get("spec") or {}).get("overrides") or {}).get("limits") or {}
    return sorted(set(limits) - set(spec.tiers))


def still_open(spec: Spec, gateway: Mapping[str, Any] | None, routes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Why the policies cannot be removed: what they keep closed is still there."""
    attached = sorted(_name(route) for route in routes if _attached(route, spec))
    if gateway is None or not attached:
        return []
    return [
        f"the Gateway {spec.gateway} still has the HTTPRoutes {', '.join(attached)}, which would be open without "
        "policies; remove the routes or the Gateway first"
    ]


def all_policies(spec: Spec) -> list[Data]:
    """Which policies there can be, of either way to count tokens."""
    kinds = [
        (KUADRANT, "AuthPolicy", AUTH_POLICY),
        (KUADRANT, "RateLimitPolicy", REQUEST_LIMITS),
        *((kind["apiVersion"], kind["kind"], TOKEN_LIMITS) for kind in _TOKEN_KINDS.values()),
        (ENVOY_GATEWAY, "BackendTrafficPolicy", ANSWERS),
        (TELEMETRY_VERSION, "TelemetryPolicy", USAGE),
    ]
    return [
        {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": spec.namespace}}
        for version, kind, name in kinds
    ]


def tenant_and_tier(secret: Mapping[str, Any]) -> tuple[str, str]:
    """The only two things about a tenant's Secret that matter here; its key is not kept."""
    annotations = (secret.get("metadata") or {}).get("annotations") or {}
    return str(annotations.get(TENANT_ANNOTATION, "")), str(annotations.get(TIER_ANNOTATION, ""))


def in_use(removed: Iterable[str], tenants: Iterable[tuple[str, str]]) -> list[str]:
    """Why tiers cannot be removed: the tenants that would be locked out, the first ten by name."""
    members: dict[str, set[str]] = {tier: set() for tier in removed}
    for tenant, tier in tenants:
        if tier in members:
            members[tier].add(tenant)
    reasons = []
    for tier, names in sorted(members.items()):
        if names:
            shown = ", ".join(sorted(names)[:10]) + (", ..." if len(names) > 10 else "")
            number = "1 tenant still uses" if len(names) == 1 else f"{len(names)} tenants still use"
            reasons.append(
                f"the tier {tier} cannot be removed: {number} it ({shown}); give them another tier and run the "
                "playbook tenants first, with this tier still defined"
            )
    return reasons


def holes(
    spec: Spec,
    gateway: Mapping[str, Any] | None,
    routes: Iterable[Mapping[str, Any]],
    extensions: Iterable[Mapping[str, Any]],
    policies: Iterable[Mapping[str, Any]],
) -> list[str]:
    """What is in the cluster that would let requests past the policies."""
    reasons = []
    routes = list(routes)
    for listener in ((gateway or {}).get("spec") or {}).get("listeners") or []:
        if listener.get("hostname"):
            reasons.append(
                f"the listener {listener.get('name')} of the Gateway {spec.gateway} has a hostname: written in "
                "capitals, it would pass without a key; remove the hostname"
            )
    for route in routes:
        if (route.get("spec") or {}).get("hostnames") and _attached(route, spec):
            reasons.append(
                f"the HTTPRoute {_name(route)} has hostnames: written in capitals, they would pass without a key; "
                "remove them"
            )
    guarded = {("HTTPRoute", MODEL_ROUTE), *(("HTTPRoute", _name(route)) for route in routes if _attached(route, spec))}
    guarded.add(("Gateway", spec.gateway))
    known = [*([("Gateway", gateway)] if gateway else []), *(("HTTPRoute", route) for route in routes)]
    for extension in extensions:
        if _name(extension) != f"kuadrant-{spec.gateway}" and guarded & _targets(extension, known):
            reasons.append(
                f"the EnvoyExtensionPolicy {_name(extension)} replaces or conflicts with the one that enforces keys; "
                "remove it"
            )
    own = {AUTH_POLICY, REQUEST_LIMITS, TOKEN_LIMITS, USAGE, ANSWERS}
    ours = {("Gateway", spec.gateway), ("HTTPRoute", MODEL_ROUTE)}
    for policy in policies:
        taken = sorted(ours & _targets(policy, known)) if _name(policy) not in own else []
        if taken and (policy.get("kind") not in ("AuthPolicy", "RateLimitPolicy") or taken[0][0] == "Gateway"):
            reasons.append(
                f"the {policy.get('kind')} {_name(policy)} is for the same {taken[0][0]}, where only one can be "
                "enforced; remove it"
            )
    return reasons


def meddled(policy: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """What others have written into a policy of ours, as "who: where". It is in force beside what is ours.

    Applying takes only what we have applied before: what came in another way stays, be it a second way to log in.
    """
    found = []
    for entry in (live.get("metadata") or {}).get("managedFields") or []:
        if entry.get("subresource") or (entry.get("manager"), entry.get("operation")) == (MANAGER, "Apply"):
            continue
        spec = (entry.get("fieldsV1") or {}).get("f:spec")
        if spec:
            found += [f"{entry.get('manager')}: {path}" for path in not_sent({"f:spec": spec}, policy)]
    return found


def _name(item: Mapping[str, Any]) -> str:
    return str((item.get("metadata") or {}).get("name"))


def _targets(item: Mapping[str, Any], known: Iterable[tuple[str, Mapping[str, Any]]]) -> set[tuple[str, str]]:
    """Kind and name of everything that a policy is for, by its names and by its selectors."""
    spec = item.get("spec") or {}
    targets = [*(spec.get("targetRefs") or []), *([spec["targetRef"]] if spec.get("targetRef") else [])]
    found = {(str(target.get("kind")), str(target.get("name"))) for target in targets}
    for selector in spec.get("targetSelectors") or []:
        # Expressions are not looked at: what they might select counts as selected.
        wanted = (selector.get("matchLabels") or {}).items()
        for kind, target in known:
            labels = (target.get("metadata") or {}).get("labels") or {}
            if kind == selector.get("kind") and wanted <= labels.items():
                found.add((kind, _name(target)))
    return found


def _attached(route: Mapping[str, Any], spec: Spec) -> bool:
    parents = (route.get("spec") or {}).get("parentRefs") or []
    return any(parent.get("name") == spec.gateway for parent in parents)
