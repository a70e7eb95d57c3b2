# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: what it says when it cannot, and how it shows what it knows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab import cli, faults, wire
from lab.paths import REPO, Lab, LabError, plan_hosts


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TOKENLABS_LAB_STATE", str(tmp_path / "labs"))
    monkeypatch.delenv("TOKENLABS_LAB_NAME", raising=False)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = cli.main(list(arguments))
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return code, (printed.out + printed.err).strip()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the lab's commands do")


@needs_root
@pytest.mark.parametrize(
    "arguments",
    [["status"], ["exec", "--", "true"], ["kubectl", "get", "nodes"], ["journal"], ["fault", "stop", "controller"]],
)
def test_without_a_lab_every_command_says_how_to_start_it(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, text = said(capsys, *arguments)
    assert (code, text) == (1, "lab: lab lab is not running; start it with: lab/ctl up")
    code, text = said(capsys, "--name", "two", *arguments)
    assert (code, text) == (1, "lab: lab two is not running; start it with: lab/ctl --name two up")


def test_status_for_scripts_is_json_even_then(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "status", "--json")
    assert code == 1
    assert '"running": false' in text


@needs_root
def test_down_without_a_lab_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "down") == (0, "lab: lab lab is not there; nothing to do")


@needs_root
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["up", "--hosts", "controller,controller"], "host named twice: controller"),
        (["up", "--hosts", "Über"], "host name 'Über'"),
        (["--name", "No", "up"], "lab name 'No'"),
        (["up", "--without", "everything"], "no component 'everything'"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], place: Path, arguments: list[str], text: str
) -> None:
    code, out = said(capsys, *arguments)
    assert code == 1
    assert text in out
    assert len(out.splitlines()) == 1
    assert not (place / "labs").exists()


@needs_root
def test_a_wrong_upstream_directory_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    monkeypatch.setenv("LAB_UPSTREAM", str(place))
    code, out = said(capsys, "up")
    assert (code, out) == (1, f"lab: LAB_UPSTREAM={place}: no directory 'crds' in it")


def test_no_root_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for command in ("up", "down", "build"):
        code, out = said(capsys, command)
        assert code == 1
        assert out.startswith("lab: the lab needs root")


@pytest.mark.parametrize(
    ("argv", "rest"),
    [
        (["kubectl", "-n", "x", "get", "pods"], ["-n", "x", "get", "pods"]),
        (["--name", "kubectl", "exec", "--", "ls", "--name", "x"], ["--", "ls", "--name", "x"]),
        (["--name=two", "exec", "ls", "-l"], ["ls", "-l"]),
        (["kubectl", "--help"], ["--help"]),
        (["exec"], []),
    ],
)
def test_what_follows_exec_and_kubectl_is_not_ours(argv: list[str], rest: list[str]) -> None:
    ours, found = cli.split(argv)
    assert found == rest
    assert ours + found == argv


@pytest.mark.parametrize("argv", [["exec", "--help"], ["up", "--hosts", "exec"], ["--help"], []])
def test_all_else_is_ours(argv: list[str]) -> None:
    assert cli.split(argv) == (argv, [])


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(LabError, match="iproute2, openssh-client, redis-server, util-linux"):
        cli.check_machine()


def test_two_commands_on_one_lab_do_not_meet(place: Path) -> None:
    lab = Lab("lab", place / "labs/lab")
    with cli.only_one(lab):
        with pytest.raises(LabError, match="another command"), cli.only_one(lab):
            pass
        with cli.only_one(Lab("other", place / "labs/other")):
            pass
    assert not (place / "labs").exists()
    with cli.only_one(lab):
        pass


def test_ctl_without_the_pinned_packages_says_what_to_run(place: Path) -> None:
    fake = place / "bin"
    fake.mkdir()
    (fake / "python3").write_text("#!/bin/sh\nexit 1\n")
    (fake / "python3").chmod(0o755)
    copy = place / "repo/lab"
    copy.mkdir(parents=True)
    (copy / "ctl").write_bytes((REPO / "lab/ctl").read_bytes())
    (copy / "ctl").chmod(0o755)
    env = {"PATH": f"{fake}:/usr/bin:/bin"}
    done = subprocess.run([copy / "ctl", "status"], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "lab: no Python 3.11 or newer with the pinned requirements here; run scripts/setup.sh first\n"
    )


# --- showing --------------------------------------------------------------------------------------------------------


def test_journals_are_merged_by_time_and_broken_lines_left_out() -> None:
    merged = cli.merge_journals(
        {
            "b": '{"t": 2.0, "argv": ["snap", "list"], "rc": 0, "ms": 3, "mutating": false}\n{"t": 9.',
            "a": '{"t": 1.5, "argv": ["microk8s", "enable", "dns"], "rc": 1, "ms": 10, "mutating": true}\n'
            '{"t": 10.25, "argv": ["snap", "version"], "rc": 0, "ms": 1, "mutating": false}\n',
        }
    )
    assert [(entry["host"], entry["t"]) for entry in merged] == [("a", 1.5), ("b", 2.0), ("a", 10.25)]
    assert cli.journal_line(merged[0]) == "00:00:01 a            * rc=1 10 ms       microk8s enable dns"


