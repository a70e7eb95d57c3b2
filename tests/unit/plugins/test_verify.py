# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What verify looks at, sends and tells, for catalogs of several shapes."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _probe
from ansible_collections.tokenlabs.platform.plugins.module_utils import _verify as verify
from ansible_collections.tokenlabs.platform.plugins.modules.gateway_probe import CASE, EXPECT

Data = dict[str, Any]


def model(name: str) -> Data:
    return {
        "name": name,
        "served_name": f"org/{name}",
        "hosts": ["spark-01"],
        "replicas": 1,
        "pool": f"pool-{name}",
        "picker": f"pool-{name}-epp",
        "label": name,
        "deployment": f"ms-{name}-decode",
    }


CATALOG: Data = {
    "cluster": "microk8s",
    "nodes": {
        "controller": {"name": "controller", "role": "controller", "gpu": False, "gpu_slots": 0},
        "spark-01": {"name": "spark-01", "role": "worker", "gpu": True, "gpu_slots": 2},
    },
    "token_limits": "envoy",
    "gateway": {"name": "gw", "namespace": "space", "class": "eg", "http_port": 80},
    "redis": {"own": True},
    "models": [model("a"), model("b")],
    "services": {},
    "tiers": {
        "free": {"requests": {"1m": 10, "24h": 100}, "tokens": {"1m": 5000, "24h": 50000}, "models": ["a"]},
        "pro": {"requests": {"1m": 100}, "tokens": {"1m": 50000}, "models": None},
    },
}
TENANTS = [
    {"name": "acme", "tier": "pro"},
    {"name": "initech", "tier": "free", "state": "suspended"},
    {"name": "hooli", "tier": "free", "state": "absent"},
    {"name": "nokey", "tier": "pro"},
]
KEYS = ["/keys/acme.key", "/keys/initech.key", "/keys/hooli.key", "/keys/stranger.key"]


def changed(**changes: Any) -> Data:
    return {**copy.deepcopy(CATALOG), **changes}


def tiers(**changes: Any) -> Data:
    return changed(tiers={name: {**CATALOG["tiers"]["pro"], **tier} for name, tier in changes.items()})


def names(cases: list[Data]) -> list[str]:
    return [case["name"] for case in cases]


def case(planned: Data, part: str) -> Data:
    found = [each for each in [*planned["cases"], *planned["later"]] if part in each["name"]]
    assert len(found) == 1, (part, names(found))
    return found[0]


# --- objects ----------------------------------------------------------------------------------------------------------


def test_checks_cover_every_part() -> None:
    checks = verify.checks(CATALOG)
    assert {check["group"] for check in checks} == {
        "nodes",
        "definitions",
        "components",
        "gateway",
        "models",
        "routes",
        "policies",
    }
    spark = next(check["object"] for check in checks if check["name"].startswith("spark-01"))
    assert spark["fields"] == [{"path": 'status.allocatable["nvidia.com/gpu"]', "value": 2}]
    controller = next(check["object"] for check in checks if check["name"].startswith("controller"))
    assert "fields" not in controller
    titles = [(check["object"]["kind"], check["object"].get("namespace"), check["object"]["name"]) for check in checks]
    assert len(set(titles)) == len(titles)
    for kind, name in (
        ("AuthPolicy", "token-labs-auth"),
        ("RateLimitPolicy", "token-labs-request-limits"),
        ("BackendTrafficPolicy", "token-labs-token-limits"),
        ("AIGatewayRoute", "llm-inference"),
        ("HTTPRoute", "models"),
        ("StatefulSet", "redis"),
        ("Deployment", "ms-b-decode"),
        ("Deployment", "pool-b-epp"),
        ("Deployment", "envoy-ratelimit"),
    ):
        assert (kind, name) in {(title[0], title[2]) for title in titles}


