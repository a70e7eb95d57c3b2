# SPDX-License-Identifier: GPL-3.0-or-later
"""`microk8s reset`: a single node's cluster as it was at first."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from . import kube, options
from .addons import scripts
from .console import WORKER_TWO_LINES, Exit, finish, need_permission, need_started
from .host import Host
from .kubelite import prepare_control_plane
from .units import DAEMONS, Services

SYSTEM = ("default", "kube-public", "kube-system", "kube-node-lease", "lab-system")


def run(host: Host, argv: Sequence[str]) -> None:
    if host.is_worker:
        finish(0, out=WORKER_TWO_LINES + "Please remove the node before calling reset.")
    client = kube.admin(host) if host.api_url else None
    if client and len(client.names("/api/v1/nodes")) > 1:
        finish(
            0,
            out="This is a multi-node MicroK8s deployment. Reset is applicable for single node clusters.\n"
            "Please remove all joined nodes before calling reset.",
        )
    options.parse("microk8s reset", "[OPTIONS...]", argv, {}, ["--destroy-storage"])
    need_started(host)
    need_permission(host)
    print("Disabling all addons.", flush=True)
    for name in ("dns", "metallb", "hostpath-storage", "metrics-server", "rbac"):
        print(f"Disabling addon : {name}", flush=True)
        script = scripts.find(name, on=False)
        try:
            script(host, ["destroy-storage"]) if script else None
        except Exit:
            continue
    print("All addons disabled.\nCalling clean_cluster", flush=True)
    if client:
        clean(host, client)
    services = Services(host)
    services.restart(DAEMONS)
    host.lock("no-cert-reissue").unlink(missing_ok=True)
    finish(0)


def clean(host: Host, client: kube.Kube) -> None:
    """By kubectl, as the real script."""
    kubectl = [
        str(host.snap / "kubectl"),
        f"--kubeconfig={host.credentials / 'client.config'}",
        "delete",
        "--wait=false",
    ]
    spaces = [m["name"] for m in client.names("/api/v1/namespaces")]
    for space in spaces:
        print(f"Cleaning resources in namespace {space}", flush=True)
    subprocess.run([*kubectl, "--all", "daemonsets,deployments,statefulsets,jobs", "-n", "default"], check=False)
    print("Removing CRDs", flush=True)
    subprocess.run([*kubectl, "--all", "customresourcedefinitions.apiextensions.k8s.io"], check=False)
    if others := [space for space in spaces if space not in SYSTEM]:
        subprocess.run([*kubectl, "namespace", *others], check=False)
    print("Setting up the CNI", flush=True)
    prepare_control_plane(host)
