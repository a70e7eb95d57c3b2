# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of tenants: what is refused, and what the rest means."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import (
    Key,
    Tenant,
    TenantsError,
    check_tenants,
    desired,
    moment,
    span,
)

TIERS = ("free", "pro")
NOON = datetime(2027, 1, 31, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        (date(2027, 1, 31), datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T12:00Z", NOON),
        ("2027-01-31 12:00:00", NOON),
        ("2027-01-31T13:00+01:00", NOON),
        (datetime(2027, 1, 31, 12), NOON),
    ],
)
def test_moments(value: Any, expected: datetime) -> None:
    assert moment(value) == expected


@pytest.mark.parametrize("value", ["tomorrow", "2027-02-30", "31.01.2027", "2027-1-3", "20270131", "", 3, None, True])
def test_no_moments(value: Any) -> None:
    with pytest.raises(ValueError):
        moment(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("7d", timedelta(days=7)), ("36h", timedelta(hours=36)), ("90s", timedelta(seconds=90)), ("0", timedelta())],
)
def test_spans(value: str, expected: timedelta) -> None:
    assert span(value) == expected


@pytest.mark.parametrize("value", ["7", "d", "-1d", "1w", "1.5d", " 7d", "00d", "9999999d"])
def test_no_spans(value: str) -> None:
    with pytest.raises(ValueError):
        span(value)


def acme(**more: Any) -> dict[str, Any]:
    return {"name": "acme", "tier": "free", **more}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (acme(expires="soon"), "tenants[0].expires (acme) is 'soon', which is no date or time; write a date such as"),
        (acme(expires=True), "expires (acme) is a truth value, which is no date"),
        (acme(rotate=0), "rotate (acme) is '0', which is no generation, date or time; write a generation such as 2"),
        (acme(rotate=-1), "which is no generation"),
        (acme(rotate=1.5), "which is no generation"),
        (acme(rotate="2027-13-01"), "which is no generation"),
        (acme(contact="a\nb"), "contact (acme) is"),
        (acme(contact="tlabs_sk_abc"), "contact (acme) looks like a key"),
        (acme(metadata={"note": "tlabs_sk_abc"}), "metadata.note (acme) looks like a key"),
        (acme(metadata={"a/b": "x"}), "metadata['a/b'] (acme) is 'a/b', not of the right form"),
        (acme(metadata={"n": 1}), "metadata.n (acme) must be a text, is a number; put it in quotes"),
        (acme(metadata={"n": "x" * 1025}), "has 1025 characters"),
        (acme(keys=[]), "keys (acme) is an empty list"),
        (acme(keys=["ci"]), "keys[0] (acme) must be a mapping, is a text"),
        (acme(keys=[{"name": "Ci"}]), "keys[0].name (acme) is 'Ci', not of the right form"),
        (acme(keys=[{"name": "a.b"}]), "not of the right form"),
        (acme(keys=[{"name": "c" * 33}]), "not of the right form"),
        (acme(keys=[{"name": "ci"}, {"name": "ci"}]), "keys[1].name (acme) 'ci' is a key of this tenant already"),
        (acme(keys=[{}]), "keys[0].name (acme) is missing"),
        (acme(keys=[{"name": "ci", "state": "gone"}]), "keys[0].state (acme) cannot be 'gone'"),
        (acme(keys=[{"name": "ci", "key_file": "ci.key"}]), "not of the right form; write an absolute path"),
        (acme(keys=[{"name": "ci", "key_file": "/a", "rotate": 2}]), "rotate (acme) has no effect on an imported key"),
        (acme(key="tlabs_sk_x"), "tenants[0].key (acme) is not a key that exists; did you mean keys?"),
        (acme(api_key="tlabs_sk_x"), "keys are made by the platform, never written down here"),
        (acme(tier=None), "tier (acme) is missing"),
        ("acme", "tenants[0] must be a mapping"),
    ],
)
def test_what_is_refused(entry: Any, problem: str) -> None:
    with pytest.raises(TenantsError) as caught:
        desired([entry], TIERS)
    assert problem in str(caught.value)
    assert "tlabs_sk_" not in str(caught.value)


def test_a_file_is_imported_once() -> None:
    entries = [{"name": name, "tier": "free", "keys": [{"name": "default", "key_file": "/k"}]} for name in "ab"]
    with pytest.raises(TenantsError, match=r"tenants\[1\].keys\[0\].key_file \(b\) is that of tenants\[0\] too"):
        desired(entries, TIERS)


def test_what_it_means() -> None:
    # As the module gets it: what is not given is None, and what comes from files or the command line is text.
    entry = {
        "name": "acme",
        "tier": "pro",
        "state": None,
        "contact": None,
        "metadata": None,
        "expires": "2027-01-31T12:00Z",
        "rotate": "3",
        "keys": [
            {"name": "default", "state": "suspended", "expires": None, "rotate": "2027-01-31T12:00Z", "key_file": None},
            {"name": "ci", "key_file": "/root/ci"},
        ],
    }
    keys = (Key("default", "suspended", rotate=NOON), Key("ci", key_file="/root/ci"))
    assert desired([entry], TIERS) == [Tenant("acme", "pro", keys=keys, expires=NOON, rotate=3)]
    assert desired([{"name": "a", "state": "absent"}], ()) == [Tenant("a", "", "absent")]


def test_ten_thousand_are_checked_in_two_seconds() -> None:
    entries = [
        {
            "name": f"t{number}",
            "tier": "free",
            "expires": "2027-01-31",
            "contact": "ops@example.com",
            "metadata": {"customer-number": str(number)},
            "keys": [{"name": "default"}, {"name": "ci", "rotate": 2}],
        }
        for number in range(10_000)
    ]
    found: list[str] = []
    start = time.process_time()
    check_tenants(entries, ("tenants",), TIERS, lambda path, reason, remedy: found.append(reason), {})
    assert found == []
    assert time.process_time() - start < 2
