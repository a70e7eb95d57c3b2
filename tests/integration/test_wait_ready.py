# SPDX-License-Identifier: GPL-3.0-or-later
"""The module wait_ready against a real API server, with the test as the controller."""

from __future__ import annotations

import threading
from typing import Any

from ansible_collections.tokenlabs.platform.plugins.modules import wait_ready

from tests.integration.apiserver import ApiServer
from tests.integration.conftest import RunModule


def deployment(name: str) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    }


def roll_out(api: ApiServer, namespace: str, name: str) -> None:
    status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}/status"
    api.raw("PATCH", path, {"status": status}, "application/merge-patch+json")


def test_waits_for_what_happens_meanwhile(api: ApiServer, run: RunModule, namespace: str) -> None:
    api.raw("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment("one"))
    later = threading.Timer(1.5, roll_out, (api, namespace, "one"))
    later.start()
    objects = [
        {"api_version": "apps/v1", "kind": "Deployment", "name": "one", "namespace": namespace},
        {"kind": "Namespace", "name": namespace},
    ]
    since = api.mark()
    result = run(wait_ready, objects=objects, timeout=30)
    later.join()
    assert result["changed"] is False
    assert sorted(result["ready"]) == [f"Deployment/{namespace}/one", f"Namespace/{namespace}"]
    assert result["pending"] == {} and 1 < result["waited_seconds"] < 30
    assert api.writes(since) == []


def test_time_out_names_objects_pods_and_events(api: ApiServer, run: RunModule, namespace: str) -> None:
    api.raw("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment("one"))
    pod = {"metadata": {"name": "one-abc"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    api.raw("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    status = {"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": False, "restartCount": 0,
                                     "state": {"waiting": waiting}}]}  # fmt: skip
    path = f"/api/v1/namespaces/{namespace}/pods/one-abc/status"
    api.raw("PATCH", path, {"status": status}, "application/merge-patch+json")
    event = {
        "metadata": {"name": "e", "namespace": namespace},
        "involvedObject": {"kind": "Pod", "name": "one-abc", "namespace": namespace},
        "reason": "Failed",
        "message": "Failed to pull image",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    api.raw("POST", f"/api/v1/namespaces/{namespace}/events", event)
    objects = [
        {"api_version": "apps/v1", "kind": "Deployment", "name": "one", "namespace": namespace},
        {"kind": "Node", "name": "no-such-node"},
        {"api_version": "no.example.org/v1", "kind": "Thing", "name": "x"},
        {"kind": "Namespace", "name": namespace},
    ]
    result = run(wait_ready, objects=objects, timeout=1)
    assert result["failed"]
    assert result["msg"].splitlines()[0] == "3 of 4 objects not ready after 1 s:"
    for text in (
        f"- Deployment/{namespace}/one: its controller has not seen it yet; pod one-abc, container c: "
        "ImagePullBackOff: no such image; event Failed: Failed to pull image",
        "- Node/no-such-node: it does not exist",
        "- Thing/x: the cluster serves no Thing in no.example.org/v1; is its CRD installed?",
    ):
        assert text in result["msg"]
    assert result["ready"] == [f"Namespace/{namespace}"]

    # In check mode the same is no failure and takes no time.
    forecast = run(wait_ready, objects=objects, timeout=600, check=True)
    assert "failed" not in forecast and forecast["waited_seconds"] < 5
    assert set(forecast["pending"]) == {f"Deployment/{namespace}/one", "Node/no-such-node", "Thing/x"}


def test_a_namespace_that_is_missing_in_the_task(run: RunModule) -> None:
    result = run(wait_ready, objects=[{"api_version": "apps/v1", "kind": "Deployment", "name": "x"}])
    assert result["failed"] and result["msg"] == "Deployment x needs a namespace"


def test_no_permission_is_not_waited_for(run: RunModule, namespace: str) -> None:
    objects = [{"kind": "Pod", "name": "x", "namespace": namespace}]
    result = run(wait_ready, objects=objects, impersonate_user="nobody", timeout=600)
    assert result["failed"] and 'User "nobody" cannot get resource' in result["msg"]