def test_the_table_shows_what_is_wrong() -> None:
    host = {
        "address": "10.77.0.11",
        "running": True,
        "ready": True,
        "ready_after": 1.0,
        "network": "cut",
        "boots": 2,
        "last_end": "reboot",
        "memory_mib": 9,
    }
    part = {"running": False, "ready": False, "ready_after": None, "restarts": 3, "last_end": "x", "memory_mib": 0}
    off = host | {"running": False, "ready": False, "ready_after": None, "network": "up", "last_end": "power loss"}
    status: dict[str, Any] = {"name": "lab", "state": "/s", "ready": False, "uptime_s": 61.0, "memory_mib": 700}
    text = cli.table(status | {"hosts": {"spark-01": host, "spark-02": off}, "components": {"etcd": part}})
    lines = text.splitlines()
    assert lines[0] == "lab lab: not ready, up for 61 s, 700 MiB, files in /s"
    assert lines[3].split() == ["spark-01", "ready", "1.0", "s", "1", "9", "network", "cut"]
    assert lines[4].split() == ["spark-02", "off", "(power", "loss)", "1", "9", "10.77.0.11"]
    assert lines[5].split() == ["etcd", "down", "3", "0", "x"]


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hosts_files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A supervisor that only keeps files."""
    files: dict[str, str] = {}

    def ask(_path: Path, /, **request: Any) -> dict[str, Any]:
        if request["verb"] == "read":
            return {"text": files.get(request["host"])}
        if request["verb"] == "write":
            if request["text"] is None:
                files.pop(request["host"], None)
            else:
                files[request["host"]] = request["text"]
            return {}
        if request["verb"] == "run":
            return {"rc": 1 if "broken" in files.get(request["host"], "") else 0, "output": "why"}
        if request["verb"] == "filter":
            files[request["host"]] = str(request["port"])
            return {}
        raise AssertionError(request)

    monkeypatch.setattr(wire, "ask", ask)
    monkeypatch.setattr(faults, "host_faults", lambda: {"token_expired": "x", "change_conflict": "y"})
    monkeypatch.setattr(faults, "platform_faults", lambda: {"policy_never_enforced": "z"})
    monkeypatch.setattr(faults, "read_platform_faults", lambda _lab: {})
    return files


@pytest.fixture
def lab(place: Path) -> Lab:
    return Lab("lab", place, plan_hosts(["controller", "spark-01"]))


def test_host_faults_are_set_and_cleared(lab: Lab, hosts_files: dict[str, str]) -> None:
    assert faults.inject(lab, "token_expired", ["controller"]) == "controller: token_expired = true"
    faults.inject(lab, "host", ["controller", "change_conflict", "3"])
    assert hosts_files == {"controller": '{\n "token_expired": true,\n "change_conflict": 3\n}\n'}
    assert "controller: change_conflict = 3" in faults.inject(lab, "list", [])
    faults.inject(lab, "clear", ["controller", "token_expired"])
    assert hosts_files == {"controller": '{\n "change_conflict": 3\n}\n'}
    faults.inject(lab, "clear", [])
    assert hosts_files == {}
    assert faults.inject(lab, "list", []) == "no fault is set"


def test_a_fault_that_cannot_be_put_on_is_an_error(lab: Lab, hosts_files: dict[str, str]) -> None:
    with pytest.raises(LabError, match="could not be put on: .*why"):
        faults.inject(lab, "token_expired", ["controller", "broken"])


def test_a_port_is_filtered(lab: Lab, hosts_files: dict[str, str]) -> None:
    assert faults.inject(lab, "filter", ["controller", "25000"]) == "filter controller: done"
    assert hosts_files == {"controller": "25000"}


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("filter", ["controller"], "usage: fault filter HOST PORT"),
        ("filter", ["controller", "ssh"], "not a port: ssh"),
        ("nonsense", [], "no fault 'nonsense'"),
        ("stop", [], "usage: fault stop HOST"),
        ("token_expired", [], "usage: fault token_expired HOST"),
        ("token_expired", ["nobody"], "no host 'nobody'"),
        ("host", ["controller", "typo"], "the hosts know no fault 'typo'"),
        ("platform", ["typo"], "know no fault 'typo'"),
        ("clear", ["nobody"], "no host 'nobody'"),
    ],
)
def test_wrong_faults_are_refused(
    lab: Lab, hosts_files: dict[str, str], name: str, arguments: list[str], text: str
) -> None:
    with pytest.raises(LabError, match=text):
        faults.inject(lab, name, arguments)
    assert hosts_files == {}


def test_every_fault_has_one_name_and_a_sentence() -> None:
    groups = [faults.MACHINE, faults.CONTROL, faults.known("lab.hostsim"), faults.known("lab.world")]
    names = [name for group in groups for name in group]
    assert len(names) == len(set(names))
    text = faults.catalogue()
    assert all(name in text for name in names)
