# SPDX-License-Identifier: GPL-3.0-or-later
"""Condensed CRDs: upstream's names and versions, and of their schemas what catches real mistakes.

The tables in `crds/` say for each kind which fields its spec has (a field that upstream does not know is refused here
too), which are needed, what is filled in by default, and the rules that people break. Deeper down everything passes.

A node of a table is a word (`string`, `integer`, `boolean`, `object` and `list` for anything of that shape, `map` for
strings by name, `strings`, `any`) or a mapping with one of

    fields: {NAME: node, NAME!: needed node}      an object that takes these fields only (with `open: true`: others too)
    items: node                                   a list; `key: FIELD` makes it one of entries with a name
    values: node                                  a map

and, beside it or alone with `type`: `default`, `enum`, `pattern`, `max` (items, characters or entries), `min`, and
`rules: [[CEL, message], ...]`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lab.world.store import Json

TABLES = Path(__file__).parent / "crds"
OPEN = {"x-kubernetes-preserve-unknown-fields": True}
WORDS: dict[str, Json] = {
    "string": {"type": "string"},
    "integer": {"type": "integer", "format": "int64"},
    "boolean": {"type": "boolean"},
    "object": {"type": "object", **OPEN},
    "list": {"type": "array", "items": {"type": "object", **OPEN}},
    "map": {"type": "object", "additionalProperties": {"type": "string"}},
    "strings": {"type": "array", "items": {"type": "string"}},
    "any": dict(OPEN),
}
_BOUNDS = {"array": "Items", "string": "Length", "object": "Properties"}
_CONDITIONS: Json = {
    "items": {
        "fields": {
            "type!": "string",
            "status!": "string",
            "reason": "string",
            "message": "string",
            "observedGeneration": "integer",
            "lastTransitionTime": "string",
        },
        "open": True,
    },
    "key": "type",
}
COLUMNS = {
    "age": {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    **{
        name.lower(): {"name": name, "type": "string", "jsonPath": f'.status.conditions[?(@.type=="{name}")].status'}
        for name in ("Accepted", "Enforced", "Programmed", "Ready")
    },
    "target": {"name": "TargetName", "type": "string", "jsonPath": ".spec.targetRef.name"},
    "class": {"name": "Class", "type": "string", "jsonPath": ".spec.gatewayClassName"},
    "address": {"name": "Address", "type": "string", "jsonPath": ".status.addresses[*].value"},
    "state": {"name": "Status", "type": "string", "jsonPath": ".status.state"},
}


def schema(node: Any, shared: Json) -> Json:
    """The OpenAPI schema of a node."""
    if isinstance(node, str):
        return schema(shared[node], shared) if node in shared else dict(WORDS[node])
    found: Json
    if "fields" in node:
        fields = {name.rstrip("!"): schema(value, shared) for name, value in node["fields"].items()}
        found = {"type": "object", "properties": fields, **(OPEN if node.get("open") else {})}
        if needed := [name[:-1] for name in node["fields"] if name.endswith("!")]:
            found["required"] = needed
    elif "items" in node:
        found = {"type": "array", "items": schema(node["items"], shared)}
        if key := node.get("key"):
            found |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    elif "values" in node:
        found = {"type": "object", "additionalProperties": schema(node["values"], shared)}
    else:
        found = schema(node.get("type", "string"), shared)
    for name in ("default", "enum", "pattern"):
        if name in node:
            found[name] = node[name]
    for name in ("max", "min"):
        if name in node:
            found[f"{name}{_BOUNDS[found['type']]}"] = node[name]
    if "rules" in node:
        found["x-kubernetes-validations"] = [{"rule": rule, "message": message} for rule, message in node["rules"]]
    return found


def _status(kind: Json, shared: Json) -> Json:
    found = schema({"fields": {"conditions": _CONDITIONS}, "open": True}, shared)
    if "status_default" in kind:
        found["default"] = kind["status_default"]
    return found


def crd(group: str, name: str, kind: Json, table: Json) -> Json:
    """One CRD of a table."""
    shared = table.get("shared") or {}
    plural = kind.get("plural") or f"{name.lower()}s"
    properties: Json = {word: {"type": "string"} for word in ("apiVersion", "kind")} | {"metadata": {"type": "object"}}
    if "spec" in kind:
        properties["spec"] = schema(kind["spec"], shared)
    served = kind.get("versions") or table["versions"]
    statusless = kind.get("status") is False
    if not statusless:
        properties["status"] = _status(kind, shared)
    versions = [
        {
            "name": version.rstrip("-"),
            "served": not version.endswith("-"),
            "storage": number == 0,
            "schema": {
                "openAPIV3Schema": {
                    "type": "object",
                    "properties": properties,
                    **({"required": ["spec"]} if kind.get("spec_needed", table.get("spec_needed")) else {}),
                }
            },
            **({} if statusless else {"subresources": {"status": {}}}),
            "additionalPrinterColumns": [COLUMNS[column] for column in [*kind.get("columns", []), "age"]],
        }
        for number, version in enumerate(served)
    ]
    names = {
        "kind": name,
        "listKind": f"{name}List",
        "plural": plural,
        "singular": name.lower(),
        **({"shortNames": kind["short"]} if "short" in kind else {}),
        **({"categories": table["categories"]} if "categories" in table else {}),
    }
    meta: Json = {"name": f"{plural}.{group}"}
    if annotations := {**table.get("annotations", {}), **kind.get("annotations", {})}:
        meta["annotations"] = annotations
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": meta,
        "spec": {"group": group, "names": names, "scope": kind.get("scope", "Namespaced"), "versions": versions},
    }


def crds(table: str) -> list[Json]:
    """All CRDs of the table in `crds/TABLE.yaml`."""
    found = []
    for document in yaml.safe_load_all((TABLES / f"{table}.yaml").read_text()):
        for name, kind in document["kinds"].items():
            found.append(crd(document["group"], name, kind or {}, document))
    return found


def render(table: str, version: str) -> str:
    """The CRDs of a table as one YAML stream; they say of which release they are."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump_all(crds(table), Dumper=dumper, sort_keys=False)
    return text.replace("bundle-version: VERSION", f"bundle-version: {version}")
