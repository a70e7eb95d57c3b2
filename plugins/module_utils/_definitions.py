# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Definitions of Kubernetes objects: where they come from, and what of them is sent.

This module util is private to the collection: it may change in any way at any time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.urls import open_url
from ansible_collections.tokenlabs.platform.plugins.module_utils._kube import title

try:
    import yaml
except ImportError:
    yaml = None  # type: ignore[assignment]

DIGEST = "tokenlabs.io/applied"
SERVERS_METADATA = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
NAMESPACES, DEFINITIONS, ACCOUNTS, OBJECTS, GATES = PHASES = range(5)
# What can keep other objects from being written comes after them.
GATE_KINDS = frozenset({"APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"})


class DefinitionError(Exception):
    """Definitions that cannot be sent to any server; all that is wrong with them."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def load(text: str | bytes) -> list[dict[str, Any]]:
    """The documents of a manifest. Dates stay text and `=` is a string, as Kubernetes reads them."""
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    unwanted = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")
    resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in unwanted]
        for first, known in base.yaml_implicit_resolvers.items()
    }
    loader = type("Loader", (base,), {"yaml_implicit_resolvers": resolvers})
    try:
        return [document for document in yaml.load_all(text, Loader=loader) if document]
    except yaml.YAMLError as error:
        raise DefinitionError([f"not YAML: {' '.join(str(error).split())}"]) from error


def read(source: str, checksum: str | None = None) -> list[dict[str, Any]]:
    """The documents of a file, of all manifests in a directory, or of a URL."""
    if source.startswith(("http://", "https://")):
        contents = {source: _download(source)}
    else:
        path = Path(source)
        files = sorted(path.glob("*.y*ml")) + sorted(path.glob("*.json")) if path.is_dir() else [path]
        try:
            contents = {str(file): file.read_bytes() for file in files}
        except OSError as error:
            raise DefinitionError([f"{source}: {error.strerror}"]) from error
    documents: list[dict[str, Any]] = []
    for name, content in contents.items():
        found = "sha256:" + hashlib.sha256(content).hexdigest()
        if checksum and found != checksum:
            raise DefinitionError([f"{name}: its checksum is {found}, not {checksum}"])
        try:
            documents += load(content)
        except DefinitionError as error:
            raise DefinitionError([f"{name}: {problem}" for problem in error.problems]) from error
    if not documents:
        raise DefinitionError([f"{source}: no documents in it"])
    return documents


def _download(url: str, attempts: int = 3) -> bytes:
    for left in reversed(range(attempts)):
        try:
            return open_url(url, timeout=60, http_agent="tokenlabs-platform").read()
        except (OSError, ValueError) as error:
            if not left:
                raise DefinitionError([f"{url}: {error}"]) from error
            time.sleep(1)
    raise AssertionError("unreachable")


def prepare(definitions: Iterable[Any]) -> list[dict[str, Any]]:
    """Definitions as they will be sent: lists unpacked, the server's own fields and nulls left out, text made data."""
    problems: list[str] = []
    prepared: list[dict[str, Any]] = []
    seen: set[tuple[str, str, str, str]] = set()
    for position, definition in enumerate(_unpack(definitions)):
        trouble = _trouble(definition)
        if trouble:
            problems.append(f"definition {position + 1}: {trouble}")
            continue
        body = _without_nulls(definition)
        body.pop("status", None)
        body["metadata"] = {key: value for key, value in body["metadata"].items() if key not in SERVERS_METADATA}
        name = title(body["kind"], body["metadata"].get("namespace"), body["metadata"]["name"])
        if body["kind"] == "Secret" and body["apiVersion"] == "v1":
            try:
                body = _with_data(body)
            except ValueError as error:
                problems.append(f"{name}: {error}")
                continue
        identity = (*group_kind(body), body["metadata"].get("namespace", ""), body["metadata"]["name"])
        if identity in seen:
            problems.append(f"{name}: defined twice")
        seen.add(identity)
        prepared.append(body)
    if problems:
        raise DefinitionError(problems)
    return prepared


