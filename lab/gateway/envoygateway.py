# SPDX-License-Identifier: GPL-3.0-or-later
"""Envoy Gateway's policies and its own configuration document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import yaml

from .endpoints import age, duration, quantity, resolve, secret_value
from .limits import UNITS
from .model import ClientSettings, Cors, GlobalLimits, GlobalRule, HeaderSelector, Override, RateLimitService
from .objects import ENVOY_GATEWAY_CONFIG, ENVOY_GATEWAY_NAMESPACE, Name, Object, Snapshot, condition, name_of
from .routerules import match_of


def _targets(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(spec.get("targetRefs") or []), *([spec["targetRef"]] if spec.get("targetRef") else [])]


def attached(snapshot: Snapshot, kind: str, target_kind: str, name: Name, section: str | None = None) -> list[Object]:
    """Envoy Gateway's policies that point at a target, the oldest first."""
    found = []
    for policy in snapshot.all(kind):
        if name_of(policy)[0] != name[0]:
            continue
        for target in _targets(policy.get("spec") or {}):
            if (
                target.get("kind") == target_kind
                and target.get("name") == name[1]
                and target.get("sectionName") == section
            ):
                found.append(policy)
                break
    return sorted(found, key=age)


def client_settings(snapshot: Snapshot, gateway: Name, listener: str) -> ClientSettings:
    policies = attached(snapshot, "ClientTrafficPolicy", "Gateway", gateway, listener) or attached(
        snapshot, "ClientTrafficPolicy", "Gateway", gateway
    )
    if not policies:
        return ClientSettings()
    spec = policies[0].get("spec") or {}
    path, headers = spec.get("path") or {}, spec.get("headers") or {}
    return ClientSettings(
        buffer_limit=quantity((spec.get("connection") or {}).get("bufferLimit"), 32768),
        merge_slashes=not path.get("disableMergeSlashes"),
        escaped_slashes=path.get("escapedSlashesAction") or "UnescapeAndRedirect",
        rate_limit_headers=not headers.get("disableRateLimitHeaders"),
    )


def _refused(obj: Object, name: str) -> bool:
    """Whether a status, of either shape, says that the object is not in effect."""
    status = obj.get("status") or {}
    conditions = [status.get("conditions")] + [
        item.get("conditions") for key in ("ancestors", "parents") for item in status.get(key) or []
    ]
    return any((condition(found, name) or {}).get("status") == "False" for found in conditions)


def wasm_on_gateway(snapshot: Snapshot, gateway: Name) -> bool:
    """Only the oldest extension policy of a Gateway counts; another one there pushes Kuadrant's out."""
    policies = attached(snapshot, "EnvoyExtensionPolicy", "Gateway", gateway)
    return (
        bool(policies) and name_of(policies[0])[1] == f"kuadrant-{gateway[1]}" and not _refused(policies[0], "Accepted")
    )


def patched(snapshot: Snapshot, gateway: Name, name: str) -> bool:
    policy = snapshot.get("EnvoyPatchPolicy", gateway[0], name)
    return policy is not None and not _refused(policy, "Programmed")


@lru_cache(maxsize=4)
def _parsed_yaml(text: str) -> Mapping[str, Any]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return document if isinstance(document, dict) else {}


def envoy_gateway_document(snapshot: Snapshot) -> Mapping[str, Any]:
    config = snapshot.get("ConfigMap", *ENVOY_GATEWAY_CONFIG)
    return _parsed_yaml(((config or {}).get("data") or {}).get("envoy-gateway.yaml") or "")


def available(snapshot: Snapshot, namespace: str, name: str) -> bool:
    deployment = snapshot.get("Deployment", namespace, name)
    return deployment is not None and (deployment.get("status") or {}).get("availableReplicas", 0) > 0


def _redis_auth(document: Mapping[str, Any]) -> tuple[str, str] | str | None:
    """The rate limit service's password: a Secret's name and key, a literal, or none."""
    kubernetes = (document.get("provider") or {}).get("kubernetes") or {}
    container = (kubernetes.get("rateLimitDeployment") or {}).get("container") or {}
    for variable in container.get("env") or []:
        if variable.get("name") == "REDIS_AUTH":
            reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
            return (reference["name"], reference["key"]) if reference else variable.get("value")
    return None


def rate_limit_service(snapshot: Snapshot) -> tuple[RateLimitService | None, set[Name]]:
    document = envoy_gateway_document(snapshot)
    spec = document.get("rateLimit") or {}
    url = ((spec.get("backend") or {}).get("redis") or {}).get("url")
    if not url:
        return None, set()
    password, secrets = "", set()
    auth = _redis_auth(document)
    if isinstance(auth, tuple):
        secrets.add((ENVOY_GATEWAY_NAMESPACE, auth[0]))
        password = (secret_value(snapshot, ENVOY_GATEWAY_NAMESPACE, *auth) or "").strip()
    elif auth:
        password = auth
    host, _, port = url.rpartition(":")
    address = resolve(snapshot, host or url, int(port) if port.isdigit() else 6379, ENVOY_GATEWAY_NAMESPACE)
    service = RateLimitService(
        redis=address,
        redis_host=url,
        password=password,
        timeout=duration(spec.get("timeout"), 0.02),
        fail_closed=bool(spec.get("failClosed")),
        available=available(snapshot, ENVOY_GATEWAY_NAMESPACE, "envoy-ratelimit"),
        tls="tls" in spec["backend"]["redis"],
    )
    return service, secrets


