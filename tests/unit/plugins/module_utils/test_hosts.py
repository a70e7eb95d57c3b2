from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils._hosts import GIB, examine, version_key

PROBE = Path(__file__).parents[4] / "roles/preflight/files/probe.py"
NODES = {
    "controller": {"name": "controller", "role": "controller", "gpu": False, "address": "10.0.0.1"},
    "spark-01": {"name": "spark-01", "role": "worker", "gpu": True, "address": "10.0.0.2"},
}
LIMITS = {
    "distributions": ["Ubuntu 24.04"],
    "architectures": {"controller": ["x86_64", "aarch64"], "spark": ["aarch64"]},
    "min_kernel": "5.15",
    "min_memory_gib": {"controller": 4, "spark": 64},
    "min_disk_gib": {"controller": 40, "spark": 200},
    "min_free_gib": 10,
    "max_clock_skew": 30,
    "min_driver": "580",
    "accept": [],
}


def probe(host: str = "spark-01", **changes) -> dict:
    spark = host != "controller"
    return {
        "release": "Ubuntu 24.04",
        "machine": "aarch64" if spark else "x86_64",
        "kernel": "6.14.0-1015-nvidia",
        "python": [3, 12],
        "host_name": host,
        "memory": 119 * GIB,
        "spaces": {"/var/snap": {"total": 900 * GIB, "free": 500 * GIB}},
        "skew": 0.8,
        "root": True,
        "snapd": True,
        "own_address": True,
        "ports_taken": [],
        "unreachable": [],
        "gpu": {"error": "", "names": ["NVIDIA GB10"], "driver": "580.126.09"} if spark else None,
        "runtime": spark,
        **changes,
    }


def report(accept: list[str] | None = None, **changes) -> dict:
    """The report on a good controller and a Spark with changes."""
    results = {
        "controller": {"stdout": json.dumps(probe("controller"))},
        "spark-01": {"stdout": json.dumps(probe(**changes))},
    }
    return examine(results, NODES, {**LIMITS, "accept": accept or []})


def test_good_hosts() -> None:
    found = report()
    assert (found["fatal"], found["table"]) == (0, [])
    assert found["hosts"] == [
        "controller: Ubuntu 24.04, x86_64, kernel 6.14.0-1015-nvidia, Python 3.12, 119 GiB memory, 500 GiB free",
        "spark-01: Ubuntu 24.04, aarch64, kernel 6.14.0-1015-nvidia, Python 3.12, 119 GiB memory, 500 GiB free, "
        "NVIDIA GB10, driver 580.126.09",
    ]


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({"root": False}, "spark-01  root  no  become"),
        ({"release": "Debian GNU/Linux 12"}, "spark-01  system  Debian GNU/Linux 12  Ubuntu 24.04"),
        ({"machine": "x86_64"}, "spark-01  architecture  x86_64  aarch64 on a spark"),
        ({"kernel": "5.4.0"}, "spark-01  kernel  5.4.0  5.15 or newer"),
        ({"python": [3, 10]}, "spark-01  python  3.10  3.11 or newer"),
        ({"snapd": False}, "spark-01  snapd  missing"),
        ({"host_name": "spark_01"}, "spark-01  host name  spark_01  letters"),
        ({"host_name": "other"}, "spark-01  host name  other  spark-01 (hostnamectl"),
        ({"host_name": "controller"}, "spark-01  host name  controller, as controller  a name of its own"),
        ({"memory": 32 * GIB}, "spark-01  memory  32 GiB  64 GiB"),
        ({"spaces": {"/c": {"total": 90 * GIB, "free": 80 * GIB}}}, "spark-01  disk of /c  90 GiB  200 GiB in all"),
        ({"spaces": {"/c": {"total": 900 * GIB, "free": 3 * GIB}}}, "spark-01  disk of /c  3 GiB free  10 GiB free"),
        ({"skew": -31.2}, "spark-01  clock  -31 s from"),
        ({"own_address": False}, "spark-01  address  10.0.0.2 is not its own"),
        ({"ports_taken": [10250]}, "spark-01  port 10250  taken"),
        (
            {"unreachable": [["controller", "10.0.0.1:25000", "timed out"]]},
            "spark-01  network  cannot reach controller",
        ),
        ({"gpu": {"error": "no driver", "names": [], "driver": ""}}, "spark-01  GPU driver  no driver"),
        ({"gpu": {"error": "", "names": ["NVIDIA GB10"], "driver": "575.57"}}, "spark-01  GPU driver  575.57  580"),
        ({"runtime": False}, "spark-01  GPU runtime  missing"),
    ],
)
def test_every_problem_is_a_row(changes: dict, row: str) -> None:
    found = report(**changes)
    assert found["fatal"] >= 1
    rows = [
        "  ".join(line.split("  ")[0:1] + [part.strip() for part in line.split("  ")[1:] if part])
        for line in found["table"]
    ]
    assert any(line.startswith(row) for line in rows), rows


