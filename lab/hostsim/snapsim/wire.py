# SPDX-License-Identifier: GPL-3.0-or-later
"""A small HTTP/1.1 client over a kept TLS connection.

The standard library's client costs some MiB and a third of a second of imports on a small machine;
these programs run often and their daemons sit on every host.
"""

from __future__ import annotations

import json
import socket
import ssl
from pathlib import Path
from typing import Any, NamedTuple


class WireError(OSError):
    """The other side broke the connection or does not speak HTTP."""


class Answer(NamedTuple):
    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body or b"null")


def context(ca: Path | None = None, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Verifies against `ca`; without one, verifies nothing (as MicroK8s' own join does)."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is None:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    else:
        made.load_verify_locations(ca)
    if cert is not None:
        made.load_cert_chain(cert, key)
    return made


class Connection:
    def __init__(
        self, host: str, port: int, tls: ssl.SSLContext, timeout: float | None = None, source: str = ""
    ) -> None:
        self.address, self.tls, self.timeout = (host, port), tls, timeout
        self.source = (source, 0) if source else None
        self._socket: ssl.SSLSocket | None = None
        self._buffer = b""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._buffer = b""

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        fresh = self._socket is None
        try:
            return self._exchange(method, path, body, headers or {})
        except (WireError, ConnectionError, ssl.SSLError):
            self.close()
            if fresh:
                raise
        except OSError:  # no answer in time: what comes later must not be taken for the next one's
            self.close()
            raise
        return self._exchange(method, path, body, headers or {})  # the kept connection had gone stale

    def _exchange(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        if self._socket is None:
            plain = socket.create_connection(self.address, self.timeout, self.source)
            self._socket = self.tls.wrap_socket(plain, server_hostname=self.address[0])
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.address[0]}:{self.address[1]}",
            f"Content-Length: {len(body)}",
            *(f"{k}: {v}" for k, v in headers.items()),
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return self._read()

    def _more(self) -> None:
        assert self._socket is not None
        data = self._socket.recv(65536)
        if not data:
            raise WireError("connection closed before the answer was complete")
        self._buffer += data

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _read(self) -> Answer:
        status = int(self._line().split()[1])
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while size := int(self._line().split(b";")[0], 16):
                parts.append(self._take(size))
                self._line()
            self._line()
            body = b"".join(parts)
        else:
            body = self._take(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, body)
