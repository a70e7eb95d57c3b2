# SPDX-License-Identifier: GPL-3.0-or-later
"""One request on its way through the filters: AI gateway, Kuadrant, global limits, router; and back."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from . import aigateway, authorino, jwt, limits
from .aigateway import MODEL_HEADER, UsageReader
from .counters import Counter, MemoryStore, RedisStore, Store, Unavailable, WindowStore
from .expressions import ExpressionError, Scope
from .model import (
    ActionSet,
    Address,
    BackendRef,
    Config,
    DirectResponse,
    LimitSet,
    PortConfig,
    RateLimitService,
    RequestView,
    RouteEntry,
    Storage,
    Target,
)
from .objects import Object
from .routing import find_action_set, find_route, normalise_path

Headers = list[tuple[str, str]]

# How long the real data plane goes on answering as if a component were away, after its return.
AUTHORINO_RECOVERY = 51.0
LIMITADOR_RECOVERY = 17.0
MAX_BODY = 64 * 1024 * 1024

_TOO_LARGE = "Payload Too Large"
_LIMITED = b"Too Many Requests\n"


@dataclass
class Inbound:
    """A request as the socket gave it. Header names are in lower case."""

    method: str
    target: str
    host: str
    headers: Headers
    peer: str
    has_body: bool
    read: Callable[[int], Awaitable[bytes | None]]  # the body, or None when it is larger than the limit
    scheme: str = "http"


@dataclass
class Reply:
    """An answer that no backend gave."""

    status: int
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    hang: bool = False  # the body comes, but the exchange never ends


@dataclass
class Journey:
    """A request that passed the filters, and what has to be done when its response is over."""

    port: PortConfig
    entry: RouteEntry
    request: RequestView
    inbound: Inbound
    headers: Headers
    body: bytes | None
    model: str = ""
    stream: bool = False
    answered: bool = False  # the client has the head of a backend's response
    response_headers: Headers = field(default_factory=list)
    cors_headers: Headers = field(default_factory=list)
    token_limits: LimitSet | None = None
    token_matches: tuple[tuple[str, tuple[Counter, ...]], ...] = ()


class Comeback:
    """A component that was there, went away and returned is used again only after a while."""

    def __init__(self, delay: float, clock: Callable[[], float]) -> None:
        self._delay, self._clock = delay, clock
        self._available = self._known = False
        self._usable_from = 0.0

    def note(self, available: bool) -> None:
        if available and not self._available and self._known:
            self._usable_from = self._clock() + self._delay
        self._known = self._known or available
        self._available = available

    @property
    def usable(self) -> bool:
        return self._available and self._clock() >= self._usable_from


def joined(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def overwritten(headers: Headers, changes: Iterable[tuple[str, str]]) -> Headers:
    changes = list(changes)
    names = {name for name, _ in changes}
    return [pair for pair in headers if pair[0] not in names] + changes


def _plain(status: int, text: str) -> Reply:
    return Reply(status, [("content-type", "text/plain")] if text else [], text.encode())


def _direct(response: DirectResponse) -> Reply:
    headers = [("content-type", response.content_type)] if response.content_type else []
    return Reply(response.status, [*headers, *response.headers], response.body)


def formatted(text: str, headers: Headers) -> str:
    """Envoy's %RESP(NAME)%: the first value of a header of the answer that is replaced, or a dash."""

    def value(found: re.Match[str]) -> str:
        return next((content for name, content in headers if name == found[1].lower()), "-")

    return re.sub(r"%RESP\(([A-Za-z0-9-]+)\)%", value, text)


def redirect_location(spec: Mapping[str, Any], request: RequestView, entry: RouteEntry, scheme: str) -> str:
    path = spec.get("path") or {}
    target = request.path
    if path.get("type") == "ReplaceFullPath":
        target = path.get("replaceFullPath") or "/"
    elif path.get("type") == "ReplacePrefixMatch":
        target = prefix_rewritten(target, entry.match.path, path.get("replacePrefixMatch") or "/")
    host = spec.get("hostname") or request.host.partition(":")[0]
    port = f":{spec['port']}" if spec.get("port") else ""
    query = f"?{request.query}" if request.query else ""
    return f"{spec.get('scheme') or scheme}://{host}{port}{target}{query}"


