# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway for tests: the real server on loopback, fed by a fake object store, with real Redis and model servers."""

from __future__ import annotations

import asyncio
import base64
import copy
import http.client
import json
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from lab.gateway.modelserver import ModelServer, Settings
from lab.gateway.objects import Store
from lab.gateway.plane import Plane
from lab.gateway.server import Listeners, Proxy
from lab.gateway.translate import translate
from tests.ports import free_port

Doc = dict[str, Any]

NAMESPACE = "token-labs"
GATEWAY = "token-labs-gateway"
KUADRANT = "kuadrant-system"
EG = "envoy-gateway-system"
MODELS = ("small", "large")
TIERS = {"enterprise": 1000, "free": 10, "pro": 100}
TOKENS = {"enterprise": 500000, "free": 5000, "pro": 50000}
REDIS_PASSWORD = "a-password-of-the-test"


# --- documents ------------------------------------------------------------------------------------


def meta(name: str, namespace: str = NAMESPACE, **more: Any) -> Doc:
    return {"name": name, "namespace": namespace, "uid": f"uid-{namespace}-{name}", **more}


def true(*names: str) -> list[Doc]:
    return [{"type": name, "status": "True"} for name in names]


def gateway_doc(port: int, hostname: str | None = None) -> Doc:
    listener = {
        "name": "http",
        "port": port,
        "protocol": "HTTP",
        "allowedRoutes": {"namespaces": {"from": "All"}},
        **({"hostname": hostname} if hostname else {}),
    }
    return {
        "metadata": meta(GATEWAY),
        "spec": {"gatewayClassName": "eg", "listeners": [listener]},
        "status": {"addresses": [{"type": "IPAddress", "value": "127.0.0.1"}], "conditions": true("Programmed")},
    }


def route_doc(name: str, rules: list[Doc], hostnames: list[str] | None = None, namespace: str = NAMESPACE) -> Doc:
    parent = {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        "name": GATEWAY,
        "namespace": NAMESPACE,
    }
    return {
        "metadata": meta(name, namespace, creationTimestamp="2026-01-01T00:00:00Z"),
        "spec": {"parentRefs": [parent], "rules": rules, **({"hostnames": hostnames} if hostnames else {})},
        "status": {"parents": [{"parentRef": parent, "conditions": true("Accepted", "ResolvedRefs")}]},
    }


def extension_filter(name: str) -> Doc:
    reference = {"group": "gateway.envoyproxy.io", "kind": "HTTPRouteFilter", "name": name}
    return {"type": "ExtensionRef", "extensionRef": reference}


def direct_filter(name: str, status: int, body: str, content_type: str | None = None) -> Doc:
    direct: Doc = {"statusCode": status, "body": {"type": "Inline", "inline": body}}
    if content_type:
        direct["contentType"] = content_type
    return {"metadata": meta(name), "spec": {"directResponse": direct}}


AUTHORINO_LABELS = {"authorino-resource": "authorino"}
MODELS_BODY = '{"object":"list","data":[{"id":"small","object":"model"},{"id":"large","object":"model"}]}'


def models_route() -> list[tuple[str, Doc]]:
    rule = {"matches": [{"path": {"type": "Exact", "value": "/v1/models"}}], "filters": [extension_filter("models")]}
    return [
        ("HTTPRouteFilter", direct_filter("models", 200, MODELS_BODY, "application/json")),
        ("HTTPRoute", route_doc("models", [rule])),
    ]


