# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in of Envoy AI Gateway: routes, the filter beside Envoy, the webhook, pools."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import yaml

from lab.world import webhook
from lab.world.controllers import ai_gateway, envoy_gateway
from tests.lab import world_objects as w
from tests.lab.world_objects import AIEG, EG, MODELS, World, obj

RECONCILERS = [*envoy_gateway.RECONCILERS, *ai_gateway.RECONCILERS]
POOL = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "pool", "weight": 1, "priority": 0}


def controller(available: bool = True) -> list[Any]:
    found = w.deployment("ai-gateway-controller", AIEG, available)
    return [found, w.pod_of(found, "controller-1"), w.crd("InferencePool")]


def ai_route(**more: Any) -> Any:
    match = {"headers": [{"name": "x-ai-eg-model", "value": "org/model", "type": "Exact"}]}
    rules = more.pop("rules", [{"matches": [match], "backendRefs": [POOL]}])
    meta = {key: more.pop(key) for key in ("finalizers", "deletionTimestamp", "labels") if key in more}
    return obj("AIGatewayRoute", "llm", MODELS, spec={"parentRefs": [w.GATEWAY_REF], "rules": rules, **more}, **meta)


def pool(**more: Any) -> list[Any]:
    ref = {"endpointPickerRef": {"name": "pool-epp"}}
    service = obj("Service", "pool-epp", MODELS, spec={"type": "ClusterIP", "ports": [{"port": 9002}]})
    return [obj("InferencePool", "pool", MODELS, spec=ref, **more), service]


def world(*objects: Any, available: bool = True) -> World:
    base = [*w.envoy_gateway(), *controller(available), w.gateway(), *w.programmed()]
    return World([*base, *objects], RECONCILERS).settle()


# --- routes
def test_an_ai_route_becomes_a_route_of_the_same_name() -> None:
    found = world(ai_route(), *pool())
    assert found.status("AIGatewayRoute", "llm", MODELS, "Accepted") == "True:ReconciliationSucceeded"
    assert found.get("AIGatewayRoute", "llm", MODELS)["metadata"]["finalizers"] == [ai_gateway.FINALIZER]
    made = found.get("HTTPRoute", "llm", MODELS)
    first, last = made["spec"]["rules"]
    assert first["matches"][0]["headers"][0]["value"] == "org/model"
    assert first["backendRefs"] == [{key: POOL[key] for key in ("group", "kind", "name", "weight")}]
    assert first["timeouts"] == {"request": "60s"}
    assert last["name"] == "route-not-found" and "backendRefs" not in last
    assert "hostnames" not in made["spec"]
    assert made["metadata"]["annotations"]["gateway.envoyproxy.io/ai-gateway-generated"] == "true"
    assert found.status("HTTPRoute", "llm", MODELS, "Accepted") == "True:Accepted"
    assert found.get("HTTPRouteFilter", "ai-eg-route-not-found-response-llm", MODELS)["spec"]["directResponse"]


def test_a_filter_that_is_there_is_left_alone() -> None:
    name = "ai-eg-route-not-found-response-llm"
    own = {"directResponse": {"statusCode": 404, "body": {"type": "Inline", "inline": "own"}}}
    found = world(ai_route(), *pool(), obj("HTTPRouteFilter", name, MODELS, spec=own))
    kept = found.get("HTTPRouteFilter", name, MODELS)
    assert kept["spec"] == own and "ownerReferences" not in kept["metadata"]


def test_nothing_is_made_while_the_controller_is_away() -> None:
    found = world(ai_route(), *pool(), available=False)
    assert not found.store.all("HTTPRoute") and "status" not in found.get("AIGatewayRoute", "llm", MODELS)


def test_the_made_route_follows_its_parents_there_and_back() -> None:
    found = world(ai_route(), *pool())
    for parents in ([{**w.GATEWAY_REF, "sectionName": "http"}], [w.GATEWAY_REF]):
        found.get("AIGatewayRoute", "llm", MODELS)["spec"]["parentRefs"] = parents
        found.settle()
        assert found.get("HTTPRoute", "llm", MODELS)["spec"]["parentRefs"] == parents


