# SPDX-License-Identifier: GPL-3.0-or-later
"""Three controllers: upgraded one after the other, and one of them removed, dead or alive, while the majority stays."""

from __future__ import annotations

import re
import time

import pytest

from tests.scenarios.cluster import DATA, eventually, hosts, lab, nodes, on, ready, rollout, until_not_ready
from tests.scenarios.conftest import Run, kill_when, playbook
from tests.scenarios.evidence import commands, mutating_commands, writes

NEXT = ("-e", "tokenlabs_microk8s_channel=1.35/stable")
pytestmark = pytest.mark.long


def play(name: str, *arguments: str, code: int = 0) -> Run:
    result = playbook(name, *arguments)
    assert (result.code != 0) == (code != 0), result.text[-6000:]
    return result


def members(host: str) -> list[str]:
    """The datastore's members as a controller knows them."""
    return re.findall(r"Address: ([\d.]+):19001", on(host, f"cat {DATA}/var/kubernetes/backend/cluster.yaml"))


def test_controllers_are_upgraded_one_after_the_other_and_a_killed_run_goes_on() -> None:
    rollout()
    assert {name for name, node in nodes().items() if ready(node)} == set(hosts())
    second = hosts("controller")[1]
    seen: list[str] = []

    def refreshes_the_second(line: str) -> bool:
        seen.append(line)
        return "Wait until the Node is Ready]" in line and any(f"[{second}]" in each for each in seen[-12:])

    begun = time.time()
    kill_when("upgrade", refreshes_the_second, *NEXT)
    play("upgrade", *NEXT)
    refreshed = [each for each in commands(begun) if "--channel=1.35/stable" in each.line and each.rc == 0]
    assert list(dict.fromkeys(each.host for each in refreshed)) == hosts(), "in the order of the inventory"
    for earlier, later in zip(refreshed, refreshed[1:], strict=False):
        assert earlier.t <= later.begun
    found = {name: node["status"]["nodeInfo"]["kubeletVersion"] for name, node in nodes().items()}
    assert found == dict.fromkeys(hosts(), "v1.35.0")
    assert not [name for name, node in nodes().items() if node["spec"].get("unschedulable")]


def test_no_majority_is_risked() -> None:
    first, second, third = hosts("controller")
    lab("fault", "stop", third)
    until_not_ready(third)
    begun = time.time()
    refused = play("remove_node", "-e", f"node={second}", "-e", f"confirm={second}", code=1)
    assert "no majority of the datastore's members is left" in " ".join(refused.text.split())
    limited = ("-e", "tokenlabs_microk8s_channel=1.36/stable", "-e", '{"tokenlabs_release_unsupported": true}')
    refused = play("upgrade", *limited, "--limit", f"!{third}", code=1)
    assert f"{third}: this controller is not Ready, and the datastore would lose its majority" in " ".join(
        refused.text.split()
    )
    assert mutating_commands(begun) == []
    assert writes(begun) == []

    play("remove_node", "-e", f"node={third}", "-e", f"confirm={third}", "-e", "dead=true")
    assert third not in nodes()
    assert len(members(first)) == 2


def test_of_two_controllers_the_one_that_does_not_vote_leaves() -> None:
    first, second = hosts("controller")[:2]
    limit = ("--limit", ",".join(nodes()))
    text = on(first, f"cat {DATA}/var/kubernetes/backend/cluster.yaml")
    (votes,) = re.findall(r"Address: ([\d.]+):19001\n +ID: \d+\n +Role: 0", text)
    addresses = {node["status"]["addresses"][0]["address"]: name for name, node in nodes().items()}
    voter = addresses[votes]
    (other,) = {first, second} - {voter}
    begun = time.time()
    refused = play("remove_node", "-e", f"node={voter}", "-e", f"confirm={voter}", *limit, code=1)
    assert "only it votes" in " ".join(refused.text.split())
    assert mutating_commands(begun) == []
    assert writes(begun) == []

    play("remove_node", "-e", f"node={other}", "-e", f"confirm={other}", *limit)
    assert other not in nodes()
    eventually("one member is left", lambda: len(members(voter)) == 1)
    assert "there is nothing to do" in play("remove_node", "-e", f"node={other}", *limit).text
