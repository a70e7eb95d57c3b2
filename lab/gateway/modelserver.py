# SPDX-License-Identifier: GPL-3.0-or-later
"""A model server without a model: vLLM's OpenAI API with numbers that depend on the request alone.

Run as ``python -m lab.gateway.modelserver --listen IP:PORT --model NAME [--force-include-usage]``.
A completion has as many tokens as ``max_tokens`` says (16 when it says nothing), a prompt as many as it has words.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

DEFAULT_TOKENS = 16
MAX_EVENTS = 32
DIMENSIONS = 8
REDACTED = "Bearer redacted"
_WORDS = ("a", "spark", "in", "the", "rack", "answers", "with", "words", "that", "nobody", "wrote")


class BadRequest(Exception):
    def __init__(self, message: str, status: int = 400, kind: str = "BadRequestError", param: str | None = None):
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param


@dataclass
class Stats:
    """What /metrics shows, and what tests may ask for."""

    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0})
    latencies: list[float] = field(default_factory=list)
    latency_sum: float = 0.0
    latency_count: int = 0
    requests: int = 0
    foreign_credentials: int = 0
    last_tenant: str = ""
    last_tier: str = ""


@dataclass(frozen=True)
class Settings:
    models: tuple[str, ...]
    force_include_usage: bool = False
    event_delay: float = 0.004
    max_model_len: int = 131072
    tools: bool = False
    vision: bool = False
    max_num_seqs: int = 256


@dataclass(frozen=True)
class Job:
    """One generation: its numbers are fixed before its first word."""

    ident: str
    model: str
    created: int
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    stream: bool
    include_usage: bool

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def pieces(self) -> list[str]:
        """The text in at most MAX_EVENTS pieces."""
        words = [_WORDS[index % len(_WORDS)] for index in range(self.completion_tokens)]
        size = max(1, -(-len(words) // MAX_EVENTS))
        return [" ".join(words[at : at + size]) + " " for at in range(0, len(words), size)]


def count_tokens(value: Any) -> int:
    """Words of a prompt: a text, token numbers, chat messages or a list of any of them."""
    if isinstance(value, str):
        return max(1, len(value.split()))
    if isinstance(value, int):
        return 1
    if isinstance(value, list):
        return sum(count_tokens(item) for item in value)
    if isinstance(value, dict):
        return count_tokens(value.get("content") or value.get("text") or "")
    return 0


def _number(body: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadRequest(f"{name} must be an integer", param=name)
        if value < 1:
            raise BadRequest(f"{name} must be at least 1, got {value}.", param=name)
        return value
    return None


def plan(body: dict[str, Any], prompt: Any, prefix: str, settings: Settings, now: float) -> Job:
    model = body.get("model")
    if model not in settings.models:
        raise BadRequest(f"The model `{model}` does not exist.", 404, "NotFoundError", "model")
    if not prompt:
        raise BadRequest("the prompt is empty")
    stream = body.get("stream") or False
    if not isinstance(stream, bool):
        raise BadRequest("stream must be a boolean", param="stream")
    options = body.get("stream_options")
    if options is not None and (not isinstance(options, dict) or not stream):
        raise BadRequest("Stream options can only be defined when `stream=True`.", param="stream_options")
    _refuse_what_it_cannot(body, settings)
    prompt_tokens = count_tokens(prompt)
    asked = _number(body, "max_completion_tokens", "max_tokens")
    tokens = asked or DEFAULT_TOKENS
    if prompt_tokens + tokens > settings.max_model_len:
        raise BadRequest(
            f"This model's maximum context length is {settings.max_model_len} tokens. "
            f"However, you requested {prompt_tokens + tokens} tokens.",
            param="max_tokens",
        )
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24]
    return Job(
        ident=f"{prefix}-{digest}",
        model=str(model),
        created=int(now),
        prompt_tokens=prompt_tokens,
        completion_tokens=tokens,
        finish_reason="length" if asked else "stop",
        stream=stream,
        include_usage=settings.force_include_usage or bool((options or {}).get("include_usage")),
    )


def _refuse_what_it_cannot(body: dict[str, Any], settings: Settings) -> None:
    """As vLLM does for a server that was not started for it."""
    if body.get("tools") and body.get("tool_choice", "auto") != "none" and not settings.tools:
        raise BadRequest('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')
    messages = body.get("messages")
    parts = [part for message in messages or [] for part in _parts(message)]
    if any(part.get("type") == "image_url" for part in parts) and not settings.vision:
        raise BadRequest(f"{body['model']} is not a multimodal model")


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def chat_answer(job: Job) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(job.pieces()).strip()}
    return {
        "id": job.ident,
        "object": "chat.completion",
        "created": job.created,
        "model": job.model,
        "choices": [{"index": 0, "message": message, "finish_reason": job.finish_reason}],
        "usage": job.usage,
    }


def text_answer(job: Job) -> dict[str, Any]:
    return {
        "id": job.ident,
        "object": "text_completion",
        "created": job.created,
        "model": job.model,
        "choices": [{"index": 0, "text": "".join(job.pieces()).strip(), "finish_reason": job.finish_reason}],
        "usage": job.usage,
    }


def stream_events(job: Job, chat: bool) -> list[dict[str, Any]]:
    """Every event of a stream but the closing [DONE]."""
    kind = "chat.completion.chunk" if chat else "text_completion"
    base = {"id": job.ident, "object": kind, "created": job.created, "model": job.model}

    def event(piece: dict[str, Any], reason: str | None) -> dict[str, Any]:
        content: dict[str, Any] = {"delta": piece} if chat else {"text": piece.get("content", "")}
        return {**base, "choices": [{"index": 0, **content, "finish_reason": reason}]}

    pieces = job.pieces()
    events = [event({"role": "assistant", "content": ""}, None)] if chat else []
    events += [event({"content": piece}, None) for piece in pieces[:-1]]
    events.append(event({"content": pieces[-1]}, job.finish_reason))
    if job.include_usage:
        events.append({**base, "choices": [], "usage": job.usage})
    return events


def embeddings(body: dict[str, Any], settings: Settings) -> dict[str, Any]:
    model, source = body.get("model"), body.get("input")
    if model not in settings.models:
        raise BadRequest(f"The model `{model}` does not exist.", 404, "NotFoundError", "model")
    if not source:
        raise BadRequest("input is missing", param="input")
    texts = source if isinstance(source, list) and isinstance(source[0], str | list) else [source]
    data = []
    for index, text in enumerate(texts):
        digest = hashlib.sha256(json.dumps(text).encode()).digest()
        vector = [round((byte - 128) / 128, 6) for byte in digest[:DIMENSIONS]]
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = count_tokens(source)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    return {"object": "list", "data": data, "model": model, "usage": usage}


_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)


def metrics_text(stats: Stats, model: str) -> str:
    label = f'model_name="{model}",engine="0"'
    lines = [
        "# TYPE vllm:num_requests_running gauge",
        f"vllm:num_requests_running{{{label}}} {stats.running}",
        "# TYPE vllm:num_requests_waiting gauge",
        f"vllm:num_requests_waiting{{{label}}} {stats.waiting}",
        "# TYPE vllm:kv_cache_usage_perc gauge",
        f"vllm:kv_cache_usage_perc{{{label}}} {min(stats.running * 0.05, 1.0)}",
        "# TYPE vllm:prompt_tokens counter",
        f"vllm:prompt_tokens_total{{{label}}} {stats.prompt_tokens}",
        "# TYPE vllm:generation_tokens counter",
        f"vllm:generation_tokens_total{{{label}}} {stats.generation_tokens}",
        "# TYPE vllm:request_success counter",
    ]
    lines += [
        f'vllm:request_success_total{{finished_reason="{reason}",{label}}} {count}'
        for reason, count in stats.finished.items()
    ]
    for name in ("vllm:e2e_request_latency_seconds", "vllm:time_to_first_token_seconds"):
        lines.append(f"# TYPE {name} histogram")
        for bound in _BUCKETS:
            below = sum(1 for latency in stats.latencies if latency <= bound)
            lines.append(f'{name}_bucket{{le="{bound}",{label}}} {below}')
        lines.append(f'{name}_bucket{{le="+Inf",{label}}} {stats.latency_count}')
        lines.append(f"{name}_sum{{{label}}} {stats.latency_sum}")
        lines.append(f"{name}_count{{{label}}} {stats.latency_count}")
    return "\n".join(lines) + "\n"


class ModelServer:
    def __init__(self, settings: Settings) -> None:
        self.settings, self.stats = settings, Stats()
        self._places = asyncio.Semaphore(settings.max_num_seqs)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024, middlewares=[self._errors])
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._completions),
                web.post("/v1/embeddings", self._embeddings),
                web.get("/v1/models", self._models),
                web.get("/health", self._health),
                web.get("/health_generate", self._health),
                web.get("/ready", self._health),
                web.get("/metrics", self._metrics),
                web.get("/prometheus/metrics", self._metrics),
                web.get("/seen", self._seen),
            ]
        )
        return app

    @staticmethod
    @web.middleware
    async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
        except BadRequest as error:
            body = {"message": str(error), "type": error.kind, "param": error.param, "code": error.status}
            response = web.json_response({"error": body}, status=error.status)
        except web.HTTPException as error:
            response = web.json_response({"detail": error.reason}, status=error.status)
        if not response.prepared:
            response.headers["Server"] = "uvicorn"
        return response

    async def _body(self, request: web.Request) -> dict[str, Any]:
        stats = self.stats
        stats.requests += 1
        authorization = request.headers.get("Authorization")
        if authorization is not None and authorization != REDACTED:
            stats.foreign_credentials += 1
        stats.last_tenant = request.headers.get("x-tokenlabs-tenant", "")
        stats.last_tier = request.headers.get("x-tokenlabs-tier", "")
        try:
            body = json.loads(await request.read())
        except ValueError as error:
            raise BadRequest(f"JSON decode error: {error}") from error
        if not isinstance(body, dict):
            raise BadRequest("the body must be an object")
        return body

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        messages = body.get("messages")
        if not isinstance(messages, list) or not all(isinstance(item, dict) and "role" in item for item in messages):
            raise BadRequest("messages must be a list of objects with a role", param="messages")
        return await self._generate(request, plan(body, messages, "chatcmpl", self.settings, time.time()), chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        return await self._generate(request, plan(body, body.get("prompt"), "cmpl", self.settings, time.time()), False)

    async def _generate(self, request: web.Request, job: Job, chat: bool) -> web.StreamResponse:
        started = time.monotonic()
        reason = "abort"
        self.stats.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.stats.waiting -= 1
        self.stats.running += 1
        try:
            if job.stream:
                response = await self._stream(request, job, chat)
            else:
                answer = chat_answer(job) if chat else text_answer(job)
                response = web.json_response(answer)
            reason = job.finish_reason
            return response
        finally:
            self._places.release()
            self.stats.running -= 1
            self.stats.finished[reason] += 1
            self.stats.prompt_tokens += job.prompt_tokens
            self.stats.generation_tokens += job.completion_tokens if reason != "abort" else 0
            self._note(time.monotonic() - started)

    def _note(self, latency: float) -> None:
        stats = self.stats
        stats.latencies = [*stats.latencies[-4095:], latency]
        stats.latency_sum += latency
        stats.latency_count += 1

    async def _stream(self, request: web.Request, job: Job, chat: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", "Server": "uvicorn"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        lines = [f"data: {json.dumps(event)}\n\n".encode() for event in stream_events(job, chat)]
        if self.settings.event_delay:
            for line in lines:
                await response.write(line)
                await asyncio.sleep(self.settings.event_delay)
            await response.write(b"data: [DONE]\n\n")
        else:
            await response.write(b"".join(lines) + b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _embeddings(self, request: web.Request) -> web.Response:
        answer = embeddings(await self._body(request), self.settings)
        self.stats.prompt_tokens += answer["usage"]["prompt_tokens"]
        self.stats.finished["stop"] += 1
        return web.json_response(answer)

    async def _models(self, _: web.Request) -> web.Response:
        data = [
            {"id": model, "object": "model", "created": 0, "owned_by": "vllm", "root": model, "parent": None}
            for model in self.settings.models
        ]
        return web.json_response({"object": "list", "data": data})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, _: web.Request) -> web.Response:
        text = metrics_text(self.stats, self.settings.models[0])
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _seen(self, _: web.Request) -> web.Response:
        """For tests: never a header's value, but whether a credential came that should not have."""
        stats = self.stats
        return web.json_response(
            {
                "requests": stats.requests,
                "foreign_credentials": stats.foreign_credentials,
                "tenant": stats.last_tenant,
                "tier": stats.last_tier,
            }
        )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.gateway.modelserver", description=__doc__)
    parser.add_argument("--listen", required=True, metavar="IP:PORT")
    parser.add_argument("--model", required=True, action="append", help="a served model name; may be repeated")
    parser.add_argument("--force-include-usage", action="store_true", help="streams always report their usage")
    parser.add_argument("--event-delay-ms", type=float, default=4.0, help="pause between the events of a stream")
    parser.add_argument("--max-model-len", type=int, default=131072, help="longest prompt and completion together")
    parser.add_argument("--max-num-seqs", type=int, default=256, help="requests at once; further ones wait")
    parser.add_argument("--tools", action="store_true", help="take tools")
    parser.add_argument("--vision", action="store_true", help="take images")
    return parser.parse_args(arguments)


async def listen(app: web.Application, address: str) -> None:
    """Serve at ``HOST:PORT`` until a signal ends it."""
    host, _, port = address.rpartition(":")
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, host, int(port)).start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


async def serve(options: argparse.Namespace) -> None:
    settings = Settings(
        tuple(options.model),
        options.force_include_usage,
        options.event_delay_ms / 1000,
        options.max_model_len,
        options.tools,
        options.vision,
        options.max_num_seqs,
    )
    await listen(ModelServer(settings).app(), options.listen)


def main() -> int:
    asyncio.run(serve(parse_arguments()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
