# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of HTTPRoute rules: matches, filters, backends; and what an AIGatewayRoute adds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .aigateway import MODEL_HEADER
from .endpoints import age, pool_pods, resolve, secret_value, service_addresses
from .expressions import ExpressionError, parse
from .model import (
    Address,
    AiRoute,
    BackendRef,
    CostFormula,
    DirectResponse,
    HeaderChanges,
    Match,
    PathType,
    Target,
    UrlRewrite,
    ValueMatch,
)
from .objects import Name, Snapshot, name_of

_EG = "gateway.envoyproxy.io"
_POOL_GROUP = "inference.networking.k8s.io"
ENVOY_500 = DirectResponse(500)


def refers_to(parent: Mapping[str, Any], namespace: str, gateway: Name) -> bool:
    return (
        (parent.get("kind") or "Gateway") == "Gateway"
        and parent.get("name") == gateway[1]
        and (parent.get("namespace") or namespace) == gateway[0]
    )


def _value_matches(specs: Iterable[Mapping[str, Any]] | None, lower: bool) -> tuple[ValueMatch, ...]:
    found = []
    for spec in specs or []:
        regex = re.compile(spec["value"]) if spec.get("type") == "RegularExpression" else None
        found.append(ValueMatch(spec["name"].lower() if lower else spec["name"], spec["value"], regex))
    return tuple(found)


def match_of(spec: Mapping[str, Any]) -> Match:
    path = spec.get("path") or {}
    path_type = PathType(path.get("type") or "PathPrefix")
    value = path.get("value") or "/"
    return Match(
        path_type=path_type,
        path=value,
        regex=re.compile(value) if path_type is PathType.REGEX else None,
        method=spec.get("method"),
        headers=_value_matches(spec.get("headers"), lower=True),
        query=_value_matches(spec.get("queryParams"), lower=False),
    )


def _header_changes(spec: Mapping[str, Any]) -> HeaderChanges:
    def pairs(key: str) -> tuple[tuple[str, str], ...]:
        return tuple((item["name"].lower(), item["value"]) for item in spec.get(key) or [])

    return HeaderChanges(pairs("set"), pairs("add"), tuple(name.lower() for name in spec.get("remove") or []))


@dataclass(frozen=True)
class Filters:
    entry: Mapping[str, Any]
    backend_host: bool = False


def _route_filter(snapshot: Snapshot, namespace: str, name: str) -> tuple[dict[str, Any], bool]:
    """An HTTPRouteFilter's part of an entry, and whether it asks for the backend's host name."""
    obj = snapshot.get("HTTPRouteFilter", namespace, name)
    if obj is None:
        return {"direct": ENVOY_500}, False
    spec = obj.get("spec") or {}
    found: dict[str, Any] = {}
    if direct := spec.get("directResponse"):
        body = ((direct.get("body") or {}).get("inline") or "").encode()
        content_type = direct.get("contentType") or ("text/plain" if body else None)
        headers = _header_changes(direct.get("header") or {})
        found["direct"] = DirectResponse(
            direct.get("statusCode") or 200, body, content_type, (*headers.set, *headers.add)
        )
    if injection := spec.get("credentialInjection"):
        reference = injection["credential"]["valueRef"]
        value = secret_value(snapshot, reference.get("namespace") or namespace, reference["name"], "credential")
        if value is None:
            found["direct"] = ENVOY_500
        else:
            header = (injection.get("header") or "Authorization").lower()
            found["credential"] = (header, value, bool(injection.get("overwrite")))
    backend_host = ((spec.get("urlRewrite") or {}).get("hostname") or {}).get("type") == "Backend"
    return found, backend_host