def test_all_problems_are_reported_at_once() -> None:
    found = report(memory=1, snapd=False, kernel="4.4")
    assert found["fatal"] == 3
    assert [line.split()[1] for line in found["table"]] == ["CHECK", "kernel", "snapd", "memory"]


@pytest.mark.parametrize("accepted", ["memory", "spark-01/memory"])
def test_an_accepted_problem_is_shown_and_does_not_stop(accepted: str) -> None:
    found = report(accept=[accepted], memory=1)
    assert found["fatal"] == 0
    assert found["table"][1].endswith("(not held against it)")


def test_accepting_is_for_the_named_host_only() -> None:
    assert report(accept=["controller/memory"], memory=1)["fatal"] == 1


def test_a_spark_that_is_away_does_not_stop_the_others() -> None:
    away = {"unreachable": True, "msg": "Task failed: Failed to connect to the host via ssh: timed out"}
    other = probe("controller", unreachable=[["spark-01", "10.0.0.2:25000", "No route to host"]])
    found = examine({"controller": {"stdout": json.dumps(other)}, "spark-01": away}, NODES, LIMITS)
    assert found["fatal"] == 0
    assert found["table"][1].split()[:4] == ["spark-01", "connection", "timed", "out"]
    assert "No route to host" in found["table"][2]


def test_nothing_goes_without_the_controller() -> None:
    away = {"unreachable": True, "msg": "no route"}
    assert examine({"controller": away, "spark-01": {"stdout": json.dumps(probe())}}, NODES, LIMITS)["fatal"] == 1


def test_a_host_without_python_or_sudo_stops_the_run() -> None:
    broken = {"rc": 1, "stdout": "", "stderr": "sudo: a password is required\n"}
    found = examine({"controller": {"stdout": json.dumps(probe("controller"))}, "spark-01": broken}, NODES, LIMITS)
    assert found["fatal"] == 1
    assert "sudo: a password is required" in found["table"][1]


@pytest.mark.parametrize(
    ("version", "key"), [("6.14.0-1015-nvidia", (6, 14, 0)), ("580.126.09", (580, 126, 9)), ("?", ())]
)
def test_versions(version: str, key: tuple) -> None:
    assert version_key(version) == key


# --- the probe itself, on this machine ---


def look(**question) -> dict:
    asked = {
        "sent": time.time(),
        "address": "127.0.0.1",
        "gpu": False,
        "paths": ["/var/snap"],
        "ports": [],
        "peers": [],
    }
    done = subprocess.run(
        [sys.executable, "-", json.dumps({**asked, **question})],
        input=PROBE.read_text(),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_probe_answers_everything_that_is_judged() -> None:
    found = look()
    assert set(found) == set(probe())
    assert found["python"] == list(sys.version_info[:2])
    assert abs(found["skew"]) < 10
    assert found["spaces"]["/var/snap"]["total"] > found["spaces"]["/var/snap"]["free"] > 0
    assert found["memory"] > 2**28
    assert found["own_address"]
    assert found["gpu"] is None


def test_probe_sees_ports_peers_and_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        found = look(
            address="192.0.2.9",
            ports=[taken],
            peers=[["here", "127.0.0.1", taken], ["refused", "127.0.0.1", 1], ["nowhere", "0.0.0.256", 1]],
        )
    assert not found["own_address"]
    assert found["ports_taken"] == [taken]
    assert [name for name, _address, _reason in found["unreachable"]] == ["nowhere"]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('echo "NVIDIA GB10, 580.126.09"', {"error": "", "names": ["NVIDIA GB10"], "driver": "580.126.09"}),
        ('echo "it has failed"; exit 9', {"error": "it has failed", "names": [], "driver": ""}),
    ],
)
def test_probe_asks_the_gpu(tmp_path: Path, monkeypatch, script: str, expected: dict) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert look(gpu=True)["gpu"] == expected


def test_probe_without_a_driver(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert look(gpu=True)["gpu"]["error"] == "nvidia-smi is not installed"
