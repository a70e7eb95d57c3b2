# SPDX-License-Identifier: GPL-3.0-or-later
"""`microk8s enable` and `microk8s disable`."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Sequence

from . import cluster, options
from .addons import scripts, table
from .console import WORKER_TWO_LINES, Exit, finish, need_permission, need_started, not_on_worker, usage
from .host import Host

SEVERAL = """WARNING: Do not enable or disable multiple addons in one command.
         This form of chained operations on addons will be DEPRECATED in the future.
         Please, {0} one addon at a time: 'microk8s {0} <addon>'"""


def _await_api(host: Host) -> cluster.View:
    end = time.monotonic() + 30
    while not (view := cluster.look(host)).ready and time.monotonic() < end:
        time.sleep(1)
    return view


def _resolve(host: Host, text: str) -> str | None:
    """The addon's name, or None for a wrong one of a named repository, which is no error to the real command."""
    repository, slash, name = text.rpartition("/")
    if slash:
        if repository == "core" and table.find(name, host.arch):
            return name
        print(f"Addon {text} not found")
        return None
    if table.find(name, host.arch):
        print(f"Infer repository core for addon {name}", file=sys.stderr)
        return name
    sys.stdout.flush()
    print(f"Addon {name} was not found in any repository", file=sys.stderr)
    if name in table.COMMUNITY:
        print(
            "To use the community maintained flavor enable the respective repository:\n\n"
            "    microk8s enable community\n",
            file=sys.stderr,
        )
    raise Exit(1)


def _toggle(host: Host, argv: Sequence[str], on: bool) -> None:
    word = "enable" if on else "disable"
    not_on_worker(host, WORKER_TWO_LINES + "Please use the master node.", 1)
    need_started(host)
    need_permission(host)
    if not argv:
        usage(f"microk8s {word}", "[OPTIONS] ADDONS...", "Missing argument 'ADDONS...'.")
    if argv[0] in ("-h", "--help"):
        options.parse(f"microk8s {word}", "[OPTIONS] ADDONS...", argv[:1], {}, [])
    addons = [a for a in argv if not a.startswith("-")]
    flags = [a for a in argv if a.startswith("-")]
    with open(os.open(host.lock(".microk8s-addon-lock"), os.O_RDWR | os.O_CREAT, 0o660), "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if len(addons) > 1 and not flags:
            print(SEVERAL.format(word))
        for text in addons if not flags else addons[:1]:
            name, colon, rest = text.partition(":")
            if colon and flags:
                finish(
                    1,
                    err="Can't pass string arguments and flag arguments simultaneously!\n"
                    f"Enable arguments using either string or flags, e.g. microk8s {word} {name}:{rest}",
                )
            _one(host, name, [a for a in rest.split(":", 1) if a] if colon else [], on)


def _one(host: Host, text: str, arguments: list[str], on: bool) -> None:
    name = _resolve(host, text)
    if name is None:
        return
    addon = table.find(name, host.arch)
    assert addon is not None
    view = _await_api(host)
    if cluster.enabled(host, addon, view) == on:
        print(f"Addon core/{name} is already {'enabled' if on else 'disabled'}")
        return
    sys.stdout.flush()
    script = scripts.find(name, on)
    if script is None:
        finish(1, err=f"The addon {name} is not simulated here.")
    script(host, arguments)


def enable(host: Host, argv: Sequence[str]) -> None:
    _toggle(host, argv, on=True)


def disable(host: Host, argv: Sequence[str]) -> None:
    _toggle(host, argv, on=False)
