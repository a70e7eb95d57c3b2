# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/faults.md names a test for each fault, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
TEXT = (REPO / "docs/faults.md").read_text()
FAULTS = 25
REPAIRS = REPO / "tests/scenarios/test_lifecycle_repair.py"


def names_in(path: Path) -> set[str]:
    body = ast.parse(path.read_text()).body
    return {item.name for item in body if isinstance(item, ast.FunctionDef) and item.name.startswith("test_")}


def rows() -> dict[int, list[str]]:
    """Number of the fault -> names of its tests."""
    cells = [line.strip("|").split("|") for line in TEXT.splitlines() if re.match(r"\| \d+ \|", line)]
    assert all(len(each) == 4 and all(cell.strip() for cell in each) for each in cells)
    assert len({int(each[0]) for each in cells}) == len(cells), "a fault is there twice"
    return {int(number): re.findall(r"`(test_\w+)`", tests) for number, _fault, _outcome, tests in cells}


def written() -> set[str]:
    """The tests of faults that exist."""
    names = set().union(*map(names_in, (REPO / "tests/scenarios").glob("test_*.py")))
    return {name for name in names if name.startswith("test_fault_")}


def test_every_fault_has_a_test_of_its_number() -> None:
    assert sorted(rows()) == list(range(1, FAULTS + 1))
    for number, tests in rows().items():
        assert tests and all(name.startswith(f"test_fault_{number:02}_") for name in tests), number


def test_the_tests_named_are_the_tests_there_are() -> None:
    assert {name for tests in rows().values() for name in tests} == written()


def test_every_file_that_the_text_names_exists() -> None:
    for name in re.findall(r"`(tests/[\w/]+\.py)`", TEXT):
        assert (REPO / name).is_file(), name


def test_every_test_that_the_text_names_exists() -> None:
    there = set().union(*map(names_in, (REPO / "tests").rglob("test_*.py")))
    assert set(re.findall(r"`(test_\w+)`", TEXT)) <= there


def test_every_repair_is_in_the_text() -> None:
    assert names_in(REPAIRS) - {"test_then_nothing_is_left_to_do"} <= set(re.findall(r"`(test_\w+)`", TEXT))
