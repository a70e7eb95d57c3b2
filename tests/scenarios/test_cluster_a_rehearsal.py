# SPDX-License-Identifier: GPL-3.0-or-later
"""What `--check` foretells for an empty cluster is what the run then does, no more and no less."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml

from tests.scenarios.cluster import controller, forget, on, rollout, settled
from tests.scenarios.evidence import commands, state, writes

RESTART = r"snap restart microk8s\.daemon-containerd microk8s\.daemon-kubelite"
# What the role says that it would do, and the commands by which it does it; what it does to files only has none.
DONE_BY = {
    r"install: .*": [r"snap install .*microk8s"],
    r"join the cluster of \S+": [r"microk8s join .* --worker"],
    r"hold automatic refreshes": [r"snap refresh --hold microk8s"],
    r"(set|remove) kubelet arguments .*": [RESTART],
    r"(add|remove) the nvidia runtime (to|from) containerd": [RESTART],
    r"(let|no longer let) containerd take CDI devices": [RESTART],
    r"restart .*": [RESTART],
    r"write .*|turn swap off|turn time synchronisation on|take back .* tokens of earlier joins": [],
}
LOG = re.compile(r"^\S+ \S+ p=(\d+) u=\S+ n=\S+ \w+\| ?")


def logged() -> Iterator[str]:
    """What the runs of the scenario said, run by run."""
    said: dict[str, list[str]] = {}
    for line in (state() / "cluster.log").read_text().splitlines():
        if match := LOG.match(line):
            current = said.setdefault(match[1], [])
        current.append(LOG.sub("", line))
    yield from ("\n".join(lines) + "\n" for lines in said.values())


def foretold(text: str) -> dict[str, list[str]]:
    """Host -> what it would be done to, from the output of a rehearsal."""
    task = text.partition("Name what would be done] ")[2].partition("\nTASK [")[0]
    blocks = re.findall(r"^changed: \[(\S+)\] => \n((?:    .*\n)+)", task, re.MULTILINE)
    return {host: yaml.safe_load(block)["msg"] for host, block in blocks}


def patterns(promise: str) -> list[str]:
    word, _, rest = promise.partition(" ")
    if word == "enable":
        # DNS comes with the launch configuration when MicroK8s is new.
        new = {"dns": "|snap install .*microk8s"}
        return [rf"microk8s enable {name}\b.*{new.get(name, '')}" for name in rest.split(", ")]
    if word == "alias":
        return [rf"snap alias microk8s\.{name} {name}" for name in rest.split(", ")]
    (found,) = [done for words, done in DONE_BY.items() if re.fullmatch(words, promise)]
    return found


def compare(promises: dict[str, list[str]], made: dict[str, list[str]]) -> None:
    """Every promise is kept, and every mutating command was promised."""
    for host in promises.keys() | made.keys():
        wanted = [pattern for promise in promises.get(host, []) for pattern in patterns(promise)]
        unkept = [each for each in wanted if not any(re.fullmatch(each, line) for line in made.get(host, []))]
        assert unkept == [], f"{host}: foretold, not done"
        if host == controller():
            # A join that is promised for a Spark begins on the controller.
            wanted += [r"microk8s add-node .*", r"microk8s remove-node .*"]
        unforeseen = [line for line in made.get(host, []) if not any(re.fullmatch(each, line) for each in wanted)]
        assert unforeseen == [], f"{host}: done, not foretold"


def made_between(begin: float, end: float) -> dict[str, list[str]]:
    made: dict[str, list[str]] = {}
    for each in commands(begin):
        if each.mutating and each.t <= end:
            made.setdefault(each.host, []).append(each.line)
    return made


def test_the_first_run_does_what_was_foretold() -> None:
    rehearsal, first, *_later = logged()
    promises = foretold(rehearsal)
    assert set(promises) == set(re.findall(r"^(\S+) +: ok=", first, re.MULTILINE))
    mark = state() / "second-run"
    made = made_between(0, mark.stat().st_mtime if mark.exists() else float("inf"))
    compare(promises, made)
    joining = [host for host, said in promises.items() if any("join the cluster" in each for each in said)]
    assert len([line for line in made[controller()] if "microk8s add-node" in line]) == len(joining) > 0


def test_a_rehearsal_on_the_finished_cluster_foretells_nothing() -> None:
    result = rollout("--check", "--diff")
    assert result.changes == []
    assert result.mutations == [] and writes(result.begun) == []


@pytest.mark.long
def test_a_later_run_does_what_was_foretold() -> None:
    """A Spark to join, another one that is not held."""
    forget("spark-02")
    on("spark-01", "snap refresh --unhold microk8s")
    rehearsal = rollout("--check", "--diff")
    assert rehearsal.mutations == [] and writes(rehearsal.begun) == []
    promises = foretold(rehearsal.text)
    assert set(promises) == {"spark-01", "spark-02"}
    result = rollout()
    compare(promises, made_between(result.begun, float("inf")))
    settled()
