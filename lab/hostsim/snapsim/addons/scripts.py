# SPDX-License-Identifier: GPL-3.0-or-later
"""What `enable` and `disable` of an addon do."""

from __future__ import annotations

import ipaddress
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import argfile, cluster, kube, tree, wire
from ..console import finish
from ..host import AGENT_PORT, Host
from ..units import Services
from . import manifests

Script = Callable[[Host, list[str]], None]


def api(host: Host) -> kube.Kube | None:
    """None on a host that is a cluster of its own: there is no real API server behind it."""
    return kube.admin(host) if host.api_url else None


def _apply(host: Host, objects: Sequence[dict[str, Any]], rows: Sequence[str]) -> None:
    client = api(host)
    if client is None:
        cluster.set_local_rows(host, add=tuple(rows))
        return
    for obj in objects:
        client.apply(obj)


def _delete(host: Host, objects: Sequence[dict[str, Any]], rows: Sequence[str]) -> None:
    client = api(host)
    if client is None:
        cluster.set_local_rows(host, remove=tuple(rows))
        return
    for obj in reversed(objects):
        client.delete(kube.object_path(obj))


def push(host: Host, name: str, changes: dict[str, str | None]) -> None:
    """Change a service's arguments here and on every node that the API knows: a dead one raises, half-way."""
    argfile.update(host.args / name, changes)
    Services(host).restart(["daemon-kubelite"])
    client = api(host)
    if client is None:
        return
    _await_api(client)
    token = tree.callback_token(host)
    configuration = [
        {
            "name": name,
            "arguments_update": [{k: v} for k, v in changes.items() if v is not None],
            "arguments_remove": [k for k, v in changes.items() if v is None],
            "restart": True,
        }
    ]
    for node in client.call("GET", "/api/v1/nodes").get("items") or []:
        node_name = node["metadata"]["name"]
        if node_name == host.node_name:
            continue
        address = cluster.address_of(node)
        print(f"Configuring node {address}", flush=True)
        body = json.dumps({"callback": token, "configuration": configuration}).encode()
        wire.Connection(address, AGENT_PORT, wire.context()).request("POST", "/cluster/api/v1.0/configure", body)


