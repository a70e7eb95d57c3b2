# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventories of this repository, and the variables that its roles read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from ansible_collections.tokenlabs.platform.plugins.module_utils._variables import (
    HOST,
    INTERNAL,
    MODEL,
    SHARED,
    TENANT,
    TIER,
)

from tests.unit.plugins.catalog.inventories import load, problems
from tests.unit.plugins.catalog.test_gateway import pair

ROOT = Path(__file__).resolve().parents[4]
EXAMPLE = ROOT / "inventories" / "example"


def test_the_example_asks_for_exactly_what_it_cannot_know() -> None:
    found = problems(EXAMPLE)
    assert [line.split(" ")[1] for line in found] == [
        "tokenlabs_loadbalancer_range",
        "ansible_host",
        "ansible_host",
        "ansible_host",
    ], "\n".join(found)
    assert all("placeholder" in line for line in found)


def filled(directory: Path, source: Path = EXAMPLE) -> Path:
    """An inventory with its placeholders filled in."""
    shutil.copytree(source, directory, dirs_exist_ok=True)
    numbers = iter(range(10, 20))
    for file in directory.rglob("*.yml"):
        text = re.sub(r"ansible_host: <.*>", lambda _: f"ansible_host: 192.168.1.{next(numbers)}", file.read_text())
        file.write_text(re.sub(r"range: <.*>", "range: 192.168.1.240-192.168.1.250", text))
    return directory


def test_the_example_filled_in_is_valid(tmp_path: Path) -> None:
    assert problems(filled(tmp_path)) == []


def uncommented(text: str) -> str:
    """A file with its commented options taken: `# key: value` and what is indented under it."""
    lines = []
    for line in text.splitlines():
        option = re.match(r"^( *)# ((?:- )?(?: *)[\"A-Za-z0-9_-]+:(?: .*)?|  +- .*|- \{.*)$", line)
        lines.append(option[1] + option[2] if option and not line.rstrip().endswith(".") else line)
    return "\n".join(lines) + "\n"


def test_every_option_is_in_the_example() -> None:
    text = "\n".join(file.read_text() for file in sorted(EXAMPLE.rglob("*")) if file.is_file())
    options = set(re.findall(r"^ *(?:# +)?(?:- |\{)*([a-z_0-9]+):", text, re.MULTILINE)) | set(
        re.findall(r"[{,] *([a-z_]+):", text)
    )
    for name in (*SHARED, *HOST, *MODEL.keys, *TIER.keys, *TENANT.keys):
        assert name in options, f"{name} is not explained in inventories/example"


def test_the_commented_options_are_valid(tmp_path: Path) -> None:
    """What the example shows in comments would be taken, and nothing in it is made up."""
    directory = filled(tmp_path)
    for file in directory.rglob("*.yml"):
        file.write_text(uncommented(file.read_text()).replace("../../images/vllm", "images"))
    (directory / "images").mkdir()
    (directory / "images/Dockerfile").write_text("FROM scratch\n")
    (directory / "group_vars/all/vault.yml").write_text(
        "vault_hf_token: hf_aB3dE5gH7jK9mN1pQ2\nvault_redis_password: aB3dE5gH7jK9mN1pQ2\n"
        "vault_nvidia_api_key: nvapi-aB3dE5gH7jK9mN1pQ2\nvault_registry_password: aB3dE5gH7jK9mN1pQ2\n"
    )
    pair(directory / "tls")
    (directory / "tls/crt.pem").rename(directory / "tls/fullchain.pem")
    taken = yaml.safe_load((directory / "group_vars/all/platform.yml").read_text())
    assert {name for name in SHARED if name.startswith(("tokenlabs_release", "tokenlabs_mirrors"))} <= set(taken)
    found = problems(directory)
    # The first is in place of another, the others only make sense with another engine.
    expected = {f"tokenlabs_models[0].{key}" for key in ("build", "command", "forces_usage")}
    assert {line.split(" ")[1] for line in found} == expected, "\n".join(found)


