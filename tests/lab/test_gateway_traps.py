# SPDX-License-Identifier: GPL-3.0-or-later
"""Careless configurations fail in the lab as they would on the real components; sound ones work."""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.gateway.translate import translate
from tests.lab.gateway_harness import (
    GATEWAY,
    KUADRANT,
    NAMESPACE,
    TIERS,
    Doc,
    Lab,
    Make,
    ai_route,
    auth_policy,
    b64,
    chat,
    costing,
    extension_filter,
    meta,
    plain_route,
    request_policy,
    route_doc,
    service,
    tenant_secret,
    token_policy,
    traffic_policy,
    true,
)
from tests.ports import free_port

pytest_plugins = ["tests.lab.gateway_fixtures"]

CHAT, MODELS = "/v1/chat/completions", "/v1/models"


def open_policy(name: str, target: Doc, **spec: Any) -> Doc:
    """An AuthPolicy that lets everybody in."""
    rules: Doc = {"authentication": {"anyone": {"anonymous": {}}}}
    return {
        "metadata": meta(name, creationTimestamp="2026-02-01T00:00:00Z"),
        "spec": {"targetRef": {"group": "gateway.networking.k8s.io", **target}, **(spec or {"rules": rules})},
        "status": {"conditions": true("Accepted", "Enforced")},
    }


# --- what opens the gateway -----------------------------------------------------------------------


def test_without_policy_filter_or_enforcement_everything_passes(make: Make) -> None:
    lab = make().standard()
    assert lab.chat(None).status == 401
    lab.remove("AuthPolicy", "token-labs-auth")
    assert lab.chat(None).status == 200
    lab.put(("AuthPolicy", auth_policy()))
    assert lab.chat(None).status == 401
    lab.remove("EnvoyExtensionPolicy", f"kuadrant-{GATEWAY}")
    assert lab.chat(None).status == 200
    lab.put(*lab.kuadrant_objects("EnvoyExtensionPolicy"))
    policy = auth_policy()
    policy["status"] = {"conditions": true("Accepted")}
    lab.put(("AuthPolicy", policy))
    assert lab.chat(None).status == 200


def test_missing_clusters_deny_by_auth_and_allow_by_limits(make: Make) -> None:
    lab = make().standard()
    lab.remove("EnvoyPatchPolicy", f"kuadrant-auth-{GATEWAY}")
    assert lab.chat("key-pro").status == 500
    lab.put(*lab.kuadrant_objects("EnvoyPatchPolicy"))
    lab.remove("EnvoyPatchPolicy", f"kuadrant-ratelimiting-{GATEWAY}")
    answers = [lab.chat("key-acme") for _ in range(TIERS["free"] + 1)]
    assert {answer.status for answer in answers} == {200}


def test_a_foreign_extension_policy_replaces_the_filter(make: Make) -> None:
    lab = make().standard()
    target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "llm-inference"}
    foreign = {"metadata": meta("foreign"), "spec": {"targetRefs": [target]}}
    lab.put(("EnvoyExtensionPolicy", foreign))
    assert lab.chat(None).status == 200
    assert lab.ask(MODELS).status == 401
    lab.remove("EnvoyExtensionPolicy", "foreign")
    assert lab.chat(None).status == 401
    older = {
        "metadata": meta("foreign", creationTimestamp="2025-01-01T00:00:00Z"),
        "spec": {"targetRefs": [{**target, "kind": "Gateway", "name": GATEWAY}]},
    }
    lab.put(("EnvoyExtensionPolicy", older))
    assert lab.ask(MODELS).status == 200


def test_rules_are_replaced_by_a_route_policy_and_overrides_are_not(make: Make) -> None:
    lab = make().standard()
    lab.put(("AuthPolicy", open_policy("open", {"kind": "HTTPRoute", "name": "llm-inference"})))
    assert lab.chat(None).status == 401
    policy = auth_policy()
    policy["spec"]["rules"] = policy["spec"].pop("overrides")["rules"]
    lab.put(("AuthPolicy", policy))
    assert lab.chat(None).status == 200
    assert lab.ask(MODELS).status == 401


