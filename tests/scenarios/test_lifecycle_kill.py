# SPDX-License-Identifier: GPL-3.0-or-later
"""The control process killed in the middle of roles: the next run finishes the job."""

from __future__ import annotations

import re

import pytest

from tests.scenarios.conftest import kill_when, playbook


@pytest.mark.parametrize("task", ["microk8s : Join the cluster", "kuadrant : ", "llm_d : "])
def test_the_run_after_a_kill_converges(task: str) -> None:
    kill_when("site", lambda line: line.startswith(f"TASK [tokenlabs.platform.{task}"))
    result = playbook("site")
    assert result.code == 0, result.text[-4000:]


def test_then_nothing_is_left_to_do() -> None:
    result = playbook("site")
    assert result.code == 0, result.text[-4000:]
    changes = re.findall(r"^(\S+) .*changed=(\d+)", result.text, re.MULTILINE)
    assert changes and all(count == "0" for _, count in changes), result.text[-4000:]