def test_a_missing_pool_shows_in_the_made_route() -> None:
    found = world(ai_route())
    assert found.status("AIGatewayRoute", "llm", MODELS, "Accepted").startswith("True")
    assert found.status("HTTPRoute", "llm", MODELS, "ResolvedRefs") == "False:BackendNotFound"


def test_a_missing_service_backend_shows_in_the_ai_route() -> None:
    found = world(ai_route(rules=[{"backendRefs": [{"name": "absent"}]}]))
    assert found.status("AIGatewayRoute", "llm", MODELS, "NotAccepted") == "True:ReconciliationFailed"
    assert found.status("AIGatewayRoute", "llm", MODELS, "Accepted") == "none"
    assert not found.store.all("HTTPRoute")


def test_a_plain_route_of_the_same_name_is_not_taken_over() -> None:
    found = world(ai_route(), w.route("llm"), *pool())
    assert found.status("AIGatewayRoute", "llm", MODELS, "NotAccepted") == "True:ReconciliationFailed"
    assert len(found.get("HTTPRoute", "llm", MODELS)["spec"]["rules"]) == 1


def test_a_deleted_ai_route_is_let_go() -> None:
    going = ai_route(finalizers=[ai_gateway.FINALIZER, "other"], deletionTimestamp="2026-06-01T11:00:00Z")
    assert world(going).get("AIGatewayRoute", "llm", MODELS)["metadata"]["finalizers"] == ["other"]


def test_a_deleted_ai_route_hangs_without_its_controller() -> None:
    going = ai_route(finalizers=[ai_gateway.FINALIZER], deletionTimestamp="2026-06-01T11:00:00Z")
    found = world(going, available=False)
    assert found.get("AIGatewayRoute", "llm", MODELS)["metadata"]["finalizers"] == [ai_gateway.FINALIZER]


def test_a_controller_that_is_scaled_to_nothing_does_not_run() -> None:
    # Kubernetes calls a Deployment without replicas Available.
    idle = w.deployment(ai_gateway.MANAGER, AIEG)
    idle["spec"]["replicas"] = 0
    assert not w.World([idle], []).store.controller(ai_gateway.MANAGER)
    idle["spec"]["replicas"] = 1
    assert w.World([idle], []).store.controller(ai_gateway.MANAGER)


# --- the filter
def envoy_pod(name: str, extproc: bool) -> Any:
    gateway = obj("Gateway", "gw", MODELS)
    init = [{"name": ai_gateway.EXTPROC, "image": "x", "restartPolicy": "Always"}] if extproc else []
    spec = {"containers": [{"name": "envoy", "image": "x"}], "initContainers": init, "nodeName": "n"}
    return obj("Pod", name, EG, labels=envoy_gateway.envoy_labels(gateway), spec=spec, status={"phase": "Running"})


def rollout(found: World) -> str | None:
    deployment = found.get("Deployment", envoy_gateway.hashed_name(obj("Gateway", "gw", MODELS)), EG)
    return (deployment["spec"]["template"]["metadata"].get("annotations") or {}).get(ai_gateway.ROLLED)


def test_envoy_pods_without_the_filter_are_rolled_once() -> None:
    found = world(
        ai_route(llmRequestCosts=[{"metadataKey": "t", "type": "TotalToken"}]), *pool(), envoy_pod("a", False)
    )
    secret = found.get("Secret", "gw-token-labs", EG)
    config = yaml.safe_load(base64.b64decode(secret["data"]["filter-config.yaml"]))
    assert [model["name"] for model in config["models"]] == ["org/model"]
    assert config["llmRequestCosts"][0]["metadataKey"] == "t"
    first = rollout(found)
    assert first and rollout(found.settle()) == first


def test_envoy_pods_with_the_filter_are_left_alone() -> None:
    assert rollout(world(ai_route(), *pool(), envoy_pod("a", True))) is None


def test_no_ai_route_no_filter() -> None:
    found = world(envoy_pod("a", False))
    assert rollout(found) is None and not found.store.get("Secret", EG, "gw-token-labs")


