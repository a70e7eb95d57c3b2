# SPDX-License-Identifier: GPL-3.0-or-later
"""cluster.yml on a lab of three hosts and on one of 31: the work per host must not grow with the number of hosts."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.bench.measure import Usage, usages
from tests.bench.report import Row, Section
from tests.rollout.conftest import entered
from tests.scenarios.cluster import Rollout, lab, settled
from tests.scenarios.conftest import run as execute

FEW, MANY = 2, 30
GROWTH = 1.3
TASKS = 25
INTRO = (
    "`playbooks/cluster.yml` on simulated hosts (`lab/README.md`). CPU is what `ansible-playbook` and its children "
    "used on the control node (user and system), by the number of hosts."
)


@dataclass(frozen=True)
class Measured:
    """Two runs of cluster.yml on empty hosts."""

    hosts: int
    first: Usage
    second: Usage
    again: Rollout

    def per_host(self, usage: Usage) -> float:
        return usage.cpu / self.hosts

    @property
    def tasks(self) -> int:
        """Of the Spark that has most of them, in the second run."""
        return max(self.again.tasks(host) for host in self.again.recap("ok") if host.startswith("spark"))


def inventory(directory: Path) -> Path:
    """The Sparks that inventories/lab does not have."""
    known = json.loads(lab("status", "--json"))["hosts"]
    sparks = {name: {"ansible_host": each["address"]} for name, each in known.items() if each["kind"] == "spark"}
    path = directory / "sparks.yml"
    path.write_text(yaml.safe_dump({"sparks": {"hosts": sparks}}))
    return path


def measured(directory: Path) -> tuple[Usage, Rollout]:
    begun, file = time.time(), directory / "usage"
    command = ["ansible-playbook", "-i", "inventories/lab", "-i", str(inventory(directory)), "playbooks/cluster.yml"]
    result = execute("python", "-m", "tests.bench.measure", str(file), *command, timeout=3600)
    assert result.code == 0, result.text[-6000:]
    (usage,) = usages(file)
    return usage, Rollout(result.code, result.text, begun)


def two_runs(directory: Path, sparks: int) -> Measured:
    names = ["controller", *(f"spark-{n:02}" for n in range(1, sparks + 1))]
    with entered("bench-rollout", names):
        first, _ = measured(directory)
        settled()
        second, again = measured(directory)
        assert again.mutations == []
    return Measured(len(names), first, second, again)


def run(directory: Path, scale: float) -> Section:
    return compared(*(two_runs(directory, max(1, round(sparks * scale))) for sparks in (FEW, MANY)))


def compared(few: Measured, many: Measured) -> Section:
    section = Section("Rollout of a cluster", INTRO)
    for which in ("first", "second"):
        small, large = (getattr(each, which) for each in (few, many))
        grown = many.per_host(large) / few.per_host(small)
        section.rows += [
            Row(
                f"{which} run, {few.hosts} hosts", "", f"{small.seconds:.0f} s, CPU {few.per_host(small):.1f} s a host"
            ),
            Row(
                f"{which} run, {many.hosts} hosts",
                f"CPU a host at most {GROWTH} times that of {few.hosts} hosts",
                f"{large.seconds:.0f} s, CPU {many.per_host(large):.1f} s a host: {grown:.2f} times",
                grown <= GROWTH,
            ),
        ]
    section.rows += [
        Row(f"second run, {many.hosts} hosts: changes", "0", str(len(many.again.changes)), not many.again.changes),
        Row("second run: tasks on a Spark", f"at most {TASKS}", str(many.tasks), many.tasks <= TASKS),
    ]
    return section
