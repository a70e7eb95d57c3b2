# SPDX-License-Identifier: GPL-3.0-or-later
"""What must always be true of the gateway, with the policies that the collection renders.

Each guarantee is a check through the gateway. Each guard is taken out of the documents once, and its guarantee must
break then: a check that no missing guard can break proves nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _policies as policies

from tests.lab.gateway_harness import (
    GATEWAY,
    KUADRANT,
    NAMESPACE,
    STATE,
    Answer,
    Doc,
    Lab,
    Make,
    ai_route,
    chat,
    costing,
    extension_filter,
    meta,
    models_route,
    route_doc,
    tenant_secret,
    true,
)
from tests.lab.test_gateway_verdicts import away_from_the_minute

pytest_plugins = ["tests.lab.gateway_fixtures"]

CHAT, TEXT, EMBED, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"
SPEC = policies.Spec(
    tiers={
        "free": {"requests": {"1m": 10, "24h": 500}, "tokens": {"1m": 5000, "24h": 50000}, "models": ["small"]},
        "pro": {"requests": {"1m": 100}, "tokens": {"1m": 50000}, "models": None},
    },
    # The model servers of these tests do not tell the usage of every stream, so completions are closed.
    paths=[CHAT, EMBED, MODELS],
    models={"small": "small", "large": "large"},
    gateway=GATEWAY,
    namespace=NAMESPACE,
)
API_KEY = {"tokenlabs.io/credential": "api-key"}
Documents = dict[tuple[str, str], Doc]


def secrets() -> list[tuple[str, Doc]]:
    return [
        ("Secret", tenant_secret(name, f"key-{name}", tier, tenant, {**API_KEY, **labels}))
        for name, tier, tenant, labels in (
            ("acme", "free", "acme", {}),
            ("other", "free", "other", {}),
            ("pro", "pro", "pros", {}),
            ("unknown", "gold", "golds", {}),
            ("two", "free,pro", "twos", {}),
            ("nobody", "pro", "", {}),
            ("suspended", "pro", "gone", {STATE: "suspended"}),
            ("backup", "pro", "saved", {"tokenlabs.io/credential": "backup"}),
        )
    ]


def rendered(spec: policies.Spec = SPEC) -> list[tuple[str, Doc]]:
    found = []
    for policy in policies.render(spec):
        status: Doc = {"conditions": true("Accepted", "Enforced")}
        if policy["kind"] == "BackendTrafficPolicy":
            status = {"ancestors": [{"conditions": true("Accepted")}]}
        metadata = {**meta(policy["metadata"]["name"]), "labels": policy["metadata"]["labels"]}
        found.append((policy["kind"], {"metadata": metadata, "spec": policy["spec"], "status": status}))
    return [each for each in found if each[0] != "TelemetryPolicy"]


def platform(lab: Lab, spec: policies.Spec = SPEC) -> Documents:
    documents = [*lab.base(), *secrets(), *lab.token_service(), *rendered(spec), *models_route(), *ai_route()]
    return {(kind, document["metadata"]["name"]): copy.deepcopy(document) for kind, document in documents}


def put(lab: Lab, documents: Documents) -> Lab:
    lab.put(*((kind, document) for (kind, _name), document in documents.items()))
    return lab


# --- guarantees -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guarantee:
    number: int  # in the design's list of what must always be true
    words: str
    check: Callable[[Lab], None]


GUARANTEES: dict[str, Guarantee] = {}


def guarantee(number: int, words: str) -> Callable[[Callable[[Lab], None]], Callable[[Lab], None]]:
    def note(check: Callable[[Lab], None]) -> Callable[[Lab], None]:
        GUARANTEES[check.__name__] = Guarantee(number, words, check)
        return check

    return note


@guarantee(1, "nobody comes in without a key, however the request is written")
def no_key(lab: Lab) -> None:
    asked = {
        "none": lab.chat(None),
        "wrong": lab.chat("key-wrong"),
        "lower-case scheme": lab.ask(CHAT, chat(), headers=[("Authorization", "bearer key-pro")]),
        "no scheme": lab.ask(CHAT, chat(), headers=[("Authorization", "key-pro")]),
        "in the query": lab.ask(f"{CHAT}?api_key=key-pro", chat()),
        "in another header": lab.ask(CHAT, chat(), headers=[("x-api-key", "key-pro")]),
        "?x=1": lab.ask(f"{CHAT}?x=1", chat()),
        "host": lab.ask(CHAT, chat(), host="api.lab.test"),
        "host in capitals": lab.ask(CHAT, chat(), host="API.LAB.TEST"),
        "host with port": lab.ask(CHAT, chat(), host="api.lab.test:8080"),
        "embeddings": lab.ask(EMBED, {"model": "small", "input": "a"}),
    }
    assert {name: answer.status for name, answer in asked.items()} == dict.fromkeys(asked, 401)
    assert all(model.stats.requests == 0 for model in lab.models.values())
    assert lab.chat("key-pro").status == 200


@guarantee(1, "the list of models needs a key")
def models_need_a_key(lab: Lab) -> None:
    assert lab.ask(MODELS).status == 401
    assert lab.ask(f"{MODELS}?x=1").status == 401
    assert lab.ask(MODELS, key="key-acme").status == 200


@guarantee(1, "a suspended key is none")
def suspended(lab: Lab) -> None:
    assert lab.chat("key-suspended").status == 401


@guarantee(1, "another credential that lies beside the keys is none")
def other_credentials(lab: Lab) -> None:
    assert lab.chat("key-backup").status == 401


@guarantee(1, "a key of an unknown tier, or of two, is refused")
def unknown_tier(lab: Lab) -> None:
    assert [lab.chat(f"key-{name}").status for name in ("unknown", "two")] == [403, 403]


@guarantee(1, "a key of nobody is refused: all nobodies would share one count")
def nobody(lab: Lab) -> None:
    assert lab.chat("key-nobody").status == 403


@guarantee(1, "a path that is not listed is closed")
def unlisted(lab: Lab) -> None:
    answer = lab.ask("/v1/responses", {"model": "small", "input": "x"}, key="key-pro")
    assert answer.status == 403
    assert answer.json["error"]["code"] == "permission_denied"


@guarantee(1, "a route added later is closed, even with a policy of its own that is open")
def later_route(lab: Lab) -> None:
    rule = {"matches": [{"path": {"type": "Exact", "value": CHAT}}], "filters": [extension_filter("models")]}
    target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "later"}
    opened = {"targetRef": target, "rules": {"authentication": {"all": {"anonymous": {}}}}}
    status = {"conditions": true("Accepted", "Enforced")}
    lab.put(
        ("HTTPRoute", route_doc("later", [rule])),
        ("AuthPolicy", {"metadata": meta("later"), "spec": opened, "status": status}),
    )
    assert lab.ask(CHAT).status == 401


@guarantee(1, "a tier is kept to its models, whatever the client says of the model")
def entitled(lab: Lab) -> None:
    assert lab.chat("key-acme", model="large").status == 403
    assert lab.ask(CHAT, chat("large"), key="key-acme", headers=[("x-ai-eg-model", "small")]).status == 403
    assert lab.chat("key-acme").status == 200
    assert lab.chat("key-pro", model="large").status == 200


@guarantee(2, "requests are limited for each tenant by itself")
def requests_limited(lab: Lab) -> None:
    statuses = [lab.chat("key-acme").status for _ in range(11)]
    assert statuses == [200] * 10 + [429]
    assert lab.ask(f"{CHAT}?x=1", chat(), key="key-acme").status == 429
    assert lab.chat("key-other").status == 200


def tokens_of(lab: Lab, tenant: str) -> int:
    """What either way has counted for a tenant in its longest window; the other's counter of requests is no token."""
    found = lab.redis.counters(f"*{tenant}*")
    envoy = [value for key, value in found.items() if "match-1" in key]
    kuadrant = [value for key, value in found.items() if "token-limits" in key]
    return max([*envoy, *kuadrant], default=0)


