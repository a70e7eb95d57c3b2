# SPDX-License-Identifier: GPL-3.0-or-later
"""The program /usr/bin/snap, in the form that it has when not on a terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence

from . import journal, snapops, snapstate, store
from .console import Exit, finish
from .host import Host
from .snapops import table
from .units import DAEMONS, Services

SNAPD = "2.66.1"


class Line:
    """A sub-command's options and arguments."""

    def __init__(self, argv: Sequence[str], values: Sequence[str] = (), flags: Sequence[str] = ()) -> None:
        self.options: dict[str, str] = {}
        self.arguments: list[str] = []
        rest = list(argv)
        while rest:
            arg = rest.pop(0)
            name, given, value = arg.partition("=")
            if name in values:
                if not given and not rest:
                    finish(64, err=f"error: expected argument for flag `{name}'")
                self.options[name] = value if given else rest.pop(0)
            elif name in flags:
                self.options[name] = value
            elif arg.startswith("-") and arg != "-":
                finish(64, err=f"error: unknown flag `{name.lstrip('-')}'")
            else:
                self.arguments.append(arg)

    def __contains__(self, name: str) -> bool:
        return name in self.options

    def one(self, what: str) -> str:
        if not self.arguments:
            finish(64, err=f"error: the required argument `{what}` was not provided")
        return self.arguments[0]


def need_root(host: Host, doing: str) -> None:
    if os.geteuid() and host.settings.services == "systemd":
        finish(
            1, err=f"error: access denied (try with sudo)\n{doing}" if doing else "error: access denied (try with sudo)"
        )


def version(host: Host, argv: Sequence[str]) -> None:
    finish(
        0,
        out=table([("snap", SNAPD), ("snapd", SNAPD), ("series", "16"), ("ubuntu", "24.04"), ("kernel", host.kernel)]),
    )


def listing(host: Host, argv: Sequence[str]) -> None:
    line = Line(argv, (), ("--all", "--color", "--unicode"))
    snaps = snapstate.load(host)
    shown = [s for n, s in sorted(snaps.items()) if not line.arguments or n in line.arguments]
    if not shown:
        if line.arguments:
            finish(1, err="error: no matching snaps installed")
        finish(0, err="No snaps are installed yet. Try 'snap install hello-world'.")
    rows = [("Name", "Version", "Rev", "Tracking", "Publisher", "Notes")]
    rows += [(s.name, s.version, str(s.revision), s.channel, store.PUBLISHER, s.notes) for s in shown]
    finish(0, out=table(rows))


def info(host: Host, argv: Sequence[str]) -> None:
    name = Line(argv, (), ("--verbose", "--abs-time", "--color", "--unicode")).one("<snap>")
    snap = snapstate.load(host).get(name)
    unreachable = bool(host.fault("store_unreachable"))
    if name != "microk8s" or (unreachable and snap is None):
        finish(1, err=f'error: no snap found for "{name}"')
    lines = [
        f"name:      {name}",
        f"summary:   {store.SUMMARY}",
        f"publisher: {store.PUBLISHER}",
        "store-url: https://snapcraft.io/microk8s",
        "license:   Apache-2.0",
        "description: |",
        "  MicroK8s is the smallest, simplest, pure production Kubernetes.",
    ]
    if snap:
        lines += ["commands:", "  - microk8s", f"tracking:     {snap.channel}"]
    if not unreachable:
        rows = [(f"{r.channel}:", r.version, "2025-12-18", f"({r.revision})", "171MB", "classic")
                for r in store.channels(host)]  # fmt: skip
        lines += ["channels:", *("  " + x for x in table(rows).splitlines())]
    if snap:
        lines.append(f"installed:  {snap.version}  ({snap.revision}) 171MB {snap.notes}")
    finish(0, out="\n".join(lines))


def install(host: Host, argv: Sequence[str]) -> None:
    line = Line(argv, ("--channel", "--revision"), ("--classic", "--stable", "--candidate", "--edge", "--dangerous"))
    name = line.one("<snap>")
    need_root(host, "")
    risk = next((f.lstrip("-") for f in ("--stable", "--candidate", "--edge") if f in line), "")
    snapops.install(host, name, line.options.get("--channel", risk), "--classic" in line)


def refresh(host: Host, argv: Sequence[str]) -> None:
    line = Line(argv, ("--channel", "--revision"), ("--hold", "--unhold", "--classic", "--list", "--time", "--no-wait"))
    if "--time" in line:
        finish(0, out="timer: 00:00~24:00/4\nlast: today at 02:13 UTC\nnext: today at 08:41 UTC")
    if "--list" in line:
        finish(0, err="All snaps up to date.")
    if not line.arguments:
        need_root(host, "")
        if "--hold" in line:
            finish(0, out="General refreshes of all snaps held indefinitely")
        finish(0, err="All snaps up to date.")
    name = line.arguments[0]
    need_root(host, "")
    if "--hold" in line:
        snapops.hold(host, name, line.options["--hold"])
    if "--unhold" in line:
        snapops.unhold(host, name)
    snapops.refresh(host, name, line.options.get("--channel", ""))


