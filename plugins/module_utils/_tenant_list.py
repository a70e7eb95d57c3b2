# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of tenants: its form, its rules, and what it means. Pure, and private to the collection.

The catalog and the module C(tenants) check a list with the same rules; the catalog knows the file and line as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import PREFIX
from ansible_collections.tokenlabs.platform.plugins.module_utils._schema import (
    Items,
    Path,
    Record,
    Report,
    Table,
    Text,
    check,
    did_you_mean,
    kind_of,
    path_text,
    quoted,
)

PRESENT, SUSPENDED, GONE = "present", "suspended", "absent"
STATES = (PRESENT, SUSPENDED, GONE)
DEFAULT_KEY = "default"
LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
LABEL_FORM = "lower-case letters, digits and dashes, at most 63, with a letter or digit at both ends"
KEY_LABEL = r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?"
KEY_LABEL_FORM = "lower-case letters, digits and dashes, at most 32, with a letter or digit at both ends"
MOMENT_FORM = "a date such as 2027-01-31 or a time such as 2027-01-31T18:00Z"
SPAN_FORM = "a number of days, hours, minutes or seconds such as 7d or 36h, or 0"
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2})?([Zz]|[+-]\d{2}:\d{2})?)?")
_SPAN = re.compile(r"0|(?P<number>[1-9][0-9]{0,5})(?P<unit>[dhms])")
SHARE = re.compile(r"[0-9]{1,9}|[0-9]{1,2}%|100%")
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


class TenantsError(Exception):
    """Input with which nothing is begun; all that is wrong with it."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("; ".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Key:
    """A key as the inventory wants it; what is None follows the tenant."""

    name: str = DEFAULT_KEY
    state: str = PRESENT
    expires: datetime | None = None
    rotate: int | datetime | None = None
    key_file: str | None = None


@dataclass(frozen=True)
class Tenant:
    """A tenant as the inventory wants it; without a list of keys it has one, and others are not looked at."""

    name: str
    tier: str
    state: str = PRESENT
    keys: tuple[Key, ...] | None = None
    expires: datetime | None = None
    rotate: int | datetime | None = None
    contact: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def moment(value: Any) -> datetime:
    """A date (its first second in UTC) or a time; ValueError for anything else."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        raise ValueError(f"{quoted(value)} is not {MOMENT_FORM}")
    return moment(datetime.fromisoformat(value.upper().replace("Z", "+00:00")))


def span(value: str) -> timedelta:
    """A length of time such as 7d; ValueError for anything else."""
    match = _SPAN.fullmatch(value)
    if not match:
        raise ValueError(f"{quoted(value)} is not {SPAN_FORM}")
    return timedelta(**{_UNITS[match["unit"]]: int(match["number"])}) if match["unit"] else timedelta()