def _selectors(specs: Iterable[Mapping[str, Any]]) -> Iterator[HeaderSelector]:
    for spec in specs:
        for header in spec.get("headers") or []:
            kind = header.get("type") or "Exact"
            value = header.get("value") or ""
            regex = re.compile(value) if kind == "RegularExpression" else None
            yield HeaderSelector(header["name"].lower(), kind, value, regex, bool(header.get("invert")))


def _global_rule(spec: Mapping[str, Any], descriptor: str) -> GlobalRule:
    selectors = spec.get("clientSelectors") or []
    cost = spec.get("cost") or {}
    request, response = cost.get("request") or {}, cost.get("response") or {}
    source = next((item["sourceCIDR"] for item in selectors if item.get("sourceCIDR")), None)
    path = next((item["path"] for item in selectors if item.get("path")), None)
    return GlobalRule(
        descriptor=descriptor,
        headers=tuple(_selectors(selectors)),
        methods=tuple(method["value"] for item in selectors for method in item.get("methods") or []),
        path=match_of({"path": path}) if path else None,
        source=source["value"] if source else None,
        source_distinct=source is not None and source.get("type") == "Distinct",
        limit=spec["limit"]["requests"],
        unit=spec["limit"]["unit"] if spec["limit"]["unit"] in UNITS else "Second",
        request_cost=request.get("number", 0) if request.get("from") == "Number" else 1,
        response_key=(response.get("metadata") or {}).get("key") if response.get("from") == "Metadata" else None,
        response_number=response.get("number") if response.get("from") == "Number" else None,
        shadow=bool(spec.get("shadowMode")),
    )


def most_specific(
    snapshot: Snapshot, of: str, gateway: Name, route: Name, rule: str | None, listener: str
) -> Object | None:
    """The most specific policy of a kind: the rule's, the route's, the listener's, the Gateway's. None is merged."""
    places: list[tuple[str, Name, str | None]] = [("HTTPRoute", route, rule)] if rule else []
    places += [("HTTPRoute", route, None), ("Gateway", gateway, listener), ("Gateway", gateway, None)]
    for kind, name, section in places:
        for policy in attached(snapshot, of, kind, name, section):
            if not _refused(policy, "Accepted"):
                return policy
    return None


def cors_of(policy: Object | None) -> Cors | None:
    """A SecurityPolicy's part about browsers. A star in an origin stands for anything."""
    spec = ((policy or {}).get("spec") or {}).get("cors")
    if not spec:
        return None
    told = {
        "access-control-allow-methods": ", ".join(spec.get("allowMethods") or []),
        "access-control-allow-headers": ", ".join(spec.get("allowHeaders") or []),
        "access-control-max-age": str(int(duration(spec["maxAge"], 0))) if spec.get("maxAge") else "",
    }
    return Cors(
        tuple(re.compile(re.escape(item).replace(r"\*", ".*")) for item in spec.get("allowOrigins") or []),
        tuple((name, value) for name, value in told.items() if value),
        ", ".join(spec.get("exposeHeaders") or []),
    )


def _statuses(match: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    for item in match.get("statusCodes") or []:
        if item.get("type") == "Range":
            yield item["range"]["start"], item["range"]["end"]
        else:
            yield item["value"], item["value"]


def overrides_of(policy: Object | None) -> tuple[Override, ...]:
    """Answers that Envoy makes anew. Redirections and bodies in ConfigMaps are not modelled."""
    found = []
    for rule in ((policy or {}).get("spec") or {}).get("responseOverride") or []:
        response = rule.get("response")
        if response is None:
            continue
        changes = response.get("header") or {}
        headers = [(item["name"].lower(), item["value"]) for key in ("set", "add") for item in changes.get(key) or []]
        if response.get("contentType"):
            headers.insert(0, ("content-type", response["contentType"]))
        body = (response.get("body") or {}).get("inline") or ""
        found.append(Override(tuple(_statuses(rule["match"])), response.get("statusCode"), tuple(headers), body))
    return tuple(found)


def global_limits(policy: Object, domain: str, route_match: str) -> GlobalLimits | None:
    """Each rule has its own counter **per route match** unless it is shared, so per model on an AI route."""
    spec = (policy.get("spec") or {}).get("rateLimit") or {}
    rules = (spec.get("global") or {}).get("rules") if spec.get("type", "Global") == "Global" else None
    if not rules:
        return None
    name = "/".join(name_of(policy))
    return GlobalLimits(
        domain,
        tuple(
            _global_rule(rule, f"{name}/rule/{index}" if rule.get("shared") else f"{route_match}_rule-{index}")
            for index, rule in enumerate(rules)
        ),
    )
