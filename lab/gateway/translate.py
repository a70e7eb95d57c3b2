# SPDX-License-Identifier: GPL-3.0-or-later
"""From the cluster's objects to the configuration of the data plane. A pure function of the snapshot."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import yaml

from .aigateway import MODEL_HEADER
from .expressions import ExpressionError, parse
from .limits import UNITS
from .model import (
    ActionSet,
    Address,
    AiRoute,
    AuthRules,
    BackendRef,
    ClientSettings,
    Config,
    CostFormula,
    DirectResponse,
    GlobalLimits,
    GlobalRule,
    HeaderChanges,
    HeaderSelector,
    KuadrantState,
    Match,
    PathType,
    PortConfig,
    RateLimitService,
    RouteEntry,
    Storage,
    Target,
    UrlRewrite,
    ValueMatch,
    WasmFilter,
)
from .objects import (
    ENVOY_GATEWAY_CONFIG,
    ENVOY_GATEWAY_NAMESPACE,
    Name,
    Object,
    Snapshot,
    condition,
    is_true,
    labels_of,
    matches_labels,
    name_of,
)
from .policies import Place, auth_rules, effective_at, limit_set
from .routing import build_virtual_hosts, precedence

_EG = "gateway.envoyproxy.io"
_POOL_GROUP = "inference.networking.k8s.io"
_DEFAULT_TIMEOUT = 15.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SIZES = {"": 1, "k": 1000, "Ki": 1024, "M": 1000**2, "Mi": 1024**2, "G": 1000**3, "Gi": 1024**3}
_ENVOY_500 = DirectResponse(500)


def duration(text: str | None, default: float) -> float:
    if not text:
        return default
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    parts = _DURATION.findall(text)
    return sum(float(number) * units[unit] for number, unit in parts) if parts else default


def quantity(value: Any, default: int) -> int:
    found = re.fullmatch(r"(\d+)(Ki|Mi|Gi|k|M|G)?", str(value or ""))
    return int(found[1]) * _SIZES[found[2] or ""] if found else default


def _secret_value(snapshot: Snapshot, namespace: str, name: str, key: str) -> str | None:
    secret = snapshot.get("Secret", namespace, name)
    encoded = ((secret or {}).get("data") or {}).get(key)
    try:
        return base64.b64decode(encoded).decode() if encoded else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def _age(obj: Object) -> tuple[str, Name]:
    return obj["metadata"].get("creationTimestamp", ""), name_of(obj)


# --- Endpoints ------------------------------------------------------------------------------------


def _slices(snapshot: Snapshot, namespace: str, service: str) -> Iterator[Object]:
    for item in snapshot.all("EndpointSlice"):
        if name_of(item)[0] == namespace and labels_of(item).get("kubernetes.io/service-name") == service:
            yield item


def service_addresses(snapshot: Snapshot, namespace: str, service: str, port: int | None) -> tuple[Address, ...]:
    """The ready addresses behind a Service's port; an empty tuple when there is none."""
    obj = snapshot.get("Service", namespace, service)
    if obj is None:
        return ()
    ports = (obj.get("spec") or {}).get("ports") or []
    chosen = next((item for item in ports if port is None or item.get("port") == port), None)
    if chosen is None:
        return ()
    found = []
    for item in _slices(snapshot, namespace, service):
        for target in item.get("ports") or []:
            if (target.get("name") or "") != (chosen.get("name") or ""):
                continue
            for endpoint in item.get("endpoints") or []:
                if (endpoint.get("conditions") or {}).get("ready", True):
                    found += [Address(address, target["port"]) for address in endpoint.get("addresses") or []]
    return tuple(sorted(set(found), key=lambda item: (item.host, item.port)))


