# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants: the plan, and its execution against a cluster in memory whose gateway keeps keys as Authorino does."""

from __future__ import annotations

import base64
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _tenant_keeper
from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import new_key
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import KubeError
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_keeper import Result
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import Key, Tenant, TenantsError, desired
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_secrets import (
    CREATED,
    FINGERPRINT,
    KEY_NAME_LABEL,
    OURS,
    STATE_LABEL,
    TENANT_LABEL,
    TIER,
    USER,
    Credential,
    Target,
    fingerprint,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_steps import ACTIONS, Rules
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenants import plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.tenants_world import TIERS, Body, Crash, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def done(result: Result) -> dict[str, list[str]]:
    return {action: result.names(action) for action in ACTIONS if result.names(action)}


FROM = {
    "nothing": None,
    "active in free": Tenant("acme", "free"),
    "active in pro": Tenant("acme", "pro"),
    "suspended in free": Tenant("acme", "free", "suspended"),
    "suspended in pro": Tenant("acme", "pro", "suspended"),
}
TO = {**{name: tenant for name, tenant in FROM.items() if tenant}, "absent": Tenant("acme", "", "absent")}


def expected_action(before: Tenant | None, after: Tenant) -> str | None:
    if before is None:
        return None if after.state == "absent" else "created"
    if after.state == "absent":
        return "deleted"
    if before.state != after.state:
        return "suspended" if after.state == "suspended" else "resumed"
    return None if before == after else "updated"


@pytest.mark.parametrize("start", FROM)
@pytest.mark.parametrize("end", TO)
def test_every_transition(world: World, start: str, end: str) -> None:
    before, after = FROM[start], TO[end]
    key = None
    if before:
        world.run(before)
        key = world.cluster.key_of("acme")
    holes: list[str] = []
    stays_in = before is not None and before.state == after.state == "present"
    world.cluster.after_event = lambda: (
        holes.append("shut out") if stays_in and key not in world.cluster.gateway.keys else None
    )

    forecast = world.plan(after)
    result = world.run(after)

    action = expected_action(before, after)
    assert done(result) == ({action: ["acme"]} if action else {})
    assert [set(change.actions) for change in forecast.changes] == ([{action}] if action else [])
    assert result.problems == {} and holes == []
    check(world, after, key)
    # And once more: nothing to do, and nothing written.
    writes = world.cluster.writes
    assert world.run(after).changes == []
    assert world.cluster.writes == writes


def check(world: World, tenant: Tenant, key: str | None = None) -> None:
    """The cluster, the gateway and the files are as this tenant should have them."""
    found = world.cluster.of(tenant.name)
    users = {entry[1:] for entry in world.cluster.gateway.keys.values() if entry[1] == tenant.name}
    if tenant.state == "absent":
        assert found == [] and users == set()
        assert world.files.read(tenant.name) is None
        return
    now = world.cluster.key_of(tenant.name)
    assert key in (None, now), "the tenant's key has changed"
    assert world.files.read(tenant.name) in (None, now)
    assert users == ({(tenant.name, tenant.tier)} if tenant.state == "present" else set())
    [item] = found
    assert item["metadata"]["labels"] == {
        **OURS,
        "app": "token-labs",
        "authorino.kuadrant.io/managed-by": "authorino",
        TENANT_LABEL: tenant.name,
        KEY_NAME_LABEL: "default",
        STATE_LABEL: "active" if tenant.state == "present" else "suspended",
    }
    annotations = item["metadata"]["annotations"]
    assert annotations[TIER] == tenant.tier and annotations[USER] == tenant.name
    assert annotations[FINGERPRINT] == fingerprint(now) and annotations[CREATED]
    assert now not in str(item["metadata"])


states = st.sampled_from([tenant for tenant in TO.values()])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(states, st.integers(0, 4)), min_size=1, max_size=5), states)
def test_killed_anywhere_the_next_run_finishes(history: list[tuple[Tenant, int]], last: Tenant) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        known: set[str] = set()
        for tenant, crash_at in history:
            world.cluster.crash_at = world.cluster.writes + crash_at
            try:
                result = world.run(tenant)
                assert result.problems == {}
                check(world, tenant)
            except Crash:
                pass
            keys = {base64.b64decode(item["data"]["api_key"]).decode() for item in world.cluster.of("acme")}
            # Never two keys, and never one that nobody knows.
            assert len(keys) <= 1
            known |= keys
            assert keys <= world.on_disk()
        world.cluster.crash_at = None
        assert world.run(last).problems == {}
        check(world, last)
        assert world.run(last).changes == []


