# SPDX-License-Identifier: GPL-3.0-or-later
"""Models come and go on a finished platform, and one that never starts stops nobody."""

from __future__ import annotations

from pathlib import Path

from tests.scenarios.models import NOWHERE, Site, answers, deployments, is_unknown, listed, simulator


def test_one_that_never_starts_is_named_and_the_others_serve(tmp_path: Path) -> None:
    site = Site.copied(tmp_path)
    before, served = site.models("spark-01"), set(listed())
    site.serve("spark-01", *before, simulator("good"), simulator("broken", NOWHERE))
    done = site.play("inference", "-e", "llm_d_pull_timeout=25")

    assert done.code == 2, done.text
    said = " ".join(done.text.split())
    assert "1 of 4 models did not start" in said
    assert "broken: its image cannot be pulled on spark-01" in said and "registry.invalid: no such host" in said
    # What it does is told while one waits.
    assert "good: ready after" in said and "broken: given up after" in said
    assert set(listed()) == served | {"tokenlabs/good", "tokenlabs/broken"}
    answers("tokenlabs/good")
    for name in served:
        answers(name)

    # Both leave the inventory, and so the platform.
    site.serve("spark-01", *before)
    removed = site.play("inference")
    assert removed.code == 0, removed.text
    assert not {"ms-good-decode", "pool-good-epp", "ms-broken-decode", "pool-broken-epp"} & deployments()
    is_unknown("tokenlabs/good")
    for name in served:
        answers(name)
    again = site.play("inference")
    assert (again.code, again.changed) == (0, 0), again.text
