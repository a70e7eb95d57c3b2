#!/usr/bin/python
# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tenants
short_description: Bring the API keys of all tenants to their wanted state
description:
  - Makes, changes and removes the Secrets by which the gateway knows its tenants, thousands in one task. The Secrets
    of the namespace are listed once, in pages. Beyond that, there are only as many requests as there are changes.
  - A new tenant's key is made inside the module. It is written to a file of its own before the cluster gets it, and
    is never printed or returned. A file is only ever made once, and a tenant whose Secret has been lost is given back
    the key in its file.
  - A change of tier takes effect at once and keeps the key. A new Secret takes the key over, then the old one is
    deleted.
  - A tenant that fails does not hold up the others. All failures are reported together at the end.
version_added: 0.1.0
author:
  - TokenLabs platform developers (@tokenlabs)
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - tokenlabs.platform.attributes
  - tokenlabs.platform.attributes.kubernetes
attributes:
  check_mode:
    support: full
    details:
      - Tells what would be done. Neither a key nor a file is made.
  diff_mode:
    support: full
    details:
      - Keys are shown as eight digits of their SHA-256.
  idempotent:
    support: full
options:
  tenants:
    description:
      - The tenants. Those that are in the cluster and not in this list are left alone, unless O(prune=true).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Who it is. The gateway counts requests and tokens by this name. Up to 63 lower-case letters, digits and
            inner dashes.
        type: str
        required: true
      tier:
        description:
          - The tier, which is one of O(tiers). Needed unless O(tenants[].state=absent).
        type: str
      state:
        description:
          - V(present) lets the tenant in. V(suspended) keeps its key, but does not let it in. V(absent) removes its
            key, the key file included.
        type: str
        choices: [present, suspended, absent]
        default: present
  tiers:
    description:
      - The names of the tiers that there are.
    type: list
    elements: str
    required: true
  namespace:
    description:
      - The namespace in which Authorino looks for keys.
    type: str
    default: kuadrant-system
  key_dir:
    description:
      - The directory of the key files, on the host that the task runs on. It is made with mode V(0700) if need be,
        and refused when others can get into it. A tenant's key is in C(NAME.key), which has mode V(0600).
      - A file that has not been fetched yet is marked by an empty file of the tenant's name in the directory
        C(.pending). Remove that directory after fetching.
    type: path
    required: true
  prune:
    description:
      - Remove tenants that are in the cluster and not in O(tenants).
      - Refused when O(tenants) is empty.
    type: bool
    default: false
  prune_max:
    description:
      - The most tenants that O(prune) may remove in one run. With more, nothing at all is done.
    type: int
    default: 10
  workers:
    description:
      - How many requests are under way at a time.
    type: int
    default: 8
"""

EXAMPLES = r"""
- name: Reconcile the tenants
  tokenlabs.platform.tenants:
    kubeconfig: /var/snap/microk8s/current/credentials/client.config
    key_dir: /var/lib/tokenlabs/keys
    tiers: [free, pro]
    tenants:
      - name: acme
        tier: pro
      - name: initech
        tier: free
        state: suspended
      - name: hooli
        state: absent
"""

RETURN = r"""
created:
  description: Tenants that got a Secret, which had none.
  type: list
  elements: str
  returned: always
  sample: ["acme"]
updated:
  description: Tenants whose tier was changed, or whose Secret was put in order.
  type: list
  elements: str
  returned: always
  sample: []
suspended:
  description: Tenants that are let in no longer.
  type: list
  elements: str
  returned: always
  sample: ["initech"]
resumed:
  description: Tenants that are let in again.
  type: list
  elements: str
  returned: always
  sample: []
deleted:
  description: Tenants whose Secret, or what was left of them, was removed.
  type: list
  elements: str
  returned: always
  sample: ["hooli"]
unlisted:
  description: Tenants that are in the cluster and not in O(tenants).
  type: list
  elements: str
  returned: always
  sample: []
counts:
  description: How many tenants were treated in which way.
  type: dict
  returned: always
  sample: {created: 1, updated: 0, suspended: 1, resumed: 0, deleted: 1, unchanged: 0, failed: 0, unlisted: 0}
key_files:
  description: The key files that have not been fetched yet, by tenant.
  type: dict
  returned: always
  sample: {"acme": "/var/lib/tokenlabs/keys/acme.key"}
failed_tenants:
  description: The tenants that failed, each with the reason.
  type: list
  elements: dict
  returned: failure
  contains:
    name:
      description: The tenant.
      type: str
    reason:
      description: What is in the way, and what to do about it.
      type: str
requests:
  description: How many requests were sent to the API server.
  type: int
  returned: always
  sample: 4
"""

from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import KeyFileError, KeyFiles
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import KubeError, connect, kube_module
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenants import (
    ACTIONS,
    Change,
    Keeper,
    Plan,
    Result,
    Tenant,
    TenantsError,
    desired,
    plan,
)

ARGUMENTS: dict[str, Any] = {
    "tenants": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "tier": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "suspended", "absent"], "default": "present"},
        },
    },
    "tiers": {"type": "list", "elements": "str", "required": True},
    "namespace": {"type": "str", "default": "kuadrant-system"},
    # No secret: a path.
    "key_dir": {"type": "path", "required": True, "no_log": False},
    "prune": {"type": "bool", "default": False},
    "prune_max": {"type": "int", "default": 10},
    "workers": {"type": "int", "default": 8},
}


def describe(change: Change) -> dict[str, str]:
    name = f"tenant {change.tenant.name}"
    before, after = ("".join(f"{line}\n" for line in lines) for lines in (change.before, change.after))
    return {"before_header": name, "after_header": name, "before": before, "after": after}


def summary(planned: Plan, result: Result, wanted: list[Tenant]) -> dict[str, Any]:
    names = {action: result.names(action) for action in ACTIONS}
    touched = {change.tenant.name for change in result.changes} | set(result.problems)
    counts = {action: len(found) for action, found in names.items()}
    counts |= {
        "unchanged": sum(tenant.name not in touched for tenant in wanted),
        "failed": len(result.problems),
        "unlisted": len(planned.unlisted),
    }
    return {"changed": bool(result.changes), "counts": counts, "unlisted": planned.unlisted, **names}


def main() -> None:
    module = kube_module(argument_spec=ARGUMENTS, supports_check_mode=True)
    params = module.params
    files = KeyFiles(params["key_dir"])
    try:
        wanted = desired(params["tenants"], params["tiers"])
        kube = connect(module, workers=params["workers"])
        keeper = Keeper(kube, params["namespace"], files)
        observed = keeper.observe()
        planned = plan(wanted, observed, params["prune"], params["prune_max"])
        result = Result(planned.changes, planned.problems) if module.check_mode else keeper.carry_out(planned, observed)
        answer = {
            **summary(planned, result, wanted),
            "key_files": files.not_fetched(),
            "requests": kube.requests,
        }
    except (TenantsError, KubeError, KeyFileError, OSError) as error:
        module.fail_json(msg=str(error))
    if module._diff:
        answer["diff"] = [describe(change) for change in result.changes]
    for warning in [*planned.warnings, *kube.warnings]:
        module.warn(warning)
    if result.problems:
        failed = [{"name": name, "reason": reason} for name, reason in sorted(result.problems.items())]
        lines = "\n".join(f"- {each['name']}: {each['reason']}" for each in failed)
        module.fail_json(
            msg=f"{len(failed)} of {len(wanted)} tenants failed:\n{lines}", failed_tenants=failed, **answer
        )
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
