# SPDX-License-Identifier: GPL-3.0-or-later
"""A rack of Sparks; the same measurement as `make bench BENCH=rollout`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import rollout


@pytest.mark.long
def test_thirty_sparks_cost_no_more_each_than_two(tmp_path: Path) -> None:
    section = rollout.run(tmp_path, 1.0)
    print(section.text())
    assert not section.missed
