# SPDX-License-Identifier: GPL-3.0-or-later
"""From the cluster's objects to the configuration of the data plane. A pure function of the snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .components import kuadrant_state
from .endpoints import age, duration, secret_value, service_addresses
from .envoygateway import (
    attached,
    client_settings,
    cors_of,
    envoy_gateway_document,
    global_limits,
    most_specific,
    overrides_of,
    patched,
    rate_limit_service,
    wasm_on_gateway,
)
from .model import ActionSet, Address, AiRoute, AuthRules, Config, Match, PortConfig, RouteEntry, WasmFilter
from .objects import Name, Object, Snapshot, is_true, labels_of, name_of
from .policies import Place, auth_rules, effective_at, limit_set
from .routerules import ENVOY_500, ai_route, backend_of, declared_models, filters_of, match_of, refers_to
from .routing import build_virtual_hosts, precedence

_DEFAULT_TIMEOUT = 15.0


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


def _accepted(route: Object, parent: Mapping[str, Any], gateway: Name) -> bool:
    """The parent's verdict on the route, from its status."""
    namespace = name_of(route)[0]
    for status in (route.get("status") or {}).get("parents") or []:
        reference = status.get("parentRef") or {}
        if (
            refers_to(reference, namespace, gateway)
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
        self.behind_hosts = bool((gateway.get("spec") or {}).get("addresses"))
        document = envoy_gateway_document(snapshot)
        # Without a configuration document nothing says that the AI gateway is left out.
        self.ai_active = not document or bool(document.get("extensionManager"))
        self.limits_enabled = bool(((document.get("rateLimit") or {}).get("backend") or {}).get("redis"))
        self.entries: dict[int, dict[str, list[RouteEntry]]] = {item.port: {} for item in self.listeners}
        self.actions: list[tuple[RouteEntry, ActionSet]] = []
        self.rules: dict[str, AuthRules] = {}
        self.secrets: set[Name] = {item.certificate for item in self.listeners if item.certificate}

    def build(self) -> None:
        for route in sorted(self.snapshot.all("HTTPRoute"), key=age):
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
                refers_to(parent, namespace, self.name)
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
        ai = ai_route(self.snapshot, name) if self.ai_active else None
        for index, rule in enumerate(spec.get("rules") or [{}]):
            where = (self.name, name, rule.get("name"), listener.name)
            policy = most_specific(self.snapshot, "BackendTrafficPolicy", *where)
            cors = cors_of(most_specific(self.snapshot, "SecurityPolicy", *where))
            for position, match in enumerate(rule.get("matches") or [{}]):
                entry = self._entry(name, index, position, rule, match_of(match), ai)
                entry = replace(entry, cors=cors, overrides=overrides_of(policy))
                entry = self._limited(entry, policy, listener)
                for host in hosts:
                    self.entries[listener.port].setdefault(host, []).append(entry)
                self._action(entry, rule.get("name"), listener, hosts)

    def _entry(
        self, name: Name, index: int, position: int, rule: Mapping[str, Any], match: Match, ai: AiRoute | None
    ) -> RouteEntry:
        filters = filters_of(self.snapshot, name[0], rule.get("filters"))
        foreign = attached(self.snapshot, "EnvoyExtensionPolicy", "HTTPRoute", name) or (
            attached(self.snapshot, "EnvoyExtensionPolicy", "HTTPRoute", name, rule["name"]) if rule.get("name") else []
        )
        timeouts = rule.get("timeouts") or {}
        entry = RouteEntry(
            route=name,
            rule=index,
            index=position,
            match=match,
            backends=tuple(backend_of(self.snapshot, name[0], item) for item in rule.get("backendRefs") or []),
            timeout=duration(timeouts.get("request"), _DEFAULT_TIMEOUT),
            ai=ai,
            wasm=not foreign,
            **filters.entry,
        )
        if not entry.backends and not entry.direct and not entry.redirect:
            entry = replace(entry, direct=ENVOY_500)
        return entry

    def _limited(self, entry: RouteEntry, policy: Object | None, listener: Listener) -> RouteEntry:
        if policy is None or entry.direct or entry.redirect:
            return entry
        domain = "/".join((*self.name, listener.name))
        limits = global_limits(policy, domain, f"httproute/{entry.label}")
        if limits is None:
            return entry
        if not self.limits_enabled:
            # Envoy Gateway cannot honour the policy, and closes its routes rather than leave them unlimited.
            return replace(entry, direct=ENVOY_500)
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
            present=wasm_on_gateway(self.snapshot, self.name),
            auth_cluster=patched(self.snapshot, self.name, f"kuadrant-auth-{self.name[1]}"),
            limit_cluster=patched(self.snapshot, self.name, f"kuadrant-ratelimiting-{self.name[1]}"),
            index={host: tuple(actions) for host, actions in index.items()},
        )

    def _sockets(self, port: int) -> Sequence[Address]:
        """Where Envoy takes connections: at the load balancer's addresses, or in its pods if hosts forward to them."""
        if not self.behind_hosts:
            return [Address(address, port) for address in self.addresses]
        space, name = (f"gateway.envoyproxy.io/owning-gateway-{part}" for part in ("namespace", "name"))
        owner = {space: self.name[0], name: self.name[1]}
        services = [each for each in self.snapshot.all("Service") if owner.items() <= labels_of(each).items()]
        return [address for each in services for address in service_addresses(self.snapshot, *name_of(each), port)]

    def ports(self) -> Iterator[PortConfig]:
        wasm, models = self.wasm(), declared_models(self.snapshot, self.name)
        for port, hosts in self.entries.items():
            listener = next(item for item in self.listeners if item.port == port)
            certificate = None
            if listener.certificate:
                chain = secret_value(self.snapshot, *listener.certificate, "tls.crt")
                key = secret_value(self.snapshot, *listener.certificate, "tls.key")
                certificate = (chain.encode(), key.encode()) if chain and key else None
            for socket in self._sockets(port):
                yield PortConfig(
                    gateway=self.name,
                    address=socket.host,
                    port=socket.port,
                    hosts=build_virtual_hosts(hosts),
                    client=client_settings(self.snapshot, self.name, listener.name),
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
    for gateway in sorted(snapshot.all("Gateway"), key=age):
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
