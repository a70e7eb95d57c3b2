# SPDX-License-Identifier: GPL-3.0-or-later
"""The client against a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import (
    Kube,
    KubeError,
    UnknownKind,
    connect,
    kube_module,
)

from tests.integration.apiserver import ApiServer


def open_client(api: ApiServer, **arguments: Any) -> Kube:
    with patch_module_args({"kubeconfig": str(api.kubeconfig), **arguments}):
        return connect(kube_module(argument_spec={}))


@pytest.fixture
def kube(api: ApiServer) -> Iterator[Kube]:
    yield open_client(api)


def test_apply_get_list_and_delete(kube: Kube, namespace: str) -> None:
    path = kube.resource("v1", "ConfigMap").path(namespace, "one")
    assert kube.get(path) is None
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one", "labels": {"a": "b"}}}
    status, made = kube.apply_status(path, body)
    assert status == 201
    assert kube.apply_status(path, body)[0] == 200
    collection = kube.resource("v1", "ConfigMap").path(namespace)
    assert [item["metadata"]["name"] for item in kube.list(collection, "a=b")] == ["one"]
    assert kube.list(collection, "a=c") == []
    assert kube.list(collection, each=lambda item: item["metadata"]["uid"]) == [made["metadata"]["uid"]]
    assert kube.delete(path) is not None
    assert kube.delete(path) is None


def test_a_dry_run_changes_nothing(kube: Kube, namespace: str) -> None:
    path = kube.resource("v1", "ConfigMap").path(namespace, "dry")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dry"}}
    kube.apply(path, body, dry_run=True)
    assert kube.get(path) is None
    kube.apply(path, body)
    kube.delete(path, dry_run=True)
    assert kube.get(path) is not None


def test_pages_are_put_together(kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.tokenlabs.platform.plugins.module_utils._kube.PAGE", 3)
    collection = kube.resource("v1", "ConfigMap").path(namespace)
    for number in range(8):
        kube.create(collection, {"metadata": {"name": f"page-{number}"}})
    before = kube.requests
    names = kube.list(collection, each=lambda item: item["metadata"]["name"])
    assert names == [f"page-{number}" for number in range(8)]
    assert kube.requests - before == 3


def test_refusals_carry_the_servers_words(kube: Kube, namespace: str) -> None:
    path = kube.resource("v1", "ConfigMap").path(namespace, "Wrong_Name")
    with pytest.raises(KubeError) as caught:
        kube.apply(path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "Wrong_Name"}})
    assert (caught.value.status, caught.value.reason) == (422, "Invalid")
    assert "RFC 1123" in str(caught.value)
    assert caught.value.definite


def test_unknown_fields_are_refused(kube: Kube, namespace: str) -> None:
    path = kube.resource("v1", "Service").path(namespace, "typo")
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "typo"}, "spec": {"portz": []}}
    with pytest.raises(KubeError, match="portz"):
        kube.apply(path, body)


def test_conflicts_name_the_other_manager(kube: Kube, namespace: str) -> None:
    path = kube.resource("v1", "ConfigMap").path(namespace, "shared")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shared"}, "data": {"a": "1"}}
    kube.apply(path, body, manager="somebody")
    with pytest.raises(KubeError, match="somebody") as caught:
        kube.apply(path, {**body, "data": {"a": "2"}}, force=False)
    assert caught.value.status == 409
    assert kube.apply(path, {**body, "data": {"a": "2"}})["data"] == {"a": "2"}


def test_deletion_holds_to_its_preconditions(kube: Kube, namespace: str) -> None:
    path = kube.resource("v1", "ConfigMap").path(namespace, "kept")
    kube.apply(path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}})
    with pytest.raises(KubeError) as caught:
        kube.delete(path, uid="00000000-0000-0000-0000-000000000000")
    assert caught.value.status == 409
    assert kube.get(path) is not None


def test_unknown_kinds_are_told_apart(kube: Kube) -> None:
    for version, kind in (("v1", "Nonsense"), ("example.org/v1", "Thing")):
        with pytest.raises(UnknownKind, match="is its CRD installed"):
            kube.resource(version, kind)


def test_impersonation_reaches_the_server(api: ApiServer, namespace: str) -> None:
    client = open_client(api, impersonate_user="alice", impersonate_groups=["g1", "system:authenticated"])
    with pytest.raises(KubeError, match='User "alice"') as caught:
        client.list(f"/api/v1/namespaces/{namespace}/secrets")
    assert caught.value.status == 403
    since = api.mark()
    with pytest.raises(KubeError):
        client.get(f"/api/v1/namespaces/{namespace}/secrets/x")
    user = api.requests(since)[0]["impersonatedUser"]
    assert user["username"] == "alice"
    assert {"g1", "system:authenticated"} <= set(user["groups"])


def test_a_server_that_is_not_there_is_said_so(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.tokenlabs.platform.plugins.module_utils._kube.CONNECT_PATIENCE", 0)
    config = tmp_path / "config"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "users": [{"name": "u", "user": {}}],
                "current-context": "c",
            }
        )
    )
    with patch_module_args({"kubeconfig": str(config)}), pytest.raises(KubeError, match="refused"):
        connect(kube_module(argument_spec={}))
