# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils._removal import (
    Case,
    only_here,
    plan_removal,
    volumes_on,
)

DOCUMENTATION = r"""
name: removal_plan
short_description: Plan the removal of a node, or say all that speaks against it
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Finds out what has to be done to remove a node from the cluster, and what would be lost with it.
options:
  _input:
    description: The name of the node.
    type: str
    required: true
  address:
    description: The host's address in the inventory; empty when it does not name the host.
    type: str
    required: true
  state:
    description: What M(tokenlabs.platform.microk8s_info) has found on it; empty when it could not be reached.
    type: dict
    required: true
  cluster:
    description: What M(tokenlabs.platform.microk8s_info) has found on a controller that stays.
    type: dict
    required: true
  pods:
    description: The pods of models.
    type: list
    elements: dict
    required: true
  volumes:
    description: The cluster's persistent volumes.
    type: list
    elements: dict
    required: true
  dead:
    description: Whether the machine is gone for good.
    type: bool
    default: false
  lose:
    description: Whether what only this node has may be lost.
    type: bool
    default: false
  purge:
    description: Whether MicroK8s is removed from the host as well.
    type: bool
    default: false
positional: address, state, cluster, pods, volumes, dead, lose, purge
"""

EXAMPLES = r"""
- name: Plan the removal
  ansible.builtin.debug:
    msg: "{{ 'spark-02' | tokenlabs.platform.removal_plan('10.0.0.12', state, cluster, pods, volumes) }}"
"""

RETURN = r"""
_value:
  description:
    - C(about) with a phrase about the node, C(findings) with a line about everything that speaks against it, C(steps)
      with what is to be done in order and C(text) with a line about each, C(target) with the name for C(remove-node),
      C(address), and C(afterwards) with lines about what is left to do.
    - Without findings and steps there is nothing to do.
  type: dict
"""


def removal_plan(name, address, state, cluster, pods, volumes, dead=False, lose=False, purge=False):
    case = Case(
        name=name,
        address=address,
        state=state,
        nodes=cluster["cluster"]["nodes"],
        members=tuple(cluster["datastore"]),
        voters=tuple(cluster["voters"]),
        models=only_here(name, pods),
        volumes=volumes_on(name, volumes),
    )
    return plan_removal(case, dead=dead, lose=lose, purge=purge)


class FilterModule:
    def filters(self):
        return {"removal_plan": removal_plan}
