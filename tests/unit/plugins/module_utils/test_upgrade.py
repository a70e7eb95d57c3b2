# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils._upgrade import (
    Build,
    minor,
    parse_channels,
    plan_upgrade,
)

INFO = """\
name:      microk8s
summary:   Kubernetes for workstations and appliances
description: |
  channels: are a thing of the store
tracking:     1.34/stable
channels:
  1.36/stable:      v1.36.0  2026-06-30 (8731) 171MB classic
  1.35/stable:      v1.35.2  2025-12-18 (8612) 171MB classic
  1.35/candidate:   ^
  1.35/beta:        \u2191
  1.35/edge:        --
  1.34/stable:      v1.34.3  2025-12-18 (8511) 171MB classic
  1.34-strict/edge: v1.34.9  2025-12-18 (8600) 171MB -
  1.33/stable:      v1.33.5  2025-12-18 (8462) 171MB classic
installed:  v1.34.3  (8511) 171MB classic,held
"""
CHANNELS = [
    "1.33/stable",
    "1.34-strict/edge",
    "1.34/stable",
    "1.35/beta",
    "1.35/candidate",
    "1.35/stable",
    "1.36/stable",
]
NO_STORE = INFO[: INFO.index("channels:\n")] + "installed:  v1.34.3  (8511) 171MB classic,held\n"
REVISIONS = {"v1.33.5": "8462", "v1.34.3": "8511", "v1.35.2": "8612", "v1.36.0": "8731"}


class Cluster:
    """One or more controllers and Sparks, all of one version at first."""

    def __init__(self, *names: str, version: str = "v1.34.3", controllers: int = 1) -> None:
        self.nodes, self.states, self.stores, self.live = {}, {}, {}, {}
        self.models: list[dict] = []
        self.selected = list(names)
        for index, name in enumerate(names):
            self.nodes[name] = {"name": name, "role": "controller" if index < controllers else "worker"}
            self.stores[name] = INFO
            self.states[name] = {"installed": True, "action": "none", "held": True}
            self.live[name] = {"ready": True, "unschedulable": False, "maintenance": ""}
            self.runs(name, version)

    def runs(self, name: str, version: str) -> None:
        track = ".".join(version.removeprefix("v").split(".")[:2])
        self.states[name] |= {"version": version, "revision": REVISIONS[version], "channel": f"{track}/stable"}
        self.live[name]["kubelet_version"] = version

    def marked(self, name: str, what: str = "upgrade") -> None:
        self.live[name] |= {"maintenance": what, "unschedulable": True}

    def down(self, name: str) -> None:
        self.live[name]["ready"] = False
        if name in self.states:
            self.states[name] |= {"action": "wait", "reason": "its Node is not Ready: no answer"}

    def plan(self, channel: str = "1.35/stable") -> dict:
        return plan_upgrade(self.nodes, self.selected, self.states, self.stores, self.live, channel, self.models)

    def findings(self, channel: str = "1.35/stable") -> list[str]:
        plan = self.plan(channel)
        assert not plan["findings"] or plan["due"] == [], "a refused plan must move nothing"
        return plan["findings"]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster("controller", "spark-01", "spark-02")


# --- reading ---


def test_channels_of_the_store() -> None:
    channels = parse_channels(INFO)
    assert sorted(channels) == CHANNELS
    assert channels["1.35/stable"] == channels["1.35/candidate"] == channels["1.35/beta"] == Build("v1.35.2", "8612")


@pytest.mark.parametrize("text", ["", "error: no snap found\n", "name: microk8s\nchannels:\n"])
def test_no_channels(text: str) -> None:
    assert parse_channels(text) == {}


@pytest.mark.parametrize(("text", "expected"), [("v1.34.3", (1, 34)), ("1.35/stable", (1, 35)), ("", (0, 0))])
def test_minor(text: str, expected: tuple[int, int]) -> None:
    assert minor(text) == expected


# --- what may be done ---


def test_controllers_go_first_then_the_others_in_their_order(cluster: Cluster) -> None:
    cluster.selected = ["spark-02", "spark-01", "controller"]
    plan = cluster.plan()
    assert plan["findings"] == []
    assert plan["due"] == ["controller", "spark-02", "spark-01"]
    assert plan["steps"]["controller"] == {
        "kind": "upgrade",
        "text": "v1.34.3 (1.34/stable) -> v1.35.2 (1.35/stable): drain, refresh, verify, uncordon",
        "version": "v1.35.2",
        "revision": "8612",
    }