def test_there_is_one_policy_for_tokens() -> None:
    for way, other in (("kuadrant", "envoy"), ("envoy", "kuadrant")):
        kinds = {"kuadrant": "TokenRateLimitPolicy", "envoy": "BackendTrafficPolicy"}
        objects = [check["object"] for check in verify.checks(changed(token_limits=way))]
        named = {each["kind"] for each in objects if each["name"] == "token-labs-token-limits"}
        assert named == {kinds[way]} != {kinds[other]}


def test_a_redis_of_somebody_else_is_not_looked_for() -> None:
    def looked_for(own: bool) -> bool:
        return any(check["object"]["kind"] == "StatefulSet" for check in verify.checks(changed(redis={"own": own})))

    assert looked_for(True) and not looked_for(False)


@pytest.mark.parametrize(
    ("way", "remedy"), [("kuadrant", "tokenlabs_token_limits: envoy"), ("envoy", "tokenlabs_token_limits: kuadrant")]
)
def test_hazards_of_counting_are_looked_for_in_each_tier(way: str, remedy: str) -> None:
    cases = verify.plan(changed(token_limits=way), TENANTS, [], run="abcd1234", directory="/d")["cases"]
    errors = [case for case in cases if "an error of the model ends" in case["name"]]
    assert {case["name"].split(":")[0] for case in errors} == {"tier free", "tier pro"}
    streams = [case for case in cases if case["name"].startswith("short streams")]
    assert len(streams) == 1 and streams[0]["repeat"] >= 12 and streams[0]["expect"]["stream"]
    for case in [*errors, *streams]:
        assert remedy in case["hint"]
    assert all(case["reuse"] and case["repeat"] == 2 for case in errors)


def test_a_platform_of_simulators_needs_no_gpu_operator() -> None:
    nodes = {name: {**node, "gpu": False, "gpu_slots": 0} for name, node in CATALOG["nodes"].items()}
    checked = {check["object"]["name"] for check in verify.checks(changed(nodes=nodes))}
    assert not checked & {"cluster-policy", "gpu-operator"}
    assert {"cluster-policy", "gpu-operator"} <= {check["object"]["name"] for check in verify.checks(CATALOG)}


def test_without_models_there_is_no_route_to_them() -> None:
    kinds = [check["object"]["kind"] for check in verify.checks(changed(models=[]))]
    assert "AIGatewayRoute" not in kinds
    assert "InferencePool" not in kinds


def test_object_rows_name_what_is_missing_and_where_to_look() -> None:
    checks = verify.checks(CATALOG)
    pending = {"StatefulSet/redis-system/redis": "it does not exist"}
    ready = [
        "/".join(part for part in (each["kind"], each.get("namespace"), each["name"]) if part)
        for each in (check["object"] for check in checks)
        if each["name"] != "redis"
    ]
    rows = verify.object_rows(checks, {"ready": ready, "pending": pending})
    failed = [row for row in rows if row["status"] != "ok"]
    assert [(row["name"], row["got"]) for row in failed] == [("redis is ready", "it does not exist")]
    assert verify.failures(rows) == [
        "components: redis is ready; expected ready; got it does not exist; look at "
        "kubectl -n redis-system describe pod redis-0"
    ]


def test_an_api_that_does_not_answer_makes_every_check_fail() -> None:
    checks = verify.checks(CATALOG)
    rows = verify.object_rows(checks, {"msg": "Unreachable", "ready": [], "pending": {}})
    assert {row["status"] for row in rows} == {"FAILED"}
    assert {row["got"] for row in rows} == {"Unreachable"}


@pytest.mark.parametrize(
    ("policies", "status", "got"),
    [
        (["space/kuadrant-gw"], "ok", ""),
        (["space/kuadrant-gw", "other/x"], "ok", ""),
        (["space/kuadrant-gw", "space/mine"], "FAILED", "also space/mine"),
        ([], "FAILED", "none at all"),
    ],
)
def test_foreign_filters(policies: list[str], status: str, got: str) -> None:
    objects = [{"metadata": dict(zip(("namespace", "name"), each.split("/"), strict=True))} for each in policies]
    row = verify.foreign_filters(CATALOG, objects)
    assert (row["status"], row["got"]) == (status, got)


