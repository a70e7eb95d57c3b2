# SPDX-License-Identifier: GPL-3.0-or-later
"""The small commands: kubectl, helm, config, version, start, stop, inspect."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import argfile, options, snapstate
from .console import WORKER_ONE_LINE, WORKER_TWO_LINES, Exit, finish, need_permission, need_started, not_on_worker
from .host import Host
from .units import DAEMONS, Services


def _pass_on(program: Path, argv: Sequence[str], config: Path) -> None:
    if not program.exists():
        finish(127, err=f"{program}: No such file or directory")
    env = {**os.environ, "KUBECONFIG": str(config)}
    raise Exit(subprocess.run([str(program), *argv], env=env, check=False).returncode)


def kubectl(host: Host, argv: Sequence[str]) -> None:
    not_on_worker(host, WORKER_ONE_LINE + "kubectl on the master.", 0)
    need_started(host)
    need_permission(host)
    _pass_on(host.snap / "kubectl", argv, host.credentials / "client.config")


def helm(host: Host, argv: Sequence[str]) -> None:
    not_on_worker(host, WORKER_ONE_LINE + "helm on the master.", 0)
    need_started(host)
    need_permission(host)
    _pass_on(host.snap / "bin/helm", argv, host.credentials / "client.config")


def config(host: Host, argv: Sequence[str]) -> None:
    not_on_worker(host, WORKER_ONE_LINE + "config on the master.", 0)
    need_permission(host)
    found = options.parse("microk8s config", "[OPTIONS]", argv, {}, ["-l", "--use-loopback"])
    text = (host.credentials / "client.config").read_text()
    if not found.options:
        text = text.replace("127.0.0.1", host.address)
    finish(0, out=text.rstrip("\n"))


def version(host: Host, argv: Sequence[str]) -> None:
    snap = snapstate.load(host).get("microk8s")
    finish(0, out=f"MicroK8s {snap.version} revision {snap.revision}" if snap else "")


def start(host: Host, argv: Sequence[str]) -> None:
    not_on_worker(host, WORKER_TWO_LINES + "Use 'snap start microk8s' to start services on this node.", 0)
    need_permission(host)
    host.lock("stopped.lock").unlink(missing_ok=True)
    Services(host).start(DAEMONS, enable=True)
    finish(0)


def stop(host: Host, argv: Sequence[str]) -> None:
    not_on_worker(host, WORKER_TWO_LINES + "Use 'snap stop microk8s' to stop services on this node.", 0)
    need_permission(host)
    Services(host).stop(DAEMONS, disable=True)
    host.lock("stopped.lock").touch()
    finish(0, out="Stopped.")


def inspect(host: Host, argv: Sequence[str]) -> None:
    need_permission(host)
    active = Services(host).active()
    print("Inspecting system\nInspecting Certificates\nInspecting services")
    for daemon in DAEMONS:
        word = "is running" if active[daemon] else "is not running"
        print(f"  Service snap.microk8s.{daemon} {word}")
    print("  Copy service arguments to the final report tarball")
    finish(0, out=f"Authorization mode: {argfile.read(host.args / 'kube-apiserver').get('--authorization-mode', '')}")
