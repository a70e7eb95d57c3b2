# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of apply: pure functions, tables and properties."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils._apply import (
    CREATE,
    NOTHING,
    UPDATE,
    Change,
    Mask,
    describe,
    plan,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._definitions import (
    DIGEST,
    DefinitionError,
    digest,
    generate,
    load,
    phase,
    prepare,
    signed,
    with_generated,
)
from ansible_collections.tokenlabs.platform.plugins.module_utils._fields import (
    ABSENT,
    Difference,
    differences,
    not_ours,
    not_sent,
    pair,
    quantity,
    same,
)
from hypothesis import given, settings
from hypothesis import strategies as st

Body = dict[str, Any]


def fields(sent: Any) -> Any:
    """What the server would write down for an applier that sent this; lists of objects are told apart by `name`."""
    if isinstance(sent, dict):
        return {f"f:{key}": fields(value) for key, value in sent.items()}
    if isinstance(sent, list) and sent and all(isinstance(item, dict) and "name" in item for item in sent):
        return {"k:" + json.dumps({"name": item["name"]}): {".": {}, **fields(item)} for item in sent}
    return {}


def applied(body: Body, manager: str = "tokenlabs") -> Body:
    """The live object right after we applied this body."""
    live = copy.deepcopy(signed(body))
    owned = {key: value for key, value in live.items() if key not in ("apiVersion", "kind")}
    owned["metadata"] = {"annotations": live["metadata"]["annotations"]}
    if "labels" in live["metadata"]:
        owned["metadata"]["labels"] = live["metadata"]["labels"]
    entry = {"manager": manager, "operation": "Apply", "fieldsV1": fields(owned)}
    live["metadata"] |= {"uid": "u", "resourceVersion": "1", "managedFields": [entry]}
    return live


def thing(spec: Any = None, **rest: Any) -> Body:
    return {
        "apiVersion": "g/v1",
        "kind": "Thing",
        "metadata": {"name": "x", "namespace": "n"},
        "spec": spec or {"a": 1},
        **rest,
    }


names = st.text("abc", min_size=1, max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("xyz", max_size=3),
    lambda inner: (
        st.dictionaries(names, inner, max_size=3)
        | st.lists(inner, max_size=3)
        | st.lists(st.dictionaries(names, inner, max_size=2), max_size=3).map(
            lambda items: [{**item, "name": f"item-{index}"} for index, item in enumerate(items)]
        )
    ),
    max_leaves=12,
)
specs = st.dictionaries(names, values, min_size=1, max_size=4)


@given(specs)
def test_what_was_applied_needs_nothing(spec: Body) -> None:
    [body] = prepare([thing(spec)])
    assert plan(body, applied(body)).verb == NOTHING


@given(specs, specs)
def test_other_content_is_written(old: Body, new: Body) -> None:
    [before], [after] = prepare([thing(old)]), prepare([thing(new)])
    expected = NOTHING if json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True) else UPDATE
    assert plan(after, applied(before)).verb == expected


def places(owned: Body, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [(*path, key) for key in owned if key != "."]
    return found + [deeper for key in owned for deeper in places(owned[key], (*path, key))]


@settings(max_examples=60)
@given(specs, st.data())
def test_any_lost_field_is_noticed(spec: Body, data: st.DataObject) -> None:
    [body] = prepare([thing(spec)])
    live = applied(body)
    owned = live["metadata"]["managedFields"][0]["fieldsV1"]
    remove(owned, data.draw(st.sampled_from(places(owned))))
    if not owned:
        live["metadata"]["managedFields"] = []
    assert plan(body, live).verb == UPDATE


def remove(owned: Body, where: tuple[str, ...]) -> None:
    """Take a field away as the server does: what has become empty by it goes too."""
    first, rest = where[0], where[1:]
    if rest:
        remove(owned[first], rest)
    if not rest or not owned[first]:
        del owned[first]


@given(specs, names)
def test_any_field_no_longer_sent_is_noticed(spec: Body, extra: str) -> None:
    [body] = prepare([thing(spec)])
    [wider] = prepare([thing({**spec, f"{extra}-old": 1})])
    live = applied(wider)
    live["metadata"]["annotations"][DIGEST] = digest(body)
    change = plan(body, live)
    assert change.verb == UPDATE and change.reason == f"spec.{extra}-old is no longer wanted"


@given(specs)
def test_what_others_own_is_not_looked_at(spec: Body) -> None:
    [body] = prepare([thing(spec)])
    live = applied(body)
    live["status"] = {"ready": True}
    live["spec"]["theirs"] = {"x": 1}
    live["metadata"]["managedFields"].append(
        {"manager": "other", "operation": "Update", "fieldsV1": {"f:spec": {"f:theirs": {}}}}
    )
    live["metadata"]["managedFields"].insert(
        0, {"manager": "tokenlabs", "operation": "Apply", "subresource": "status", "fieldsV1": {"f:status": {}}}
    )
    assert plan(body, live).verb == NOTHING


@pytest.mark.parametrize(
    ("live", "verb"),
    [
        (None, CREATE),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, CREATE),
        ({"metadata": {}}, UPDATE),
        ({"metadata": {"managedFields": [{}]}}, UPDATE),
    ],
)
def test_objects_that_are_not_ours_yet(live: Body | None, verb: str) -> None:
    assert plan(thing(), live).verb == verb


