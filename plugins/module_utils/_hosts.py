# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges what the role preflight has found on the hosts: every problem of every host, in one report.

This module is private to the collection.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._host_rules import (
    Finding,
    Subject,
    gib,
    is_inner,
    judge,
)

Hosts = Mapping[str, Subject]
WIDEST = 70
LEVELS = {"error": 0, "warning": 1, "accepted": 2}


def _groups(hosts: Hosts, key: str) -> Iterator[list[str]]:
    """Names of hosts of which a part of the identity is the same."""
    by_value: dict[str, list[str]] = {}
    for name, host in hosts.items():
        by_value.setdefault(host.probe["identity"][key], []).append(name)
    return (names for value, names in by_value.items() if value and len(names) > 1)


def _twins(hosts: Hosts) -> Iterator[Finding]:
    """One machine under two names, or copies of one image."""
    same = {name: names for names in _groups(hosts, "machine") for name in names}
    for name, names in same.items():
        others = ", ".join(other for other in names if other != name)
        remedy = "name each machine once; if they are copies of an image, make a new /etc/machine-id and ssh host keys"
        yield Finding(name, "identity", f"the same machine-id as {others}", remedy)
    for names in _groups(hosts, "ssh"):
        for name in names:
            if name not in same:
                others = ", ".join(other for other in names if other != name)
                remedy = "sudo rm /etc/ssh/ssh_host_* && sudo ssh-keygen -A"
                yield Finding(name, "identity", f"the same ssh host keys as {others}", remedy, fatal=False)


def _clocks(hosts: Hosts, reference: Subject) -> Iterator[Finding]:
    """Clocks against the controller's. Certificates of a clock that is ahead are refused by one that is behind.

    A host's clock is between (what it said at the end - when the control node judged) and (what it said at the
    beginning - when the control node sent the question) ahead of the control node's; the control node's own is of no
    account. Only a difference that even the kindest reading leaves is an error: a login can be slow.
    """

    def reading(host: Subject) -> tuple[float, float]:
        clock = host.probe["clock"]
        return clock["finished"] - host.limits["judged"], clock["arrived"] - clock["sent"]

    low, high = reading(reference)
    for host in hosts.values():
        own_low, own_high = reading(host)
        apart, limit = own_high - high, host.limits["max_clock_skew"]
        if host is not reference and abs(apart) > limit:
            proven = own_low - high > limit or own_high - low < -limit
            found = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} {reference.name}"
            remedy = "let both keep time: timedatectl, chronyc or systemd-timesyncd"
            yield host.finding("clock", found + ("" if proven else ", or its login was slow"), remedy, fatal=proven)


def _reachability(hosts: Hosts, nodes: Mapping[str, Any], unread: Sequence[str]) -> Iterator[Finding]:
    for host in hosts.values():
        lost: dict[tuple[str, str], list[int]] = {}
        for peer, port, reason in host.probe["unreachable"]:
            listens = peer in hosts and hosts[peer].probe["ports"].get(f"{port}/tcp") == "microk8s"
            # A peer that the control node does not reach either has its own finding.
            if peer not in unread and (reason != "refused" or listens):
                lost.setdefault((peer, reason), []).append(port)
        for (peer, reason), ports in lost.items():
            found = f"{peer} ({nodes[peer]['address']}) on {', '.join(map(str, ports))}: {reason}"
            yield host.finding("network", found, f"let the nodes' addresses through the firewall of {peer}")


def _ranges(text: str) -> Iterator[tuple[IPv4Address, IPv4Address]]:
    for part in filter(None, text.split(",")):
        first, _separator, last = part.partition("-")
        yield IPv4Address(first.strip()), IPv4Address(last.strip())


def _load_balancer(hosts: Hosts, wanted: str) -> Iterator[Finding]:
    """MetalLB answers for its addresses in the nodes' own network, and nobody else must."""
    for (low, high), host in itertools.product(_ranges(wanted), hosts.values()):
        if host.interface is not None:
            network = host.interface[2]
            if network.prefixlen < 32 and not (low in network and high in network):
                remedy = "choose tokenlabs_loadbalancer_range within the network of all nodes"
                yield host.finding("load balancer", f"{low}-{high} is not within its network {network}", remedy)
        for device, _kind, address, _prefix in host.probe["addresses"]:
            if not is_inner(device) and low <= IPv4Address(address) <= high:
                remedy = "choose a tokenlabs_loadbalancer_range that no host uses"
                yield host.finding("load balancer", f"{address} of the range is its own, on {device}", remedy)


def _unread(host: str, result: Mapping[str, Any], needed: bool) -> Finding:
    said = next((str(result[key]) for key in ("module_stderr", "stderr", "msg") if result.get(key)), "no answer")
    reason = said.strip().splitlines()[-1].rpartition("ssh: ")[2].removeprefix("Task failed: ")
    if result.get("unreachable"):
        # One Spark that is away must not keep the others from being looked after.
        return Finding(host, "connection", reason, "switch it on, or correct ansible_host and ansible_user", needed)
    if "sudo" in said or "become" in said or "password" in said:
        return Finding(host, "sudo", reason, "allow its user sudo without a password, or use --ask-become-pass")
    return Finding(host, "python", reason, "install python3, or set ansible_python_interpreter")


