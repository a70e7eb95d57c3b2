# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lab's records say about who changed what: the hosts' journals and the API server's audit log.

``python -m tests.scenarios.evidence FILE`` fails if anything was changed since FILE was written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

WRITES = {"create", "update", "patch", "delete", "deletecollection"}
# The user of the kubeconfig that the playbooks use on the first controller.
PLAYBOOK_USER = "admin"
REPO = Path(__file__).resolve().parents[2]


def state() -> Path:
    return Path(os.environ["TOKENLABS_LAB"])


@dataclass(frozen=True)
class Command:
    """A call of a simulated program on a host: when it ended (seconds since the epoch), how, how long it took (ms)."""

    host: str
    argv: list[str]
    rc: int
    t: float
    ms: int
    mutating: bool

    @property
    def line(self) -> str:
        return " ".join(self.argv)

    @property
    def begun(self) -> float:
        return self.t - self.ms / 1000

    def __str__(self) -> str:
        return f"{self.host}: {self.line}"


def commands(since: float = 0) -> list[Command]:
    """Calls that ended since then, from the journals of all hosts, in order."""
    ask = [str(REPO / "lab/ctl"), "--name", state().name, "journal", "--json"]
    text = subprocess.run(ask, check=True, capture_output=True, text=True).stdout
    names = [each.name for each in fields(Command)]
    found = [Command(**{name: entry[name] for name in names}) for entry in map(json.loads, text.splitlines())]
    return sorted((each for each in found if each.t >= since), key=lambda each: each.t)


def mutating_commands(since: float) -> list[str]:
    """Commands that change a host."""
    return [str(each) for each in commands(since) if each.mutating]


def writes(since: float, user: str = PLAYBOOK_USER) -> list[str]:
    """Requests of the playbooks that write to the API; a dry run is one too."""
    found = []
    for line in (state() / "audit.log").read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        moment = datetime.fromisoformat(event["requestReceivedTimestamp"].replace("Z", "+00:00")).timestamp()
        if moment >= since and event["user"]["username"] == user and event["verb"] in WRITES:
            found.append(f"{event['verb']} {event['requestURI']} by {event.get('userAgent', '?')}")
    return found


def main(mark: str) -> int:
    since = Path(mark).stat().st_mtime
    changes, requests = mutating_commands(since), writes(since)
    print(f"since then: {len(changes)} mutating commands, {len(requests)} writes to the API")
    for line in [*changes, *requests][:50]:
        print(f"  {line}")
    return 1 if changes or requests else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
