# SPDX-License-Identifier: GPL-3.0-or-later
"""The values of one model of each engine, whole, to be read and compared by people.

After a change that is meant, write them anew with ``GOLDEN=write python -m pytest`` and this file, and look at the
difference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.tokenlabs.platform.plugins.module_utils._catalog import derive
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory import Host, Inventory
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory_rules import validate

FOLDER = Path(__file__).parent / "golden"
MODELS: dict[str, dict[str, Any]] = {
    "vllm": {
        "model": "nvidia/Llama-3.1-Nemotron-Nano-8B-v1",
        "image": "ghcr.io/llm-d/llm-d-cuda:v0.5.0",
        "args": ["--max-model-len=32768"],
        "tool_parser": "llama3_json",
    },
    "sglang": {"model": "Qwen/Qwen3-8B", "image": "lmsysorg/sglang:v0.5.0", "memory_fraction": 0.4},
    "trtllm": {"model": "Qwen/Qwen3-8B", "image": "nvcr.io/nvidia/tensorrt-llm/release:1.3.0rc10"},
    "sim": {"model": "tokenlabs/sim", "image": "ghcr.io/llm-d/llm-d-inference-sim:v0.7.1"},
    "custom": {"model": "own/model", "image": "example.com/server:v1", "command": ["serve"], "args": ["--port=8000"]},
}


class Indented(yaml.SafeDumper):
    """Lists within mappings further in, as this repository writes YAML."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


@pytest.mark.parametrize("engine", MODELS)
def test_values_are_as_they_were(engine: str) -> None:
    model = {"name": f"a-{engine}", "engine": engine, **MODELS[engine]}
    hosts = (
        Host("controller", True, False, {"ansible_host": "10.0.0.1"}),
        Host("spark-01", False, True, {"ansible_host": "10.0.0.2", "tokenlabs_models": [model]}),
    )
    tiers = {"free": {"requests": {"1m": 1}, "tokens": {"1m": 1}}}
    inventory = Inventory(hosts, {"tokenlabs_tiers": tiers, "tokenlabs_hf_token": "hf_" + "aB3dE5gH7jK9" * 2})
    assert validate(inventory, lambda host, path: str(host)) == []
    values = derive(inventory)["helmfile"]["values"]
    text = yaml.dump(values, Dumper=Indented, sort_keys=False, width=140)
    file = FOLDER / f"{engine}.yaml"
    if os.environ.get("GOLDEN") == "write":
        file.write_text(f"---\n{text}")
    assert yaml.safe_load(file.read_text()) == values