def prefix_rewritten(path: str, prefix: str, replacement: str) -> str:
    rest = path[len(prefix.rstrip("/")) :]
    return (replacement.rstrip("/") + rest) or "/"


class Plane:
    """The state that lives longer than a request: configuration, keys, counters, health of components."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, recovery_scale: float = 1.0) -> None:
        self.config = Config()
        self.rings = authorino.KeyRings()
        self.issuers = jwt.Issuers()
        self.memory = MemoryStore()
        self.inflight: Tally[Address] = Tally()
        self.bursts = 0
        self._auth = Comeback(AUTHORINO_RECOVERY * recovery_scale, clock)
        self._limitador = Comeback(LIMITADOR_RECOVERY * recovery_scale, clock)
        self._pods: frozenset[str] = frozenset()
        self._stores: dict[tuple[str, Address | None], RedisStore] = {}
        self._random = random.Random(1)

    async def apply(self, config: Config, secrets: Callable[[], Iterable[Object]]) -> None:
        """Take a new configuration over."""
        state = config.kuadrant
        self.rings.configure(config.auth_rules, state.authorino_namespace, secrets, state.authorino_pods)
        await self.issuers.configure(
            {item.issuer for rule in config.auth_rules for item in rule.identities if item.kind == "jwt"}
        )
        self._auth.note(state.authorino_available)
        self._limitador.note(state.limitador_available)
        pods = state.storage.generation
        if pods:
            if self._pods and not pods & self._pods:
                self.memory.clear()
            self._pods = pods
        self.config = config
        wanted = {key for key in (self._limitador_key(state.storage), self._service_key(config.rate_limit)) if key}
        for key in [key for key in self._stores if key not in wanted]:
            await self._stores.pop(key).close()

    async def close(self) -> None:
        for store in self._stores.values():
            await store.close()
        self._stores.clear()

    # --- stores ---

    @staticmethod
    def _limitador_key(storage: Storage) -> tuple[str, Address | None] | None:
        return (storage.url, storage.address) if storage.kind == "redis" and storage.url else None

    @staticmethod
    def _service_key(service: RateLimitService | None) -> tuple[str, Address | None] | None:
        return (f"service:{service.password}", service.redis) if service and service.redis else None

    def _redis(self, key: tuple[str, Address | None], url: str, password: str | None = None) -> RedisStore:
        address = key[1]
        if address is None:
            raise Unavailable("the store's name does not resolve")
        if key not in self._stores:
            self._stores[key] = RedisStore(url, (address.host, address.port), password)
        return self._stores[key]

    def _counters(self) -> Store:
        """Limitador's store, if Limitador can be asked."""
        if not self._limitador.usable:
            raise Unavailable("limitador")
        storage = self.config.kuadrant.storage
        if storage.kind == "memory":
            return self.memory
        key = self._limitador_key(storage)
        if key is None:
            raise Unavailable("the store has no address")
        return self._redis(key, storage.url)

    def _windows(self, service: RateLimitService) -> WindowStore:
        key = self._service_key(service)
        if not service.available or key is None:
            raise Unavailable("the rate limit service")
        store = self._redis(key, "rediss://" if service.tls else "redis://", password=service.password or None)
        return WindowStore(store)

    # --- the way in ---

    async def admit(self, port: PortConfig, inbound: Inbound) -> Reply | Journey:
        raw_path, _, query = inbound.target.partition("?")
        path = normalise_path(raw_path, port.client)
        if path.rejected:
            return Reply(400)
        if path.redirect is not None:
            return Reply(307, [("location", path.redirect + (f"?{query}" if query else ""))])
        request = RequestView(inbound.method, inbound.host, path.path, query, joined(inbound.headers))
        entry = find_route(port.hosts, request)
        if entry is None:
            return Reply(404)
        journey = Journey(port, entry, request, inbound, list(inbound.headers), None)
        reply = self._cors(journey)
        if reply is None and entry.ai is not None:
            reply = await self._ai_gateway(journey)
        if reply is None:
            reply = await self._kuadrant(journey)
        if reply is not None:
            return self.finished(journey, reply)
        reply = await self._global_limits(journey) or self._local(journey)
        if reply is None:
            if journey.body is None and inbound.has_body:
                journey.body = await inbound.read(MAX_BODY)
                if journey.body is None:
                    return _plain(413, _TOO_LARGE)
            return journey
        return await self.answer_locally(journey, reply)

    @staticmethod
    def _cors(journey: Journey) -> Reply | None:
        """Envoy's CORS filter: it answers what a browser asks beforehand, and marks all other answers to its pages."""
        cors, origin = journey.entry.cors, journey.request.headers.get("origin", "")
        if cors is None or not any(pattern.fullmatch(origin) for pattern in cors.origins):
            return None
        journey.cors_headers = [("access-control-allow-origin", origin)]
        if journey.request.method == "OPTIONS" and "access-control-request-method" in journey.request.headers:
            return Reply(200, list(cors.preflight))
        if cors.exposed:
            journey.cors_headers.append(("access-control-expose-headers", cors.exposed))
        return None

    async def _ai_gateway(self, journey: Journey) -> Reply | None:
        """The AI gateway's filter. It answers some requests itself: nobody has looked at a key by then."""
        assert journey.entry.ai is not None
        early = aigateway.at_request_headers(journey.request.path, journey.port.models)
        if early is not None:
            return _direct(early)
        if not journey.inbound.has_body:
            return None
        body = await journey.inbound.read(journey.port.client.buffer_limit)
        if body is None:
            return _plain(413, _TOO_LARGE)
        parsed = aigateway.parse_body(journey.request.path, body, journey.entry.ai)
        if parsed.failed:
            return Reply(500)
        journey.body, journey.model, journey.stream = parsed.body, parsed.model, parsed.stream
        self._set_headers(journey, [(MODEL_HEADER, parsed.model)])
        entry = find_route(journey.port.hosts, journey.request)
        if entry is None:
            return Reply(404)
        journey.entry = entry
        return None

    @staticmethod
    def _set_headers(journey: Journey, changes: Sequence[tuple[str, str]]) -> None:
        journey.headers = overwritten(journey.headers, changes)
        journey.request = replace(journey.request, headers=joined(journey.headers))

    async def _kuadrant(self, journey: Journey) -> Reply | None:
        wasm = journey.port.wasm
        if not wasm.present or not journey.entry.wasm:
            return None
        actions = find_action_set(wasm.index, journey.request)
        if actions is None:
            return None
        before = actions.requests is not None and not actions.requests.needs_auth
        if before and (reply := await self._limit_requests(journey, actions, {})):
            return reply
        metadata: Mapping[str, Any] = {}
        if actions.auth is not None:
            rules, peer = actions.auth, journey.inbound.peer
            if authorino.applies(rules, journey.request, peer):
                if not wasm.auth_cluster or not self._auth.usable:
                    return _plain(500, "Internal Server Error.\n")
                verdict = authorino.check(rules, journey.request, peer, self.rings, self.issuers)
                if not verdict.allowed:
                    headers = list(verdict.headers)
                    if verdict.body and not any(name == "content-type" for name, _ in headers):
                        headers.append(("content-type", "text/plain"))
                    return Reply(verdict.status, headers, verdict.body.encode())
                metadata = verdict.metadata
                self._set_headers(journey, verdict.set_headers)
        if not before and (reply := await self._limit_requests(journey, actions, metadata)):
            return reply
        return await self._check_tokens(journey, actions, metadata)

    @staticmethod
    def _scope(journey: Journey, metadata: Mapping[str, Any]) -> Scope:
        variables = authorino.request_variables(journey.request, journey.inbound.peer)
        return Scope({**variables, "auth": dict(metadata)} if metadata else variables)

    async def _limit_requests(self, journey: Journey, actions: ActionSet, metadata: Mapping[str, Any]) -> Reply | None:
        if actions.requests is None or not journey.port.wasm.limit_cluster:
            return None
        counters = limits.request_counters(actions.requests, self._scope(journey, metadata))
        if not counters:
            return None
        try:
            allowed, states = await self._counters().check_and_add(counters, 1)
        except Unavailable:
            return _plain(500, "Internal Server Error.\n") if self.config.kuadrant.requests_closed else None
        headers = limits.limitador_headers(states) if self.config.kuadrant.limitador_headers else []
        if not allowed:
            return Reply(429, [("content-type", "text/plain"), *headers], _LIMITED)
        journey.response_headers += headers
        return None

    async def _check_tokens(self, journey: Journey, actions: ActionSet, metadata: Mapping[str, Any]) -> Reply | None:
        """Only the first limit that matches is looked at before the answer; all that match are charged after it."""
        if actions.tokens is None or not journey.port.wasm.limit_cluster:
            return None
        scope = self._scope(journey, metadata)
        found = []
        for limit in actions.tokens.limits:
            try:
                if all(predicate.holds(scope) for predicate in limit.when):
                    found.append((limit.name, tuple(limits.counters_of(actions.tokens.namespace, limit, scope))))
            except ExpressionError:
                continue
        journey.token_limits, journey.token_matches = actions.tokens, tuple(found)
        if not found:
            return None
        try:
            states = await self._counters().read(found[0][1])
        except Unavailable:
            return _plain(500, "Internal Server Error.\n") if self.config.kuadrant.tokens_closed else None
        if any(state.value > state.counter.maximum for state in states):
            return Reply(429, [("content-type", "text/plain")], _LIMITED)
        return None

    async def _global_limits(self, journey: Journey) -> Reply | None:
        entry, service = journey.entry, self.config.rate_limit
        if entry.limits is None or service is None:
            return None
        windows = limits.request_windows(entry.limits, journey.request, journey.inbound.peer)
        if not windows:
            return None
        started = time.monotonic()
        try:
            states = await self._windows(service).add(windows)
        except Unavailable:
            if service.fail_closed:
                return Reply(500)
            await asyncio.sleep(max(service.timeout - (time.monotonic() - started), 0))
            return None
        headers = limits.global_headers(states) if journey.port.client.rate_limit_headers else []
        # The global limits' headers stand before Limitador's: their filter is nearer to the backend.
        journey.response_headers = headers + journey.response_headers
        return Reply(429) if any(state.over for state in states) else None

    def _local(self, journey: Journey) -> Reply | None:
        """What the router answers itself."""
        entry = journey.entry
        if entry.direct is not None:
            return _direct(entry.direct)
        if entry.redirect is not None:
            location = redirect_location(entry.redirect, journey.request, entry, journey.inbound.scheme)
            return Reply(entry.redirect.get("statusCode") or 302, [("location", location)])
        return None

    # --- the way out ---

    async def answer_locally(self, journey: Journey, reply: Reply) -> Reply:
        """Take an answer of our own back through the filters that the request has passed."""
        reply.headers += journey.response_headers
        reader = UsageReader(streaming=False)
        reader.feed(reply.body)
        reader.finish()
        reply.hang = await self.settle(journey, reader, reply.status)
        return self.finished(journey, reply)

    @staticmethod
    def overridden(journey: Journey, status: int, headers: Headers) -> Reply | None:
        """The answer in place of one with this status: made anew and sent past all other filters, so none of its
        headers is left, nor what CORS would add."""
        for override in journey.entry.overrides:
            if any(low <= status <= high for low, high in override.statuses):
                body = formatted(override.body, headers)
                return Reply(override.status or status, list(override.headers), body.encode())
        return None

    def finished(self, journey: Journey, reply: Reply) -> Reply:
        """An answer of our own after the outermost filters."""
        other = self.overridden(journey, reply.status, reply.headers)
        if other is not None:
            return other
        reply.headers += journey.cors_headers
        return reply

    async def settle(self, journey: Journey, reader: UsageReader, status: int) -> bool:
        """Charge a finished response to its limits. True when the filter will now never end the response."""
        entry, service = journey.entry, self.config.rate_limit
        if entry.ai is not None and entry.limits is not None and service is not None and status == 200:
            metadata = aigateway.costs_of(entry.ai, reader.usage, journey.model)
            windows = limits.response_windows(entry.limits, journey.request, journey.inbound.peer, metadata)
            if windows:
                with suppress(Unavailable):
                    await self._windows(service).add(windows)
        return await self._report_tokens(journey, reader)

    async def _report_tokens(self, journey: Journey, reader: UsageReader) -> bool:
        if journey.token_limits is None or not journey.token_matches:
            return False
        total = reader.kuadrant_total()
        if total is None:
            # The report fails; the actions chained behind it wait for ever, and so does the end of the stream.
            last = journey.token_limits.limits[-1].name
            return any(name != last for name, _ in journey.token_matches)
        counters = [counter for _, found in journey.token_matches for counter in found]
        if total > 0:
            with suppress(Unavailable):
                await self._counters().add(counters, total)
        return False

    def lost_in_burst(self, journey: Journey) -> bool:
        """With a TokenRateLimitPolicy on an AI route, every fourth stream that comes in one burst is lost."""
        if journey.token_limits is None or not journey.token_matches or journey.entry.ai is None:
            return False
        self.bursts += 1
        return self.bursts % 4 == 0

    # --- backends ---

    def choose(self, entry: RouteEntry) -> tuple[BackendRef, Address] | Reply:
        """The backend and the endpoint for a request, or the answer when there is none."""
        weighted = [backend for backend in entry.backends if backend.weight > 0]
        if not weighted:
            return Reply(500)
        backend = self._random.choices(weighted, [item.weight for item in weighted])[0]
        if backend.kind is Target.BROKEN:
            return Reply(500)
        if backend.kind is Target.POOL:
            if not backend.picker_ready and not backend.fail_open:
                return Reply(500)
            if not backend.addresses:
                return _plain(
                    503,
                    "inference error: ServiceUnavailable - failed to find candidate pods for serving the request",
                )
        if not backend.addresses:
            return _plain(503, "no healthy upstream")
        least = min(self.inflight[address] for address in backend.addresses)
        return backend, self._random.choice([a for a in backend.addresses if self.inflight[a] == least])