def test_the_filters_secret_goes_with_the_last_ai_route() -> None:
    found = world(ai_route(), *pool())
    found.store.drop("AIGatewayRoute", (MODELS, "llm"))
    found.settle()
    assert not found.store.get("Secret", EG, "gw-token-labs")


# --- pools
def test_a_pool_says_nothing_until_a_route_uses_it() -> None:
    assert "status" not in world(*pool()).get("InferencePool", "pool", MODELS)
    found = world(ai_route(), *pool())
    assert found.status("InferencePool", "pool", MODELS, "Accepted") == "True:Accepted"
    assert found.status("InferencePool", "pool", MODELS, "ResolvedRefs") == "True:ResolvedRefs"


def test_a_pool_without_its_picker_is_not_resolved() -> None:
    found = world(ai_route(), pool()[0])
    assert found.status("InferencePool", "pool", MODELS, "Accepted") == "False:NotAccepted"
    assert found.status("InferencePool", "pool", MODELS, "ResolvedRefs") == "False:ResolvedRefs"


def test_a_controller_older_than_the_pools_crd_does_not_look_at_pools() -> None:
    base = [*w.envoy_gateway(), *controller()[:2], w.crd("InferencePool", "2026-06-01T11:30:00Z"), w.gateway()]
    found = World([*base, *w.programmed(), ai_route(), *pool()], RECONCILERS).settle()
    assert "status" not in found.get("InferencePool", "pool", MODELS)


# --- the webhook
def test_the_authority_is_shown_at_the_start() -> None:
    class Server:
        def __init__(self, *hooks: Any) -> None:
            self.hooks, self.written = hooks, list[Any]()

        def get(self, path: str) -> Any:
            assert path.endswith(f"/envoy-ai-gateway-gateway-pod-mutator.{AIEG}")
            return {"webhooks": list(self.hooks)} if self.hooks else None

        def request(self, method: str, path: str, body: Any, content_type: str) -> None:
            self.written.append(body)

    hook = {"name": "h", "clientConfig": {"service": {"name": "s"}}}
    server: Any = Server(hook)
    webhook.show_authority(server, AIEG, b"CA")
    shown = {"name": "h", "clientConfig": {"service": {"name": "s"}, "caBundle": "Q0E="}}
    assert server.written == [{"webhooks": [shown]}]
    server = Server(shown)
    webhook.show_authority(server, AIEG, b"CA")
    assert server.written == []
    with pytest.raises(SystemExit):
        webhook.show_authority(Server(), AIEG, b"CA")  # type: ignore[arg-type]


def review(labels: dict[str, str], exists: bool) -> Any:
    spec = {"containers": [{"name": "shutdown", "image": "s"}, {"name": "envoy", "image": "e"}]}
    pod = {"metadata": {"labels": labels}, "spec": spec}
    request = {"uid": "u", "namespace": EG, "object": pod}
    return webhook.review(request, lambda space, name: exists and (space, name) == (EG, "gw-token-labs"), "img:1")


def test_the_webhook_adds_the_filter_as_a_sidecar() -> None:
    answer = review(envoy_gateway.envoy_labels(obj("Gateway", "gw", MODELS)), True)
    patch = {step["path"]: step["value"] for step in json.loads(base64.b64decode(answer["patch"]))}
    sidecar = patch["/spec/initContainers"][-1]
    assert (sidecar["name"], sidecar["restartPolicy"], sidecar["image"]) == (ai_gateway.EXTPROC, "Always", "img:1")
    assert patch["/spec/volumes"][0]["secret"] == {"secretName": "gw-token-labs"}
    assert patch["/spec/containers/1/volumeMounts"]


@pytest.mark.parametrize(
    ("labels", "exists"),
    [
        (envoy_gateway.envoy_labels(obj("Gateway", "gw", MODELS)), False),
        ({"app.kubernetes.io/managed-by": "envoy-gateway"}, True),
    ],
)
def test_the_webhook_lets_other_pods_pass_as_they_are(labels: dict[str, str], exists: bool) -> None:
    assert review(labels, exists) == {"uid": "u", "allowed": True}
