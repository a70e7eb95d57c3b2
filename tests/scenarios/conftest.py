# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the scenarios: pytest runs inside a lab's network, as `lab/ctl exec -- pytest tests/scenarios` does."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """How a command ended; ``text`` is all it said."""

    code: int
    text: str


def run(*command: str | Path, timeout: int = 900) -> Run:
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=timeout, check=False)
    return Run(result.returncode, result.stdout + result.stderr)


def playbook(name: str, *arguments: str) -> Run:
    return run("ansible-playbook", "-i", "inventories/lab", f"playbooks/{name}.yml", *arguments)


def kubectl(*arguments: str) -> str:
    """The output of a kubectl that must work."""
    result = run("kubectl", *arguments)
    assert result.code == 0, result.text
    return result.text


@pytest.fixture(scope="session", autouse=True)
def inside_a_lab() -> None:
    if "TOKENLABS_LAB" not in os.environ:
        pytest.exit("these run inside a lab: scripts/scenarios.sh, or lab/ctl exec -- pytest tests/scenarios", 2)
