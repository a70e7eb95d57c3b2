# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks for secrets in everything that a run leaves behind or lets others see while it lasts."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

# Of each secret's beginning and end so many characters: what was cut or wrapped is found too.
FRAGMENT = 16
LARGEST = 64 << 20
SYSLOG = Path("/dev/log")


def encoded(text: bytes) -> Iterator[bytes]:
    """How a text looks inside anything that was encoded in base64, whatever stands before and after it."""
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + text + b"\0\0")
        # Without the characters that hold bits of what stands around.
        inner = whole[-(-before * 8 // 6) : (before + len(text)) * 8 // 6]
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")


def needles(secret: str, prefix: str = "") -> set[bytes]:
    """What gives a secret away, its well-known prefix apart."""
    random = secret.removeprefix(prefix).encode()
    assert len(random) >= FRAGMENT, "too short to be told from anything else"
    found = set()
    for fragment in (random[:FRAGMENT], random[-FRAGMENT:]):
        found |= {fragment, *encoded(fragment)}
    return found


def leaks(places: Mapping[str, bytes], wanted: Iterable[bytes]) -> set[str]:
    """The names of the places that hold any of these."""
    wanted = list(wanted)
    return {name for name, data in places.items() if any(needle in data for needle in wanted)}


def files(*roots: Path, known: dict[str, tuple[int, int]] | None = None) -> dict[str, bytes]:
    """Every regular file below, by path, but those that have not changed since they were `known`."""
    found = {}
    known = {} if known is None else known
    for root in roots:
        for folder, _folders, names in os.walk(root):
            for path in (os.path.join(folder, name) for name in names):
                # What vanishes meanwhile is not waited for.
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    version = (status.st_mtime_ns, status.st_size)
                    if stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST and known.get(path) != version:
                        found[path] = Path(path).read_bytes()
                        known[path] = version
    return found


class Watch:
    """Everybody's command lines and environments, temporary files and the system log, while the block lasts."""

    def __init__(self, *temporary: Path, every: float = 0.02):
        self.processes: set[bytes] = set()
        self.temporary: dict[str, bytes] = {}
        self.syslog = bytearray()
        self._folders = temporary
        self._every = every
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []
        self._socket: socket.socket | None = None

    def __enter__(self) -> Watch:
        self._threads.append(threading.Thread(target=self._sample))
        # Only where no other log takes it. Messages of modules go there.
        if not SYSLOG.exists() and os.access(SYSLOG.parent, os.W_OK):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.bind(str(SYSLOG))
            self._socket.settimeout(0.2)
            self._threads.append(threading.Thread(target=self._listen))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
        if self._socket:
            self._socket.close()
            SYSLOG.unlink()

    @property
    def hears_syslog(self) -> bool:
        return self._socket is not None

    def _sample(self) -> None:
        seen: dict[str, bytes] = {}
        sizes: dict[str, tuple[int, int]] = {}
        while not self._done.wait(self._every):
            for process in os.scandir("/proc"):
                if process.name.isdigit():
                    with contextlib.suppress(OSError):
                        line = Path(process.path, "cmdline").read_bytes()
                        if seen.get(process.name) != line:
                            seen[process.name] = line
                            self.processes |= {line, Path(process.path, "environ").read_bytes()}
            self.temporary.update(files(*self._folders, known=sizes))

    def _listen(self) -> None:
        assert self._socket
        while not self._done.is_set():
            with contextlib.suppress(TimeoutError):
                self.syslog += self._socket.recv(1 << 20) + b"\n"

    def places(self) -> dict[str, bytes]:
        return {
            "process list": b"\n".join(self.processes),
            "syslog": bytes(self.syslog),
            **{f"temporary file {path}": data for path, data in self.temporary.items()},
        }