@pytest.mark.parametrize(
    ("drift", "got"),
    [
        ({"counts": {}}, ""),
        ({"counts": {}, "updated": ["acme"], "created": ["x", "y"]}, "would be created: x, y; updated: acme"),
        ({"counts": {}, "failed_tenants": [{"name": "acme"}], "msg": "1 of 2 tenants failed"}, "1 of 2 tenants failed"),
        ({"msg": "no API"}, "no API"),
        ({}, "the module tenants did not answer"),
    ],
)
def test_tenants_that_differ_are_named(drift: Data, got: str) -> None:
    (row,) = verify.tenant_rows(drift, {}, {})
    assert (row["status"], row["got"]) == ("FAILED" if got else "ok", got)


def test_trouble_with_the_runs_own_tenants_is_told() -> None:
    fine = {"counts": {}}
    assert len(verify.tenant_rows(fine, fine, fine)) == 1
    rows = verify.tenant_rows(fine, {"msg": "refused"}, {"msg": "gone"})
    assert [(row["name"], row["got"]) for row in rows[1:]] == [
        ("this run's tenants are made", "refused"),
        ("this run's tenants are removed", "gone"),
    ]


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["", "abcd1234"])
def test_cases_are_what_the_probe_takes(run: str) -> None:
    planned = verify.plan(CATALOG, TENANTS, KEYS, run, "/run")
    cases = [*planned["cases"], *planned["later"]]
    assert len(set(names(cases))) == len(cases)
    assert set(planned["groups"]) == set(names(cases))
    for each in cases:
        assert set(each) <= set(CASE)
        assert set(each["expect"]) <= set(EXPECT)
        assert each["hint"]


def test_strangers_are_refused_in_every_way() -> None:
    planned = verify.plan(CATALOG, [], [])
    for each in planned["cases"]:
        assert each["expect"]["status"] == [401]
        assert "key_file" not in each
    assert case(planned, "Host in upper case")["headers"] == {"Host": "GATEWAY.EXAMPLE.COM"}
    assert case(planned, "?x=1")["path"].endswith("?x=1")
    wrong = case(planned, "wrong key")["headers"]["Authorization"]
    assert wrong.startswith("Bearer tlabs_sk_")


def test_without_a_key_what_needs_one_is_skipped_with_the_reason() -> None:
    planned = verify.plan(CATALOG, [{"name": "acme", "tier": "pro"}], [])
    skipped = {row["name"]: row["got"] for row in planned["skipped"]}
    assert skipped["a"] == skipped["b"] == "no active tenant's key file is on the controller"
    assert "requests over the limit" in skipped


def test_inventory_tenants_speak_when_the_run_has_none_of_its_own() -> None:
    planned = verify.plan(CATALOG, TENANTS, KEYS)
    assert planned["tenants"] == planned["suspend"] == planned["later"] == []
    assert {each.get("key_file") for each in planned["cases"]} == {None, "/keys/acme.key", "/keys/initech.key"}
    assert case(planned, "initech: suspended")["expect"] == {"status": [401]}
    assert case(planned, "acme: key works")["expect"] == {"status": [200, 429]}
    assert case(planned, "a: chat")["key_file"] == "/keys/acme.key"
    assert not any(each.get("repeat", 1) > 2 or each.get("until") for each in planned["cases"])


