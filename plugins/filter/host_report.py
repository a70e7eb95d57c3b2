# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils._hosts import examine

DOCUMENTATION = r"""
name: host_report
short_description: Judge what preflight has found on the hosts
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Compares what the probe of the role P(tokenlabs.platform.preflight#role) has found on every host with what the
    platform needs, and reports every problem of every host at once.
options:
  _input:
    description: The results of the probe's task by host.
    type: dict
    required: true
  nodes:
    description: The nodes, as the catalog has them.
    type: dict
    required: true
  limits:
    description: What the hosts are held against.
    type: dict
    required: true
positional: nodes, limits
"""

EXAMPLES = r"""
- name: Report on the hosts
  ansible.builtin.debug:
    msg: "{{ (probes | tokenlabs.platform.host_report(tokenlabs_catalog.nodes, limits)).text }}"
"""

RETURN = r"""
_value:
  description:
    - C(text) with a line about each host and a table of all problems with what to do, C(verdict) with a sentence, and
      C(fatal) with the number of problems that stop the run.
  type: dict
"""


class FilterModule:
    def filters(self):
        return {"host_report": examine}
