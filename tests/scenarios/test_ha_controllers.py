# SPDX-License-Identifier: GPL-3.0-or-later
"""Three controllers and two Sparks: joined, one controller lost, work goes on, and it comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.scenarios.cluster import (
    DATA,
    Rollout,
    eventually,
    forget,
    hosts,
    lab,
    nodes,
    on,
    ready,
    rollout,
    settled,
    until_not_ready,
)
from tests.scenarios.conftest import kubectl
from tests.scenarios.evidence import commands, writes

RANGE = "10.77.0.220-10.77.0.225"
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def first() -> Rollout:
    return rollout()


def members(host: str) -> list[str]:
    """The addresses of the datastore, as one of its members has them written down."""
    text = on(host, f"cat {DATA}/var/kubernetes/backend/cluster.yaml")
    return sorted(line.split()[-1] for line in text.splitlines() if "Address:" in line)


def test_on_empty_hosts_a_rehearsal_names_everything_and_does_nothing() -> None:
    rehearsal = rollout("--check", "--diff")
    assert rehearsal.mutations == [] and writes(rehearsal.begun) == []
    assert rehearsal.said.count("install: MicroK8s is not installed") == len(hosts())
    assert rehearsal.said.count("join the cluster of controller-01") == len(hosts()) - 1


def test_all_join_one_after_the_other(first: Rollout) -> None:
    settled()
    controllers = hosts("controller")
    assert len(controllers) == 3
    assert {tuple(members(host)) for host in controllers} == {
        ("10.77.0.10:19001", "10.77.0.11:19001", "10.77.0.12:19001")
    }
    authorities = {on(host, f"cat {DATA}/certs/ca.crt") for host in controllers}
    assert len(authorities) == 1
    minted, joined = (first.calls(words) for words in ("add-node", "microk8s join"))
    assert len(minted) == len(joined) == len(hosts()) - 1, "a token for each that joins"
    turns = sorted([*minted, *joined], key=lambda each: each.begun)
    assert all(before.t <= after.begun for before, after in zip(turns, turns[1:], strict=False)), "they overlap"
    assert [each.host for each in joined][:2] == ["controller-02", "controller-03"], "controllers first"


def test_then_nothing_is_left_to_do(first: Rollout) -> None:
    result = rollout()
    assert result.changes == result.mutations == []
    assert writes(result.begun) == []
    assert result.tasks("spark-01") <= 25
    rehearsal = rollout("--check", "--diff")
    assert rehearsal.changes == rehearsal.mutations == []


@pytest.fixture
def without_the_first(first: Rollout) -> Iterator[None]:
    lab("fault", "stop", "controller-01")
    until_not_ready("controller-01")
    yield
    if "controller-01" not in hosts():
        lab("fault", "start", "controller-01")


def test_the_loss_of_a_controller_stops_nothing_else(without_the_first: None) -> None:
    forget("spark-02")
    result = rollout("-e", f"tokenlabs_loadbalancer_range={RANGE}", code=1)
    assert result.recap("unreachable")["controller-01"] == 1
    assert sum(result.recap("failed").values()) == 0, result.text[-4000:]
    assert [each.host for each in result.calls("add-node")] == ["controller-02"]
    pool = ("-n", "metallb-system", "ipaddresspool", "default-addresspool", "-o", "jsonpath={.spec.addresses}")
    assert RANGE in kubectl("get", *pool)
    assert {name for name, node in nodes().items() if ready(node)} == set(hosts())

    begun = time.time()
    lab("fault", "start", "controller-01")
    eventually("controller-01 is Ready", lambda: ready(nodes().get("controller-01")))
    rollout()
    settled()
    assert [each for each in commands(begun) if "microk8s join" in each.line] == []
    assert rollout().changes == []
