# SPDX-License-Identifier: GPL-3.0-or-later
"""Changing what an inventory serves, and asking models by name, for the scenarios about models."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.scenarios.conftest import INVENTORY, REPO, Run, kubectl, run

KEYS = Path(os.environ.get("TOKENLABS_LAB", "/")) / "credentials"
SIM = "ghcr.io/llm-d/llm-d-inference-sim:v0.7.1"
# A registry whose name cannot exist (RFC 2606): its images are never pulled.
NOWHERE = "registry.invalid/llm-d-inference-sim:v0.7.1"
# How long the gateway may take to see what a run has done.
SOON = 20.0


def simulator(name: str, image: str = SIM) -> dict[str, Any]:
    """A model that needs no GPU."""
    return {"name": name, "model": f"tokenlabs/{name}", "engine": "sim", "image": image}


@dataclass(frozen=True)
class Site:
    """A copy of the inventory, to be changed, and the platform that it describes."""

    inventory: Path

    @classmethod
    def copied(cls, folder: Path) -> Site:
        shutil.copytree(REPO / INVENTORY, folder / "inventory", symlinks=False)
        return cls(folder / "inventory")

    def _file(self, host: str) -> Path:
        return self.inventory / "host_vars" / f"{host}.yml"

    def models(self, host: str) -> list[dict[str, Any]]:
        if not self._file(host).exists():
            return []
        return list(yaml.safe_load(self._file(host).read_text())["tokenlabs_models"])

    def serve(self, host: str, *models: dict[str, Any]) -> None:
        """Write the host's file."""
        self._file(host).write_text(yaml.safe_dump({"tokenlabs_models": list(models)}))

    def play(self, name: str, *arguments: str) -> Run:
        return run("ansible-playbook", "-i", self.inventory, f"playbooks/{name}.yml", *arguments)


def address() -> str:
    found = "jsonpath={.status.addresses[0].value}"
    return kubectl("-n", "token-labs", "get", "gateway", "token-labs-gateway", "-o", found)


def ask(path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """What a tenant that may use every model is answered."""
    headers = {"Authorization": f"Bearer {(KEYS / 'demo-enterprise.key').read_text()}"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address()}{path}", data, {**headers, "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else text.decode()


def chat(model: str) -> tuple[int, Any]:
    message = {"role": "user", "content": "Say hello."}
    return ask("/v1/chat/completions", {"model": model, "messages": [message], "max_tokens": 4})


def answers(model: str) -> None:
    """The model answers by its name, or will in a moment."""
    end = time.monotonic() + SOON
    while True:
        status, body = chat(model)
        if status == 200:
            assert body["model"] == model and body["usage"]["total_tokens"] > 0
            return
        assert time.monotonic() < end, f"{model}: {status} {body}"
        time.sleep(0.5)


def is_unknown(model: str) -> None:
    """The model is gone: a 404 of OpenAI's form, and no line in the list."""
    end = time.monotonic() + SOON
    while (found := chat(model))[0] != 404 and time.monotonic() < end:
        time.sleep(0.5)
    status, body = found
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert model not in listed()


def listed() -> list[str]:
    status, body = ask("/v1/models")
    assert status == 200
    return [entry["id"] for entry in body["data"]]


def deployments() -> set[str]:
    names = kubectl("-n", "token-labs", "get", "deployments", "-o", "jsonpath={.items[*].metadata.name}")
    return set(names.split())


def places(label: str) -> list[str]:
    """The nodes of a model's workers."""
    nodes = "jsonpath={.items[*].spec.nodeName}"
    return sorted(kubectl("-n", "token-labs", "get", "pods", "-l", f"llm-d.ai/model={label}", "-o", nodes).split())
