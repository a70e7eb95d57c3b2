# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What removing a node from the cluster takes, what would be lost with it, and what speaks against it.

This module is private to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# What a Node's maintenance annotation says while its removal is under way.
REMOVE = "remove"
MODEL_LABEL = "llm-d.ai/model"
HOSTNAME_LABEL = "kubernetes.io/hostname"

BROKEN = (
    "its 'microk8s leave' broke off half-way, and MicroK8s on it is of no use any more; remove it with -e purge=true"
)

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """The node and all that is known of it and around it.

    :param address: the host's address in the inventory; empty when it does not name the host.
    :param state: what ``microk8s_info`` found on it; empty when it could not be reached.
    :param nodes: the cluster's Nodes as ``microk8s_info`` has them.
    :param members: addresses (``ip:port``) of the datastore's members, as a remaining controller knows them.
    :param voters: those of them that vote; with less than three members it is one (canonical/go-dqlite app/roles.go).
    :param models: models whose only ready replica runs on it.
    :param volumes: bound volumes that lie on its disk, by the claims that use them.
    """

    name: str
    address: str = ""
    state: Data = field(default_factory=dict)
    nodes: Data = field(default_factory=dict)
    members: tuple[str, ...] = ()
    voters: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()

    @property
    def node(self) -> Data | None:
        return self.nodes.get(self.name)

    @property
    def reached(self) -> bool:
        return bool(self.state)

    @property
    def belongs(self) -> bool:
        """It is a whole member of this cluster and could leave it."""
        return bool(self.state.get("installed") and self.state.get("member"))

    @property
    def broken(self) -> bool:
        """Its ``microk8s leave`` broke off: the mark of a worker without the CA of its cluster."""
        return self.state.get("role") == "worker" and not self.state.get("remote_ca_fingerprint")

    @property
    def own_address(self) -> str:
        return str(self.node["address"]) if self.node else self.address

    @property
    def keeps_data(self) -> bool:
        """It is a member of the datastore."""
        return self.own_address in {member.rpartition(":")[0] for member in self.members}


def only_here(name: str, pods: Sequence[Data]) -> tuple[str, ...]:
    """Models with a replica on this node and no ready one on another."""
    here, elsewhere = set(), set()
    for pod in pods:
        model = (pod["metadata"].get("labels") or {}).get(MODEL_LABEL)
        status = pod.get("status", {})
        ready = any(item["type"] == "Ready" and item["status"] == "True" for item in status.get("conditions") or [])
        if pod["spec"].get("nodeName") == name:
            here.add(model)
        elif ready and not pod["metadata"].get("deletionTimestamp"):
            elsewhere.add(model)
    return tuple(sorted(str(model) for model in here - elsewhere if model))