def test_defaults_merge_keeps_what_the_route_does_not_name(make: Make) -> None:
    lab = make().standard()
    policy = auth_policy()
    policy["spec"]["defaults"] = {**policy["spec"].pop("overrides"), "strategy": "merge"}
    deny = {"authorization": {"never": {"patternMatching": {"patterns": [{"predicate": "false"}]}}}}
    route = open_policy("more", {"kind": "HTTPRoute", "name": "llm-inference"}, rules=deny)
    lab.put(("AuthPolicy", policy), ("AuthPolicy", route))
    assert lab.chat(None).status == 401
    assert lab.chat("key-pro").status == 403
    assert lab.ask(MODELS, key="key-pro").status == 200


def test_request_path_includes_the_query(make: Make) -> None:
    lab = make().standard(tokens="none")
    policy = request_policy()
    for limit in policy["spec"]["overrides"]["limits"].values():
        limit["when"].append({"predicate": f'request.path == "{CHAT}"'})
    lab.put(("RateLimitPolicy", policy))
    for number in range(TIERS["free"] + 3):
        assert lab.ask(f"{CHAT}?x={number}", chat(), key="key-acme").status == 200
    assert [lab.chat("key-acme").status for _ in range(TIERS["free"] + 1)][-1] == 429


def test_counters_are_per_route(make: Make) -> None:
    lab = make().standard(tokens="none")
    assert [lab.chat("key-acme").status for _ in range(TIERS["free"] + 1)][-1] == 429
    assert lab.ask(MODELS, key="key-acme").status == 200


def test_a_predicate_that_fails_lifts_the_limit(make: Make) -> None:
    lab = make().standard(tokens="none")
    policy = request_policy()
    policy["spec"]["overrides"]["limits"]["free"]["counters"] = [{"expression": "auth.identity.nobody"}]
    lab.put(("RateLimitPolicy", policy))
    assert {lab.chat("key-acme").status for _ in range(TIERS["free"] + 3)} == {200}
    # A good policy in the same place limits again.
    lab.put(("RateLimitPolicy", request_policy()))
    assert [lab.chat("key-acme").status for _ in range(TIERS["free"] + 1)][-1] == 429


def test_limits_without_identity_run_before_authentication(make: Make) -> None:
    lab = make().standard(tokens="none")
    policy = request_policy()
    everybody = {"rates": [{"limit": 2, "window": "1m"}]}
    policy["spec"]["overrides"] = {"limits": {"everybody": everybody}}
    lab.put(("RateLimitPolicy", policy))
    assert [lab.chat("key-wrong").status for _ in range(3)] == [401, 401, 429]


def test_counters_in_memory_go_with_limitadors_pod(make: Make) -> None:
    lab = make().standard(tokens="none")
    lab.put(("Limitador", lab.limitador(redis=False)))
    assert [lab.chat("key-acme").status for _ in range(TIERS["free"] + 1)][-1] == 429
    assert lab.redis.value("*acme*") == 0
    pod = lab.get("Pod", "limitador-1", KUADRANT)
    pod["metadata"]["uid"] = "after a restart"
    lab.put(("Pod", pod))
    assert lab.chat("key-acme").status == 200


def test_counters_in_redis_survive(make: Make) -> None:
    lab = make().standard(tokens="none")
    assert [lab.chat("key-acme").status for _ in range(TIERS["free"] + 1)][-1] == 429
    pod = lab.get("Pod", "limitador-1", KUADRANT)
    pod["metadata"]["uid"] = "after a restart"
    lab.put(("Pod", pod))
    assert lab.chat("key-acme").status == 429