def test_killed_between_the_file_and_the_cluster(world: World) -> None:
    world.cluster.crash_at = 0
    with pytest.raises(Crash):
        world.run(Tenant("acme", "free"))
    key = world.files.read("acme")
    assert key and world.cluster.secrets == {}
    world.cluster.crash_at = None
    assert done(world.run(Tenant("acme", "free"))) == {"created": ["acme"]}
    assert world.cluster.key_of("acme") == key
    # It is still to be fetched.
    assert set(world.files.not_fetched()) == {"acme"}


@pytest.mark.parametrize(("status", "stays"), [(403, False), (422, False), (500, True), (0, True)])
def test_a_file_goes_only_when_the_server_surely_refused(world: World, status: int, stays: bool) -> None:
    def refuse(verb: str, name: str) -> None:
        raise KubeError(status, "Reason", "no")

    world.cluster.before_write = refuse
    result = world.run(Tenant("acme", "free"))
    assert result.changes == [] and "no" in result.problems["acme"]
    assert (world.files.read("acme") is not None) is stays


def test_a_lost_answer_is_no_failure(world: World) -> None:
    """The server has made the Secret, the answer got lost, and the client has asked again."""

    def lose() -> None:
        raise KubeError(409, "AlreadyExists", "already exists")

    world.cluster.after_create = lose
    assert done(world.run(Tenant("acme", "free"))) == {"created": ["acme"]}
    check(world, Tenant("acme", "free"))
    assert world.files.read("acme") == world.cluster.key_of("acme")


def test_a_lost_secret_gets_its_old_key_back(world: World) -> None:
    acme = Tenant("acme", "free")
    world.run(acme)
    key = world.cluster.key_of("acme")
    world.cluster.secrets.clear()
    world.cluster.gateway.keys.clear()
    assert done(world.run(acme)) == {"created": ["acme"]}
    check(world, acme, key)


def test_a_removed_file_is_written_again(world: World) -> None:
    """Another controller, to which the first one's files are not known, has them after its first run."""
    acme = Tenant("acme", "free")
    world.run(acme)
    key = world.cluster.key_of("acme")
    world.files.remove("acme")
    assert done(world.run(acme)) == {"updated": ["acme"]}
    # The tenant has it already.
    assert world.files.read("acme") == key and world.files.not_fetched() == {}
    assert world.run(acme).changes == []
    world.files.remove("acme")
    assert done(world.run(Tenant("acme", "pro"))) == {"updated": ["acme"]}
    check(world, Tenant("acme", "pro"), key)


def edited(world: World, **changes: Any) -> None:
    [item] = world.cluster.of("acme")
    item = {**item, "metadata": {**item["metadata"]}}
    for key, value in changes.pop("labels", {}).items():
        item["metadata"]["labels"] = {**item["metadata"]["labels"], key: value}
    for key, value in changes.pop("annotations", {}).items():
        item["metadata"]["annotations"] = {**item["metadata"]["annotations"], key: value}
    world.cluster.put({**item, **changes})


@pytest.mark.parametrize(
    ("edit", "action"),
    [
        ({"labels": {"app": ""}}, "updated"),
        ({"labels": {"authorino.kuadrant.io/managed-by": "x"}}, "updated"),
        ({"labels": {STATE_LABEL: "suspended"}}, "resumed"),
        ({"labels": {STATE_LABEL: "odd"}}, "resumed"),
        ({"labels": {TENANT_LABEL: "someone"}}, "updated"),
        ({"annotations": {TIER: "enterprise"}}, "updated"),
        ({"annotations": {USER: "someone"}}, "updated"),
        ({"annotations": {FINGERPRINT: "sha256:00000000"}}, "updated"),
    ],
)
def test_drift_is_repaired(world: World, edit: Any, action: str) -> None:
    acme = Tenant("acme", "free")
    world.run(acme)
    key = world.cluster.key_of("acme")
    edited(world, **edit)
    assert done(world.run(acme)) == {action: ["acme"]}
    check(world, acme, key)
    assert world.run(acme).changes == []


