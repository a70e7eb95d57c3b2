# SPDX-License-Identifier: GPL-3.0-or-later
"""Several keys of a tenant: rotation with a grace, expiry, revocation, import, adoption; killed anywhere."""

from __future__ import annotations

import base64
import contextlib
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import NEXT, digits, new_key
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_keeper import Result
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import Key, Tenant, TenantsError
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_secrets import (
    CONTACT,
    EXPIRES,
    GENERATION,
    KEY_NAME_LABEL,
    RETIRES,
    TIER,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_steps import ACTIONS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.tenants_world import Body, Crash, World

DAY = timedelta(days=1)
ACME = Tenant("acme", "free")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def done(result: Result) -> dict[str, list[str]]:
    assert result.problems == {}
    return {action: result.names(action) for action in ACTIONS if result.names(action)}


def acme(*keys: Key, **more: Any) -> Tenant:
    return Tenant("acme", more.pop("tier", "free"), keys=keys or None, **more)


def let_in(world: World) -> set[str]:
    return set(world.cluster.gateway.keys)


def by_name(world: World) -> dict[str, list[Body]]:
    found: dict[str, list[Body]] = {}
    for item in world.cluster.of("acme"):
        found.setdefault(item["metadata"]["labels"][KEY_NAME_LABEL], []).append(item)
    return found


def key_of(item: Body) -> str:
    return base64.b64decode(item["data"]["api_key"]).decode()


def settled(world: World, *tenants: Tenant, **rules: Any) -> None:
    """A second run has nothing to do and writes nothing."""
    writes = world.cluster.writes
    result = world.run(*tenants, **rules)
    assert result.changes == [] and result.problems == {}
    assert world.cluster.writes == writes


# --- Rotation ------------------------------------------------------------------------------------------------------


def test_a_rotation_overlaps_and_ends(world: World) -> None:
    world.run(ACME)
    old = world.cluster.key_of("acme")
    rotated = acme(rotate=2)
    forecast = world.plan(rotated)
    assert [set(change.actions) for change in forecast.changes] == [{"rotated"}] and forecast.new_files() == {"acme"}
    assert done(world.run(rotated)) == {"rotated": ["acme"]}
    new = world.files.read("acme")
    assert new and new != old and let_in(world) == {old, new}
    assert world.files.path("acme", f".key.{digits(old)}.old").read_text() == old
    assert set(world.files.not_fetched()) == {"acme"}
    generations = {key_of(item): item["metadata"]["annotations"][GENERATION] for item in world.cluster.of("acme")}
    assert generations == {old: "1", new: "2"}
    settled(world, rotated)
    # Whoever takes the number back, or writes it for the key alone, gets nothing new.
    world.run(ACME)
    settled(world, acme(Key(rotate=2)))

    world.now += 7 * DAY - timedelta(seconds=1)
    settled(world, rotated)
    world.now += timedelta(seconds=1)
    assert done(world.run(rotated)) == {"revoked": ["acme"]}
    assert let_in(world) == {new} and world.on_disk() == {new}
    settled(world, rotated)


def test_a_rotation_without_grace(world: World) -> None:
    world.run(ACME)
    old = world.cluster.key_of("acme")
    shut: list[int] = []
    world.cluster.after_event = lambda: shut.append(1) if not let_in(world) else None
    assert done(world.run(acme(rotate=2), grace=timedelta())) == {"rotated": ["acme"]}
    assert let_in(world) == {world.files.read("acme")} != {old}
    assert world.on_disk() == let_in(world) and shut == []


def test_a_rotation_by_date(world: World) -> None:
    world.run(ACME)
    old = world.cluster.key_of("acme")
    rotated = acme(rotate=world.now + DAY)
    settled(world, rotated)
    world.now += DAY
    assert done(world.run(rotated)) == {"rotated": ["acme"]}
    settled(world, rotated)
    assert len(let_in(world)) == 2
    world.now += 30 * DAY
    assert done(world.run(rotated)) == {"revoked": ["acme"]}
    assert old not in let_in(world)
    # A key made later needs none.
    late = acme(rotate=world.now - DAY)
    world.run(Tenant("acme", "", "absent"))
    world.run(late)
    settled(world, late)


def test_rotating_what_is_older_than_a_moment(world: World) -> None:
    world.run(acme(Key(), Key("ci")))
    old = let_in(world)
    world.now += DAY
    before = world.now
    assert world.run(acme(Key(), Key("ci")), rotate_before=before + DAY).changes == []
    assert done(world.run(acme(Key(), Key("ci")), rotate_before=before)) == {"rotated": ["acme"]}
    assert len(let_in(world)) == 4
    settled(world, acme(Key(), Key("ci")), rotate_before=before)
    # Asked again with a shorter grace, it is the shorter one that counts; a usual run does not touch it.
    settled(world, acme(Key(), Key("ci")), grace=timedelta())
    assert done(world.run(acme(Key(), Key("ci")), rotate_before=before, grace=timedelta())) == {"revoked": ["acme"]}
    assert let_in(world).isdisjoint(old) and len(let_in(world)) == 2


def test_rotated_keys_follow_tier_and_state(world: World) -> None:
    world.run(ACME)
    world.run(acme(rotate=2))
    keys = let_in(world)
    world.cluster.after_event = lambda: None if let_in(world) == keys else pytest.fail("shut out")
    assert done(world.run(acme(rotate=2, tier="pro"))) == {"updated": ["acme"]}
    assert {entry[2] for entry in world.cluster.gateway.keys.values()} == {"pro"}
    world.cluster.after_event = lambda: None
    assert done(world.run(acme(rotate=2, tier="pro", state="suspended"))) == {"suspended": ["acme"]}
    assert let_in(world) == set()
    assert done(world.run(acme(rotate=2, tier="pro"))) == {"resumed": ["acme"]}
    assert let_in(world) == keys
    assert sum(RETIRES in item["metadata"]["annotations"] for item in world.cluster.of("acme")) == 1


def test_a_second_rotation_within_the_grace_of_the_first(world: World) -> None:
    for generation in (1, 2, 3):
        world.run(acme(rotate=generation))
    assert len(let_in(world)) == 3 and let_in(world) == world.on_disk()
    world.now += 8 * DAY
    world.run(acme(rotate=3))
    assert let_in(world) == {world.files.read("acme")} == world.on_disk()


def test_a_suspended_tenant_is_rotated_too(world: World) -> None:
    world.run(acme(state="suspended"))
    assert done(world.run(acme(state="suspended", rotate=2))) == {"rotated": ["acme"]}
    assert let_in(world) == set() and len(world.cluster.of("acme")) == 2


def test_a_rotated_key_that_somebody_deleted_comes_back(world: World) -> None:
    world.run(ACME)
    world.run(acme(rotate=2))
    new = world.files.read("acme")
    [item] = [item for item in world.cluster.of("acme") if key_of(item) == new]
    world.cluster.delete(item["metadata"]["name"], item["metadata"]["uid"], item["metadata"]["resourceVersion"])
    assert done(world.run(acme(rotate=2))) == {"created": ["acme"]}
    assert new in let_in(world)


def test_files_of_a_controller_that_was_not_worked_on_for_a_while(world: World) -> None:
    world.run(ACME)
    old = str(world.files.read("acme"))
    world.run(acme(rotate=2), grace=timedelta())
    new = world.files.read("acme")
    # As the other controller still has it.
    world.files.path("acme").write_text(old)
    stale = (world.now - DAY).timestamp()
    os.utime(world.files.path("acme"), (stale, stale))
    world.files.fetched({"acme": digits(old)})
    assert done(world.run(acme(rotate=2))) == {"updated": ["acme"]}
    assert world.files.read("acme") == new and world.on_disk() == let_in(world) == {new}
    assert world.files.not_fetched() == {}
    settled(world, acme(rotate=2))
    # A file that is newer than the cluster's key is not thrown away.
    world.files.path("acme").write_text(new_key())
    assert "the key file holds another key" in world.run(acme(rotate=2)).problems["acme"]


# --- Several keys --------------------------------------------------------------------------------------------------


def test_keys_are_made_revoked_and_left_alone(world: World) -> None:
    world.run(ACME)
    first = let_in(world)
    both = acme(Key(), Key("ci"))
    assert done(world.run(both)) == {"created": ["acme"]}
    assert set(world.files.not_fetched()) == {"acme", "acme.ci"}
    assert first < let_in(world) and set(by_name(world)) == {"default", "ci"}
    settled(world, both)
    # Without its name in the list it is left alone, and told of; it follows the tenant all the same.
    assert world.plan(acme(Key())).unlisted_keys == ["acme/ci"]
    settled(world, acme(Key()))
    settled(world, ACME)
    assert world.plan(ACME).unlisted_keys == []
    assert done(world.run(acme(Key(), tier="pro"))) == {"updated": ["acme"]}
    assert {entry[2] for entry in world.cluster.gateway.keys.values()} == {"pro"}
    world.run(both)
    assert done(world.run(acme(Key(), Key("ci", "absent")))) == {"revoked": ["acme"]}
    assert let_in(world) == first == world.on_disk()
    settled(world, acme(Key(), Key("ci", "absent")))
    # A later one of that name is another.
    assert done(world.run(both)) == {"created": ["acme"]}


def test_one_key_of_two_is_suspended(world: World) -> None:
    both = acme(Key(), Key("ci"))
    world.run(both)
    keys = let_in(world)
    assert done(world.run(acme(Key(), Key("ci", "suspended")))) == {"suspended": ["acme"]}
    assert let_in(world) == {world.files.read("acme")}
    assert done(world.run(both)) == {"resumed": ["acme"]}
    assert let_in(world) == keys


def test_one_key_is_let_in_before_another_is_kept_out(world: World) -> None:
    world.run(acme(Key(), Key("ci", "suspended")))
    world.cluster.after_event = lambda: None if let_in(world) else pytest.fail("shut out")
    assert done(world.run(acme(Key(state="suspended"), Key("ci")))) == {"suspended": ["acme"], "resumed": ["acme"]}
    assert let_in(world) == {world.files.read("acme.ci")}


def test_a_key_that_is_not_listed_any_more_keeps_what_was_wanted_of_it(world: World) -> None:
    end = world.now + DAY
    world.run(acme(Key(), Key("ci", "suspended"), Key("old", expires=end)))
    opened = let_in(world)
    for later in (acme(Key()), ACME):
        settled(world, later)
        assert let_in(world) == opened
    assert done(world.run(acme(state="suspended"))) == {"suspended": ["acme"]} and let_in(world) == set()
    assert done(world.run(ACME)) == {"resumed": ["acme"]} and let_in(world) == opened
    world.now = end
    assert done(world.run(ACME)) == {"suspended": ["acme"]}
    assert let_in(world) == {world.files.read("acme")}
    # What is written for it counts again.
    assert done(world.run(acme(Key(), Key("ci"), Key("old")))) == {"resumed": ["acme"]}
    assert len(let_in(world)) == 3


def test_pruning_keys(world: World) -> None:
    tenants = [Tenant(f"t{number}", "free", keys=(Key(), Key("ci"))) for number in range(11)]
    world.run(*tenants)
    fewer = [Tenant(tenant.name, "free", keys=(Key(),)) for tenant in tenants]
    with pytest.raises(TenantsError, match="would remove 11 tenants, or keys of them"):
        world.run(*fewer, prune=True)
    assert len(let_in(world)) == 22
    # Whoever does not list keys has none too many.
    settled(world, *(Tenant(tenant.name, "free") for tenant in tenants), prune=True)
    assert done(world.run(*fewer, prune=True, prune_max="11")) == {"revoked": sorted(t.name for t in tenants)}
    assert len(let_in(world)) == 11 and world.on_disk() == let_in(world)


def test_a_part_of_all_may_be_pruned(world: World) -> None:
    many = [Tenant(f"t{number:03}", "free") for number in range(120)]
    world.run(*many)
    with pytest.raises(TenantsError, match="prune_max allows 12"):
        world.run(*many[13:], prune=True)
    assert len(world.run(*many[12:], prune=True).names("deleted")) == 12


# --- Expiry --------------------------------------------------------------------------------------------------------


def test_expiry_suspends_and_a_later_date_resumes(world: World) -> None:
    end = world.now + DAY
    assert done(world.run(acme(expires=end))) == {"created": ["acme"]}
    [item] = world.cluster.of("acme")
    assert item["metadata"]["annotations"][EXPIRES] == "2026-01-02T00:00:00Z"
    key = world.cluster.key_of("acme")
    settled(world, acme(expires=end))
    world.now = end
    assert done(world.run(acme(expires=end))) == {"suspended": ["acme"]}
    assert let_in(world) == set()
    settled(world, acme(expires=end))
    assert done(world.run(acme(expires=end + DAY))) == {"resumed": ["acme"]}
    assert let_in(world) == {key}
    assert done(world.run(ACME)) == {"updated": ["acme"]}
    [item] = world.cluster.of("acme")
    assert EXPIRES not in item["metadata"]["annotations"]


def test_one_key_expires_before_its_tenant(world: World) -> None:
    tenant = acme(Key(), Key("ci", expires=world.now + DAY), expires=world.now + 2 * DAY)
    world.run(tenant)
    world.now += DAY
    assert done(world.run(tenant)) == {"suspended": ["acme"]}
    assert let_in(world) == {world.files.read("acme")}
    world.now += DAY
    assert done(world.run(tenant)) == {"suspended": ["acme"]}
    assert let_in(world) == set()


def test_nothing_is_made_for_who_has_expired(world: World) -> None:
    settled(world, acme(expires=world.now))
    assert world.cluster.secrets == {} and world.on_disk() == set()


# --- What is kept beside -------------------------------------------------------------------------------------------


def test_contact_and_metadata_come_and_go(world: World) -> None:
    told = acme(contact="ops@acme.example", metadata={"customer-number": "4711", "b": "x"})
    world.run(told)
    settled(world, told)
    assert done(world.run(acme(metadata={"customer-number": "4712"}))) == {"updated": ["acme"]}
    annotations = world.cluster.of("acme")[0]["metadata"]["annotations"]
    assert annotations["metadata.tokenlabs.io/customer-number"] == "4712"
    assert CONTACT not in annotations and "metadata.tokenlabs.io/b" not in annotations


# --- Import --------------------------------------------------------------------------------------------------------


def imported(directory: Path, key: str) -> str:
    path = directory / "imported"
    path.touch(mode=0o600)
    path.write_text(key + "\n")
    return str(path)


def test_a_key_is_imported_and_replaced_by_another(world: World, tmp_path: Path) -> None:
    first, second = new_key(), new_key()
    tenant = acme(Key(key_file=imported(tmp_path, first)))
    assert done(world.run(tenant)) == {"created": ["acme"]}
    # The tenant has it already: nothing to fetch.
    assert let_in(world) == {first} == world.on_disk() and world.files.not_fetched() == {}
    settled(world, tenant)
    assert world.plan(tenant, rotate_before=world.now + DAY).changes == []
    world.now += DAY
    assert "was imported" in world.plan(tenant, rotate_before=world.now).warnings[0]
    imported(tmp_path, second)
    assert done(world.run(tenant)) == {"rotated": ["acme"]}
    assert let_in(world) == {first, second} == world.on_disk() and world.files.read("acme") == second
    settled(world, tenant)
    # Back to the first one, which is on its way out.
    imported(tmp_path, first)
    assert done(world.run(tenant)) == {"rotated": ["acme"]}
    world.now += 8 * DAY
    world.run(tenant)
    assert let_in(world) == {first}
    # Once it is in the cluster, the file is not needed any more.
    Path(str(tenant.keys[0].key_file)).unlink()  # type: ignore[index]
    settled(world, tenant)


def test_an_import_that_cannot_be_read(world: World, tmp_path: Path) -> None:
    missing = acme(Key(key_file=str(tmp_path / "missing")))
    assert "is not there" in world.run(missing).problems["acme"]
    path = imported(tmp_path, new_key())
    Path(path).chmod(0o644)
    assert "open to other users" in world.run(acme(Key(key_file=path))).problems["acme"]
    assert world.cluster.secrets == {}


def test_an_imported_key_of_somebody_else(world: World, tmp_path: Path) -> None:
    world.run(Tenant("other", "free"))
    path = imported(tmp_path, world.cluster.key_of("other"))
    result = world.run(acme(Key(key_file=path)), Tenant("other", "free"))
    assert "also that of tenant other" in result.problems["acme"]
    assert len(world.cluster.secrets) == 1


# --- Adoption ------------------------------------------------------------------------------------------------------


def made_by_hand(world: World, name: str = "tenant-acme", key: str | None = None, **changes: Any) -> str:
    """As the commands of a manual installation make it."""
    key = key or "tlabs_sk_" + "0123456789abcdef" * 3
    annotations = {TIER: "free", "secret.kuadrant.io/user-id": "acme", "kubectl.kubernetes.io/last-applied": key}
    labels = {"authorino.kuadrant.io/managed-by": "authorino", "app": "token-labs", "tokenlabs.io/state": "active"}
    metadata = {"name": name, "labels": labels, "annotations": annotations, **changes}
    world.cluster.put({"metadata": metadata, "data": {"api_key": base64.b64encode(key.encode()).decode()}})
    return key


@pytest.mark.parametrize("tier", ["free", "pro"])
def test_a_tenant_made_by_hand_is_adopted(world: World, tier: str) -> None:
    key = made_by_hand(world)
    assert "adopt it, or delete it" in world.run(acme(tier=tier)).problems["acme"]
    world.cluster.after_event = lambda: None if key in let_in(world) else pytest.fail("shut out")
    assert done(world.run(acme(tier=tier), adopt=True)) == {"adopted": ["acme"]}
    assert world.cluster.gateway.keys[key][1:] == ("acme", tier)
    # What kubectl has written down of the key is gone with the Secret.
    [item] = world.cluster.of("acme")
    assert key not in str(item["metadata"]) and len(world.cluster.secrets) == 1
    assert world.on_disk() == {key} and world.files.not_fetched() == {}
    settled(world, acme(tier=tier), adopt=True)
    settled(world, acme(tier=tier))


def test_several_secrets_of_one_tenant_are_adopted_with_names(world: World) -> None:
    keys = {
        made_by_hand(world, key=new_key()),
        made_by_hand(world, "tenant-acme-ci", new_key()),
        made_by_hand(world, "something-else", new_key()),
    }
    assert done(world.run(ACME, adopt=True)) == {"adopted": ["acme"]}
    assert let_in(world) == keys == world.on_disk()
    names = set(by_name(world))
    assert {"default", "ci"} < names or len(names) == 3
    settled(world, ACME, prune=True)


@pytest.mark.parametrize("writes", range(1, 4))
@pytest.mark.parametrize("killed", [False, True])
def test_a_key_that_is_adopted_and_replaced_at_once_does_not_stay(world: World, writes: int, killed: bool) -> None:
    """Wherever that is interrupted, or somebody edits meanwhile."""
    key = made_by_hand(world)
    rules: dict[str, Any] = {"adopt": True, "rotate_before": world.now, "grace": timedelta()}

    def interrupt(verb: str, name: str) -> None:
        if world.cluster.writes == writes:
            if killed:
                raise Crash
            for item in list(world.cluster.secrets.values()):
                world.cluster.put({**item, "metadata": {**item["metadata"]}})

    world.cluster.before_write = interrupt
    with contextlib.suppress(Crash):
        world.run(ACME, **rules)
    world.cluster.before_write = lambda verb, name: None
    assert world.run(ACME, **rules).problems == {}
    [item] = world.cluster.of("acme")
    assert let_in(world) == {key_of(item)} == world.on_disk() and key_of(item) != key
    assert list(by_name(world)) == ["default"]
    settled(world, ACME, **rules)


def test_what_was_made_for_a_key_before_an_edit_is_seen_after_it(world: World) -> None:
    """The file of a key whose name is in no list."""
    keys = {made_by_hand(world, key=new_key()), made_by_hand(world, "tenant-acme-ci", new_key())}

    def edit(verb: str, name: str) -> None:
        if verb == "delete":
            world.cluster.before_write = lambda verb, name: None
            item = world.cluster.secrets[name]
            world.cluster.put({**item, "metadata": {**item["metadata"]}})

    world.cluster.before_write = edit
    assert world.run(ACME, adopt=True).problems == {}
    assert let_in(world) == keys == world.on_disk()
    settled(world, ACME)


def test_a_secret_that_lost_its_labels_by_a_manual_rotation_is_adopted(world: World) -> None:
    key = made_by_hand(world, key="0123456789abcdef" * 3, labels={}, annotations={})
    assert let_in(world) == set()
    assert done(world.run(ACME, adopt=True)) == {"adopted": ["acme"]}
    assert let_in(world) == {key}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": "tlabs_pro_demo_key_change_me"}, "holds a placeholder"),
        ({"key": "short"}, "holds no key of 24 characters"),
        ({"key": "x" * 40}, "holds a placeholder"),
        ({"labels": {"app.kubernetes.io/managed-by": "Helm", "app": "token-labs"}}, "is managed by Helm"),
    ],
)
def test_what_is_not_adopted(world: World, changes: Any, reason: str) -> None:
    made_by_hand(world, **changes)
    before = dict(world.cluster.secrets)
    result = world.run(ACME, adopt=True)
    assert reason in result.problems["acme"] and world.cluster.secrets == before