def ai_route(costs: bool = True, models: Iterable[str] = MODELS) -> list[tuple[str, Doc]]:
    """An AIGatewayRoute, and what its controller makes of it."""
    matches = {model: [{"headers": [{"name": "x-ai-eg-model", "type": "Exact", "value": model}]}] for model in models}
    reference = {"group": "inference.networking.k8s.io", "kind": "InferencePool"}
    spec: Doc = {
        "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY}],
        "rules": [
            {"matches": match, "backendRefs": [{**reference, "name": f"pool-{model}"}]}
            for model, match in matches.items()
        ],
    }
    if costs:
        spec["llmRequestCosts"] = [{"metadataKey": "llm_total_token", "type": "TotalToken"}]
    rules = [
        {
            "matches": [{**match[0], "path": {"type": "PathPrefix", "value": "/"}}],
            "filters": [extension_filter("ai-eg-host-rewrite-llm-inference")],
            "backendRefs": [{**reference, "name": f"pool-{model}", "namespace": NAMESPACE}],
            "timeouts": {"request": "60s"},
        }
        for model, match in matches.items()
    ]
    rules.append(
        {
            "name": "route-not-found",
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
            "filters": [extension_filter("ai-eg-route-not-found-response-llm-inference")],
        }
    )
    rewrite = {"urlRewrite": {"hostname": {"type": "Backend"}}}
    return [
        ("AIGatewayRoute", {"metadata": meta("llm-inference", creationTimestamp="2026-01-01T00:00:00Z"), "spec": spec}),
        ("HTTPRouteFilter", {"metadata": meta("ai-eg-host-rewrite-llm-inference"), "spec": rewrite}),
        (
            "HTTPRouteFilter",
            direct_filter("ai-eg-route-not-found-response-llm-inference", 404, "No matching route found."),
        ),
        ("HTTPRoute", route_doc("llm-inference", rules)),
    ]


def plain_route(name: str = "llm-inference", model: str = "small", hostnames: list[str] | None = None) -> Doc:
    """The same models behind a plain HTTPRoute (way A of the measurements)."""
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
        "backendRefs": [{"kind": "Service", "name": f"ms-{model}", "port": 8000}],
    }
    return route_doc(name, [rule], hostnames)


AUTH = """
targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: token-labs-gateway}
overrides:
  rules:
    authentication:
      keys:
        apiKey:
          selector:
            matchLabels: {authorino.kuadrant.io/managed-by: authorino, app: token-labs, tokenlabs.io/state: active}
        credentials: {authorizationHeader: {prefix: Bearer}}
        overrides:
          tier: {expression: 'auth.identity.metadata.annotations["kuadrant.io/groups"]'}
          tenant: {expression: 'auth.identity.metadata.annotations["secret.kuadrant.io/user-id"]'}
    authorization:
      tier: {patternMatching: {patterns: [{predicate: 'auth.identity.tier in ["free", "pro", "enterprise"]'}]}}
      tenant: {patternMatching: {patterns: [{predicate: 'auth.identity.tenant.matches("^[a-z0-9][-a-z0-9]*$")'}]}}
      paths:
        patternMatching:
          patterns:
          - predicate: >-
              request.url_path in ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"]
    response:
      success:
        filters:
          identity:
            json:
              properties:
                groups: {expression: auth.identity.tier}
                userid: {expression: auth.identity.tenant}
        headers:
          x-tokenlabs-tenant: {plain: {expression: auth.identity.tenant}}
          x-tokenlabs-tier: {plain: {expression: auth.identity.tier}}
          authorization: {plain: {expression: '"Bearer redacted"'}}
      unauthenticated:
        code: 401
        headers: {content-type: {value: application/json}}
        body: {value: '{"error":{"message":"no such key","type":"invalid_request_error","code":"invalid_api_key"}}'}
      unauthorized:
        code: 403
        headers: {content-type: {value: application/json}}
        body: {value: '{"error":{"message":"not allowed","type":"permission_error","code":"permission_denied"}}'}
"""


def auth_policy() -> Doc:
    return {
        "metadata": meta("token-labs-auth"),
        "spec": yaml.safe_load(AUTH),
        "status": {"conditions": true("Accepted", "Enforced")},
    }


def _limits(table: Mapping[str, int], day: int) -> Doc:
    return {
        tier: {
            "rates": [{"limit": limit, "window": "1m"}, {"limit": limit * day, "window": "24h"}],
            "when": [{"predicate": f'auth.identity.groups == "{tier}"'}],
            "counters": [{"expression": "auth.identity.userid"}],
        }
        for tier, limit in table.items()
    }


