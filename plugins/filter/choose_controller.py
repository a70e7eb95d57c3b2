# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils._microk8s import choose

DOCUMENTATION = r"""
name: choose_controller
short_description: The controller to work on
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Names the controller through which a cluster is changed, and which other hosts join.
  - A member of a cluster goes before a host of its own, one whose API answers before one that is down, and the first
    one in the order given where they are alike.
options:
  _input:
    description:
      - Names of controllers that could be reached, with what the module M(tokenlabs.platform.microk8s_info) returned
        for O(tokenlabs.platform.microk8s_info#module:gather=[state, nodes]).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say which controller is worked on
  ansible.builtin.debug:
    msg: "{{ {'controller-01': first, 'controller-02': second} | tokenlabs.platform.choose_controller }}"
"""

RETURN = r"""
_value:
  description: The name of one of the controllers.
  type: str
"""


class FilterModule:
    def filters(self):
        return {"choose_controller": choose}
