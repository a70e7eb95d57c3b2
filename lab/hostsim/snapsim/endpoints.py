# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the control plane can be reached: kept by the API servers, followed by the workers' proxies."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from . import argfile, kube, pki, ports
from .host import API_PORT, Host, read_json, write_file

PATH = "/api/v1/namespaces/default/endpoints"
CONTROL_PLANE = "/api/v1/nodes?labelSelector=node.kubernetes.io/microk8s-controlplane"


def addresses_of(endpoints: dict[str, Any]) -> list[str]:
    return sorted(a["ip"] for s in endpoints.get("subsets") or [] for a in s.get("addresses") or [])


def _ready_address(node: dict[str, Any], own: str) -> str:
    status = node.get("status") or {}
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or [])
    address = next((a["address"] for a in status.get("addresses") or [] if a["type"] == "InternalIP"), "")
    return address if ready or address == own else ""


def lives_elsewhere(host: Host, url: str) -> bool:
    """Does another controller serve the lab's cluster? Then a new installation here is not that cluster."""
    seed = host.state / "seed"
    hosts = read_json(seed / "lab.json", {}).get("hosts", {})
    if sum(each["kind"] == "controller" for each in hosts.values()) < 2:
        return False
    with tempfile.TemporaryDirectory() as folder:
        cert, key = Path(folder, "any.crt"), Path(folder, "any.key")
        pki.issue((seed / "ca.crt", seed / "ca.key"), cert, key, "/CN=system:apiserver/O=system:masters")
        try:
            nodes = kube.Kube(url, seed / "ca.crt", cert, key, 5).call("GET", CONTROL_PLANE)["items"]
        except (OSError, kube.KubeError):
            return False
    return any(n["metadata"]["name"] != host.node_name and _ready_address(n, "") for n in nodes)


def announce(host: Host, client: kube.Kube) -> None:
    """What the API servers do with their leases: the addresses of those that run are those of `kubernetes`."""
    nodes = (client.call("GET", CONTROL_PLANE) or {}).get("items") or []
    wanted = sorted(filter(None, (_ready_address(node, host.address) for node in nodes)))
    found = client.get(f"{PATH}/kubernetes")
    if not wanted or addresses_of(found or {}) == wanted:
        return
    body = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [
            {"addresses": [{"ip": ip} for ip in wanted], "ports": [{"name": "https", "port": API_PORT}]},
        ],
    }
    client.call("PUT", f"{PATH}/kubernetes", body) if found else client.call("POST", PATH, body)


def follow(host: Host, client: kube.Kube) -> None:
    """What a worker's apiserver-proxy does now and then, unless `--refresh-interval=0s` forbids it."""
    if argfile.read(host.args / "apiserver-proxy").get("--refresh-interval", "30s") == "0s":
        return
    listed = (client.call("GET", f"{PATH}?fieldSelector=metadata.name%3Dkubernetes") or {}).get("items") or []
    known = addresses_of(listed[0]) if listed else []
    path = host.args / "traefik/provider.yaml"
    old = path.read_text() if path.exists() else ""
    if known and ports.render_endpoints(known) != old:
        write_file(path, ports.render_endpoints(known), 0o660)
