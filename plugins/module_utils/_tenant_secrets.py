# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Secrets by which the gateway knows tenants: one for each key. Pure, and private to the collection.

Authorino selects them by label, compares C(data.api_key), and hands the annotations for tier and user to the policies.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from sys import intern
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import PLACEHOLDER, SHAPE, digits
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import (
    DEFAULT_KEY,
    KEY_LABEL,
    PRESENT,
    SUSPENDED,
    Key,
    Tenant,
    moment,
    stamp,
)

# TENANT, or TENANT.KEY where the key has another name than the default; neither can have a dot.
SECRET_NAME = re.compile(r"tenant-(?P<tenant>[^.]+)(?:\.(?P<key>[^.]+))?-[0-9a-f]{10}")

MANAGED_BY = "app.kubernetes.io/managed-by"
TENANT_LABEL = "tokenlabs.io/tenant"
KEY_NAME_LABEL = "tokenlabs.io/key"
STATE_LABEL = "tokenlabs.io/state"
ACTIVE, INACTIVE = "active", "suspended"
TIER = "kuadrant.io/groups"
USER = "secret.kuadrant.io/user-id"
FINGERPRINT = "tokenlabs.io/fingerprint"
CREATED = "tokenlabs.io/created-at"
GENERATION = "tokenlabs.io/generation"
EXPIRES = "tokenlabs.io/expires-at"
RETIRES = "tokenlabs.io/retire-at"
# What is wanted of this key alone; kept for when it is not in its tenant's list any more.
KEY_STATE = "tokenlabs.io/key-state"
KEY_EXPIRES = "tokenlabs.io/key-expires-at"
REPLACES = "tokenlabs.io/replaces"
CONTACT = "tokenlabs.io/contact"
TOUCHED = "tokenlabs.io/touched"
METADATA = "metadata.tokenlabs.io/"
OURS = {MANAGED_BY: "tokenlabs", "tokenlabs.io/credential": "api-key"}
# What an AuthPolicy selects key Secrets by, and what makes Authorino watch them.
SELECTED = {"app": "token-labs"}
WATCHED = {"authorino.kuadrant.io/managed-by": "authorino"}
DATA_KEY = "api_key"
_KEY_NAME = re.compile(KEY_LABEL)


@lru_cache(maxsize=1024)
def _moment(text: str) -> datetime | None:
    """None for what was written by somebody else and is no time. Thousands of Secrets share a few moments."""
    try:
        return moment(text)
    except ValueError:
        return None


def fingerprint(key: str) -> str:
    return f"sha256:{digits(key)}"


def _kept(annotation: str) -> bool:
    """Whether an annotation is one that is set here. All others are left alone."""
    return annotation in (TIER, USER) or annotation.startswith(("tokenlabs.io/", METADATA))


@dataclass(frozen=True, slots=True)
class Credential:
    """A Secret as it is in the cluster, as far as it matters here."""

    name: str
    uid: str
    version: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    key: str | None = field(default=None, repr=False)
    # Whose it is: by its name, which nobody can change, or else by what it claims.
    tenant: str = field(init=False)
    # Which of the tenant's keys it is; None for one that was made by hand.
    key_name: str | None = field(init=False)
    ours: bool = field(init=False)

    def __post_init__(self) -> None:
        match = SECRET_NAME.fullmatch(self.name)
        if match:
            tenant, key_name = match["tenant"], match["key"] or DEFAULT_KEY
        else:
            claimed = self.annotations.get(USER) or self.labels.get(TENANT_LABEL)
            tenant = claimed or self.name.removeprefix("tenant-") * self.name.startswith("tenant-")
            key_name = self.labels.get(KEY_NAME_LABEL, "")
            if not _KEY_NAME.fullmatch(key_name):
                key_name = None
        ours = bool(tenant) and all(self.labels.get(name) == value for name, value in OURS.items())
        for name, value in (("tenant", tenant), ("key_name", key_name), ("ours", ours)):
            object.__setattr__(self, name, value)

    @property
    def opens(self) -> bool:
        """Whether the gateway lets its key in."""
        return all(self.labels.get(k) == v for k, v in SELECTED.items()) and self.labels.get(STATE_LABEL) != INACTIVE

    @property
    def tier(self) -> str:
        return self.annotations.get(TIER, "")

    @property
    def generation(self) -> int:
        text = self.annotations.get(GENERATION, "")
        return int(text) if re.fullmatch(r"[1-9][0-9]{0,8}", text) else 1

    @property
    def created(self) -> datetime | None:
        return self._moment(CREATED)

    @property
    def retires(self) -> datetime | None:
        return self._moment(RETIRES)

    @property
    def expires(self) -> datetime | None:
        return self._moment(EXPIRES)

    @property
    def own(self) -> Key:
        """What was wanted of it when it was in the list last."""
        state = SUSPENDED if self.annotations.get(KEY_STATE) == SUSPENDED else PRESENT
        return Key(self.key_name or DEFAULT_KEY, state, self._moment(KEY_EXPIRES))

    def _moment(self, annotation: str) -> datetime | None:
        text = self.annotations.get(annotation)
        return _moment(text) if text else None

    @property
    def age(self) -> tuple[int, str]:
        """Grows with every write."""
        return int(self.version) if self.version.isdigit() else 0, self.name

    def describe(self) -> str:
        state = "active" if self.labels.get(STATE_LABEL) == ACTIVE else self.labels.get(STATE_LABEL) or "no state"
        annotations = {
            name: value for name, value in self.annotations.items() if name in _TOLD or name.startswith(METADATA)
        }
        return _describe(self.key_name or "of no name", self.key, self.tier, state, annotations)


