# SPDX-License-Identifier: GPL-3.0-or-later
"""What the world writes: only what the cluster lacks, and conditions that keep their time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lab.world.actions import (
    Apply,
    CreateOnce,
    Delete,
    Event,
    Patch,
    SetStatus,
    cond,
    covers,
    merged,
    request,
    stamped,
)
from lab.world.store import Store

EARLIER = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = EARLIER + timedelta(hours=1)


def gateway(**more: Any) -> dict[str, Any]:
    meta = {"name": "gw", "namespace": "ns", "uid": "u1", "generation": 3}
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": meta, **more}


@pytest.mark.parametrize(
    ("live", "wanted", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": [{"x": 1, "y": 2}]}, {"a": [{"x": 1}]}, True),
        (None, {}, True),
        (None, [], True),
        ({}, {"a": None}, True),
        ("text", {"a": 1}, False),
    ],
)
def test_covers(live: Any, wanted: Any, expected: bool) -> None:
    assert covers(live, wanted) is expected


def test_merged_follows_rfc_7386() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": None}, "d": [2]}) == {"a": {"c": 2}, "d": [2]}


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    live = {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
    same = stamped({"conditions": [cond("Ready", True, message="new words")]}, live, LATER)
    other = stamped({"conditions": [cond("Ready", False)]}, live, LATER)
    assert same["conditions"][0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert other["conditions"][0]["lastTransitionTime"] == "2026-01-01T13:00:00Z"


def test_conditions_of_list_entries_are_matched_by_what_the_entry_is_about() -> None:
    def entry(name: str, time: str | None = None) -> dict[str, Any]:
        found: dict[str, Any] = cond("Accepted", True)
        return {"parentRef": {"name": name}, "conditions": [found | ({"lastTransitionTime": time} if time else {})]}

    live = {"parents": [entry("one", "2020-01-01T00:00:00Z"), entry("two", "2021-01-01T00:00:00Z")]}
    wanted = stamped({"parents": [entry("two"), entry("new")]}, live, LATER)
    times = [parent["conditions"][0]["lastTransitionTime"] for parent in wanted["parents"]]
    assert times == ["2021-01-01T00:00:00Z", "2026-01-01T13:00:00Z"]


def test_a_status_is_written_once() -> None:
    store = Store([gateway()], EARLIER)
    action = SetStatus(gateway(), {"conditions": [cond("Programmed", True, generation=3)]})
    first = request(action, store)
    assert first and first.path == "/apis/gateway.networking.k8s.io/v1/namespaces/ns/gateways/gw/status"
    assert first.body
    again = Store([gateway(status=first.body["status"])], LATER)
    assert request(action, again) is None


def test_nothing_is_said_of_objects_that_are_gone() -> None:
    store = Store([], EARLIER)
    assert request(SetStatus(gateway(), {"a": 1}), store) is None
    assert request(Patch(gateway(), {"a": 1}), store) is None
    assert request(Delete(gateway()), store) is None
    assert request(Event(gateway(), "Failed", "why", "test"), store) is None


def test_apply_is_needed_only_for_what_is_not_there() -> None:
    wanted = gateway(spec={"gatewayClassName": "eg"})
    live = gateway(spec={"gatewayClassName": "eg", "listeners": [{"name": "http"}]})
    assert request(Apply(wanted, "me"), Store([live], EARLIER)) is None
    needed = request(Apply(wanted, "me"), Store([gateway(spec={"gatewayClassName": "other"})], EARLIER))
    assert needed and needed.query == {"fieldManager": "me", "force": "true"}


def test_generated_objects_are_never_made_anew() -> None:
    def build() -> dict[str, Any]:
        raise AssertionError("generated although it is there")

    live = {"kind": "Secret", "metadata": {"name": "s", "namespace": "ns"}}
    assert request(CreateOnce("Secret", "ns", "s", build), Store([live], EARLIER)) is None


def test_a_patch_that_changes_nothing_is_not_sent() -> None:
    live = gateway(spec={"a": 1})
    store = Store([live], EARLIER)
    assert request(Patch(live, {"spec": {"a": 1, "b": None}}), store) is None
    assert request(Patch(live, {"spec": {"a": 2}}), store)


def test_deleting_twice_is_deleting_once() -> None:
    going = gateway()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert request(Delete(going), Store([going], EARLIER)) is None


def test_the_same_event_has_the_same_name() -> None:
    store = Store([gateway()], EARLIER)
    one, two, other = (
        request(Event(gateway(), "Failed", message, "test"), store) for message in ("why", "why", "because")
    )
    assert one and two and other and one.body and two.body and other.body
    assert one.body["metadata"]["name"] == two.body["metadata"]["name"] != other.body["metadata"]["name"]