def volumes_on(name: str, volumes: Sequence[Data]) -> tuple[str, ...]:
    """Claims whose volume can be used on this node only."""
    found = set()
    for volume in volumes:
        spec, claim = volume["spec"], volume["spec"].get("claimRef")
        required = ((spec.get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms") or []
        hosts = [
            set(rule.get("values") or [])
            for term in required
            for rule in term.get("matchExpressions") or []
            if rule["key"] == HOSTNAME_LABEL and rule["operator"] == "In"
        ]
        if claim and volume.get("status", {}).get("phase") == "Bound" and hosts and set.union(*hosts) == {name}:
            found.add(f"{claim['namespace']}/{claim['name']}")
    return tuple(sorted(found))


def _losses(case: Case) -> list[str]:
    return [
        *(f"the model {model} has its only replica there" for model in case.models),
        *(f"the volume of {claim} lies on its disk" for claim in case.volumes),
    ]


def _majority_stays(case: Case) -> bool:
    """Whether the members that remain can go on, and the cluster can agree to let this one go."""
    ready = {str(node["address"]) for node in case.nodes.values() if node["ready"]}
    addresses = [member.rpartition(":")[0] for member in case.members]
    rest = [address for address in addresses if address != case.own_address]
    alive, alive_rest = (sum(address in ready for address in some) for some in (addresses, rest))
    return 2 * alive > len(addresses) and 2 * alive_rest > len(rest)


def _findings(case: Case, dead: bool, lose: bool) -> list[str]:
    node, state = case.node, case.state
    found = []
    if case.keeps_data and len(case.members) == 1:
        return ["it is the only controller: without it there is no cluster"]
    if case.keeps_data and not _majority_stays(case):
        found.append("it is a controller, and without it no majority of the datastore's members is left; "
                     "bring the other controllers back first")  # fmt: skip
    elif case.keeps_data and [voter.rpartition(":")[0] for voter in case.voters] == [case.own_address]:
        found.append("it is a controller, and of the datastore's members only it votes; have three controllers first, "
                     "or remove the other one")  # fmt: skip
    if node and not case.reached and node["ready"]:
        where = "cannot be reached by Ansible" if case.address else "is not in the inventory"
        found.append(f"it {where}, but its Node is Ready: it would go on running; "
                     "make it reachable, so that it can leave, or switch it off")  # fmt: skip
    elif node and not case.reached and not dead:
        found.append(
            "it cannot be asked to leave, as it does not answer; if it is gone for good, say so with -e dead=true"
        )
    if case.reached and dead:
        found.append("it is not dead, it answers; leave out dead=true")
    if state.get("role") == "worker" and not case.belongs and not case.broken:
        found.append("this host is a worker of another cluster; it is not touched")
    elif case.reached and node and node["ready"] and not case.belongs and node.get("maintenance") != REMOVE:
        found.append("its Node is Ready, but the host is no member: another machine has the same name, "
                     "or it has left less than a minute ago; look again in a minute")  # fmt: skip
    if node and case.reached and not lose:
        found += [f"{loss}; move it first, or lose it with -e lose=true" for loss in _losses(case)]
    return found


def _steps(case: Case, purge: bool) -> dict[str, str]:
    steps: dict[str, str] = {}
    node = case.node
    if case.belongs and node and node["ready"]:
        steps["drain"] = "cordon it and evict its pods"
    if case.belongs:
        steps["leave"] = "let it leave the cluster with 'microk8s leave'"
    # A Node's name is enough, but a member of the datastore without a Node is known by its address only.
    name = case.name if node else case.own_address
    if node or case.keeps_data:
        force = "" if case.reached else " --force"
        steps["forget"] = f"remove it from the cluster with 'microk8s remove-node {name}{force}'"
    if purge and case.state.get("installed"):
        steps["purge"] = "remove MicroK8s and all its data from the host with 'snap remove --purge microk8s'"
    return steps


def _afterwards(case: Case, steps: Mapping[str, str]) -> list[str]:
    """What is left to do by hand."""
    found = []
    if case.node:
        found.append("Its Node is gone, with all labels and taints, also those of the GPU operator; an address that "
                     "MetalLB announced from it has moved to another node.")  # fmt: skip
    left = len(case.members) - 1
    if case.keeps_data and left % 2 == 0:
        found.append(f"{left} controllers survive no more losses than {left - 1}, and an inventory with an even "
                     "number of them is refused: add one, or remove another.")  # fmt: skip
    found += [f"Lost: {loss}." for loss in _losses(case)]
    if not case.reached:
        found.append("If the machine comes back as it was, its kubelet joins again by itself: run "
                     "'snap remove --purge microk8s' on it before it is on the network.")  # fmt: skip
    elif "purge" not in steps and case.state.get("installed"):
        found.append("MicroK8s goes on there as a cluster of its own; -e purge=true removes it.")
    if case.address:
        found.append(f"The inventory still names {case.name}: take it out of hosts.yml and remove its host_vars, "
                     "or the next cluster.yml joins it again; then run site.yml.")  # fmt: skip
    return found


def plan_removal(case: Case, dead: bool = False, lose: bool = False, purge: bool = False) -> dict[str, Any]:
    """What would be done, in order, or what speaks against it; nothing of both when there is nothing to do.

    :param dead: the user knows that the machine will not come back.
    :param lose: the user gives up what only this node has.
    :param purge: MicroK8s is removed from the host as well.
    :returns: ``about`` (one line), ``findings`` (lines), ``steps`` (names, in order), ``text`` (their lines),
        ``target`` (what ``remove-node`` has to name), ``address`` and ``afterwards`` (lines).
    """
    node = case.node
    if node:
        about = f"{case.name} ({node['address']}, {'Ready' if node['ready'] else 'not Ready'})"
    else:
        about = f"{case.name} (not in the cluster, whose nodes are {', '.join(sorted(case.nodes))})"
    findings = _findings(case, dead, lose)
    steps = {} if findings else _steps(case, purge)
    if not findings and not steps and case.broken:
        findings = [BROKEN]
    return {
        "about": about,
        "findings": findings,
        "steps": list(steps),
        "text": [f"{number}. {text}" for number, text in enumerate(steps.values(), 1)],
        "target": case.name if node else case.own_address,
        "address": case.own_address,
        "afterwards": _afterwards(case, steps),
    }
