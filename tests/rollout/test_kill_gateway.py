# SPDX-License-Identifier: GPL-3.0-or-later
"""The control process is killed at random tasks of gateway.yml on a cluster without a platform; the next run converges.

``KILL_SEED`` and ``KILL_COUNT`` (default 10) repeat what a failure has printed.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.rollout.conftest import New
from tests.scenarios.cluster import rollout
from tests.scenarios.conftest import Run, kill_when, kubectl, playbook
from tests.scenarios.evidence import writes
from tests.scenarios.keyless import address, keyless_client

ACCEPTED = "jsonpath={.items[*].status.conditions[?(@.type=='Accepted')].status}"


def succeeded(name: str, *arguments: str) -> Run:
    result = playbook(name, *arguments)
    assert result.code == 0, result.text[-4000:]
    return result


@pytest.mark.long
def test_the_run_after_a_kill_converges(new_lab: New) -> None:
    seed = int(os.environ.get("KILL_SEED") or random.randrange(2**32))
    count = int(os.environ.get("KILL_COUNT", "10"))
    print(f"KILL_SEED={seed} KILL_COUNT={count}")
    chance = random.Random(seed)

    new_lab()
    rollout()
    first = succeeded("gateway")
    banners = [line for line in first.text.splitlines() if line.startswith("TASK [")]

    for place in chance.sample(range(len(banners)), count):
        succeeded("teardown", "-e", "confirm=teardown")
        pause, seen = chance.random() * 2, 0

        def there(line: str, place: int = place, pause: float = pause) -> bool:
            nonlocal seen
            seen += line.startswith("TASK [")
            if seen <= place:
                return False
            time.sleep(pause)  # not always at the very beginning of a task
            return True

        line = kill_when("gateway", there)
        print(f"killed {pause:.2f} s after task {place + 1} of {len(banners)} began: {line.strip(' *' + chr(10))}")
        succeeded("gateway")
        with keyless_client(address()) as answers:
            begun = time.time()
            again = succeeded("gateway")
        assert writes(begun) == [], again.text[-4000:]
        assert answers[200] == 0, answers
        assert set(kubectl("get", "authpolicies,ratelimitpolicies", "-A", "-o", ACCEPTED).split()) == {"True"}
