# SPDX-License-Identifier: GPL-3.0-or-later
"""A setting of the machine's kernel that labs need higher: each host's systemd takes some inotify instances.

The first lab raises it and notes what it was, the last one puts it back; labs that died count until their files go.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETTING = Path("/proc/sys/fs/inotify/max_user_instances")
NOTES = Path("/run/tokenlabs-lab")
ENOUGH = 8192


@contextmanager
def _notes() -> Iterator[Path]:
    NOTES.mkdir(mode=0o700, exist_ok=True)
    with open(NOTES / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield NOTES


def acquire(name: str, state: Path) -> None:
    """Have enough of it while the lab `name` with its files in `state` is there."""
    with _notes() as notes:
        old = SETTING.read_text()
        if int(old) < ENOUGH:
            (notes / "before").write_text(old)
            SETTING.write_text(f"{ENOUGH}\n")
        (notes / f"{name}.lab").write_text(str(state))


def release(name: str) -> None:
    """The lab is gone; when it was the last one the setting is what it was."""
    if not NOTES.exists():
        return
    with _notes() as notes:
        (notes / f"{name}.lab").unlink(missing_ok=True)
        for marker in notes.glob("*.lab"):
            if Path(marker.read_text()).exists():
                return
            marker.unlink()
        if (notes / "before").exists():
            SETTING.write_text((notes / "before").read_text())
            (notes / "before").unlink()
