# SPDX-License-Identifier: GPL-3.0-or-later
"""Command lines as click reads them, in a few lines (its texts are part of what is simulated)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .console import finish, usage


@dataclass
class Parsed:
    options: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)

    def flag(self, name: str) -> bool:
        return name in self.options


def parse(command: str, synopsis: str, argv: Sequence[str], values: Mapping[str, str], flags: Sequence[str]) -> Parsed:
    """`values`: option -> its canonical name (takes a value); `flags`: options that take none."""
    found = Parsed()
    rest = list(argv)
    while rest:
        arg = rest.pop(0)
        name, given, value = arg.partition("=")
        if arg in ("--help", "-h"):
            finish(0, out=f"Usage: {command} {synopsis}\n\nOptions:\n  --help  Show this message and exit.")
        elif name in values:
            if not given:
                if not rest:
                    usage(command, synopsis, f"Option '{name}' requires an argument.")
                value = rest.pop(0)
            found.options[values[name]] = value
        elif arg in flags:
            found.options[arg] = ""
        elif arg.startswith("-") and len(arg) > 1:
            usage(command, synopsis, f"No such option: {name}")
        else:
            found.arguments.append(arg)
    return found
