# SPDX-License-Identifier: GPL-3.0-or-later
"""The control process is killed while a token is out and a Spark joins; tests/rollout does it at random tasks."""

from __future__ import annotations

from tests.scenarios.cluster import forget, rollout, settled
from tests.scenarios.conftest import kill_when


def test_killed_at_the_join_the_next_run_converges() -> None:
    limit = "controllers,spark-02"
    forget("spark-02")
    kill_when("cluster", lambda line: "microk8s : Join the cluster]" in line, "--limit", limit)
    rollout(limit=limit)
    settled()
