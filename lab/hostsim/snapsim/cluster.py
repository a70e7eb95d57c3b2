# SPDX-License-Identifier: GPL-3.0-or-later
"""What MicroK8s sees of its cluster: rows of `kubectl get all`, the nodes' states, the datastore's members.

A host behind which no real API server stands (a Spark before it joins) is a cluster of its own in the
eyes of its MicroK8s; its few rows come from a local record.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from . import argfile, dqlite, kube
from .addons.table import Addon, available
from .host import Host, read_json, write_file

CLUSTER_ADMIN = "clusterrole.rbac.authorization.k8s.io/cluster-admin"
_KINDS = {
    "pod": "/api/v1/pods",
    "deployment.apps": "/apis/apps/v1/deployments",
    "daemonset.apps": "/apis/apps/v1/daemonsets",
    "statefulset.apps": "/apis/apps/v1/statefulsets",
    "ingressclass.networking.k8s.io": "/apis/networking.k8s.io/v1/ingressclasses",
}


@dataclass(frozen=True)
class View:
    ready: bool
    rows: tuple[str, ...] = ()
    voters: tuple[str, ...] = ()
    standbys: tuple[str, ...] = ()
    members: tuple[tuple[str, str], ...] = field(default=())


def node_state(node: dict[str, Any]) -> str:
    """The STATUS column of `kubectl get nodes`."""
    conditions = (node.get("status") or {}).get("conditions") or []
    ready = next((c["status"] for c in conditions if c["type"] == "Ready"), "Unknown")
    words = ["Ready" if ready == "True" else "NotReady" if conditions else "Unknown"]
    if (node.get("spec") or {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)


def address_of(node: dict[str, Any]) -> str:
    """By which others reach a node."""
    found = (node.get("status") or {}).get("addresses") or []
    return next((str(a["address"]) for a in found if a["type"] == "InternalIP"), str(node["metadata"]["name"]))


def members(host: Host) -> list[tuple[str, str]]:
    """(address, role) of dqlite's members, in the order of their addresses."""
    return [(m.address, dqlite.ROLES[m.role]) for m in dqlite.read(host)]


def is_rbac(host: Host) -> bool:
    return "RBAC" in argfile.read(host.args / "kube-apiserver").get("--authorization-mode", "")


def _from_api(host: Host) -> tuple[bool, list[str]]:
    client = kube.admin(host)
    # The real check looks for the word Ready between blanks, so that a cordoned node does not count.
    nodes = (client.call("GET", "/api/v1/nodes") or {}).get("items") or []
    running = any(node_state(n) == "Ready" for n in nodes)
    if not running or client.get("/api/v1/namespaces/default/services/kubernetes") is None:
        return False, []
    rows = ["service/kubernetes"]
    for kind, path in _KINDS.items():
        rows += [f"{kind}/{meta['name']}" for meta in client.names(path)]
    # The lab's API server always authorises by roles; MicroK8s' own shows the role only when RBAC is on.
    if is_rbac(host) and client.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin"):
        rows.append(CLUSTER_ADMIN)
    return True, rows


def local_rows(host: Host) -> list[str]:
    rows = list(read_json(host.state / "standalone.json", {}).get("rows", []))
    return ["service/kubernetes", *rows, *([CLUSTER_ADMIN] if is_rbac(host) else [])]


def set_local_rows(host: Host, add: tuple[str, ...] = (), remove: tuple[str, ...] = ()) -> None:
    rows = [r for r in read_json(host.state / "standalone.json", {}).get("rows", []) if r not in remove]
    write_file(host.state / "standalone.json", json.dumps({"rows": sorted({*rows, *add})}) + "\n")


def look(host: Host) -> View:
    if host.api_url:
        try:
            ready, rows = _from_api(host)
        except (OSError, ValueError, kube.KubeError):
            ready, rows = False, []
    else:
        from .units import Services

        ready, rows = Services(host).active()["daemon-kubelite"], local_rows(host)
    nodes = members(host)
    return View(
        ready,
        tuple(rows),
        tuple(a for a, role in nodes if role == "voter"),
        tuple(a for a, role in nodes if role == "standby"),
        tuple(nodes),
    )


def enabled(host: Host, addon: Addon, view: View) -> bool:
    check = addon.check
    for variable, folder in (("${SNAP_DATA}", host.data), ("${SNAP_COMMON}", host.common), ("${SNAP}", host.snap)):
        if check.startswith(variable + "/"):
            return folder.joinpath(check.removeprefix(variable + "/")).exists()
    return any(check in row for row in view.rows)


def split(host: Host, view: View) -> tuple[list[Addon], list[Addon]]:
    """(enabled, disabled), each in alphabetical order."""
    on: list[Addon] = []
    off: list[Addon] = []
    for addon in available(host.arch):
        (on if enabled(host, addon, view) else off).append(addon)
    return on, off
