# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils._removal import (
    Case,
    only_here,
    plan_removal,
    volumes_on,
)

MEMBER = {"installed": True, "role": "worker", "member": True, "remote_ca_fingerprint": "ab"}
LEFT = {"installed": True, "role": "controlplane", "member": False, "remote_ca_fingerprint": None}
HALF_LEFT = {"installed": True, "role": "worker", "member": False, "remote_ca_fingerprint": None}
FOREIGN = {"installed": True, "role": "worker", "member": False, "remote_ca_fingerprint": "cd"}
CONTROLLER = {"installed": True, "role": "controlplane", "member": True, "remote_ca_fingerprint": None}
PURGED = {"installed": False, "role": None, "member": None, "remote_ca_fingerprint": None}


def live(address: str, ready: bool = True, maintenance: str = "") -> dict[str, Any]:
    return {"address": address, "ready": ready, "maintenance": maintenance}


def spark(ready: bool = True, maintenance: str = "", **more: Any) -> Case:
    """spark-02 of a cluster with one controller."""
    nodes = {"controller": live("10.0.0.1"), "spark-02": live("10.0.0.12", ready, maintenance)}
    case = Case("spark-02", "10.0.0.12", MEMBER, nodes, ("10.0.0.1:19001",))
    return replace(case, **more)


def without_node(**more: Any) -> Case:
    return spark(nodes={"controller": live("10.0.0.1")}, **more)


def controllers(*alive: bool, state: dict[str, Any] = CONTROLLER) -> Case:
    """c1 of as many controllers as there are arguments, each Ready or not."""
    nodes = {f"c{number}": live(f"10.0.0.{number}", ready) for number, ready in enumerate(alive, 1)}
    members = tuple(f"{node['address']}:19001" for node in nodes.values())
    return Case("c1", "10.0.0.1", state, nodes, members)


def steps(case: Case, **options: bool) -> list[str]:
    plan = plan_removal(case, **options)
    assert plan["findings"] == []
    assert len(plan["text"]) == len(plan["steps"])
    return plan["steps"]


def finding(case: Case, **options: bool) -> str:
    plan = plan_removal(case, **options)
    assert (plan["steps"], plan["text"]) == ([], []), "a refused plan must do nothing"
    assert len(plan["findings"]) == 1
    return plan["findings"][0]


# --- what is done ---


def test_a_worker_is_drained_leaves_and_is_forgotten() -> None:
    assert steps(spark()) == ["drain", "leave", "forget"]
    assert steps(spark(), purge=True) == ["drain", "leave", "forget", "purge"]
    assert plan_removal(spark())["about"] == "spark-02 (10.0.0.12, Ready)"


def test_a_member_that_is_not_ready_is_not_drained() -> None:
    assert steps(spark(ready=False)) == ["leave", "forget"]


@pytest.mark.parametrize("ready", [True, False])
def test_a_removal_that_was_interrupted_after_it_had_left_goes_on(ready: bool) -> None:
    assert steps(spark(ready, "remove", state=LEFT)) == ["forget"]


def test_a_host_that_was_set_up_anew_leaves_only_its_node() -> None:
    assert steps(spark(ready=False, state=PURGED)) == ["forget"]


def test_a_leave_that_broke_off_is_finished() -> None:
    assert steps(spark(ready=False, maintenance="remove", state=HALF_LEFT)) == ["forget"]
    assert "broke off half-way" in finding(without_node(state=HALF_LEFT))
    assert steps(without_node(state=HALF_LEFT), purge=True) == ["purge"]


@pytest.mark.parametrize("state", [LEFT, PURGED, {}])
def test_a_second_time_there_is_nothing_to_do(state: dict[str, Any]) -> None:
    assert steps(without_node(state=state)) == []


def test_a_dead_machine_is_removed_by_force() -> None:
    plan = plan_removal(spark(ready=False, state={}), dead=True)
    assert plan["steps"] == ["forget"]
    assert "remove-node spark-02 --force" in plan["text"][0]
    assert any("If the machine comes back" in line for line in plan["afterwards"])


def test_a_dead_machine_that_left_the_inventory_too() -> None:
    assert steps(spark(ready=False, state={}, address=""), dead=True) == ["forget"]


# --- what speaks against it ---


def test_a_machine_that_does_not_answer_may_come_back() -> None:
    assert "say so with -e dead=true" in finding(spark(ready=False, state={}))


@pytest.mark.parametrize("dead", [False, True])
def test_a_machine_that_runs_but_cannot_be_reached(dead: bool) -> None:
    assert "cannot be reached by Ansible, but its Node is Ready" in finding(spark(state={}), dead=dead)
    assert "is not in the inventory, but its Node is Ready" in finding(spark(state={}, address=""), dead=dead)


