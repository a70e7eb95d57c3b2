# SPDX-License-Identifier: GPL-3.0-or-later
"""The AI gateway's filter: it reads the model from the body before anybody has authenticated, and the usage after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .expressions import ExpressionError, Scope
from .model import AiRoute, DirectResponse

MODEL_HEADER = "x-ai-eg-model"
METADATA_NAMESPACE = "io.envoy.ai_gateway"
CHAT = "/v1/chat/completions"
MODELS = "/v1/models"
# Everything that the filter serves on every AI route, wanted or not.
PATHS = frozenset(
    {
        CHAT,
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/images/generations",
        "/cohere/v2/rerank",
        "/anthropic/v1/messages",
        MODELS,
    }
)


@dataclass(frozen=True)
class Parsed:
    """What the filter makes of a request body. ``failed`` is what a malformed one gives: an empty 500."""

    model: str = ""
    stream: bool = False
    body: bytes = b""
    failed: bool = False


def models_response(models: Sequence[Mapping[str, Any]]) -> DirectResponse:
    body = json.dumps({"data": list(models), "object": "list"}, separators=(",", ":")).encode()
    return DirectResponse(200, body, "application/json")


def at_request_headers(path: str, models: Sequence[Mapping[str, Any]]) -> DirectResponse | None:
    """What is answered at once, without a look at credentials: the list of models, and unknown paths."""
    if path == MODELS:
        return models_response(models)
    if path not in PATHS:
        return DirectResponse(404, f"unsupported path: {path}".encode(), "text/plain")
    return None


def parse_body(path: str, body: bytes, route: AiRoute) -> Parsed:
    """The model, and for chat streams the forced usage report when costs are configured."""
    try:
        document = json.loads(body)
    except ValueError:
        return Parsed(failed=True)
    if not isinstance(document, dict):
        return Parsed(failed=True)
    model, stream = document.get("model", ""), document.get("stream", False)
    if not isinstance(model, str) or not isinstance(stream, bool | None):
        return Parsed(failed=True)
    stream = bool(stream)
    if path == CHAT and stream and route.costs:
        options = document.get("stream_options")
        if options is not None and not isinstance(options, dict):
            return Parsed(failed=True)
        if not (options or {}).get("include_usage"):
            document["stream_options"] = {**(options or {}), "include_usage": True}
            body = json.dumps(document, separators=(",", ":")).encode()
    return Parsed(model, stream, body)


@dataclass
class Events:
    """The data events of a stream, cut out of its chunks as they come."""

    rest: bytes = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        lines = (self.rest + chunk).replace(b"\r\n", b"\n").split(b"\n")
        self.rest = lines.pop()
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]

    def finish(self) -> list[bytes]:
        last, self.rest = self.rest.strip(), b""
        return [last[5:].strip()] if last.startswith(b"data:") else []


def usage_in(event: bytes) -> dict[str, Any] | None:
    if b'"usage"' not in event:
        return None
    try:
        document = json.loads(event)
    except ValueError:
        return None
    usage = document.get("usage") if isinstance(document, dict) else None
    return usage if isinstance(usage, dict) else None


@dataclass
class UsageReader:
    """Reads a response as it passes: the AI gateway takes the last usage, Kuadrant's filter the one
    in the event before the last."""

    streaming: bool
    body: bytearray = field(default_factory=bytearray)
    events: Events = field(default_factory=Events)
    last_events: list[bytes] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    done: bool = False

    def feed(self, chunk: bytes) -> None:
        if not self.streaming:
            self.body += chunk
            return
        self._take(self.events.feed(chunk))

    def finish(self) -> None:
        if self.streaming:
            self._take(self.events.finish())
        else:
            self.usage = usage_in(bytes(self.body))

    def _take(self, events: Sequence[bytes]) -> None:
        for event in events:
            if event == b"[DONE]":
                self.done = True
            else:
                self.usage = usage_in(event) or self.usage
            self.last_events = [*self.last_events[-1:], event]

    def kuadrant_total(self) -> int | None:
        """``/usage/total_tokens`` as the wasm filter finds it, or None when it is not there."""
        if self.streaming:
            usage = usage_in(self.last_events[0]) if len(self.last_events) == 2 else None
        else:
            usage = self.usage
        total = (usage or {}).get("total_tokens")
        return total if isinstance(total, int) else None


def costs_of(route: AiRoute, usage: Mapping[str, Any] | None, model: str) -> dict[str, int]:
    """The metadata that limits can count: one number per configured cost."""
    if not usage:
        return {}

    def number(value: Any) -> int:
        return value if isinstance(value, int) and value > 0 else 0

    cached = number((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
    numbers = {
        "InputToken": number(usage.get("prompt_tokens")),
        "OutputToken": number(usage.get("completion_tokens")),
        "TotalToken": number(usage.get("total_tokens")),
        "CachedInputToken": cached,
        "CacheCreationInputToken": 0,
    }
    found: dict[str, int] = {}
    for key, formula in route.costs.items():
        if formula.kind != "CEL":
            found[key] = numbers.get(formula.kind, 0)
        elif formula.expression is not None:
            scope = Scope(
                {
                    "model": model,
                    "backend": "",
                    "input_tokens": numbers["InputToken"],
                    "output_tokens": numbers["OutputToken"],
                    "total_tokens": numbers["TotalToken"],
                    "cached_input_tokens": cached,
                    "cache_creation_input_tokens": 0,
                }
            )
            try:
                found[key] = number(formula.expression.evaluate(scope))
            except ExpressionError:
                continue
    return found
