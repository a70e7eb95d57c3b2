# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the gateway's tests, loaded with ``pytest_plugins``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.gateway_harness import Lab, Make, RedisProcess


@pytest.fixture(scope="session")
def gateway_redis() -> Iterator[RedisProcess]:
    process = RedisProcess().start()
    yield process
    process.close()


@pytest.fixture
def make(gateway_redis: RedisProcess) -> Iterator[Make]:
    """Makes labs, on one Redis that is empty at first."""
    labs: list[Lab] = []
    gateway_redis.command("FLUSHALL")

    def build(**options: Any) -> Lab:
        labs.append(Lab(gateway_redis, **options))
        return labs[-1]

    yield build
    for lab in labs:
        lab.close()
