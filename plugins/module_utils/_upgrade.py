# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an upgrade of MicroK8s may do: versions and nodes in, a plan or all that speaks against it out.

Two rules come from Kubernetes: a control plane moves by one minor version at a time, and a kubelet is never newer than
its API server (kubernetes/website content/en/releases/version-skew-policy.md). That each node follows by single steps
as well is MicroK8s' (canonical/microk8s-docs "Upgrading MicroK8s").

This module is private to the collection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._microk8s import Build, parse_channels
from ansible_collections.tokenlabs.platform.plugins.module_utils._releases import version_key

# What a Node's maintenance annotation says while its upgrade is under way.
UPGRADE = "upgrade"
CLUSTER_FIRST = "bring it in order with the playbook tokenlabs.platform.cluster first"

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """What happens to one node.

    ``kind`` is ``upgrade``, ``finish`` (the rest of an upgrade that broke off), ``track`` (the same revision under
    another channel, without a restart), ``hold`` or ``none``.
    """

    host: str
    kind: str
    text: str
    build: Build


def minor(version: str) -> tuple[int, int]:
    """``v1.34.3`` or ``1.34`` as ``(1, 34)``."""
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)


def _nearby(channels: Mapping[str, Build], version: str) -> str:
    """The stable channels that a node of this version could follow."""
    own = minor(version)
    names = [name for name in channels if name.endswith("/stable") and 0 <= minor(name)[1] - own[1] <= 1]
    return ", ".join(sorted(name for name in names if minor(name)[0] == own[0])) or "none that this node could follow"


def _unfit(node: Data, state: Data, live: Data) -> str | None:
    """Why a node is in no state to be upgraded. One that we took out of service may be down: that is why we return."""
    for_what = live.get("maintenance")
    if for_what and for_what != UPGRADE:
        return f"it was cordoned to {for_what} it; finish that first"
    if not state.get("installed"):
        return f"MicroK8s is not installed on it; {CLUSTER_FIRST}"
    if state.get("action") == "none" or (for_what and state.get("action") in ("wait", "restart")):
        return None
    return f"{state.get('reason', 'its state could not be read')}; {CLUSTER_FIRST}"


def _refused(state: Data, channels: Mapping[str, Build], channel: str) -> str | None:
    """Why a node cannot follow the channel."""
    # Without its store, snap tells what is installed, and exits 0 (snapcore/snapd cmd/snap/cmd_info.go, 2.66.1).
    if not channels:
        return "its snap store does not answer; try again when it does ('snap info microk8s' shows channels then)"
    build = channels.get(channel)
    old = str(state["version"])
    if build is None:
        return f"the snap store has no {channel} for it; there is {_nearby(channels, old)}"
    if version_key(build.version) < version_key(old):
        return (
            f"it runs {old} and {channel} holds {build.version}: MicroK8s is never taken back to an older version; "
            f"set tokenlabs_microk8s_channel to {'.'.join(map(str, minor(old)))}/stable"
        )
    if minor(build.version)[1] - minor(old)[1] > 1:
        between = f"{minor(old)[0]}.{minor(old)[1] + 1}/stable"
        return (
            f"it runs {old}, and {channel} holds {build.version}: one minor version at a time; upgrade with "
            f"tokenlabs_microk8s_channel: {between} first"
        )
    return None


def _outsiders(nodes: Data, live: Data, selected: Sequence[str], target: tuple[int, int], moves: bool) -> list[str]:
    """What speaks against it among the nodes that this run does not reach.

    :param moves: a control plane is upgraded.
    """
    found = []
    for name in sorted(set(live) - set(selected)):
        running = minor(live[name].get("kubelet_version", ""))
        if nodes.get(name, {}).get("role") == "controller":
            if running < target:
                found.append(f"{name}: it runs {live[name]['kubelet_version']} and is not among the hosts of this run; "
                             "no node may be newer than a controller: add it to --limit")  # fmt: skip
        elif moves and target[1] - running[1] > 1:
            found.append(f"{name}: it runs {live[name]['kubelet_version']}, is not among the hosts of this run and "
                         "would be left two minor versions behind: upgrade it first")  # fmt: skip
    return found


