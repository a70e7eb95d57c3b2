# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils import _autoscaling

DOCUMENTATION = r"""
name: autoscaling_objects
short_description: Autoscalers of models, and values of prometheus-adapter
version_added: 0.2.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Derives from the catalog a HorizontalPodAutoscaler for each model with C(max_replicas), and what prometheus-adapter
    must be told for them.
options:
  _input:
    description: The catalog, as the module M(tokenlabs.platform.catalog) derives it.
    type: dict
    required: true
  live:
    description: The HorizontalPodAutoscalers that are there.
    type: list
    elements: dict
    default: []
positional: live
"""

EXAMPLES = r"""
- name: Apply the autoscalers
  tokenlabs.platform.apply:
    definitions: "{{ (tokenlabs_catalog | tokenlabs.platform.autoscaling_objects).present }}"
"""

RETURN = r"""
_value:
  description: The autoscalers that shall be C(present), those to be C(absent), and the C(values) of the chart.
  type: dict
"""


def objects(catalog, live=()):
    return {
        "present": _autoscaling.autoscalers(catalog),
        "absent": _autoscaling.left_over(list(live), catalog),
        "values": _autoscaling.adapter_values(catalog),
    }


class FilterModule:
    def filters(self):
        return {"autoscaling_objects": objects}
