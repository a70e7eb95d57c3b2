# SPDX-License-Identifier: GPL-3.0-or-later
"""upgrade.yml: what it refuses, and how it goes on after it was stopped. Runs last, as it leaves a newer cluster."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest

from tests.scenarios.cluster import hosts, lab, nodes, on, ready, rollout, until_not_ready
from tests.scenarios.conftest import Run, kill_when, kubectl, playbook
from tests.scenarios.evidence import commands, mutating_commands, writes

NEXT = ("-e", "tokenlabs_microk8s_channel=1.35/stable")
# Newer than the release set was tested with.
BEYOND = ("-e", "tokenlabs_microk8s_channel=1.36/stable", "-e", '{"tokenlabs_release_unsupported": true}')
long = pytest.mark.long


@pytest.fixture(autouse=True)
def whole() -> Iterator[None]:
    yield
    lab("fault", "clear")


def upgrade(*arguments: str, code: int = 0) -> Run:
    result = playbook("upgrade", *arguments)
    assert (result.code != 0) == (code != 0), result.text[-6000:]
    return result


def refused(*arguments: str) -> list[str]:
    """What a run that changed nothing had to say against it."""
    begun = time.time()
    result = upgrade(*arguments, code=1)
    assert mutating_commands(begun) == []
    assert writes(begun) == []
    message = re.search(r"    msg: \|-\n((?:        .*\n)+)", result.text)
    assert message, result.text[-4000:]
    return [line.strip() for line in message[1].splitlines()]


def versions() -> dict[str, str]:
    return {name: node["status"]["nodeInfo"]["kubeletVersion"] for name, node in nodes().items()}


def cordoned() -> list[str]:
    return sorted(name for name, node in nodes().items() if node["spec"].get("unschedulable"))


def network_pod(host: str) -> str:
    select = ("-n", "kube-system", "-l", "k8s-app=calico-node", f"--field-selector=spec.nodeName={host}")
    (pod,) = json.loads(kubectl("get", "pods", *select, "-o", "json"))["items"]
    return str(pod["metadata"]["uid"])


def whole_at(version: str) -> None:
    assert versions() == dict.fromkeys(hosts(), version)
    assert all(ready(node) for node in nodes().values())
    assert cordoned() == []
    for host in hosts():
        assert "held" in on(host, "snap list microk8s")


# --- nothing is touched ---


def test_what_must_not_be_is_refused_for_all_nodes_at_once() -> None:
    findings = refused("-e", "tokenlabs_microk8s_channel=1.33/stable")
    assert [line.split(":")[0] for line in findings[1:]] == hosts()
    assert all("never taken back to an older version" in line for line in findings[1:])


@long
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-e", "tokenlabs_microk8s_channel=1.36/stable"), "tested with Kubernetes 1.32 to 1.35"),
        (BEYOND, "one minor version at a time; upgrade with tokenlabs_microk8s_channel: 1.35/stable first"),
        (("-e", "tokenlabs_microk8s_channel=1.35/edge"), "the snap store has no 1.35/edge for it"),
    ],
    ids=["range", "two minors", "store"],
)
def test_channels_that_are_refused(arguments: tuple[str, ...], reason: str) -> None:
    assert reason in " ".join(refused(*arguments))


@long
def test_a_store_that_does_not_answer() -> None:
    lab("fault", "store_unreachable", "spark-02")
    assert [line for line in refused(*NEXT) if "snap store does not answer" in line][0].startswith("spark-02:")


@long
def test_a_node_that_is_away() -> None:
    lab("fault", "stop", "spark-02")
    until_not_ready("spark-02")
    assert "spark-02: it cannot be reached; bring it back, or leave it out with --limit" in " ".join(refused(*NEXT))
    plan = upgrade(*NEXT, "--limit", "!spark-02", "--check")
    assert plan.text.count("v1.34.3 (1.34/stable) -> v1.35.0 (1.35/stable)") == 2
    lab("fault", "start", "spark-02")
    rollout()


def test_a_rehearsal_names_every_step_and_does_nothing() -> None:
    begun = time.time()
    result = upgrade(*NEXT, "--check", "--diff")
    assert result.text.count("-> v1.35.0 (1.35/stable): drain, refresh, verify, uncordon") == len(hosts())
    assert mutating_commands(begun) == []
    assert writes(begun) == []


@long
def test_a_patch_of_the_same_channel_takes_the_same_path() -> None:
    lab("fault", "newer_patch", "spark-02")
    begun = time.time()
    upgrade("--limit", "controllers,spark-02")
    assert versions() == {"controller": "v1.34.3", "spark-01": "v1.34.3", "spark-02": "v1.34.4"}
    assert [each.line for each in commands(begun) if each.mutating and each.host == "spark-02"] == [
        "snap refresh microk8s --channel=1.34/stable",
        "snap refresh --hold microk8s",
    ]
    assert cordoned() == []


# --- from 1.34 to 1.35, stopped in every way ---


@long
def test_fault_15_cordoned_controller() -> None:
    kubectl("cordon", "controller")
    upgrade(*NEXT, "--limit", "controllers")
    assert versions()["controller"] == "v1.35.0"
    assert cordoned() == ["controller"], "who has cordoned it takes it back, not we"
    kubectl("uncordon", "controller")


@long
def test_pods_that_must_not_go_stop_it_before_the_node_is_changed() -> None:
    pinned = {"spec": {"nodeSelector": {"kubernetes.io/hostname": "spark-01"}}}
    kubectl("create", "deployment", "kept", "--image=registry.example/kept:1")
    kubectl("create", "poddisruptionbudget", "kept", "--selector=app=kept", "--min-available=1")
    try:
        kubectl("patch", "deployment", "kept", "--patch", json.dumps({"spec": {"template": pinned}}))
        kubectl("rollout", "status", "deployment/kept", "--timeout=60s")
        begun = time.time()
        result = upgrade(*NEXT, "-e", "microk8s_drain_timeout=20", code=1)
        said = " ".join(result.text.split())
        assert "disruption budget" in said and "It runs v1.34.3 and takes pods as before" in said
        assert mutating_commands(begun) == []
        assert cordoned() == []
    finally:
        kubectl("delete", "deployment,poddisruptionbudget", "kept")


@long
def test_killed_midway_the_next_run_finishes_the_node_and_goes_on() -> None:
    before = network_pod("spark-01"), network_pod("spark-02")
    seen: list[str] = []

    def refreshes_a_spark(line: str) -> bool:
        seen.append(line)
        return "Wait until the Node is Ready]" in line and any("[spark-01]" in each for each in seen[-12:])

    kill_when("upgrade", refreshes_a_spark, *NEXT)
    assert cordoned() == ["spark-01"]
    lab("fault", "change_conflict", "spark-02", "1")
    begun = time.time()
    upgrade(*NEXT)
    whole_at("v1.35.0")
    assert [each.rc for each in commands(begun) if each.host == "spark-02" and "--channel" in each.line] == [10, 0]
    assert not [each for each in commands(begun) if each.host == "controller" and "refresh" in each.line], "it was done"
    assert network_pod("spark-01") != before[0] and network_pod("spark-02") != before[1], "pods of the old revision"


@long
def test_then_nothing_is_left_to_do() -> None:
    begun = time.time()
    result = upgrade(*NEXT)
    assert result.text.count("v1.35.0 (1.35/stable): nothing to do") == len(hosts())
    assert mutating_commands(begun) == []
    assert writes(begun) == []
    rollout(*NEXT)
    assert rollout(*NEXT).changes == []


# --- from 1.35 to 1.36, with a refresh that fails ---


@long
def test_a_refresh_that_snapd_takes_back() -> None:
    lab("fault", "configure_hook_fails", "spark-01", "1")
    result = upgrade(*BEYOND, code=1)
    said = " ".join(result.text.split())
    assert "spark-01: the upgrade stopped here" in said and "configure" in said
    assert "It runs v1.35.0 and takes pods as before" in said
    assert versions() == {"controller": "v1.36.0", "spark-01": "v1.35.0", "spark-02": "v1.35.0"}
    assert cordoned() == []
    upgrade(*BEYOND)
    whole_at("v1.36.0")
