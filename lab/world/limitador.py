# SPDX-License-Identifier: GPL-3.0-or-later
"""Limitador's HTTP side, as a program: the counters that the data plane keeps in Redis, as upstream tells them.

Counting itself is the data plane's (lab/gateway). What upstream has in memory is not told here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from redis import Redis
from redis.exceptions import RedisError

from lab.gateway.limits import UNITS
from lab.world.api import Api, Json

POLICIES = (
    "/apis/kuadrant.io/v1/ratelimitpolicies",
    "/apis/kuadrant.io/v1alpha1/tokenratelimitpolicies",
)
_WINDOW = re.compile(r"(\d+)(h|m|s|ms)")
_SECONDS = {"h": UNITS["Hour"], "m": UNITS["Minute"], "s": 1, "ms": 0}


def seconds(window: str) -> int:
    return sum(int(number) * _SECONDS[unit] for number, unit in _WINDOW.findall(window))


def maxima(policies: list[Json]) -> dict[tuple[str, str, int], int]:
    """(policy, limit, seconds) -> how many."""
    found = {}
    for policy in policies:
        name = f"{policy['metadata']['namespace']}/{policy['metadata']['name']}"
        spec = policy["spec"]
        limits = spec.get("limits") or (spec.get("overrides") or spec.get("defaults") or {}).get("limits") or {}
        for limit, rules in limits.items():
            for rate in rules.get("rates") or []:
                found[name, limit, seconds(rate["window"])] = rate["limit"]
    return found


def counter(key: str, value: int, expires: int, known: dict[tuple[str, str, int], int]) -> Json | None:
    """A counter of Redis as upstream tells it; an overshoot wraps around, as in 2.4."""
    namespace, _comma, rest = key.partition(",counter:")
    policy, name, window, variables = json.loads(rest)
    most = known.get((policy, name, window))
    if most is None:
        return None
    return {
        "limit": {
            "namespace": namespace.removeprefix("namespace:{").removesuffix("}"),
            "max_value": most,
            "seconds": window,
            "name": name,
            "variables": sorted(variables),
        },
        "set_variables": variables,
        "remaining": (most - value) % 2**64,
        "expires_in_seconds": expires,
    }


def counters(redis: Redis, namespace: str, known: dict[tuple[str, str, int], int]) -> Iterator[Json]:
    for raw in redis.scan_iter(match=f"namespace:{{{namespace}}},counter:*", count=1000):
        key = raw.decode()
        value, left = redis.get(key), redis.ttl(key)
        if value is not None and (found := counter(key, int(value), max(int(left), 0), known)):  # type: ignore[arg-type]
            yield found


class Limitador:
    """Answers what is asked over HTTP."""

    def __init__(self, api: Api, url: str) -> None:
        self.api, self.url = api, url

    def answer(self, path: str) -> Any:
        """The body for a path; None for what is not there."""
        if path == "/status":
            return {"status": "ok"}
        match = re.fullmatch(r"/counters/([^/]+)", path)
        if not match:
            return None
        if not self.url:
            return []
        known = maxima([each for root in POLICIES for each in self.api.request("GET", root)["items"]])
        return list(counters(self._redis(), unquote(match[1]), known))

    def _redis(self) -> Redis:
        """The URL may name a Service, which no resolver here finds."""
        redis = Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2)
        service = re.fullmatch(r"([^.]+)\.([^.]+)(\.svc(\.cluster\.local)?)?", urlsplit(self.url).hostname or "")
        if service:
            path = f"/apis/discovery.k8s.io/v1/namespaces/{service[2]}/endpointslices"
            query = {"labelSelector": f"kubernetes.io/service-name={service[1]}"}
            slices = self.api.request("GET", path, query=query)["items"]
            endpoints = (endpoint for each in slices for endpoint in each.get("endpoints") or [])
            address = next((address for endpoint in endpoints for address in endpoint["addresses"]), "127.0.0.1")
            redis.connection_pool.connection_kwargs["host"] = address
        return redis


def serve(address: str, port: int, limitador: Limitador) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                body, status = limitador.answer(self.path), 200
            except RedisError:
                body, status = "the store cannot be asked", 500
            data = json.dumps(body).encode()
            self.send_response(404 if body is None else status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    Server((address, port), Handler).serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    options = parser.parse_args()
    api = Api(os.environ["KUBECONFIG"], "lab-limitador")
    serve(options.address, 8080, Limitador(api, os.environ.get("LIMITADOR_OPERATOR_REDIS_URL", "").strip()))


if __name__ == "__main__":
    main()
