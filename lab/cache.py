# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache of things made once: made under another name, then renamed; safe when two labs want the same thing."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Artifact:
    path: Path
    facts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def locked(target: Path, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock of ``target``; the kernel drops it with the process, however that ends."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.lock"), "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if say:
                say(f"waiting for another process that is making {target.name}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def publish(target: Path, make: Callable[[Path], None]) -> None:
    """Let ``make`` fill a directory and give it its name only when it is complete. Call under the lock."""
    partial = target.with_name(f".{target.name}.partial")
    for leftover in (partial, target):
        if leftover.exists():
            shutil.rmtree(leftover)
    make(partial)
    os.replace(partial, target)
