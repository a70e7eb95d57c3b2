# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What it takes to bring the keys of all tenants to their wanted state: a plan, made from what is there. Pure.

This module util is private to the collection: it may change in any way at any time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_change import TenantPlan
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import GONE, Tenant, TenantsError
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_secrets import not_adoptable
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_steps import (
    Change,
    Observed,
    Promote,
    Rules,
    Store,
)


@dataclass
class Plan:
    """What is to be done for all of them, and what cannot be done."""

    rules: Rules
    changes: list[Change] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    unlisted_keys: list[str] = field(default_factory=list)

    def new_files(self) -> set[str]:
        """The stems of the files that will be there to be fetched."""
        return {
            step.stem
            for change in self.changes
            for step in change.steps
            if (isinstance(step, Store) and step.key is None) or (isinstance(step, Promote) and not step.known)
        }


def plan(tenants: Sequence[Tenant], observed: Observed, rules: Rules) -> Plan:
    """What it takes to have exactly these tenants. The same input gives the same answer."""
    result = Plan(rules)
    listed = {tenant.name for tenant in tenants}
    result.unlisted = sorted(set(observed.ours) - listed)
    wanted = list(tenants)
    if rules.prune:
        left_over = set(observed.tenants_with_files) - listed
        wanted += [Tenant(name, "", GONE) for name in sorted(left_over.union(result.unlisted))]
    hit = set(result.unlisted)
    for tenant in wanted:
        each = TenantPlan(tenant, observed, rules)
        change, problem = each.result()
        if change:
            result.changes.append(change)
        if problem:
            result.problems[tenant.name] = problem
        result.warnings += each.warnings
        result.unlisted_keys += [f"{tenant.name}/{key}" for key in each.unlisted]
        if each.unlisted:
            hit.add(tenant.name)
    if rules.prune:
        _guard(tenants, sorted(hit), len(observed.ours), rules.prune_max)
        result.unlisted, result.unlisted_keys = [], []
    for name, credentials in sorted(observed.foreign.items()):
        for credential in credentials:
            adopted = rules.adopt and name in listed and not not_adoptable(credential)
            if credential.opens and credential.key and not adopted:
                owner = f" (for tenant {name})" if name else ""
                result.warnings.append(f"Secret {credential.name} lets a key in{owner} and is not managed here")
    return result


def _guard(tenants: Sequence[Tenant], hit: Sequence[str], there: int, limit: str) -> None:
    if not tenants:
        raise TenantsError(["prune is refused: the list of tenants is empty, which would remove all of them"])
    most = max(10, math.floor(there * float(limit[:-1]) / 100)) if limit.endswith("%") else int(limit)
    if len(hit) > most:
        some = ", ".join(hit[:10]) + (" ..." if len(hit) > 10 else "")
        raise TenantsError(
            [
                f"prune is refused: it would remove {len(hit)} tenants, or keys of them ({some}), and prune_max allows "
                f"{most}: put back what is missing from the list, or allow more"
            ]
        )