def test_a_patch_within_the_track_is_the_same_path(cluster: Cluster) -> None:
    for name in cluster.nodes:
        cluster.states[name] |= {"version": "v1.34.1", "revision": "8400"}
        cluster.live[name]["kubelet_version"] = "v1.34.1"
    plan = cluster.plan("1.34/stable")
    assert [step["kind"] for step in plan["steps"].values()] == ["upgrade"] * 3
    assert "v1.34.1 (1.34/stable) -> v1.34.3 (1.34/stable)" in plan["steps"]["controller"]["text"]


def test_what_is_done_is_left_alone(cluster: Cluster) -> None:
    cluster.runs("controller", "v1.35.2")
    cluster.runs("spark-01", "v1.35.2")
    plan = cluster.plan()
    assert plan["due"] == ["spark-02"]
    assert plan["steps"]["spark-01"] == {
        "kind": "none",
        "text": "v1.35.2 (1.35/stable): nothing to do",
        "version": "v1.35.2",
        "revision": "8612",
    }
    cluster.runs("spark-02", "v1.35.2")
    assert cluster.plan()["due"] == []


@pytest.mark.parametrize("refreshed", [False, True])
def test_a_node_that_was_cordoned_for_its_upgrade_is_finished(cluster: Cluster, refreshed: bool) -> None:
    cluster.runs("controller", "v1.35.2")
    if refreshed:
        cluster.runs("spark-01", "v1.35.2")
    cluster.marked("spark-01")
    plan = cluster.plan()
    assert plan["findings"] == []
    assert plan["due"][0] == "spark-01"
    assert plan["steps"]["spark-01"]["kind"] == ("finish" if refreshed else "upgrade")
    assert "stays cordoned" not in plan["steps"]["spark-01"]["text"]


def test_our_node_may_be_down_as_that_is_why_we_return(cluster: Cluster) -> None:
    cluster.runs("controller", "v1.35.2")
    cluster.marked("controller")
    cluster.down("controller")
    plan = cluster.plan()
    assert plan["findings"] == []
    assert plan["steps"]["controller"]["kind"] == "finish"


def test_a_kubelet_of_the_old_version_is_finished(cluster: Cluster) -> None:
    cluster.runs("controller", "v1.35.2")
    cluster.live["controller"]["kubelet_version"] = "v1.34.3"
    assert cluster.plan()["steps"]["controller"]["kind"] == "finish"


def test_a_cordon_of_the_users_stays(cluster: Cluster) -> None:
    cluster.live["spark-01"]["unschedulable"] = True
    text = cluster.plan()["steps"]["spark-01"]["text"]
    assert text.endswith("drain, refresh, verify; it stays cordoned, as it was found")
    cluster.runs("spark-01", "v1.35.2")
    cluster.runs("controller", "v1.35.2")
    assert cluster.plan()["steps"]["spark-01"]["kind"] == "none"


def test_another_channel_of_the_same_revision_needs_no_drain(cluster: Cluster) -> None:
    for name in cluster.nodes:
        cluster.runs(name, "v1.35.2")
    cluster.states["spark-01"]["channel"] = "1.35/candidate"
    plan = cluster.plan()
    assert (plan["due"], plan["steps"]["spark-01"]["kind"]) == (["spark-01"], "track")


def test_a_lost_hold_is_put_back(cluster: Cluster) -> None:
    for name in cluster.nodes:
        cluster.runs(name, "v1.35.2")
    cluster.states["spark-02"]["held"] = False
    plan = cluster.plan()
    assert (plan["due"], plan["steps"]["spark-02"]["kind"]) == (["spark-02"], "hold")


def test_models_that_go_down_are_named(cluster: Cluster) -> None:
    cluster.models = [
        {"name": "both", "hosts": ["spark-01", "spark-02"]},
        {"name": "first", "hosts": ["spark-01"]},
        {"name": "second", "hosts": ["spark-01"]},
    ]
    steps = cluster.plan()["steps"]
    assert "the models first, second cannot be used meanwhile" in steps["spark-01"]["text"]
    assert "cannot be used" not in steps["spark-02"]["text"]


# --- what speaks against it ---


def test_older_versions_are_refused(cluster: Cluster) -> None:
    findings = cluster.findings("1.33/stable")
    assert len(findings) == 3
    assert findings[1] == (
        "spark-01: it runs v1.34.3 and 1.33/stable holds v1.33.5: MicroK8s is never taken back to an older version; "
        "set tokenlabs_microk8s_channel to 1.34/stable"
    )


