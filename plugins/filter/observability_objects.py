# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.tokenlabs.platform.plugins.module_utils import _dashboards, _observability

DOCUMENTATION = r"""
name: observability_objects
short_description: What Prometheus and Grafana are told of the platform
version_added: 0.2.0
author:
  - TokenLabs platform developers (@tokenlabs)
description:
  - Derives from the catalog the monitors, alerts and dashboards of the platform as Kubernetes objects.
options:
  _input:
    description: The catalog, as the module M(tokenlabs.platform.catalog) derives it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Apply monitors, alerts and dashboards
  tokenlabs.platform.apply:
    definitions: "{{ (tokenlabs_catalog | tokenlabs.platform.observability_objects).present }}"
"""

RETURN = r"""
_value:
  description: The objects that shall be C(present), and those of earlier catalogs that shall be C(absent).
  type: dict
"""


def objects(catalog):
    return {
        "present": [
            *_observability.access(catalog),
            *_observability.monitors(catalog),
            _observability.rules(catalog),
            *_dashboards.config_maps(catalog),
        ],
        "absent": _observability.gone(catalog),
    }


class FilterModule:
    def filters(self):
        return {"observability_objects": objects}