@lru_cache(maxsize=1024)
def stamp(when: datetime) -> str:
    """As annotations and people have it."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- The form ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """A date or a time; with `generation`, or a whole number from 1 on."""

    generation: bool = False

    def check(self, value: Any, path: Path, report: Report) -> bool:
        remedy = f"write {'a generation such as 2, ' if self.generation else ''}{MOMENT_FORM}"
        if self.generation and _generation(value) is not None:
            return True
        try:
            moment(value)
        except ValueError:
            what = quoted(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else kind_of(value)
            report(path, f"is {what}, which is no {'generation, date' if self.generation else 'date'} or time", remedy)
            return False
        return True


@dataclass(frozen=True)
class Span:
    """A length of time."""

    def check(self, value: Any, path: Path, report: Report) -> bool:
        try:
            span(str(value) if value == 0 else value)
        except (ValueError, TypeError):
            report(path, "is not a length of time", f"write {SPAN_FORM}")
            return False
        return True


@dataclass(frozen=True)
class Share:
    """A number of tenants, or a part of all."""

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if isinstance(value, bool) or not SHARE.fullmatch(str(value)):
            report(path, f"is {quoted(value)}", "write a number such as 10, or a part such as 10%")
            return False
        return True


def _generation(value: Any) -> int | None:
    """From the command line, a CSV file or an argument, numbers come as text."""
    if isinstance(value, str) and re.fullmatch(r"[1-9][0-9]{0,8}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


_STATE = Text(choices=STATES)
_NO_CONTROL = r"[^\x00-\x1f\x7f]+"
_KEY = Record(
    {
        "name": Text(KEY_LABEL, KEY_LABEL_FORM),
        "state": _STATE,
        "expires": Moment(),
        "rotate": Moment(generation=True),
        "key_file": Text(r"/.+", "an absolute path on the controller"),
    },
    required=("name",),
)
_HINT = "keys are made by the platform, never written down here"
TENANT = Record(
    {
        "name": Text(LABEL, LABEL_FORM),
        "tier": Text(),
        "state": _STATE,
        "keys": Items(_KEY, filled=True, example="a list of {name: ...}"),
        "expires": Moment(),
        "rotate": Moment(generation=True),
        "contact": Text(_NO_CONTROL, "one line", longest=256),
        "metadata": Table(
            Text(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", "letters, digits and -_., at most 63"),
            Text(_NO_CONTROL, "one line", longest=1024),
            example="{customer-number: '4711'}",
        ),
    },
    required=("name",),
    hints={"key": f"did you mean keys? {_HINT}", "api_key": _HINT},
)


# --- The rules -----------------------------------------------------------------------------------------------------


def check_tenants(
    entries: Iterable[Any],
    base: Path,
    tiers: Collection[str] | None,
    report: Report,
    seen: dict[tuple[str, str], str],
    form: bool = True,
    where: str = "",
) -> None:
    """Report what is wrong with a list of tenants; `seen` tells what other lists have, and what this one does.

    `tiers` is None where the tiers are not known; with `form=False` the form has been checked before.
    """
    for index, entry in enumerate(entries):
        path = (*base, index)
        if form:
            check(TENANT, entry, path, report)
        if isinstance(entry, Mapping):
            _check_relations(entry, path, tiers, report, seen, where)


def _check_relations(
    entry: Mapping[str, Any],
    path: Path,
    tiers: Collection[str] | None,
    report: Report,
    seen: dict[tuple[str, str], str],
    where: str,
) -> None:
    name, tier, keys = entry.get("name"), entry.get("tier"), entry.get("keys")
    here = f"{path_text(path)}{f' in {where}' if where else ''}"
    if tier is None and entry.get("state") != GONE:
        report((*path, "tier"), "is missing", "add it")
    elif tiers is not None and isinstance(tier, str) and tier.strip() and tier not in tiers:
        report((*path, "tier"), f"is {quoted(tier)}, which is no tier", did_you_mean(tier, tiers))
    if isinstance(name, str):
        first = seen.setdefault(("name", name), here)
        if first != here:
            report((*path, "name"), f"{quoted(name)} is the name of {first} too", "give every tenant a name of its own")
    if entry.get("contact") is not None and PREFIX in str(entry["contact"]):
        report((*path, "contact"), "looks like a key", "never write keys down: everyone who may list Secrets sees it")
    metadata = entry.get("metadata")
    for label, value in metadata.items() if isinstance(metadata, Mapping) else ():
        if PREFIX in str(value):
            report((*path, "metadata", str(label)), "looks like a key", "never write keys down here")
    names: set[str] = set()
    for number, key in enumerate(keys if isinstance(keys, (list, tuple)) else ()):
        if not isinstance(key, Mapping):
            continue
        at = (*path, "keys", number)
        if key.get("name") in names:
            report((*at, "name"), f"{quoted(key['name'])} is a key of this tenant already", "remove one")
        names.add(str(key.get("name")))
        file = key.get("key_file")
        if file is not None and key.get("rotate") is not None:
            report((*at, "rotate"), "has no effect on an imported key", "remove it, and put the new key into key_file")
        if isinstance(file, str):
            first = seen.setdefault(("key_file", file), here)
            if first != here:
                report((*at, "key_file"), f"is that of {first} too", "give every tenant a key of its own")


# --- The meaning ---------------------------------------------------------------------------------------------------


def desired(entries: Sequence[Mapping[str, Any]], tiers: Collection[str]) -> list[Tenant]:
    """The tenants of a task, checked; all that is wrong at once."""
    problems: list[str] = []

    def report(path: Path, reason: str, remedy: str) -> None:
        index = path[1] if len(path) > 1 else None
        name = entries[index].get("name") if isinstance(index, int) and isinstance(entries[index], Mapping) else None
        who = f" ({name})" if isinstance(name, str) and path[2:] != ("name",) else ""
        problems.append(f"{path_text(path)}{who} {reason}; {remedy}")

    check_tenants(entries, ("tenants",), tiers, report, {})
    if problems:
        raise TenantsError(problems)
    return [_tenant(entry) for entry in entries]


def _tenant(entry: Mapping[str, Any]) -> Tenant:
    keys = entry.get("keys")
    return Tenant(
        entry["name"],
        entry.get("tier") or "",
        entry.get("state") or PRESENT,
        None if keys is None else tuple(map(_key, keys)),
        _moment(entry),
        _rotate(entry),
        entry.get("contact") or "",
        entry.get("metadata") or {},
    )


def _key(entry: Mapping[str, Any]) -> Key:
    state = entry.get("state") or PRESENT
    return Key(entry["name"], state, _moment(entry), _rotate(entry), entry.get("key_file"))


def _moment(entry: Mapping[str, Any]) -> datetime | None:
    return None if entry.get("expires") is None else moment(entry["expires"])


def _rotate(entry: Mapping[str, Any]) -> int | datetime | None:
    value = entry.get("rotate")
    return None if value is None else _generation(value) or moment(value)
