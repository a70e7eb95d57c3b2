# SPDX-License-Identifier: GPL-3.0-or-later
"""`microk8s leave` and `microk8s remove-node`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import cluster, kube, options, tree
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
    if not host.is_worker and not (host.certs / "ca.remote.crt").exists():
        finish(3, out=ONLY_VOTER)
    print("Configuring services.")
    services = Services(host)
    services.stop(DAEMONS)
    for name in ("ca.remote.crt", "kubelet.crt", "kubelet.key", "proxy.crt", "proxy.key"):
        (host.certs / name).unlink(missing_ok=True)
    if host.fault("leave_dies_midway"):
        services.start(DAEMONS)
        finish(1, out="Error: Could not configure services.")
    mode = (host.args / "kube-apiserver").read_text()
    for name in ("kubelet", "kube-proxy", "kube-apiserver", "traefik/provider"):
        (host.args / f"{name}.backup").unlink(missing_ok=True)
    (host.args / "traefik/provider.yaml").unlink(missing_ok=True)
    write_file(host.args / "kubelet", tree.KUBELET, 0o660)
    write_file(host.args / "kube-proxy", tree.KUBE_PROXY, 0o660)
    write_file(host.args / "kube-apiserver", mode, 0o660)
    print("Generating new cluster certificates.", flush=True)
    (host.credentials / "callback-token.txt").unlink(missing_ok=True)
    tree.make_identity(host, seeded=False)
    for name in ("clustered.lock", "no-k8s-dqlite", "no-cert-reissue"):
        host.lock(name).unlink(missing_ok=True)
    host.lock("no-apiserver-proxy").touch()
    cluster.set_local_rows(host, add=("pod/coredns-local",))
    tree.own_by_group(host)
    print("Waiting for node to start.", flush=True)
    services.start(DAEMONS)
    finish(0)


def remove_node(host: Host, argv: Sequence[str]) -> None:
    need_permission(host)
    not_on_worker(host, "This MicroK8s deployment is acting as a node in a cluster. Please use microk8s leave.", 1)
    found = options.parse("microk8s remove-node", "[OPTIONS] NODE", argv, {}, ["--force"])
    if not found.arguments:
        finish(1, out="Please provide the node you want to remove.")
    node, force = found.arguments[0], found.flag("--force")
    client = kube.admin(host)
    obj = client.get(f"/api/v1/nodes/{node}")
    if obj is None:
        sys.stderr.write(f'Error from server (NotFound): nodes "{node}" not found\n')
        print(f"Node {node} does not exist in Kubernetes.")
        if force:
            print(f"Attempting to remove {node} from dqlite.")
        finish(1)
    addresses = {a["address"] for a in (obj.get("status") or {}).get("addresses") or []}
    if not force and any(m.rsplit(":", 1)[0] in addresses for m, _role in cluster.members(host)):
        finish(1, out=STILL_DQLITE.format(node))
    client.delete(f"/api/v1/nodes/{node}")
    forget(host, node)
    finish(0)


def forget(host: Host, node: str) -> None:
    path = host.credentials / "callback-tokens.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.partition(":")[0] != node]
    write_file(path, "".join(line + "\n" for line in kept), 0o660)
