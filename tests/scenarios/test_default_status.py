# SPDX-License-Identifier: GPL-3.0-or-later
"""The status page on a finished platform: it names what was broken by hand, with a remedy, and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.scenarios import evidence
from tests.scenarios.conftest import REPO, kubectl, playbook

WORKER = ("-n", "token-labs", "scale", "deployment", "ms-nemotron-llama-8b-decode")
RELEASE = (
    "-n",
    "envoy-gateway-system",
    "label",
    "secret",
    "-l",
    "owner=helm,name=eg,status!=superseded",
    "--overwrite",
)


def page() -> list[str]:
    """The lines of the page."""
    shown = playbook("status", "--tags", "html")
    assert shown.code == 0, shown.text
    lines = shown.text.splitlines()
    start = next(number for number, line in enumerate(lines) if "TokenLabs platform at" in line)
    return [line.strip() for line in lines[start : lines.index("PLAY RECAP *" + "*" * 68, start)]]


@pytest.fixture
def broken() -> Iterator[None]:
    try:
        kubectl("cordon", "spark-01")
        kubectl(*WORKER, "--replicas=0")
        kubectl(*RELEASE, "status=failed")
        yield
    finally:
        kubectl("uncordon", "spark-01")
        kubectl(*RELEASE, "status=deployed")
        kubectl(*WORKER, "--replicas=1")
        kubectl("-n", "token-labs", "rollout", "status", "deployment/ms-nemotron-llama-8b-decode", "--timeout=120s")


def test_the_page_names_what_is_broken_and_says_when_all_is_well(broken: None) -> None:
    began = time.time()
    lines = page()
    found = [line for line in lines if line.startswith(("ERROR", "WARNING"))]
    assert len(found) == 3, "\n".join(lines)
    assert "Helm release envoy-gateway-system/eg is failed" in found[0]
    assert "nemotron-llama-8b: 1 worker on spark-01; it is scaled to 0 replicas" in found[1]
    assert "node spark-01 is cordoned" in found[2]
    assert "2 errors, 1 warning." in lines
    remedies = [line for line in lines if line.startswith("->")]
    assert ["gateway.yml" in remedies[0], "inference.yml" in remedies[1], "uncordon" in remedies[2]] == [True] * 3
    written = (REPO / "reports/status.html").read_text()
    assert "node spark-01 is cordoned" in written
    assert not evidence.writes(began)
    assert not evidence.mutating_commands(began)


def test_a_whole_platform_is_said_to_be_well() -> None:
    lines = page()
    assert "All is well." in lines, "\n".join(lines)