def request_policy() -> Doc:
    return {
        "metadata": meta("token-labs-request-limits"),
        "spec": {
            "targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY},
            "overrides": {"limits": _limits(TIERS, 50)},
        },
        "status": {"conditions": true("Accepted", "Enforced")},
    }


def token_policy(tiers: Iterable[str] = tuple(TOKENS), target: str = "llm-inference") -> Doc:
    kind = "Gateway" if target == GATEWAY else "HTTPRoute"
    return {
        "metadata": meta("token-labs-token-limits"),
        "spec": {
            "targetRef": {"group": "gateway.networking.k8s.io", "kind": kind, "name": target},
            "limits": _limits({tier: TOKENS[tier] for tier in tiers}, 10),
        },
        "status": {"conditions": true("Accepted", "Enforced")},
    }


def traffic_policy(shared: bool = True) -> Doc:
    """Token limits by Envoy Gateway."""
    rules = []
    for tier, limit in TOKENS.items():
        for unit, factor in (("Minute", 1), ("Day", 10)):
            headers = [
                {"name": "x-tokenlabs-tier", "type": "Exact", "value": tier},
                {"name": "x-tokenlabs-tenant", "type": "Distinct"},
            ]
            metadata = {"namespace": "io.envoy.ai_gateway", "key": "llm_total_token"}
            rules.append(
                {
                    "clientSelectors": [{"headers": headers}],
                    "limit": {"requests": limit * factor, "unit": unit},
                    "cost": {
                        "request": {"from": "Number", "number": 0},
                        "response": {"from": "Metadata", "metadata": metadata},
                    },
                    **({"shared": True} if shared else {}),
                }
            )
    target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "llm-inference"}
    return {
        "metadata": meta("token-labs-token-limits"),
        "spec": {"targetRefs": [target], "rateLimit": {"type": "Global", "global": {"rules": rules}}},
        "status": {"ancestors": [{"conditions": true("Accepted")}]},
    }


MANAGED_BY, STATE = "authorino.kuadrant.io/managed-by", "tokenlabs.io/state"


def tenant_secret(
    name: str, key: str, tier: str | None, tenant: str | None, labels: Mapping[str, str | None] | None = None
) -> Doc:
    wanted: dict[str, str | None] = {
        MANAGED_BY: "authorino",
        "app": "token-labs",
        STATE: "active",
        **(labels or {}),
    }
    annotations = {"kuadrant.io/groups": tier, "secret.kuadrant.io/user-id": tenant}
    return {
        "metadata": meta(
            name,
            KUADRANT,
            labels={label: value for label, value in wanted.items() if value is not None},
            annotations={key: value for key, value in annotations.items() if value is not None},
        ),
        "data": {"api_key": base64.b64encode(key.encode()).decode()},
    }


def deployment(name: str, namespace: str, replicas: int = 1, *, labels: Mapping[str, str] | None = None) -> Doc:
    return {
        "metadata": meta(name, namespace),
        "spec": {"replicas": replicas, "selector": {"matchLabels": dict(labels or {"app": name})}},
        "status": {"availableReplicas": replicas},
    }


def pod(name: str, namespace: str, labels: Mapping[str, str], ip: str = "127.0.0.1") -> Doc:
    return {
        "metadata": meta(name, namespace, labels=dict(labels)),
        "status": {"phase": "Running", "podIP": ip, "conditions": true("Ready")},
    }


def service(name: str, namespace: str, port: int, target: int, ip: str = "127.0.0.1") -> list[tuple[str, Doc]]:
    return [
        (
            "Service",
            {"metadata": meta(name, namespace), "spec": {"ports": [{"name": "main", "port": port}]}},
        ),
        (
            "EndpointSlice",
            {
                "metadata": meta(f"{name}-x", namespace, labels={"kubernetes.io/service-name": name}),
                "endpoints": [{"addresses": [ip], "conditions": {"ready": True}}],
                "ports": [{"name": "main", "port": target}],
            },
        ),
    ]


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# --- processes ------------------------------------------------------------------------------------


