# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor's decisions, without namespaces: order, restarts, requests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import controlplane, processes, supervisor, wire
from lab.controlplane import Component
from lab.paths import Lab, LabError, plan_hosts
from lab.supervisor import Running, Supervisor, after_host_end


@pytest.fixture
def boss(tmp_path: Path) -> Supervisor:
    lab = Lab("test", tmp_path, plan_hosts(["controller"]), bin="/nowhere")
    lab.logs.mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "ready").mkdir()
    return Supervisor(lab, tmp_path / "cgroup")


def program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def until(condition: Callable[[], Any], boss: Supervisor, limit: float = 20.0) -> None:
    """Turn the supervisor's loop by hand."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        for part in boss.parts.values():
            if part.process and (status := part.process.poll()) is not None:
                boss.one_ended(part.process.pid, status)
        boss.tick(time.monotonic())
        time.sleep(0.01)


def stop(boss: Supervisor) -> None:
    for part in boss.parts.values():
        if part.process:
            part.process.kill()
            part.process.wait()


def test_a_component_starts_after_those_it_needs_are_ready(boss: Supervisor) -> None:
    wait = "import time; time.sleep(60)"
    first = Component("first", program(wait), probe="@ready/first")
    boss.parts = {"second": Running(Component("second", program(wait), after=("first",))), "first": Running(first)}
    until(lambda: boss.parts["first"].process, boss)
    for _ in range(5):
        assert boss.tick(time.monotonic())
    assert boss.parts["second"].process is None
    (boss.lab.state / "ready/first").touch()
    until(lambda: boss.parts["second"].ready_after is not None, boss)
    assert not boss.tick(time.monotonic())
    stop(boss)


def test_a_component_that_dies_comes_back_and_later_each_time(boss: Supervisor) -> None:
    boss.parts = {"weak": Running(Component("weak", program("raise SystemExit(3)")))}
    weak = boss.parts["weak"]
    until(lambda: weak.restarts == 2, boss)
    assert weak.last_end == "exit status 3"
    assert weak.backoff == 4 * supervisor.FIRST_BACKOFF
    for _ in range(10):
        weak.ended("exit status 3", time.monotonic())
    assert weak.backoff == supervisor.LAST_BACKOFF


def test_a_long_life_is_rewarded_with_a_quick_restart() -> None:
    part = Running(Component("steady", ("true",)), started=0.0, backoff=15.0)
    part.ended("signal SIGKILL", now=supervisor.STEADY + 1)
    assert part.backoff == supervisor.FIRST_BACKOFF


def test_a_stale_ready_file_does_not_count(boss: Supervisor) -> None:
    component = Component("slow", program("import time; time.sleep(60)"), probe="@ready/slow")
    boss.parts = {"slow": Running(component)}
    (boss.lab.state / "ready/slow").touch()
    boss.tick(time.monotonic())
    boss.tick(time.monotonic())
    assert boss.parts["slow"].ready_after is None
    stop(boss)


def test_a_held_component_stays_down_until_it_is_restarted(boss: Supervisor) -> None:
    boss.parts = {"part": Running(Component("part", program("import time; time.sleep(60)")))}
    part = boss.parts["part"]
    until(lambda: part.process, boss)
    boss.request("hold", component="part")
    until(lambda: part.process is None, boss)
    part.due = 0.0
    assert not boss.tick(time.monotonic())
    assert part.process is None
    boss.request("restart", component="part")
    until(lambda: part.process, boss)
    stop(boss)


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (-signal.SIGHUP, "reboot"),
        (128 + signal.SIGHUP, "reboot"),
        (-signal.SIGINT, "poweroff"),
        (128 + signal.SIGINT, "poweroff"),
        (-signal.SIGKILL, "crash"),
        (0, "crash"),
        (1, "crash"),
    ],
)
def test_what_the_end_of_a_host_means(status: int, meaning: str) -> None:
    assert after_host_end(status) == meaning


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"verb": "explode"}, "knows no 'explode'"),
        ({"verb": "stop", "host": "nobody"}, "no host 'nobody'"),
        ({"verb": "restart", "component": "nothing"}, "no component 'nothing'"),
        ({"verb": "reboot", "host": "controller"}, "controller is off"),
    ],
)
def test_bad_requests_are_refused_in_words(boss: Supervisor, request_: dict[str, Any], said: str) -> None:
    boss.machines = {host.name: supervisor.Machine(host) for host in boss.lab.hosts}
    with pytest.raises(LabError, match=said):
        boss.request(**request_)


def test_a_refusal_and_nonsense_go_over_the_wire(boss: Supervisor) -> None:
    # Deeper than a socket address may be long.
    place = boss.lab.state / ("d" * 60) / ("e" * 60) / "ctl.sock"
    place.parent.mkdir(parents=True)
    server = wire.listen(place)

    def serve(count: int) -> None:
        for _ in range(count):
            boss.answer(server)

    thread = threading.Thread(target=serve, args=(3,))
    thread.start()
    assert wire.ask(place, verb="status")["components"] == {}
    with pytest.raises(LabError, match="knows no 'x'"):
        wire.ask(place, verb="x")
    with socket.socket(socket.AF_UNIX) as client, wire.short_path(place) as name:
        client.connect(name)
        client.sendall(b"not json\n")
        assert "error" in json.loads(client.makefile().readline())
    thread.join()
    server.close()


def test_nobody_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="does not answer"):
        wire.ask(tmp_path / "none.sock", verb="status")


def test_files_of_a_host_that_is_off(boss: Supervisor) -> None:
    boss.machines = {host.name: supervisor.Machine(host) for host in boss.lab.hosts}
    upper = boss.lab.host_dir("controller") / "upper"
    upper.mkdir(parents=True)
    assert boss.request("read", host="controller", path="/var/x")["text"] is None
    boss.request("write", host="controller", path="/var/x", text="hello")
    assert (upper / "var/x").read_text() == "hello"
    boss.request("write", host="controller", path="/var/x", text=None)
    assert boss.request("read", host="controller", path="/var/x")["text"] is None


# --- the list of components -----------------------------------------------------------------------------------------


def test_every_dependency_is_a_component(boss: Supervisor) -> None:
    found = controlplane.components(boss.lab)
    names = [component.name for component in found]
    for position, component in enumerate(found):
        assert set(component.after) <= set(names[:position])


def test_servers_in_go_collect_early_and_use_the_labs_own_files(boss: Supervisor) -> None:
    for component in controlplane.components(boss.lab):
        env = controlplane.child_environment(boss.lab, component)
        assert env["TOKENLABS_LAB"] == str(boss.lab.state)
        assert not set(env) & {"SSH_AUTH_SOCK", "AWS_SECRET_ACCESS_KEY", "VIRTUAL_ENV"}
        if component.argv[0].startswith("/nowhere"):
            assert env["GOGC"] == "40"


def test_the_audit_log_keeps_what_playbooks_do() -> None:
    rules: Any = controlplane.audit_policy()["rules"]
    quiet = {user for rule in rules if rule["level"] == "None" for user in rule.get("users", [])}
    assert "admin" not in quiet and "lab-operator" not in quiet
    for rule in rules:
        if rule["level"] == "None" and "users" in rule:
            assert set(rule["verbs"]) == {"get", "list", "watch"}
    assert rules[-1] == {"level": "Metadata"}


# --- processes ------------------------------------------------------------------------------------------------------


def test_only_processes_with_both_signs_belong_to_a_lab(tmp_path: Path) -> None:
    marked = os.environ | {"TOKENLABS_LAB": str(tmp_path)}
    ours = subprocess.Popen(["sleep", "60"], env=marked)
    other = subprocess.Popen(["sleep", "61"])
    try:
        while processes._command(ours.pid) != "sleep 60":
            time.sleep(0.01)
        assert processes.of_lab(tmp_path) == []  # which network it had is not known
        (tmp_path / "network").write_text("net:[1]\n")
        assert processes.of_lab(tmp_path) == []
        (tmp_path / "network").write_text(processes.network_of("self"))
        assert [each.pid for each in processes.of_lab(tmp_path)] == [ours.pid]
        processes.end_all(processes.of_lab(tmp_path))
        assert ours.wait(5) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for each in (ours, other):
            each.kill()
            each.wait()


def test_what_does_not_listen_is_killed() -> None:
    deaf = subprocess.Popen(
        program("import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"),
        stdout=subprocess.PIPE,
    )
    assert deaf.stdout
    deaf.stdout.readline()
    processes.end_all([processes.Process(deaf.pid, "deaf")], patience=0.2)
    assert deaf.wait(5) == -signal.SIGKILL
