# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lab's records say about who changed what: the hosts' journals and the API server's audit log.

``python -m tests.scenarios.evidence FILE`` fails if anything was changed since FILE was written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

WRITES = {"create", "update", "patch", "delete", "deletecollection"}
# The user of the kubeconfig that the playbooks use on the first controller.
PLAYBOOK_USER = "admin"
REPO = Path(__file__).resolve().parents[2]


def state() -> Path:
    return Path(os.environ["TOKENLABS_LAB"])


def mutating_commands(since: float) -> list[str]:
    """Commands that change a host, from the journals of all hosts."""
    command = [str(REPO / "lab/ctl"), "--name", state().name, "journal", "--json"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    entries = [json.loads(line) for line in text.splitlines()]
    return [
        f"{entry['host']}: {' '.join(entry['argv'])}" for entry in entries if entry["mutating"] and entry["t"] >= since
    ]


def writes(since: float) -> list[str]:
    """Requests of the playbooks that write to the API; a dry run is one too."""
    found = []
    for line in (state() / "audit.log").read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        moment = datetime.fromisoformat(event["requestReceivedTimestamp"].replace("Z", "+00:00")).timestamp()
        if moment >= since and event["user"]["username"] == PLAYBOOK_USER and event["verb"] in WRITES:
            found.append(f"{event['verb']} {event['requestURI']} by {event.get('userAgent', '?')}")
    return found


def main(mark: str) -> int:
    since = Path(mark).stat().st_mtime
    commands, requests = mutating_commands(since), writes(since)
    print(f"since then: {len(commands)} mutating commands, {len(requests)} writes to the API")
    for line in [*commands, *requests][:50]:
        print(f"  {line}")
    return 1 if commands or requests else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
