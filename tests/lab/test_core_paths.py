# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, addresses and files of a lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.paths import Lab, LabError, plan_hosts


def test_hosts_get_addresses_in_order_and_a_kind_by_name() -> None:
    hosts = plan_hosts(["controller", "spark-01", "controller-2"])
    assert [(host.address, host.kind, host.link) for host in hosts] == [
        ("10.77.0.10", "controller", "h0"),
        ("10.77.0.11", "spark", "h1"),
        ("10.77.0.12", "controller", "h2"),
    ]


def test_the_last_host_stays_below_the_load_balancer_addresses() -> None:
    assert plan_hosts(f"spark-{number}" for number in range(180))[-1].address == "10.77.0.189"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "at least one host"),
        (["spark-01", "spark-01"], "named twice: spark-01"),
        (["Spark"], "'Spark'"),
        (["a b"], "'a b'"),
        (["../x"], "'../x'"),
        ([f"s{number}" for number in range(181)], "holds 180"),
    ],
)
def test_bad_hosts_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(LabError, match=said):
        plan_hosts(names)


def test_a_lab_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    lab = Lab("one", tmp_path, plan_hosts(["controller", "spark-01"]), rootfs="/r", layers={"spark": ["/a", "/b"]})
    lab.save()
    assert Lab.load(tmp_path) == lab


def test_a_lab_that_was_never_started_is_empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOKENLABS_LAB_STATE", str(tmp_path))
    assert Lab.named("fresh") == Lab("fresh", tmp_path / "fresh")


@pytest.mark.parametrize("name", ["", "UPPER", "a/b", "..", "x" * 40])
def test_bad_lab_names_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="lab name"):
        Lab.named(name)


def test_labs_of_one_name_in_two_places_have_two_control_groups(tmp_path: Path) -> None:
    assert Lab("lab", tmp_path / "a/lab").cgroup != Lab("lab", tmp_path / "b/lab").cgroup


def test_a_program_in_the_lab_sees_this_lab_and_not_the_callers_cluster(tmp_path: Path) -> None:
    lab = Lab("one", tmp_path / "one", bin="/tools/bin", upstream="/up")
    env = lab.environment({"PATH": "/usr/bin", "KUBECONFIG": "/home/me/.kube/production", "LAB_UPSTREAM": "relative"})
    assert env["KUBECONFIG"] == str(tmp_path / "one/admin.kubeconfig")
    assert env["TOKENLABS_LAB"] == str(tmp_path / "one")
    assert env["PATH"] == "/tools/bin:/usr/bin"
    assert env["LAB_UPSTREAM"] == "/up"
