# SPDX-License-Identifier: GPL-3.0-or-later
"""`microk8s leave` and `microk8s remove-node`."""

from __future__ import annotations

import ipaddress
import shutil
import sys
from collections.abc import Sequence

from . import cluster, dqlite, kube, options, tree
from .console import finish, need_permission, need_started, not_on_worker
from .host import Host, write_file
from .units import DAEMONS, Services

ONLY_VOTER = """This node currently holds the only copy of the Kubernetes database so it cannot leave the cluster.
To remove this node you can either first remove all other nodes with 'microk8s remove-node' or
form a highly available cluster by adding at least 3 nodes."""
STILL_DQLITE = """\
Removal failed. Node {0} is registered with dqlite. Please, run first 'microk8s leave' on the departing node.\x20
If the node is not available anymore and will never attempt to join the cluster in the future use the '--force' flag\x20
to unregister the node while removing it."""


def leave(host: Host, argv: Sequence[str]) -> None:
    need_started(host)
    need_permission(host)
    clustered = host.locked("no-cert-reissue") and (host.is_worker or (host.args / "k8s-dqlite").exists())
    if not clustered:
        finish(1, out="This MicroK8s deployment is not acting as a node in a cluster.")
    # A worker is told by its proxy: after half a leave the rest takes the control plane's way, and its locks stay.
    if host.is_worker and not host.locked("no-apiserver-proxy"):
        leave_as_worker(host)
    else:
        leave_as_control_plane(host)
    finish(0)


def leave_as_worker(host: Host) -> None:
    print("Configuring services.", flush=True)
    services = Services(host)
    host.lock("no-apiserver-proxy").touch()
    services.stop(DAEMONS)
    for name in ("ca.remote.crt", "kubelet.crt", "kubelet.key", "proxy.crt", "proxy.key"):
        (host.certs / name).unlink(missing_ok=True)
    if host.fault("leave_dies_midway"):
        services.start(DAEMONS)
        finish(1, out="Error: Could not configure services.")
    print("Generating new cluster certificates.", flush=True)
    tree.make_identity(host, seeded=False)
    for name in ("kubelet", "kube-proxy", "kube-apiserver"):
        (host.args / f"{name}.backup").unlink(missing_ok=True)
    (host.args / "traefik/provider.yaml").unlink(missing_ok=True)
    write_file(host.args / "kubelet", tree.KUBELET, 0o660)
    write_file(host.args / "kube-proxy", tree.KUBE_PROXY, 0o660)
    for name in ("clustered.lock", "no-k8s-dqlite"):
        host.lock(name).unlink(missing_ok=True)
    on_its_own(host)


def leave_as_control_plane(host: Host) -> None:
    members, mine = dqlite.read(host), dqlite.own_address(host)
    voters = [m.address for m in members if m.role == dqlite.VOTER]
    if voters == [mine] and not host.is_worker:
        finish(3, out=ONLY_VOTER)
    others = [m.address for m in members if m.address != mine]
    services = Services(host)
    services.stop(["daemon-kubelite", "daemon-k8s-dqlite"])
    if others and mine in {m.address for m in members}:
        try:
            dqlite.change(host, "remove", mine, others)
        except dqlite.DqliteError as error:
            finish(2, out=f"Contacting node {others[0]} failed. Error:\n{error!r}")
    print("Generating new cluster certificates.", flush=True)
    backup = host.backend.with_name("backend.backup")
    shutil.rmtree(host.backend)
    host.backend.mkdir()
    tree.make_identity(host, seeded=False)
    for name in ("cluster.crt", "cluster.key"):
        if (backup / name).exists():
            shutil.copyfile(backup / name, host.backend / name)
    tree.make_backend(host)
    on_its_own(host)


def on_its_own(host: Host) -> None:
    """The rest of leaving, which both kinds of nodes do: a cluster of one starts."""
    (host.credentials / "callback-token.txt").unlink(missing_ok=True)
    host.lock("no-cert-reissue").unlink(missing_ok=True)
    cluster.set_local_rows(host, add=("pod/coredns-local",))
    services = Services(host)
    services.install()
    tree.own_by_group(host)
    print("Waiting for node to start.", flush=True)
    services.start(DAEMONS)


def remove_node(host: Host, argv: Sequence[str]) -> None:
    need_permission(host)
    not_on_worker(host, "This MicroK8s deployment is acting as a node in a cluster. Please use microk8s leave.", 1)
    found = options.parse("microk8s remove-node", "[OPTIONS] NODE", argv, {}, ["--force"])
    if not found.arguments:
        finish(1, out="Please provide the node you want to remove.")
    client = kube.admin(host)
    node, force = name_of(client, found.arguments[0]), found.flag("--force")
    obj = client.get(f"/api/v1/nodes/{node}")
    if obj is None:
        sys.stderr.write(f'Error from server (NotFound): nodes "{node}" not found\n')
        print(f"Node {node} does not exist in Kubernetes.")
        if force:
            print(f"Attempting to remove {node} from dqlite.")
            if forget_member(host, {node}):
                print("Removing node entry found in dqlite.")
        finish(1)
    addresses = {a["address"] for a in (obj.get("status") or {}).get("addresses") or []}
    if not force and any(m.ip in addresses for m in dqlite.read(host)):
        finish(1, out=STILL_DQLITE.format(node))
    forget_member(host, addresses)
    client.delete(f"/api/v1/nodes/{node}")
    forget(host, node)
    finish(0)


def name_of(client: kube.Kube, given: str) -> str:
    """The node with this name or, for an address, the node that has it."""
    try:
        ipaddress.ip_address(given)
    except ValueError:
        return given
    for node in (client.call("GET", "/api/v1/nodes") or {}).get("items") or []:
        addresses = (node.get("status") or {}).get("addresses") or []
        if any(a["type"] == "InternalIP" and a["address"] == given for a in addresses):
            return str(node["metadata"]["name"])
    return given


def forget_member(host: Host, addresses: set[str]) -> bool:
    """Take another node out of the datastore, when it is in there."""
    mine = dqlite.own_address(host)
    found = [m.address for m in dqlite.read(host) if m.ip in addresses and m.address != mine]
    for address in found:
        try:
            dqlite.change(host, "remove", address)
        except dqlite.DqliteError as error:
            finish(2, out=f"Contacting node {mine} failed. Error:\n{error!r}")
    return bool(found)


def forget(host: Host, node: str) -> None:
    path = host.credentials / "callback-tokens.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.partition(":")[0] != node]
    write_file(path, "".join(line + "\n" for line in kept), 0o660)
