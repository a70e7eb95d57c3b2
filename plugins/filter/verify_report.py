# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils import _verify

DOCUMENTATION = r"""
name: verify_report
short_description: The rows of a verification as a table, as JSON or as JUnit's XML
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Renders the rows of P(tokenlabs.platform.verify_rows#filter).
options:
  _input:
    description: The rows.
    type: list
    elements: dict
    required: true
  form:
    description:
      - V(table) is a list of lines, V(failures) the lines of what failed, V(json) and V(junit) are texts.
    type: str
    choices: [table, failures, json, junit]
    required: true
positional: form
"""

EXAMPLES = r"""
- name: Show the table
  ansible.builtin.debug:
    msg: "{{ rows | tokenlabs.platform.verify_report('table') }}"
"""

RETURN = r"""
_value:
  description: The report in the wanted form.
  type: raw
"""


class FilterModule:
    def filters(self):
        return {"verify_report": _verify.render}