def test_a_run_with_tenants_of_its_own_spends_nobody_elses_quota() -> None:
    planned = verify.plan(CATALOG, TENANTS, KEYS, "abcd1234", "/run")
    assert planned["tenants"] == [
        {"name": "verify-abcd1234-free", "tier": "free"},
        {"name": "verify-abcd1234-pro", "tier": "pro"},
        {"name": "verify-abcd1234-burst", "tier": "free"},
        {"name": "verify-abcd1234-tokens", "tier": "free"},
        {"name": "verify-abcd1234-suspended", "tier": "free"},
    ]
    assert planned["suspend"] == [{"name": "verify-abcd1234-suspended", "tier": "free", "state": "suspended"}]
    of_customers = [each for each in planned["cases"] if (each.get("key_file") or "").startswith("/keys/")]
    assert {each["path"] for each in of_customers} == {"/v1/models"}
    for each in planned["cases"]:
        if "a new key works" in each["name"]:
            assert each.get("stage", 0) == 0
            assert each["patience"] > 0
    assert case(planned, "refused at once")["key_file"] == "/run/verify-abcd1234-suspended.key"
    assert planned["skipped"] == []


def test_every_model_answers_and_streams_for_the_most_generous_tier() -> None:
    planned = verify.plan(CATALOG, [], [], "abcd1234", "/run")
    for name in ("a", "b"):
        spoken, stream = case(planned, f"{name}: chat"), case(planned, f"{name}: stream")
        assert spoken["key_file"] == stream["key_file"] == "/run/verify-abcd1234-pro.key"
        assert spoken["json"]["model"] == f"org/{name}"
        assert spoken["expect"]["positive"] == stream["expect"]["positive"] == ["usage.total_tokens"]
        assert stream["json"]["stream"] is True
        assert "stream_options" not in stream["json"]
        assert stream["expect"]["stream"] is True


def test_what_a_model_is_said_to_take_is_sent_to_it() -> None:
    able = {**model("a"), "tools": True, "vision": True}
    planned = verify.plan(changed(models=[able, model("b")]), [], [], "abcd1234", "/run")
    assert case(planned, "a: takes tools")["json"]["tools"][0]["function"]["name"] == "now"
    (message,) = case(planned, "a: takes an image")["json"]["messages"]
    picture = base64.b64decode(message["content"][1]["image_url"]["url"].partition(",")[2])
    assert picture.startswith(b"\x89PNG") and picture.endswith(b"IEND\xaeB`\x82")
    assert not [name for name in names(planned["cases"]) if name.startswith("b: takes")]


def test_speech_is_asked_for_where_there_is_any() -> None:
    services = {"/v1/audio/speech": None, "/v1/audio/models": None, "/v1/audio/transcriptions": ["pro"]}
    planned = verify.plan(changed(services=services), [], [], "abcd1234", "/run")
    assert case(planned, "speech without a key")["expect"] == {"status": [401]}
    spoken = [each for each in planned["cases"] if each["name"] == "speech"][0]
    assert (spoken["key_file"], spoken["expect"]["contains"]) == ("/run/verify-abcd1234-pro.key", "RIFF")
    assert case(planned, "a voice of nobody")["expect"] == {"status": [400]}
    heard = [each for each in planned["cases"] if each["name"] == "transcriptions"][0]
    body = base64.b64decode(heard["body_base64"])
    assert b"RIFF" in body and body.endswith(b"--x--\r\n")
    refused = case(planned, "tier free asks for transcriptions")
    assert (refused["key_file"], refused["expect"]) == ("/run/verify-abcd1234-free.key", {"status": [403]})
    checked = {check["object"]["name"] for check in verify.checks(changed(services=services))}
    assert {"magpie-tts", "riva-stt"} <= checked
    assert not {"magpie-tts", "riva-stt"} & {check["object"]["name"] for check in verify.checks(CATALOG)}


def test_a_tier_is_kept_to_its_models_and_an_unknown_model_is_not_found() -> None:
    planned = verify.plan(CATALOG, [], [], "abcd1234", "/run")
    foreign = case(planned, "which is not among its models")
    assert (foreign["json"]["model"], foreign["expect"]["status"]) == ("org/b", [403])
    assert foreign["key_file"] == "/run/verify-abcd1234-free.key"
    unknown = case(planned, "does not exist")
    assert (unknown["expect"]["status"], unknown["repeat"], unknown["reuse"]) == ([404], 2, True)
    assert unknown["expect"]["json"] == {"error.code": "model_not_found"}
    assert unknown["key_file"] == "/run/verify-abcd1234-pro.key"


