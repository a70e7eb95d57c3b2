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

    def read_state(run, expected):
        seen["expected"] = expected
        return State(node_name="spark-01", installed=True, role="worker", member=True)

    monkeypatch.setattr(microk8s_info, "read_state", read_state)
    result = call(capsys, target_role="worker", ca_fingerprint="ab12", node={})
    assert seen == {"expected": "ab12"}
    assert (result["changed"], result["action"], result["role"]) == (False, "restart", "worker")
    assert "cluster" not in result


def test_empty_fingerprint_means_no_cluster(monkeypatch, capsys) -> None:
    monkeypatch.setattr(microk8s_info, "read_state", lambda run, expected: State(node_name=repr(expected)))
    result = call(capsys, ca_fingerprint="", gather=["state", "nodes"])
    assert result["node_name"] == "None"
    assert result["cluster"]["api"] is False
    assert "action" not in result


def test_only_what_is_asked_for_is_returned(monkeypatch, capsys) -> None:
    monkeypatch.setattr(microk8s_info, "read_state", lambda run, expected: State())
    result = call(capsys, gather=["addons"])
    assert set(result) - {"invocation"} == {"changed", "cluster"}


def test_error_is_a_sentence(monkeypatch, capsys) -> None:
    def read_state(run, expected):
        raise MicroK8sError("snap list microk8s failed: timeout")

    monkeypatch.setattr(microk8s_info, "read_state", read_state)
    result = call(capsys, target_role="worker")
    assert (result["failed"], result["msg"]) == (True, "snap list microk8s failed: timeout")


def test_missing_commands_are_answered(monkeypatch, capsys) -> None:
    def read_state(run, expected):
        return State(node_name=str(run(["no-such-command-here", "x"])[0]))

    monkeypatch.setattr(microk8s_info, "read_state", read_state)
    assert call(capsys)["node_name"] == "127"