def test_headers_of_limits_only_when_asked_for(make: Make) -> None:
    lab = make().standard(tokens="none")
    lab.put(("Limitador", lab.limitador(headers=False)))
    assert lab.chat("key-acme").header("x-ratelimit-limit") is None
    lab.put(("Limitador", lab.limitador()))
    lab.put(("BackendTrafficPolicy", traffic_policy()))
    assert len(lab.chat("key-acme").all("x-ratelimit-limit")) == 2
    settings = {
        "metadata": meta("quiet"),
        "spec": {"targetRefs": [{"kind": "Gateway", "name": GATEWAY}], "headers": {"disableRateLimitHeaders": True}},
    }
    lab.put(("ClientTrafficPolicy", settings))
    assert len(lab.chat("key-acme").all("x-ratelimit-limit")) == 1


# --- token limits ---------------------------------------------------------------------------------


def test_rules_that_are_not_shared_count_per_model(make: Make) -> None:
    lab = make().standard(tokens="none")
    lab.put(("BackendTrafficPolicy", traffic_policy(shared=False)))
    assert lab.spend(6000, "key-acme", model="small").status == 200
    assert lab.chat("key-acme", model="small").status == 429
    assert lab.spend(6000, "key-acme", model="large").status == 200
    lab.put(("BackendTrafficPolicy", traffic_policy(shared=True)))
    lab.redis.command("FLUSHALL")
    assert lab.spend(6000, "key-acme", model="small").status == 200
    assert lab.chat("key-acme", model="large").status == 429


def test_without_costs_on_the_route_nothing_is_counted(make: Make) -> None:
    lab = make().standard()
    lab.put(*ai_route(costs=False))
    assert [lab.spend(6000, "key-acme").status for _ in range(3)] == [200, 200, 200]
    answer = lab.ask(CHAT, chat(stream=True), key="key-acme")
    assert b'"usage"' not in answer.body


def test_a_policy_that_envoy_gateway_cannot_honour_closes_its_route(make: Make) -> None:
    lab = make().standard()
    config = lab.get("ConfigMap", "envoy-gateway-config", "envoy-gateway-system")
    document = yaml.safe_load(config["data"]["envoy-gateway.yaml"])
    del document["rateLimit"]
    config["data"]["envoy-gateway.yaml"] = yaml.safe_dump(document)
    lab.put(("ConfigMap", config))
    assert lab.chat("key-pro").status == 500
    assert lab.ask(MODELS, key="key-pro").status == 200


def test_shadow_rules_count_but_let_pass(make: Make) -> None:
    lab = make().standard()
    policy = traffic_policy()
    for rule in policy["spec"]["rateLimit"]["global"]["rules"]:
        rule["shadowMode"] = True
    lab.put(("BackendTrafficPolicy", policy))
    assert [lab.spend(6000, "key-acme").status for _ in range(3)] == [200, 200, 200]
    assert lab.redis.value("*match-1_acme*") == 36000


def test_request_costs_limit_requests(make: Make) -> None:
    lab = make().standard(tokens="none")
    policy = traffic_policy()
    policy["spec"]["rateLimit"]["global"]["rules"] = [{"limit": {"requests": 2, "unit": "Hour"}}]
    lab.put(("BackendTrafficPolicy", policy))
    assert [lab.chat("key-pro").status for _ in range(3)] == [200, 200, 429]


def test_only_the_first_matching_token_limit_is_checked_in_time(make: Make) -> None:
    lab = make().standard(tokens="none")
    policy = token_policy(["free"])
    policy["spec"]["limits"]["zz-all"] = {
        "rates": [{"limit": 10, "window": "1m"}],
        "counters": [{"expression": "auth.identity.userid"}],
    }
    lab.put(("TokenRateLimitPolicy", policy))
    assert [lab.spend(100, "key-acme").status for _ in range(3)] == [200, 200, 200]
    policy["spec"]["limits"]["aa-all"] = policy["spec"]["limits"].pop("zz-all")
    lab.put(("TokenRateLimitPolicy", policy))
    assert [lab.spend(100, "key-acme").status for _ in range(2)] == [200, 429]