def test_an_unknown_model_is_forbidden_where_all_tiers_have_a_list() -> None:
    planned = verify.plan(tiers(free={"models": ["a"]}), [], [], "abcd1234", "/run")
    assert case(planned, "does not exist")["expect"]["status"] == [403]
    assert [row["name"] for row in planned["skipped"]] == ["b", *names_of_limits(planned)]


def names_of_limits(planned: Data) -> list[str]:
    return [row["name"] for row in planned["skipped"] if row["group"] == "limits"]


def test_the_request_limit_is_the_smallest_and_exact() -> None:
    planned = verify.plan(CATALOG, [], [], "abcd1234", "/run")
    burst = case(planned, "10 requests pass, one more does not")
    assert burst["expect"] == {"counts": {200: 10, 429: 1}}
    assert burst["repeat"] == 11
    assert burst["key_file"] == "/run/verify-abcd1234-burst.key"
    assert burst["json"]["model"] == "org/a"
    assert case(planned, "?x=1 does not help")["stage"] > burst["stage"]
    neighbour = case(planned, "another tenant of the tier")
    assert neighbour["key_file"] == "/run/verify-abcd1234-free.key"
    assert neighbour["stage"] > burst["stage"]


def test_the_token_limit_is_reached_with_fewer_requests_than_the_request_limit() -> None:
    planned = verify.plan(CATALOG, [], [], "abcd1234", "/run")
    tokens = case(planned, "refused after 5000 tokens")
    assert tokens["expect"] == {"status": [429], "tokens": 5000}
    assert tokens["until"] == 429
    words = len(tokens["json"]["messages"][0]["content"].split())
    assert words * (tokens["repeat"] - 1) >= 5000
    assert tokens["repeat"] <= 10


@pytest.mark.parametrize(
    ("catalog", "words"),
    [
        (tiers(big={"requests": {"1m": 1000}}), "it would take 1000 requests, more than the 60"),
        (tiers(one={"requests": {"1m": 2}, "tokens": {"1m": 5000}}), "more than the 2 that may be sent"),
        (tiers(huge={"tokens": {"1m": 10**9}}), "more than the 60 that may be sent"),
        (tiers(none={"models": ["gone"]}), "the tier may use no model"),
        (tiers(none={"tokens": {}}), "there is no token limit"),
    ],
)
def test_a_limit_that_cannot_be_reached_is_skipped_with_the_reason(catalog: Data, words: str) -> None:
    planned = verify.plan(catalog, [], [], "abcd1234", "/run")
    assert any(words in row["got"] for row in planned["skipped"] if row["group"] == "limits")
    assert all(each.get("repeat", 1) <= 61 for each in planned["cases"])


def test_more_voices_where_one_tenant_may_not_ask_for_all_models() -> None:
    catalog = tiers(only={"requests": {"1m": 10}})
    catalog["models"] = [model(f"m{number}") for number in range(8)]
    planned = verify.plan(catalog, [], [], "abcd1234", "/run")
    voices = {each["key_file"] for each in planned["cases"] if each["name"].endswith(": chat")}
    assert voices == {f"/run/verify-abcd1234-only{number}.key" for number in ("", 1, 2)}


def test_long_tier_names_make_valid_tenant_names() -> None:
    planned = verify.plan(tiers(**{"t" * 60: {}}), [], [], "abcd1234", "/run")
    assert all(len(tenant["name"]) <= 63 for tenant in planned["tenants"])


def test_only_so_many_tenants_are_asked() -> None:
    many = [{"name": f"t{number}", "tier": "pro"} for number in range(50)]
    planned = verify.plan(CATALOG, many, [f"/keys/t{number}.key" for number in range(50)], most_tenants=3)
    assert sum("key works" in name for name in names(planned["cases"])) == 3


