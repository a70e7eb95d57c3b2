# SPDX-License-Identifier: GPL-3.0-or-later
"""The values of the role gpu_operator against the real chart: every key exists, and each option arrives."""

from __future__ import annotations

import copy
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.plugins.loader import init_plugin_loader
from ansible.template import trust_as_template

from tests.contract.charts import unknown
from tests.contract.test_roles import templar

NFD = "node-feature-discovery"
TAINT = {"key": "example.com/reserved", "value": "yes", "effect": "NoExecute"}
TOLERATED = {"key": "example.com/reserved", "operator": "Exists", "effect": "NoExecute"}
NAMES = ("plain", "operator's toolkit", "cdi", "slots", "taints")
GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def spark(name: str, slots: int = 1, taints: tuple[dict[str, str], ...] = ()) -> dict[str, Any]:
    return {"name": name, "gpu": True, "gpu_slots": slots, "taints": list(taints)}


def values(
    *sparks: dict[str, Any],
    toolkit: str = "host",
    cdi: bool = False,
    controller_taints: tuple[dict[str, str], ...] = (),
) -> dict[str, Any]:
    nodes = [{"name": "controller", "gpu": False, "gpu_slots": 0, "taints": list(controller_taints)}, *sparks]
    catalog = {
        "nodes": {node["name"]: node for node in nodes},
        "gpu": {"toolkit": toolkit, "cdi": cdi},
        "charts": {"gpu_operator": {}},
    }
    found = templar("gpu_operator", catalog)
    return found.template(trust_as_template("{{ __gpu_operator_all_values }}"))


def test_without_gpus_nothing_is_waited_for() -> None:
    found = templar("gpu_operator", {"nodes": {"controller": {"name": "controller", "gpu": False}}, "gpu": {}})
    found.available_variables["ansible_play_hosts"] = ["controller"]
    assert found.template(trust_as_template("{{ __gpu_operator_objects }}")) == []


@pytest.fixture(scope="module")
def variants() -> dict[str, dict[str, Any]]:
    init_plugin_loader()
    return {
        "plain": values(spark("a"), spark("b")),
        "operator's toolkit": values(spark("a"), toolkit="operator"),
        "cdi": values(spark("a"), cdi=True),
        "slots": values(spark("a", 2), spark("b", 4), spark("c")),
        "taints": values(
            spark("a", 1, (TAINT, {"key": "nvidia.com/gpu", "effect": "NoSchedule"})), controller_taints=(TAINT,)
        ),
    }


@pytest.fixture(scope="module")
def archive(upstream: Path) -> Path:
    path = upstream / "charts" / "gpu-operator-v25.10.1.tgz"
    if not path.exists():
        pytest.skip(f"no chart {path.name} under LAB_UPSTREAM/charts")
    return path


@pytest.fixture(scope="module")
def defaults(archive: Path) -> dict[str, Any]:
    """The chart's own values, with those of its subchart where a parent's values reach them."""

    def read(name: str) -> dict[str, Any]:
        with tarfile.open(archive) as tar:
            file = tar.extractfile(name)
            assert file
            return yaml.safe_load(file)

    own = read("gpu-operator/values.yaml")
    return {**own, NFD: merged(read(f"gpu-operator/charts/{NFD}/values.yaml"), own[NFD])}