def test_an_edited_tier_is_never_patched_back_in_place(world: World) -> None:
    """The gateway may or may not have read the edited tier: only another Secret makes sure."""
    acme = Tenant("acme", "free")
    world.run(acme)
    [before] = world.cluster.of("acme")
    edited(world, annotations={TIER: "pro"})
    world.run(acme)
    [after] = world.cluster.of("acme")
    assert after["metadata"]["name"] != before["metadata"]["name"]


def test_the_creation_time_survives(world: World) -> None:
    world.run(Tenant("acme", "free"))
    world.now = datetime(2027, 1, 1, tzinfo=UTC)
    world.run(Tenant("acme", "pro"))
    [item] = world.cluster.of("acme")
    assert item["metadata"]["annotations"][CREATED] == "2026-01-01T00:00:00Z"


def test_copies_of_a_key_are_reduced_to_one_without_shutting_out(world: World) -> None:
    acme = Tenant("acme", "free")
    world.run(acme)
    key = world.cluster.key_of("acme")
    for number in range(3):
        world.hand_made(f"copy-{number}", "acme", "free" if number % 2 else "pro", key)
    world.cluster.after_event = lambda: None if key in world.cluster.gateway.keys else pytest.fail("shut out")
    assert done(world.run(acme)) == {"updated": ["acme"]}
    check(world, acme, key)
    assert world.run(acme).changes == []


def test_several_keys_of_one_tenant_are_all_kept_and_all_follow(world: World) -> None:
    """None of them may be deleted on a guess, and none may escape a suspension."""
    world.run(Tenant("acme", "free"))
    first, second = world.cluster.key_of("acme"), new_key()
    world.hand_made("second", "acme", "free", second)
    assert world.run(Tenant("acme", "free")).changes == []
    world.run(Tenant("acme", "pro"))
    assert {key: entry[2] for key, entry in world.cluster.gateway.keys.items()} == {first: "pro", second: "pro"}
    world.run(Tenant("acme", "pro", "suspended"))
    assert world.cluster.gateway.keys == {}
    world.run(Tenant("acme", "pro"))
    assert set(world.cluster.gateway.keys) == {first, second}
    world.run(Tenant("acme", "", "absent"))
    assert world.cluster.secrets == {}


def test_a_secret_that_lost_its_key(world: World) -> None:
    acme = Tenant("acme", "free")
    world.run(acme)
    key = world.cluster.key_of("acme")
    edited(world, data={"api_key": ""})
    # The file knows it.
    assert done(world.run(acme)) == {"created": ["acme"]}
    check(world, acme, key)
    edited(world, data={"api_key": base64.b64encode(f"{key}\n".encode()).decode()})
    world.files.remove("acme")
    result = world.run(acme)
    assert "holds no key any more" in result.problems["acme"] and result.changes == []


def test_a_file_that_disagrees_is_reported_and_nothing_is_overwritten(world: World) -> None:
    acme = Tenant("acme", "free")
    world.run(acme)
    key = world.cluster.key_of("acme")
    world.files.path("acme").write_text(new_key())
    result = world.run(acme)
    assert "another key than the cluster" in result.problems["acme"] and result.changes == []
    assert world.cluster.key_of("acme") == key
    # What takes access away is not held up by it.
    result = world.run(Tenant("acme", "free", "suspended"))
    assert done(result) == {"suspended": ["acme"]} and "acme" in result.problems
    assert world.cluster.gateway.keys == {}


def test_a_file_that_cannot_be_trusted(world: World) -> None:
    acme = Tenant("acme", "free")
    world.run(acme)
    world.files.path("acme").chmod(0o644)
    assert "open to other users" in world.run(acme).problems["acme"]
    world.cluster.secrets.clear()
    result = world.run(acme)
    assert "open to other users" in result.problems["acme"] and world.cluster.secrets == {}


