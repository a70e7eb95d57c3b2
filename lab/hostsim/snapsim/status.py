# SPDX-License-Identifier: GPL-3.0-or-later
"""`microk8s status`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from . import cluster, options
from .addons.table import Addon
from .cluster import View
from .console import NOT_RUNNING, WORKER_TWO_LINES, finish, need_permission, not_on_worker, usage
from .host import Host

UNREADY = "microk8s is not running. Use microk8s inspect for a deeper inspection."


def _ha(view: View) -> bool:
    return len(view.voters) > 2


def pretty(view: View, on: list[Addon], off: list[Addon]) -> str:
    lines = [
        "microk8s is running",
        f"high-availability: {'yes' if _ha(view) else 'no'}",
        f"  datastore master nodes: {' '.join(view.voters) or 'none'}",
        f"  datastore standby nodes: {' '.join(view.standbys) or 'none'}",
        "addons:",
    ]
    for title, addons in (("enabled", on), ("disabled", off)):
        if addons:
            lines.append(f"  {title}:")
            lines += [f"    {a.name:<20} # (core) {a.description}" for a in addons]
    return "\n".join(lines)


def short(on: list[Addon], off: list[Addon]) -> str:
    return "\n".join(["microk8s is running", "addons:", *_states(on, off)])


def _states(on: list[Addon], off: list[Addon]) -> list[str]:
    return [f"core/{a.name}: {word}" for word, addons in (("enabled", on), ("disabled", off)) for a in addons]


def deprecated_yaml(on: list[Addon], off: list[Addon]) -> str:
    return "\n".join(["microk8s:", "  running: True", "addons:", *(f"  {line}" for line in _states(on, off))])


def yaml(host: Host, view: View, on: list[Addon], off: list[Addon]) -> str:
    lines = [
        "microk8s:",
        f"  running: {view.ready}",
        "high-availability:",
        f"  enabled: {host.locked('ha-cluster')}",
        "  nodes:",
    ]
    for address, role in view.members:
        lines += [f"    - address: {address}", f"      role: {role}"]
    if not view.ready:
        return "\n".join([*lines, f"  message: {UNREADY}"])
    lines.append("addons:")
    for word, addons in (("enabled", on), ("disabled", off)):
        for a in addons:
            lines += [
                f"  - name: {a.name}",
                "    repository: core",
                f"    description: {a.description}",
                f"    version: {a.version or ' '}",
                f"    status: {word}",
            ]
    return "\n".join(lines)


def wait(host: Host, timeout: int) -> View:
    """Ask until it is ready; zero seconds mean for ever, as in the real one."""
    end = time.monotonic() + timeout
    while True:
        view = cluster.look(host)
        if view.ready or (timeout and time.monotonic() >= end):
            return view
        time.sleep(1)


def run(host: Host, argv: Sequence[str]) -> None:
    need_permission(host)
    not_on_worker(host, WORKER_TWO_LINES + "Please use the control plane node.", 0)
    found = options.parse(
        "microk8s status",
        "[OPTIONS]",
        argv,
        {"-t": "timeout", "--timeout": "timeout", "--format": "format", "-a": "addon", "--addon": "addon"},
        ["--wait-ready", "--yaml"],
    )
    form = "deprecated" if found.flag("--yaml") else found.options.get("format", "pretty")
    if form not in ("pretty", "short", "yaml", "deprecated"):
        usage("microk8s status", "[OPTIONS]", f"Invalid value for '--format': {form}")
    if host.is_stopped:
        finish(0, out=NOT_RUNNING)
    view = wait(host, int(found.options.get("timeout", 0))) if found.flag("--wait-ready") else cluster.look(host)
    on, off = cluster.split(host, view)
    if not view.ready:
        finish(1, out=yaml(host, view, on, off) if form == "yaml" else UNREADY)
    if "addon" in found.options:
        wanted = found.options["addon"].removeprefix("core/")
        finish(0, out="enabled" if any(a.name == wanted for a in on) else "disabled")
    text = {
        "pretty": lambda: pretty(view, on, off),
        "short": lambda: short(on, off),
        "deprecated": lambda: deprecated_yaml(on, off),
        "yaml": lambda: yaml(host, view, on, off),
    }[form]()
    finish(0, out=text)