def _quorum(nodes: Data, live: Data) -> list[str]:
    """Controllers that are away: with one more down there would be no majority for the datastore."""
    controllers = [name for name, node in nodes.items() if node["role"] == "controller"]
    away = [
        name
        for name in controllers
        if not live.get(name, {}).get("ready") and live.get(name, {}).get("maintenance") != UPGRADE
    ]
    if len(controllers) == 1:
        return []
    return [f"{name}: this controller is not Ready, and the datastore would lose its majority with the next one; "
            "bring it back first" for name in away]  # fmt: skip


def _models_down(host: str, models: Sequence[Data]) -> str:
    lost = [model["name"] for model in models if list(model["hosts"]) == [host]]
    if not lost:
        return ""
    noun = "the model" if len(lost) == 1 else "the models"
    return f"; {noun} {', '.join(lost)} cannot be used meanwhile, as no other node has a replica"


def _step(name: str, state: Data, live: Data, build: Build, channel: str, models: Sequence[Data]) -> Step:
    old = f"{state['version']} ({state['channel']})"
    new = f"{build.version} ({channel})"
    kept = "; it stays cordoned, as it was found" if live["unschedulable"] and not live.get("maintenance") else ""
    outage = "drain, refresh, verify, uncordon" if not kept else "drain, refresh, verify"
    if state["revision"] != build.revision:
        text = f"{old} -> {new}: {outage}{kept}{_models_down(name, models)}"
        return Step(name, "upgrade", text, build)
    if live.get("maintenance") or live["kubelet_version"] != build.version:
        return Step(name, "finish", f"{new}: finish the upgrade that broke off{kept}", build)
    if state["channel"] != channel:
        return Step(name, "track", f"{old} -> {new}: the same revision, nothing restarts", build)
    if not state["held"]:
        return Step(name, "hold", f"{new}: hold automatic refreshes", build)
    return Step(name, "none", f"{new}: nothing to do{kept}", build)


def plan_upgrade(
    nodes: Mapping[str, Data],
    selected: Sequence[str],
    states: Mapping[str, Data],
    stores: Mapping[str, str],
    live: Mapping[str, Data],
    channel: str,
    models: Sequence[Data] = (),
) -> dict[str, Any]:
    """Which nodes are upgraded in which order, or everything that speaks against it.

    :param nodes: the catalog's nodes.
    :param selected: the hosts of this run, reachable or not.
    :param states: what ``microk8s_info`` found on each host that could be reached.
    :param stores: what ``snap info microk8s`` says on each of them.
    :param live: the cluster's Nodes as ``microk8s_info`` has them.
    :param channel: the channel that all of them shall follow, such as ``1.35/stable``.
    :returns: ``findings`` (lines), ``steps`` (by host) and ``due`` (hosts in the order of their turn).
    """
    if not live:
        return {"findings": [f"the Kubernetes API does not answer; {CLUSTER_FIRST}"], "steps": {}, "due": []}
    findings: list[str] = []
    steps: list[Step] = []
    for name in selected:
        if name not in states:
            findings.append(f"{name}: it cannot be reached; bring it back, or leave it out with --limit '!{name}'")
            continue
        state, channels = states[name], parse_channels(stores.get(name, ""))
        reasons = [_unfit(nodes[name], state, live.get(name, {}))]
        if state.get("installed"):
            reasons.append(_refused(state, channels, channel))
        findings += [f"{name}: {reason}" for reason in reasons if reason]
        if not any(reasons):
            steps.append(_step(name, state, live[name], channels[channel], channel, models))
    findings += _quorum(nodes, live)
    targets = [minor(step.build.version) for step in steps]
    if targets:
        moves = any(step.kind == "upgrade" and nodes[step.host]["role"] == "controller" for step in steps)
        findings += _outsiders(nodes, live, selected, max(targets), moves)
    # A controller that is out of service comes first, as the majority may hang on it.
    order = sorted(steps, key=lambda s: (nodes[s.host]["role"] != "controller", not live[s.host].get("maintenance")))
    return {
        "findings": findings,
        "steps": {step.host: {"kind": step.kind, "text": step.text, **asdict(step.build)} for step in steps},
        "due": [] if findings else [step.host for step in order if step.kind != "none"],
    }
