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
  - New keys are made inside the module. A key is written to a file before the cluster gets it, and is never printed or
    returned. Whenever the module is interrupted, the next run finishes what was begun.
  - A change of tier takes effect at once and keeps the key. A new Secret takes the key over, then the old one is
    deleted.
  - A rotated key is let in beside the new one until O(grace) is over.
  - What is due by date (the end of a grace, an expiry) is done by the first run after that date. Between runs, nothing
    happens.
  - A tenant that fails does not hold up the others. All failures are reported together at the end.
  - Of two runs with one O(key_dir), the second waits for the first, and gives up after two minutes.
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
      - A list of the tenants. Those that are in the cluster and not in this list are left alone, unless O(prune=true).
      - It may be a text in JSON, which is handed over much faster when there are thousands; see
        P(tokenlabs.platform.inventory_tenants#lookup).
    type: raw
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
          - V(present) lets the tenant in. V(suspended) keeps its keys, but does not let them in. V(absent) removes all
            its keys, the key files included.
        type: str
        choices: [present, suspended, absent]
        default: present
      keys:
        description:
          - The tenant's keys. Without this list, there is one with the name V(default), and other keys that the tenant
            has are left alone.
          - A key that is in the cluster and not in the list is left alone, unless O(prune=true). It keeps its own state
            and expiry, and follows the tenant's.
        type: list
        elements: dict
        suboptions:
          name:
            description:
              - What the key is called among those of the tenant, such as V(ci). Up to 32 lower-case letters, digits
                and inner dashes.
            type: str
            required: true
          state:
            description:
              - V(present) lets the key in, V(suspended) keeps it out, V(absent) revokes it.
            type: str
            choices: [present, suspended, absent]
            default: present
          expires:
            description:
              - As O(tenants[].expires), for this key alone. The earlier one counts.
            type: str
          rotate:
            description:
              - As O(tenants[].rotate), for this key instead of that.
            type: raw
          key_file:
            description:
              - A file on the host that the task runs on, which holds the key to use. It must belong to the user of the
                task and be closed to others.
              - When the file holds another key than the cluster, that is a rotation to this key. Once the key is in the
                cluster, the file may be removed.
            type: path
      expires:
        description:
          - From this moment on, the tenant is treated as suspended. Either a date such as V(2027-01-31), which begins
            at midnight UTC, or a time such as V(2027-01-31T18:00Z).
        type: str
      rotate:
        description:
          - When to replace the keys. A number is a generation, which is 1 at first. Raising it replaces every key of an
            earlier generation, once.
          - A date or time replaces every key that is older, as soon as the moment has come.
        type: raw
      contact:
        description:
          - Whom to ask, kept as an annotation.
        type: str
      metadata:
        description:
          - Anything else to keep as annotations, by names such as V(customer-number). Everyone who may read Secrets can
            read it.
        type: dict
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
        and refused when others can get into it.
      - The key V(default) of a tenant is in C(TENANT.key), another one in C(TENANT.KEY.key), each with mode V(0600).
        The file of a rotated key is kept as C(*.old) until the key is gone.
      - A file that has not been fetched yet is marked in the directory C(.pending); M(tokenlabs.platform.fetch_keys)
        takes the mark away.
    type: path
    required: true
  grace:
    description:
      - How long a rotated key is still let in, such as V(7d), V(36h) or V(0).
    type: str
    default: 7d
  rotate_before:
    description:
      - Replace every key of O(tenants) that was made before this date or time, too. Keys with a
        O(tenants[].keys[].key_file) are left alone with a warning.
    type: str
  adopt:
    description:
      - Take over Secrets of tenants in O(tenants) that were made by hand, as C(tenant-NAME) or with the annotation
        C(secret.kuadrant.io/user-id). The tenant keeps the key. Its first Secret becomes the key V(default).
      - Without it, such a Secret stops its tenant with an error.
    type: bool
    default: false
  prune:
    description:
      - Remove tenants that are in the cluster and not in O(tenants), and keys that are not in their tenant's
        O(tenants[].keys).
      - Refused when O(tenants) is empty.
    type: bool
    default: false
  prune_max:
    description:
      - Of how many tenants O(prune) may remove anything in one run. With more, nothing at all is done.
      - A number, or a part of the tenants in the cluster such as V(10%), which is never less than 10.
    type: str
    default: 10%
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
        expires: 2027-06-30
        keys:
          - name: default
          - name: ci
            rotate: 2
      - name: initech
        tier: free
        state: suspended
      - name: hooli
        state: absent

- name: Replace the keys of one tenant that are older than today, at once
  tokenlabs.platform.tenants:
    key_dir: /var/lib/tokenlabs/keys
    tiers: [free, pro]
    tenants:
      - name: acme
        tier: pro
    rotate_before: "{{ now(utc=true).date() }}"
    grace: "0"
"""

RETURN = r"""
created:
  description: Tenants that got a key, which had none of that name.
  type: list
  elements: str
  returned: always
  sample: ["acme"]
adopted:
  description: Tenants whose Secret, made by hand, was taken over.
  type: list
  elements: str
  returned: always
  sample: []
updated:
  description: Tenants whose tier, expiry, contact or metadata was changed, or whose Secret was put in order.
  type: list
  elements: str
  returned: always
  sample: []
rotated:
  description: Tenants that got a new key in the place of an old one.
  type: list
  elements: str
  returned: always
  sample: []
suspended:
  description: Tenants of which a key is let in no longer, but kept.
  type: list
  elements: str
  returned: always
  sample: ["initech"]
resumed:
  description: Tenants of which a key is let in again.
  type: list
  elements: str
  returned: always
  sample: []
revoked:
  description: Tenants of which a key was removed, because it is absent or unlisted, or because its grace is over.
  type: list
  elements: str
  returned: always
  sample: []
deleted:
  description: Tenants whose last Secret, or what was left of them, was removed.
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
unlisted_keys:
  description: Keys that are in the cluster and not in their tenant's O(tenants[].keys), as C(TENANT/KEY).
  type: list
  elements: str
  returned: always
  sample: []
counts:
  description: How many tenants were treated in which way. One can be counted in several.
  type: dict
  returned: always
  sample: {created: 1, adopted: 0, updated: 0, rotated: 0, suspended: 1, resumed: 0, revoked: 0, deleted: 1,
    unchanged: 0, failed: 0, unlisted: 0}
key_files:
  description: The key files that have not been fetched yet, by C(TENANT), or C(TENANT.KEY) for a key with another name
    than V(default). In check mode, those that would be made are among them.
  type: dict
  returned: always
  sample: {"acme": "/var/lib/tokenlabs/keys/acme.key", "acme.ci": "/var/lib/tokenlabs/keys/acme.ci.key"}
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

import gc
import json
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import KeyFileError, KeyFiles
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import KubeError, connect, kube_module
from ansible_collections.tokenlabs.platform.plugins.module_utils._schema import kind_of
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_keeper import Keeper, Result
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import (
    SHARE,
    Tenant,
    TenantsError,
    desired,
    moment,
    span,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_steps import ACTIONS, Change, Rules
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenants import Plan, plan

ARGUMENTS: dict[str, Any] = {
    # Checked with the inventory's rules, which say more than a specification here could, and faster.
    "tenants": {"type": "raw", "required": True},
    "tiers": {"type": "list", "elements": "str", "required": True},
    "namespace": {"type": "str", "default": "kuadrant-system"},
    "key_dir": {"type": "path", "required": True, "no_log": False},
    "grace": {"type": "str", "default": "7d"},
    "rotate_before": {"type": "str"},
    "adopt": {"type": "bool", "default": False},
    "prune": {"type": "bool", "default": False},
    "prune_max": {"type": "str", "default": "10%"},
    "workers": {"type": "int", "default": 8},
}


def rules_of(params: dict[str, Any]) -> Rules:
    """How to go about it; ValueError for what cannot be understood."""
    if not SHARE.fullmatch(params["prune_max"]):
        raise ValueError(f"prune_max is {params['prune_max']!r}: write a number such as 10, or a part such as 10%")
    return Rules(
        datetime.now(UTC),
        span(params["grace"]),
        moment(params["rotate_before"]) if params["rotate_before"] else None,
        params["adopt"],
        params["prune"],
        params["prune_max"],
    )


def tenants_of(given: Any) -> list[Any]:
    """The list, from a list or from JSON; ValueError for anything else."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise ValueError(f"tenants is a text that is not JSON: {error}") from None
    if not isinstance(given, list):
        raise ValueError(f"tenants must be a list, is {kind_of(given)}")
    return given


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
    return {
        "changed": bool(result.changes),
        "counts": counts,
        "unlisted": planned.unlisted,
        "unlisted_keys": planned.unlisted_keys,
        **names,
    }


def main() -> None:
    # What is read is needed until the end: to search thousands of objects for garbage again and again finds none.
    gc.disable()
    module = kube_module(argument_spec=ARGUMENTS, supports_check_mode=True)
    params, check = module.params, module.check_mode
    files = KeyFiles(params["key_dir"])
    try:
        rules = rules_of(params)
        wanted = desired(tenants_of(params["tenants"]), params["tiers"])
        kube = connect(module, workers=params["workers"])
        keeper = Keeper(kube, params["namespace"], files)
        with nullcontext() if check else files.locked():
            observed = keeper.observe(wanted)
            planned = plan(wanted, observed, rules)
            # Requests leave some; not among what is there by now.
            gc.freeze()
            gc.enable()
            result = Result(planned.changes, planned.problems) if check else keeper.carry_out(planned, observed)
        pending = files.not_fetched()
        if check:
            pending |= {stem: str(files.path(stem)) for stem in planned.new_files()}
    except (TenantsError, ValueError, KubeError, KeyFileError, OSError) as error:
        module.fail_json(msg=str(error))
    answer = {**summary(planned, result, wanted), "key_files": pending, "requests": kube.requests}
    # What was asked for is told without thousands of tenants, which would take longer than the work.
    answer["invocation"] = {"module_args": {**params, "tenants": f"{len(wanted)} tenants"}}
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