# --- keys -----------------------------------------------------------------------------------------


def test_two_tenants_with_one_key(make: Make) -> None:
    lab = make().standard()
    lab.put(("Secret", tenant_secret("twin", "key-acme", "pro", "twin")))
    assert lab.chat("key-acme").status == 200
    assert lab.models["small"].stats.last_tenant == "twin"
    lab.remove("Secret", "twin", KUADRANT)
    assert lab.chat("key-acme").status == 401  # although the other Secret still holds it


def test_newlines_and_empty_keys(make: Make) -> None:
    lab = make().standard()
    lab.put(("Secret", tenant_secret("n", "key-n\n", "free", "n")), ("Secret", tenant_secret("e", "", "free", "e")))
    assert lab.chat("key-n").status == 401
    assert lab.ask(CHAT, chat(), headers=[("Authorization", "Bearer ")]).status == 401
    lab.put(("Secret", tenant_secret("tenant-acme-1", "", "free", "acme")))
    assert lab.chat("key-acme").status == 401


def test_a_wide_selector_lets_other_credentials_in(make: Make) -> None:
    lab = make().standard()
    backup = tenant_secret("backup", "key-old", "free", "acme", {"tokenlabs.io/state": None})
    lab.put(("Secret", backup))
    assert lab.chat("key-old").status == 401
    policy = auth_policy()
    keys = policy["spec"]["overrides"]["rules"]["authentication"]["keys"]
    keys["apiKey"]["selector"] = {"matchLabels": {"app": "token-labs"}}
    lab.put(("AuthPolicy", policy))
    assert lab.chat("key-old").status == 200


def test_secrets_of_other_namespaces_need_all_namespaces(make: Make) -> None:
    lab = make().standard()
    stray = tenant_secret("stray", "key-stray", "enterprise", "stray")
    stray["metadata"]["namespace"] = NAMESPACE
    lab.put(("Secret", stray))
    assert lab.chat("key-stray").status == 401
    policy = auth_policy()
    policy["spec"]["overrides"]["rules"]["authentication"]["keys"]["apiKey"]["allNamespaces"] = True
    lab.put(("AuthPolicy", policy))
    assert lab.chat("key-stray").status == 200


def test_policies_by_model(make: Make) -> None:
    """The filter sees the model that the AI gateway wrote, not the one that the client claims."""
    lab = make().standard()
    policy = auth_policy()
    predicate = 'request.headers["x-ai-eg-model"] == "small" || auth.identity.tier != "free"'
    rules = policy["spec"]["overrides"]["rules"]
    rules["authorization"]["models"] = {"patternMatching": {"patterns": [{"predicate": predicate}]}}
    lab.put(("AuthPolicy", policy))
    assert lab.chat("key-acme", model="small").status == 200
    assert lab.chat("key-acme", model="large").status == 403
    assert lab.chat("key-pro", model="large").status == 200
    claimed = [("x-ai-eg-model", "small")]
    assert lab.ask(CHAT, chat("large"), key="key-acme", headers=claimed).status == 403


def test_conditions_of_the_policy_itself(make: Make) -> None:
    lab = make().standard()
    policy = auth_policy()
    policy["spec"]["overrides"]["when"] = [{"predicate": 'request.headers["x-check"] == "yes"'}]
    lab.put(("AuthPolicy", policy))
    assert lab.chat(None).status == 200
    assert lab.ask(CHAT, chat(), headers=[("x-check", "yes")]).status == 401


