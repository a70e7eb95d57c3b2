# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pods are more than words: they are run by the lab's pod runner, not played by KWOK."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lab.world.store import Json, labels


@dataclass(frozen=True)
class Program:
    """A program that the runner has for an image or a label."""

    name: str
    image: str = ""  # regular expression, of Python and jq alike
    label: tuple[str, str] | None = None


PROGRAMS = (
    Program("redis", image=r"(^|/)redis[:@]"),
    Program("webhook", image=r"(^|/)ai-gateway-controller[:@]"),
    Program("limitador", image=r"(^|/)kuadrant/limitador[:@]"),
    Program("adapter", image=r"(^|/)prometheus-adapter[:@]"),
    Program("speech", image=r"(^|/)magpie-tts[:@]"),
    Program("model", label=("llm-d.ai/inference-serving", "true")),
)


def runner(pod: Json) -> str:
    """Name of the program that a pod runs for real; empty when KWOK plays it."""
    for program in PROGRAMS:
        if program.label and labels(pod).get(program.label[0]) == program.label[1]:
            return program.name
        if program.image and container_of(pod, program.image):
            return program.name
    return ""


def container_of(pod: Json, image: str) -> Json | None:
    return next((item for item in pod["spec"]["containers"] if re.search(image, item["image"])), None)


def jq_played() -> str:
    """The same question for KWOK's selectors: true for the pods that KWOK plays."""
    tests = [f'(.spec.containers[].image | test("{program.image}"))' for program in PROGRAMS if program.image]
    tests += [
        f'(((.metadata.labels // {{}})["{program.label[0]}"] // "") == "{program.label[1]}")'
        for program in PROGRAMS
        if program.label
    ]
    return f"[{', '.join(tests)}] | any | not"
