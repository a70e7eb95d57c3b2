# SPDX-License-Identifier: GPL-3.0-or-later
"""remove_node.yml: what it says and refuses, and how it ends on machines that are alive, half gone and dead."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.scenarios.cluster import LOCKS, eventually, lab, nodes, on, ready, rollout, settled, until_not_ready
from tests.scenarios.conftest import Run, kill_when, kubectl, playbook
from tests.scenarios.evidence import commands, mutating_commands, writes

SPARK = "spark-02"
SECOND = "controllers,spark-02"
long = pytest.mark.long


@pytest.fixture(autouse=True)
def whole() -> Iterator[None]:
    yield
    lab("fault", "clear")


def remove(*options: str, code: int = 0, node: str = SPARK) -> Run:
    arguments = [part for option in (f"node={node}", *options) for part in ("-e", option)]
    result = playbook("remove_node", *arguments)
    assert (result.code != 0) == (code != 0), result.text[-6000:]
    return result


def refused(reason: str, *options: str, node: str = SPARK) -> None:
    begun = time.time()
    result = remove(*options, code=1, node=node)
    assert reason in " ".join(result.text.split()), result.text[-4000:]
    assert mutating_commands(begun) == []
    assert writes(begun) == []


def joined_again() -> None:
    rollout(limit=SECOND)
    settled()


# --- before anything is done ---


def test_without_a_confirmation_it_says_what_it_would_do() -> None:
    refused("1. cordon it and evict its pods")
    refused("run the same again with -e confirm=spark-02", "confirm=spark-01")
    refused("controller is the only controller", "confirm=controller", node="controller")


@long
def test_a_rehearsal_needs_no_confirmation_and_does_nothing() -> None:
    begun = time.time()
    result = playbook("remove_node", "-e", f"node={SPARK}", "--check", "--diff")
    assert result.code == 0 and "let it leave the cluster" in result.text, result.text[-4000:]
    assert mutating_commands(begun) == []
    assert writes(begun) == []


@long
def test_the_only_replica_of_a_model_is_not_given_up_unasked() -> None:
    kubectl("create", "deployment", "precious", "--image=registry.example/model:1")
    pinned = {
        "metadata": {"labels": {"llm-d.ai/model": "precious"}},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": SPARK}},
    }
    kubectl("patch", "deployment", "precious", "--patch", json.dumps({"spec": {"template": pinned}}))
    try:
        kubectl("rollout", "status", "deployment/precious", "--timeout=60s")
        refused("the model precious has its only replica there", f"confirm={SPARK}")
    finally:
        kubectl("delete", "deployment", "precious")


# --- a machine that answers ---


@long
def test_a_worker_leaves_and_may_come_back() -> None:
    begun = time.time()
    result = remove(f"confirm={SPARK}")
    assert "The inventory still names spark-02" in " ".join(result.text.split())
    assert SPARK not in nodes()
    assert [each.line for each in commands(begun) if each.mutating] == [
        "microk8s leave",
        "microk8s remove-node spark-02",
    ]
    begun = time.time()
    assert "there is nothing to do" in remove(f"confirm={SPARK}").text
    assert mutating_commands(begun) == []
    assert writes(begun) == []
    joined_again()


@long
@pytest.mark.parametrize("task", ["Evict the node's pods", "Leave the cluster", "Remove the node from the cluster"])
def test_killed_midway_the_next_run_finishes(task: str) -> None:
    kill_when(
        "remove_node", lambda line: f"microk8s : {task}]" in line, "-e", f"node={SPARK}", "-e", f"confirm={SPARK}"
    )
    eventually(
        "no command of the killed run is at work", lambda: "microk8s" not in on(SPARK, "pgrep -af leave || true")
    )
    remove(f"confirm={SPARK}")
    assert SPARK not in nodes()
    joined_again()
    assert "unschedulable" not in nodes()[SPARK]["spec"]


@long
def test_a_leave_that_breaks_off_is_noticed_and_purged() -> None:
    lab("fault", "leave_dies_midway", SPARK)
    result = remove(f"confirm={SPARK}", code=1)
    assert "broke off half-way" in " ".join(result.text.split())
    assert SPARK not in nodes()
    assert on(SPARK, f"ls {LOCKS}/clustered.lock")
    refused("remove it with -e purge=true", f"confirm={SPARK}")
    remove(f"confirm={SPARK}", "purge=true")
    assert "microk8s" not in on(SPARK, "snap list 2>&1 || true")
    joined_again()


# --- a machine that does not answer ---


@long
def test_fault_20_remove_a_dead_worker() -> None:
    lab("fault", "stop", SPARK)
    until_not_ready(SPARK)
    refused("say so with -e dead=true", f"confirm={SPARK}")
    begun = time.time()
    remove(f"confirm={SPARK}", "dead=true")
    assert SPARK not in nodes()
    assert mutating_commands(begun) == ["controller: microk8s remove-node spark-02 --force"]
    begun = time.time()
    assert "there is nothing to do" in remove(f"confirm={SPARK}", "dead=true").text
    assert mutating_commands(begun) == []
    lab("fault", "start", SPARK)
    eventually("the machine that came back is a Node again", lambda: ready(nodes().get(SPARK)))
    joined_again()