def resolve(snapshot: Snapshot, host: str, port: int, namespace: str) -> Address | None:
    """A host name as a pod's resolver sees it: a Service's name, an address, or a name outside the cluster."""
    try:
        ipaddress.ip_address(host)
        return Address(host, port)
    except ValueError:
        pass
    parts = host.rstrip(".").split(".")
    if len(parts) == 1:
        parts = [parts[0], namespace]
    if len(parts) == 2 or parts[2:] in (["svc"], ["svc", "cluster", "local"]):
        addresses = service_addresses(snapshot, parts[1], parts[0], port)
        return addresses[0] if addresses else None
    return Address(host, port)


def pool_pods(snapshot: Snapshot, pool: Object) -> tuple[Address, ...]:
    spec = pool.get("spec") or {}
    ports = [item["number"] for item in spec.get("targetPorts") or []]
    if not ports:
        return ()
    found = []
    for pod in snapshot.all("Pod"):
        status = pod.get("status") or {}
        if (
            name_of(pod)[0] == name_of(pool)[0]
            and matches_labels(labels_of(pod), spec.get("selector") or {})
            and status.get("podIP")
            and is_true(status.get("conditions"), "Ready")
            and not pod["metadata"].get("deletionTimestamp")
        ):
            found.append(Address(status["podIP"], ports[0]))
    return tuple(sorted(found, key=lambda item: item.host))


# --- Routes ---------------------------------------------------------------------------------------


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
class _Filters:
    entry: Mapping[str, Any]
    backend_host: bool = False


def _route_filter(snapshot: Snapshot, namespace: str, name: str) -> tuple[dict[str, Any], bool]:
    """An HTTPRouteFilter's part of an entry, and whether it asks for the backend's host name."""
    obj = snapshot.get("HTTPRouteFilter", namespace, name)
    if obj is None:
        return {"direct": _ENVOY_500}, False
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
        value = _secret_value(snapshot, reference.get("namespace") or namespace, reference["name"], "credential")
        if value is None:
            found["direct"] = _ENVOY_500
        else:
            header = (injection.get("header") or "Authorization").lower()
            found["credential"] = (header, value, bool(injection.get("overwrite")))
    backend_host = ((spec.get("urlRewrite") or {}).get("hostname") or {}).get("type") == "Backend"
    return found, backend_host


def _filters(snapshot: Snapshot, namespace: str, specs: Iterable[Mapping[str, Any]] | None) -> _Filters:
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
                entry["direct"] = _ENVOY_500
                continue
            found, wants_host = _route_filter(snapshot, namespace, reference["name"])
            entry.update(found)
            backend_host = backend_host or wants_host
    return _Filters(entry, backend_host)


def _backend(snapshot: Snapshot, route_namespace: str, reference: Mapping[str, Any]) -> BackendRef:
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


def _ai_route(snapshot: Snapshot, name: Name) -> AiRoute | None:
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


def _declared_models(snapshot: Snapshot, gateway: Name) -> tuple[dict[str, Any], ...]:
    found = []
    for obj in sorted(snapshot.all("AIGatewayRoute"), key=_age):
        spec = obj.get("spec") or {}
        if not any(_refers_to(parent, name_of(obj)[0], gateway) for parent in spec.get("parentRefs") or []):
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


# --- Gateways and what hangs on them --------------------------------------------------------------


@dataclass(frozen=True)
class Listener:
    name: str
    port: int
    hostname: str | None
    tls: bool
    certificate: Name | None
    allowed: Mapping[str, Any]


def _listeners(gateway: Object) -> list[Listener]:
    found = []
    for spec in (gateway.get("spec") or {}).get("listeners") or []:
        if spec.get("protocol") not in ("HTTP", "HTTPS"):
            continue
        references = (spec.get("tls") or {}).get("certificateRefs") or []
        namespace = name_of(gateway)[0]
        certificate = (references[0].get("namespace") or namespace, references[0]["name"]) if references else None
        found.append(
            Listener(
                spec["name"],
                spec["port"],
                spec.get("hostname"),
                spec["protocol"] == "HTTPS",
                certificate,
                (spec.get("allowedRoutes") or {}).get("namespaces") or {},
            )
        )
    return found


