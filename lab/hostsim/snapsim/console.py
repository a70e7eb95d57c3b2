# SPDX-License-Identifier: GPL-3.0-or-later
"""Ending a command, and the guards that MicroK8s' wrappers begin with (each command has its own order of them)."""

from __future__ import annotations

import getpass
import grp
import os
import sys
from typing import NoReturn

from .host import Host

WORKER_TWO_LINES = "This MicroK8s deployment is acting as a node in a cluster.\n"
WORKER_ONE_LINE = "This MicroK8s deployment is acting as a node in a cluster. Please use the microk8s "
NOT_RUNNING = "microk8s is not running, try microk8s start"


class Exit(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def finish(code: int, out: str = "", err: str = "") -> NoReturn:
    if out:
        print(out)
    if err:
        print(err, file=sys.stderr)
    raise Exit(code)


def usage(command: str, synopsis: str, error: str) -> NoReturn:
    """How the click library refuses arguments."""
    finish(2, err=f"Usage: {command} {synopsis}\nTry '{command} --help' for help.\n\nError: {error}")


def need_permission(host: Host) -> None:
    if os.geteuid() == 0 or host.settings.services != "systemd":
        return
    try:
        if grp.getgrnam("microk8s").gr_gid in os.getgroups():
            return
    except KeyError:
        pass
    user = getpass.getuser()
    finish(
        1,
        err="Insufficient permissions to access MicroK8s.\n"
        f"You can either try again with sudo or add the user {user} to the 'microk8s' group:\n\n"
        f"    sudo usermod -a -G microk8s {user}\n    sudo chown -R {user} ~/.kube\n\n"
        "After this, reload the user groups either via a reboot or by running 'newgrp microk8s'.",
    )


def need_started(host: Host, code: int = 1, to_stdout: bool = False) -> None:
    if host.is_stopped:
        finish(code, out=NOT_RUNNING) if to_stdout else finish(code, err=NOT_RUNNING)


def not_on_worker(host: Host, text: str, code: int) -> None:
    if host.is_worker:
        finish(code, out=text)
