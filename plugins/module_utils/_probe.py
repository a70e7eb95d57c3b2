# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests as a client of the gateway sends them, and what is expected of the answers.

This module util is private to the collection: it may change in any way at any time.

http.client is used because a probe must send exactly what it was told: a Host in upper case, a path that is not
normalised, a connection kept open or not. Keys are read from their files here and leave only in requests: every text
that goes back is searched for them.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

LONGEST_ANSWER = 16 * 1024 * 1024
EXCERPT = 160
PAUSE = 0.5


class ProbeError(Exception):
    """A probe that cannot be sent as it was asked for."""


@dataclass(frozen=True)
class Expect:
    """What an answer must be. All that is given must hold; the body's checks look at the last answer."""

    status: tuple[int, ...] = ()
    counts: Mapping[int, int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    contains: str = ""
    json: Mapping[str, Any] = field(default_factory=dict)
    positive: tuple[str, ...] = ()
    stream: bool = False
    tokens: int = 0

    def words(self) -> str:
        """The same for people, in few words."""
        parts = [" or ".join(map(str, self.status))] if self.status else []
        parts += [f"{number} x {status}" for status, number in sorted(self.counts.items())]
        parts += [f"header {name}" for name in self.headers]
        parts += ["a stream to its end"] if self.stream else []
        parts += [f"{path} > 0" for path in self.positive]
        parts += [f"{path} = {_short(value)}" if value is not None else path for path, value in self.json.items()]
        parts += [f"{self.contains!r} in the body"] if self.contains else []
        parts += [f"{self.tokens} tokens counted first"] if self.tokens else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Case:
    """One thing to prove: a request, sent once or often, and what is expected."""

    name: str
    path: str
    expect: Expect
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    key_file: str | None = None
    scheme: str = "Bearer"
    repeat: int = 1
    parallel: int = 1
    until: int | None = None
    reuse: bool = False
    patience: float = 0.0
    timeout: float = 30.0
    stage: int = 0
    hint: str = ""


@dataclass(frozen=True)
class Answer:
    """What came back; status 0 and an error when nothing did."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str = ""
    seconds: float = 0.0

    def data(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def streamed(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def events(self) -> list[str]:
        """What the server sent event by event."""
        lines = self.body.decode("utf-8", "replace").splitlines()
        return [line[5:].strip() for line in lines if line.startswith("data:")]

    def usage(self) -> dict[str, Any]:
        """The usage of an answer; of a stream, that of its last event which has one."""
        if not self.streamed:
            return _usage_of(self.data())
        for event in reversed(self.events()):
            usage = {} if event == "[DONE]" else _usage_of(Answer(body=event.encode()).data())
            if usage:
                return usage
        return {}

    def tokens(self) -> int:
        total = self.usage().get("total_tokens")
        return total if isinstance(total, int) and self.status == 200 else 0


@dataclass(frozen=True)
class Verdict:
    """What became of a case."""

    case: Case
    answers: Sequence[Answer]
    reasons: Sequence[str]

    @property
    def ok(self) -> bool:
        return not self.reasons

    def got(self) -> str:
        statuses = [str(answer.status or "no answer") for answer in self.answers]
        if len(statuses) <= 1:
            return statuses[0] if statuses else "not sent"
        return ", ".join(f"{number} x {status}" for status, number in Counter(statuses).items())


def _usage_of(data: Any) -> dict[str, Any]:
    usage = data.get("usage") if isinstance(data, dict) else None
    return usage if isinstance(usage, dict) else {}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


# --- What is expected -------------------------------------------------------------------------------------------------


def judge(expect: Expect, answers: Sequence[Answer], only_last: bool = False) -> list[str]:
    """Why the answers are not as expected; nothing when they are. Of a request repeated until a status only the last
    answer must have the status."""
    if not answers:
        return ["nothing was sent"]
    broken = next((answer for answer in answers if not answer.status), None)
    if broken is not None:
        return [broken.error]
    reasons = _judge_statuses(expect, answers[-1:] if only_last else answers)
    if reasons:
        return reasons
    last = answers[-1]
    for name, pattern in expect.headers.items():
        value = last.headers.get(name.lower())
        if value is None or not re.search(pattern, value):
            reasons.append(f"header {name} is {value!r}" if value is not None else f"header {name} is missing")
    if expect.contains and expect.contains not in last.body.decode("utf-8", "replace"):
        reasons.append(f"the body lacks {expect.contains!r}")
    if expect.stream:
        broken_off = [reason for answer in answers for reason in _judge_stream(answer)[:1]]
        among = f" ({len(broken_off)} of {len(answers)})" if len(answers) > 1 else ""
        reasons += [reason + among for reason in broken_off[:1]]
    data: Any = {"usage": last.usage()} if last.streamed else last.data()
    for path, wanted in expect.json.items():
        found = look_up(data, path)
        if found is None or (wanted is not None and found != wanted):
            reasons.append(f"{path} is {_short(found)}")
    for path in expect.positive:
        found = look_up(data, path)
        if not isinstance(found, (int, float)) or isinstance(found, bool) or found <= 0:
            reasons.append(f"{path} is {_short(found)}")
    counted = sum(answer.tokens() for answer in answers)
    if counted < expect.tokens:
        reasons.append(f"only {counted} tokens were counted before")
    return reasons


def _judge_statuses(expect: Expect, answers: Sequence[Answer]) -> list[str]:
    found = Counter(answer.status for answer in answers)
    if expect.counts and dict(found) != dict(expect.counts):
        return [f"status {status} came {number} times" for status, number in sorted(found.items())]
    if expect.status:
        unexpected = sorted({answer.status for answer in answers if answer.status not in expect.status})
        if unexpected:
            return [f"status {status}" + excerpt(answers, status) for status in unexpected]
    return []


def _judge_stream(answer: Answer) -> list[str]:
    if not answer.streamed:
        return [f"not a stream but {answer.headers.get('content-type', 'without content type')!r}"]
    events = answer.events()
    if "[DONE]" not in events:
        return [f"the stream ended after {len(events)} events without [DONE]"]
    return [] if len(events) >= 2 else ["the stream held no event"]


def excerpt(answers: Iterable[Answer], status: int) -> str:
    """The beginning of what the gateway said with this status."""
    body = next((answer.body for answer in answers if answer.status == status), b"")
    text = " ".join(body[: 4 * EXCERPT].decode("utf-8", "replace").split())
    return f": {text[:EXCERPT]}" if text else ""


def look_up(data: Any, path: str) -> Any:
    """A value by its dotted path; a number is a position, `*` all of a list (sorted, as order means nothing there)."""
    first, _dot, rest = path.partition(".")
    if first == "*":
        if not isinstance(data, list):
            return None
        found = [look_up(item, rest) if rest else item for item in data]
        return sorted(found, key=str)
    if isinstance(data, list) and first.isdigit():
        value = data[int(first)] if int(first) < len(data) else None
    else:
        value = data.get(first) if isinstance(data, dict) else None
    return look_up(value, rest) if rest else value


# --- Sending ----------------------------------------------------------------------------------------------------------


class Client:
    """Sends requests to one gateway, no more than some at a time."""

    def __init__(self, base_url: str, concurrency: int = 8, context: ssl.SSLContext | None = None):
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ProbeError(f"base_url must be http://HOST[:PORT] or https://HOST[:PORT], not {base_url!r}")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._context = context if parts.scheme == "https" else None
        self._slots = threading.Semaphore(concurrency)
        self.concurrency = concurrency

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._context:
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._context)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout)

    def send(self, case: Case, key: str | None, connection: http.client.HTTPConnection | None = None) -> Answer:
        """Send the request once, on a connection of its own unless one is given."""
        headers = {"host": self._default_host(), "accept": "*/*"}
        if case.body is not None:
            headers |= {"content-type": "application/json", "content-length": str(len(case.body))}
        headers |= {name.lower(): value for name, value in case.headers.items()}
        if key is not None:
            headers["authorization"] = f"{case.scheme} {key}"
        with self._slots:
            own = connection or self.connection(case.timeout)
            started = time.monotonic()
            try:
                own.putrequest(case.method, case.path, skip_host=True, skip_accept_encoding=True)
                for name, value in headers.items():
                    own.putheader(name, value)
                own.endheaders(case.body)
                response = own.getresponse()
                body = _read(response, started + case.timeout)
                response.close()  # all was read; without this the connection would not take another request
                if case.method != "HEAD" and len(body) < int(response.getheader("content-length") or 0):
                    raise http.client.IncompleteRead(b"")
                return Answer(response.status, _lowered(response), body, "", time.monotonic() - started)
            except (OSError, http.client.HTTPException) as error:
                own.close()
                return Answer(error=_cause(error, case.timeout), seconds=time.monotonic() - started)
            finally:
                if connection is None:
                    own.close()

    def _default_host(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return host if self._port == (443 if self._context else 80) else f"{host}:{self._port}"


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The whole body: a server that never ends it must not hold the probe for longer than the deadline."""
    parts: list[bytes] = []
    size = 0
    while True:
        part = response.read1(65536)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > LONGEST_ANSWER:
            raise http.client.HTTPException(f"the answer is longer than {LONGEST_ANSWER} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError


def _lowered(response: http.client.HTTPResponse) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in response.getheaders():
        known = headers.get(name.lower())
        headers[name.lower()] = f"{known}, {value}" if known else value
    return headers


def _cause(error: Exception, timeout: float) -> str:
    if isinstance(error, (TimeoutError, socket.timeout)):
        return f"no complete answer within {timeout:g} s"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed without an answer"
    if isinstance(error, http.client.IncompleteRead):
        return "the answer was cut off"
    return f"{getattr(error, 'strerror', None) or error or type(error).__name__}"


# --- Running ----------------------------------------------------------------------------------------------------------


def run(client: Client, cases: Sequence[Case], read_key: Callable[[str], str]) -> list[Verdict]:
    """All cases, in the order given; those of one stage at the same time, stages one after the other."""
    verdicts: dict[int, Verdict] = {}
    with ThreadPoolExecutor(max_workers=client.concurrency) as pool:
        for stage in sorted({case.stage for case in cases}):
            batch = [number for number, case in enumerate(cases) if case.stage == stage]
            found = pool.map(lambda number: attempt(client, cases[number], read_key), batch)
            verdicts.update(zip(batch, found, strict=True))
    return [verdicts[number] for number in range(len(cases))]


def attempt(client: Client, case: Case, read_key: Callable[[str], str]) -> Verdict:
    """One case; with patience, again until it is as expected or the time is over."""
    try:
        key = read_key(case.key_file) if case.key_file else None
    except ProbeError as error:
        return Verdict(case, [], [str(error)])
    deadline = time.monotonic() + case.patience
    while True:
        answers = repeat(client, case, key)
        verdict = Verdict(case, answers, judge(case.expect, answers, only_last=case.until is not None))
        if verdict.ok or time.monotonic() + PAUSE > deadline:
            return verdict
        time.sleep(PAUSE)


def repeat(client: Client, case: Case, key: str | None) -> list[Answer]:
    """The request as often as the case asks for: at the same time, or in turn and then on one connection if asked."""
    if case.parallel > 1 and case.repeat > 1 and not case.reuse and case.until is None:
        with ThreadPoolExecutor(max_workers=min(case.parallel, case.repeat)) as pool:
            return list(pool.map(lambda _: client.send(case, key), range(case.repeat)))
    kept = client.connection(case.timeout) if case.reuse else None
    answers: list[Answer] = []
    try:
        for _turn in range(case.repeat):
            answers.append(client.send(case, key, kept))
            if not answers[-1].status or answers[-1].status == case.until:
                break
    finally:
        if kept is not None:
            kept.close()
    return answers


# --- Keys -------------------------------------------------------------------------------------------------------------


class Keys:
    """Keys by file; knows all that it gave out, to take them out of texts."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()

    def read(self, path: str) -> str:
        with self._lock:
            if path not in self._known:
                self._known[path] = self._load(path)
            return self._known[path]

    @staticmethod
    def _load(path: str) -> str:
        try:
            with open(path, encoding="ascii") as file:
                key = file.read(4096).strip()
        except OSError as error:
            raise ProbeError(f"the key file {path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ProbeError(f"the key file {path} holds something other than a key") from None
        if not key or not key.isprintable() or " " in key:
            raise ProbeError(f"the key file {path} holds something other than a key")
        return key

    def redact(self, text: str) -> str:
        for path, key in self._known.items():
            encoded = base64.b64encode(key.encode()).decode().rstrip("=")
            for secret in (key, encoded):
                text = text.replace(secret, f"(key of {path})")
        return text


def case_from(options: Mapping[str, Any], timeout: float, patience: float) -> Case:
    """A case from the module's options."""
    expect = options["expect"]
    text = json.dumps(options["json"]) if options["json"] is not None else options["body"]
    body = text.encode() if text is not None else None
    if options["body_base64"]:
        body = base64.b64decode(options["body_base64"])
    return Case(
        name=options["name"],
        path=options["path"],
        method=options["method"] or ("GET" if body is None else "POST"),
        headers={name: str(value) for name, value in (options["headers"] or {}).items()},
        body=body,
        key_file=options["key_file"],
        scheme=options["scheme"],
        repeat=options["repeat"],
        parallel=options["parallel"],
        until=options["until"],
        reuse=options["reuse"],
        patience=options["patience"] if options["patience"] is not None else patience,
        timeout=options["timeout"] or timeout,
        stage=options["stage"],
        hint=options["hint"],
        expect=Expect(
            status=tuple(expect["status"] or ()),
            counts={int(status): int(number) for status, number in (expect["counts"] or {}).items()},
            headers=expect["headers"] or {},
            contains=expect["contains"] or "",
            json=expect["json"] or {},
            positive=tuple(expect["positive"] or ()),
            stream=bool(expect["stream"]),
            tokens=expect["tokens"] or 0,
        ),
    )


def report(verdict: Verdict, redact: Callable[[str], str]) -> dict[str, Any]:
    """A verdict as the module returns it."""
    return {
        "name": verdict.case.name,
        "ok": verdict.ok,
        "expected": verdict.case.expect.words(),
        "got": verdict.got(),
        "reason": redact("; ".join(verdict.reasons)),
        "hint": verdict.case.hint,
        "requests": len(verdict.answers),
        "tokens": sum(answer.tokens() for answer in verdict.answers),
        "seconds": round(sum(answer.seconds for answer in verdict.answers), 3),
    }