def test_another_manager_is_another_owner() -> None:
    body = thing()
    assert plan(body, applied(body, "else")).reason == "not managed by tokenlabs yet"
    assert plan(body, applied(body, "else"), "else").verb == NOTHING


def test_secret_data_is_compared_and_never_digested() -> None:
    def secret(value: str) -> Body:
        return prepare([{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": value}}])[
            0
        ]

    assert digest(secret("one")) == digest(secret("two"))
    live = applied(secret("one"))
    assert plan(secret("one"), live).verb == NOTHING
    assert plan(secret("two"), live).reason == "other data"
    # The server leaves out an empty value; its owner shows that it was sent.
    emptied = applied(secret(""))
    emptied["data"] = None
    assert plan(secret(""), emptied).verb == NOTHING


@pytest.mark.parametrize(
    ("items", "owned", "found", "left"),
    [
        ([], ["k:{}"], [], ["k:{}"]),
        (["a", "b"], ['v:"b"', 'v:"c"'], [None, 'v:"b"'], ['v:"c"']),
        ([1, 2], ["i:0", "i:1"], ["i:0", "i:1"], []),
        (
            [{"port": 53}, {"port": 53, "protocol": "UDP"}],
            ['k:{"port":53,"protocol":"UDP"}', 'k:{"port":53,"protocol":"TCP"}'],
            ['k:{"port":53,"protocol":"TCP"}', 'k:{"port":53,"protocol":"UDP"}'],
            [],
        ),
        ([{"name": "a"}], ['k:{"name":"b"}'], [None], ['k:{"name":"b"}']),
    ],
)
def test_items_find_their_names(items: list[Any], owned: list[str], found: list[str | None], left: list[str]) -> None:
    assert pair(items, {name: {} for name in owned}) == (found, left)


def test_paths_are_readable() -> None:
    owned = {"f:spec": {"f:list": {'k:{"name":"a"}': {".": {}, "f:x": {}}}, "f:set": {'v:"q"': {}}}}
    assert list(not_sent(owned, {"spec": {"list": [{"name": "a"}], "set": []}})) == [
        "spec.list[name=a].x",
        'spec.set["q"]',
    ]
    assert list(not_sent(owned, {})) == ["spec"]
    assert list(not_ours({"spec": {"list": [{"name": "b"}], "a/b": 1}}, owned)) == ["spec.list[0]", 'spec."a/b"']


@pytest.mark.parametrize(
    ("wanted", "live", "equal"),
    [
        ("1000m", "1", True),
        (1, "1", True),
        ("1024Mi", "1Gi", True),
        ("0.5Gi", "512Mi", True),
        ("1e3", "1k", True),
        ("1", "2", False),
        ("x", "y", False),
        (1, True, False),
        (0, False, False),
        (True, True, True),
        (1.0, 1, True),
        ("1E", "1000P", True),
        ("1..2", "x", False),
    ],
)
def test_equal_amounts(wanted: Any, live: Any, equal: bool) -> None:
    assert same(wanted, live) is equal


def test_quantities() -> None:
    assert quantity(True) is None and quantity(None) is None and quantity("1 G") is None
    assert quantity("2Ki") == 2048


@pytest.mark.parametrize(
    ("wanted", "live", "expected"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, []),
        ({"a": {"b": {}}}, {}, []),
        ({"a": []}, {"a": None}, []),
        ({"a": {"b": 0}}, {}, []),
        ({"a": {"b": 1}}, {}, [Difference("a", ABSENT, {"b": 1})]),
        ({"a": "x"}, {"a": "y"}, [Difference("a", "y", "x")]),
        ({"a": [1, 2]}, {"a": [1]}, [Difference("a", [1], [1, 2])]),
        ({"a": [1, 2]}, {"a": [1, 3]}, [Difference("a[1]", 3, 2)]),
        (
            {"a": [{"name": "q", "v": 1}, {"name": "p"}]},
            {"a": [{"name": "p", "v": 9}, {"name": "q", "v": 2}]},
            [Difference("a[name=q].v", 2, 1)],
        ),
        ({"a": [{"name": "q"}]}, {"a": []}, [Difference("a[name=q]", ABSENT, {"name": "q"})]),
        ({"a": {"b": 1}}, {"a": 3}, [Difference("a", 3, {"b": 1})]),
    ],
)
def test_differences(wanted: Any, live: Any, expected: list[Difference]) -> None:
    assert list(differences(wanted, live)) == expected


def test_a_set_is_compared_as_one() -> None:
    owned = {"f:a": {'v:"x"': {}}}
    assert list(differences({"a": ["x", "y"]}, {"a": ["z", "x"]}, owned)) == [Difference("a[y]", ABSENT, "y")]


def test_prepare_cleans_up() -> None:
    [first, second] = prepare(
        [
            None,
            {
                "apiVersion": "v1",
                "kind": "ConfigMapList",
                "items": [
                    {
                        "apiVersion": "v1",
                        "kind": "ConfigMap",
                        "metadata": {"name": "a", "uid": "u", "creationTimestamp": None, "labels": {"x": None}},
                        "data": {"k": None, "l": [None, {"m": None}]},
                        "status": {},
                    }
                ],
            },
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "a"},
                "stringData": {"k": "v"},
                "data": {"k": "eA=="},
            },
        ]
    )
    assert first == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "a", "labels": {}},
        "data": {"l": [None, {}]},
    }
    assert second["data"] == {"k": "dg=="} and "stringData" not in second


