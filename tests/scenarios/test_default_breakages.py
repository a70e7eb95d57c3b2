# SPDX-License-Identifier: GPL-3.0-or-later
"""Things broken by hand on a finished platform: verify fails and names each, and the next run mends it."""

from __future__ import annotations

import pytest

from tests.scenarios.conftest import kubectl, playbook

# What is broken: how, what verify must name, and the playbook that mends it.
BREAKAGES = {
    "policy": (("-n", "token-labs", "delete", "authpolicy", "token-labs-auth"), "token-labs-auth", "gateway"),
    "route": (("-n", "token-labs", "delete", "aigatewayroute", "llm-inference"), "llm-inference", "inference"),
    "worker": (
        ("-n", "token-labs", "scale", "deployment", "ms-nemotron-llama-8b-decode", "--replicas=0"),
        "nemotron-llama-8b",
        "inference",
    ),
    "redis": (("-n", "redis-system", "scale", "statefulset", "redis", "--replicas=0"), "redis", "gateway"),
    "key label": (
        ("-n", "kuadrant-system", "label", "secret", "-l", "tokenlabs.io/tenant=demo-pro", "app-"),
        "demo-pro",
        "tenants",
    ),
}
SAMPLE = {"policy", "key label"}


def parameters() -> list[object]:
    return [pytest.param(name, marks=() if name in SAMPLE else pytest.mark.long) for name in BREAKAGES]


@pytest.mark.parametrize("name", parameters())
def test_verify_names_what_is_broken_and_a_run_mends_it(name: str) -> None:
    command, named, mends = BREAKAGES[name]
    kubectl(*command)

    verdict = playbook("verify")
    failed = [line for line in verdict.text.splitlines() if "FAILED" in line]
    assert verdict.code != 0, "verify passed on a broken platform"
    assert any(named in line for line in failed), verdict.text

    assert playbook(mends).code == 0
    again = playbook("verify")
    assert again.code == 0, again.text
