# SPDX-License-Identifier: GPL-3.0-or-later
"""Sockets: the listeners of the Gateways, and the way of a request to a backend and back."""

from __future__ import annotations

import asyncio
import logging
import ssl
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from .aigateway import UsageReader
from .model import Address, BackendRef, PortConfig
from .plane import Headers, Inbound, Journey, Plane, Reply, answered_headers, forwarded_headers, forwarded_path

log = logging.getLogger("lab.gateway.server")

# A response that never ends is held until the client goes; Envoy's idle timeout ends it at last.
HANG_LIMIT = 300.0
# Events that all come within this time count as one burst.
BURST = 0.010
_AFTER_DONE = 1.0

Port = tuple[str, int]


def _lower(raw: Any) -> Headers:
    return [(name.decode("latin-1").lower(), value.decode("latin-1").strip()) for name, value in raw]


def _body_reader(request: web.BaseRequest) -> Callable[[int], Any]:
    body = bytearray()

    async def read(limit: int) -> bytes | None:
        length = request.content_length
        if length is not None and length > limit:
            return None
        if not body:
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # type: ignore[attr-defined]
                request.writer.output_size = 0  # type: ignore[attr-defined]
            async for chunk in request.content.iter_any():
                body.extend(chunk)
                if len(body) > limit:
                    return None
        return bytes(body)

    return read


def inbound_of(request: web.BaseRequest, tls: bool) -> Inbound:
    headers = _lower(request.raw_headers)
    target, host = request.raw_path, request.headers.get("Host", "")
    if "://" in target and not target.startswith("/"):  # absolute form: it names the host itself
        host, _, rest = target.partition("://")[2].partition("/")
        target = "/" + rest
    return Inbound(
        method=request.method,
        target=target.partition("#")[0],
        host=host,
        headers=[pair for pair in headers if pair[0] != "expect"],
        peer=request.remote or "",
        has_body=request.can_read_body,
        read=_body_reader(request),
        scheme="https" if tls else "http",
    )