def test_older_selectors_and_unknown_rules(make: Make) -> None:
    lab = make().standard()
    policy = auth_policy()
    rules = policy["spec"]["overrides"]["rules"]
    selector = "auth.identity.metadata.annotations.kuadrant\\.io/groups"
    rules["authorization"]["tier"] = {
        "patternMatching": {"patterns": [{"selector": selector, "operator": "eq", "value": "pro"}]}
    }
    lab.put(("AuthPolicy", policy))
    assert lab.chat("key-pro").status == 200
    assert lab.chat("key-acme").status == 403
    rules["authorization"]["opa"] = {"opa": {"rego": "allow { true }"}}
    lab.put(("AuthPolicy", policy))
    assert lab.chat("key-pro").status == 403  # not evaluated here, so never fulfilled


# --- the AI gateway -------------------------------------------------------------------------------


def test_unknown_models_and_bodies(make: Make) -> None:
    lab = make().standard()
    assert lab.chat("key-pro", model="nobody").status == 404
    assert lab.chat(None, model="nobody").status == 401
    assert lab.ask(CHAT, b"{", key=None).status == 500
    assert lab.ask(CHAT, {"model": 7}, key="key-pro").status == 500
    assert lab.ask(CHAT, method="GET", key="key-pro").status == 404
    assert lab.ask("/v1/files").body == b"unsupported path: /v1/files"


def test_large_bodies_need_a_larger_buffer(make: Make) -> None:
    lab = make().standard()
    assert lab.chat("key-big", words=10000).status == 413
    assert lab.chat(None, words=10000).status == 413
    settings = {
        "metadata": meta("buffers"),
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY}],
            "connection": {"bufferLimit": "50Mi"},
        },
    }
    lab.put(("ClientTrafficPolicy", settings))
    assert lab.chat("key-big", words=10000).status == 200
    assert lab.chat(None, words=10000).status == 401


def test_each_model_has_its_pool(make: Make) -> None:
    lab = make().standard()
    for model in ("small", "large"):
        answer = lab.chat("key-pro", model=model)
        assert answer.json["model"] == model
    assert [server.stats.requests for server in lab.models.values()] == [1, 1]


def test_workers_come_and_go(make: Make) -> None:
    lab = make().standard()
    pod = lab.get("Pod", "ms-small-1")
    pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    lab.put(("Pod", pod))
    assert lab.chat("key-pro").status == 503
    lab.put(("Pod", {**pod, "status": {**pod["status"], "conditions": true("Ready")}}))
    assert lab.chat("key-pro").status == 200
    lab.remove("EndpointSlice", "epp-small-x")
    assert lab.chat("key-pro").status == 500
    pool = lab.get("InferencePool", "pool-small")
    pool["spec"]["endpointPickerRef"]["failureMode"] = "FailOpen"
    lab.put(("InferencePool", pool))
    assert lab.chat("key-pro").status == 200
    lab.remove("InferencePool", "pool-small")
    assert lab.chat("key-pro").status == 500


def test_requests_spread_over_the_workers_of_a_pool(make: Make) -> None:
    lab = make(event_delay=0.02).standard()
    second = lab.get("Pod", "ms-large-1")
    second["metadata"].update(name="ms-small-2", labels={"llm-d.ai/model": "small"})
    second["status"]["podIP"] = "127.0.0.2"
    lab.put(("Pod", second))
    entries = lab.plane.config.ports["127.0.0.1", lab.port].hosts.default or ()
    entry = next(entry for entry in entries if entry.backends and entry.backends[0].name[1] == "pool-small")
    assert {address.host for address in entry.backends[0].addresses} == {"127.0.0.1", "127.0.0.2"}
    first = lab.plane.choose(entry)
    assert isinstance(first, tuple)
    lab.plane.inflight[first[1]] += 1
    other = lab.plane.choose(entry)
    assert isinstance(other, tuple)
    assert other[1] != first[1]


# --- routes ---------------------------------------------------------------------------------------


def rule(path: str, path_type: str = "PathPrefix", filters: list[Doc] | None = None, **more: Any) -> Doc:
    backend = {"backendRefs": [{"name": "ms-small", "port": 8000}]}
    return {"matches": [{"path": {"type": path_type, "value": path}}], "filters": filters or [], **backend, **more}