def _await_api(client: kube.Kube, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if client.raw("GET", "/readyz").status == 200:
                return
        except OSError:
            pass
        if time.monotonic() > end:
            raise TimeoutError("the API server did not come back")
        time.sleep(0.2)


# -- dns
def _nameservers(host: Host) -> str:
    for path in ("run/systemd/resolve/resolv.conf", "etc/resolv.conf"):
        try:
            words = [line.split() for line in host.path(path).read_text().splitlines()]
        except FileNotFoundError:
            continue
        found = [w[1] for w in words if w[:1] == ["nameserver"] and not w[1].startswith("127.")]
        if found:
            return " ".join(found)
    return "8.8.8.8"


def enable_dns(host: Host, arguments: list[str]) -> None:
    print("Enabling DNS", flush=True)
    servers = arguments[0].split(",") if arguments else []
    for server in servers:
        try:
            ipaddress.ip_address(server.partition(":")[0])
        except ValueError:
            finish(1, out=f"Your input value ({server}) is not a valid and reachable IP address")
    if not servers:
        print("Using host configuration from /etc/resolv.conf")
    print("Applying manifest", flush=True)
    _apply(host, manifests.dns(" ".join(servers) or _nameservers(host)), ["pod/coredns-local"])
    print("Restarting kubelet", flush=True)
    push(host, "kubelet", {"--cluster-domain": "cluster.local", "--cluster-dns": manifests.DNS_IP})
    print("DNS is enabled")


def disable_dns(host: Host, arguments: list[str]) -> None:
    print("Disabling DNS")
    print("Reconfiguring kubelet", flush=True)
    push(host, "kubelet", {"--cluster-domain": None, "--cluster-dns": None})
    print("Removing DNS manifest")
    _delete(host, manifests.dns("8.8.8.8"), ["pod/coredns-local"])
    print("DNS is disabled")


# -- rbac
def enable_rbac(host: Host, arguments: list[str]) -> None:
    print("Enabling RBAC")
    print("Reconfiguring apiserver", flush=True)
    push(host, "kube-apiserver", {"--authorization-mode": "RBAC,Node"})
    print("RBAC is enabled")


def disable_rbac(host: Host, arguments: list[str]) -> None:
    print("Disabling RBAC")
    print("Reconfiguring apiserver", flush=True)
    push(host, "kube-apiserver", {"--authorization-mode": "AlwaysAllow"})
    print("RBAC is disabled")


# -- metallb
def _ranges(text: str) -> list[str]:
    found = []
    for part in text.split(","):
        try:
            if "/" in part:
                ipaddress.ip_network(part, strict=False)
            else:
                first, _, last = part.partition("-")
                if ipaddress.ip_address(first) > ipaddress.ip_address(last):  # type: ignore[operator]
                    raise ValueError
        except (ValueError, TypeError):
            finish(1, out=f"Your input value ({part}) is not a valid IP Range")
        found.append(part)
    return found


def enable_metallb(host: Host, arguments: list[str]) -> None:
    print("Enabling MetalLB", flush=True)
    text = arguments[0] if arguments else ""
    if not text:
        print(
            "Enter each IP address range delimited by comma "
            "(e.g. '10.64.140.43-10.64.140.49,192.168.0.105-192.168.0.111'): ",
            end="",
            flush=True,
        )
        text = sys.stdin.readline().strip()
        if not text:
            finish(1)
    ranges = _ranges(text)
    print("Applying Metallb manifest", flush=True)
    _apply(host, [*manifests.metallb_definitions(), *manifests.metallb()], ["pod/speaker-local"])
    client = api(host)
    if client is not None:
        print("Waiting for Metallb controller to be ready.", flush=True)
        path = "/apis/apps/v1/namespaces/metallb-system/deployments/controller"
        while not ((client.get(path) or {}).get("status") or {}).get("readyReplicas"):
            time.sleep(0.5)  # for ever, as the real script
        for obj in manifests.metallb_pool(ranges):
            _apply_when_served(client, obj)
    print("MetalLB is enabled")


def _apply_when_served(client: kube.Kube, obj: dict[str, Any]) -> None:
    for _attempt in range(40):
        try:
            client.apply(obj)
            return
        except kube.KubeError as error:
            if error.status != 404:
                raise
            time.sleep(0.25)
    raise TimeoutError(f"{obj['kind']} is not served")


def disable_metallb(host: Host, arguments: list[str]) -> None:
    print("Disabling MetalLB", flush=True)
    _delete(host, [*manifests.metallb_definitions(), *manifests.metallb()], ["pod/speaker-local"])
    print("MetalLB is terminated")


# -- hostpath-storage
def enable_storage(host: Host, arguments: list[str]) -> None:
    print(
        "Enabling default storage class.\nWARNING: Hostpath storage is not suitable for production environments.\n"
        "         A hostpath volume can grow beyond the size limit set in the volume claim manifest.\n",
        flush=True,
    )
    _apply(host, manifests.hostpath_storage(), ["deployment.apps/hostpath-provisioner"])
    (host.common / "default-storage").mkdir(parents=True, exist_ok=True)
    print("Storage will be available soon.")


def disable_storage(host: Host, arguments: list[str]) -> None:
    print("Disabling default storage", flush=True)
    _delete(host, manifests.hostpath_storage(), ["deployment.apps/hostpath-provisioner"])
    if arguments != ["destroy-storage"]:
        answer = sys.stdin.readline().strip()
        if answer.lower() not in ("y", "yes"):
            finish(0, out="Storage removed. The files of its volumes stay.")
    _remove_empty(host.common / "default-storage")
    print("Storage removed")


def _remove_empty(path: Path) -> None:
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()


# -- metrics-server
def enable_metrics(host: Host, arguments: list[str]) -> None:
    print("Enabling Metrics-Server", flush=True)
    _apply(host, manifests.metrics_server(), ["pod/metrics-server-local"])
    print("Metrics-Server is enabled")


def disable_metrics(host: Host, arguments: list[str]) -> None:
    print("Disabling Metrics-Server", flush=True)
    _delete(host, manifests.metrics_server(), ["pod/metrics-server-local"])
    print("Metrics-Server is disabled")


def enable_helm(host: Host, arguments: list[str]) -> None:
    print("Helm comes built into MicroK8s")


_SCRIPTS: dict[str, tuple[Script, Script | None]] = {
    "dns": (enable_dns, disable_dns),
    "rbac": (enable_rbac, disable_rbac),
    "metallb": (enable_metallb, disable_metallb),
    "hostpath-storage": (enable_storage, disable_storage),
    "storage": (enable_storage, disable_storage),
    "metrics-server": (enable_metrics, disable_metrics),
    "helm": (enable_helm, None),
    "helm3": (enable_helm, None),
}


def find(name: str, on: bool) -> Script | None:
    pair = _SCRIPTS.get(name)
    return pair[0 if on else 1] if pair else None