@dataclass(frozen=True)
class Target:
    """A key's Secret as it shall be."""

    tenant: Tenant
    key: Key = Key()
    active: bool = True
    generation: int = 1
    created: datetime | None = None
    expires: datetime | None = None
    retires: datetime | None = None
    # The digits of the fingerprints of the keys whose place it takes.
    replaces: str = ""

    @property
    def key_name(self) -> str:
        return self.key.name

    @property
    def labels(self) -> dict[str, str]:
        return {
            **OURS,
            **SELECTED,
            **WATCHED,
            TENANT_LABEL: self.tenant.name,
            KEY_NAME_LABEL: self.key_name,
            STATE_LABEL: ACTIVE if self.active else INACTIVE,
        }

    def annotations(self, key: str, now: datetime) -> dict[str, str]:
        found = {
            TIER: self.tenant.tier,
            USER: self.tenant.name,
            FINGERPRINT: fingerprint(key),
            GENERATION: str(self.generation),
            CREATED: stamp(self.created or now),
            EXPIRES: stamp(self.expires) if self.expires else "",
            RETIRES: stamp(self.retires) if self.retires else "",
            REPLACES: self.replaces,
            KEY_STATE: SUSPENDED if self.key.state == SUSPENDED else "",
            KEY_EXPIRES: stamp(self.key.expires) if self.key.expires else "",
            CONTACT: self.tenant.contact,
            **{METADATA + name: value for name, value in self.tenant.metadata.items()},
        }
        return {name: value for name, value in found.items() if value}

    def name(self, revision: int = 0) -> str:
        """The same for everyone who wants the same, so that two who do it at once cannot both succeed."""
        whose = self.tenant.name if self.key_name == DEFAULT_KEY else f"{self.tenant.name}.{self.key_name}"
        text = "\0".join((whose, self.tenant.tier, str(self.generation), str(revision)))
        return f"tenant-{whose}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def secret(self, name: str, key: str, now: datetime) -> dict[str, Any]:
        metadata = {"name": name, "labels": self.labels, "annotations": self.annotations(key, now)}
        data = {DATA_KEY: base64.b64encode(key.encode()).decode()}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}

    def patch(self, old: Credential, key: str, now: datetime, touch: bool) -> dict[str, Any]:
        """What brings an existing Secret in order (a merge patch), if it still is the one that was seen."""
        wanted = self.annotations(key, now)
        annotations: dict[str, str | None] = dict.fromkeys(set(old.annotations) - set(wanted))
        annotations |= wanted
        if touch:
            # Something that it has never been: a write that changes nothing would be no event.
            annotations[TOUCHED] = old.version
        return {"metadata": {"resourceVersion": old.version, "labels": self.labels, "annotations": annotations}}

    def met_by(self, live: Credential, key: str, now: datetime) -> bool:
        """Whether a Secret needs no write; one without a time of creation does."""
        annotations = {name: value for name, value in live.annotations.items() if name != TOUCHED}
        return (
            live.created is not None
            and self.labels.items() <= live.labels.items()
            and annotations == self.annotations(key, now)
        )

    def describe(self, key: str | None) -> str:
        annotations = self.annotations(key or "", datetime.fromtimestamp(0, UTC))
        return _describe(
            self.key_name, key, self.tenant.tier, "active" if self.active else "suspended", annotations, "new"
        )


_TOLD = {GENERATION: "generation", EXPIRES: "expires", RETIRES: "until", CONTACT: "contact"}


def _describe(
    name: str, key: str | None, tier: str, state: str, annotations: Mapping[str, str], without: str = "none"
) -> str:
    told = [f"{word} {annotations[each]}" for each, word in _TOLD.items() if annotations.get(each)]
    told += [
        f"{each.removeprefix(METADATA)} {value!r}"
        for each, value in sorted(annotations.items())
        if each.startswith(METADATA)
    ]
    return ", ".join([f"key {name} {fingerprint(key) if key else without}", f"tier {tier or 'none'}", state, *told])


def observe(item: Mapping[str, Any]) -> Credential:
    """What is kept of a Secret from the list."""
    metadata = item["metadata"]
    annotations = metadata.get("annotations") or {}
    return Credential(
        metadata["name"],
        metadata["uid"],
        metadata["resourceVersion"],
        # What they have in common is in memory once.
        {intern(name): intern(value) for name, value in (metadata.get("labels") or {}).items()},
        {intern(name): intern(value) for name, value in annotations.items() if _kept(name)},
        _key((item.get("data") or {}).get(DATA_KEY)),
    )


def _key(encoded: str | None) -> str | None:
    try:
        key = base64.b64decode(encoded or "", validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return key if SHAPE.fullmatch(key) else None


def not_adoptable(credential: Credential) -> str:
    """Why a Secret that was made by hand cannot be taken over; empty when it can."""
    manager = credential.labels.get(MANAGED_BY)
    if manager and manager != OURS[MANAGED_BY]:
        return f"is managed by {manager}, which would make it again"
    if not credential.key:
        return "holds no key of 24 characters or more (letters, digits and ._~+/=-)"
    if PLACEHOLDER.search(credential.key) or len(set(credential.key)) < 8:
        return "holds a placeholder, which everyone knows"
    return ""
