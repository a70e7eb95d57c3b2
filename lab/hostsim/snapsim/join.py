# SPDX-License-Identifier: GPL-3.0-or-later
"""`microk8s join`: the real order of requests and effects, locks last.

Nothing here asks whether this host is a member already: like the real command it then simply does
everything again.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import argfile, dqlite, options, pki, ports, tree, wire
from .console import finish, need_permission, need_started
from .host import AGENT_PORT, API_PORT, Host, write_file
from .units import DAEMONS, Services

FORMAT = "Invalid connection: Expected format: <master_IP>:<master_PORT>/<token>[/<fingerprint>]"
WORKER_FLAGS = {"--client-ca-file": "${SNAP_DATA}/certs/ca.remote.crt", "--node-labels": tree.WORKER_LABELS}
WORKER_TEXT = """
The node has joined the cluster and will appear in the nodes list in a few seconds.

This worker node gets automatically configured with the API server endpoints.
If the API servers are behind a loadbalancer please set the '--refresh-interval' to '0s' in:
    /var/snap/microk8s/current/args/apiserver-proxy
and replace the API server endpoints with the one provided by the loadbalancer in:
    /var/snap/microk8s/current/args/traefik/provider.yaml
"""
LOW_MEMORY = """
This node does not have enough RAM to host the Kubernetes control plane services
and join the database quorum. You may consider joining this node as a worker instead:

    microk8s join {0} --worker

If you would still like to join the cluster as a control plane node, use:

    microk8s join {0} --disable-low-memory-guard

"""


@dataclass(frozen=True)
class Target:
    address: str
    port: int
    token: str
    fingerprint: str

    @classmethod
    def parse(cls, text: str) -> Target:
        where, _, secret = text.partition("/")
        address, colon, port = where.partition(":")
        token, _, fingerprint = secret.partition("/")
        if not colon or not token or not port.isdigit() or "/" in fingerprint:
            finish(1, out=FORMAT)
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            finish(1, out="Invalid connection: Invalid master IP")
        return cls(address, int(port), token, fingerprint)


class Agent:
    """The control plane's cluster-agent. Connections have no timeout, as with the real join."""

    def __init__(self, host: Host, target: Target) -> None:
        self.target = target
        self.connection = wire.Connection(target.address, target.port, wire.context(), source=host.settings.address)

    def presented_fingerprint(self) -> str:
        return pki.fingerprint(ssl.get_server_certificate((self.target.address, self.target.port)))

    def post(self, path: str, body: dict[str, Any]) -> wire.Answer:
        return self.connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})


def contact(host: Host, target: Target, verify: bool, worker: bool) -> dict[str, Any]:
    agent = Agent(host, target)
    if verify and target.fingerprint:
        presented = agent.presented_fingerprint()
        if presented != target.fingerprint:
            finish(
                4,
                out=f"Joining cluster failed. Could not verify the identity of {target.address}. "
                "Use '--skip-verify' to skip server certificate check.",
            )
    body: dict[str, Any] = {
        "token": target.token,
        "hostname": host.node_name,
        "port": str(AGENT_PORT),
        "worker": "as-worker" if worker else None,
        "can_handle_x509_auth": True,
        "can_handle_custom_etcd": True,
    }
    answer = agent.post("/cluster/api/v2.0/join", body)
    if answer.status != 200:
        try:
            message = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            message = answer.body.decode(errors="replace").strip()
        finish(6, out=f"Connection failed. {message} ({answer.status}).")
    return dict(answer.json())


def backup(host: Host, name: str) -> None:
    source, copy = host.args / name, host.args / f"{name}.backup"
    if source.exists():
        shutil.copyfile(source, copy)


def take_kubelet_args(host: Host, info: dict[str, Any], own: dict[str, str]) -> None:
    """The controller's arguments as they are, then this node's own few flags over them."""
    backup(host, "kubelet")
    write_file(host.args / "kubelet", info["kubelet_args"], 0o660)
    changes = dict(own)
    if "--node-ip" in argfile.read(host.args / "kubelet"):
        changes["--node-ip"] = info["hostname_override"]
    if "--hostname-override" in argfile.read(host.args / "kubelet"):
        changes["--hostname-override"] = host.node_name
    argfile.update(host.args / "kubelet", changes)


def obtain_certificate(host: Host, target: Target, name: str, subject: str) -> None:
    key, cert = host.certs / f"{name}.key", host.certs / f"{name}.crt"
    names = [host.node_name, host.address] if name == "kubelet" else []
    request = pki.make_request(key, subject, names)
    answer = Agent(host, target).post(
        "/cluster/api/v1.0/sign-cert", {"token": f"{target.token}-{name}", "request": request}
    )
    if answer.status != 200:
        text = answer.json().get("error", "") if answer.body else ""
        finish(1, out=f"Failed to sign {name} certificate. {text} ({answer.status}).")
    write_file(cert, answer.json()["certificate"], 0o660)


def write_kubeconfigs(host: Host) -> None:
    ca = host.certs / "ca.remote.crt"
    for name, user in (("kubelet", f"system:node:{host.node_name}"), ("proxy", "system:kube-proxy")):
        config = pki.kubeconfig(
            f"https://127.0.0.1:{API_PORT}", ca, host.certs / f"{name}.crt", host.certs / f"{name}.key", user
        )
        write_file(host.credentials / f"{name}.config", config, 0o660)


