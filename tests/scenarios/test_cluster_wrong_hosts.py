# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that are wrong: preflight names each finding in a row of its own, of all hosts at once, touching nothing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.scenarios.cluster import DATA, controller, filtered, forget, lab, on, rollout, settled
from tests.scenarios.conftest import Run, playbook
from tests.scenarios.evidence import commands, writes

FIRST, SECOND = "spark-01", "spark-02"
MACHINE = "0123456789abcdef0123456789abcdef"
# Faults of the lab: host, name, value.
FAULTS = (
    (FIRST, "os_release", "debian-12"),
    (FIRST, "dgx_release", "none"),
    (FIRST, "gpu_driver", "575.57.08"),
    (FIRST, "memory", "32Gi"),
    (FIRST, "cores", "4"),
    (SECOND, "machine", "x86_64"),
    (SECOND, "kernel", "5.4.0-99-generic"),
    (SECOND, "clock_offset", "-90"),
    (SECOND, "hostname", "SPARK-02"),
    (SECOND, "gpu_driver_broken", "true"),
)


@contextmanager
def fault(host: str, name: str, *value: str) -> Iterator[None]:
    lab("fault", name, host, *value)
    try:
        yield
    finally:
        lab("fault", "clear", host, name)


@contextmanager
def replaced(host: str, file: str, command: str) -> Iterator[None]:
    """A file of a host is made anew by a command, and put back as it was."""
    on(host, f"cp -p {file} {file}.kept && {command}")
    try:
        yield
    finally:
        on(host, f"mv {file}.kept {file}")


@contextmanager
def squatter(host: str, port: int) -> Iterator[None]:
    """A program that has nothing to do with MicroK8s listens on a port."""
    on(host, f"systemd-run --quiet --unit=squatter /usr/bin/python3 -m http.server {port}")
    on(host, f"until ss -Hltn sport = {port} | grep -q .; do sleep 0.1; done")
    try:
        yield
    finally:
        on(host, "systemctl stop squatter")


def looked(name: str, *arguments: str) -> tuple[Run, list[list[str]]]:
    """Run a playbook that is preflight, or must stop at it, and hold it to having touched nothing.

    :returns: how it ended, and the rows of its table: level, host, check, what was found, what to do.
    """
    begun = time.time()
    result = playbook(name, *arguments)
    assert [str(each) for each in commands(begun) if each.mutating] == []
    assert writes(begun) == []
    assert "Traceback" not in result.text
    table = result.text.partition("LEVEL ")[2].partition("\n\n")[0]
    return result, [re.split(r"  +", line.strip()) for line in table.splitlines()[1:]]


def test_good_hosts_have_no_finding_also_when_microk8s_has_its_ports() -> None:
    result, found = looked("preflight", "--check", "--diff")
    assert (result.code, found) == (0, []), result.text


def test_all_that_is_wrong_is_one_table_and_nothing_is_touched() -> None:
    with ExitStack() as faults:
        for each in FAULTS:
            faults.enter_context(fault(*each))
        for host in (FIRST, SECOND):
            # The file is a cover of another one on some hosts, so it is written and not replaced.
            faults.callback(on, host, f"echo {on(host, 'cat /etc/machine-id').strip()} > /etc/machine-id")
            on(host, f"echo {MACHINE} > /etc/machine-id")
        faults.enter_context(squatter(FIRST, 7946))
        faults.enter_context(filtered(controller(), 25000))
        result, found = looked("site", "-vvv")
    assert result.code != 0
    assert "nothing was changed" in result.text
    both = f"{FIRST}, {SECOND}"
    expected = {
        ("error", FIRST, "system", "Debian GNU/Linux 12"),
        ("error", FIRST, "GPU driver", "575.57.08"),
        ("error", FIRST, "memory", "32 GiB"),
        ("error", FIRST, "cores", "4"),
        ("error", FIRST, "port 7946/tcp", "taken by python3"),
        ("error", FIRST, "identity", "the same machine-id as spark-02"),
        ("error", SECOND, "identity", "the same machine-id as spark-01"),
        ("error", SECOND, "architecture", "x86_64 (amd64), expected arm64"),
        ("error", SECOND, "kernel", "5.4.0-99-generic"),
        ("error", SECOND, "host name", "SPARK-02, in the inventory spark-02"),
        ("error", both, "network", f"{controller()} (10.77.0.10) on 25000: timed out"),
        ("warning", FIRST, "DGX OS", "no /etc/dgx-release"),
    }
    told = {tuple(row[:4]) for row in found}
    assert expected <= told, result.text
    driver, clock = sorted(told - expected)
    assert driver[:3] == ("error", SECOND, "GPU driver") and driver[3].startswith("NVIDIA-SMI has failed")
    # How long the logins took is in it.
    assert clock[:3] == ("error", SECOND, "clock")
    assert re.fullmatch(rf"([89]\d|10\d) s behind {controller()}", clock[3])
    assert all(len(row) == 5 and row[4] for row in found), "every row says what to do"
    # What identifies a machine is compared by digests, and a Spark's serial number is not read at all.
    assert MACHINE not in result.text


def test_a_worker_of_another_cluster_is_one_row() -> None:
    theirs = f"{DATA}/certs/ca.remote.crt"
    another = "openssl req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=10.152.183.1"
    with replaced(SECOND, theirs, f"{another} -out {theirs} 2>/dev/null"):
        result, found = looked("site")
    assert result.code != 0
    assert [row[:4] for row in found] == [["error", SECOND, "cluster", "it is a worker of another cluster"]]
    assert "microk8s leave" in found[0][4]


def test_a_spark_that_is_off_is_a_row_and_stops_nothing() -> None:
    lab("fault", "cut", SECOND)
    try:
        result, found = looked("preflight")
    finally:
        lab("fault", "heal", SECOND)
    assert result.code == 0, result.text
    assert [row[:3] for row in found] == [["warning", SECOND, "connection"]]


@pytest.mark.long
def test_who_would_not_be_heard_beside_the_gateway() -> None:
    """Without a load balancer the gateway takes its port on the controller from everybody else."""
    without_range = ("-e", json.dumps({"tokenlabs_loadbalancer_range": None}))
    with squatter(controller(), 80):
        result, found = looked("preflight", *without_range)
    assert result.code != 0
    assert [row[:4] for row in found] == [["error", controller(), "port 80/tcp", "taken by python3"]]


@pytest.mark.long
def test_store_and_channel_are_asked_for_before_the_installation() -> None:
    forget(SECOND)
    try:
        with fault(SECOND, "store_unreachable"):
            result, found = looked("site")
        assert [row[:3] for row in found] == [["error", SECOND, "snap store"]], result.text
        _result, found = looked("preflight", "-e", "tokenlabs_microk8s_channel=1.34/candidate")
        # The controller and the other Spark follow another channel than that.
        ours = [row for row in found if row[1] == SECOND]
        assert [row[:3] for row in ours] == [["error", SECOND, "channel"]]
        assert "no 1.34/candidate of microk8s" in ours[0][3]
    finally:
        rollout(limit=f"controllers,{SECOND}")
    settled()
