#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: catalog
short_description: Validate the inventory and derive the platform from it
version_added: 0.1.0
author: TokenLabs platform developers (@tokenlabs)
description:
  - Reads every variable C(tokenlabs_*) of the hosts in the groups C(controllers) and C(sparks), whichever hosts the
    play is for.
  - Reports everything that is wrong with them at once, each with the file and line where it was written, what is wrong
    and what would be right. Secrets are never quoted.
  - Derives the catalog from a valid inventory. All roles of this collection read it instead of the inventory.
  - Works on the control node only. No host is contacted and nothing is changed.
extends_documentation_fragment:
  - tokenlabs.platform.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
notes:
  - The role P(tokenlabs.platform.preflight#role) runs it once for all hosts and keeps the result as
    C(tokenlabs_catalog).
"""

EXAMPLES = r"""
- name: Derive the catalog
  ansible.builtin.import_role:
    name: tokenlabs.platform.preflight
    tasks_from: catalog
  when: tokenlabs_catalog is not defined

- name: Look at what the inventory means
  tokenlabs.platform.catalog:
  run_once: true
  register: result
"""

RETURN = r"""
catalog:
  description:
    - Everything that roles need to know, derived from the inventory. Holds no secret.
    - Its keys are C(release), C(charts), C(manifests), C(downloads), C(pypi_index), C(images), C(nodes), C(controller),
      C(models), C(tiers), C(token_limits), C(paths), C(models_body), C(hf_secret), C(helmfile), C(gateway) and
      C(loadbalancer_range).
  returned: success
  type: dict
  sample:
    controller: controller
    models:
      - {name: nemotron-llama-8b, hosts: [spark-01], replicas: 1, pool: pool-nemotron-llama-8b}
summary:
  description: What will be built, in a few lines for people.
  returned: success
  type: list
  elements: str
  sample:
    - "Release 2026.07 on Kubernetes 1.34/stable"
"""
