# SPDX-License-Identifier: GPL-3.0-or-later
"""Rollouts that need labs of their own: every test says how many hosts, and gets them empty."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.scenarios import cluster, conftest

New = Callable[..., None]


@contextmanager
def entered(name: str, hosts: list[str]) -> Iterator[None]:
    """A new lab, in which the helpers of the scenarios work until it ends."""
    previous = dict(os.environ)
    state = os.environ.get("TOKENLABS_LAB_STATE", "/var/tmp/tokenlabs-lab")
    os.environ |= {"TOKENLABS_LAB": f"{state}/{name}", "TOKENLABS_LAB_NAME": name}
    try:
        cluster.lab("up", "--hosts", ",".join(hosts))
        conftest.ENTER[:] = [cluster.CTL, "exec", "--"]
        yield
    finally:
        conftest.ENTER.clear()
        cluster.lab("down")
        os.environ.clear()
        os.environ |= previous


@pytest.fixture
def new_lab() -> Iterator[New]:
    """Call it for an empty lab; the one before it goes."""
    stack = ExitStack()

    def make(controllers: int = 1, sparks: int = 2) -> None:
        stack.close()
        names = ["controller", *(f"controller-{n:02}" for n in range(2, controllers + 1))]
        names += [f"spark-{n:02}" for n in range(1, sparks + 1)]
        stack.enter_context(entered(f"rollout-{os.getpid()}", names))

    with stack:
        yield make
