# SPDX-License-Identifier: GPL-3.0-or-later
"""What preflight makes of hosts: each finding, and that good hosts have none; and the probe, on this machine."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils._host_rules import GIB, version_key
from ansible_collections.tokenlabs.platform.plugins.module_utils._hosts import examine

PROBE = Path(__file__).parents[4] / "roles/preflight/files/probe.py"
CONTROLLER, SPARK, SECOND = "controller", "spark-01", "spark-02"
_WORKER = {"role": "worker", "gpu": True, "arch": "arm64", "cache_gib": 300}
NODES = {
    CONTROLLER: {
        **{"name": CONTROLLER, "role": "controller", "gpu": False, "arch": None, "cache_gib": 0},
        "address": "10.77.0.10",
    },
    SPARK: {"name": SPARK, "address": "10.77.0.11", **_WORKER},
    SECOND: {"name": SECOND, "address": "10.77.0.12", **_WORKER},
}
LIMITS: dict[str, Any] = {
    "distributions": ["Ubuntu 24.04"],
    "min_kernel": "5.15",
    "min_cores": {"controller": 2, "spark": 8},
    "min_memory_gib": {"controller": 4, "spark": 64},
    "min_disk_gib": {"controller": 40, "spark": 200},
    "min_free_gib": 10,
    "model_cache": "/weights",
    "max_clock_skew": 30,
    "min_driver": "580",
    "accept": [],
    "toolkit": "host",
    "channel": "1.34/stable",
    "networks": {"pods": "10.1.0.0/16", "services": "10.152.183.0/24"},
    "loadbalancer_range": "10.77.0.200-10.77.0.210",
    "force_rejoin": False,
    "judged": 1002.0,
}
OURS, OTHER = "a" * 64, "b" * 64
WORKER = {"worker": True, "ca": "c" * 64, "remote_ca": OURS, "joined": False, "datastore": [], "channel": "1.34/stable"}
HEAD = {
    **WORKER,
    **{"worker": False, "ca": OURS, "remote_ca": "", "joined": True},
    "datastore": ["10.77.0.10:19001"],
}
PAIR = {**HEAD, "datastore": ["10.77.0.10:19001", "10.77.0.11:19001"]}
MICROK8S = {port: "microk8s" for port in ("16443/tcp", "25000/tcp", "10250/tcp", "4789/udp", "7946/tcp")}


def probe(host: str = SPARK, **changes: Any) -> dict[str, Any]:
    spark = host != CONTROLLER
    return {
        "release": "Ubuntu 24.04",
        "dgx": "7.3.1" if spark else "",
        "machine": "aarch64" if spark else "x86_64",
        "kernel": "6.14.0-1015-nvidia",
        "python": [3, 12],
        "host_name": host,
        "identity": {"machine": f"m-{host}", "ssh": f"s-{host}"},
        "cores": 20,
        "memory": 119 * GIB,
        "swap": 0,
        "cgroup2": True,
        "inotify": {"free": 100},
        "spaces": {"/var/snap": {"total": 900 * GIB, "free": 500 * GIB}},
        "root": True,
        "snapd": True,
        "docker": False,
        "store": {"error": "", "channels": ["1.34/stable", "1.33/stable", "1.33/edge"]},
        "cluster": None,
        "addresses": [
            ["lo", "", "127.0.0.1", 8],
            ["eth0", "", NODES[host]["address"], 16],
            ["docker0", "bridge", "172.17.0.1", 16],
        ],
        "routes": [["10.77.0.0/16", "eth0"], ["172.17.0.0/16", "docker0"]],
        "ports": {},
        "unreachable": [],
        "mirrors": [],
        "gpu": {"error": "", "names": ["NVIDIA GB10"], "driver": "580.126.09"} if spark else None,
        "runtime": spark,
        "clock": {"sent": 1000.0, "arrived": 1000.8, "finished": 1001.0},
        **changes,
    }


def judged(limits: dict[str, Any] | None = None, **hosts: dict[str, Any]) -> dict[str, Any]:
    """The report on good hosts, some of which are changed; keywords are `controller`, `spark_01`, `spark_02`."""
    changes = {name.replace("_", "-"): value for name, value in hosts.items()}
    results = {name: {"stdout": json.dumps(probe(name, **changes.get(name, {})))} for name in NODES}
    return examine(results, NODES, {**LIMITS, **(limits or {})})


def rows(report: dict[str, Any]) -> list[list[str]]:
    """The table: level, host, check, what was found, what to do."""
    _head, separator, table = report["text"].partition("LEVEL")
    return [re.split(r"  +", line) for line in table.splitlines()[1:]] if separator else []


def the_row(report: dict[str, Any]) -> list[str]:
    found = rows(report)
    assert len(found) == 1, report["text"]
    return found[0]


def test_good_hosts() -> None:
    report = judged()
    assert (report["fatal"], rows(report), report["verdict"]) == (0, [], "the hosts are as they must be")
    assert report["text"].splitlines()[:2] == [
        "controller: Ubuntu 24.04, x86_64, kernel 6.14.0-1015-nvidia, Python 3.12, 20 cores, 119 GiB memory, "
        "500 GiB free",
        "spark-01: DGX OS 7.3.1 (Ubuntu 24.04), aarch64, kernel 6.14.0-1015-nvidia, Python 3.12, 20 cores, "
        "119 GiB memory, 500 GiB free, NVIDIA GB10, driver 580.126.09",
    ]


def test_hosts_of_a_finished_cluster_are_good() -> None:
    """MicroK8s holds its ports then, Calico has routes to pods, and nobody asks the store."""
    calico = {
        "ports": MICROK8S,
        "store": None,
        "addresses": [*probe(SPARK)["addresses"], ["vxlan.calico", "vxlan", "10.1.7.64", 32]],
        "routes": [*probe()["routes"], ["10.1.9.0/26", "vxlan.calico"], ["10.1.7.65", "cali0123456789a"]],
    }
    report = judged(
        controller={"ports": {**MICROK8S, "19001/tcp": "microk8s"}, "store": None, "cluster": HEAD},
        spark_01={**calico, "cluster": WORKER},
    )
    assert (report["fatal"], rows(report)) == (0, [])


def test_weights_need_the_room_that_their_models_say() -> None:
    small = {"total": 250 * GIB, "free": 250 * GIB}
    report = judged(spark_01={"spaces": {"/weights": small}}, spark_02={"spaces": {"/var/snap": small}})
    assert the_row(report)[1:4] == [SPARK, "disk of /weights", "250 GiB"]
    assert "300 GiB or more: the models of this Spark" in the_row(report)[4]


def space(total: int, free: int) -> dict[str, Any]:
    return {"spaces": {"/cache": {"total": total * GIB, "free": free * GIB}}}


def eth0(address: str, prefix: int = 16, name: str = "eth0", kind: str = "") -> list[Any]:
    return [name, kind, address, prefix]


ERRORS = {
    "not root": ({"root": False}, "sudo", "do not run as root", "become"),
    "another system": ({"release": "Debian GNU/Linux 12"}, "system", "Debian GNU/Linux 12", "Ubuntu 24.04"),
    "x86 among Sparks": (
        {"machine": "x86_64"},
        "architecture",
        "x86_64 (amd64), expected arm64",
        "tokenlabs_arch: amd64",
    ),
    "an old kernel": ({"kernel": "5.4.0-99-generic"}, "kernel", "5.4.0-99-generic", "5.15 or newer"),
    "an old Python": ({"python": [3, 10]}, "python", "3.10", "3.11 or newer"),
    "cgroups of version 1": ({"cgroup2": False}, "cgroups", "version 1", "unified_cgroup_hierarchy"),
    "a name with an underscore": ({"host_name": "spark_01"}, "host name", "RFC 1123", "set-hostname spark-01"),
    "an upper-case name": (
        {"host_name": "SPARK-01"},
        "host name",
        "SPARK-01, in the inventory spark-01",
        "set-hostname",
    ),
    "another name": ({"host_name": "other"}, "host name", "other, in the inventory spark-01", "set-hostname spark-01"),
    "few cores": ({"cores": 4}, "cores", "4", "8 or more"),
    "little memory": ({"memory": 32 * GIB}, "memory", "32 GiB", "64 GiB or more"),
    "a small disk": (space(90, 80), "disk of /cache", "90 GiB", "200 GiB"),
    "a full disk": (space(900, 3), "disk of /cache", "3 GiB free", "free 10 GiB"),
    "no driver": (
        {"gpu": {"error": "NVIDIA-SMI has failed because it", "names": [], "driver": ""}},
        "GPU driver",
        "NVIDIA-SMI has failed because it",
        "580",
    ),
    "an old driver": (
        {"gpu": {"error": "", "names": ["NVIDIA GB10"], "driver": "575.57.08"}},
        "GPU driver",
        "575.57.08",
        "update to 580",
    ),
    "no GPU runtime": ({"runtime": False}, "GPU runtime", "missing", "nvidia-container-toolkit"),
    "no snapd": ({"snapd": False, "store": None}, "snapd", "missing", "package snapd"),
    "no store": (
        {"store": {"error": 'error: no snap found for "microk8s"', "channels": []}},
        "snap store",
        "no snap found",
        "proxy.https",
    ),
    "a channel that the store lacks": (
        {"store": {"error": "", "channels": ["1.33/stable", "1.34/edge", "latest/stable"]}},
        "channel",
        "the snap store has no 1.34/stable of microk8s",
        "one of 1.33/stable",
    ),
    "an address of another host": (
        {"addresses": [["lo", "", "127.0.0.1", 8], eth0("10.77.0.19")], "routes": []},
        "address",
        "10.77.0.11 is none of its own (10.77.0.19 on eth0)",
        "ansible_host",
    ),
    "the address of docker0": (
        {"addresses": [eth0("10.77.0.11", name="docker0", kind="bridge")], "routes": []},
        "address",
        "10.77.0.11 is on docker0",
        "tokenlabs_cluster_address",
    ),
    "a port of somebody else": ({"ports": {"25000/tcp": "butler"}}, "port 25000/tcp", "taken by butler", "stop butler"),
    "a tunnel of somebody else": (
        {"ports": {"4789/udp": "the kernel"}},
        "port 4789/udp",
        "taken by the kernel",
        "port",
    ),
    "a filtered port": (
        {"unreachable": [[CONTROLLER, 16443, "timed out"], [CONTROLLER, 25000, "timed out"]]},
        "network",
        "controller (10.77.0.10) on 16443, 25000: timed out",
        "firewall of controller",
    ),
    "a mirror that is down": (
        {"mirrors": [["charts", 5000, "refused"]]},
        "mirror",
        "charts on port 5000: refused",
        "tokenlabs_mirrors.charts",
    ),
    "an address of the load balancer": (
        {"addresses": [*probe()["addresses"], eth0("10.77.0.205", name="eth1")]},
        "load balancer",
        "10.77.0.205 of the range is its own, on eth1",
        "no host uses",
    ),
    "a worker without a cluster": (
        {"cluster": WORKER, "store": None},
        "cluster",
        "a worker, but the controller has no cluster yet",
        "microk8s leave",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_one_row_that_stops_the_run(name: str) -> None:
    changes, check, found, remedy = ERRORS[name]
    report = judged(spark_01=changes)
    row = the_row(report)
    assert row[:3] == ["error", SPARK, check]
    assert found in row[3] and remedy in row[4], row
    assert report["fatal"] == 1
    assert "nothing was changed" in report["verdict"]


WARNINGS = {
    "a system of an OEM": ({"dgx": ""}, "DGX OS", "no /etc/dgx-release"),
    "swap": ({"swap": 16 * GIB}, "swap", "16 GiB"),
    "few watchers": ({"inotify": {"free": 3}}, "inotify", "3 instances left"),
    "a VPN by its name": ({"addresses": [eth0("10.77.0.11", name="tailscale0")]}, "address", "on tailscale0, a VPN"),
    "a VPN by its kind": ({"addresses": [eth0("10.77.0.11", name="net7", kind="wireguard")]}, "address", "on net7"),
    "a route over pods": (
        {"routes": [["10.77.0.0/16", "eth0"], ["10.0.0.0/8", "eth1"]]},
        "networks",
        "10.1.0.0/16, of MicroK8s' pods, meets 10.0.0.0/8 on eth1",
    ),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_a_warning_is_shown_and_stops_nothing(name: str) -> None:
    changes, check, found = WARNINGS[name]
    report = judged(spark_01=changes)
    row = rows(report)[0]
    assert row[:3] == ["warning", SPARK, check]
    assert found in row[3]
    assert (report["fatal"], report["verdict"].startswith("the hosts are as they must be; see the hints")) == (0, True)


def test_a_lan_in_the_network_of_pods() -> None:
    """The catalog refuses the addresses themselves; a network can also be larger than what is used of it."""
    row = rows(judged(spark_01={"addresses": [eth0("10.77.0.11", 8)], "routes": [["10.0.0.0/8", "eth0"]]}))[0]
    assert row[:3] == ["error", SPARK, "networks"]
    assert "10.1.0.0/16, of MicroK8s' pods, meets the LAN 10.0.0.0/8 on eth0" in row[3]


def test_a_load_balancer_outside_the_lan_is_told_once() -> None:
    row = the_row(judged(limits={"loadbalancer_range": "192.168.7.1-192.168.7.9"}))
    assert row[:3] == ["error", "all 3 hosts", "load balancer"]
    assert "192.168.7.1-192.168.7.9 is not within its network 10.77.0.0/16" in row[3]


def test_the_operators_own_toolkit_needs_none_on_the_host() -> None:
    assert rows(judged(limits={"toolkit": "operator"}, spark_01={"runtime": False})) == []


def test_an_x86_host_that_is_meant() -> None:
    nodes = {**NODES, SPARK: {**NODES[SPARK], "arch": "amd64"}}
    results = {name: {"stdout": json.dumps(probe(name))} for name in NODES}
    results[SPARK] = {"stdout": json.dumps(probe(machine="x86_64"))}
    assert rows(examine(results, nodes, LIMITS)) == []


def test_the_same_mistake_on_several_hosts_is_one_row() -> None:
    store = {"store": {"error": "", "channels": ["1.33/stable"]}}
    assert the_row(judged(spark_01=store, spark_02=store))[1] == "spark-01, spark-02"
    report = judged(controller={"memory": 1}, spark_01={"memory": 1}, spark_02={"memory": 1})
    assert [row[1] for row in rows(report)] == ["controller", "spark-01, spark-02"]
    assert report["fatal"] == 2


def test_all_problems_are_reported_at_once_errors_first() -> None:
    report = judged(spark_01={"memory": 1, "snapd": False, "kernel": "4.4", "swap": GIB}, controller={"root": False})
    assert [row[2] for row in rows(report)] == ["sudo", "kernel", "memory", "snapd", "swap"]
    assert report["fatal"] == 4


# --- what only all hosts together tell ---


def test_one_machine_under_two_names() -> None:
    same = {"identity": {"machine": "m", "ssh": "s"}}
    report = judged(spark_01=same, spark_02=same)
    assert [row[:4] for row in rows(report)] == [
        ["error", SPARK, "identity", "the same machine-id as spark-02"],
        ["error", SECOND, "identity", "the same machine-id as spark-01"],
    ]


def test_copied_ssh_host_keys() -> None:
    report = judged(
        spark_01={"identity": {"machine": "m", "ssh": "s"}}, spark_02={"identity": {"machine": "n", "ssh": "s"}}
    )
    assert [row[:3] for row in rows(report)] == [["warning", SPARK, "identity"], ["warning", SECOND, "identity"]]


def test_hosts_without_keys_are_not_the_same() -> None:
    none = {"identity": {"machine": "", "ssh": ""}}
    assert rows(judged(spark_01=none, spark_02=none)) == []


def clock(ahead: float, login: float = 0.5) -> dict[str, Any]:
    """What a host says whose clock is ahead by some seconds, asked at 1000, after a login of some seconds."""
    arrived = 1000 + login + ahead
    return {"clock": {"sent": 1000.0, "arrived": arrived, "finished": arrived + 0.5}}


@pytest.mark.parametrize(("ahead", "said"), [(45, "45 s ahead of controller"), (-45, "45 s behind controller")])
def test_a_clock_that_is_wrong(ahead: float, said: str) -> None:
    row = the_row(judged(spark_01=clock(ahead), controller=clock(0)))
    assert row[:4] == ["error", SPARK, "clock", said]


def test_a_clock_within_the_limit() -> None:
    assert rows(judged(spark_01=clock(29), controller=clock(0))) == []


def test_the_control_nodes_clock_is_of_no_account() -> None:
    hosts = {name: clock(-7200) for name in ("controller", "spark_01", "spark_02")}
    assert rows(judged(**hosts)) == []


def test_a_slow_login_is_no_wrong_clock() -> None:
    """Forty seconds passed until the host was asked: that it is ahead cannot be told from that."""
    row = the_row(judged(limits={"judged": 1042.0}, spark_01=clock(0, login=40), controller=clock(0)))
    assert row[0] == "warning"
    assert "or its login was slow" in row[3]


def test_a_port_that_a_firewall_refuses_although_microk8s_listens() -> None:
    refused = {"unreachable": [[CONTROLLER, 25000, "refused"]]}
    assert rows(judged(spark_01=refused)) == []
    row = the_row(judged(spark_01=refused, controller={"ports": MICROK8S, "cluster": HEAD, "store": None}))
    assert row[:3] == ["error", SPARK, "network"]
    assert "controller (10.77.0.10) on 25000: refused" in row[3]


FOREIGN = {
    "a worker of another cluster": (SPARK, {**WORKER, "remote_ca": OTHER}, "it is a worker of another cluster"),
    "a controller of another cluster": (SPARK, {**HEAD, "ca": OTHER}, "other nodes have joined it"),
    "a control plane of this cluster": (SPARK, HEAD, "the cluster has it as a controller but it shall be a worker"),
    "another channel": (
        SPARK,
        {**WORKER, "channel": "1.33/stable"},
        "MicroK8s follows 1.33/stable, not 1.34/stable, and this playbook refreshes no running node",
    ),
    "a controller that is a worker": (CONTROLLER, WORKER, "this controller is a worker of some cluster"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_host_of_another_cluster(name: str) -> None:
    host, found, said = FOREIGN[name]
    hosts = {"controller": {"cluster": HEAD}, host.replace("-", "_"): {"cluster": found}}
    row = the_row(judged(**{each: {**changes, "store": None} for each, changes in hosts.items()}))
    assert row[:3] == ["error", host, "cluster"]
    assert said in row[3]


def test_a_host_may_be_taken_over() -> None:
    foreign = {"cluster": {**WORKER, "remote_ca": OTHER}, "store": None}
    limits = {"force_rejoin": True}
    assert rows(judged(limits=limits, controller={"cluster": HEAD, "store": None}, spark_01=foreign)) == []


def test_a_second_controller_of_another_cluster() -> None:
    nodes = {**NODES, SPARK: {**NODES[SPARK], "role": "controller"}}
    results = {
        CONTROLLER: {"stdout": json.dumps(probe(CONTROLLER, cluster=PAIR, store=None))},
        SPARK: {"stdout": json.dumps(probe(cluster={**HEAD, "ca": OTHER}, store=None))},
    }
    assert the_row(examine(results, nodes, LIMITS))[:4] == [
        "error",
        SPARK,
        "cluster",
        "other nodes have joined it",
    ]
    results[SPARK] = {"stdout": json.dumps(probe(cluster=PAIR, store=None))}
    assert rows(examine(results, nodes, LIMITS)) == []
    results[SPARK] = {"stdout": json.dumps(probe(cluster={**HEAD, "ca": OTHER, "joined": False}, store=None))}
    assert rows(examine(results, nodes, LIMITS)) == []


def test_a_limited_run_judges_without_the_controller() -> None:
    """Nobody knows whose the cluster is then; that the controller cannot be reached is known all the same."""
    lost = {"unreachable": [[CONTROLLER, 25000, "timed out"]]}
    results = {SPARK: {"stdout": json.dumps(probe(cluster={**WORKER, "remote_ca": OTHER}, store=None, **lost))}}
    assert the_row(examine(results, NODES, LIMITS))[:3] == ["error", SPARK, "network"]


def test_a_hundred_hosts_are_judged_in_a_moment() -> None:
    names = [f"spark-{number:03}" for number in range(100)]
    nodes = {name: {**NODES[SPARK], "name": name, "address": f"10.77.1.{number}"} for number, name in enumerate(names)}
    nodes[CONTROLLER] = NODES[CONTROLLER]
    results = {CONTROLLER: {"stdout": json.dumps(probe(CONTROLLER))}}
    for name in names:
        found = {**probe(memory=1), "host_name": name, "identity": {"machine": name, "ssh": name}}
        found["addresses"] = [["eth0", "", nodes[name]["address"], 16]]
        results[name] = {"stdout": json.dumps(found)}
    begun = time.process_time()
    row = the_row(examine(results, nodes, LIMITS))
    assert row[:3] == ["error", ", ".join(names), "memory"]
    assert time.process_time() - begun < 1


def test_a_finished_cluster_needs_no_mirror() -> None:
    found = {"mirrors": [["pypi", 80, "refused"]], "cluster": HEAD, "store": None}
    assert the_row(judged(controller=found))[:3] == ["warning", CONTROLLER, "mirror"]


# --- acceptance, and hosts that do not answer ---


@pytest.mark.parametrize("accepted", ["memory", "spark-01/memory"])
def test_an_accepted_error_is_shown_and_does_not_stop(accepted: str) -> None:
    report = judged(limits={"accept": [accepted]}, spark_01={"memory": 1})
    assert (report["fatal"], the_row(report)[:3]) == (0, ["accepted", SPARK, "memory"])


def test_accepting_is_for_the_named_host_only() -> None:
    assert judged(limits={"accept": ["controller/memory"]}, spark_01={"memory": 1})["fatal"] == 1


def answers(**broken: dict[str, Any]) -> dict[str, Any]:
    results = {name: {"stdout": json.dumps(probe(name))} for name in NODES}
    results.update({name.replace("_", "-"): result for name, result in broken.items()})
    return examine(results, NODES, LIMITS)


AWAY = {
    "unreachable": True,
    "msg": "Task failed: Failed to connect via ssh: ssh: connect to host 10.77.0.11: timed out",
}


def test_a_spark_that_is_away_is_one_row_and_does_not_stop_the_others() -> None:
    other = {"stdout": json.dumps(probe(CONTROLLER, unreachable=[[SPARK, 25000, "No route to host"]]))}
    report = answers(spark_01=AWAY, controller=other)
    assert the_row(report)[:4] == ["warning", SPARK, "connection", "connect to host 10.77.0.11: timed out"]
    assert report["fatal"] == 0


def test_nothing_goes_without_any_controller() -> None:
    assert the_row(answers(controller=AWAY))[:3] == ["error", CONTROLLER, "connection"]


def test_one_of_three_controllers_may_be_away() -> None:
    nodes = {name: {**node, "role": "controller"} for name, node in NODES.items()}
    results = {name: {"stdout": json.dumps(probe(name))} for name in NODES}
    assert examine({**results, CONTROLLER: AWAY}, nodes, LIMITS)["fatal"] == 0


@pytest.mark.parametrize(
    ("result", "check", "said"),
    [
        ({"rc": 1, "stdout": "", "stderr": "sudo: a password is required\n"}, "sudo", "sudo: a password is required"),
        ({"failed": True, "msg": "Task failed: Missing sudo password"}, "sudo", "Missing sudo password"),
        ({"rc": 127, "stdout": "", "stderr": "/bin/sh: 1: /usr/bin/python3: not found"}, "python", "not found"),
        ({"rc": 1, "stdout": "", "stderr": ""}, "python", "no answer"),
    ],
)
def test_a_host_that_cannot_be_looked_at(result: dict[str, Any], check: str, said: str) -> None:
    row = the_row(answers(spark_01=result))
    assert row[:3] == ["error", SPARK, check]
    assert said in row[3]


@pytest.mark.parametrize(
    ("version", "key"), [("6.14.0-1015-nvidia", (6, 14, 0)), ("580.126.09", (580, 126, 9)), ("?", ())]
)
def test_versions(version: str, key: tuple[int, ...]) -> None:
    assert version_key(version) == key


# --- the probe itself, on this machine ---


def look(program: str | None = None, **question: Any) -> dict[str, Any]:
    asked = {"sent": time.time(), "gpu": False, "paths": ["/var/snap"], "ports": [], "peers": [], "mirrors": []}
    done = subprocess.run(
        [sys.executable, "-", json.dumps({**asked, **question})],
        input=program or PROBE.read_text(),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_probe_answers_everything_that_is_judged() -> None:
    found = look()
    assert set(found) == set(probe())
    assert found["python"] == list(sys.version_info[:2])
    assert abs(found["clock"]["arrived"] - found["clock"]["sent"]) < 10
    assert found["clock"]["finished"] >= found["clock"]["arrived"]
    assert found["spaces"]["/var/snap"]["total"] > found["spaces"]["/var/snap"]["free"] > 0
    assert found["memory"] > 2**28
    assert found["cores"] >= 1
    assert ["lo", "", "127.0.0.1", 8] in found["addresses"]
    assert found["gpu"] is None


@pytest.mark.parametrize(
    ("text", "size"), [("Filename Type Size Used Priority\n/swap.img file 16777212 0 -2\n", 16777212 * 1024), ("", 0)]
)
def test_probe_sees_swap(tmp_path: Path, text: str, size: int) -> None:
    assert look(with_files(tmp_path, proc__swaps=text))["swap"] == size


def test_probe_lets_no_identity_out() -> None:
    """What identifies a machine leaves it as a digest only."""
    text = json.dumps(look())
    machine = Path("/etc/machine-id")
    if machine.exists() and machine.read_text().strip():
        assert machine.read_text().strip() not in text
    for key in Path("/etc/ssh").glob("ssh_host_*_key.pub"):
        assert key.read_text().split()[1] not in text


def test_probe_sees_who_has_a_port_and_which_peers_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        tcp, udp = server.getsockname()[1], datagrams.getsockname()[1]
        found = look(
            ports=[f"{tcp}/tcp", f"{udp}/udp", f"{tcp}/udp"],
            peers=[["here", "127.0.0.1", tcp], ["refused", "127.0.0.1", 1], ["nowhere", "0.0.0.256", 1]],
        )
    mine = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    assert found["ports"] == {f"{tcp}/tcp": mine, f"{udp}/udp": mine}
    assert [lost[:2] for lost in found["unreachable"]] == [["nowhere", 1], ["refused", 1]]
    assert found["unreachable"][1][2] == "refused"


def test_probe_calls_mirrors() -> None:
    found = look(mirrors=[["charts", "127.0.0.1", 1], ["pypi", "no.such.host.invalid", 80]])
    assert [lost[:2] for lost in found["mirrors"]] == [["charts", 1], ["pypi", 80]]


def with_files(directory: Path, **files: str) -> str:
    """The probe, that reads some files from elsewhere."""
    program = PROBE.read_text()
    for number, (path, text) in enumerate(files.items()):
        place = directory / str(number)
        place.write_text(text)
        program = program.replace(f'"/{path.replace("__", "/").replace("_", "-")}"', f'"{place}"')
    return program


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            'DGX_SWBUILD_VERSION="7.2.3"\nDGX_SERIAL_NUMBER="174"\nDGX_OTA_VERSION="7.2.4"\n\nDGX_OTA_VERSION="7.3.1"\n',
            "7.3.1",
        ),
        ('DGX_NAME="DGX Spark"\nDGX_SWBUILD_VERSION="7.2.3"\nDGX_SERIAL_NUMBER="174"\n', "7.2.3"),
        ("", ""),
    ],
)
def test_probe_reads_the_last_update_of_dgx_os(tmp_path: Path, text: str, version: str) -> None:
    found = look(with_files(tmp_path, etc__dgx_release=text))
    assert found["dgx"] == version
    assert "174" not in json.dumps(found["dgx"])


SNAP_INFO = """\
name:      microk8s
channels:
  1.34/stable:      v1.34.3 2025-12-18 (8511) 171MB classic
  1.34/edge:        v1.34.4 2026-01-02 (8600) 171MB classic
  1.31-strict/beta: \N{EN DASH}
  1.30/stable:      --
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def put(directory: Path, name: str, script: str) -> None:
    program = directory / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('echo "NVIDIA GB10, 580.126.09"', {"error": "", "names": ["NVIDIA GB10"], "driver": "580.126.09"}),
        ('echo "it has failed"; exit 9', {"error": "it has failed", "names": [], "driver": ""}),
        ("true", {"error": "nvidia-smi says nothing", "names": [], "driver": ""}),
    ],
)
def test_probe_asks_the_gpu(programs: Path, script: str, expected: dict[str, Any]) -> None:
    put(programs, "nvidia-smi", script)
    assert look(gpu=True)["gpu"] == expected


def test_probe_asks_the_store(programs: Path) -> None:
    (programs / "info").write_text(SNAP_INFO)
    put(programs, "snap", f"cat {programs}/info")
    assert look()["store"] == {"error": "", "channels": ["1.34/stable", "1.34/edge"]}
    put(programs, "snap", "echo 'error: no snap found for \"microk8s\"' >&2; exit 1")
    assert look()["store"] == {"error": 'error: no snap found for "microk8s"', "channels": []}


def test_probe_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert look(gpu=True)["gpu"]["error"] == "nvidia-smi is not installed"
