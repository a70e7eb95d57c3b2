# SPDX-License-Identifier: GPL-3.0-or-later
"""Breaking and looking at the cluster of a lab, for the scenarios that only need playbooks/cluster.yml."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.scenarios.conftest import REPO, kubectl, playbook, run
from tests.scenarios.evidence import Command, commands

CTL = str(REPO / "lab/ctl")
DATA = "/var/snap/microk8s/current"
LOCKS = f"{DATA}/var/lock"
MINTED = "/var/lib/snapsim/minted-tokens"
# What a failed join leaves, and what a node that looks joined but is not has or lacks.
HALF_JOINED = (
    f"cd {LOCKS}; test -e join-in-progress && echo join-in-progress; "
    "test -e clustered.lock && joined=1 || joined=0; test -e ../../certs/ca.remote.crt && trusts=1 || trusts=0; "
    "test $joined = $trusts || echo lock and certificate differ; true"
)


@dataclass(frozen=True)
class Rollout:
    """How a run of cluster.yml ended."""

    code: int
    text: str = field(repr=False)
    begun: float

    def recap(self, what: str) -> dict[str, int]:
        """One column of the recap: host -> number."""
        return {host: int(n) for host, n in re.findall(rf"^(\S+) +: .*\b{what}=(\d+)", self.text, re.MULTILINE)}

    @property
    def said(self) -> str:
        """The output in one line, for messages that it breaks into several."""
        return " ".join(self.text.split())

    @property
    def changes(self) -> list[str]:
        """The tasks that have changed something: "host: task"."""
        found, task = [], ""
        for line in self.text.splitlines():
            if banner := re.match(r"(?:TASK|RUNNING HANDLER) \[(.+)\] \*", line):
                task = banner[1]
            elif change := re.match(r"changed: \[([\w.-]+)", line):
                found.append(f"{change[1]}: {task}")
        assert bool(found) == any(self.recap("changed").values()), self.text[-4000:]
        return found

    def tasks(self, host: str) -> int:
        return sum(self.recap(what)[host] for what in ("ok", "skipped"))

    @property
    def commands(self) -> list[Command]:
        """What the simulated programs were asked to do since the run began."""
        return commands(self.begun)

    @property
    def mutations(self) -> list[str]:
        return [str(each) for each in self.commands if each.mutating]

    def calls(self, words: str, host: str = "") -> list[Command]:
        return [each for each in self.commands if words in each.line and host in ("", each.host)]


def rollout(*arguments: str, code: int | None = 0, limit: str = "") -> Rollout:
    """Run cluster.yml, as talkative as can be; whatever comes of it, no join token may be read anywhere."""
    begun = time.time()
    more = ["--limit", limit] if limit else []
    result = playbook("cluster", "-vvv", *more, *arguments)
    assert leaks(result.text, begun) == []
    assert code is None or (result.code != 0) == (code != 0), result.text[-6000:]
    return Rollout(result.code, result.text, begun)


def on(host: str, command: str, check: bool = True) -> str:
    """What a shell says on a host, as root."""
    result = run(CTL, "ssh", host, f"sudo sh -c '{command}'")
    assert not check or result.code == 0, result.text
    return result.text


def lab(*arguments: str) -> str:
    result = run(CTL, *arguments)
    assert result.code == 0, result.text
    return result.text


def hosts(kind: str = "") -> list[str]:
    """Those that are switched on."""
    known = json.loads(lab("status", "--json"))["hosts"]
    return [name for name, host in known.items() if kind in ("", host["kind"]) and host["running"]]


def controller() -> str:
    return hosts("controller")[0]


def leaks(text: str, since: float) -> list[str]:
    """Where a token that was minted can be read: in what a run said, or in what a host has written since then."""
    live = hosts()
    minted = [
        token for host in live for token in on(host, "cat /var/lib/snapsim/minted-tokens 2>/dev/null || true").split()
    ]
    # The tokens are not sent there to be searched for: sudo logs its command lines.
    written = (
        f"(journalctl --no-pager --since=@{int(since)}; find /var/log /root /home /tmp -type f "
        f'-newermt @{int(since)} -exec cat {{}} +) 2>/dev/null | tr -cd "[:print:]\\n"'
    )
    places = {"the output of the run": text} | ({host: on(host, written) for host in live} if minted else {})
    return [f"{place}: a token" for place, said in places.items() if any(token in said for token in minted)]


def tokens(host: str) -> list[str]:
    """Join tokens that the host would still take."""
    return on(host, f"cat {DATA}/credentials/cluster-tokens.txt 2>/dev/null || true").split()


def nodes() -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in json.loads(kubectl("get", "nodes", "-o", "json"))["items"]}


def ready(node: dict[str, Any] | None) -> bool:
    conditions = (node or {}).get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def eventually(what: str, holds: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(1)


def until_not_ready(host: str) -> None:
    """The controller-manager calls a node NotReady when its lease is 40 s old."""
    eventually(f"{host} is NotReady", lambda: not ready(nodes().get(host)))


@contextmanager
def filtered(host: str, port: int) -> Iterator[None]:
    """Packets to the port vanish, as behind a firewall."""
    lab("fault", "filter", host, str(port))
    try:
        yield
    finally:
        lab("fault", "unfilter", host)


def forget(*names: str) -> None:
    """Back to before the join: MicroK8s is gone from the Sparks and their Nodes from the cluster."""
    for name in names:
        on(name, "snap remove --purge microk8s")
        on(controller(), f"/snap/bin/microk8s remove-node {name} --force || true")
        eventually(f"{name} is no Node", lambda name=name: name not in nodes())  # type: ignore[misc]


def settled() -> None:
    """The cluster is whole: every host a Ready member, no token waits, no join hangs half-way."""
    live = hosts()
    assert {name for name, node in nodes().items() if ready(node)} == set(live)
    for host in live:
        assert tokens(host) == [], host
        assert on(host, HALF_JOINED).strip() == "", host


def flags(host: str) -> dict[str, str]:
    """The kubelet's arguments; of a flag that is there twice the last one counts."""
    lines = on(host, f"cat {DATA}/args/kubelet").splitlines()
    return dict(line.partition("=")[::2] for line in lines if line.startswith("--"))