def test_what_answers_is_not_dead() -> None:
    assert "leave out dead=true" in finding(spark(), dead=True)


def test_a_worker_of_another_cluster() -> None:
    assert "worker of another cluster" in finding(spark(ready=False, state=FOREIGN))
    assert "worker of another cluster" in finding(without_node(state=FOREIGN), purge=True)


def test_two_machines_of_one_name() -> None:
    assert "another machine has the same name" in finding(spark(state=LEFT))


def test_what_only_this_node_has() -> None:
    case = spark(models=("nemotron",), volumes=("redis-system/data-redis-0",))
    findings = plan_removal(case)["findings"]
    assert findings == [
        "the model nemotron has its only replica there; move it first, or lose it with -e lose=true",
        "the volume of redis-system/data-redis-0 lies on its disk; move it first, or lose it with -e lose=true",
    ]
    assert steps(case, lose=True) == ["drain", "leave", "forget"]
    assert "Lost: the model nemotron has its only replica there." in plan_removal(case, lose=True)["afterwards"]


def test_what_died_with_the_machine_is_named_but_no_obstacle() -> None:
    plan = plan_removal(spark(ready=False, state={}, models=("nemotron",)), dead=True)
    assert plan["steps"] == ["forget"]
    assert any("nemotron" in line for line in plan["afterwards"])


# --- controllers ---


def test_the_only_controller_stays() -> None:
    assert "only controller" in finding(controllers(True))


def test_one_of_three_controllers_may_leave() -> None:
    assert steps(controllers(True, True, True)) == ["drain", "leave", "forget"]


@pytest.mark.parametrize(("count", "told"), [(3, True), (2, False), (5, True), (4, False)])
def test_an_even_number_of_controllers_is_told(count: int, told: bool) -> None:
    afterwards = " ".join(plan_removal(controllers(*[True] * count))["afterwards"])
    assert ("an even number" in afterwards) == told


def test_the_only_voter_of_two_controllers_stays() -> None:
    case = controllers(True, True)
    assert "only it votes" in finding(replace(case, voters=("10.0.0.1:19001",)))
    assert steps(replace(case, voters=("10.0.0.2:19001",))) == ["drain", "leave", "forget"]


def test_the_majority_must_stay() -> None:
    assert "no majority" in finding(controllers(True, True, False))


def test_a_dead_controller_is_removed_while_the_others_agree() -> None:
    assert steps(controllers(False, True, True, state={}), dead=True) == ["forget"]
    assert "no majority" in finding(controllers(False, False, True, state={}), dead=True)


def test_a_dead_controller_without_a_node_is_still_in_the_datastore() -> None:
    case = controllers(False, True, True, state={})
    plan = plan_removal(replace(case, nodes={name: case.nodes[name] for name in ("c2", "c3")}), dead=True)
    assert (plan["steps"], plan["target"]) == (["forget"], "10.0.0.1")
    assert "remove-node 10.0.0.1 --force" in plan["text"][0]


# --- what the cluster tells ---


def pod(model: str, node: str | None, ready: bool = True, gone: bool = False) -> dict[str, Any]:
    metadata = {"labels": {"llm-d.ai/model": model}} | ({"deletionTimestamp": "now"} if gone else {})
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"metadata": metadata, "spec": {"nodeName": node}, "status": {"conditions": conditions}}


def test_models_with_their_only_replica_here() -> None:
    pods = [
        pod("both", "spark-01"), pod("both", "spark-02"),
        pod("here", "spark-02", ready=False),
        pod("there", "spark-01"),
        pod("starting", "spark-02"), pod("starting", "spark-01", ready=False),
        pod("pending", "spark-02"), pod("pending", None, ready=False),
        pod("leaving", "spark-02"), pod("leaving", "spark-01", gone=True),
        {"metadata": {}, "spec": {"nodeName": "spark-02"}},
    ]  # fmt: skip
    assert only_here("spark-02", pods) == ("here", "leaving", "pending", "starting")


def volume(claim: str, *hosts: str, phase: str = "Bound") -> dict[str, Any]:
    rule = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(hosts)}
    affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}} if hosts else None
    namespace, name = claim.split("/")
    return {
        "spec": {"nodeAffinity": affinity, "claimRef": {"namespace": namespace, "name": name}},
        "status": {"phase": phase},
    }


def test_volumes_on_its_disk() -> None:
    volumes = [
        volume("redis-system/data-redis-0", "spark-02"),
        volume("a/elsewhere", "spark-01"),
        volume("a/both", "spark-01", "spark-02"),
        volume("a/anywhere"),
        volume("a/given-up", "spark-02", phase="Released"),
    ]
    assert volumes_on("spark-02", volumes) == ("redis-system/data-redis-0",)
