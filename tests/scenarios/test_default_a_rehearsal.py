# SPDX-License-Identifier: GPL-3.0-or-later
"""`--check --diff` on a finished platform: nothing to do, nothing done."""

from __future__ import annotations

import re
import time

from tests.scenarios.conftest import playbook
from tests.scenarios.evidence import mutating_commands, writes


def test_a_rehearsal_finds_and_does_nothing() -> None:
    begin = time.time()
    result = playbook("site", "--check", "--diff")
    assert result.code == 0, result.text[-4000:]
    changes = re.findall(r"^(\S+) .*changed=(\d+)", result.text, re.MULTILINE)
    assert changes and all(count == "0" for _, count in changes), result.text[-4000:]
    assert mutating_commands(begin) == []
    assert writes(begin) == []