def test_foreign_secrets_are_never_touched(world: World) -> None:
    key = new_key()
    foreign = {"app.kubernetes.io/managed-by": "", "tokenlabs.io/credential": ""}
    world.hand_made("tenant-acme-0123456789", "acme", "free", key, **foreign)
    before = dict(world.cluster.secrets)
    result = world.run(Tenant("acme", "free"), Tenant("initech", "free"))
    assert done(result) == {"created": ["initech"]}
    assert "not managed here: adopt it, or delete it" in result.problems["acme"]
    assert world.cluster.secrets.items() >= before.items()
    # It is not found out only when somebody looks: it opens the gateway.
    planned = world.plan(Tenant("initech", "free"))
    assert planned.warnings == ["Secret tenant-acme-0123456789 lets a key in (for tenant acme) and is not managed here"]
    for state in ("suspended", "absent"):
        assert "still lets this tenant in" in world.run(Tenant("acme", "free", state)).problems["acme"]


def test_a_foreign_secret_of_the_wanted_name_is_a_conflict(world: World) -> None:
    key = new_key()
    world.files.make()
    world.files.write("acme", key)
    name = Target(Tenant("acme", "free")).name()
    world.cluster.put({"metadata": {"name": name, "labels": {}}, "data": {"password": "eA=="}})
    result = world.run(Tenant("acme", "free"))
    assert name in result.problems["acme"]
    assert world.cluster.secrets[name]["data"] == {"password": "eA=="}


def test_one_that_appears_meanwhile_is_not_overwritten(world: World) -> None:
    world.files.make()
    key = new_key()
    world.files.write("acme", key)
    name = Target(Tenant("acme", "free")).name()

    def intrude(verb: str, _name: str) -> None:
        world.cluster.before_write = lambda verb, name: None
        world.cluster.put({"metadata": {"name": name, "labels": {}}, "data": {"password": "eA=="}})

    world.cluster.before_write = intrude
    result = world.run(Tenant("acme", "free"))
    assert world.cluster.secrets[name]["data"] == {"password": "eA=="}
    assert result.problems["acme"]
    assert world.files.read("acme") == key


def test_one_key_of_two_tenants_is_reported_for_both(world: World) -> None:
    world.run(Tenant("acme", "free"))
    key = world.cluster.key_of("acme")
    world.hand_made("tenant-other-0123456789", "other", "pro", key)
    result = world.run(Tenant("acme", "pro"), Tenant("other", "pro"))
    assert result.changes == []
    assert "also that of tenant other" in result.problems["acme"]
    assert "also that of tenant acme" in result.problems["other"]
    # Taking access away is not held up.
    result = world.run(Tenant("acme", "free", "suspended"), Tenant("other", "pro", "suspended"))
    assert done(result) == {"suspended": ["acme", "other"]} and set(result.problems) == {"acme", "other"}
    assert world.cluster.gateway.keys == {}


def test_a_copied_key_file_makes_no_second_owner(world: World) -> None:
    world.run(Tenant("acme", "free"))
    world.files.write("other", world.cluster.key_of("acme"))
    result = world.run(Tenant("acme", "free"), Tenant("other", "free"))
    assert set(result.problems) == {"acme", "other"}
    assert world.cluster.of("other") == []


def test_a_faster_editor_makes_us_look_again(world: World) -> None:
    acme = Tenant("acme", "free")
    world.run(acme)
    key = world.cluster.key_of("acme")

    def meddle(verb: str, name: str) -> None:
        world.cluster.before_write = lambda verb, name: None
        # Even without the label by which it is looked up again, it is not taken for gone.
        edited(world, labels={TENANT_LABEL: "x", "app": ""})

    world.cluster.before_write = meddle
    assert done(world.run(Tenant("acme", "free", "suspended"))) == {"suspended": ["acme"]}
    check(world, Tenant("acme", "free", "suspended"), key)


def test_an_editor_who_never_stops_is_reported(world: World) -> None:
    acme = Tenant("acme", "free")
    world.run(acme)
    world.cluster.before_write = lambda verb, name: edited(world, annotations={CREATED: "x"})
    result = world.run(Tenant("acme", "free", "suspended"))
    assert "has been modified" in result.problems["acme"] and result.changes == []


