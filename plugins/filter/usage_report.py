# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils import _usage

DOCUMENTATION = r"""
name: usage_report
short_description: A report of usage as a table, CSV, JSON or one HTML page
version_added: 0.2.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Renders the result of M(tokenlabs.platform.usage_info).
options:
  _input:
    description: The result.
    type: dict
    required: true
  form:
    description: A table for the terminal, CSV, JSON, or one HTML page with charts that needs no other file.
    type: str
    choices: [text, csv, json, html]
    default: text
positional: form
"""

EXAMPLES = r"""
- name: Show the table
  ansible.builtin.debug:
    msg: "{{ usage | tokenlabs.platform.usage_report }}"
"""

RETURN = r"""
_value:
  description: The report.
  type: str
"""


class FilterModule:
    def filters(self):
        return {"usage_report": _usage.render}
