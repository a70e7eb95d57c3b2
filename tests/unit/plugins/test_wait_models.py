# SPDX-License-Identifier: GPL-3.0-or-later
"""The action wait_models: how often the host is asked, what is printed, how it ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.tokenlabs.platform.plugins.action import wait_models
from ansible_collections.tokenlabs.platform.plugins.action.wait_models import ActionModule

MODEL = {"pool": "p", "picker": "e", "deployment": "d", "label": "l", "startup_seconds": 60}


def state(doing: str, ready: bool = False, running: bool = False) -> dict[str, Any]:
    return {"ready": ready, "doing": doing, "running": running, "events": []}


class Host:
    """Answers one look after the other, and lets time pass with each."""

    def __init__(self, *looks: tuple[float, dict[str, Any]]):
        self.looks, self.now, self.asked = list(looks), 0.0, []

    def look(self, module_args: dict[str, Any], **_more: Any) -> dict[str, Any]:
        self.asked.append(module_args)
        seconds, answer = self.looks.pop(0)
        self.now += seconds
        if "msg" in answer:
            return {"failed": True, **answer}
        wanted = [model["name"] for model in module_args["models"]]
        return {"states": {name: answer[name] for name in wanted}, "ready": [], "pending": {}}


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(wait_models.display, "display", lambda text: found.append(text))
    return found


def run(host: Host, monkeypatch: pytest.MonkeyPatch, names: str = "ab", check: bool = False) -> dict[str, Any]:
    monkeypatch.setattr(wait_models.time, "monotonic", lambda: host.now)
    # Beside what it needs, a model may bring all that the catalog has.
    models = [{"name": name, "image": "r/s:1", **MODEL} for name in names]
    task = SimpleNamespace(
        args={"namespace": "n", "models": models, "pull_timeout": 100}, check_mode=check, async_val=0, diff=False
    )
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir=None))
    action = ActionModule(task, connection, SimpleNamespace(), None, None, None)
    monkeypatch.setattr(action, "_execute_module", lambda module_name, module_args, task_vars: host.look(module_args))
    return action.run(task_vars={})


def test_when_all_are_ready_there_is_one_look_and_nothing_to_tell(
    monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    host = Host((1, {"a": state("ready", ready=True), "b": state("ready", ready=True)}))
    assert run(host, monkeypatch) == {"changed": False, "ready": ["a", "b"], "pending": {}}
    assert (len(host.asked), lines) == (1, [])
    assert host.asked[0]["models"][0] == {"name": "a", **MODEL}


def test_what_they_do_is_told_and_the_last_one_is_waited_for(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    host = Host(
        (1, {"a": state("its image is downloaded"), "b": state("ready", ready=True)}),
        (9, {"a": state("its server starts", running=True)}),
        (20, {"a": state("ready", ready=True)}),
    )
    assert run(host, monkeypatch)["ready"] == ["b", "a"]
    assert [line.strip() for line in lines] == [
        "a: its image is downloaded (1s, until 1m 40s at most)",
        "b: ready after 1s",
        "a: its server starts (10s, until 1m 10s at most)",
        "a: ready after 30s",
    ]
    assert [each["name"] for each in host.asked[1]["models"]] == ["a"]
    assert host.asked[1]["seen"] == {"a": "its image is downloaded"}
    assert (host.asked[0]["look_timeout"], host.asked[1]["look_timeout"]) == (0, 30)


def test_one_that_does_not_start_fails_the_task_when_the_others_are_done(
    monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    stuck = state("its image cannot be pulled")
    host = Host((1, {"a": stuck, "b": stuck}), (60, {"a": stuck, "b": state("ready", ready=True)}), (39, {"a": stuck}))
    result = run(host, monkeypatch)
    assert result["failed"] and result["ready"] == ["b"]
    assert result["msg"] == (
        "1 of 2 models did not start within 1m 40s; the others can be used.\n"
        "- a: its image cannot be pulled (after 1m 40s)"
    )
    assert any("a: given up after 1m 40s" in line for line in lines)


def test_a_look_that_fails_ends_the_task(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    assert run(Host((1, {"msg": "403 Forbidden"})), monkeypatch)["msg"] == "403 Forbidden"


def test_a_rehearsal_looks_once(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    host = Host((1, {"a": state("it does not exist"), "b": state("it does not exist")}))
    assert not run(host, monkeypatch, check=True).get("failed")
    assert len(host.asked) == 1
