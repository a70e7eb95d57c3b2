# SPDX-License-Identifier: GPL-3.0-or-later
"""snapd's own memory: installed snaps, aliases, changes."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from .host import Host, read_json, write_file


@dataclass
class Snap:
    name: str
    channel: str
    version: str
    revision: int
    classic: bool = True
    held: str = ""  # "", "forever" or a time
    disabled: bool = False
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def notes(self) -> str:
        words = [w for w, on in (("disabled", self.disabled), ("classic", self.classic), ("held", self.held)) if on]
        return ",".join(words) or "-"


class Conflict(Exception):
    """Another change of the snap is in progress; carries that change's kind."""


def load(host: Host) -> dict[str, Snap]:
    return {name: Snap(**raw) for name, raw in read_json(host.state / "snaps.json", {}).items()}


def save(host: Host, snaps: dict[str, Snap]) -> None:
    raw = {name: asdict(snap) for name, snap in snaps.items()}
    write_file(host.state / "snaps.json", json.dumps(raw, indent=1) + "\n")


def aliases(host: Host) -> dict[str, str]:
    """Alias -> command."""
    return dict(read_json(host.state / "aliases.json", {}))


def save_aliases(host: Host, value: dict[str, str]) -> None:
    write_file(host.state / "aliases.json", json.dumps(value, indent=1) + "\n")


def changes(host: Host) -> list[dict[str, Any]]:
    return list(read_json(host.state / "changes.json", []))


def _note(host: Host, entry: dict[str, Any]) -> None:
    write_file(host.state / "changes.json", json.dumps([*changes(host)[-50:], entry], indent=1) + "\n")


@contextmanager
def change(host: Host, kind: str, summary: str) -> Iterator[None]:
    """One change at a time; a second one is refused, as snapd refuses it for the same snap."""
    if host.fault("change_conflict"):
        raise Conflict("auto-refresh")
    host.state.mkdir(parents=True, exist_ok=True)
    with open(host.state / ".change.lock", "a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.seek(0)
            raise Conflict(held.read().strip() or "install-snap") from None
        held.truncate(0)
        held.write(kind)
        held.flush()
        begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        status = "Error"
        try:
            yield
            status = "Done"
        finally:
            held.truncate(0)
            last = changes(host)
            _note(
                host,
                {
                    "id": (last[-1]["id"] + 1) if last else 1,
                    "kind": kind,
                    "status": status,
                    "summary": summary,
                    "spawn": begun,
                    "ready": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                },
            )
