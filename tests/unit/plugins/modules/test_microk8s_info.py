from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.tokenlabs.platform.plugins.module_utils._microk8s import MicroK8sError, State
from ansible_collections.tokenlabs.platform.plugins.modules import microk8s_info


def call(capsys, **params) -> dict:
    with patch_module_args(params), pytest.raises(SystemExit):
        microk8s_info.main()
    return json.loads(capsys.readouterr().out)


def test_state_and_next_step(monkeypatch, capsys) -> None:
    seen = {}

    def read_state(run, expected, store, gpu):
        seen.update(expected=expected, store=store, gpu=gpu)
        return State(node_name="spark-01", installed=True, role="worker", member=True)

    monkeypatch.setattr(microk8s_info, "read_state", read_state)
    result = call(capsys, target_role="worker", ca_fingerprint="ab12", node={})
    assert seen == {"expected": "ab12", "store": False, "gpu": False}
    assert (result["changed"], result["action"], result["role"]) == (False, "restart", "worker")
    assert "cluster" not in result


def test_empty_fingerprint_means_no_cluster(monkeypatch, capsys) -> None:
    monkeypatch.setattr(microk8s_info, "read_state", lambda run, expected, store, gpu: State(node_name=repr(expected)))
    result = call(capsys, ca_fingerprint="", gather=["state", "nodes"])
    assert result["node_name"] == "None"
    assert result["cluster"]["api"] is False
    assert "action" not in result


def test_only_what_is_asked_for_is_returned(monkeypatch, capsys) -> None:
    monkeypatch.setattr(microk8s_info, "read_state", lambda run, expected, store, gpu: State())
    result = call(capsys, gather=["addons"])
    assert set(result) - {"invocation"} == {"changed", "cluster"}


def test_error_is_a_sentence(monkeypatch, capsys) -> None:
    def read_state(run, expected, store, gpu):
        raise MicroK8sError("snap list microk8s failed: timeout")

    monkeypatch.setattr(microk8s_info, "read_state", read_state)
    result = call(capsys, target_role="worker")
    assert (result["failed"], result["msg"]) == (True, "snap list microk8s failed: timeout")


def test_missing_commands_are_answered(monkeypatch, capsys) -> None:
    def read_state(run, expected, store, gpu):
        return State(node_name=str(run(["no-such-command-here", "x"])[0]))

    monkeypatch.setattr(microk8s_info, "read_state", read_state)
    assert call(capsys)["node_name"] == "127"


def test_what_the_host_shall_be_reaches_the_decision(monkeypatch, capsys) -> None:
    found = State(installed=True, role="controlplane", member=True, channel="1.34/stable")
    monkeypatch.setattr(microk8s_info, "read_state", lambda run, expected, store, gpu: found)
    common = {"target_role": "controller", "ca_fingerprint": "ab12", "node": {"ready": True}}
    known = {"address": "10.0.0.2", "datastore": ["10.0.0.1:19001", "10.0.0.2:19001"]}
    assert call(capsys, **common, **known)["action"] == "none"
    assert call(capsys, **common)["action"] == "fail"
    assert call(capsys, **common, force=True)["action"] == "repair"
    assert call(capsys, **common, chosen=True)["action"] == "none"
    assert "1.33/stable" in call(capsys, **common, **known, channel="1.33/stable")["reason"]


def test_flags_that_have_to_go_are_named(monkeypatch, capsys) -> None:
    found = State(other_args={"--max-pods": "5", "--v": "2"})
    monkeypatch.setattr(microk8s_info, "read_state", lambda run, expected, store, gpu: found)
    assert call(capsys, inherited_args={"--max-pods": 5, "--v": "2"})["stray_args"] == []
    assert call(capsys, inherited_args={"--max-pods": "5"}, kubelet_args={"--v": "3"})["stray_args"] == [
        "--max-pods",
        "--v",
    ]