def test_an_older_patch_is_refused(cluster: Cluster) -> None:
    cluster.states["spark-01"] |= {"version": "v1.35.10", "channel": "1.35/stable"}
    assert "it runs v1.35.10 and 1.35/stable holds v1.35.2" in "".join(cluster.findings())


def test_two_minor_versions_are_refused(cluster: Cluster) -> None:
    findings = cluster.findings("1.36/stable")
    assert len(findings) == 3
    assert "one minor version at a time; upgrade with tokenlabs_microk8s_channel: 1.35/stable first" in findings[0]


def test_one_node_that_lags_behind_is_enough(cluster: Cluster) -> None:
    cluster.runs("spark-02", "v1.33.5")
    findings = cluster.findings()
    assert [finding.split(":")[0] for finding in findings] == ["spark-02"]


def test_a_channel_that_the_store_does_not_have(cluster: Cluster) -> None:
    findings = cluster.findings("1.35/edge")
    assert findings[0] == ("controller: the snap store has no 1.35/edge for it; there is 1.34/stable, 1.35/stable")


def test_a_store_that_does_not_answer(cluster: Cluster) -> None:
    cluster.stores["spark-01"] = NO_STORE
    assert cluster.findings()[0].startswith("spark-01: its snap store does not answer; try again")


def test_a_host_that_cannot_be_reached(cluster: Cluster) -> None:
    del cluster.states["spark-01"], cluster.stores["spark-01"]
    cluster.down("spark-01")
    assert cluster.findings() == [
        "spark-01: it cannot be reached; bring it back, or leave it out with --limit '!spark-01'"
    ]
    cluster.selected.remove("spark-01")
    assert cluster.findings() == []


def test_a_node_that_is_not_ready(cluster: Cluster) -> None:
    cluster.down("spark-02")
    assert cluster.findings()[0].startswith("spark-02: its Node is not Ready: no answer; bring it in order")


def test_a_node_that_is_being_removed(cluster: Cluster) -> None:
    cluster.marked("spark-02", "remove")
    assert cluster.findings() == ["spark-02: it was cordoned to remove it; finish that first"]


def test_no_microk8s(cluster: Cluster) -> None:
    cluster.states["spark-02"] = {"installed": False, "action": "install", "reason": "MicroK8s is not installed"}
    del cluster.live["spark-02"]
    assert len(cluster.findings()) == 1


def test_an_api_that_does_not_answer(cluster: Cluster) -> None:
    cluster.live = {}
    assert len(cluster.findings()) == 1


def test_workers_alone_must_not_overtake_the_controller(cluster: Cluster) -> None:
    cluster.selected = ["spark-01"]
    assert cluster.findings() == [
        "controller: it runs v1.34.3 and is not among the hosts of this run; no node may be newer than a controller: "
        "add it to --limit"
    ]
    cluster.runs("controller", "v1.35.2")
    assert cluster.findings() == []


def test_nobody_is_left_two_minor_versions_behind(cluster: Cluster) -> None:
    cluster.runs("spark-02", "v1.33.5")
    cluster.selected = ["controller", "spark-01"]
    assert cluster.findings() == [
        "spark-02: it runs v1.33.5, is not among the hosts of this run and would be left two minor versions behind: "
        "upgrade it first"
    ]


def test_all_findings_at_once(cluster: Cluster) -> None:
    cluster.runs("spark-02", "v1.33.5")
    cluster.down("spark-01")
    cluster.stores["controller"] = ""
    findings = cluster.findings()
    assert [finding.split(":")[0] for finding in findings] == ["controller", "spark-01", "spark-02"]


# --- several controllers ---


def test_several_controllers_one_after_the_other() -> None:
    cluster = Cluster("c1", "c2", "c3", "s1", controllers=3)
    assert cluster.plan()["due"] == ["c1", "c2", "c3", "s1"]


def test_the_controller_that_is_out_of_service_goes_first() -> None:
    cluster = Cluster("c1", "c2", "c3", "s1", controllers=3)
    cluster.marked("c2")
    cluster.down("c2")
    assert cluster.plan()["due"] == ["c2", "c1", "c3", "s1"]


def test_no_majority_is_risked() -> None:
    cluster = Cluster("c1", "c2", "c3", "s1", controllers=3)
    cluster.selected = ["c1", "c2", "s1"]
    cluster.runs("c3", "v1.35.2")
    assert cluster.findings() == []
    cluster.live["c3"]["ready"] = False
    assert cluster.findings() == [
        "c3: this controller is not Ready, and the datastore would lose its majority with the next one; "
        "bring it back first"
    ]
