# SPDX-License-Identifier: GPL-3.0-or-later
"""What belongs to one node, set by the inventory and taken away again: arguments, labels, taints, runtime, GPU slots.

Every test leaves the cluster as it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scenarios.cluster import DATA, Rollout, eventually, flags, lab, nodes, on, ready, rollout, settled
from tests.scenarios.conftest import kill_when, kubectl

SPARK = "spark-02"
TEMPLATE = f"{DATA}/args/containerd-template.toml"
CONFIG_LABEL = "nvidia.com/device-plugin.config"
long = pytest.mark.long

Inventory = Callable[..., tuple[str, str]]


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    """Arguments of a run in which the Spark has further variables, or all hosts have (`shared`)."""

    def write(shared: dict[str, Any] | None = None, **variables: Any) -> tuple[str, str]:
        file = tmp_path / "more.yml"
        file.write_text(yaml.safe_dump({"sparks": {"hosts": {SPARK: variables}}, "all": {"vars": shared or {}}}))
        return "-i", str(file)

    return write


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    yield
    lab("fault", "clear")


def node() -> dict[str, Any]:
    return nodes()[SPARK]


def labels() -> dict[str, str]:
    return node()["metadata"]["labels"]


def taints() -> set[str]:
    return {f"{each['key']}:{each['effect']}" for each in node()["spec"].get("taints", [])}


def ready_since() -> str:
    return next(each["lastTransitionTime"] for each in node()["status"]["conditions"] if each["type"] == "Ready")


def gpus(host: str = SPARK) -> str:
    return nodes()[host]["status"]["allocatable"]["nvidia.com/gpu"]


def nothing_to_do(*arguments: str) -> None:
    result = rollout(*arguments)
    assert (result.changes, result.mutations) == ([], [])


def only_failed(result: Rollout, *names: str) -> None:
    assert {host for host, count in result.recap("failed").items() if count} == set(names), result.text[-4000:]


# --- labels, taints, arguments ---


def test_labels_and_taints_come_and_go_and_those_of_others_stay(inventory: Inventory) -> None:
    kubectl("label", "node", SPARK, "theirs=kept", "--overwrite")
    kubectl("taint", "node", SPARK, "example.com/a=theirs:PreferNoSchedule", "--overwrite")
    more = inventory(
        tokenlabs_node_labels={"rack": "a1"},
        tokenlabs_node_taints=[{"key": "example.com/a", "value": "ours", "effect": "NoSchedule"}],
    )
    rollout(*more)
    assert (labels()["rack"], labels()["theirs"]) == ("a1", "kept")
    assert taints() == {"example.com/a:NoSchedule", "example.com/a:PreferNoSchedule"}
    # The operator's pods tolerate it, and would otherwise not have come to be ready anew.
    assert gpus() == "1"
    rollout()
    assert "rack" not in labels() and labels()["theirs"] == "kept"
    assert taints() == {"example.com/a:PreferNoSchedule"}
    kubectl("label", "node", SPARK, "theirs-")
    kubectl("taint", "node", SPARK, "example.com/a-")


@long
def test_a_spark_keeps_memory_back_and_one_may_keep_more(inventory: Inventory) -> None:
    def kept() -> int:
        status = node()["status"]
        return int(status["capacity"]["memory"][:-2]) - int(status["allocatable"]["memory"][:-2])

    usual = kept()
    assert usual == (4 + 2 + 1) * 2**20
    rollout(*inventory(tokenlabs_kubelet_args={"--system-reserved": "cpu=2,memory=8Gi", "--v": "3"}))
    assert (flags(SPARK)["--v"], kept()) == ("3", usual + 4 * 2**20)
    rollout()
    assert ("--v" in flags(SPARK), kept()) == (False, usual)
    nothing_to_do()


@long
@pytest.mark.parametrize("mended", [True, False], ids=["and mended", "and tried again"])
def test_a_change_that_is_killed_before_it_is_proven(inventory: Inventory, mended: bool) -> None:
    """Whoever killed the run, the node comes back; and what cannot work is named."""
    before = on(SPARK, f"cat {DATA}/args/kubelet")
    broken = inventory(tokenlabs_kubelet_args={"--no-such-flag": "1"})
    restarting = "TASK [tokenlabs.platform.microk8s : Note when the patience ends]"
    kill_when("cluster", lambda line: restarting in line, *broken)
    eventually(f"{SPARK} is NotReady", lambda: not ready(nodes().get(SPARK)))
    if not mended:
        result = rollout(*broken, "-e", "microk8s_restart_timeout=50", code=1)
        assert f"{SPARK} did not get through the change of its configuration, which was taken back" in result.said
        only_failed(result, SPARK)
    else:
        rollout()
    settled()
    assert on(SPARK, f"cat {DATA}/args/kubelet") == before
    assert on(SPARK, f"ls {DATA}/args | grep -c tokenlabs-good || true").strip() == "0"
    nothing_to_do()


# --- the system ---


@long
def test_swap_clock_and_taints_outlive_a_reboot(inventory: Inventory) -> None:
    more = inventory(tokenlabs_node_taints=[{"key": "example.com/a", "value": "ours", "effect": "NoSchedule"}])
    # What a person could do; the second line stands for `swapon -a`.
    on(
        SPARK,
        "systemctl unmask swap.target; systemctl restart swap-img.service; "
        "systemctl disable --now systemd-timesyncd; rm /etc/ssh/ssh_config.d/50-tokenlabs.conf",
    )
    assert len(on(SPARK, "cat /proc/swaps").splitlines()) == 2
    result = rollout(*more)
    only_failed(result)
    assert result.recap("changed")["spark-01"] == 0
    assert "ServerAliveInterval" in on(
        SPARK, "ssh -G nowhere | grep -i serveralive; cat /etc/ssh/ssh_config.d/50-tokenlabs.conf"
    )
    assert "NTP=yes" in on(SPARK, "timedatectl show")
    before = ready_since()
    lab("fault", "reboot", SPARK)
    eventually(f"{SPARK} takes logins", lambda: on(SPARK, "echo up", check=False).strip() == "up")
    # Until then the control plane has changed the list of its taints.
    eventually(f"{SPARK} is Ready again", lambda: ready(node()) and ready_since() != before)
    assert len(on(SPARK, "cat /proc/swaps").splitlines()) == 1
    nothing_to_do(*more)
    assert taints() == {"example.com/a:NoSchedule"}
    rollout()


@long
def test_a_clock_that_nothing_keeps_right_is_named() -> None:
    on(SPARK, "mv /usr/lib/systemd/ntp-units.d /usr/lib/systemd/ntp-units.away; systemctl restart systemd-timedated")
    try:
        result = rollout(code=1)
        assert f"{SPARK}: nothing keeps its clock right: install systemd-timesyncd or chrony" in result.said
        only_failed(result, SPARK)
    finally:
        on(
            SPARK,
            "mv /usr/lib/systemd/ntp-units.away /usr/lib/systemd/ntp-units.d; systemctl restart systemd-timedated",
        )


# --- GPUs ---


@long
def test_slots_of_a_gpu(inventory: Inventory) -> None:
    rollout(*inventory(tokenlabs_gpu_slots=2))
    assert (gpus(), gpus("spark-01"), labels()[CONFIG_LABEL]) == ("2", "1", "slots-2")
    assert labels()["nvidia.com/gpu.sharing-strategy"] == "time-slicing"
    nothing_to_do(*inventory(tokenlabs_gpu_slots=2))
    rollout(*inventory(tokenlabs_gpu_slots=3))
    assert gpus() == "3"
    rollout()
    assert (gpus(), CONFIG_LABEL in labels()) == ("1", False)
    found = json.loads(kubectl("-n", "gpu-operator", "get", "configmaps", "-o", "json"))["items"]
    assert [each for each in found if each["metadata"]["name"].startswith("tokenlabs-slots")] == []
    nothing_to_do()


@long
def test_one_gpu_that_cannot_be_used_is_named_and_stops_nobody() -> None:
    lab("fault", "gpu_never_ready", SPARK)
    kubectl("-n", "gpu-operator", "delete", "pod", "-l", "app=nvidia-device-plugin-daemonset", "--wait=false")
    on(SPARK, "snap restart microk8s.daemon-kubelite")
    eventually("the GPU is gone", lambda: node()["status"]["allocatable"].get("nvidia.com/gpu", "0") == "0")
    result = rollout("-e", "gpu_operator_timeout=40", code=1)
    assert f"The GPU of {SPARK} cannot be used: " in result.said
    assert "Say what is waited for" in result.text
    only_failed(result, SPARK)
    lab("fault", "clear")
    rollout()
    assert gpus() == "1"


@long
def test_cdi_on_a_containerd_that_has_to_be_told(inventory: Inventory) -> None:
    rollout(*inventory({"tokenlabs_gpu_cdi": True}))
    table = on(SPARK, f"sed -n /cri.\\]/,/sandbox_image/p {TEMPLATE}")
    assert "enable_cdi = true" in table, table
    nothing_to_do(*inventory({"tokenlabs_gpu_cdi": True}))
    rollout()
    assert "enable_cdi" not in on(SPARK, f"cat {TEMPLATE}")
    nothing_to_do()


@long
def test_a_runtime_of_somebody_else_is_named() -> None:
    keep = on(SPARK, f"cp -p {TEMPLATE} /root/template; cat {TEMPLATE}")
    on(SPARK, f"sed -i s/TOKENLABS/MINE/ {TEMPLATE}; sed -i s,/usr/bin/nvidia-container-runtime,/opt/other, {TEMPLATE}")
    result = rollout(code=1)
    assert f"{SPARK}: containerd" in result.said and "has a runtime nvidia that runs /opt/other" in result.said
    only_failed(result, SPARK)
    assert result.mutations == []
    on(SPARK, f"mv /root/template {TEMPLATE}")
    assert on(SPARK, f"cat {TEMPLATE}") == keep
    rollout()
    nothing_to_do()


@long
def test_the_operators_toolkit_and_back(inventory: Inventory) -> None:
    drop_in = "/etc/containerd/conf.d/99-nvidia.toml"
    other = inventory({"tokenlabs_gpu_toolkit": "operator"})
    rollout(*other)
    assert (gpus(), gpus("spark-01")) == ("1", "1")
    template = on(SPARK, f"cat {TEMPLATE}")
    assert "TOKENLABS" not in template and "imports" in template
    nothing_to_do(*other)

    result = rollout(code=1)
    assert f"{drop_in}, which containerd" in result.said and "tokenlabs_gpu_toolkit" in result.said
    only_failed(result, "spark-01", SPARK)
    there = f"test -e {drop_in} && echo there || true"
    eventually(
        "the operator's toolkit is gone", lambda: not "".join(on(host, there) for host in ("spark-01", SPARK)).strip()
    )
    rollout()
    assert (gpus(), gpus("spark-01")) == ("1", "1")
    assert "TOKENLABS" in on(SPARK, f"cat {TEMPLATE}")
    nothing_to_do()


@long
def test_values_that_would_break_containerd_are_refused(inventory: Inventory) -> None:
    values = json.dumps({"gpu_operator_values": {"toolkit": {"env": []}}})
    result = rollout(*inventory({"tokenlabs_gpu_toolkit": "operator"}), "--tags", "gpu_operator", "-e", values, code=1)
    assert "take CONTAINERD_CONFIG, CONTAINERD_SOCKET, RUNTIME_CONFIG_SOURCE from toolkit.env" in " ".join(
        result.text.split()
    )
    assert result.mutations == []
    nothing_to_do()


@long
def test_what_was_deleted_by_hand_comes_back() -> None:
    kubectl("-n", "gpu-operator", "delete", "deployment", "gpu-operator")
    result = rollout()
    only_failed(result)
    kubectl("-n", "gpu-operator", "rollout", "status", "deployment/gpu-operator", "--timeout=60s")
    nothing_to_do()


@long
def test_an_older_operator_is_refused() -> None:
    older = json.dumps({"tokenlabs_versions": {"gpu_operator": "v25.3.0"}})
    result = rollout("-e", older, code=1)
    said = " ".join(result.text.split())
    assert "gpu_operator: v25.10.1 is installed (helm release gpu-operator in gpu-operator), v25.3.0 is asked" in said
    assert result.mutations == []
