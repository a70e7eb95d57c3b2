# SPDX-License-Identifier: GPL-3.0-or-later
"""From one release set to the next with site.yml and nothing else, never back; the gateway stays closed meanwhile.

It comes first: it needs a lab on which nothing is installed, and takes the platform down at its end.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils._releases import RELEASES

from tests.scenarios.conftest import Run, kubectl, playbook, run
from tests.scenarios.evidence import mutating_commands, writes
from tests.scenarios.keyless import address, ask, keyless_client

pytestmark = pytest.mark.long

ORDER = sorted(RELEASES)
# One Kubernetes for all sets, which the oldest is not tested with: to take it up is upgrade.yml's work.
KUBERNETES = ["-e", '{"tokenlabs_microk8s_channel": "1.34/stable", "tokenlabs_release_unsupported": true}']


def site(release: str, name: str = "site", *arguments: str) -> Run:
    return playbook(name, "-e", f"tokenlabs_release={release}", *KUBERNETES, *arguments)


def installed() -> dict[str, str]:
    """Charts of helm's releases, by the release's name."""
    listed = json.loads(run("helm", "list", "--all-namespaces", "--output", "json").text)
    return {each["name"]: each["chart"] for each in listed}


def bundle(definition: str, group: str) -> str:
    crd = json.loads(kubectl("get", "crd", definition, "-o", "json"))
    return crd["metadata"]["annotations"][f"{group}/bundle-version"]


def assert_is(release: str) -> None:
    versions, charts = RELEASES[release].versions, installed()
    assert charts["eg"] == f"gateway-helm-{versions['envoy_gateway']}"
    assert charts["aieg"] == f"ai-gateway-helm-{versions['ai_gateway']}"
    assert charts["aieg-crd"] == f"ai-gateway-crds-helm-{versions['ai_gateway']}"
    assert charts["kuadrant-operator"] == f"kuadrant-operator-{versions['kuadrant_operator']}"
    pools = {chart for name, chart in charts.items() if name.startswith("pool-")}
    assert pools == {f"inferencepool-{versions['inferencepool']}"}
    assert bundle("gateways.gateway.networking.k8s.io", "gateway.networking.k8s.io") == versions["gateway_api"]
    pool = "inference.networking.k8s.io"
    assert bundle(f"inferencepools.{pool}", pool) == versions["inference_extension"]


def key() -> dict[str, str]:
    file = Path(os.environ["TOKENLABS_LAB"]) / "credentials" / "demo-pro.key"
    return {"Authorization": f"Bearer {file.read_text().strip()}"}


def test_the_oldest_set_is_installed() -> None:
    result = site(ORDER[0])
    assert result.code == 0, result.text[-4000:]
    assert "Warning: " in result.text and "GHSA" in result.text
    assert_is(ORDER[0])


@pytest.mark.parametrize("release", ORDER[1:])
def test_a_newer_set_is_only_another_name(release: str) -> None:
    host = address()
    with keyless_client(host) as seen:
        result = site(release)
    print(f"while moving to {release}, a client without a key was answered {dict(seen)}")
    assert result.code == 0, result.text[-4000:]
    assert seen[401] > 0, "the client was never answered, so it proves nothing"
    assert seen[200] == 0, seen
    # Definitions come before the controllers that read them.
    order = re.findall(
        r"^TASK \[tokenlabs\.platform\.(crds|ai_gateway|envoy_gateway|kuadrant|policies|llm_d) :", result.text, re.M
    )
    firsts = list(dict.fromkeys(order))
    assert firsts == ["crds", "ai_gateway", "envoy_gateway", "kuadrant", "policies", "llm_d"]
    assert_is(release)
    assert ask(address(), "GET", "/v1/models", key()) == 200


def test_then_nothing_is_left_to_do() -> None:
    begun = time.time()
    result = site(ORDER[-1], "gateway")
    assert result.code == 0, result.text[-4000:]
    assert writes(begun) == [] and mutating_commands(begun) == []


@pytest.mark.parametrize("name", ["site", "cluster", "gateway", "inference"])
def test_there_is_no_way_back(name: str) -> None:
    begun = time.time()
    result = site(ORDER[-2], name)
    said = " ".join(result.text.split())
    assert result.code == 2, result.text[-4000:]
    newest, older = RELEASES[ORDER[-1]].versions, RELEASES[ORDER[-2]].versions
    assert (
        f"the release {ORDER[-2]} is older than what is installed; what is installed is the release {ORDER[-1]}" in said
    )
    place = "helm release eg in envoy-gateway-system"
    assert f"{newest['envoy_gateway']} is installed ({place}), {older['envoy_gateway']} is asked for" in said
    assert writes(begun) == [] and mutating_commands(begun) == []
    assert_is(ORDER[-1])


def test_what_was_installed_goes() -> None:
    result = site(ORDER[-1], "teardown", "-e", "confirm=teardown")
    assert result.code == 0, result.text[-4000:]
