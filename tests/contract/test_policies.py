# SPDX-License-Identifier: GPL-3.0-or-later
"""The policies against the real definitions: as schemas, and through a real API server with its CEL rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.tokenlabs.platform.plugins.module_utils import _policies as policies
from ansible_collections.tokenlabs.platform.plugins.modules import tier_policies

from tests.contract.crds import Definitions
from tests.integration.apiserver import ApiServer

TIERS = {
    "free": {"requests": {"1m": 10, "24h": 100}, "tokens": {"1m": 5000, "24h": 50000}, "models": ["small"]},
    "pro": {"requests": {"1m": 100}, "tokens": {"1m": 50000}, "models": None},
}
MODELS = [{"name": "small", "served_name": "org/small-8b"}, {"name": "large", "served_name": "org/large-70b"}]
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"]
SPEC = policies.Spec(
    tiers=TIERS,
    paths=PATHS,
    models={each["name"]: each["served_name"] for each in MODELS},
    gateway="token-labs-gateway",
    namespace="token-labs",
)
OIDC = {"issuer": "https://id.example.com/realms/x", "tier_claim": "tier", "tenant_claim": "tenant"}
WAYS = [SPEC, replace(SPEC, token_limits="kuadrant"), replace(SPEC, oidc=OIDC)]


@pytest.mark.parametrize("spec", WAYS, ids=["envoy", "kuadrant", "oidc"])
def test_every_policy_is_of_the_right_form(spec: policies.Spec, definitions: Definitions) -> None:
    rendered = policies.render(spec)
    for policy in [*rendered, *map(policies.nudged, rendered)]:
        assert definitions.errors(policy) == [], policy["kind"]


def test_the_schemas_see_a_misspelt_field(definitions: Definitions) -> None:
    policy = policies.auth_policy(SPEC)
    policy["spec"]["overrides"]["rules"]["authorisation"] = {}
    assert any("authorisation" in error for error in definitions.errors(policy))


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(server: ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("K8S_AUTH_KUBECONFIG", str(server.kubeconfig))

    def call(module: ModuleType = tier_policies, *, check: bool = False, diff: bool = False, **changes: Any) -> Any:
        arguments = {"tiers": TIERS, "paths": PATHS, "models": MODELS, **changes}
        internal = {"_ansible_check_mode": check, "_ansible_diff": diff}
        capsys.readouterr()
        given = {key: value for key, value in arguments.items() if value is not None}
        with patch_module_args({**given, **internal}), pytest.raises(SystemExit):
            module.main()
        printed = capsys.readouterr()
        # Where Ansible's control side is loaded too, warnings go to its display instead of the result.
        return {**json.loads(printed.out.strip().splitlines()[-1]), "printed": printed.out + printed.err}

    return call


def kinds(result: dict[str, Any]) -> list[str]:
    return sorted(name.split("/")[0] for name in result["changed_objects"])


ALL = ["AuthPolicy", "BackendTrafficPolicy", "BackendTrafficPolicy", "RateLimitPolicy", "TelemetryPolicy"]
POLICIES = "/apis/kuadrant.io/v1/namespaces/token-labs"


def test_the_life_of_the_policies(server: ApiServer, run: Run) -> None:
    before = server.mark()
    rehearsed = run(check=True, diff=True)
    assert rehearsed["changed"] and kinds(rehearsed) == ALL, rehearsed
    assert [write for write in server.writes(before) if "dryRun=All" not in write] == []
    assert "known-tier" in json.dumps(rehearsed["diff"])

    made = run()
    assert made["changed"] and kinds(made) == ALL
    assert made["counts"] == {"created": 5, "updated": 0, "deleted": 0, "unchanged": 1}

    before = server.mark()
    again = run()
    assert not again["changed"] and again["changed_objects"] == []
    assert server.writes(before) == []

    before = server.mark()
    looked = run(check=True)
    assert not looked["changed"] and server.writes(before) == []

    other = {**TIERS, "free": {**TIERS["free"], "requests": {"1m": 20}}}
    changed = run(tiers=other, diff=True)
    assert kinds(changed) == ["RateLimitPolicy"]
    assert "20" in json.dumps(changed["diff"])

    # The other way of counting replaces this one, never joins it.
    switched = run(token_limits="kuadrant", tiers=other)
    assert kinds(switched) == ["BackendTrafficPolicy", "TelemetryPolicy", "TokenRateLimitPolicy"]
    assert switched["counts"]["deleted"] == 1
    back = run(tiers=other)
    assert kinds(back) == ["BackendTrafficPolicy", "TelemetryPolicy", "TokenRateLimitPolicy"]


def test_a_hand_made_change_is_undone(server: ApiServer, run: Run) -> None:
    run()
    path = f"{POLICIES}/authpolicies/token-labs-auth"
    patch = {"spec": {"overrides": {"rules": {"authorization": {"metered-paths-only": None}}}}}
    server.raw("PATCH", path, patch, "application/merge-patch+json")
    assert kinds(run()) == ["AuthPolicy"]
    rules = server.raw("GET", path)["spec"]["overrides"]["rules"]["authorization"]
    assert "metered-paths-only" in rules


def test_what_others_have_written_into_a_policy_goes(server: ApiServer, run: Run) -> None:
    """Beside ours, it would be in force: here, that everybody may come in."""
    run(oidc=OIDC)
    path = f"{POLICIES}/authpolicies/token-labs-auth"
    patch = {"spec": {"overrides": {"rules": {"authentication": {"everybody": {"anonymous": {}}}}}}}
    server.raw("PATCH", f"{path}?fieldManager=somebody", patch, "application/merge-patch+json")

    def ways_in() -> set[str]:
        return set(server.raw("GET", path)["spec"]["overrides"]["rules"]["authentication"])

    assert ways_in() == {"api-key", "oidc", "everybody"}
    before = server.mark()
    rehearsed = run(oidc=OIDC, check=True)
    assert rehearsed["changed"] and "AuthPolicy/token-labs/token-labs-auth" in rehearsed["changed_objects"]
    assert [write for write in server.writes(before) if "dryRun=All" not in write] == []
    undone = run(oidc=OIDC, diff=True)
    assert kinds(undone) == ["AuthPolicy"]
    assert "somebody: spec.overrides.rules.authentication.everybody" in json.dumps(undone["diff"])
    assert ways_in() == {"api-key", "oidc"}
    before = server.mark()
    assert not run(oidc=OIDC)["changed"]
    assert server.writes(before) == []
    # What is ours still goes when it is no longer wanted.
    assert kinds(run()) == ["AuthPolicy"]
    assert ways_in() == {"api-key"}
    assert not run()["changed"]


def test_a_nudge_is_two_changes_and_none(server: ApiServer, run: Run) -> None:
    run()
    path = f"{POLICIES}/authpolicies/token-labs-auth"
    before = server.raw("GET", path)
    nudged = run(nudge=True)
    after = server.raw("GET", path)
    assert kinds(nudged) == ["AuthPolicy"]
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 2
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert not run()["changed"]


def secret(server: ApiServer, tenant: str, tier: str, number: int) -> None:
    server.raw(
        "POST",
        "/api/v1/namespaces/kuadrant-system/secrets",
        {
            "metadata": {
                "name": f"tenant-{tenant}-{number}",
                "labels": {
                    "app": "token-labs",
                    "tokenlabs.io/credential": "api-key",
                    "tokenlabs.io/state": "suspended",
                },
                "annotations": {"kuadrant.io/groups": tier, "secret.kuadrant.io/user-id": tenant},
            },
            "stringData": {"api_key": "tlabs_sk_THIS_IS_NOT_TO_BE_SEEN"},
        },
    )


def test_a_tier_that_tenants_use_stays(server: ApiServer, run: Run) -> None:
    run(tiers={**TIERS, "gold": TIERS["pro"], "silver": TIERS["pro"]})
    for number in range(7):
        secret(server, f"tenant-{number}", "gold", number)
    before = server.mark()
    refused = run()
    assert refused["failed"] and "tier gold cannot be removed: 7 tenants still use it" in refused["msg"]
    assert "tenant-6)" in refused["msg"] and "silver" not in refused["msg"]
    assert "NOT_TO_BE_SEEN" not in json.dumps(refused)
    assert server.writes(before) == []
    assert run(check=True)["failed"]
    # A tier that nobody uses goes.
    gone = run(tiers={**TIERS, "gold": TIERS["pro"]})
    assert gone["changed"] and gone["removed_tiers"] == ["silver"]
    for number in range(7):
        server.raw("DELETE", f"/api/v1/namespaces/kuadrant-system/secrets/tenant-tenant-{number}-{number}")
    assert run()["removed_tiers"] == ["gold"]


def test_a_hole_in_the_cluster_stops_everything(server: ApiServer, run: Run) -> None:
    run()
    extension = {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyExtensionPolicy",
        "metadata": {"name": "mine"},
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "llm-inference"}],
            "extProc": [{"backendRefs": [{"name": "x", "port": 1}]}],
        },
    }
    path = "/apis/gateway.envoyproxy.io/v1alpha1/namespaces/token-labs/envoyextensionpolicies"
    server.raw("POST", path, extension)
    before = server.mark()
    refused = run(tiers={"free": TIERS["free"]})
    assert refused["failed"] and "EnvoyExtensionPolicy mine" in refused["msg"]
    assert server.writes(before) == []
    server.raw("DELETE", f"{path}/mine")
    # By a selector it is as bad; for a Gateway of somebody else it is not our business.
    gateways = "/apis/gateway.networking.k8s.io/v1/namespaces/token-labs/gateways"
    labelled = {"name": "token-labs-gateway", "labels": {"team": "a"}}
    listeners = [{"name": "http", "protocol": "HTTP", "port": 80}]
    kind = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway"}
    spec = {"gatewayClassName": "eg", "listeners": listeners}
    server.raw("POST", gateways, {**kind, "metadata": labelled, "spec": spec})
    other = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}
    by_label = {"targetSelectors": [{**other, "matchLabels": {"team": "a"}}], "extProc": extension["spec"]["extProc"]}
    server.raw("POST", path, {**extension, "spec": by_label})
    assert "EnvoyExtensionPolicy mine" in run(tiers={"free": TIERS["free"]})["msg"]
    server.raw("DELETE", f"{path}/mine")
    theirs = {"targetRefs": [{**other, "name": "theirs"}], "extProc": extension["spec"]["extProc"]}
    server.raw("POST", path, {**extension, "spec": theirs})
    assert not run()["changed"]
    server.raw("DELETE", f"{path}/mine")
    server.raw("DELETE", f"{gateways}/token-labs-gateway")


def test_policies_go_after_the_routes(server: ApiServer, run: Run) -> None:
    run()
    group = "/apis/gateway.networking.k8s.io/v1/namespaces/token-labs"
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "token-labs-gateway"},
        "spec": {"gatewayClassName": "eg", "listeners": [{"name": "http", "protocol": "HTTP", "port": 80}]},
    }
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "models"},
        "spec": {"parentRefs": [{"name": "token-labs-gateway"}]},
    }
    server.raw("POST", f"{group}/gateways", gateway)
    server.raw("POST", f"{group}/httproutes", route)
    gone = {"state": "absent", "tiers": None, "paths": None, "models": None}
    before = server.mark()
    refused = run(**gone)
    assert refused["failed"] and "still has the HTTPRoutes models" in refused["msg"]
    rehearsed = run(check=True, **gone)
    assert kinds(rehearsed) == ALL and "still has the HTTPRoutes models" in " ".join(rehearsed["printed"].split())
    assert server.writes(before) == []

    server.raw("DELETE", f"{group}/httproutes/models")
    before = server.mark()
    assert kinds(run(check=True, **gone)) == ALL
    assert server.writes(before) == []
    assert kinds(run(**gone)) == ALL
    assert not run(**gone)["changed"]
    server.raw("DELETE", f"{group}/gateways/token-labs-gateway")


def test_what_the_policies_are_made_of_is_needed(run: Run) -> None:
    assert "tiers, paths, models" in run(tiers=None, paths=None, models=None)["msg"]


def test_a_bad_tier_is_refused_before_the_cluster_is_asked(server: ApiServer, run: Run) -> None:
    before = server.mark()
    refused = run(tiers={"free": {"requests": {"1d": 1}, "tokens": {}}})
    assert refused["failed"] and "write 24h" in refused["msg"] and "tokens: without a limit" in refused["msg"]
    assert server.requests(before) == []
