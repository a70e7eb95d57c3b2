# SPDX-License-Identifier: GPL-3.0-or-later
"""What snapd does: install, refresh, hold, remove; and the hooks of the MicroK8s snap."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from . import launch, snapstate, store, tree
from .console import finish
from .host import Host, write_file
from .snapstate import Snap, change
from .units import DAEMONS, Services

HOOK_FAILED = """error: cannot perform the following tasks:
- Run configure hook of "microk8s" snap if present (run hook "configure": {0})"""


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as Go's tabwriter sets them, two blanks apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def need_store(host: Host) -> None:
    if host.fault("store_unreachable"):
        finish(1, err="error: unable to contact snap store")


def no_such_channel(host: Host, name: str, channel: str, action: str) -> NoReturn:
    known = store.channels(host)
    if not known:
        finish(
            1,
            err=f'error: snap "{name}" is not available on stable for this architecture\n'
            f"       ({host.arch}) but exists on other architectures ({', '.join(store.archs())}).",
        )
    rows = [(r.channel, f"snap {action} --channel={r.channel} {name}") for r in known]
    finish(
        1,
        err=f'error: snap "{name}" is not available on {channel} but is available to install on the\n'
        "       following channels:\n\n"
        + "\n".join("       " + x for x in table(rows).splitlines())
        + f"\n\n       Please be mindful pre-release channels may include features not\n"
        f"       completely tested or implemented. Get more information with 'snap info\n       {name}'.",
    )


def install(host: Host, name: str, channel: str, classic: bool) -> None:
    snaps = snapstate.load(host)
    if name in snaps:
        finish(0, err=f"snap \"{name}\" is already installed, see 'snap help refresh'")
    need_store(host)
    if name != "microk8s":
        finish(1, err=f'error: snap "{name}" not found')
    channel = store.normalise(channel)
    release = store.find(channel, host)
    if release is None:
        no_such_channel(host, name, channel, "install")
    if not classic:
        finish(
            1,
            err=f'error: This revision of snap "{name}" was published using classic confinement and thus\n'
            "       may perform arbitrary system changes outside of the security sandbox that\n"
            "       snaps are usually confined to, which may put your system at risk.\n\n"
            "       If you understand and want to proceed repeat the command including\n"
            "       --classic.",
        )
    with change(host, "install-snap", f'Install "{name}" snap from "{channel}" channel'):
        time.sleep(host.settings.install_delay)
        _lay_down(host, release)
        snaps[name] = Snap(name, channel, release.version, release.revision)
        snapstate.save(host, snaps)
        Services(host).start(DAEMONS)
    shown = "" if channel == "latest/stable" else f" ({channel})"
    finish(0, out=f"{name}{shown} {release.version} from {store.PUBLISHER} installed")


def _lay_down(host: Host, release: store.Release) -> None:
    """The install and configure hooks. When one fails nothing of the snap stays."""
    if host.settings.services == "systemd":
        subprocess.run(["groupadd", "--system", "--force", "microk8s"], check=False)
    text = launch.find(host)
    try:
        config = launch.parse(text)
        if host.fault("configure_hook_fails"):
            raise launch.LaunchError("exit status 1")
        tree.make(host, release)
        launch.apply_before_start(host, config)
        if config.get("extraSANs"):
            tree.make_server_certificate(host)
        write_file(host.common / "etc/launcher/install.yaml", text)
        tree.own_by_group(host)
        tree.write_apparmor(host)
        Services(host).install()
    except launch.LaunchError as error:
        tree.remove(host)
        finish(1, err=HOOK_FAILED.format(error))


def refresh(host: Host, name: str, channel: str) -> None:
    snap = snapstate.load(host).get(name)
    if snap is None:
        finish(1, err=f'error: snap "{name}" is not installed')
    need_store(host)
    wanted = store.normalise(channel) if channel else snap.channel
    release = store.find(wanted, host)
    if release is None:
        no_such_channel(host, name, wanted, "refresh")
    if release.revision <= snap.revision and wanted == snap.channel:
        finish(0, err=f'snap "{name}" has no updates available')
    if release.revision == snap.revision:
        follow(host, name, wanted)
    else:
        with change(host, "refresh-snap", f'Refresh "{name}" snap from "{wanted}" channel'):
            exchange(host, snap, release)
    finish(0, out=f"{name} ({wanted}) {release.version} from {store.PUBLISHER} refreshed")


def follow(host: Host, name: str, channel: str) -> None:
    snaps = snapstate.load(host)
    snaps[name].channel = channel
    snapstate.save(host, snaps)


def exchange(host: Host, snap: Snap, release: store.Release) -> None:
    """The services run from another revision; when its configure hook fails everything is as it was before."""
    time.sleep(host.settings.install_delay)
    services, name = Services(host), snap.name
    old = store.Release(snap.channel, snap.version, snap.revision)
    services.stop(DAEMONS)
    before, after = (host.path(f"var/snap/{name}/{r}") for r in (old.revision, release.revision))
    shutil.rmtree(after, ignore_errors=True)
    shutil.copytree(before, after, symlinks=True)
    failed = bool(host.fault("configure_hook_fails"))
    if failed:
        shutil.rmtree(after)
    else:
        if host.is_worker:  # pods on it have mounted the old revision's files, and nothing tells them
            write_file(host.state / "network-stale", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) + "\n")
        tree.point_to(host, release)
        tree.own_by_group(host)
        snaps = snapstate.load(host)
        snaps[name] = replace(snap, channel=release.channel, version=release.version, revision=release.revision)
        snapstate.save(host, snaps)
    if not host.is_stopped:
        services.start(DAEMONS)
    if failed:
        finish(1, err=HOOK_FAILED.format("exit status 1"))


def hold(host: Host, name: str, duration: str) -> None:
    snaps = snapstate.load(host)
    if name not in snaps:
        finish(1, err=f'error: snap "{name}" is not installed')
    if duration in ("", "forever"):
        until, text = "forever", "held indefinitely"
    else:
        unit = {"h": 3600, "m": 60, "s": 1}.get(duration[-1:])
        if unit is None or not duration[:-1].isdigit():
            finish(
                1,
                err=f'error: hold value must be a number of hours, minutes or seconds, or "forever", not "{duration}"',
            )
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + int(duration[:-1]) * (unit or 1)))
        text = f"held until {until}"
    snaps[name].held = until
    snapstate.save(host, snaps)
    finish(0, out=f'General refreshes of "{name}" {text}')


def unhold(host: Host, name: str) -> None:
    snaps = snapstate.load(host)
    if name not in snaps:
        finish(1, err=f'error: snap "{name}" is not installed')
    snaps[name].held = ""
    snapstate.save(host, snaps)
    finish(0, out=f'Removed general refresh hold of "{name}"')


def remove(host: Host, name: str, purge: bool) -> None:
    snaps = snapstate.load(host)
    if name not in snaps:
        finish(0, err=f'snap "{name}" is not installed')
    with change(host, "remove-snap", f'Remove "{name}" snap'):
        Services(host).remove()
        tree.remove(host)
        del snaps[name]
        snapstate.save(host, snaps)
        for alias in [a for a, c in snapstate.aliases(host).items() if c.split(".")[0] == name]:
            drop_alias(host, alias)
        (host.state / "standalone.json").unlink(missing_ok=True)
    finish(0, out=f"{name} removed" if purge else f"{name} removed")


def add_alias(host: Host, command: str, alias: str) -> None:
    name = command.split(".")[0]
    if name not in snapstate.load(host):
        finish(1, err=f'error: snap "{name}" is not installed')
    known = snapstate.aliases(host)
    if known.get(alias) == command:
        finish(0)
    if alias in known:
        finish(
            1,
            err=f'error: cannot perform the following tasks:\n- Setup manual alias "{alias}" => '
            f'"{command.partition(".")[2]}" for snap "{name}" (cannot enable alias "{alias}" for "{name}", '
            f'already enabled for "{known[alias].split(".")[0]}")',
        )
    link = host.path(f"snap/bin/{alias}")
    link.unlink(missing_ok=True)
    link.symlink_to(command)
    snapstate.save_aliases(host, {**known, alias: command})
    finish(0, out=f"Added:\n  - {command} as {alias}")


def drop_alias(host: Host, alias: str) -> str:
    known = snapstate.aliases(host)
    command = known.pop(alias)
    host.path(f"snap/bin/{alias}").unlink(missing_ok=True)
    snapstate.save_aliases(host, known)
    return command