def status_filter(status: int) -> tuple[str, Doc]:
    return "HTTPRouteFilter", {"metadata": meta(f"say-{status}"), "spec": {"directResponse": {"statusCode": status}}}


def test_the_most_exact_route_wins(make: Make) -> None:
    lab = make()
    codes = {"/": 210, "/a": 211, "/a/b": 212}
    rules = [rule(path, filters=[extension_filter(f"say-{code}")]) for path, code in codes.items()]
    rules.append(rule("/a/b", "Exact", [extension_filter("say-213")]))
    rules.append(rule("/a/[0-9]+", "RegularExpression", [extension_filter("say-214")]))
    by_header = rule("/a/b", filters=[extension_filter("say-215")])
    by_header["matches"][0]["headers"] = [{"name": "X-Kind", "value": "h"}]
    by_method = rule("/a/b", filters=[extension_filter("say-216")])
    by_method["matches"][0]["method"] = "DELETE"
    lab.put(
        *lab.base(),
        *[status_filter(code) for code in range(210, 217)],
        ("HTTPRoute", route_doc("r", [*rules, by_header, by_method])),
    )
    asked: dict[tuple[str, str, str], int] = {
        ("GET", "/", ""): 210,
        ("GET", "/ab", ""): 210,
        ("GET", "/a", ""): 211,
        ("GET", "/a/", ""): 211,
        ("GET", "/a/b", ""): 213,
        ("GET", "/a/b/c", ""): 212,
        ("GET", "/a/bc", ""): 211,
        ("GET", "/a/77", ""): 214,
        ("GET", "/a/b/c", "h"): 215,
        ("DELETE", "/a/b/c", "h"): 216,
    }
    for (method, path, header), code in asked.items():
        answer = lab.ask(path, method=method, headers=[("x-kind", header)] if header else [])
        assert answer.status == code, (method, path, header)


def test_hosts_choose_the_virtual_host(make: Make) -> None:
    lab = make()
    lab.put(
        *lab.base(),
        *[status_filter(code) for code in (210, 211, 212)],
        ("HTTPRoute", route_doc("any", [rule("/", filters=[extension_filter("say-210")])])),
        ("HTTPRoute", route_doc("wild", [rule("/", filters=[extension_filter("say-211")])], ["*.lab.test"])),
        ("HTTPRoute", route_doc("one", [rule("/x", filters=[extension_filter("say-212")])], ["one.lab.test"])),
    )
    assert lab.ask("/x", host="other.test").status == 210
    assert lab.ask("/x", host="TWO.lab.test:80").status == 211
    assert lab.ask("/x", host="lab.test").status == 210
    assert lab.ask("/x", host="one.lab.test").status == 212
    assert lab.ask("/y", host="one.lab.test").status == 404  # a virtual host of its own


def test_routes_need_their_gateways_acceptance(make: Make) -> None:
    lab = make().standard(way="A", tokens="none")
    route = plain_route()
    route["status"] = {}
    lab.put(("HTTPRoute", route))
    assert lab.chat("key-pro").status == 404
    lab.put(("HTTPRoute", plain_route()))
    assert lab.chat("key-pro").status == 200


