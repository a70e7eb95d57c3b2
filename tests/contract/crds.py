# SPDX-License-Identifier: GPL-3.0-or-later
"""Real custom resource definitions as strict JSON schemas."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parents[2]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def upstream() -> Path | None:
    """The directory with upstream's definitions and charts, where the tester has one."""
    directory = Path(os.environ.get("LAB_UPSTREAM") or ROOT / ".." / "shared" / "upstream")
    return directory.resolve() if directory.is_dir() else None


def documents(file: Path) -> Iterator[dict[str, Any]]:
    for document in yaml.load_all(file.read_text(), Loader=_LOADER):
        if document:
            yield document


def folders(versions: dict[str, str]) -> list[str]:
    """Where the definitions of a release set are."""
    return [
        f"gateway-api-{versions['gateway_api']}-standard",
        f"inference-extension-{versions['inference_extension']}",
        f"envoy-gateway-{versions['envoy_gateway']}",
        f"envoy-ai-gateway-{versions['ai_gateway']}",
        f"kuadrant-operator-{versions['kuadrant_operator']}",
        "prometheus-operator-v0.93.1",
    ]


def absent(directory: Path, versions: dict[str, str]) -> list[str]:
    """Which definitions of a release set are not here."""
    return [folder for folder in folders(versions) if not any((directory / "crds" / folder).glob("*.yaml"))]


def definition_files(directory: Path, versions: dict[str, str]) -> list[Path]:
    """The files of the definitions that belong to a release set."""
    files = [file for folder in folders(versions) for file in sorted((directory / "crds" / folder).glob("*.yaml"))]
    assert len(files) >= 35, f"definitions are missing under {directory}/crds"
    return files


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A structural schema as JSON schema in which a field that the server would drop is an error."""
    schema = copy.deepcopy(schema)
    if schema.pop("x-kubernetes-int-or-string", False):
        return {"type": ["integer", "string"]}
    nullable = schema.pop("nullable", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = strict(schema[key])
    if "properties" in schema:
        schema["properties"] = {name: strict(child) for name, child in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
    # Formats such as int32 are checked by the server, and Go's patterns are Python's for all that upstream uses.
    schema.pop("format", None)
    if nullable and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    return schema


class Definitions:
    """Validators by API version and kind."""

    def __init__(self, files: list[Path]) -> None:
        self._schemas: dict[tuple[str, str], dict[str, Any]] = {}
        for file in files:
            for document in documents(file):
                if document["kind"] != "CustomResourceDefinition":
                    continue
                spec = document["spec"]
                for version in spec["versions"]:
                    if version["served"]:
                        key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                        self._schemas[key] = version["schema"]["openAPIV3Schema"]

    def knows(self, body: dict[str, Any]) -> bool:
        return (body["apiVersion"], body["kind"]) in self._schemas

    def errors(self, body: dict[str, Any]) -> list[str]:
        schema = self._schemas[body["apiVersion"], body["kind"]]
        found = []
        for key, child in schema.get("properties", {}).items():
            if key in body and key not in ("apiVersion", "kind", "metadata", "status"):
                for error in jsonschema.Draft202012Validator(strict(child)).iter_errors(body[key]):
                    where = ".".join([key, *map(str, error.absolute_path)])
                    found.append(f"{where}: {error.message[:300]}")
        unknown = set(body) - set(schema.get("properties", {})) - {"apiVersion", "kind", "metadata"}
        return found + [f"{name}: unknown" for name in sorted(unknown)]