def keep_copy(host: Host, name: str, text: str) -> None:
    """Replace a file of certs, and leave the old one beside it."""
    path = host.certs / name
    shutil.copyfile(path, path.with_name(f"{name}.backup"))
    write_file(path, text, 0o660)


def join_control_plane(host: Host, info: dict[str, Any]) -> None:
    """Take over the cluster's authority, then become a member of its datastore."""
    services = Services(host)
    for name, key in (("ca.crt", "ca"), ("ca.key", "ca_key"), ("serviceaccount.key", "service_account_key")):
        keep_copy(host, name, info[key])
    tree.use_api(host, str(info.get("lab_api") or ""))
    tree.make_own_certificates(host)
    if mode := info.get("api_authz_mode"):
        argfile.update(host.args / "kube-apiserver", {"--authorization-mode": mode})
    take_kubelet_args(host, info, {})
    write_file(host.credentials / "callback-token.txt", info["callback_token"] + "\n", 0o660)
    die_midway(host)
    services.stop(["daemon-kubelite", "daemon-k8s-dqlite"])
    shutil.rmtree(host.backend.with_name("backend.backup"), ignore_errors=True)
    host.backend.rename(host.backend.with_name("backend.backup"))
    for name, key in (("cluster.crt", "cluster_cert"), ("cluster.key", "cluster_key")):
        write_file(host.backend / name, info[key], 0o660)
    voters = "".join(f"- {address}\n" for address in info["voters"])
    mine = f"{info['hostname_override']}:{dqlite.PORT}"
    write_file(host.backend / "init.yaml", f"Address: {mine}\nCluster:\n{voters}", 0o660)
    (host.state / "standalone.json").unlink(missing_ok=True)
    services.install()
    tree.own_by_group(host)
    services.start(["daemon-k8s-dqlite", "daemon-kubelite"])
    await_membership(host, mine)
    services.restart(DAEMONS)
    host.lock("no-cert-reissue").touch()


def await_membership(host: Host, address: str) -> None:
    """Wait for a while, and go on either way, as the real command does."""
    print("Waiting for this node to finish joining the cluster.", end=" ", flush=True)
    for _attempt in range(10):
        if any(m.address == address for m in dqlite.read(host)):
            break
        print("..", end=" ", flush=True)
        time.sleep(2)
    print(" ")


def die_midway(host: Host) -> None:
    if fault := host.fault("join_dies_midway"):
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        finish(1, out="Failed to sign kubelet certificate. (500).")


def join_worker(host: Host, target: Target, info: dict[str, Any]) -> None:
    services = Services(host)
    write_file(host.certs / "ca.remote.crt", info["ca"], 0o660)
    backup(host, "kube-apiserver")
    mode = info.get("api_authz_mode")
    if mode:
        argfile.update(host.args / "kube-apiserver", {"--authorization-mode": mode})
    take_kubelet_args(host, info, WORKER_FLAGS)
    backup(host, "kube-proxy")
    die_midway(host)
    obtain_certificate(host, target, "proxy", "/CN=system:kube-proxy")
    obtain_certificate(host, target, "kubelet", f"/CN=system:node:{host.node_name}/O=system:nodes")
    write_kubeconfigs(host)
    write_file(host.credentials / "callback-token.txt", info["callback_token"] + "\n", 0o660)
    write_file(host.args / "traefik/provider.yaml", ports.render_endpoints(info["control_plane_nodes"]), 0o660)
    tree.own_by_group(host)
    # The locks come last: whoever dies before this line still looks like a host of its own.
    host.lock("no-apiserver-proxy").unlink(missing_ok=True)
    for name in ("clustered.lock", "no-cert-reissue", "no-k8s-dqlite"):
        host.lock(name).touch()
    (host.state / "standalone.json").unlink(missing_ok=True)
    services.after_join()


def run(host: Host, argv: Sequence[str]) -> None:
    need_permission(host)
    need_started(host)
    found = options.parse(
        "microk8s join",
        "[OPTIONS] CONNECTION",
        argv,
        {},
        ["--worker", "--controlplane", "--skip-verify", "--disable-low-memory-guard"],
    )
    if (host.common / "default-storage").exists():
        print("WARNING: Hostpath storage is enabled and is not suitable for multi node clusters.\n")
    if len(found.arguments) != 1:
        finish(1, out=FORMAT)
    if found.flag("--disable-low-memory-guard"):
        host.lock("low-memory-guard.lock").unlink(missing_ok=True)
    if host.locked("low-memory-guard.lock") and not found.flag("--worker"):
        finish(1, out=LOW_MEMORY.format(found.arguments[0]))
    target = Target.parse(found.arguments[0])
    worker = found.flag("--worker")
    host.lock("join-in-progress").touch()
    print(f"Contacting cluster at {target.address}")
    sys.stdout.flush()
    info = contact(host, target, not found.flag("--skip-verify"), worker)
    if worker:
        print(WORKER_TEXT)
        join_worker(host, target, info)
    else:
        join_control_plane(host, info)
    host.lock("join-in-progress").unlink(missing_ok=True)
    finish(0, out="Successfully joined the cluster.")
