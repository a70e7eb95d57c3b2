# SPDX-License-Identifier: GPL-3.0-or-later
"""Real charts, and what they know of the values that they are told."""

from __future__ import annotations

import functools
import json
import re
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import yaml

# Maps that a chart hands on as they are: Envoy Gateway's own configuration, flags, labels.
FREE = (".config.envoyGateway", ".deployment.pod.annotations", ".inferenceExtension.flags", ".modelArtifacts.labels")


@dataclass(frozen=True)
class Chart:
    """A chart under LAB_UPSTREAM: its archive, or only its values and its schema, or nothing."""

    name: str
    file: Path | None = None
    values: Any = field(default=None, repr=False)
    schema: Any = field(default=None, repr=False)
    templates: str = field(default="", repr=False)

    def knows(self, path: str) -> bool:
        """Whether a key that values.yaml lacks is for the user all the same: free by nature, or read by a template."""
        key = path.rpartition(".")[2]
        free = any(path.startswith(f"{prefix}.") for prefix in FREE)
        return free or bool(re.search(rf"\.{re.escape(key)}\b|\"{re.escape(key)}\"", self.templates))

    def errors(self, told: Any) -> list[str]:
        """Keys that the chart does not have, and what its schema says."""
        found = [f"{path}: unknown" for path in unknown(told, self.values) if not self.knows(path)]
        if self.schema:
            validator = jsonschema.validators.validator_for(self.schema)(self.schema)
            found += [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(told)]
        return found


def unknown(given: Any, known: Any, path: str = "") -> list[str]:
    """Keys that the chart does not have. An empty mapping of the chart takes any."""
    if not isinstance(given, dict) or not isinstance(known, dict) or (path and not known):
        return []
    return [
        found
        for key, value in given.items()
        for found in ([f"{path}.{key}"] if key not in known else unknown(value, known[key], f"{path}.{key}"))
    ]


def chart(upstream: Path, told: dict[str, Any]) -> Chart:
    """The chart that a catalog refers to."""
    return _chart(upstream, f"{told['ref'].split('/')[-1]}-{told['version']}")


@functools.cache
def _chart(upstream: Path, name: str) -> Chart:
    archive, folder = upstream / "charts" / f"{name}.tgz", upstream / "values" / name
    if archive.exists():
        with tarfile.open(archive) as tar:
            root = tar.getnames()[0].split("/")[0]

            def read(path: str) -> bytes | None:
                try:
                    file = tar.extractfile(f"{root}/{path}")
                except KeyError:
                    return None
                return file.read() if file else None

            schema, values = read("values.schema.json"), yaml.safe_load(read("values.yaml") or b"{}") or {}
            names = [path for path in tar.getnames() if "/templates/" in path]
            texts = [file.read() for path in names if (file := tar.extractfile(path))]
            templates = b"\n".join(texts).decode("utf-8", "replace")
            return Chart(name, archive, values, schema and json.loads(schema), templates)
    if (folder / "values.yaml").exists():
        schema_file = folder / "values.schema.json"
        schema = json.loads(schema_file.read_text()) if schema_file.exists() else None
        # Its templates are not here; those of another version of it may be.
        others = sorted((upstream / "charts").glob(f"{re.sub('-v?[0-9.]+$', '', name)}-*.tgz"))
        templates = _chart(upstream, others[0].name.removesuffix(".tgz")).templates if others else ""
        return Chart(name, None, yaml.safe_load((folder / "values.yaml").read_text()) or {}, schema, templates)
    return Chart(name)
