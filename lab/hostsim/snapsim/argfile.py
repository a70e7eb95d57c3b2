# SPDX-License-Identifier: GPL-3.0-or-later
"""MicroK8s' argument files: one `--flag=value` a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .host import write_file


def flag_of(line: str) -> str:
    return line.strip().partition("=")[0].partition(" ")[0]


def value_of(line: str) -> str:
    """A flag's value without the quotes that the real wrappers strip as well."""
    text = line.strip()
    cut = min((i for i in (text.find("="), text.find(" ")) if i >= 0), default=-1)
    return "" if cut < 0 else text[cut + 1 :].strip().strip("\"'")


def parse(text: str) -> dict[str, str]:
    return {flag_of(x): value_of(x) for x in text.splitlines() if x.strip().startswith("-")}


def read(path: Path) -> dict[str, str]:
    return parse(path.read_text()) if path.exists() else {}


def update(path: Path, changes: Mapping[str, str | None]) -> bool:
    """Set or (None) remove flags and leave every other line as it is; True when the file changed."""
    old = path.read_text() if path.exists() else ""
    todo = dict(changes)
    lines: list[str] = []
    for line in old.splitlines():
        name = flag_of(line)
        if name not in changes:
            lines.append(line)
        elif (value := todo.pop(name, None)) is not None:
            lines.append(f"{name}={value}")
    lines += [f"{name}={value}" for name, value in todo.items() if value is not None]
    new = "\n".join(lines) + "\n"
    if new != old:
        write_file(path, new, 0o660)
    return new != old