def filters_of(snapshot: Snapshot, namespace: str, specs: Iterable[Mapping[str, Any]] | None) -> Filters:
    entry: dict[str, Any] = {}
    backend_host = False
    for spec in specs or []:
        kind = spec.get("type")
        if kind == "RequestHeaderModifier":
            entry["request_headers"] = _header_changes(spec["requestHeaderModifier"])
        elif kind == "ResponseHeaderModifier":
            entry["response_headers"] = _header_changes(spec["responseHeaderModifier"])
        elif kind == "URLRewrite":
            rewrite = spec["urlRewrite"]
            path = rewrite.get("path") or {}
            entry["rewrite"] = UrlRewrite(
                rewrite.get("hostname"), path.get("replaceFullPath"), path.get("replacePrefixMatch")
            )
        elif kind == "RequestRedirect":
            entry["redirect"] = spec["requestRedirect"]
        elif kind == "ExtensionRef":
            reference = spec["extensionRef"]
            if reference.get("kind") != "HTTPRouteFilter":
                entry["direct"] = ENVOY_500
                continue
            found, wants_host = _route_filter(snapshot, namespace, reference["name"])
            entry.update(found)
            backend_host = backend_host or wants_host
    return Filters(entry, backend_host)


def backend_of(snapshot: Snapshot, route_namespace: str, reference: Mapping[str, Any]) -> BackendRef:
    group, kind = reference.get("group") or "", reference.get("kind") or "Service"
    name = (reference.get("namespace") or route_namespace, reference["name"])
    weight = reference.get("weight", 1)
    if kind == "Service" and not group:
        if snapshot.get("Service", *name) is None:
            return BackendRef(Target.BROKEN, name, weight)
        return BackendRef(Target.SERVICE, name, weight, service_addresses(snapshot, *name, reference.get("port")))
    if kind == "InferencePool" and group == _POOL_GROUP:
        pool = snapshot.get("InferencePool", *name)
        if pool is None:
            return BackendRef(Target.BROKEN, name, weight)
        picker = (pool.get("spec") or {}).get("endpointPickerRef") or {}
        port = (picker.get("port") or {}).get("number")
        ready = bool(service_addresses(snapshot, name[0], picker.get("name", ""), port))
        fail_open = picker.get("failureMode") == "FailOpen"
        return BackendRef(Target.POOL, name, weight, pool_pods(snapshot, pool), None, ready, fail_open)
    if kind == "Backend" and group == _EG:
        backend = snapshot.get("Backend", *name)
        if backend is None:
            return BackendRef(Target.BROKEN, name, weight)
        spec = backend.get("spec") or {}
        addresses = []
        for endpoint in spec.get("endpoints") or []:
            if "fqdn" in endpoint:
                host, port = endpoint["fqdn"]["hostname"], endpoint["fqdn"]["port"]
                address = resolve(snapshot, host, port, name[0])
                addresses += [address] if address else []
            elif "ip" in endpoint:
                addresses.append(Address(endpoint["ip"]["address"], endpoint["ip"]["port"]))
        return BackendRef(Target.BACKEND, name, weight, tuple(addresses), (spec.get("tls") or {}).get("sni"))
    return BackendRef(Target.BROKEN, name, weight)


def ai_route(snapshot: Snapshot, name: Name) -> AiRoute | None:
    obj = snapshot.get("AIGatewayRoute", *name)
    if obj is None:
        return None
    costs = {}
    for spec in (obj.get("spec") or {}).get("llmRequestCosts") or []:
        kind = spec.get("type") or "OutputToken"
        try:
            expression = parse(spec["cel"]) if kind == "CEL" else None
        except ExpressionError:
            continue
        costs[spec["metadataKey"]] = CostFormula(kind, expression)
    return AiRoute(name, costs)


def declared_models(snapshot: Snapshot, gateway: Name) -> tuple[dict[str, Any], ...]:
    found = []
    for obj in sorted(snapshot.all("AIGatewayRoute"), key=age):
        spec = obj.get("spec") or {}
        if not any(refers_to(parent, name_of(obj)[0], gateway) for parent in spec.get("parentRefs") or []):
            continue
        created = obj["metadata"].get("creationTimestamp", "")
        for rule in spec.get("rules") or []:
            for match in rule.get("matches") or []:
                for header in match.get("headers") or []:
                    if header["name"].lower() == MODEL_HEADER and header.get("type", "Exact") == "Exact":
                        stamp = rule.get("modelsCreatedAt") or created
                        found.append(
                            {
                                "id": header["value"],
                                "created": int(datetime.fromisoformat(stamp).timestamp()) if stamp else 0,
                                "object": "model",
                                "owned_by": rule.get("modelsOwnedBy") or "Envoy AI Gateway",
                            }
                        )
    return tuple(found)