def switch(host: Host, argv: Sequence[str]) -> None:
    line = Line(argv, ("--channel",))
    name = line.one("<snap>")
    need_root(host, "")
    snaps = snapstate.load(host)
    if name not in snaps:
        finish(1, err=f'error: snap "{name}" is not installed')
    snaps[name].channel = store.normalise(line.options.get("--channel", ""))
    snapstate.save(host, snaps)
    finish(0, out=f'"{name}" switched to the "{snaps[name].channel}" channel')


def remove(host: Host, argv: Sequence[str]) -> None:
    line = Line(argv, (), ("--purge", "--terminate"))
    name = line.one("<snap>")
    need_root(host, "")
    snapops.remove(host, name, "--purge" in line)


def alias(host: Host, argv: Sequence[str]) -> None:
    line = Line(argv)
    if len(line.arguments) != 2:
        finish(64, err="error: the required arguments `<snap.app>` and `<alias>` were not provided")
    need_root(host, "")
    snapops.add_alias(host, *line.arguments)


def unalias(host: Host, argv: Sequence[str]) -> None:
    name = Line(argv).one("<alias-or-snap>")
    need_root(host, "")
    if name not in snapstate.aliases(host):
        finish(1, err=f'error: cannot find manual alias "{name}" in any snap')
    command = snapops.drop_alias(host, name)
    finish(0, out=f"Removed:\n  - {command} as {name}")


def aliases(host: Host, argv: Sequence[str]) -> None:
    known = snapstate.aliases(host)
    if not known:
        finish(
            0, err="No aliases are currently defined.\n\nUse 'snap help alias' to learn how to create aliases manually."
        )
    finish(0, out=table([("Command", "Alias", "Notes"), *((c, a, "manual") for a, c in sorted(known.items()))]))


def get_config(host: Host, argv: Sequence[str]) -> None:
    line = Line(argv, (), ("-d", "-l", "-t"))
    name = line.one("<snap>")
    snap = snapstate.load(host).get(name)
    if snap is None:
        finish(1, err=f'error: snap "{name}" is not installed')
    keys = line.arguments[1:]
    missing = [k for k in keys if k not in snap.config]
    if missing:
        finish(1, err=f'error: snap "{name}" has no "{missing[0]}" configuration option')
    if not keys and not snap.config:
        finish(1, err=f'error: snap "{name}" has no configuration')
    if "-d" in line:
        chosen = {k: v for k, v in snap.config.items() if not keys or k in keys}
        finish(0, out=json.dumps(chosen, indent="\t"))
    if len(keys) == 1:
        finish(0, out=str(snap.config[keys[0]]))
    finish(0, out=table([("Key", "Value"), *((k, str(v)) for k, v in sorted(snap.config.items()))]))


def set_config(host: Host, argv: Sequence[str]) -> None:
    line = Line(argv, (), ("-s", "-t"))
    name = line.one("<snap>")
    need_root(host, "")
    snaps = snapstate.load(host)
    if name not in snaps:
        finish(1, err=f'error: snap "{name}" is not installed')
    for pair in line.arguments[1:]:
        key, given, value = pair.partition("=")
        if not given and not key.endswith("!"):
            finish(1, err=f'error: invalid configuration: "{pair}" (want key=value)')
        if given:
            snaps[name].config[key] = value
        else:
            snaps[name].config.pop(key[:-1], None)
    snapstate.save(host, snaps)
    finish(0)


def unset_config(host: Host, argv: Sequence[str]) -> None:
    line = Line(argv)
    set_config(host, [line.one("<snap>"), *(f"{k}!" for k in line.arguments[1:])])


def services(host: Host, argv: Sequence[str]) -> None:
    line = Line(argv, (), ("--global", "--user"))
    if "microk8s" not in snapstate.load(host):
        if line.arguments:
            finish(1, err=f'error: snap "{line.arguments[0].split(".")[0]}" not found')
        finish(0, err="There are no services provided by installed snaps.")
    manager = Services(host)
    active = manager.active()
    wanted = {a.partition(".")[2] for a in line.arguments if "." in a}
    rows = [("Service", "Startup", "Current", "Notes")]
    for daemon in DAEMONS:
        if not wanted or daemon in wanted:
            startup = "enabled" if manager.enabled(daemon) else "disabled"
            rows.append((f"microk8s.{daemon}", startup, "active" if active[daemon] else "inactive", "-"))
    finish(0, out=table(rows))