# Models with their engines and Sparks, and what a Spark's memory and slots are used for.
SETS = {
    "nemotron": (
        [("nemotron-llama-8b", "vllm", ["spark-01"]), ("nemotron-vl-12b", "vllm", ["spark-02"])],
        {"spark-01": (1, 0.8), "spark-02": (1, 0.85)},
    ),
    "engines": (
        [
            ("deepseek-r1-7b", "vllm", ["spark-02"]),
            ("llama-31-8b", "sglang", ["spark-02"]),
            ("nemotron-120b", "vllm", ["spark-01"]),
            ("qwen25-7b", "trtllm", ["spark-02"]),
        ],
        {"spark-01": (1, 0.85), "spark-02": (3, 0.85)},
    ),
    "simulator": (
        [("sim-large", "sim", ["sim-01"]), ("sim-small", "sim", ["sim-01"])],
        {"sim-01": (0, 0)},
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_models_is_valid_as_soon_as_its_addresses_are_filled_in(name: str, tmp_path: Path) -> None:
    source = ROOT / "inventories" / name
    asked = {line.split(" ")[1] for line in problems(source)}
    assert asked <= {"ansible_host", "tokenlabs_loadbalancer_range", "tokenlabs_hf_token"} and "ansible_host" in asked
    directory = filled(tmp_path, source)
    example = directory / "group_vars/all/vault.yml.example"
    if example.exists():
        vault = example.read_text().replace("<token of Hugging Face>", "hf_aB3dE5gH7jK9mN1pQ2")
        example.with_suffix("").write_text(vault)
    answer = load(directory)
    assert not answer.get("failed"), answer.get("msg")
    # Nothing in it is worth a warning.
    assert not [line for line in answer["summary"] if line.startswith("Warning")]
    catalog = answer["catalog"]
    models, used = SETS[name]
    assert [(model["name"], model["engine"], model["hosts"]) for model in catalog["models"]] == models
    for host, (slots, memory) in used.items():
        node = catalog["nodes"][host]
        assert (node["gpu_slots_used"], node["memory_fraction"]) == (slots, memory)
        assert node["gpu"] is bool(slots)
    for model in catalog["models"]:
        if model["engine"] != "sim":
            assert model["gpus"] and catalog["nodes"][model["hosts"][0]]["cache_gib"]


@pytest.mark.parametrize("name", ["lab", "ha"])
def test_the_lab_is_valid(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checksums.json").write_text('{"helm": {"amd64": "%s"}}' % ("a" * 64))
    monkeypatch.setenv("TOKENLABS_LAB", str(tmp_path))
    answer = load(ROOT / "inventories" / name)
    assert not answer.get("failed"), answer.get("msg")
    catalog = answer["catalog"]
    assert [model["hosts"] for model in catalog["models"]] == [["spark-01"], ["spark-02"]]
    assert catalog["downloads"]["helm"]["amd64"]["sha256"] == "a" * 64
    assert all(chart["ref"].startswith("oci://10.77.255.254:5000/") for chart in catalog["charts"].values())
    assert {tier for tier in catalog["tiers"]} == {"free", "pro", "enterprise"}


def test_the_example_of_a_cluster_of_somebody_else_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/somewhere/kubeconfig")
    answer = load(ROOT / "inventories" / "existing")
    assert not answer.get("failed"), answer.get("msg")
    assert answer["catalog"]["cluster"] == "existing"


def test_roles_read_no_variable_that_an_inventory_must_not_set() -> None:
    """A variable that preflight calls unknown could never be set."""
    known = {*SHARED, *HOST, *INTERNAL, "tokenlabs_controller"}  # the last one is a group of hosts
    unknown = {}
    for folder in ("roles", "playbooks"):
        for file in (ROOT / folder).rglob("*.y*ml*"):
            for name in re.findall(r"\btokenlabs_[a-z0-9_]+\b", file.read_text()):
                if name not in known:
                    unknown.setdefault(name, str(file.relative_to(ROOT)))
    assert unknown == {}