def test_nobody_is_adopted_who_is_not_listed(world: World) -> None:
    key = made_by_hand(world)
    world.run(Tenant("other", "free"), adopt=True)
    assert key in let_in(world) and "tenant-acme" in world.cluster.secrets


def test_who_is_absent_is_removed_though_made_by_hand(world: World) -> None:
    made_by_hand(world)
    gone = Tenant("acme", "", "absent")
    assert "still lets this tenant in" in world.run(gone).problems["acme"]
    assert done(world.run(gone, adopt=True)) == {"deleted": ["acme"]}
    assert world.cluster.secrets == {}


# --- Interruptions -------------------------------------------------------------------------------------------------


class Files:
    """Moves of files, of which one kills the process."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, number: int):
        self.left = number
        for name in ("rename", "unlink"):
            original = getattr(__import__("os"), name)
            monkeypatch.setattr(f"os.{name}", self._killing(original))

    def _killing(self, original: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            if self.left == 0:
                raise Crash
            self.left -= 1
            return original(*arguments, **more)

        return call


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize(
    "last", [acme(rotate=2), acme(rotate=3), Tenant("acme", "", "absent"), acme(Key(state="absent"))], ids=str
)
def test_killed_between_any_two_moves_of_files(
    world: World, monkeypatch: pytest.MonkeyPatch, number: int, last: Tenant
) -> None:
    world.run(acme(rotate=1))
    world.run(acme(rotate=2))
    before = let_in(world)
    with monkeypatch.context() as patch:
        Files(world, patch, number)
        with contextlib.suppress(Crash):
            world.run(last, grace=timedelta())
    assert let_in(world) <= world.on_disk()
    assert world.run(last, grace=timedelta()).problems == {}
    settled(world, last, grace=timedelta())
    assert let_in(world) <= world.on_disk()
    if last.state == "absent" or last.keys:
        assert world.on_disk() == set() and let_in(world) == set()
    else:
        assert world.files.read("acme") in let_in(world)
        assert not world.files.path("acme", NEXT).exists()
        if last.rotate == 3:
            assert world.files.read("acme") not in before


def test_a_revoked_key_never_comes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the Secret went and before its file did, and wanted again in the next run."""
    world.run(ACME)
    old = world.files.read("acme")
    with monkeypatch.context() as patch:
        Files(world, patch, 3)
        with pytest.raises(Crash):
            world.run(Tenant("acme", "", "absent"))
    assert world.cluster.secrets == {} and world.on_disk() == {old}
    world.run(ACME)
    assert world.files.read("acme") != old and old not in let_in(world)
    assert old not in world.on_disk()