@guarantee(2, "every token is counted: streamed or not, with and without include_usage, with and without a query")
def every_token(lab: Lab) -> None:
    away_from_the_minute()
    asked = [
        (CHAT, costing(100), 100),
        (CHAT, costing(50, stream=True), 50),
        (CHAT, costing(60, stream=True, stream_options={"include_usage": False}), 60),
        (f"{CHAT}?x=1", costing(30), 30),
        (EMBED, {"model": "small", "input": ["a b c", "d e"]}, 5),
    ]
    total = 0
    for path, body, tokens in asked:
        assert lab.ask(path, body, key="key-acme").status == 200
        total += tokens
        assert tokens_of(lab, "acme") == total, (path, body)
    assert lab.spend(5000, "key-acme").status == 200
    assert lab.chat("key-acme").status == 429
    assert lab.chat("key-other").status == 200


@guarantee(2, "one count for all models of a tenant")
def one_count(lab: Lab) -> None:
    away_from_the_minute()
    assert lab.spend(50001, "key-pro", model="small").status == 200
    assert lab.chat("key-pro", model="large").status == 429


@guarantee(2, "nobody can have his tokens counted for somebody else")
def no_spoof(lab: Lab) -> None:
    away_from_the_minute()
    spoofed = [("x-tokenlabs-tenant", "pros"), ("x-tokenlabs-tier", "pro")]
    assert lab.ask(CHAT, costing(100), key="key-acme", headers=spoofed).status == 200
    assert tokens_of(lab, "acme") == 100
    assert tokens_of(lab, "pros") == 0


