# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who the tenants in a cluster are, and what is due with their keys. Pure, and private to the collection."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import stamp
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_secrets import (
    ACTIVE,
    CONTACT,
    STATE_LABEL,
    Credential,
    fingerprint,
)

HEAD = ("TENANT", "TIER", "KEY", "FINGERPRINT", "STATE", "AGE", "DUE")


@dataclass(frozen=True)
class KeyInfo:
    """A key in the cluster, without the key."""

    tenant: str
    tier: str
    name: str
    fingerprint: str
    active: bool
    generation: int
    contact: str
    created: datetime | None
    expires: datetime | None
    retires: datetime | None

    @property
    def due(self) -> datetime | None:
        """When it ends to be let in."""
        return min((each for each in (self.expires, self.retires) if each), default=None)

    def state(self, now: datetime) -> str:
        if self.retires:
            return "replaced"
        if self.expires and self.expires <= now:
            return "expired"
        return "active" if self.active else "suspended"

    def overdue(self, now: datetime) -> bool:
        """Whether its time is over, and only a run of the module tenants is missing."""
        return bool(self.due and self.due <= now and self.active)

    def as_dict(self, now: datetime) -> dict[str, Any]:
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "state": self.state(now),
            "generation": self.generation,
            "created": stamp(self.created) if self.created else None,
            "age_days": (now - self.created).days if self.created else None,
            "due": stamp(self.due) if self.due else None,
            "overdue": self.overdue(now),
        }


def keys_of(credentials: Iterable[Credential]) -> list[KeyInfo]:
    """The keys that are managed here, of two Secrets with one key the newer."""
    found: dict[tuple[str, str], Credential] = {}
    for each in sorted(credentials, key=lambda each: each.age):
        if each.ours and each.key:
            found[each.tenant, each.key] = each
    infos = [
        KeyInfo(
            each.tenant,
            each.tier,
            each.key_name or "",
            fingerprint(key),
            each.labels.get(STATE_LABEL) == ACTIVE,
            each.generation,
            each.annotations.get(CONTACT, ""),
            each.created,
            each.expires,
            each.retires,
        )
        for (_tenant, key), each in found.items()
    ]
    return sorted(infos, key=lambda info: (info.tenant, info.name, -info.generation, info.fingerprint))


def as_tenants(keys: Sequence[KeyInfo], now: datetime) -> list[dict[str, Any]]:
    """By tenant: its tier and contact, and its keys."""
    by_tenant: Mapping[str, list[KeyInfo]] = defaultdict(list)
    for key in keys:
        by_tenant[key.tenant].append(key)
    return [
        {
            "name": name,
            "tier": found[0].tier,
            "contact": found[0].contact,
            "keys": [key.as_dict(now) for key in found],
        }
        for name, found in by_tenant.items()
    ]


def table(keys: Sequence[KeyInfo], now: datetime, soon: timedelta) -> list[str]:
    """The report for people: a line for each key, then what needs somebody's attention."""
    rows = [HEAD]
    for key in keys:
        age = f"{(now - key.created).days} d" if key.created else "?"
        due = stamp(key.due)[:16].replace("T", " ") if key.due else "-"
        rows.append((key.tenant, key.tier, key.name, key.fingerprint[7:], key.state(now), age, due))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    tiers = Counter({key.tenant: key.tier for key in keys}.values())
    states = Counter(key.state(now) for key in keys)
    tenants = len({key.tenant for key in keys})
    lines += [
        "",
        f"{tenants} tenants: {_counts(tiers)}" if tenants else "no tenants",
        f"{len(keys)} keys: {_counts(states)}" if keys else "no keys",
    ]
    late = [key for key in keys if key.overdue(now)]
    near = [key for key in keys if key.active and key.due and now < key.due <= now + soon]
    lines += [f"OVERDUE {_who(key)}: let in until the playbook tenants is run" for key in late]
    lines += [f"SOON {_who(key)}: until {stamp(key.due)}" for key in near if key.due]
    return lines


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counter.items()))


def _who(key: KeyInfo) -> str:
    return f"{key.tenant}/{key.name} ({'replaced key ' if key.retires else ''}{key.fingerprint[7:]})"
