# SPDX-License-Identifier: GPL-3.0-or-later
"""prometheus-adapter with a Prometheus behind it, as a program: the custom metrics API for pods.

It knows the rules that its ConfigMap has, and of series only what some PodMonitor would have had scraped: a pod that no
monitor selects, or a port that it does not have, has no metric here either.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import ssl
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from lab.world.api import Api, ApiError, Json
from lab.world.pki import issue

GROUP = "custom.metrics.k8s.io"
ROOT = f"/apis/{GROUP}/v1beta1"
MONITORS = "/apis/monitoring.coreos.com/v1/podmonitors"
COMBINE: dict[str, Callable[[list[float]], float]] = {"sum": sum, "max": max, "min": min}
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{.*\})? (\S+)")


@dataclass(frozen=True)
class Rule:
    """A series, how its values become one, and what that is called."""

    series: str
    name: str
    combine: str


def rules(config: str) -> list[Rule]:
    """Rules for one series each; others are of no use to the platform, and are left out."""
    found = []
    for rule in yaml.safe_load(config)["rules"]:
        series = re.search(r'__name__="([^"]+)"', rule["seriesQuery"])
        combined = re.match(r"(\w+)\(", rule["metricsQuery"])
        named = rule.get("name") or {}
        if series and combined and re.fullmatch(named.get("matches", ".*"), series[1]):
            # Without a grouping the adapter takes the last series of a pod for all.
            grouped = rule["metricsQuery"].rstrip().endswith("by (<<.GroupBy>>)")
            combine = combined[1] if grouped and combined[1] in COMBINE else "last"
            found.append(Rule(series[1], named.get("as") or series[1], combine))
    return found


def selected(monitor: Json, pod: Json) -> bool:
    """Whether a PodMonitor is for this pod."""
    spaces = (monitor["spec"].get("namespaceSelector") or {}).get("matchNames") or [monitor["metadata"]["namespace"]]
    labels, selector = pod["metadata"].get("labels") or {}, monitor["spec"]["selector"]
    return (
        pod["metadata"]["namespace"] in spaces
        and (selector.get("matchLabels") or {}).items() <= labels.items()
        and all(
            each["operator"] == "In" and labels.get(each["key"]) in each["values"]
            for each in selector.get("matchExpressions") or []
        )
    )


def places(pod: Json, monitors: list[Json]) -> Iterator[str]:
    """Where the metrics of a pod are read."""
    ports = {
        port["name"]: port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports") or []
        if port.get("name")
    }
    address = (pod.get("status") or {}).get("podIP")
    for monitor in monitors:
        for endpoint in monitor["spec"].get("podMetricsEndpoints") or [] if selected(monitor, pod) else []:
            if address and endpoint.get("port") in ports:
                yield f"http://{address}:{ports[endpoint['port']]}{endpoint.get('path', '/metrics')}"


def values(text: str, series: str) -> list[float]:
    found = (_SAMPLE.match(line) for line in text.splitlines())
    return [float(match[2]) for match in found if match and match[1] == series]


class Adapter:
    """Answers the API server's questions."""

    def __init__(self, api: Api, config: Path) -> None:
        self.api, self.config = api, config

    def answer(self, path: str) -> Json | None:
        """The body for a path; None for what is not there."""
        known = rules(self.config.read_text())
        url = urlsplit(path)
        if url.path == "/healthz":
            return {}
        if url.path == ROOT:
            resources = [
                {
                    "name": f"pods/{rule.name}",
                    "singularName": "",
                    "namespaced": True,
                    "kind": "MetricValueList",
                    "verbs": ["get"],
                }
                for rule in known
            ]
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{GROUP}/v1beta1",
                "resources": resources,
            }
        # The API server writes the asterisk for all pods as %2A.
        match = re.fullmatch(rf"{ROOT}/namespaces/([^/]+)/pods/([^/]+)/([^/]+)", unquote(url.path))
        rule = next((rule for rule in known if match and rule.name == match[3]), None)
        if not match or not rule:
            return None
        selector = parse_qs(url.query).get("labelSelector", [""])[0]
        return {
            "kind": "MetricValueList",
            "apiVersion": f"{GROUP}/v1beta1",
            "metadata": {},
            "items": list(self._items(match[1], match[2], selector, rule)),
        }

    def _items(self, space: str, name: str, selector: str, rule: Rule) -> Iterator[Json]:
        pods = self.api.request("GET", f"/api/v1/namespaces/{space}/pods", query={"labelSelector": selector})["items"]
        try:
            monitors = self.api.request("GET", MONITORS)["items"]
        except ApiError:
            return
        for pod in pods:
            if name not in ("*", pod["metadata"]["name"]):
                continue
            read = [value for place in places(pod, monitors) for value in values(fetch(place), rule.series)]
            if read:
                total = COMBINE.get(rule.combine, lambda every: every[-1])(read)
                yield {
                    "describedObject": {
                        "kind": "Pod",
                        "namespace": space,
                        "name": pod["metadata"]["name"],
                        "apiVersion": "/v1",
                    },
                    "metricName": rule.name,
                    "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "value": f"{round(total * 1000)}m",
                    "selector": None,
                }


def fetch(place: str) -> str:
    try:
        with urllib.request.urlopen(place, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def serve(address: str, port: int, adapter: Adapter) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = adapter.answer(self.path)
            data = json.dumps({"kind": "Status", "status": "Failure", "code": 404} if body is None else body).encode()
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request: Any, client_address: Any) -> None:
            # The handshake is the connection's own: a silent client must not stop the others.
            request.settimeout(30)
            with tls.wrap_socket(request, server_side=True) as connection:
                Handler(connection, client_address, self)

        def handle_error(self, request: Any, client_address: Any) -> None:
            return

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made = issue("prometheus-adapter", 365)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / name for name in ("tls.crt", "tls.key")}
        for name, path in paths.items():
            path.write_bytes(made[name])
        tls.load_cert_chain(paths["tls.crt"], paths["tls.key"])
    Server((address, port), Handler).serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--config", type=Path, required=True)
    options = parser.parse_args()
    serve(options.address, options.port, Adapter(Api(os.environ["KUBECONFIG"], "lab-adapter"), options.config))


if __name__ == "__main__":
    main()
