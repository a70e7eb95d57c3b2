# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters: Limitador's fixed windows (in memory or in Redis) and the rate limit service's aligned ones (Redis)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

Clock = Callable[[], float]


class Unavailable(Exception):
    """The store cannot be asked now."""


@dataclass(frozen=True)
class Counter:
    """One counter of one rate: its identity, its maximum, and its window from the first hit on."""

    key: str
    maximum: int
    seconds: int
    name: str = ""


@dataclass(frozen=True)
class CounterState:
    counter: Counter
    value: int
    expires_in: float

    @property
    def remaining(self) -> int:
        return max(self.counter.maximum - self.value, 0)


class Store(Protocol):
    async def read(self, counters: Sequence[Counter]) -> list[CounterState]: ...

    async def add(self, counters: Sequence[Counter], delta: int) -> None: ...

    async def check_and_add(self, counters: Sequence[Counter], delta: int) -> tuple[bool, list[CounterState]]: ...


class MemoryStore:
    """Limitador without storage: gone with its pod."""

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock
        self._values: dict[str, tuple[int, float]] = {}

    def _state(self, counter: Counter) -> CounterState:
        value, expires = self._values.get(counter.key, (0, 0.0))
        now = self._clock()
        if expires <= now:
            return CounterState(counter, 0, counter.seconds)
        return CounterState(counter, value, expires - now)

    def clear(self) -> None:
        self._values.clear()

    async def read(self, counters: Sequence[Counter]) -> list[CounterState]:
        return [self._state(counter) for counter in counters]

    async def add(self, counters: Sequence[Counter], delta: int) -> None:
        for counter in counters:
            state = self._state(counter)
            self._values[counter.key] = (state.value + delta, self._clock() + state.expires_in)

    async def check_and_add(self, counters: Sequence[Counter], delta: int) -> tuple[bool, list[CounterState]]:
        states = await self.read(counters)
        if any(state.value + delta > state.counter.maximum for state in states):
            return False, states
        await self.add(counters, delta)
        return True, await self.read(counters)


# One round trip, and atomic: a refused request must not count anywhere.
_SCRIPT = """
local delta = tonumber(ARGV[1])
local allowed = 1
local answer = {}
for i, key in ipairs(KEYS) do
  local value = tonumber(redis.call('GET', key) or '0')
  if ARGV[2] == 'check' and value + delta > tonumber(ARGV[1 + 2 * i]) then allowed = 0 end
end
for i, key in ipairs(KEYS) do
  if allowed == 1 and delta > 0 then
    if redis.call('INCRBY', key, delta) == delta then redis.call('PEXPIRE', key, ARGV[2 + 2 * i]) end
  end
  answer[#answer + 1] = tonumber(redis.call('GET', key) or '0')
  answer[#answer + 1] = redis.call('PTTL', key)
end
return {allowed, answer}
"""


class RedisStore:
    """Counters in Redis. After a failure it is left in peace for a moment: each request must not wait again."""

    RETRY_AFTER = 1.0

    def __init__(self, url: str, address: tuple[str, int], password: str | None = None, timeout: float = 1.0) -> None:
        options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        if password:
            options["password"] = password
        self._redis = Redis.from_url(url, **options)
        # The URL names a Service; its address is known already, and may be what no resolver here finds.
        self._redis.connection_pool.connection_kwargs.update(host=address[0], port=address[1])
        self._script: str | None = None
        self._down_until = 0.0

    async def close(self) -> None:
        await self._redis.aclose()

    async def ask(self, question: Callable[[Redis], Any]) -> Any:
        if time.monotonic() < self._down_until:
            raise Unavailable("the store failed a moment ago")
        try:
            return await question(self._redis)
        except (TimeoutError, RedisError, OSError) as error:
            self._down_until = time.monotonic() + self.RETRY_AFTER
            raise Unavailable(type(error).__name__) from error

    async def _run(self, counters: Sequence[Counter], delta: int, check: bool) -> tuple[bool, list[CounterState]]:
        if not counters:
            return True, []
        arguments: list[Any] = [delta, "check" if check else "add"]
        for counter in counters:
            arguments += [counter.maximum, counter.seconds * 1000]
        keys = [counter.key for counter in counters]

        async def question(redis: Redis) -> Any:
            if self._script is None:
                self._script = await redis.script_load(_SCRIPT)
            try:
                return await redis.evalsha(self._script, len(keys), *keys, *arguments)  # type: ignore[misc]
            except NoScriptError:  # Redis was restarted
                return await redis.eval(_SCRIPT, len(keys), *keys, *arguments)  # type: ignore[misc]

        allowed, flat = await self.ask(question)
        states = [
            CounterState(counter, int(value), milliseconds / 1000 if milliseconds > 0 else counter.seconds)
            for counter, value, milliseconds in zip(counters, flat[::2], flat[1::2], strict=True)
        ]
        return bool(allowed), states

    async def read(self, counters: Sequence[Counter]) -> list[CounterState]:
        return (await self._run(counters, 0, check=False))[1]

    async def add(self, counters: Sequence[Counter], delta: int) -> None:
        await self._run(counters, delta, check=False)

    async def check_and_add(self, counters: Sequence[Counter], delta: int) -> tuple[bool, list[CounterState]]:
        return await self._run(counters, delta, check=True)


@dataclass(frozen=True)
class Window:
    """A counter of the rate limit service: its window is aligned to the clock."""

    key: str
    limit: int
    seconds: int
    shadow: bool = False


@dataclass(frozen=True)
class WindowState:
    window: Window
    value: int
    reset: int

    @property
    def remaining(self) -> int:
        return max(self.window.limit - self.value, 0)

    @property
    def over(self) -> bool:
        return self.value > self.window.limit and not self.window.shadow


class WindowStore:
    """The rate limit service on its Redis: it adds first and compares then."""

    def __init__(self, redis: RedisStore, clock: Clock = time.time) -> None:
        self._redis = redis
        self._clock = clock

    async def add(self, windows: Sequence[tuple[Window, int]]) -> list[WindowState]:
        if not windows:
            return []
        now = int(self._clock())

        async def question(redis: Redis) -> Any:
            pipe = redis.pipeline(transaction=False)
            for window, delta in windows:
                key = f"{window.key}_{now // window.seconds * window.seconds}"
                pipe.incrby(key, delta)
                pipe.expire(key, window.seconds)
            return await pipe.execute()

        values = await self._redis.ask(question)
        return [
            WindowState(window, int(value), window.seconds - now % window.seconds)
            for (window, _), value in zip(windows, values[::2], strict=True)
        ]
