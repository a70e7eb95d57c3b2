# SPDX-License-Identifier: GPL-3.0-or-later
"""What snapd does unasked: an automatic refresh, when the fault `auto_refresh_in` says so."""

from __future__ import annotations

import time
from collections.abc import Sequence

from . import snapops, snapstate, store
from .host import Host


def main(argv: Sequence[str]) -> int:
    """snapd's own doing, some seconds after the fault was set: the newest of the followed channel, unless held."""
    host = Host()
    seconds = host.take_fault("auto_refresh_in")
    if seconds is None:
        return 0
    time.sleep(float(seconds))
    snap = snapstate.load(host).get("microk8s")
    if snap is None or snap.held:
        return 0
    host.set_fault("newer_patch", True)
    release = store.find(snap.channel, host)
    if release is not None and release.revision > snap.revision:
        with snapstate.change(host, "auto-refresh", 'Auto-refresh snap "microk8s"'):
            time.sleep(host.settings.auto_refresh_time)
            snapops.exchange(host, snap, release)
    return 0