# --- the report -------------------------------------------------------------------------------------------------------


def findings(**changes: Any) -> Data:
    checks = verify.checks(CATALOG)
    planned = verify.plan(CATALOG, [], [], "abcd1234", "/run")
    ready = [
        "/".join(part for part in (each["kind"], each.get("namespace"), each["name"]) if part)
        for each in (check["object"] for check in checks)
    ]
    cases = [
        {"name": each["name"], "ok": True, "expected": "x", "got": "200", "reason": "", "hint": each["hint"]}
        for each in [*planned["cases"], *planned["later"]]
    ]
    return {
        "catalog": CATALOG,
        "checks": checks,
        "plan": planned,
        "objects": {"ready": ready, "pending": {}},
        "filters": [{"metadata": {"namespace": "space", "name": "kuadrant-gw"}}],
        "drift": {"counts": {}},
        "made": {"counts": {}},
        "gone": {"counts": {}},
        "answer": {"cases": cases},
        "cases": cases,
        **changes,
    }


def test_where_helm_runs_is_no_node_of_somebody_elses_cluster() -> None:
    def nodes(**changes: Any) -> set[str]:
        found = [check["object"] for check in verify.checks(changed(**changes))]
        return {each["name"] for each in found if each["kind"] == "Node"}

    assert nodes() == {"controller", "spark-01"}
    assert nodes(cluster="existing") == {"spark-01"}


def test_a_platform_that_works_has_no_failure() -> None:
    rows = verify.report(findings())
    assert verify.render(rows, "failures") == []
    lines = verify.render(rows, "table")
    assert lines[-1] == f"{len(rows)} checks: {len(rows)} ok"
    assert len(lines) == len(rows) + 1
    assert lines[0] == "ok      nodes: controller is Ready"


def test_a_failed_case_is_told_with_expected_got_and_hint() -> None:
    found = findings()
    found["cases"][0] |= {"ok": False, "got": "200", "reason": "status 200: hello", "expected": "401"}
    rows = verify.report(found)
    (failure,) = verify.render(rows, "failures")
    assert failure.startswith("access: chat without a key; expected 401; got status 200: hello; look at AuthPolicy")
    assert verify.render(rows, "table")[-1].endswith("1 FAILED")


def test_requests_that_were_not_sent_are_a_failure() -> None:
    rows = verify.report(findings(answer={"msg": "base_url must be http://HOST"}, cases=[]))
    (failure,) = verify.render(rows, "failures")
    assert "base_url must be" in failure


def test_junit_counts_and_survives_any_text() -> None:
    found = findings()
    found["cases"][0] |= {"ok": False, "reason": "a\x00b<c>&\ud800", "expected": "401"}
    rows = [*verify.report(found), {"group": "models", "name": "x", "status": "skipped", "got": "no key"}]
    root = ElementTree.fromstring(verify.render(rows, "junit").encode())
    suites = {suite.get("name"): suite for suite in root}
    assert suites["access"].get("failures") == "1"
    failure = suites["access"].find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "a?b<c>&?"
    assert suites["models"].get("skipped") == "1"
    assert sum(len(suite) for suite in root) == len(rows)


def test_json_says_whether_all_is_well() -> None:
    rows = verify.report(findings())
    assert json.loads(verify.render(rows, "json")) == {"ok": True, "checks": rows}
    rows[0]["status"] = "FAILED"
    assert json.loads(verify.render(rows, "json"))["ok"] is False


def test_an_unknown_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown form 'html'"):
        verify.render([], "html")


def test_the_probe_understands_every_case() -> None:
    planned = verify.plan(CATALOG, TENANTS, KEYS, "abcd1234", "/run")
    for each in planned["cases"]:
        expect = {key: None for key in EXPECT} | each["expect"]
        options = {key: spec.get("default") for key, spec in CASE.items()} | each | {"expect": expect}
        assert _probe.case_from(options, 30, 0).expect.words()
