# SPDX-License-Identifier: GPL-3.0-or-later
"""A chart repository over HTTP, with a small chart in it."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

CONFIG = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}, labels: {version: "{{ .Chart.Version }}", app.kubernetes.io/managed-by: helm}}
data: {text: {{ .Values.text | quote }}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: {{ .Release.Name }}}
"""
# As the chart of Envoy AI Gateway keeps the one of its webhook.
CERTIFICATE = """\
{{- if .Values.days }}
{{- $data := dict }}
{{- with lookup "v1" "Secret" .Release.Namespace "webhook" }}
{{- $data = .data }}
{{- else }}
{{- $cert := genSelfSignedCert "webhook" nil (list "webhook") (int .Values.days) }}
{{- $data = dict "tls.crt" ($cert.Cert | b64enc) "tls.key" ($cert.Key | b64enc) }}
{{- end }}
apiVersion: v1
kind: Secret
metadata: {name: webhook}
data: {{ toJson $data }}
{{- end }}
"""


class Source:
    """A chart repository; it counts what it is asked, and fails when told to."""

    def __init__(self, address: str):
        self.address = address
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.failures = 0

    def offer(self, version: str) -> str:
        """A chart of that version; returns its checksum."""
        parts = {
            "Chart.yaml": yaml.safe_dump({"apiVersion": "v2", "name": "small", "version": version}),
            "values.yaml": "text: one\ndays: 0\n",
            "templates/config.yaml": CONFIG,
            "templates/webhook.yaml": CERTIFICATE,
        }
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w:gz") as tar:
            for name, text in parts.items():
                entry = tarfile.TarInfo(f"small/{name}")
                entry.size = len(text.encode())
                tar.addfile(entry, io.BytesIO(text.encode()))
        self.files[f"small-{version}.tgz"] = raw.getvalue()
        entries = [
            {"apiVersion": "v2", "name": "small", "version": name[6:-4], "urls": [f"{self.address}/{name}"]}
            for name in self.files
            if name.endswith(".tgz")
        ]
        self.files["index.yaml"] = yaml.safe_dump({"apiVersion": "v1", "entries": {"small": entries}}).encode()
        return hashlib.sha256(raw.getvalue()).hexdigest()


@contextmanager
def serving() -> Iterator[Source]:
    """A source with a chart small 1.0.0."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            told.asked.append(name)
            if told.failures:
                told.failures -= 1
                self.send_error(503)
            elif name in told.files:
                self.send_response(200)
                self.send_header("Content-Length", str(len(told.files[name])))
                self.end_headers()
                self.wfile.write(told.files[name])
            else:
                self.send_error(404)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told = Source(f"http://127.0.0.1:{server.server_port}")
        told.offer("1.0.0")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield told
        server.shutdown()
        thread.join()