def test_somebody_else_has_done_it_already(world: World) -> None:
    world.run(Tenant("acme", "free"))
    later = Tenant("acme", "free", "suspended")

    def overtake(verb: str, name: str) -> None:
        world.cluster.before_write = lambda verb, name: None
        edited(world, labels={STATE_LABEL: "suspended"})

    world.cluster.before_write = overtake
    assert world.run(later).changes == []
    check(world, later)


def test_pruning(world: World) -> None:
    tenants = [Tenant(f"t{number}", "free") for number in range(5)]
    world.run(*tenants)
    assert world.plan(*tenants[:3]).unlisted == ["t3", "t4"]
    assert world.run(*tenants[:3]).changes == []
    with pytest.raises(
        TenantsError, match=r"would remove 2 tenants, or keys of them \(t3, t4\), and prune_max allows 1"
    ):
        world.run(*tenants[:3], prune=True, prune_max="1")
    with pytest.raises(TenantsError, match="the list of tenants is empty"):
        world.run(prune=True, prune_max="100")
    assert len(world.cluster.secrets) == 5
    # A key file that a run left behind when it was killed goes too: it must not come back to life.
    world.files.write("orphan", new_key())
    assert done(world.run(*tenants[:3], prune=True)) == {"deleted": ["orphan", "t3", "t4"]}
    assert world.files.stems() == {"t0", "t1", "t2"}
    assert world.run(*tenants[:3], prune=True).changes == []


def test_keys_that_were_never_sent_leave_no_files(world: World) -> None:
    def expire(verb: str, name: str) -> None:
        if world.cluster.writes > 2:
            raise KubeError(401, "Unauthorized", "login expired")

    world.cluster.before_write = expire
    tenants = [Tenant(name, "free") for name in "abcd"]
    result = world.run(*tenants)
    assert done(result) == {"created": ["a", "b"]}
    assert result.problems == {"c": "401 Unauthorized: login expired", "d": "not tried, because of another failure"}
    assert world.files.stems() == {"a", "b"}
    world.cluster.before_write = lambda verb, name: None
    assert done(world.run(*tenants)) == {"created": ["c", "d"]}


def test_a_file_that_cannot_be_made_stops_only_its_tenant(world: World) -> None:
    world.files.make()
    keeper = world.keeper()
    observed = keeper.observe()
    planned = plan([Tenant("a", "free"), Tenant("b", "free")], observed, Rules(world.now))
    world.files.write("a", new_key())
    result = keeper.carry_out(planned, observed)
    assert done(result) == {"created": ["b"]} and "has appeared in the meantime" in result.problems["a"]
    assert len(world.cluster.secrets) == 1


def test_all_keys_are_on_disk_before_the_first_is_sent(world: World) -> None:
    there: list[set[str]] = []
    world.cluster.before_write = lambda verb, name: there.append(world.files.stems())
    world.run(*(Tenant(name, "free") for name in "abc"))
    assert there == [{"a", "b", "c"}] * 3


def test_every_key_of_many_is_on_disk_before_it_is_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tenant_keeper, "BATCH", 2)
    synced: set[str] = set()
    sync = world.files.sync

    def remember(*arguments: Any, **more: Any) -> None:
        sync(*arguments, **more)
        synced.update(world.files.stems())

    def look(verb: str, name: str) -> None:
        assert name.split("-")[1] in synced

    monkeypatch.setattr(world.files, "sync", remember)
    world.cluster.before_write = look
    names = list("abcdefg")
    assert done(world.run(*(Tenant(name, "free") for name in names))) == {"created": names}
    assert world.run(*(Tenant(name, "free") for name in names)).changes == []


