# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges what the role preflight has found on the hosts: every problem of every host, in one report.

This module is private to the collection.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GIB = 2**30
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Finding:
    """Something that is not as it must be. A finding that is not fatal is shown and otherwise left alone."""

    host: str
    check: str
    found: str
    wanted: str
    fatal: bool = True


def version_key(version: str) -> tuple[int, ...]:
    """``6.14.0-1015-nvidia`` as ``(6, 14, 0)``."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in match.group(0).split(".")) if match else ()


def _gib(size: float) -> str:
    return f"{size / GIB:.0f} GiB"


def judge(name: str, node: Mapping[str, Any], probe: Mapping[str, Any], limits: Mapping[str, Any]) -> Iterator[Finding]:
    """The findings about one host that its own probe tells."""
    group = "spark" if node["gpu"] else "controller"

    def finding(check: str, found: object, wanted: str) -> Finding:
        return Finding(name, check, str(found), wanted)

    if not probe["root"]:
        yield finding("root", "no", "become: true must lead to root")
    if probe["release"] not in limits["distributions"]:
        yield finding("system", probe["release"], " or ".join(limits["distributions"]))
    if probe["machine"] not in limits["architectures"][group]:
        yield finding("architecture", probe["machine"], " or ".join(limits["architectures"][group]) + f" on a {group}")
    if version_key(probe["kernel"]) < version_key(limits["min_kernel"]):
        yield finding("kernel", probe["kernel"], f"{limits['min_kernel']} or newer")
    if tuple(probe["python"]) < (3, 11):
        yield finding("python", ".".join(map(str, probe["python"])), "3.11 or newer")
    if not probe["snapd"]:
        yield finding("snapd", "missing", "the package snapd installed")
    yield from _judge_name(name, node, probe)
    if probe["memory"] < limits["min_memory_gib"][group] * GIB:
        yield finding("memory", _gib(probe["memory"]), f"{limits['min_memory_gib'][group]} GiB")
    for path, space in probe["spaces"].items():
        if space["total"] < limits["min_disk_gib"][group] * GIB:
            wanted = f"{limits['min_disk_gib'][group]} GiB in all"
            yield finding(f"disk of {path}", _gib(space["total"]), wanted)
        elif space["free"] < limits["min_free_gib"] * GIB:
            yield finding(f"disk of {path}", f"{_gib(space['free'])} free", f"{limits['min_free_gib']} GiB free")
    if abs(probe["skew"]) > limits["max_clock_skew"]:
        wanted = f"within {limits['max_clock_skew']} s; look at timedatectl"
        yield finding("clock", f"{probe['skew']:+.0f} s from the control node's", wanted)
    if not probe["own_address"]:
        yield finding("address", f"{node['address']} is not its own", "ansible_host or tokenlabs_cluster_address of it")
    for port in probe["ports_taken"]:
        yield finding(f"port {port}", "taken by another program", "free for MicroK8s")
    if node["gpu"]:
        yield from _judge_gpu(name, node, probe, limits)


def _judge_name(name: str, node: Mapping[str, Any], probe: Mapping[str, Any]) -> Iterator[Finding]:
    host_name = probe["host_name"].lower()
    if not all(NAME.fullmatch(label) for label in host_name.split(".")):
        yield Finding(name, "host name", probe["host_name"], "letters, digits and hyphens (RFC 1123)")
    elif host_name != node["name"]:
        wanted = f"{node['name']} (hostnamectl set-hostname {node['name']})"
        yield Finding(name, "host name", probe["host_name"], wanted)


def _judge_gpu(
    name: str, node: Mapping[str, Any], probe: Mapping[str, Any], limits: Mapping[str, Any]
) -> Iterator[Finding]:
    gpu = probe["gpu"]
    if gpu["error"]:
        yield Finding(name, "GPU driver", gpu["error"], f"driver {limits['min_driver']} or newer, as DGX OS brings it")
    elif version_key(gpu["driver"]) < version_key(limits["min_driver"]):
        yield Finding(name, "GPU driver", gpu["driver"], f"{limits['min_driver']} or newer")
    if not probe["runtime"]:
        yield Finding(name, "GPU runtime", "missing", "the package nvidia-container-toolkit installed")


def _network(probes: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    for host, probe in probes.items():
        for peer, address, reason in probe["unreachable"]:
            # A peer that the control node does not reach either has its own finding.
            found = f"cannot reach {peer} ({address}): {reason}"
            yield Finding(host, "network", found, "no firewall between the nodes", fatal=peer in probes)


def _shared_names(probes: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    names = Counter(probe["host_name"].lower() for probe in probes.values())
    for host, probe in probes.items():
        if names[probe["host_name"].lower()] > 1:
            others = [
                other for other, its in probes.items() if other != host and its["host_name"] == probe["host_name"]
            ]
            yield Finding(host, "host name", f"{probe['host_name']}, as {', '.join(others)}", "a name of its own")


def _unread(host: str, result: Mapping[str, Any], controller: str) -> Finding:
    reason = str(result.get("stderr") or result.get("msg") or "no answer").strip().splitlines()[-1]
    reason = reason.rpartition("ssh: ")[2]
    if result.get("unreachable"):
        # One Spark that is away must not keep the others from being looked after.
        return Finding(host, "connection", reason, "to be reachable; it is left out of this run", host == controller)
    return Finding(host, "connection", reason, "Python 3 as root")


def describe(probe: Mapping[str, Any]) -> str:
    """One host in one line."""
    parts = [
        probe["release"],
        probe["machine"],
        f"kernel {probe['kernel']}",
        f"Python {'.'.join(map(str, probe['python']))}",
        f"{_gib(probe['memory'])} memory",
        f"{_gib(min(space['free'] for space in probe['spaces'].values()))} free",
    ]
    gpu = probe.get("gpu")
    if gpu and not gpu["error"]:
        parts += [" and ".join(gpu["names"]), f"driver {gpu['driver']}"]
    return ", ".join(parts)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns; the last column is as wide as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]


def examine(
    results: Mapping[str, Mapping[str, Any]], nodes: Mapping[str, Any], limits: Mapping[str, Any]
) -> dict[str, Any]:
    """The report on all hosts.

    :param results: what the probe's task returned on each host.
    :returns: ``hosts``, a line per host; ``table``, the findings; ``fatal``, how many of them stop the run.
    """
    controller = next(name for name, node in nodes.items() if node["role"] == "controller")
    probes: dict[str, Mapping[str, Any]] = {}
    findings: list[Finding] = []
    for host, result in results.items():
        try:
            probes[host] = json.loads(result.get("stdout", ""))
        except ValueError:
            findings.append(_unread(host, result, controller))
    for host, probe in probes.items():
        findings += judge(host, nodes[host], probe, limits)
    findings += [*_network(probes), *_shared_names(probes)]
    accepted = set(limits["accept"])
    fatal = [item for item in findings if item.fatal and not {item.check, f"{item.host}/{item.check}"} & accepted]
    rows = [("HOST", "CHECK", "FOUND", "WANTED")]
    rows += [
        (item.host, item.check, item.found, item.wanted + ("" if item in fatal else " (not held against it)"))
        for item in findings
    ]
    return {
        "hosts": [f"{host}: {describe(probe)}" for host, probe in probes.items()],
        "table": table(rows) if findings else [],
        "fatal": len(fatal),
    }