KEYS = st.sampled_from(
    [
        None,
        (Key(),),
        (Key(), Key("ci")),
        (Key(), Key("ci", "absent")),
        (Key(), Key("ci", "suspended")),
        (Key(rotate=2), Key("ci", rotate=3)),
        (Key("ci"),),
        (Key(expires=datetime(2026, 1, 3, tzinfo=UTC)),),
    ]
)
TENANTS = st.one_of(
    st.builds(
        Tenant,
        st.just("acme"),
        st.sampled_from(["free", "pro"]),
        st.sampled_from(["present", "suspended"]),
        KEYS,
        rotate=st.sampled_from([None, 1, 2, 3, datetime(2026, 1, 2, tzinfo=UTC)]),
        expires=st.sampled_from([None, datetime(2026, 1, 4, tzinfo=UTC)]),
    ),
    st.just(Tenant("acme", "", "absent")),
)
RUNS = st.tuples(TENANTS, st.integers(0, 8), st.sampled_from([timedelta(0), DAY, 7 * DAY]), st.booleans())


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(RUNS, min_size=1, max_size=6), TENANTS, st.booleans())
def test_killed_anywhere_with_several_keys(
    history: list[tuple[Tenant, int, timedelta, bool]], last: Tenant, prune: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        for tenant, crash_at, step, pruned in history:
            world.now += step
            world.cluster.crash_at = world.cluster.writes + crash_at
            with contextlib.suppress(Crash):
                assert world.run(tenant, prune=pruned).problems == {}
            assert {key_of(item) for item in world.cluster.of("acme")} <= world.on_disk()
        world.cluster.crash_at = None
        assert world.run(last, prune=prune).problems == {}
        settled(world, last, prune=prune)
        assert {key_of(item) for item in world.cluster.of("acme")} <= world.on_disk()
        expired = bool(last.expires and last.expires <= world.now)
        if last.state != "present" or expired:
            assert let_in(world) == set()
        else:
            for key in last.keys or (Key(),):
                gone = bool(key.expires and key.expires <= world.now)
                wanted = key.state == "present" and not gone
                opened = [item for item in by_name(world).get(key.name, []) if key_of(item) in let_in(world)]
                assert bool(opened) == wanted
                counting = [item for item in opened if RETIRES not in item["metadata"]["annotations"]]
                assert len(counting) == wanted
            assert {entry[1:] for entry in world.cluster.gateway.keys.values()} <= {("acme", last.tier)}
