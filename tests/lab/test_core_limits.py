# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine's setting is raised by the first lab and put back by the last."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import limits


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "max_user_instances"
    made.write_text("128\n")
    monkeypatch.setattr(limits, "SETTING", made)
    monkeypatch.setattr(limits, "NOTES", tmp_path / "notes")
    return made


def test_first_lab_raises_and_last_one_puts_back(setting: Path, tmp_path: Path) -> None:
    states = {name: tmp_path / name for name in ("one", "two")}
    for name, state in states.items():
        state.mkdir()
        limits.acquire(name, state)
        assert int(setting.read_text()) == limits.ENOUGH
    limits.release("one")
    assert int(setting.read_text()) == limits.ENOUGH
    limits.release("two")
    assert setting.read_text() == "128\n"


def test_a_lab_whose_files_are_gone_does_not_count(setting: Path, tmp_path: Path) -> None:
    limits.acquire("dead", tmp_path / "nowhere")
    limits.acquire("alive", tmp_path)
    limits.release("alive")
    assert setting.read_text() == "128\n"


def test_more_than_enough_stays_as_it_is(setting: Path, tmp_path: Path) -> None:
    setting.write_text("99999\n")
    limits.acquire("one", tmp_path)
    limits.release("one")
    assert setting.read_text() == "99999\n"


def test_nothing_to_put_back_without_labs(setting: Path) -> None:
    limits.release("one")
    assert setting.read_text() == "128\n"