def forwarded_path(entry: RouteEntry, request: RequestView) -> str:
    path = request.path
    if entry.rewrite.full_path is not None:
        path = entry.rewrite.full_path
    elif entry.rewrite.prefix is not None:
        path = prefix_rewritten(path, entry.match.path, entry.rewrite.prefix)
    return f"{path}?{request.query}" if request.query else path


_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "host",
    }
)


def forwarded_headers(journey: Journey, host: str) -> Headers:
    """The request headers that the backend sees."""
    entry, inbound = journey.entry, journey.inbound
    headers = [pair for pair in journey.headers if pair[0] not in _HOP_BY_HOP]
    changes = entry.request_headers
    headers = [pair for pair in overwritten(headers, changes.set) if pair[0] not in changes.remove]
    headers += changes.add
    if entry.credential is not None:
        name, value, overwrite = entry.credential
        if overwrite or all(pair[0] != name for pair in headers):
            headers = overwritten(headers, [(name, value)])
    return [
        ("host", host),
        *headers,
        ("x-forwarded-for", inbound.peer),
        ("x-forwarded-proto", inbound.scheme),
    ]


def answered_headers(journey: Journey, headers: Headers) -> Headers:
    """The response headers that the client sees."""
    changes = journey.entry.response_headers
    kept = [pair for pair in headers if pair[0] not in ("connection", "keep-alive", "transfer-encoding")]
    kept = [pair for pair in overwritten(kept, changes.set) if pair[0] not in changes.remove]
    return [*kept, *changes.add, *journey.response_headers, *journey.cors_headers]