def _control(verb: str) -> Callable[[Host, Sequence[str]], None]:
    def run(host: Host, argv: Sequence[str]) -> None:
        line = Line(argv, (), ("--enable", "--disable", "--reload"))
        name = line.one("<service>")
        need_root(host, "")
        daemons: list[str] = []
        for argument in line.arguments:
            snap, _, daemon = argument.partition(".")
            if snap not in snapstate.load(host):
                finish(1, err=f'error: snap "{snap}" not found')
            if daemon and daemon not in DAEMONS:
                finish(1, err=f'error: snap "{snap}" has no service "{daemon}"')
            daemons += [daemon] if daemon else DAEMONS
        manager = Services(host)
        with snapstate.change(host, "service-control", f"Running service command {verb} of {name}"):
            if verb == "start":
                manager.start(daemons, enable="--enable" in line)
            elif verb == "stop":
                manager.stop(daemons, disable="--disable" in line)
            else:
                manager.restart([d for d in daemons if manager.enabled(d) or len(daemons) == 1])
        finish(0, out={"start": "Started.", "stop": "Stopped.", "restart": "Restarted."}[verb])

    return run


def changes(host: Host, argv: Sequence[str]) -> None:
    known = snapstate.changes(host)
    if not known:
        finish(0, err="no changes found")
    rows = [("ID", "Status", "Spawn", "Ready", "Summary")]
    rows += [(str(c["id"]), c["status"], c["spawn"], c["ready"], c["summary"]) for c in known]
    finish(0, out=table(rows))


def tasks(host: Host, argv: Sequence[str]) -> None:
    line = Line(argv, ("--last",), ("--abs-time",))
    wanted = line.arguments[0] if line.arguments else ""
    found = [c for c in snapstate.changes(host) if not wanted or str(c["id"]) == wanted]
    if not found:
        finish(1, err=f'error: cannot find change with id "{wanted}"' if wanted else "error: no changes found")
    last = found[-1]
    finish(0, out=table([("Status", "Spawn", "Ready", "Summary"),
                         (last["status"], last["spawn"], last["ready"], last["summary"])]))  # fmt: skip


def nothing(host: Host, argv: Sequence[str]) -> None:
    finish(0)


def usage(host: Host, argv: Sequence[str]) -> None:
    finish(
        0,
        out="The snap command lets you install, configure, refresh and remove snaps.\n\n"
        "Usage: snap <command> [<options>...]",
    )


COMMANDS: dict[str, Callable[[Host, Sequence[str]], None]] = {
    "": usage,
    "help": usage,
    "--help": usage,
    "version": version,
    "--version": version,
    "list": listing,
    "info": info,
    "install": install,
    "refresh": refresh,
    "switch": switch,
    "remove": remove,
    "alias": alias,
    "unalias": unalias,
    "aliases": aliases,
    "get": get_config,
    "set": set_config,
    "unset": unset_config,
    "services": services,
    "start": _control("start"),
    "stop": _control("stop"),
    "restart": _control("restart"),
    "changes": changes,
    "tasks": tasks,
    "wait": nothing,
    "debug": nothing,
}


def dispatch(host: Host, argv: Sequence[str]) -> int:
    name = argv[0] if argv else ""
    command = COMMANDS.get(name)
    try:
        if command is None:
            finish(64, err=f"error: unknown command \"{name}\", see 'snap help'.")
        command(host, argv[1:])
    except Exit as end:
        return end.code
    except snapstate.Conflict as busy:
        print(f'error: snap "microk8s" has "{busy}" change in progress', file=sys.stderr)
        return 10
    return 0


# What snapd does for its client: it goes on when the client is killed.
OF_SNAPD = ("install", "refresh", "remove", "start", "stop", "restart")


def main(argv: Sequence[str]) -> int:
    if list(argv[:1]) and argv[0] in OF_SNAPD:
        return by_snapd(argv)
    return called(argv)


def by_snapd(argv: Sequence[str]) -> int:
    """Have it done in a process of its own, and tell what that said when it has ended."""
    said = [os.memfd_create(name) for name in ("out", "err")]
    child = os.fork()
    if child == 0:
        os.setsid()
        for ours, theirs in enumerate(said, 1):
            os.dup2(theirs, ours)
        rc = 1
        try:
            rc = called(argv)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(rc)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for stream, descriptor in zip((sys.stdout, sys.stderr), said, strict=True):
        os.lseek(descriptor, 0, os.SEEK_SET)
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as text:
            stream.write(text.read())
    return status


def called(argv: Sequence[str]) -> int:
    started = time.monotonic()
    host = Host()
    rc = 1
    try:
        rc = dispatch(host, argv)
    finally:
        sys.stdout.flush()
        journal.record(host, "snap", argv, rc, started)
    return rc
