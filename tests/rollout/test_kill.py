# SPDX-License-Identifier: GPL-3.0-or-later
"""The control process is killed at random tasks of cluster.yml on empty hosts; a plain run then finishes the job.

``KILL_SEED`` and ``KILL_COUNT`` (default 10) repeat what a failure has printed.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.rollout.conftest import New
from tests.scenarios.cluster import rollout, settled
from tests.scenarios.conftest import kill_when
from tests.scenarios.evidence import writes


@pytest.mark.long
def test_the_run_after_a_kill_converges(new_lab: New) -> None:
    seed = int(os.environ.get("KILL_SEED") or random.randrange(2**32))
    count = int(os.environ.get("KILL_COUNT", "10"))
    print(f"KILL_SEED={seed} KILL_COUNT={count}")
    chance = random.Random(seed)

    new_lab()
    begun = rollout()
    banners = [line for line in begun.text.splitlines() if line.startswith("TASK [")]
    settled()

    for place in chance.sample(range(len(banners)), count):
        pause, seen = chance.random(), 0

        def there(line: str, place: int = place, pause: float = pause) -> bool:
            nonlocal seen
            seen += line.startswith("TASK [")
            if seen <= place:
                return False
            time.sleep(pause)  # not always at the very beginning of a task
            return True

        new_lab()
        line = kill_when("cluster", there)
        print(f"killed {pause:.2f} s after task {place + 1} of {len(banners)} began: {line.strip(' *' + chr(10))}")
        rollout()
        settled()
        again = rollout()
        assert again.changes == again.mutations == []
        assert writes(again.begun) == []
