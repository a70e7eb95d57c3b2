# SPDX-License-Identifier: GPL-3.0-or-later
"""The program /snap/bin/microk8s and its `microk8s.X` twins."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module

from . import journal, snapstate
from .console import Exit, need_permission
from .host import Host

Command = Callable[[Host, Sequence[str]], None]


def _lazy(module: str, function: str) -> Command:
    """Only what a call needs is imported: these programs start often."""

    def call(host: Host, argv: Sequence[str]) -> None:
        getattr(import_module(f".{module}", __package__), function)(host, argv)

    return call


COMMANDS: dict[str, Command] = {
    "status": _lazy("status", "run"),
    "add-node": _lazy("addnode", "run"),
    "join": _lazy("join", "run"),
    "leave": _lazy("leave", "leave"),
    "remove-node": _lazy("leave", "remove_node"),
    "enable": _lazy("toggle", "enable"),
    "disable": _lazy("toggle", "disable"),
    "kubectl": _lazy("misc", "kubectl"),
    "helm": _lazy("misc", "helm"),
    "helm3": _lazy("misc", "helm"),
    "config": _lazy("misc", "config"),
    "version": _lazy("misc", "version"),
    "start": _lazy("misc", "start"),
    "stop": _lazy("misc", "stop"),
    "refresh-certs": _lazy("refresh_certs", "run"),
    "addons": _lazy("repositories", "run"),
    "inspect": _lazy("misc", "inspect"),
    "images": _lazy("images", "run"),
    "ctr": _lazy("images", "ctr"),
    "dbctl": _lazy("dbctl", "run"),
    "reset": _lazy("reset", "run"),
}


# What changes the host: the real wrappers run these steps by sudo when a member of the group calls them.
AS_ROOT = ("enable", "disable", "start", "stop", "join", "leave", "remove-node", "refresh-certs", "add-node", "reset",
           "images")  # fmt: skip


def become_root(host: Host, argv: Sequence[str]) -> None:
    if os.geteuid() and argv[:1] and argv[0] in AS_ROOT and host.settings.services == "systemd":
        need_permission(host)
        os.execvp("sudo", ["sudo", "/snap/bin/microk8s", *argv])


def dispatch(host: Host, argv: Sequence[str]) -> int:
    name = argv[0] if argv else "help"
    if name in ("help", "--help", "-h"):
        print("Available subcommands are:")
        print("\n".join(f"\t{command}" for command in sorted(COMMANDS)))
        return 0
    command = COMMANDS.get(name)
    if command is None:
        print(f"'{name}' is not a valid MicroK8s subcommand.\nAvailable subcommands are:")
        print("\n".join(f"\t{command}" for command in sorted(COMMANDS)))
        return 1
    try:
        become_root(host, argv)
        command(host, argv[1:])
    except Exit as end:
        return end.code
    return 0


def main(called_as: str, argv: Sequence[str]) -> int:
    started = time.monotonic()
    host = Host()
    if not called_as.startswith("microk8s"):
        called_as = snapstate.aliases(host).get(called_as, called_as)
    if called_as.startswith("microk8s."):
        argv = [called_as.removeprefix("microk8s."), *argv]
    rc = 1
    try:
        rc = dispatch(host, argv)
    except KeyboardInterrupt:
        rc = 130
    finally:  # a crash (with the traceback that the real one prints) is an answer too
        sys.stdout.flush()
        journal.record(host, "microk8s", argv, rc, started)
    return rc
