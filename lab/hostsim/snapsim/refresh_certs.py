# SPDX-License-Identifier: GPL-3.0-or-later
"""`microk8s refresh-certs`: another server certificate, or another authority for the whole cluster."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from . import kube, options, pki, tree
from .console import WORKER_ONE_LINE, finish, need_permission, need_started, not_on_worker
from .host import Host
from .units import DAEMONS, Services

NAMES = {"ca.crt": "CA", "server.crt": "server", "front-proxy-client.crt": "front proxy client"}
CHOOSE = """Please use the '--cert' flag to select the certificate you need refreshed.

Available certificate options:
'server.crt': refreshes the server certificate
'front-proxy-client.crt': refreshes the front proxy client certificate
'ca.crt': refreshes the root CA and all certificates created from it.
            Warning: refreshing the root CA requires nodes to leave and re-join the cluster"""
REPLACED = """
The CA certificates have been replaced. Kubernetes will restart the pods of your workloads.
Any worker nodes you may have in your cluster need to be removed and re-joined to become aware of the new CA.
"""
CONFIG_MAP = "/api/v1/namespaces/lab-system/configmaps/cluster-authority"
PATIENCE = 45.0


def backup_of(host: Host) -> Path:
    return host.data / "certs-backup"


def take_backup(host: Host) -> None:
    print(f"Taking a backup of the current certificates under {backup_of(host)}/", flush=True)
    for folder in (host.certs, host.credentials):
        shutil.copytree(folder, backup_of(host) / folder.name, dirs_exist_ok=True)


def undo(host: Host) -> None:
    if not backup_of(host).exists():
        finish(1, out="No previous backup found")
    for folder in (host.certs, host.credentials):
        shutil.copytree(backup_of(host) / folder.name, folder, dirs_exist_ok=True)
    if host.api_url:
        tell_the_lab(host, host.certs)
    print("Restarting, please wait.", flush=True)
    tree.own_by_group(host)
    Services(host).restart(DAEMONS)


def tell_the_lab(host: Host, folder: Path) -> None:
    """The lab's API server takes part: it is told of the authority by which it is to be known from now on."""
    data = {name: (folder / name).read_text() for name in ("ca.crt", "ca.key")}
    client = kube.server_client(host)
    meta = {"name": "cluster-authority", "namespace": "lab-system"}
    client.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "lab-system"}})
    client.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})
    seed = host.state / "seed"
    if (seed / "ca.key").exists():
        for name, text in data.items():
            (seed / name).write_text(text)


def await_server(host: Host, ca: Path, cert: Path, key: Path) -> bool:
    """Does the API server show a certificate of this authority, and know its clients?"""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if kube.Kube(kube.url(host), ca, cert, key, 5).raw("GET", CONFIG_MAP).status == 200:
                return True
        except OSError:
            pass
        time.sleep(0.5)
    return False


def new_authority(host: Host) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ca, key, cert, private = (folder / n for n in ("ca.crt", "ca.key", "any.crt", "any.key"))
        pki.make_ca(ca, key, "10.152.183.1")
        if host.api_url:
            pki.issue((ca, key), cert, private, "/CN=system:apiserver/O=system:masters")
            tell_the_lab(host, folder)
            if not await_server(host, ca, cert, private):
                finish(20, out="Failed to produce new certificates. Reverting.")
        shutil.copyfile(ca, host.certs / "ca.crt")
        shutil.copyfile(key, host.certs / "ca.key")
    print("Creating new kubeconfig file", flush=True)
    tree.make_own_certificates(host)
    tree.own_by_group(host)
    Services(host).restart(["daemon-kubelite", "daemon-cluster-agent"])
    print(REPLACED)


def refresh(host: Host, cert: str) -> None:
    take_backup(host)
    print("Creating new certificates", flush=True)
    if cert == "ca.crt":
        new_authority(host)
        return
    if cert == "server.crt":
        tree.make_server_certificate(host)
    tree.own_by_group(host)
    for service in ("kubelite", "cluster-agent") if cert == "server.crt" else ("kubelite",):
        print(f"Restarting service {service}.", flush=True)
        Services(host).restart([f"daemon-{service}"])


def run(host: Host, argv: Sequence[str]) -> None:
    not_on_worker(
        host,
        WORKER_ONE_LINE + "refresh-certs command on the master\n"
        "and then return to this node to perform a microk8s leave and re-join.",
        0,
    )
    need_permission(host)
    need_started(host)
    values = {"-e": "cert", "--cert": "cert"}
    found = options.parse(
        "microk8s refresh-certs", "[OPTIONS] [CA_DIR]", argv, values, ["-u", "--undo", "-c", "--check", "-h"]
    )
    cert = found.options.get("cert")
    chosen = [found.flag("-u") or found.flag("--undo"), found.flag("-c") or found.flag("--check"), cert is not None]
    if sum(chosen) > 1:
        finish(2, out="Please select only one of the options -c, -u or -e.")
    if chosen[1]:
        for name, what in NAMES.items():
            if (host.certs / name).exists():
                print(f"The {what} certificate will expire in {pki.days_left(host.certs / name)} days.")
    elif chosen[0]:
        undo(host)
    elif cert is None:
        finish(3, out=CHOOSE)
    elif cert not in NAMES:
        known = ", ".join(f"'{name}'" for name in NAMES)
        finish(2, err=f"Error: Invalid value for '-e' / '--cert': '{cert}' is not one of {known}.")
    else:
        refresh(host, cert)
    finish(0)