@pytest.mark.parametrize(
    ("definition", "problem"),
    [
        ("text", "definition 1: must be a mapping, not str"),
        ({"kind": "Pod"}, "definition 1: apiVersion is missing"),
        ({"apiVersion": "v1", "kind": 3}, "definition 1: kind is missing"),
        (
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "x"}},
            "metadata.name of this Pod is missing",
        ),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": 1}}, "must be a string"),
        (
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": {"k": "geheim!"}},
            "Secret/x: data.k must be a base64 string",
        ),
        (
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "stringData": {"k": 4711}},
            "Secret/x: stringData.k must be a string",
        ),
    ],
)
def test_bad_definitions(definition: Any, problem: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        prepare([definition])
    assert problem in str(caught.value)
    assert "geheim" not in str(caught.value) and "4711" not in str(caught.value)


def test_all_bad_definitions_are_named() -> None:
    with pytest.raises(DefinitionError) as caught:
        prepare([thing(), thing(), {"kind": "X"}])
    assert caught.value.problems == ["Thing/n/x: defined twice", "definition 3: apiVersion is missing"]


def test_manifests_are_read_as_kubernetes_reads_them() -> None:
    documents = load("a: 2024-01-01\n---\n---\nb: =\n# c\n---\nc: true\n")
    assert documents == [{"a": "2024-01-01"}, {"b": "="}, {"c": True}]
    with pytest.raises(DefinitionError, match="not YAML"):
        load("a: [")
    with pytest.raises(DefinitionError, match="not YAML"):
        load("a: !!python/object/apply:os.system [true]")


def test_phases() -> None:
    kinds = ["ValidatingWebhookConfiguration", "Secret", "ServiceAccount", "CustomResourceDefinition", "Namespace"]
    assert sorted(kinds, key=lambda kind: phase({"kind": kind})) == list(reversed(kinds))


def test_generated_values() -> None:
    made = {generate(16) for _ in range(200)}
    assert len(made) == 200
    assert all(len(text) == 16 and text[0].isalnum() and text[-1].isalnum() for text in made)
    body = with_generated({"kind": "Secret", "data": {"user": "eA=="}}, {"password": 20})
    assert set(body["data"]) == {"user", "password"}


def test_diffs_hide_secrets_and_tell_them_apart() -> None:
    mask = Mask()
    change = Change(
        "Secret/n/s",
        UPDATE,
        True,
        (
            Difference("data.k", "b25l", "dHdv"),
            Difference("data", ABSENT, {"l": "dGhyZWU="}),
            Difference("type", "a", "b"),
        ),
    )
    shown = describe(change, mask)
    assert not {"b25l", "dHdv", "dGhyZWU="} & set(json.dumps(shown).split('"'))
    assert "b25l" not in str(shown) and "dHdv" not in str(shown) and "dGhyZWU=" not in str(shown)
    assert shown["before"].splitlines()[0] != shown["after"].splitlines()[0]
    assert 'type: "a"' in shown["before"]
    whole = describe(Change("Secret/n/s", CREATE, True, (Difference("", ABSENT, {"data": {"k": "b25l"}}),)), mask)
    assert "b25l" not in whole["after"] and "hidden" in whole["after"]
    # The same value has another mark in another run.
    assert Mask()("x") != Mask()("x")


def test_a_diff_is_never_empty_for_a_change() -> None:
    assert describe(Change("Thing/x", UPDATE, reason="other content"), Mask())["after"] == "(other content)\n"
    assert describe(Change("Thing/x", "deleted"), Mask())["before"] == "present\n"