@guarantee(2, "what nobody can count is closed")
def countable(lab: Lab) -> None:
    body = {"model": "small", "prompt": "two words", "max_tokens": 500, "stream": True}
    answer = lab.ask(TEXT, body, key="key-acme")
    assert answer.status == 403 or tokens_of(lab, "acme") > 500


@guarantee(2, "no answer hangs because it is counted")
def ends(lab: Lab) -> None:
    for key in ("key-acme", "key-pro"):
        connection = lab.connect(timeout=0.7)
        try:
            statuses = [connection.ask(CHAT, chat(max_tokens=-1), key=key).status for _ in range(2)]
        except TimeoutError as error:
            raise AssertionError(f"{key}: the connection hangs") from error
        assert statuses == [400, 400]


@guarantee(2, "a limit that is reached is told in one form, whoever counts")
def told(lab: Lab) -> None:
    away_from_the_minute()

    def fine(answer: Answer) -> None:
        assert answer.status == 429
        assert answer.all("retry-after") == ["60"]
        assert answer.header("content-type") == "application/json"
        assert answer.json["error"]["code"] == "rate_limit_exceeded"

    lab.spend(5001, "key-acme")
    fine(lab.chat("key-acme"))
    for _ in range(10):
        lab.ask(MODELS, key="key-other")
    fine(lab.ask(MODELS, key="key-other"))


@guarantee(3, "a key goes nowhere but to the gateway")
def key_stays(lab: Lab) -> None:
    assert lab.chat("key-acme").status == 200
    assert lab.chat("key-pro", model="large", stream=True).status == 200
    assert [model.stats.foreign_credentials for model in lab.models.values()] == [0, 0]


@guarantee(4, "counts survive a restart of Limitador")
def counts_kept(lab: Lab) -> None:
    for _ in range(10):
        lab.ask(MODELS, key="key-acme")
    pod = lab.get("Pod", "limitador-1", KUADRANT)
    pod["metadata"]["uid"] = "another"
    lab.put(("Pod", pod))
    assert lab.ask(MODELS, key="key-acme").status == 429


# --- guards -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guard:
    words: str
    guards: str
    remove: Callable[[Documents], Any]


AUTH = ("AuthPolicy", policies.AUTH_POLICY)
REQUESTS = ("RateLimitPolicy", policies.REQUEST_LIMITS)
TOKENS = ("BackendTrafficPolicy", policies.TOKEN_LIMITS)
ROUTE = ("AIGatewayRoute", "llm-inference")


def rules(documents: Documents) -> Doc:
    return documents[AUTH]["spec"]["overrides"]["rules"]


def selector(documents: Documents) -> Doc:
    return rules(documents)["authentication"]["api-key"]["apiKey"]["selector"]["matchLabels"]


def token_rules(documents: Documents) -> list[Doc]:
    return documents[TOKENS]["spec"]["rateLimit"]["global"]["rules"]


def as_defaults(documents: Documents) -> None:
    spec = documents[AUTH]["spec"]
    spec["rules"] = spec.pop("overrides")["rules"]


def named_listener(documents: Documents) -> None:
    documents["Gateway", GATEWAY]["spec"]["listeners"][0]["hostname"] = "api.lab.test"


def open_path(documents: Documents) -> None:
    opened = rendered(replace(SPEC, paths=[*SPEC.paths, TEXT]))
    documents[AUTH] = dict(opened)["AuthPolicy"]


def foreign_filter(documents: Documents) -> None:
    target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "llm-inference"}
    document = {"metadata": meta("mine"), "spec": {"targetRefs": [target]}}
    documents["EnvoyExtensionPolicy", "mine"] = document


def several_limits(documents: Documents) -> None:
    """The other way of counting, whose hazard is known."""
    del documents[TOKENS]
    other = rendered(replace(SPEC, token_limits="kuadrant"))
    documents["TokenRateLimitPolicy", policies.TOKEN_LIMITS] = dict(other)["TokenRateLimitPolicy"]


def without_shared(documents: Documents) -> None:
    for rule in token_rules(documents):
        rule.pop("shared")


def without_cost(documents: Documents) -> None:
    for rule in token_rules(documents):
        rule["cost"].pop("response")


