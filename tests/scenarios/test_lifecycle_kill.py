# SPDX-License-Identifier: GPL-3.0-or-later
"""The control process killed in the middle of roles: the next run finishes the job."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import pytest

from tests.scenarios.conftest import REPO, playbook

LIMIT = 900


def kill_when(pattern: str) -> str:
    """Run site.yml and SIGKILL it, with all that it started, when a line matches; returns the line."""
    command = ["ansible-playbook", "-i", "inventories/lab", "playbooks/site.yml"]
    process = subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    end = time.monotonic() + LIMIT
    try:
        for line in process.stdout:
            if re.search(pattern, line):
                return line
            assert time.monotonic() < end, f"no line matched {pattern!r} in {LIMIT} s"
        raise AssertionError(f"the run ended before a line matched {pattern!r}")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("task", ["microk8s : Join the cluster", "kuadrant : ", "llm_d : "])
def test_the_run_after_a_kill_converges(task: str) -> None:
    kill_when(re.escape(f"TASK [tokenlabs.platform.{task}"))
    result = playbook("site")
    assert result.code == 0, result.text[-4000:]


def test_then_nothing_is_left_to_do() -> None:
    result = playbook("site")
    assert result.code == 0, result.text[-4000:]
    changes = re.findall(r"^(\S+) .*changed=(\d+)", result.text, re.MULTILINE)
    assert changes and all(count == "0" for _, count in changes), result.text[-4000:]
