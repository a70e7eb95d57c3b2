# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command, and append what it took to a file.

python -m tests.bench.measure FILE COMMAND...
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """Seconds by the clock and of CPU, and the most memory in MB, of one command and its arguments."""

    command: str
    seconds: float
    cpu: float
    memory: float


def usages(file: Path) -> list[Usage]:
    """What has been measured since the last call."""
    found = [Usage(**json.loads(line)) for line in file.read_text().splitlines()]
    file.unlink()
    return found


def main(file: str, *command: str) -> int:
    begin = time.monotonic()
    process = os.posix_spawnp(command[0], command, os.environ)
    _, status, used = os.wait4(process, 0)
    seconds, cpu = time.monotonic() - begin, used.ru_utime + used.ru_stime
    usage = Usage(" ".join(command), seconds, cpu, used.ru_maxrss * 1024 / 1e6)
    with Path(file).open("a") as out:
        out.write(json.dumps(asdict(usage)) + "\n")
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