def describe(probe: Mapping[str, Any]) -> str:
    """One host in one line."""
    parts = [
        f"DGX OS {probe['dgx']} ({probe['release']})" if probe["dgx"] else probe["release"],
        probe["machine"],
        f"kernel {probe['kernel']}",
        f"Python {'.'.join(map(str, probe['python']))}",
        f"{probe['cores']} cores",
        f"{gib(probe['memory'])} memory",
        f"{gib(min(space['free'] for space in probe['spaces'].values()))} free",
    ]
    gpu = probe.get("gpu")
    if gpu and not gpu["error"]:
        parts += [" and ".join(gpu["names"]), f"driver {gpu['driver']}"]
    if probe["docker"]:
        parts.append("Docker, whose containerd is not MicroK8s' own")
    return ", ".join(parts)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns; the last column is as wide as it is, and a very long cell moves only its own row."""
    widths = [max(min(len(row[column]), WIDEST) for row in rows) for column in range(len(rows[0]) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]


def _rows(findings: Iterable[tuple[str, Finding]], everybody: Sequence[str]) -> list[tuple[str, ...]]:
    """A row for each problem, errors first, host by host: what is the same on several hosts is told once."""
    hosts: dict[tuple[str, ...], list[str]] = {}
    for level, item in findings:
        names = hosts.setdefault((level, item.check, item.found, item.remedy), [])
        if item.host not in names:
            names.append(item.host)
    place = {name: number for number, name in enumerate(everybody)}
    rows = []
    for (level, *rest), names in sorted(hosts.items(), key=lambda entry: (LEVELS[entry[0][0]], place[entry[1][0]])):
        who = f"all {len(everybody)} hosts" if len(names) == len(everybody) > 2 else ", ".join(names)
        rows.append((level, who, *rest))
    return rows


def _seed(controllers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Whose cluster this is: that of the first controller that others have joined, else of the first one at all.

    :param controllers: what was found on those that could be looked at.
    :returns: its name, its CA's fingerprint (empty when there is no cluster yet) and the members of its datastore.
    """
    found = {name: probe["cluster"] for name, probe in controllers.items() if probe["cluster"]}
    heads = {name: cluster for name, cluster in found.items() if not cluster["worker"]}
    formed = {name: cluster for name, cluster in heads.items() if cluster["joined"]}
    name = next(iter([*formed, *heads, *controllers]), None)
    if name is None:
        return None
    cluster = heads.get(name, {"ca": "", "datastore": []})
    return {"name": name, "ca": cluster["ca"], "datastore": cluster["datastore"]}


def examine(
    results: Mapping[str, Mapping[str, Any]], nodes: Mapping[str, Any], limits: Mapping[str, Any]
) -> dict[str, Any]:
    """The report on all hosts.

    :param results: what the probe's task returned on each host.
    :returns: ``text``, a line about each host and the table of the findings; ``verdict``, a sentence; ``fatal``, how
        many rows stop the run.
    """
    probes: dict[str, Mapping[str, Any]] = {}
    unread: list[str] = []
    for name, result in results.items():
        try:
            probes[name] = json.loads(result.get("stdout", ""))
        except ValueError:
            unread.append(name)
    controllers = [name for name, node in nodes.items() if node["role"] == "controller" and name in results]
    missed = bool(controllers) and not set(controllers) & set(probes)
    findings = [_unread(name, results[name], missed and name in controllers) for name in unread]

    held = {**limits, "seed": _seed({name: probes[name] for name in controllers if name in probes})}
    hosts = {name: Subject(name, nodes[name], probe, held) for name, probe in probes.items()}
    for host in hosts.values():
        findings += judge(host)
    findings += [
        *_twins(hosts),
        *_reachability(hosts, nodes, unread),
        *_load_balancer(hosts, limits["loadbalancer_range"]),
    ]
    reference = next((hosts[name] for name in [*controllers, *hosts] if name in hosts), None)
    if reference is not None:
        findings += _clocks(hosts, reference)

    accepted = set(limits["accept"])
    levels = [(_level(item, accepted), item) for item in findings]
    rows = _rows(levels, list(results))
    fatal = sum(row[0] == "error" for row in rows)
    lines = [f"{name}: {describe(probe)}" for name, probe in probes.items()]
    if rows:
        lines += ["", *table([("LEVEL", "HOST", "CHECK", "FOUND", "WHAT TO DO"), *rows])]
    return {"text": "\n".join(lines), "verdict": _verdict(rows, fatal), "fatal": fatal}


def _level(item: Finding, accepted: set[str]) -> str:
    if not item.fatal:
        return "warning"
    return "accepted" if {item.check, f"{item.host}/{item.check}"} & accepted else "error"


def _verdict(rows: Sequence[Sequence[str]], fatal: int) -> str:
    if not fatal:
        return "the hosts are as they must be" + ("; see the hints above" if rows else "")
    errors = "One error above" if fatal == 1 else f"{fatal} errors above"
    hint = "An error that is known to do no harm can be named in preflight_accept, as CHECK or HOST/CHECK."
    return f"{errors}; nothing was changed. {hint}"
