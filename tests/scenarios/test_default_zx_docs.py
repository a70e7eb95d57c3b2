# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages' commands on a finished platform: they are what can be typed, and end as they say."""

from __future__ import annotations

import shlex

import pytest

from tests import docs_commands
from tests.scenarios.conftest import run

# What a reader has to fill in.
FILLED = {"NAME": "spark-01", "inventories/mine": "inventories/lab", "COMMAND": "up"}
MODEL = "nemotron-llama-8b"
RUN = {
    each.text: use.code
    for each in docs_commands.commands()
    if (use := docs_commands.use_of(each)) is not None and not use.reason
}


@pytest.mark.parametrize("text", sorted(RUN))
def test_the_command_can_be_typed(text: str) -> None:
    words = shlex.split(text)
    filled = {**FILLED, "NAME": MODEL} if "model" in text else FILLED
    typed = [FILLED.get(word) or word.replace("=NAME", f"={filled['NAME']}") for word in words]
    ended = run(*typed)
    assert ended.code == RUN[text], ended.text
    if words[0] == "kubectl":
        assert "No resources found" not in ended.text