def test_a_disk_that_fills_up_meanwhile_stops_those_that_need_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tenant_keeper, "BATCH", 2)
    sync = world.files.sync

    def full(*arguments: Any, **more: Any) -> None:
        if "c" in world.files.stems():
            raise OSError(28, "No space left on device")
        sync(*arguments, **more)

    world.run(Tenant("z", "free"))
    monkeypatch.setattr(world.files, "sync", full)
    tenants = [*(Tenant(name, "free") for name in "abcd"), Tenant("z", "free", "suspended")]
    result = world.run(*tenants)
    assert done(result) == {"created": ["a", "b"], "suspended": ["z"]}
    assert result.problems == dict.fromkeys("cd", "[Errno 28] No space left on device")
    assert world.files.stems() == {"a", "b", "z"} and len(world.cluster.secrets) == 3
    monkeypatch.setattr(world.files, "sync", sync)
    assert done(world.run(*tenants)) == {"created": ["c", "d"]}


def test_without_a_login_nothing_more_is_begun(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tenant_keeper, "BATCH", 2)

    def expire(verb: str, name: str) -> None:
        if world.cluster.writes > 3:
            raise KubeError(401, "Unauthorized", "login expired")

    world.cluster.before_write = expire
    result = world.run(*(Tenant(name, "free") for name in "abcdefg"))
    assert done(result) == {"created": ["a", "b", "c"]}
    assert result.problems == {"d": "401 Unauthorized: login expired"} | dict.fromkeys(
        "efg", "not tried, because of another failure"
    )
    assert world.files.stems() == {"a", "b", "c"}


def test_one_failure_does_not_stop_the_others(world: World) -> None:
    def refuse(verb: str, name: str) -> None:
        if name.startswith("tenant-b-"):
            raise KubeError(403, "Forbidden", "exceeded quota")

    world.cluster.before_write = refuse
    result = world.run(*(Tenant(name, "free") for name in "abc"))
    assert done(result) == {"created": ["a", "c"]}
    assert result.problems == {"b": "403 Forbidden: exceeded quota"}


def test_no_key_in_what_can_be_printed(world: World) -> None:
    acme = Tenant("acme", "free")
    world.run(acme)
    key = world.cluster.key_of("acme")
    world.hand_made("copy", "acme", "pro", key)
    encoded = base64.b64encode(key.encode()).decode()

    def quote(verb: str, name: str) -> None:
        raise KubeError(422, "Invalid", f"bad value {encoded} or {key}")

    observed = world.keeper().observe()
    planned = plan([acme], observed, Rules(world.now))
    world.cluster.before_write = quote
    texts = [repr(planned), repr(observed.ours), repr(observed.files), str(world.run(acme).problems)]
    assert "(hidden)" in texts[-1]
    assert not [text for text in texts if key in text or encoded in text]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (
            {"name": "Acme", "tier": "free"},
            "tenants[0].name is 'Acme', not of the right form; write lower-case letters",
        ),
        ({"name": "a" * 64, "tier": "free"}, "not of the right form"),
        ({"name": "-a", "tier": "free"}, "not of the right form"),
        ({"name": "../x", "tier": "free"}, "not of the right form"),
        ({"name": "a\n", "tier": "free"}, "not of the right form"),
        ({"name": "a"}, "tenants[0].tier (a) is missing"),
        ({"name": "a", "tier": "gold"}, "tenants[0].tier (a) is 'gold', which is no tier; known are free, pro"),
    ],
)
def test_wrong_input(entry: Body, problem: str) -> None:
    with pytest.raises(TenantsError) as caught:
        desired([entry], TIERS)
    assert problem in str(caught.value)


def test_all_wrong_input_is_named_at_once() -> None:
    with pytest.raises(TenantsError) as caught:
        desired([{"name": "a", "tier": "free"}, {"name": "a", "tier": "x"}, {"name": "B", "state": "absent"}], TIERS)
    assert len(caught.value.problems) == 3
    assert desired([{"name": "a", "state": "absent"}], ()) == [Tenant("a", "", "absent")]


def test_names_are_stable_and_short() -> None:
    names = {
        Target(Tenant("acme", tier), Key(key), generation=generation).name(revision)
        for tier in TIERS
        for key in ("default", "ci")
        for generation in (1, 2)
        for revision in (0, 1)
    }
    assert len(names) == 16
    for name in names:
        found = Credential(name, "", "", OURS, {})
        assert (found.tenant, found.key_name) == ("acme", "ci" if ".ci-" in name else "default")
    assert len(Target(Tenant("a" * 63, "free"), Key("b" * 32)).name()) < 253