def test_filters_of_plain_routes(make: Make) -> None:
    lab = make()
    rewrite = {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/health"}}}
    prefix = {
        "type": "URLRewrite",
        "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v1"}},
    }
    redirect = {"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "port": 8443, "statusCode": 301}}
    removed = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["Authorization"]}}
    via = {"set": [{"name": "X-Via", "value": "lab"}]}
    answered = {"type": "ResponseHeaderModifier", "responseHeaderModifier": via}
    lab.put(
        *lab.base(),
        (
            "HTTPRoute",
            route_doc(
                "r",
                [
                    rule("/well", filters=[rewrite, answered]),
                    rule("/api", filters=[prefix, removed]),
                    rule("/old", filters=[redirect]),
                    rule("/missing", filters=[extension_filter("nowhere")]),
                    rule("/gone", backendRefs=[{"name": "nobody", "port": 1}]),
                ],
            ),
        ),
    )
    well = lab.ask("/well/there")
    assert (well.status, well.header("x-via")) == (200, "lab")
    assert lab.ask("/api/chat/completions", chat(), key="secret").status == 200
    assert lab.models["small"].stats.foreign_credentials == 0
    moved = lab.ask("/old/place?x=1")
    assert (moved.status, moved.header("location")) == (301, "https://gateway.test:8443/old/place?x=1")
    assert lab.ask("/missing").status == 500
    assert lab.ask("/gone").status == 500


def test_credentials_are_injected_after_authentication(make: Make) -> None:
    lab = make().standard(tokens="none")
    injection: Doc = {"credential": {"valueRef": {"name": "upstream"}}}
    policy = auth_policy()
    rules = policy["spec"]["overrides"]["rules"]
    del rules["response"]["success"]["headers"]["authorization"]
    del rules["authorization"]["paths"]
    inject = ("HTTPRouteFilter", {"metadata": meta("inject"), "spec": {"credentialInjection": injection}})
    path = {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": CHAT}}}
    lab.put(
        ("AuthPolicy", policy),
        inject,
        ("HTTPRoute", route_doc("audio", [rule("/audio", "Exact", [path, extension_filter("inject")])])),
    )
    stats = lab.models["small"].stats
    assert lab.ask("/audio", chat(), key="key-pro").status == 500  # no Secret: closed
    # The model server calls every Authorization foreign but the redacted one: that is what is injected here.
    lab.put(("Secret", {"metadata": meta("upstream"), "data": {"credential": b64("Bearer redacted")}}))
    assert lab.ask("/audio", chat()).status == 401
    assert lab.ask("/audio", chat(), key="key-pro").status == 200
    assert stats.foreign_credentials == 1  # without overwrite the tenant's key is kept
    injection["overwrite"] = True
    lab.put(inject)
    assert lab.ask("/audio", chat(), key="key-pro").status == 200
    assert stats.foreign_credentials == 1


def test_services_of_workers_are_used_by_their_ready_endpoints(make: Make) -> None:
    lab = make().standard(way="A", tokens="none")
    documents = service("ms-small", NAMESPACE, 8000, lab.model_ports["small"])
    documents[1][1]["endpoints"][0]["conditions"]["ready"] = False
    lab.put(*documents)
    answer = lab.chat("key-pro")
    assert (answer.status, answer.body) == (503, b"no healthy upstream")


def test_slow_backends_time_out(make: Make) -> None:
    lab = make(event_delay=0.3)
    lab.put(*lab.base(), ("HTTPRoute", route_doc("r", [rule("/v1", timeouts={"request": "200ms"})])))
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        lab.put(*service("ms-small", NAMESPACE, 8000, deaf.getsockname()[1]))
        answer = lab.ask(CHAT, chat())
        assert (answer.status, answer.body) == (504, b"upstream request timeout")
    lab.put(*service("ms-small", NAMESPACE, 8000, lab.model_ports["small"]))
    with pytest.raises(http.client.IncompleteRead):
        lab.ask(CHAT, chat(stream=True, tokens=16))


def test_path_settings_of_the_listener(make: Make) -> None:
    lab = make().standard()
    target = [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY}]
    for action, status in (("RejectRequest", 400), ("KeepUnchanged", 404), ("UnescapeAndForward", 200)):
        spec = {"targetRefs": target, "path": {"escapedSlashesAction": action, "disableMergeSlashes": True}}
        lab.put(("ClientTrafficPolicy", {"metadata": meta("paths"), "spec": spec}))
        assert lab.ask("/v1%2fmodels", key="key-pro").status == status, action
    assert lab.ask("//v1/models", key="key-pro").status == 404