class RedisProcess:
    """A Redis of one's own on loopback, with a password and without persistence."""

    def __init__(self) -> None:
        self.port = free_port()
        self._directory = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisProcess:
        config = Path(self._directory.name) / "redis.conf"
        config.write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {self._directory.name}\nsave ''\nappendonly no\n"
            f"requirepass {REDIS_PASSWORD}\n"
        )
        self._process = subprocess.Popen(
            ["redis-server", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                self.command("PING")
                return self
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def close(self) -> None:
        self.stop()
        self._directory.cleanup()

    def command(self, *words: str, database: int = 0) -> bytes:
        """One command over a connection of its own; the raw answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as sock:
            for command in (("AUTH", REDIS_PASSWORD), ("SELECT", str(database)), words):
                parts = b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in command)
                sock.sendall(b"*%d\r\n" % len(command) + parts)
                answer = sock.recv(1 << 20)
        return answer

    def counters(self, pattern: str = "*") -> dict[str, int]:
        """Limitador's counters (database 1) and the rate limit service's (0) whose names match."""
        found = {}
        for database in (0, 1):
            listing = self.command("KEYS", pattern, database=database).decode().split("\r\n")
            for key in [line for line in listing if line and line[0] not in "*$"]:
                found[key] = int(self.command("GET", key, database=database).split(b"\r\n")[1])
        return found

    def value(self, pattern: str) -> int:
        return sum(self.counters(pattern).values())


# --- answers --------------------------------------------------------------------------------------


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """A keep-alive connection to the gateway."""

    def __init__(self, port: int, timeout: float = 5.0) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        key: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        host: str = "gateway.test",
    ) -> Answer:
        self.send(path, body, method=method, key=key, headers=headers, host=host)
        return self.receive()

    def send(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        key: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        host: str = "gateway.test",
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        self._http.putrequest(method or ("POST" if data else "GET"), path, skip_host=True, skip_accept_encoding=True)
        self._http.putheader("Host", host)
        if key is not None:
            self._http.putheader("Authorization", f"Bearer {key}")
        for name, value in headers:
            self._http.putheader(name, value)
        if data:
            if "content-type" not in {name.lower() for name, _ in headers}:
                self._http.putheader("Content-Type", "application/json")
            self._http.putheader("Content-Length", str(len(data)))
        self._http.endheaders(data or None)

    def receive(self) -> Answer:
        answer = self._http.getresponse()
        return Answer(answer.status, answer.getheaders(), answer.read())

    def receive_head(self) -> http.client.HTTPResponse:
        return self._http.getresponse()

    def close(self) -> None:
        self._http.close()


def chat(model: str = "small", tokens: int = 8, words: int = 2, **more: Any) -> Doc:
    """A chat whose usage is ``tokens`` + ``words``."""
    content = " ".join(["word"] * words)
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": tokens, **more}


def costing(total: int, model: str = "small", **more: Any) -> Doc:
    return chat(model, tokens=total - 2, words=2, **more)


# --- the lab --------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Lab:
    """The data plane in a thread, and a store that tests change like a cluster."""

    redis: RedisProcess
    event_delay: float = 0.0
    force_usage: bool = False
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.port = free_port()
        self.store = Store()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.models: dict[str, ModelServer] = {}
        self.model_ports: dict[str, int] = {}
        self._runners: list[web.AppRunner] = []
        self._connections: list[Connection] = []
        self.run(self._start())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return future.result(20)

    async def _start(self) -> None:
        self.plane = Plane(clock=self.clock)
        self.proxy = Proxy(self.plane)
        self.listeners = Listeners(self.proxy)
        self.store.on_secret.append(self.plane.rings.event)
        await self.proxy.start()
        for model in MODELS:
            server = ModelServer(Settings((model,), self.force_usage, self.event_delay))
            runner = web.AppRunner(server.app(), shutdown_timeout=0.1)
            await runner.setup()
            port = free_port()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            self.models[model], self.model_ports[model] = server, port
            self._runners.append(runner)

    def close(self) -> None:
        async def stop() -> None:
            await self.listeners.close()
            await self.proxy.close()
            await self.plane.close()
            for runner in self._runners:
                await runner.cleanup()

        for connection in self._connections:
            connection.close()
        self.run(stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    # --- the cluster ---

    async def _sync(self) -> None:
        await self.plane.apply(translate(self.store.snapshot()), lambda: self.store.kinds.get("Secret", {}).values())
        await self.listeners.reconcile()
        async with asyncio.timeout(15):
            while self.listeners.bound != set(self.plane.config.ports):
                await asyncio.sleep(0.005)

    def sync(self) -> None:
        self.run(self._sync())

    def put(self, *documents: tuple[str, Doc]) -> None:
        """Change the cluster, and let the data plane take it over."""

        async def change() -> None:
            for kind, document in documents:
                self.store.put(kind, copy.deepcopy(document))
            await self._sync()

        self.run(change())

    def remove(self, kind: str, name: str, namespace: str = NAMESPACE) -> None:
        async def change() -> None:
            self.store.remove(kind, (namespace, name))
            await self._sync()

        self.run(change())

    def get(self, kind: str, name: str, namespace: str = NAMESPACE) -> Doc:
        return copy.deepcopy(self.store.kinds[kind][namespace, name])

    # --- standard parts ---

    def base(self, hostname: str | None = None) -> list[tuple[str, Doc]]:
        """Gateway, Kuadrant's filter and components, pools and workers; no route and no policy."""
        documents: list[tuple[str, Doc]] = [
            ("Gateway", gateway_doc(self.port, hostname)),
            ("Kuadrant", {"metadata": meta("kuadrant", KUADRANT)}),
            ("Authorino", {"metadata": meta("authorino", KUADRANT)}),
            ("Deployment", deployment("authorino", KUADRANT, labels=AUTHORINO_LABELS)),
            ("Pod", pod("authorino-1", KUADRANT, {"authorino-resource": "authorino"})),
            ("Deployment", deployment("limitador-limitador", KUADRANT, labels={"app": "limitador"})),
            ("Pod", pod("limitador-1", KUADRANT, {"app": "limitador"})),
            ("Limitador", self.limitador()),
            ("Secret", {"metadata": meta("limitador-redis", KUADRANT), "data": {"URL": b64(self.limitador_url())}}),
            *service("redis", "redis-system", 6379, self.redis.port),
        ]
        for name in ("EnvoyExtensionPolicy", "EnvoyPatchPolicy"):
            documents += self.kuadrant_objects(name)
        for model in MODELS:
            port = self.model_ports[model]
            labels = {"llm-d.ai/model": model}
            picker = {"name": f"epp-{model}", "port": {"number": 9002}}
            pool = {"selector": {"matchLabels": labels}, "targetPorts": [{"number": port}], "endpointPickerRef": picker}
            documents += [
                ("InferencePool", {"metadata": meta(f"pool-{model}"), "spec": pool}),
                ("Pod", pod(f"ms-{model}-1", NAMESPACE, labels)),
                *service(f"epp-{model}", NAMESPACE, 9002, 9002),
                *service(f"ms-{model}", NAMESPACE, 8000, port),
            ]
        return documents

    @staticmethod
    def kuadrant_objects(kind: str) -> list[tuple[str, Doc]]:
        target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY}
        if kind == "EnvoyExtensionPolicy":
            spec = {"targetRefs": [target], "wasm": [{"name": "kuadrant-wasm-shim"}]}
            created = "2026-01-01T00:00:00Z"
            return [(kind, {"metadata": meta(f"kuadrant-{GATEWAY}", creationTimestamp=created), "spec": spec})]
        return [
            (kind, {"metadata": meta(f"kuadrant-{part}-{GATEWAY}"), "spec": {"targetRef": target}})
            for part in ("auth", "ratelimiting")
        ]

    def limitador_url(self) -> str:
        return f"redis://:{REDIS_PASSWORD}@redis.redis-system.svc.cluster.local:6379/1"

    @staticmethod
    def limitador(redis: bool = True, headers: bool = True) -> Doc:
        storage = {"storage": {"redis": {"configSecretRef": {"name": "limitador-redis"}}}} if redis else {}
        extra = {"rateLimitHeaders": "DRAFT_VERSION_03"} if headers else {}
        return {"metadata": meta("limitador", KUADRANT), "spec": {**storage, **extra}}

    @staticmethod
    def token_service(fail_closed: bool = False, available: bool = True) -> list[tuple[str, Doc]]:
        reference = {"secretKeyRef": {"name": "ratelimit-redis", "key": "password"}}
        container = {"env": [{"name": "REDIS_AUTH", "valueFrom": reference}]}
        document = {
            "provider": {"type": "Kubernetes", "kubernetes": {"rateLimitDeployment": {"container": container}}},
            "extensionManager": {"service": {"fqdn": {"hostname": "ai-gateway-controller", "port": 1063}}},
            "rateLimit": {
                "backend": {"type": "Redis", "redis": {"url": "redis.redis-system.svc.cluster.local:6379"}},
                "timeout": "200ms",
                "failClosed": fail_closed,
            },
        }
        return [
            (
                "ConfigMap",
                {
                    "metadata": meta("envoy-gateway-config", EG),
                    "data": {"envoy-gateway.yaml": yaml.safe_dump(document)},
                },
            ),
            ("Secret", {"metadata": meta("ratelimit-redis", EG), "data": {"password": b64(REDIS_PASSWORD)}}),
            ("Deployment", deployment("envoy-ratelimit", EG, replicas=1 if available else 0)),
        ]

    @staticmethod
    def tenants() -> list[tuple[str, Doc]]:
        return [
            ("Secret", tenant_secret("tenant-acme-1", "key-acme", "free", "acme")),
            ("Secret", tenant_secret("tenant-acme-2", "key-acme-too", "free", "acme")),
            ("Secret", tenant_secret("tenant-other-1", "key-other", "free", "other")),
            ("Secret", tenant_secret("tenant-pro-1", "key-pro", "pro", "pros")),
            ("Secret", tenant_secret("tenant-big-1", "key-big", "enterprise", "bigs")),
        ]

    def standard(self, tokens: str = "envoy", way: str = "B", hostname: str | None = None) -> Lab:
        """The platform as the collection builds it."""
        route = ai_route() if way == "B" else [("HTTPRoute", plain_route())]
        documents = [*self.base(hostname), *self.tenants(), *self.token_service()]
        documents += [("AuthPolicy", auth_policy()), ("RateLimitPolicy", request_policy())]
        if tokens == "envoy":
            documents.append(("BackendTrafficPolicy", traffic_policy()))
        elif tokens == "kuadrant":
            documents.append(("TokenRateLimitPolicy", token_policy()))
        self.put(*documents, *route, *(models_route() if way == "B" else []))
        return self

    # --- requests ---

    def connect(self, timeout: float = 5.0) -> Connection:
        connection = Connection(self.port, timeout)
        self._connections.append(connection)
        return connection

    def ask(self, path: str, body: Any = None, **options: Any) -> Answer:
        connection = Connection(self.port)
        try:
            return connection.ask(path, body, **options)
        finally:
            connection.close()

    def chat(self, key: str | None = "key-pro", **body: Any) -> Answer:
        return self.ask("/v1/chat/completions", chat(**body), key=key)

    def spend(self, total: int, key: str, **body: Any) -> Answer:
        return self.ask("/v1/chat/completions", costing(total, **body), key=key)


Make = Callable[..., Lab]