class Proxy:
    """Answers the requests of all listeners."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    def handler(self, port: Port) -> Callable[[web.BaseRequest], Any]:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            started = time.monotonic()
            config = self.plane.config.ports.get(port)
            if config is None:
                response = await self._send(request, Reply(503))
            else:
                try:
                    response = await self._handle(request, config)
                except (OSError, asyncio.CancelledError):  # the client is gone
                    raise
                except Exception:
                    log.exception("%s failed", request.method)
                    response = await self._send(request, Reply(500))
            milliseconds = (time.monotonic() - started) * 1000
            # Only the path: a query may hold a credential.
            path = request.raw_path.partition("?")[0]
            log.info("%s %s %s %.1f ms", request.method, path, response.status, milliseconds)
            return response

        return handle

    async def _handle(self, request: web.BaseRequest, config: PortConfig) -> web.StreamResponse:
        outcome = await self.plane.admit(config, inbound_of(request, config.tls))
        if isinstance(outcome, Reply):
            return await self._send(request, outcome)
        chosen = self.plane.choose(outcome.entry)
        if isinstance(chosen, Reply):
            return await self._send(request, await self.plane.answer_locally(outcome, chosen))
        return await self._forward(request, outcome, *chosen)

    async def _send(self, request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
        response = _response(reply.status, [("server", "envoy"), *reply.headers], len(reply.body))
        await response.prepare(request)
        if reply.body and request.method != "HEAD":
            await response.write(reply.body)
        await self._end(request, response, reply.hang)
        return response

    async def _end(self, request: web.BaseRequest, response: web.StreamResponse, hang: bool) -> None:
        if hang:
            await asyncio.sleep(HANG_LIMIT)
            _abort(request)
        await response.write_eof()

    async def _forward(
        self, request: web.BaseRequest, journey: Journey, backend: BackendRef, address: Address
    ) -> web.StreamResponse:
        assert self._session is not None
        scheme = "https" if backend.tls_host or address.port == 443 else "http"
        path = forwarded_path(journey.entry, journey.request)
        host = journey.entry.rewrite.hostname or journey.request.host
        url = URL(f"{scheme}://{address.host}:{address.port}{path}", encoded=True)
        answer: aiohttp.ClientResponse | None = None
        self.plane.inflight[address] += 1
        try:
            async with asyncio.timeout(journey.entry.timeout or None):
                answer = await self._session.request(
                    journey.request.method,
                    url,
                    headers=CIMultiDict(forwarded_headers(journey, host)),
                    data=journey.body,
                    allow_redirects=False,
                    server_hostname=backend.tls_host,
                )
                return await self._relay(request, journey, answer)
        except TimeoutError:
            reply = Reply(504, [("content-type", "text/plain")], b"upstream request timeout")
        except aiohttp.ClientError as error:
            failed = isinstance(error, aiohttp.ClientConnectorError)
            reply = Reply(503, [("content-type", "text/plain")], _broken("failure" if failed else "termination"))
        finally:
            if answer is not None:
                answer.close()
            self.plane.inflight[address] -= 1
            if not self.plane.inflight[address]:
                del self.plane.inflight[address]
        if journey.answered:
            _abort(request)
            raise ConnectionResetError("the backend broke off")
        return await self._send(request, await self.plane.answer_locally(journey, reply))

    async def _relay(
        self, request: web.BaseRequest, journey: Journey, answer: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        headers = answered_headers(journey, _lower(answer.raw_headers))
        other = self.plane.overridden(journey, answer.status, headers)
        if other is not None:
            return await self._send(request, other)
        if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
            return await self._relay_whole(request, journey, answer, headers)
        return await self._relay_stream(request, journey, answer, headers)

    async def _relay_whole(
        self, request: web.BaseRequest, journey: Journey, answer: aiohttp.ClientResponse, headers: Headers
    ) -> web.StreamResponse:
        body = await answer.read()
        reader = UsageReader(streaming=False)
        reader.feed(body)
        reader.finish()
        hang = await asyncio.shield(self.plane.settle(journey, reader, answer.status))
        bodiless = request.method == "HEAD" or answer.status in (204, 304)
        response = _response(answer.status, headers, None if bodiless else len(body))
        await response.prepare(request)
        if body:
            await response.write(body)
        await self._end(request, response, hang)
        return response

    async def _relay_stream(
        self, request: web.BaseRequest, journey: Journey, answer: aiohttp.ClientResponse, headers: Headers
    ) -> web.StreamResponse:
        reader = UsageReader(streaming=True)
        source = answer.content
        held = b""
        if journey.token_matches:
            held = await _burst(source)
            if source.at_eof() and self.plane.lost_in_burst(journey):
                reader.feed(held)
                reader.finish()
                await asyncio.shield(self.plane.settle(journey, reader, answer.status))
                kept = [pair for pair in headers if pair[0] not in ("content-length", "content-type")]
                return await self._send(request, Reply(200, kept))
        response = _response(answer.status, headers)
        await response.prepare(request)
        journey.answered = True
        chunk = held or await source.readany()
        while chunk:
            reader.feed(chunk)
            if reader.done:
                break
            await response.write(chunk)
            chunk = await source.readany()
        if chunk:
            # The end of the stream follows the last event at once: account first, so that the next request
            # of a client that is content with [DONE] already meets the new count.
            with suppress(TimeoutError):
                async with asyncio.timeout(_AFTER_DONE):
                    while more := await source.readany():
                        reader.feed(more)
                        chunk += more
        reader.finish()
        hang = await asyncio.shield(self.plane.settle(journey, reader, answer.status))
        if chunk:
            await response.write(chunk)
        await self._end(request, response, hang)
        return response


async def _burst(source: aiohttp.StreamReader) -> bytes:
    """What comes within a moment after the first byte."""
    held = await source.readany()
    with suppress(TimeoutError):
        async with asyncio.timeout(BURST):
            while not source.at_eof():
                held += await source.readany()
    return held


def _broken(cause: str) -> bytes:
    text = "upstream connect error or disconnect/reset before headers. reset reason: connection "
    return (text + cause).encode()


def _response(status: int, headers: Headers, length: int | None = None) -> web.StreamResponse:
    """A response whose header names are all in lower case, as Envoy writes them."""
    pairs = [pair for pair in headers if length is None or pair[0] != "content-length"]
    if length is not None:
        pairs.append(("content-length", str(length)))
    if all(name != "date" for name, _ in pairs):
        pairs.append(("date", formatdate(usegmt=True)))
    return web.StreamResponse(status=status, headers=CIMultiDict(pairs))


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


def _tls_context(certificate: tuple[bytes, bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as pair:
        pair.write(certificate[0] + b"\n" + certificate[1])
        pair.flush()
        context.load_cert_chain(pair.name)
    return context


class Listeners:
    """Holds one socket per address and port of the configuration."""

    RETRY = 0.25

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._tasks: dict[tuple[Port, tuple[bytes, bytes] | None], asyncio.Task[None]] = {}
        self.bound: set[Port] = set()

    async def reconcile(self) -> None:
        wanted = {(key, port.certificate) for key, port in self._proxy.plane.config.ports.items()}
        for key in set(self._tasks) - wanted:
            task = self._tasks.pop(key)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for key in wanted - set(self._tasks):
            self._tasks[key] = asyncio.create_task(self._serve(*key), name=f"listen {key[0]}")

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, port: Port, certificate: tuple[bytes, bytes] | None) -> None:
        try:
            context = _tls_context(certificate) if certificate else None
        except (ssl.SSLError, ValueError) as error:
            log.error("the certificate of %s:%s is unusable: %s", *port, error)
            return
        server = web.Server(
            self._proxy.handler(port),
            handler_cancellation=True,
            auto_decompress=False,
            access_log=None,
            max_line_size=60 * 1024,
            max_field_size=60 * 1024,
        )
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await self._bind(runner, port, context)
            self.bound.add(port)
            log.info("listening on %s:%s", *port)
            await asyncio.Event().wait()
        finally:
            self.bound.discard(port)
            await runner.cleanup()

    async def _bind(self, runner: web.ServerRunner, port: Port, context: ssl.SSLContext | None) -> None:
        """The address appears on its interface some time after the Gateway's status names it."""
        told = False
        while True:
            site = web.TCPSite(runner, port[0], port[1], ssl_context=context, reuse_address=True)
            try:
                await site.start()
                return
            except OSError as error:
                if not told:
                    log.info("cannot listen on %s:%s yet: %s", *port, error)
                    told = True
                with suppress(RuntimeError, KeyError):
                    runner._unreg_site(site)
                await asyncio.sleep(self.RETRY)