def _unpack(definitions: Iterable[Any]) -> Iterator[Any]:
    for definition in definitions:
        if definition is None:
            continue
        if isinstance(definition, dict) and str(definition.get("kind", "")).endswith("List") and "items" in definition:
            yield from _unpack(definition["items"] or [])
        else:
            yield definition


def _trouble(definition: Any) -> str:
    if not isinstance(definition, dict):
        return f"must be a mapping, not {type(definition).__name__}"
    for key in ("apiVersion", "kind"):
        if not isinstance(definition.get(key), str) or not definition[key]:
            return f"{key} is missing"
    metadata = definition.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        return f"metadata.name of this {definition['kind']} is missing"
    if not isinstance(metadata.get("namespace") or "", str):
        return f"metadata.namespace of {definition['kind']} {metadata['name']} must be a string"
    return ""


def _without_nulls(value: Any) -> Any:
    """Null means: do not send this field. (Sent, it would be dropped or refused, depending on the kind.)"""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_nulls(item) for item in value]
    return value


def _with_data(secret: dict[str, Any]) -> dict[str, Any]:
    """A Secret with data only: stringData cannot be applied, it leaves behind what is no longer sent."""
    data: dict[str, str] = {}
    for key, value in (secret.get("data") or {}).items():
        # Values are checked here because the server's own refusal would quote them.
        try:
            data[key] = base64.b64encode(base64.b64decode("".join(value.split()), validate=True)).decode()
        except (AttributeError, TypeError, binascii.Error):
            raise ValueError(f"data.{key} must be a base64 string") from None
    for key, value in (secret.get("stringData") or {}).items():
        if not isinstance(value, str):
            raise ValueError(f"stringData.{key} must be a string")
        data[key] = base64.b64encode(value.encode()).decode()
    rest = {key: value for key, value in secret.items() if key not in ("data", "stringData")}
    return {**rest, "data": data} if data else rest


def group_kind(body: Mapping[str, Any]) -> tuple[str, str]:
    version = body["apiVersion"]
    return (version.rpartition("/")[0], body["kind"])


def phase(body: Mapping[str, Any]) -> int:
    """Namespaces first, then CRDs, accounts, all else, and last what could refuse the others.

    A token's Secret that is there before its ServiceAccount is deleted by Kubernetes (source: kubernetes/kubernetes
    pkg/controller/serviceaccount/tokens_controller.go).
    """
    if body["kind"] == "Namespace":
        return NAMESPACES
    if body["kind"] == "CustomResourceDefinition":
        return DEFINITIONS
    if body["kind"] == "ServiceAccount":
        return ACCOUNTS
    return GATES if body["kind"] in GATE_KINDS else OBJECTS


def is_secret(body: Mapping[str, Any]) -> bool:
    return body["kind"] == "Secret" and body["apiVersion"] == "v1"


def digest(body: Mapping[str, Any]) -> str:
    """A name for exactly this content; nothing about a Secret's values is in it."""
    content = {key: value for key, value in body.items() if not (key == "data" and is_secret(body))}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def signed(body: dict[str, Any]) -> dict[str, Any]:
    """The body as it is applied, with the digest of itself."""
    metadata = body["metadata"]
    annotations = {**(metadata.get("annotations") or {}), DIGEST: digest(body)}
    return {**body, "metadata": {**metadata, "annotations": annotations}}


def generate(length: int) -> str:
    """Random characters that are safe in URLs, and on command lines (no leading dash)."""
    while True:
        text = secrets.token_urlsafe(length)[:length]
        if text[0].isalnum() and text[-1].isalnum():
            return text


def with_generated(body: dict[str, Any], wanted: Mapping[str, int]) -> dict[str, Any]:
    """A Secret with new random values under the wanted keys."""
    data = {key: base64.b64encode(generate(length).encode()).decode() for key, length in wanted.items()}
    return {**body, "data": {**(body.get("data") or {}), **data}}
