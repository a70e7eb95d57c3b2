# SPDX-License-Identifier: GPL-3.0-or-later
"""The data plane's pure functions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.gateway import aigateway, limits
from lab.gateway.authorino import KeyRing, credential_in, go_bytes, key_of
from lab.gateway.counters import Counter, CounterState, MemoryStore, Window, WindowState
from lab.gateway.endpoints import duration, quantity, resolve
from lab.gateway.expressions import ExpressionError, Scope, parse, query_map, select
from lab.gateway.model import (
    ActionSet,
    Address,
    AiRoute,
    ClientSettings,
    CostFormula,
    Credentials,
    Match,
    PathType,
    RequestView,
)
from lab.gateway.objects import Snapshot, Store, matches_labels, trimmed
from lab.gateway.plane import Comeback
from lab.gateway.policies import Part, effective, in_force, limit_set, seconds_of
from lab.gateway.routing import (
    build_virtual_hosts,
    entries_for,
    envoy_matches,
    find_action_set,
    kuadrant_matches,
    normalise_path,
    precedence,
    without_port,
)
from lab.gateway.translate import translate
from tests.lab.gateway_harness import (
    KUADRANT,
    MANAGED_BY,
    NAMESPACE,
    Clock,
    b64,
    gateway_doc,
    meta,
    service,
    tenant_secret,
)


def request(path: str = "/", host: str = "h", method: str = "GET", query: str = "", **headers: str) -> RequestView:
    return RequestView(method, host, path, query, {name.replace("_", "-"): value for name, value in headers.items()})


# --- where it listens -------------------------------------------------------------------------------


def test_behind_addresses_of_hosts_envoy_listens_in_its_pods() -> None:
    store, gateway = Store(), gateway_doc(80)
    store.put("Gateway", gateway)
    (_, envoy), slices = service("envoy-x", "envoy-gateway-system", 80, 10080, "10.1.0.7")
    owner = {"name": gateway["metadata"]["name"], "namespace": NAMESPACE}
    envoy["metadata"]["labels"] = {f"gateway.envoyproxy.io/owning-gateway-{key}": owner[key] for key in owner}
    store.put("Service", envoy)
    store.put(*slices)
    assert set(translate(store.snapshot()).ports) == {("127.0.0.1", 80)}
    gateway["spec"]["addresses"] = [{"value": "127.0.0.1"}]
    store.put("Gateway", gateway)
    assert set(translate(store.snapshot()).ports) == {("10.1.0.7", 10080)}


# --- paths and routes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("/v1/models", "/v1/models"),
        ("//v1///models", "/v1/models"),
        ("/v1/./models", "/v1/models"),
        ("/v1/x/../models", "/v1/models"),
        ("/../../v1", "/v1"),
        ("/v1/models/..", "/v1/"),
        ("/v1/%2e%2e/x", "/x"),
        ("/%76%31/models", "/v1/models"),
        ("/a%3fb", "/a%3Fb"),
    ],
)
def test_paths_are_normalised(path: str, expected: str) -> None:
    assert normalise_path(path, ClientSettings()).path == expected


@given(st.text(alphabet="/.%2eEfFa5cC?", max_size=24).map(lambda text: "/" + text))
def test_normalised_paths_hide_nothing(path: str) -> None:
    found = normalise_path(path.partition("?")[0], ClientSettings()).path
    assert found.startswith("/")
    assert "//" not in found
    assert not {".", ".."} & set(found.split("/"))


def test_paths_must_be_absolute() -> None:
    assert normalise_path("*", ClientSettings()).rejected
    assert normalise_path("v1/models", ClientSettings()).rejected


def test_kuadrants_prefixes_are_plain_text() -> None:
    match = Match(PathType.PREFIX, "/v1/models")
    assert not envoy_matches(match, request("/v1/modelsX"))
    assert kuadrant_matches(match, request("/v1/modelsX"))


def test_precedence_of_matches() -> None:
    exact, regex = Match(PathType.EXACT, "/a"), Match(PathType.REGEX, "/a.*")
    long, short = Match(PathType.PREFIX, "/a/b"), Match(PathType.PREFIX, "/a")
    posting = Match(PathType.PREFIX, "/a", method="POST")
    assert sorted([short, posting, long, regex, exact], key=precedence) == [exact, regex, long, posting, short]


def test_hosts() -> None:
    hosts = build_virtual_hosts({"A.test": [], "*.test": [], "*.b.test": []})
    assert entries_for(hosts, "a.TEST:80") == ()
    assert entries_for(hosts, "elsewhere") is None
    assert without_port("[::1]:80") == "[::1]"
    assert without_port("h:80") == "h"


def test_action_sets_are_found_by_the_exact_case() -> None:
    def actions(path: str) -> ActionSet:
        return ActionSet((), Match(PathType.PREFIX, path), None, None, None)

    named, wild, default = actions("/"), actions("/"), actions("/")
    index = {"api.test": (named,), "*.test": (wild,), "*": (default,)}
    assert find_action_set(index, request(host="api.test:80")) is named
    assert find_action_set(index, request(host="b.c.test")) is wild
    assert find_action_set(index, request(host="API.TEST")) is default
    # A host's own list hides the wider ones, even when nothing in it matches.
    assert find_action_set({"api.test": (actions("/v1"),), "*": (default,)}, request("/x", host="api.test")) is None
    assert find_action_set({"api.test": (named,)}, request(host="API.test")) is None


# --- expressions ----------------------------------------------------------------------------------

SCOPE = Scope({"request": {"headers": {"a-b": "x"}, "query": "a=1&b=2&a=3"}, "auth": {"identity": {"groups": "p,q"}}})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('auth.identity.groups.split(",").exists(g, g == "q")', True),
        ('"a,b,c".split(",", 2)', ["a", "b,c"]),
        ('request.headers["a-b"] == "x" && has(auth.identity.groups)', True),
        ('"hello".charAt(1) + "hello".substring(1, 3) + "hello".substring(3)', "eello"),
        ('"hello".indexOf("l") + "hello".lastIndexOf("l")', 5),
        ('["a", "b"].join("-") + " x ".trim() + "aXa".replace("X", "b", 1)', "a-bxaba"),
        ('"Ä" .lowerAscii() + "AB".lowerAscii() + "ab".upperAscii()', "ÄabAB"),
        ('queryMap(request.query)["b"]', "2"),
        ('"acme-1".matches("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")', True),
        ("true || auth.nothing", True),
    ],
)
def test_expressions(source: str, expected: Any) -> None:
    assert parse(source).evaluate(SCOPE) == expected


@pytest.mark.parametrize("source", ["auth.nothing", 'request.headers["none"]', "nothing(1)", '"a" + 1'])
def test_expressions_that_fail(source: str) -> None:
    with pytest.raises(ExpressionError):
        parse(source).evaluate(SCOPE)


def test_predicates_must_be_boolean() -> None:
    with pytest.raises(ExpressionError):
        parse('"yes"').holds(SCOPE)
    with pytest.raises(ExpressionError):
        parse("a ==")


def test_query_and_selectors() -> None:
    assert query_map("a=1&b&a=2%20") == {"a": ["1", "2 "], "b": ""}
    assert query_map("a=1&a=2", first_only=True) == {"a": "1"}
    assert select(r"a.b\.c/d.1", {"a": {"b.c/d": ["x", "y"]}}) == "y"
    assert select("a.none", {"a": {}}) == ""


# --- keys -----------------------------------------------------------------------------------------


class Reference:
    """Authorino's bookkeeping, written down as plainly as it is there: a scan for the Secret's name."""

    def __init__(self, selector: dict[str, Any]) -> None:
        self.selector, self.secrets = selector, {}  # type: ignore[var-annotated]

    def event(self, name: tuple[str, str], secret: Any) -> None:
        held = [key for key, doc in self.secrets.items() if doc["metadata"]["name"] == name[1]]
        wanted = secret is not None and matches_labels(
            secret["metadata"]["labels"], {"matchLabels": {MANAGED_BY: "authorino", **self.selector["matchLabels"]}}
        )
        if not wanted:
            for key in held:
                del self.secrets[key]
        elif held and held[0] == key_of(secret):
            pass
        else:
            for key in held:
                del self.secrets[key]
            if key_of(secret):
                self.secrets[key_of(secret)] = secret


EVENTS = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.sampled_from(["k1", "k2", ""]), st.sampled_from(["free", "pro"]), st.integers(0, 4)
    ),
    max_size=30,
)


@given(EVENTS)
def test_key_rings_behave_like_authorino(events: list[tuple[str, str, str, int]]) -> None:
    selector = {"matchLabels": {"app": "token-labs"}}
    ring, reference = KeyRing(selector, KUADRANT), Reference(selector)
    for name, key, tier, kind in events:
        labels: dict[str, str | None] = {MANAGED_BY: None} if kind == 1 else {"app": "other"} if kind == 2 else {}
        secret = None if kind == 0 else tenant_secret(name, key, tier, name, labels)
        ring.event((KUADRANT, name), secret)
        reference.event((KUADRANT, name), secret)
        assert ring.secrets == reference.secrets
        assert {held: key for key, doc in ring.secrets.items() for held in [(KUADRANT, doc["metadata"]["name"])]} == (
            ring.held
        )


def test_rebuild_takes_what_the_watch_does_not_see() -> None:
    ring = KeyRing({"matchLabels": {"app": "token-labs"}}, KUADRANT)
    stray = tenant_secret("s", "k", "free", "s", {MANAGED_BY: None})
    ring.event((KUADRANT, "s"), stray)
    assert not ring.secrets
    ring.rebuild([stray])
    assert list(ring.secrets) == ["k"]


def test_credentials_elsewhere() -> None:
    asked = request(query="key=q", x_key="h", cookie="c=v; d=w", authorization="APIKEY a b")
    assert credential_in(asked, Credentials("custom_header", "X-Key")) == "h"
    assert credential_in(asked, Credentials("query", "key")) == "q"
    assert credential_in(asked, Credentials("cookie", "d")) == "w"
    assert credential_in(asked, Credentials("header", "APIKEY")) == "a b"
    assert credential_in(asked, Credentials("header", "Bearer")) is None
    assert credential_in(asked, Credentials("cookie", "e")) is None


def test_static_values_as_go_prints_them() -> None:
    assert go_bytes("Bearer") == "[34 66 101 97 114 101 114 34]"


# --- policies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "seconds"), [("1m", 60), ("24h", 86400), ("1h30m", 5400), ("90s", 90), ("500ms", 0), ("1m500ms", 60)]
)
def test_windows(window: str, seconds: int) -> None:
    assert seconds_of(window) == seconds


def test_merging_along_the_way() -> None:
    above, below = {"a": 1, "b": 1}, {"b": 2, "c": 2}

    def merged(overrides: bool, merge: bool) -> Any:
        return effective([Part(above, overrides, merge), Part(below, overrides=False, merge=False)])

    assert merged(overrides=False, merge=False) == below
    assert merged(overrides=False, merge=True) == {"a": 1, "b": 2, "c": 2}
    assert merged(overrides=True, merge=False) == above
    assert merged(overrides=True, merge=True) == {"a": 1, "b": 1, "c": 2}
    assert effective([]) is None


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        ("True", "", True),
        ("False", "AuthPolicy waiting for the following components to sync: [Authorino]", True),
        ("False", "waiting for the following components to sync: [Authorino EnvoyPatchPolicy (a/b)]", False),
        ("False", "overridden", False),
    ],
)
def test_policies_in_force(status: str, message: str, expected: bool) -> None:
    conditions = [{"type": "Enforced", "status": status, "message": message}]
    assert in_force({"status": {"conditions": conditions}}) is expected
    assert not in_force({})


def test_a_limit_that_does_not_parse_is_dropped() -> None:
    rates = [{"limit": -3, "window": "1m"}]
    good = {"rates": rates, "__policy": "n/p"}
    found = limit_set("n/r", {"limits#b": {**good, "when": [{"predicate": "a =="}]}, "limits#a": good})
    assert found is not None
    assert [limit.name for limit in found.limits] == ["a"]
    assert found.limits[0].rates[0].limit == 0


# --- limits ---------------------------------------------------------------------------------------


def test_headers_name_the_tightest_limit_first() -> None:
    day = CounterState(Counter("d", 100, 86400, "free"), 10, 80000.9)
    minute = CounterState(Counter("m", 10, 60, "free"), 9, 30.5)
    assert limits.limitador_headers([day, minute]) == [
        ("x-ratelimit-limit", '10, 10;w=60;name="free", 100;w=86400;name="free"'),
        ("x-ratelimit-remaining", "1"),
        ("x-ratelimit-reset", "30"),
    ]
    over = WindowState(Window("k", 5, 60), 7, 20)
    assert (over.over, over.remaining) == (True, 0)
    assert WindowState(Window("k", 5, 60), 5, 20).over is False
    assert limits.global_headers([WindowState(Window("d", 50, 86400), 1, 9), over])[0] == (
        "x-ratelimit-limit",
        "5, 50;w=86400, 5;w=60",
    )


def test_windows_start_at_the_first_hit() -> None:
    clock = Clock()
    store = MemoryStore(clock)
    minute, day = Counter("m", 2, 60), Counter("d", 3, 86400)

    def hit() -> bool:
        return asyncio.run(store.check_and_add([minute, day], 1))[0]

    clock.now += 59
    assert [hit(), hit(), hit()] == [True, True, False]
    clock.now += 59
    assert not hit()
    clock.now += 2
    assert [hit(), hit()] == [True, False]  # the day is full; refused requests did not count
    assert [state.value for state in asyncio.run(store.read([minute, day]))] == [1, 3]


def test_costs() -> None:
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    formulas = {
        "in": CostFormula("InputToken"),
        "out": CostFormula("OutputToken"),
        "all": CostFormula("TotalToken"),
        "cached": CostFormula("CachedInputToken"),
        "price": CostFormula("CEL", parse('model == "m" ? input_tokens * 2 : output_tokens')),
        "broken": CostFormula("CEL", parse("nothing")),
    }
    route = AiRoute(("n", "r"), formulas)
    assert aigateway.costs_of(route, usage, "m") == {"in": 7, "out": 5, "all": 12, "cached": 3, "price": 14}
    assert aigateway.costs_of(route, None, "m") == {}


@given(st.integers(1, 40))
def test_usage_is_found_however_the_chunks_fall(size: int) -> None:
    data = b'data: {"choices":[]}\r\n\r\ndata: {"usage":{"total_tokens":9}}\n\ndata: [DONE]\n\n'
    reader = aigateway.UsageReader(streaming=True)
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
    reader.finish()
    assert reader.done
    assert reader.kuadrant_total() == 9


def test_kuadrant_reads_the_event_before_the_last() -> None:
    reader = aigateway.UsageReader(streaming=True)
    reader.feed(b'data: {"usage":{"total_tokens":9}}\n\ndata: {"choices":[]}\n\ndata: [DONE]\n\n')
    reader.finish()
    assert reader.usage == {"total_tokens": 9}
    assert reader.kuadrant_total() is None


def test_components_come_back_late() -> None:
    clock = Clock()
    component = Comeback(17, clock)
    assert not component.usable
    component.note(True)
    assert component.usable  # the first time at once
    component.note(False)
    component.note(False)
    assert not component.usable
    component.note(True)
    clock.now += 16
    assert not component.usable
    clock.now += 2
    assert component.usable


# --- objects --------------------------------------------------------------------------------------


def test_names_resolve_through_endpoints() -> None:
    store = Store()
    for kind, document in service("redis", "redis-system", 6379, 16379, "10.1.2.3"):
        store.put(kind, document)
    snapshot = store.snapshot()
    for host in ("redis.redis-system.svc.cluster.local", "redis.redis-system.svc", "redis.redis-system"):
        assert resolve(snapshot, host, 6379, "other") == Address("10.1.2.3", 16379)
    assert resolve(snapshot, "redis", 6379, "redis-system") == Address("10.1.2.3", 16379)
    assert resolve(snapshot, "redis", 6379, "other") is None
    assert resolve(snapshot, "redis.redis-system.svc", 1, "other") is None
    assert resolve(snapshot, "10.0.0.1", 1, "other") == Address("10.0.0.1", 1)
    assert resolve(snapshot, "api.example.com", 443, "other") == Address("api.example.com", 443)
    assert resolve(Snapshot({}), "redis.redis-system.svc", 6379, "x") is None


def test_selectors() -> None:
    labels = {"a": "1"}
    absent = {"key": "b", "operator": "DoesNotExist"}
    assert matches_labels(labels, {"matchLabels": {"a": "1"}, "matchExpressions": [absent]})
    assert not matches_labels(labels, {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]})
    assert not matches_labels(labels, {"matchExpressions": [{"key": "a", "operator": "Maybe"}]})


def test_little_is_kept_of_objects() -> None:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "x"}
    pod = {
        "metadata": {**meta("p"), "managedFields": [{}], "annotations": annotations},
        "spec": {"containers": [{}] * 5},
        "status": {"podIP": "1.2.3.4", "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other"}]},
    }
    kept = trimmed("Pod", pod)
    assert "spec" not in kept
    assert "managedFields" not in kept["metadata"]
    assert kept["metadata"]["annotations"] == {}
    assert kept["status"]["conditions"] == [{"type": "Ready", "status": "True"}]
    assert trimmed("Secret", {"metadata": meta("s"), "data": {"k": b64("v")}})["data"] == {"k": b64("v")}


def test_quantities_and_durations() -> None:
    assert [quantity(text, 1) for text in ("50Mi", "1k", "7", None, "x")] == [52428800, 1000, 7, 1, 1]
    assert [duration(text, 1.0) for text in ("200ms", "1m30s", "0s", None)] == [0.2, 90.0, 0.0, 1.0]
