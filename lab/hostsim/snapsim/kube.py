# SPDX-License-Identifier: GPL-3.0-or-later
"""The few Kubernetes API calls that a node and its MicroK8s make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .host import API_PORT, Host
from .wire import Answer, Connection, context

_PLURALS = {
    "CustomResourceDefinition": "customresourcedefinitions", "StorageClass": "storageclasses",
    "IPAddressPool": "ipaddresspools", "L2Advertisement": "l2advertisements", "APIService": "apiservices",
    "NetworkPolicy": "networkpolicies", "PriorityClass": "priorityclasses", "Ingress": "ingresses",
}  # fmt: skip
MANAGER = "kubectl-client-side-apply"


class KubeError(Exception):
    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        try:
            message = answer.json()["message"]
        except (ValueError, KeyError, TypeError):
            message = answer.body.decode(errors="replace").strip()
        super().__init__(f"{message} ({answer.status})")


def object_path(obj: dict[str, Any]) -> str:
    """Where an object lies; good for the built-in kinds and those named above."""
    group = obj["apiVersion"]
    base = f"/api/{group}" if "/" not in group else f"/apis/{group}"
    plural = _PLURALS.get(obj["kind"], obj["kind"].lower() + "s")
    namespace = obj["metadata"].get("namespace")
    where = f"/namespaces/{namespace}" if namespace else ""
    return f"{base}{where}/{plural}/{obj['metadata']['name']}"


class Kube:
    def __init__(self, server: str, ca: Path, cert: Path, key: Path, timeout: float = 15) -> None:
        host, _, port = server.removeprefix("https://").rstrip("/").partition(":")
        self._connection = Connection(host, int(port or 443), context(ca, cert, key), timeout)

    def raw(self, method: str, path: str, body: Any = None, kind: str = "application/json", accept: str = "") -> Answer:
        headers = {"Accept": accept or "application/json", "User-Agent": "microk8s"}
        payload = b""
        if body is not None:
            payload, headers["Content-Type"] = json.dumps(body).encode(), kind
        return self._connection.request(method, path, payload, headers)

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json", accept: str = "") -> Any:
        answer = self.raw(method, path, body, kind, accept)
        if answer.status >= 400:
            raise KubeError(answer)
        return answer.json()

    def get(self, path: str) -> Any | None:
        answer = self.raw("GET", path)
        if answer.status == 404:
            return None
        if answer.status >= 400:
            raise KubeError(answer)
        return answer.json()

    def names(self, path: str) -> list[dict[str, Any]]:
        """The metadata of every object of a list; nothing where the kind does not exist."""
        answer = self.raw("GET", path, accept="application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
        if answer.status == 404:
            return []
        if answer.status >= 400:
            raise KubeError(answer)
        return [item["metadata"] for item in answer.json().get("items") or []]

    def patch(self, path: str, body: Any, kind: str = "strategic-merge") -> Any:
        return self.call("PATCH", path, body, f"application/{kind}-patch+json")

    def apply(self, obj: dict[str, Any]) -> Any:
        path = f"{object_path(obj)}?fieldManager={MANAGER}&force=true"
        return self.call("PATCH", path, obj, "application/apply-patch+yaml")

    def delete(self, path: str) -> bool:
        answer = self.raw("DELETE", path)
        if answer.status >= 400 and answer.status != 404:
            raise KubeError(answer)
        return answer.status != 404


def url(host: Host) -> str:
    return host.settings.api or f"https://127.0.0.1:{API_PORT}"


def admin(host: Host, timeout: float = 15) -> Kube:
    """The API as the control plane's administrator, through the host's own port as kubectl does."""
    return Kube(url(host), host.certs / "ca.crt", host.certs / "client.crt", host.certs / "client.key", timeout)


def server_client(host: Host, timeout: float = 15) -> Kube:
    """The API as the control plane's own server, which keeps the list of its addresses."""
    ca, name = host.certs / "ca.crt", "apiserver"
    return Kube(url(host), ca, host.certs / f"{name}.crt", host.certs / f"{name}.key", timeout)


def proxy_client(host: Host, timeout: float = 5) -> Kube:
    """The API as this worker's kube-proxy."""
    return Kube(url(host), host.certs / "ca.remote.crt", host.certs / "proxy.crt", host.certs / "proxy.key", timeout)


def node_client(host: Host, timeout: float = 15) -> Kube:
    """The API as this host's kubelet: through the local proxy on a worker, with the certificate of the join."""
    ca = host.certs / ("ca.remote.crt" if host.is_worker else "ca.crt")
    return Kube(url(host), ca, host.certs / "kubelet.crt", host.certs / "kubelet.key", timeout)
