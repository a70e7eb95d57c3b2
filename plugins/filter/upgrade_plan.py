# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils._upgrade import plan_upgrade

DOCUMENTATION = r"""
name: upgrade_plan
short_description: Plan an upgrade of MicroK8s, or say all that speaks against it
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Compares every node with what the channel holds, and puts those that need something in order, controllers first.
  - Refuses older versions, two minor versions at once, nodes newer than a controller, and clusters that are not whole.
options:
  _input:
    description: The nodes, as the catalog has them.
    type: dict
    required: true
  selected:
    description: The hosts of the run, whether they could be reached or not.
    type: list
    elements: str
    required: true
  states:
    description: What M(tokenlabs.platform.microk8s_info) has found, by host.
    type: dict
    required: true
  stores:
    description: What C(snap info microk8s) says, by host.
    type: dict
    required: true
  live:
    description: The Nodes as RV(tokenlabs.platform.microk8s_info#module:cluster.nodes) has them.
    type: dict
    required: true
  channel:
    description: The channel that all nodes shall follow, such as V(1.35/stable).
    type: str
    required: true
  models:
    description: The models, as the catalog has them; a step names those that cannot be used meanwhile.
    type: list
    elements: dict
positional: selected, states, stores, live, channel, models
"""

EXAMPLES = r"""
- name: Plan the upgrade
  ansible.builtin.debug:
    msg: "{{ nodes | tokenlabs.platform.upgrade_plan(ansible_play_hosts_all, states, stores, live, '1.35/stable') }}"
"""

RETURN = r"""
_value:
  description:
    - C(findings) with a line about everything that speaks against it, C(steps) with the C(kind), C(text), C(version)
      and C(revision) of each host's, and C(due) with the hosts that need something in the order of their turn.
  type: dict
"""


class FilterModule:
    def filters(self):
        return {"upgrade_plan": plan_upgrade}
