# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the scenarios: pytest runs inside a lab's network, as `lab/ctl exec -- pytest tests/scenarios` does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
INVENTORY = os.environ.get("INVENTORY", "inventories/lab")
# Put before each command; tests/rollout enters its labs by it.
ENTER: list[str] = []


@dataclass(frozen=True)
class Run:
    """How a command ended; ``text`` is all it said."""

    code: int
    text: str

    @property
    def changed(self) -> int:
        """What a playbook changed on all hosts together."""
        counts = re.findall(r"changed=(\d+)", self.text)
        assert counts, self.text
        return sum(int(count) for count in counts)


def run(*command: str | Path, timeout: int = 900) -> Run:
    result = subprocess.run([*ENTER, *command], cwd=REPO, capture_output=True, text=True, timeout=timeout, check=False)
    return Run(result.returncode, result.stdout + result.stderr)


def playbook(name: str, *arguments: str) -> Run:
    return run("ansible-playbook", "-i", INVENTORY, f"playbooks/{name}.yml", *arguments)


def kill_when(name: str, matches: Callable[[str], bool], *arguments: str, limit: int = 900) -> str:
    """Start a playbook and SIGKILL it with all that it started when a line of its output matches; returns the line."""
    command = [*ENTER, "ansible-playbook", "-i", INVENTORY, f"playbooks/{name}.yml", *arguments]
    process = subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    end = time.monotonic() + limit
    try:
        for line in process.stdout:
            if matches(line):
                return line
            assert time.monotonic() < end, f"no line matched in {limit} s"
        raise AssertionError("the run ended before a line matched")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_and(name: str, matches: Callable[[str], bool], act: Callable[[], object], *arguments: str) -> Run:
    """Let a playbook run to its end, and do something when a line of its output matches for the first time."""
    command = [*ENTER, "ansible-playbook", "-i", INVENTORY, f"playbooks/{name}.yml", *arguments]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said, done = [], False
    for line in process.stdout:
        said.append(line)
        if not done and matches(line):
            act()
            done = True
    result = Run(process.wait(), "".join(said))
    assert done, f"no line matched:\n{result.text[-4000:]}"
    return result


def kubectl(*arguments: str) -> str:
    """The output of a kubectl that must work."""
    result = run("kubectl", *arguments)
    assert result.code == 0, result.text
    return result.text


@pytest.fixture(scope="session", autouse=True)
def inside_a_lab() -> None:
    if "TOKENLABS_LAB" not in os.environ:
        pytest.exit("these run inside a lab: scripts/scenarios.sh, or lab/ctl exec -- pytest tests/scenarios", 2)