def _refers_to(parent: Mapping[str, Any], namespace: str, gateway: Name) -> bool:
    return (
        (parent.get("kind") or "Gateway") == "Gateway"
        and parent.get("name") == gateway[1]
        and (parent.get("namespace") or namespace) == gateway[0]
    )


def _accepted(route: Object, parent: Mapping[str, Any], gateway: Name) -> bool:
    """The parent's verdict on the route, from its status."""
    namespace = name_of(route)[0]
    for status in (route.get("status") or {}).get("parents") or []:
        reference = status.get("parentRef") or {}
        if (
            _refers_to(reference, namespace, gateway)
            and reference.get("sectionName") == parent.get("sectionName")
            and reference.get("port") == parent.get("port")
        ):
            return is_true(status.get("conditions"), "Accepted")
    return False


def _hosts_on(listener: Listener, hostnames: Sequence[str]) -> tuple[str, ...]:
    """The intersection of a listener's host name with a route's; what neither names is any host."""
    if not hostnames:
        return (listener.hostname or "*",)
    if not listener.hostname:
        return tuple(hostnames)

    def covers(wide: str, narrow: str) -> bool:
        return wide == narrow or (wide.startswith("*.") and narrow.endswith(wide[1:]))

    found = []
    for host in hostnames:
        if covers(listener.hostname, host):
            found.append(host)
        elif covers(host, listener.hostname):
            found.append(listener.hostname)
    return tuple(found)


def _allows(listener: Listener, gateway: Name, route_namespace: str) -> bool:
    source = listener.allowed.get("from") or "Same"
    # A namespace selector would need Namespaces, which are not read: status says whether it was accepted.
    return source != "Same" or route_namespace == gateway[0]


def _targets(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(spec.get("targetRefs") or []), *([spec["targetRef"]] if spec.get("targetRef") else [])]


def _attached(
    snapshot: Snapshot, kind: str, target_kind: str, name: Name, section: str | None = None
) -> list[Object]:
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
    return sorted(found, key=_age)


