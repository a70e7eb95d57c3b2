# SPDX-License-Identifier: GPL-3.0-or-later
"""Envoy AI Gateway's pod mutator: gives Envoy pods their filter, once a Gateway has AI routes.

It writes the authority of its certificate into the cluster's webhook when it starts, and only then
(envoyproxy/ai-gateway v0.5.0 cmd/controller/main.go).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lab.world.api import MERGE, Api

CONTAINER = "ai-gateway-extproc"
WEBHOOK = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/envoy-ai-gateway-gateway-pod-mutator"
OWNING = "gateway.envoyproxy.io/owning-gateway-"
POLL = 1.0
Json = dict[str, Any]


def mutation(pod: Json, image: str) -> list[Json]:
    """The JSON patch for one Envoy pod: the filter as a sidecar, its configuration and its socket."""
    labels = pod["metadata"]["labels"]
    secret = f"{labels[f'{OWNING}name']}-{labels[f'{OWNING}namespace']}"
    config, sock = f"ai-gateway-{secret}", "ai-gateway-extproc-uds"
    sidecar = {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "ports": [{"name": "aigw-admin", "containerPort": 1064}],
        "args": ["-configPath", "/etc/filter-config/filter-config.yaml", "-extProcAddr", "unix:///etc/ai-gateway/uds"],
        "volumeMounts": [
            {"name": sock, "mountPath": "/etc/ai-gateway"},
            {"name": config, "mountPath": "/etc/filter-config", "readOnly": True},
        ],
    }
    spec = pod["spec"]
    envoy = next((number for number, item in enumerate(spec["containers"]) if item["name"] == "envoy"), 0)
    mounts = [*(spec["containers"][envoy].get("volumeMounts") or []), {"name": sock, "mountPath": "/etc/ai-gateway"}]
    volumes = [
        *(spec.get("volumes") or []),
        {"name": config, "secret": {"secretName": secret}},
        {"name": sock, "emptyDir": {}},
    ]
    return [
        {"op": "add", "path": "/spec/initContainers", "value": [*(spec.get("initContainers") or []), sidecar]},
        {"op": "add", "path": "/spec/volumes", "value": volumes},
        {"op": "add", "path": f"/spec/containers/{envoy}/volumeMounts", "value": mounts},
    ]


def review(request: Json, secret_exists: Any, image: str) -> Json:
    """The answer to one AdmissionReview."""
    pod, answer = request["object"], {"uid": request["uid"], "allowed": True}
    labels = pod["metadata"].get("labels") or {}
    name, space = labels.get(f"{OWNING}name"), labels.get(f"{OWNING}namespace")
    # Without the Secret the pod starts bare; the controller rolls it when there is one.
    if name and space and secret_exists(request["namespace"], f"{name}-{space}"):
        patch = json.dumps(mutation(pod, image)).encode()
        answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
    return answer


def show_authority(api: Api, namespace: str, bundle: bytes) -> None:
    path, ca = f"{WEBHOOK}.{namespace}", base64.b64encode(bundle).decode()
    found = api.get(path)
    if found is None:
        raise SystemExit(f"failed to get mutating webhook configuration: {path}")
    (hook,) = found["webhooks"]
    if hook["clientConfig"].get("caBundle") != ca:
        hook["clientConfig"]["caBundle"] = ca
        api.request("PATCH", path, {"webhooks": [hook]}, content_type=MERGE)


def serve(address: str, certs: Path, image: str, api: Api) -> None:
    def exists(namespace: str, name: str) -> bool:
        return api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}") is not None

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            response = review(body["request"], exists, image)
            data = json.dumps({"apiVersion": body["apiVersion"], "kind": "AdmissionReview", "response": response})
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data.encode())

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request: Any, client_address: Any) -> None:
            # The handshake is the connection's own: a silent client must not stop the others.
            request.settimeout(10)
            with tls.wrap_socket(request, server_side=True) as connection:
                Handler(connection, client_address, self)

        def handle_error(self, request: Any, client_address: Any) -> None:
            return

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certs / "tls.crt", certs / "tls.key")
    # The controller's gRPC port: its health is that it listens.
    grpc = socket.create_server((address, 1063))
    threading.Thread(target=_accept, args=(grpc,), daemon=True).start()
    Server((address, 9443), Handler).serve_forever(POLL)


def _accept(server: socket.socket) -> None:
    while True:
        server.accept()[0].close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--certs", type=Path, required=True)
    parser.add_argument("--image", required=True)
    options = parser.parse_args()
    api = Api(os.environ["KUBECONFIG"], "lab-ai-gateway")
    show_authority(api, options.namespace, (options.certs / "ca.crt").read_bytes())
    serve(options.address, options.certs, options.image, api)


if __name__ == "__main__":
    main()