def without_answers(documents: Documents) -> None:
    documents[TOKENS]["spec"].pop("responseOverride")


def without_counters(documents: Documents) -> None:
    for limit in documents[REQUESTS]["spec"]["overrides"]["limits"].values():
        limit.pop("counters")


GUARDS = [
    Guard("the AuthPolicy", "no_key", lambda d: d.pop(AUTH)),
    Guard("no host name on the listener", "no_key", named_listener),
    Guard("no filter of somebody else", "no_key", foreign_filter),
    Guard("the route of its own for /v1/models", "models_need_a_key", lambda d: d.pop(("HTTPRoute", "models"))),
    Guard("the state in the selector", "suspended", lambda d: selector(d).pop(STATE)),
    Guard(
        "the kind of credential in the selector", "other_credentials", lambda d: selector(d).pop(next(iter(API_KEY)))
    ),
    Guard("the known tiers", "unknown_tier", lambda d: rules(d)["authorization"].pop("known-tier")),
    Guard("the form of a tenant", "nobody", lambda d: rules(d)["authorization"].pop("tenant-id-well-formed")),
    Guard("the list of paths", "unlisted", lambda d: rules(d)["authorization"].pop("metered-paths-only")),
    Guard("overrides in place of defaults", "later_route", as_defaults),
    Guard("the models of a tier", "entitled", lambda d: rules(d)["authorization"].pop("model-of-the-tier")),
    Guard("the RateLimitPolicy", "requests_limited", lambda d: d.pop(REQUESTS)),
    Guard("a counter for each tenant", "requests_limited", without_counters),
    Guard("the identity for the limits", "requests_limited", lambda d: rules(d)["response"]["success"].pop("filters")),
    Guard("the costs on the route", "every_token", lambda d: d[ROUTE]["spec"].pop("llmRequestCosts")),
    Guard("the token limits", "every_token", lambda d: d.pop(TOKENS)),
    Guard("the cost of an answer", "every_token", without_cost),
    Guard(
        "the tier in a header",
        "every_token",
        lambda d: rules(d)["response"]["success"]["headers"].pop(policies.TIER_HEADER),
    ),
    Guard("shared rules", "one_count", without_shared),
    Guard(
        "the tenant in a header",
        "no_spoof",
        lambda d: rules(d)["response"]["success"]["headers"].pop(policies.TENANT_HEADER),
    ),
    Guard("completions closed while nobody can count them", "countable", open_path),
    Guard("one way of counting without several token limits", "ends", several_limits),
    Guard("the form of a 429 on the models' route", "told", without_answers),
    Guard("the form of a 429 elsewhere", "told", lambda d: d.pop(("BackendTrafficPolicy", policies.ANSWERS))),
    Guard(
        "the header in place of the key",
        "key_stays",
        lambda d: rules(d)["response"]["success"]["headers"].pop("authorization"),
    ),
    Guard("Limitador's storage", "counts_kept", lambda d: d["Limitador", "limitador"]["spec"].pop("storage")),
]


@pytest.mark.parametrize("name", GUARANTEES)
def test_guarantee_holds(name: str, make: Make) -> None:
    lab = make()
    GUARANTEES[name].check(put(lab, platform(lab)))


# Of the other way of counting it is known that errors hang; all else holds.
@pytest.mark.parametrize("name", [name for name in GUARANTEES if name != "ends"])
def test_guarantee_holds_where_kuadrant_counts_tokens(name: str, make: Make) -> None:
    lab = make()
    GUARANTEES[name].check(put(lab, platform(lab, replace(SPEC, token_limits="kuadrant"))))


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.words.replace(" ", "-") for guard in GUARDS])
def test_without_its_guard_a_guarantee_breaks(guard: Guard, make: Make) -> None:
    lab = make()
    documents = platform(lab)
    before = copy.deepcopy(documents)
    guard.remove(documents)
    assert documents != before, "nothing was removed"
    put(lab, documents)
    with pytest.raises(AssertionError):
        GUARANTEES[guard.guards].check(lab)


def test_every_guarantee_has_a_guard(capsys: pytest.CaptureFixture[str]) -> None:
    guarded = {guard.guards for guard in GUARDS}
    assert guarded == set(GUARANTEES)
    with capsys.disabled():
        print(f"\n{len(GUARANTEES)} guarantees hold, each breaks without its guard ({len(GUARDS)} guards):")
        for name, each in GUARANTEES.items():
            needs = "; ".join(guard.words for guard in GUARDS if guard.guards == name)
            print(f"  {each.number}. {each.words} [{needs}]")
