# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants run with the rights of a tenant operator and no more; what is missing is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.apiserver import ApiServer
from tests.integration.conftest import RunModule
from tests.integration.tenants_site import Body, Site, done, tenant

REPO = Path(__file__).resolve().parents[2]
OPERATOR = "tokenlabs-tenant-operator"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def documents(namespace: str) -> dict[str, Body]:
    """The objects that the role kuadrant applies for tenant operators, by kind."""
    text = (REPO / "roles/kuadrant/vars/main.yml").read_text().replace("{{ __kuadrant_namespace }}", namespace)
    found = yaml.safe_load(text)["__kuadrant_definitions"]
    return {each["kind"]: each for each in found if each["metadata"]["name"] == OPERATOR}


class Operator:
    """Who may do what the role says, and how that is taken away."""

    def __init__(self, api: ApiServer, namespace: str, directory: Path):
        self.api = api
        self.documents = documents(namespace)
        self.roles = f"{RBAC}/namespaces/{namespace}/roles"
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        api.raw("POST", accounts, self.documents["ServiceAccount"])
        api.raw("POST", self.roles, self.documents["Role"])
        api.raw("POST", f"{RBAC}/namespaces/{namespace}/rolebindings", self.documents["RoleBinding"])
        token = api.raw("POST", f"{accounts}/{OPERATOR}/token", {"spec": {"expirationSeconds": 3600}})
        # As in docs/operations.md.
        (directory / "tenant-operator.token").write_text(token["status"]["token"])
        self.kubeconfig = directory / "tenant-operator.config"
        cluster = {"server": api.url, "certificate-authority": str(api.pki / "ca.crt")}
        config: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tokenlabs", "cluster": cluster}],
            "users": [{"name": OPERATOR, "user": {"tokenFile": str(directory / "tenant-operator.token")}}],
            "contexts": [{"name": "tokenlabs", "context": {"cluster": "tokenlabs", "user": OPERATOR}}],
            "current-context": "tokenlabs",
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def may(self, verbs: list[str]) -> None:
        role = self.documents["Role"]
        rule = {**role["rules"][0], "verbs": verbs}
        self.api.raw("PUT", f"{self.roles}/{OPERATOR}", {**role, "rules": [rule]})

    @property
    def verbs(self) -> list[str]:
        return list(self.documents["Role"]["rules"][0]["verbs"])


@pytest.fixture
def operator(api: ApiServer, namespace: str, tmp_path: Path) -> Operator:
    return Operator(api, namespace, tmp_path)


@pytest.fixture
def site(
    api: ApiServer,
    run: RunModule,
    namespace: str,
    tmp_path: Path,
    operator: Operator,
    monkeypatch: pytest.MonkeyPatch,
) -> Site:
    monkeypatch.setenv("K8S_AUTH_KUBECONFIG", str(operator.kubeconfig))
    return Site(api, run, namespace, tmp_path)


BEFORE = (tenant("a"), tenant("b"), tenant("c"))
# Each kind of write: a new Secret for an old one, a change in place, a deletion, a new Secret.
AFTER = (tenant("a", tier="pro"), tenant("b", state="suspended"), tenant("c", state="absent"), tenant("d"))


def test_the_rights_of_a_tenant_operator_are_enough(site: Site) -> None:
    assert done(site.run(*BEFORE)) == {"created": ["a", "b", "c"]}
    result = site.run(*AFTER)
    assert not result.get("failed"), result["msg"]
    assert done(result) == {"created": ["d"], "updated": ["a"], "suspended": ["b"], "deleted": ["c"]}
    assert site.run(*AFTER)["changed"] is False


@pytest.mark.parametrize("verb", ["list", "create", "patch", "delete"])
def test_a_right_that_is_missing_is_named(site: Site, operator: Operator, verb: str) -> None:
    site.run(*BEFORE)
    operator.may([each for each in operator.verbs if each != verb])
    result = site.run(*AFTER)
    assert result["failed"]
    right = f'User "system:serviceaccount:{site.namespace}:{OPERATOR}" cannot {verb} resource "secrets"'
    assert right in result["msg"] and f'in the namespace "{site.namespace}"' in result["msg"]
    operator.may(operator.verbs)
    assert not site.run(*AFTER).get("failed")
    assert site.run(*AFTER)["changed"] is False


def test_no_other_rights_come_with_it(site: Site, operator: Operator) -> None:
    site.namespace = "kube-system"
    site.path = "/api/v1/namespaces/kube-system/secrets"
    result = site.run(tenant())
    assert 'cannot list resource "secrets"' in result["msg"] and 'in the namespace "kube-system"' in result["msg"]
    [rule] = operator.documents["Role"]["rules"]
    assert rule["resources"] == ["secrets"] and set(rule["verbs"]) == {"get", "list", "create", "patch", "delete"}


def test_kubernetes_tasks_run_with_it(operator: Operator) -> None:
    """What asks before every play whether the API answers needs no cluster admin either."""
    program = (REPO / "roles/kube_tools/files/ready.py").read_text()

    def ask() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-", "0", str(operator.kubeconfig)]
        return subprocess.run(command, input=program, capture_output=True, text=True, check=False)

    assert ask().returncode == 0, ask().stderr
    config = yaml.safe_load(operator.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": "nobody's"}
    operator.kubeconfig.write_text(yaml.safe_dump(config))
    assert ask().returncode == 1 and "does not answer" in ask().stderr