def _client_settings(snapshot: Snapshot, gateway: Name, listener: str) -> ClientSettings:
    policies = _attached(snapshot, "ClientTrafficPolicy", "Gateway", gateway, listener) or _attached(
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


def _wasm_on_gateway(snapshot: Snapshot, gateway: Name) -> bool:
    """Only the oldest extension policy of a Gateway counts; another one there pushes Kuadrant's out."""
    policies = _attached(snapshot, "EnvoyExtensionPolicy", "Gateway", gateway)
    return bool(policies) and name_of(policies[0])[1] == f"kuadrant-{gateway[1]}" and not _refused(
        policies[0], "Accepted"
    )


def _patched(snapshot: Snapshot, gateway: Name, name: str) -> bool:
    policy = snapshot.get("EnvoyPatchPolicy", gateway[0], name)
    return policy is not None and not _refused(policy, "Programmed")


# --- Envoy Gateway's own configuration and limits -------------------------------------------------


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


def _available(snapshot: Snapshot, namespace: str, name: str) -> bool:
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
        password = (_secret_value(snapshot, ENVOY_GATEWAY_NAMESPACE, *auth) or "").strip()
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
        available=_available(snapshot, ENVOY_GATEWAY_NAMESPACE, "envoy-ratelimit"),
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


def _traffic_policy(snapshot: Snapshot, gateway: Name, route: Name, rule: str | None, listener: str) -> Object | None:
    """The most specific BackendTrafficPolicy: the rule's, the route's, the listener's, the Gateway's."""
    places: list[tuple[str, Name, str | None]] = [("HTTPRoute", route, rule)] if rule else []
    places += [("HTTPRoute", route, None), ("Gateway", gateway, listener), ("Gateway", gateway, None)]
    for kind, name, section in places:
        for policy in _attached(snapshot, "BackendTrafficPolicy", kind, name, section):
            if not _refused(policy, "Accepted"):
                return policy
    return None


def _global_limits(policy: Object, domain: str, route_match: str) -> GlobalLimits | None:
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


# --- Kuadrant's state -----------------------------------------------------------------------------


def _pods_of(snapshot: Snapshot, namespace: str, deployment: str) -> frozenset[str]:
    obj = snapshot.get("Deployment", namespace, deployment)
    if obj is None:
        return frozenset()
    selector = (obj.get("spec") or {}).get("selector") or {}
    return frozenset(
        pod["metadata"].get("uid", name_of(pod)[1])
        for pod in snapshot.all("Pod")
        if name_of(pod)[0] == namespace
        and matches_labels(labels_of(pod), selector)
        and (pod.get("status") or {}).get("phase") == "Running"
        and not pod["metadata"].get("deletionTimestamp")
    )


def _storage(snapshot: Snapshot, limitador: Object) -> tuple[Storage, set[Name]]:
    namespace, name = name_of(limitador)
    pods = _pods_of(snapshot, namespace, f"limitador-{name}")
    spec = (limitador.get("spec") or {}).get("storage") or {}
    reference = (spec.get("redis") or spec.get("redis-cached") or {}).get("configSecretRef")
    if not reference:
        return Storage(generation=pods), set()
    url = (_secret_value(snapshot, namespace, reference["name"], "URL") or "").strip()
    parts = urlsplit(url)
    address = resolve(snapshot, parts.hostname, parts.port or 6379, namespace) if parts.hostname else None
    return Storage("redis", url, address, pods), {(namespace, reference["name"])}


def kuadrant_state(snapshot: Snapshot) -> tuple[KuadrantState, set[Name]]:
    if not list(snapshot.all("Kuadrant")):
        return KuadrantState(), set()
    state = KuadrantState()
    secrets: set[Name] = set()
    for authorino in sorted(snapshot.all("Authorino"), key=_age)[:1]:
        namespace, name = name_of(authorino)
        state = replace(
            state,
            authorino_available=_available(snapshot, namespace, name),
            authorino_namespace=namespace,
            authorino_pods=_pods_of(snapshot, namespace, name),
        )
    for limitador in sorted(snapshot.all("Limitador"), key=_age)[:1]:
        namespace, name = name_of(limitador)
        storage, secrets = _storage(snapshot, limitador)
        state = replace(
            state,
            limitador_available=_available(snapshot, namespace, f"limitador-{name}"),
            limitador_headers=(limitador.get("spec") or {}).get("rateLimitHeaders") == "DRAFT_VERSION_03",
            storage=storage,
        )
    return state, secrets


# --- The whole ------------------------------------------------------------------------------------


class _Builder:
    """Collects what one Gateway serves, port by port."""

    def __init__(self, snapshot: Snapshot, gateway: Object) -> None:
        self.snapshot = snapshot
        self.name = name_of(gateway)
        self.listeners = _listeners(gateway)
        self.addresses = [
            item["value"]
            for item in (gateway.get("status") or {}).get("addresses") or []
            if item.get("type", "IPAddress") == "IPAddress"
        ]
        document = envoy_gateway_document(snapshot)
        # Without a configuration document nothing says that the AI gateway is left out.
        self.ai_active = not document or bool(document.get("extensionManager"))
        self.limits_enabled = bool(((document.get("rateLimit") or {}).get("backend") or {}).get("redis"))
        self.entries: dict[int, dict[str, list[RouteEntry]]] = {item.port: {} for item in self.listeners}
        self.actions: list[tuple[RouteEntry, ActionSet]] = []
        self.rules: dict[str, AuthRules] = {}
        self.secrets: set[Name] = {item.certificate for item in self.listeners if item.certificate}

    def build(self) -> None:
        for route in sorted(self.snapshot.all("HTTPRoute"), key=_age):
            self._note_credentials(route)
            for listener in self.listeners:
                if self._attaches(route, listener):
                    self._route(route, listener)
        for hosts in self.entries.values():
            for entries in hosts.values():
                entries.sort(key=lambda entry: precedence(entry.match))

    def _note_credentials(self, route: Object) -> None:
        namespace = name_of(route)[0]
        for rule in (route.get("spec") or {}).get("rules") or []:
            for item in rule.get("filters") or []:
                reference = item.get("extensionRef") or {}
                found = self.snapshot.get("HTTPRouteFilter", namespace, reference.get("name", ""))
                injection = ((found or {}).get("spec") or {}).get("credentialInjection")
                if injection:
                    value = injection["credential"]["valueRef"]
                    self.secrets.add((value.get("namespace") or namespace, value["name"]))

    def _attaches(self, route: Object, listener: Listener) -> bool:
        namespace = name_of(route)[0]
        for parent in (route.get("spec") or {}).get("parentRefs") or []:
            if (
                _refers_to(parent, namespace, self.name)
                and parent.get("sectionName") in (None, listener.name)
                and parent.get("port") in (None, listener.port)
                and _accepted(route, parent, self.name)
                and _allows(listener, self.name, namespace)
            ):
                return True
        return False

    def _route(self, route: Object, listener: Listener) -> None:
        spec = route.get("spec") or {}
        hosts = _hosts_on(listener, spec.get("hostnames") or [])
        name = name_of(route)
        ai = _ai_route(self.snapshot, name) if self.ai_active else None
        for index, rule in enumerate(spec.get("rules") or [{}]):
            policy = _traffic_policy(self.snapshot, self.name, name, rule.get("name"), listener.name)
            for position, match in enumerate(rule.get("matches") or [{}]):
                entry = self._entry(name, index, position, rule, match_of(match), ai)
                entry = self._limited(entry, policy, listener)
                for host in hosts:
                    self.entries[listener.port].setdefault(host, []).append(entry)
                self._action(entry, rule.get("name"), listener, hosts)

    def _entry(
        self, name: Name, index: int, position: int, rule: Mapping[str, Any], match: Match, ai: AiRoute | None
    ) -> RouteEntry:
        filters = _filters(self.snapshot, name[0], rule.get("filters"))
        foreign = _attached(self.snapshot, "EnvoyExtensionPolicy", "HTTPRoute", name) or (
            _attached(self.snapshot, "EnvoyExtensionPolicy", "HTTPRoute", name, rule["name"])
            if rule.get("name")
            else []
        )
        timeouts = rule.get("timeouts") or {}
        entry = RouteEntry(
            route=name,
            rule=index,
            index=position,
            match=match,
            backends=tuple(_backend(self.snapshot, name[0], item) for item in rule.get("backendRefs") or []),
            timeout=duration(timeouts.get("request"), _DEFAULT_TIMEOUT),
            ai=ai,
            wasm=not foreign,
            **filters.entry,
        )
        if not entry.backends and not entry.direct and not entry.redirect:
            entry = replace(entry, direct=_ENVOY_500)
        return entry

    def _limited(self, entry: RouteEntry, policy: Object | None, listener: Listener) -> RouteEntry:
        if policy is None or entry.direct or entry.redirect:
            return entry
        domain = "/".join((*self.name, listener.name))
        limits = _global_limits(policy, domain, f"httproute/{entry.label}")
        if limits is None:
            return entry
        if not self.limits_enabled:
            # Envoy Gateway cannot honour the policy, and closes its routes rather than leave them unlimited.
            return replace(entry, direct=_ENVOY_500)
        return replace(entry, limits=limits)

    def _action(self, entry: RouteEntry, rule: str | None, listener: Listener, hosts: tuple[str, ...]) -> None:
        route_rule = rule or f"rule-{entry.rule + 1}"
        way = [
            Place("Gateway", *self.name),
            Place("Gateway", *self.name, listener.name),
            Place("HTTPRoute", *entry.route),
            Place("HTTPRoute", *entry.route, route_rule),
        ]
        auth = auth_rules(
            "/".join((*self.name, listener.name, *entry.route, route_rule)),
            effective_at(self.snapshot, "AuthPolicy", way),
        )
        namespace = "/".join(entry.route)
        requests = limit_set(namespace, effective_at(self.snapshot, "RateLimitPolicy", way))
        tokens = limit_set(namespace, effective_at(self.snapshot, "TokenRateLimitPolicy", way))
        if auth is None and requests is None and tokens is None:
            return
        if auth is not None:
            self.rules[auth.key] = auth
        self.actions.append((entry, ActionSet(hosts, entry.match, auth, requests, tokens)))

    def wasm(self) -> WasmFilter:
        index: dict[str, list[ActionSet]] = {}
        for _, action in sorted(self.actions, key=lambda item: precedence(item[0].match)):
            for host in action.hosts:
                index.setdefault(host, []).append(action)
        return WasmFilter(
            present=_wasm_on_gateway(self.snapshot, self.name),
            auth_cluster=_patched(self.snapshot, self.name, f"kuadrant-auth-{self.name[1]}"),
            limit_cluster=_patched(self.snapshot, self.name, f"kuadrant-ratelimiting-{self.name[1]}"),
            index={host: tuple(actions) for host, actions in index.items()},
        )

    def ports(self) -> Iterator[PortConfig]:
        wasm, models = self.wasm(), _declared_models(self.snapshot, self.name)
        for port, hosts in self.entries.items():
            listener = next(item for item in self.listeners if item.port == port)
            certificate = None
            if listener.certificate:
                chain = _secret_value(self.snapshot, *listener.certificate, "tls.crt")
                key = _secret_value(self.snapshot, *listener.certificate, "tls.key")
                certificate = (chain.encode(), key.encode()) if chain and key else None
            for address in self.addresses:
                yield PortConfig(
                    gateway=self.name,
                    address=address,
                    port=port,
                    hosts=build_virtual_hosts(hosts),
                    client=_client_settings(self.snapshot, self.name, listener.name),
                    wasm=wasm,
                    models=models,
                    certificate=certificate,
                    tls=listener.tls,
                )


def translate(snapshot: Snapshot) -> Config:
    """The configuration that this snapshot asks for."""
    kuadrant, secrets = kuadrant_state(snapshot)
    service, more = rate_limit_service(snapshot)
    secrets |= more
    ports: dict[tuple[str, int], PortConfig] = {}
    rules: dict[str, AuthRules] = {}
    for gateway in sorted(snapshot.all("Gateway"), key=_age):
        if not is_true((gateway.get("status") or {}).get("conditions"), "Programmed"):
            continue
        builder = _Builder(snapshot, gateway)
        builder.build()
        for config in builder.ports():
            if config.tls and config.certificate is None:
                continue
            ports.setdefault((config.address, config.port), config)
        rules.update(builder.rules)
        secrets |= builder.secrets
    return Config(ports, kuadrant, service, tuple(rules.values()), frozenset(secrets))


def describe(config: Config) -> str:
    """One line for the log."""
    served = ", ".join(f"{address}:{port}" for address, port in sorted(config.ports)) or "nothing"
    routes = sum(
        len(entries)
        for port in config.ports.values()
        for entries in [*port.hosts.exact.values(), *(e for _, e in port.hosts.wildcard), port.hosts.default or ()]
    )
    actions = sum(len(found) for port in config.ports.values() for found in port.wasm.index.values())
    return (
        f"serving {served}; {routes} routes, {actions} of them under policies; "
        f"authorino {'up' if config.kuadrant.authorino_available else 'down'}, "
        f"limitador {'up' if config.kuadrant.limitador_available else 'down'} "
        f"({config.kuadrant.storage.kind}), token service "
        f"{'absent' if config.rate_limit is None else 'up' if config.rate_limit.available else 'down'}"
    )