def merged(one: Any, other: Any) -> Any:
    """Two values, the second over the first, as helm lays a parent's over its subchart's."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return other
    return {
        key: merged(one[key], other[key]) if key in one and key in other else {**one, **other}[key]
        for key in one | other
    }


def test_a_key_that_the_chart_lacks_is_found(variants: dict[str, Any], defaults: dict[str, Any]) -> None:
    wrong = copy.deepcopy(variants["plain"])
    wrong["toolkit"]["enable"] = True
    wrong["nope"] = {}
    assert unknown(wrong, defaults) == [".toolkit.enable", ".nope"]


@pytest.mark.parametrize("name", NAMES)
def test_every_key_exists_in_the_chart(name: str, variants: dict[str, Any], defaults: dict[str, Any]) -> None:
    assert unknown(variants[name], defaults) == []


@pytest.fixture(scope="module")
def rendered(
    variants: dict[str, Any], archive: Path, helm: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("values")
    found = {}
    for name, told in variants.items():
        file = folder / "values.json"
        file.write_text(json.dumps(told))
        command = [helm, "template", "gpu-operator", str(archive), "--namespace", "gpu-operator", "--values", str(file)]
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env={"HOME": str(folder)}
        )
        assert ran.returncode == 0, f"{name}: {ran.stderr}"
        found[name] = [each for each in yaml.safe_load_all(ran.stdout) if each]
    return found


def policy(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [each for each in objects if each["kind"] == "ClusterPolicy"]
    return found["spec"]


def test_neither_driver_nor_toolkit_by_default(rendered: dict[str, list[dict[str, Any]]]) -> None:
    spec = policy(rendered["plain"])
    assert (spec["driver"]["enabled"], spec["toolkit"]["enabled"], spec["cdi"]["enabled"]) == (False, False, False)
    assert "config" not in spec["devicePlugin"] or not spec["devicePlugin"]["config"].get("name")
    assert not spec["dcgmExporter"]["serviceMonitor"]["enabled"]
    assert [each for each in rendered["plain"] if each["metadata"]["name"].startswith("tokenlabs-slots")] == []


def test_the_operators_toolkit_is_told_of_microk8s(rendered: dict[str, list[dict[str, Any]]]) -> None:
    spec = policy(rendered["operator's toolkit"])
    assert (spec["driver"]["enabled"], spec["toolkit"]["enabled"]) == (False, True)
    assert {each["name"]: each["value"] for each in spec["toolkit"]["env"]} == {
        "CONTAINERD_CONFIG": "/var/snap/microk8s/current/args/containerd-template.toml",
        "CONTAINERD_SOCKET": "/var/snap/microk8s/common/run/containerd.sock",
        "RUNTIME_CONFIG_SOURCE": "file=/var/snap/microk8s/current/args/containerd.toml",
    }


def test_switches_arrive(rendered: dict[str, list[dict[str, Any]]]) -> None:
    assert policy(rendered["cdi"])["cdi"]["enabled"] is True


def test_slots_are_configurations_of_the_device_plugin(rendered: dict[str, list[dict[str, Any]]]) -> None:
    chosen = policy(rendered["slots"])["devicePlugin"]["config"]
    (config,) = [
        each for each in rendered["slots"] if each["kind"] == "ConfigMap" and each["metadata"]["name"] == chosen["name"]
    ]
    assert chosen["default"] == "slots-1"
    assert set(config["data"]) == {"slots-1", "slots-2", "slots-4"}
    assert yaml.safe_load(config["data"]["slots-1"]) == {"version": "v1"}
    assert yaml.safe_load(config["data"]["slots-4"])["sharing"]["timeSlicing"] == {
        "renameByDefault": False,
        "failRequestsGreaterThanOne": False,
        "resources": [{"name": "nvidia.com/gpu", "replicas": 4}],
    }


def test_another_configuration_has_another_name(variants: dict[str, Any]) -> None:
    names = {values(spark("a", slots))["devicePlugin"]["config"]["name"] for slots in (2, 3, 3)}
    assert len(names) == 2


def test_taints_of_the_inventory_are_tolerated_everywhere(rendered: dict[str, list[dict[str, Any]]]) -> None:
    assert policy(rendered["taints"])["daemonsets"]["tolerations"] == [GPU_TAINT, TOLERATED]
    workloads = [each for each in rendered["taints"] if each["kind"] in ("Deployment", "DaemonSet")]
    assert len(workloads) >= 4
    for each in workloads:
        assert TOLERATED in each["spec"]["template"]["spec"]["tolerations"], each["metadata"]["name"]