# --- listeners ------------------------------------------------------------------------------------


def test_a_gateway_that_is_not_programmed_is_not_served(make: Make) -> None:
    lab = make().standard()
    gateway = lab.get("Gateway", GATEWAY)
    gateway["status"]["conditions"] = [{"type": "Programmed", "status": "False"}]
    lab.put(("Gateway", gateway))
    with pytest.raises(OSError):
        lab.ask(MODELS)
    gateway["status"]["conditions"] = true("Programmed")
    lab.put(("Gateway", gateway))
    assert lab.ask(MODELS).status == 401


def test_https_listeners(make: Make, tmp_path: Path) -> None:
    lab = make().standard()
    key, certificate = tmp_path / "key", tmp_path / "crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=gateway.test"]
        + ["-addext", "subjectAltName=DNS:gateway.test", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    port = free_port()
    gateway = lab.get("Gateway", GATEWAY)
    gateway["spec"]["listeners"].append(
        {
            "name": "https",
            "port": port,
            "protocol": "HTTPS",
            "tls": {"certificateRefs": [{"name": "gateway-tls"}]},
            "allowedRoutes": {"namespaces": {"from": "All"}},
        }
    )
    lab.put(("Gateway", gateway))
    assert (NAMESPACE, "gateway-tls") in lab.plane.config.secrets
    assert ("127.0.0.1", port) not in lab.plane.config.ports  # not without its certificate
    data = {"tls.crt": b64(certificate.read_text()), "tls.key": b64(key.read_text())}
    lab.put(("Secret", {"metadata": meta("gateway-tls"), "data": data}))
    answer = subprocess.run(
        ["curl", "-sS", "--cacert", str(certificate), "--resolve", f"gateway.test:{port}:127.0.0.1"]
        + ["-o", str(tmp_path / "out"), "-w", "%{http_code}", f"https://gateway.test:{port}/v1/models"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert answer.stdout == "401"


def test_an_address_that_comes_late(make: Make) -> None:
    """A port that is taken stands for an address that is not there yet: the listener waits for it."""
    lab = make()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", lab.port))
        taken.listen()

        async def put() -> None:
            for kind, document in [*lab.base(), ("HTTPRoute", plain_route())]:
                lab.store.put(kind, document)
            await lab.plane.apply(translate(lab.store.snapshot()), lambda: [])
            await lab.listeners.reconcile()

        lab.run(put())
        time.sleep(0.1)
        assert not lab.listeners.bound
    lab.sync()
    assert lab.chat(None).status == 200


def test_expect_continue_and_chunked_bodies(make: Make) -> None:
    lab = make().standard()
    body = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-pro\r\nContent-Type: application/json\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", lab.port), timeout=5) as sock:
        sock.sendall(head + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body))
        assert sock.recv(4096).startswith(b"HTTP/1.1 100")
        sock.sendall(body)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")
    with socket.create_connection(("127.0.0.1", lab.port), timeout=5) as sock:
        sock.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_request_costs_little(make: Make) -> None:
    """Client, gateway and model server share this process, so the bound is generous."""
    lab = make().standard()
    connection = lab.connect()
    connection.ask(CHAT, costing(4), key="key-big")
    started = time.process_time()
    for _ in range(100):
        assert connection.ask(CHAT, costing(4), key="key-big").status == 200
    assert (time.process_time() - started) / 100 < 0.010


def test_ten_thousand_keys(make: Make) -> None:
    lab: Lab = make().standard()
    for number in range(10000):
        lab.store.put("Secret", tenant_secret(f"bulk-{number}", f"key-bulk-{number}", "free", f"bulk-{number}"))
    started = time.process_time()
    lab.sync()
    assert time.process_time() - started < 1.0
    assert lab.chat("key-bulk-9999").status == 200
