# SPDX-License-Identifier: GPL-3.0-or-later
"""What a benchmark has found, as its section of docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Row:
    """One piece of work: what it must reach ("" for what is only told), what was measured, and whether that will do."""

    work: str
    must: str
    measured: str
    met: bool = True


@dataclass
class Section:
    title: str
    intro: str
    rows: list[Row] = field(default_factory=list)

    @property
    def missed(self) -> bool:
        return not all(row.met for row in self.rows)

    def text(self) -> str:
        lines = [f"## {self.title}", "", self.intro, "", f"Measured on {machine()}.", ""]
        lines += ["| work | must reach | measured |", "|---|---|---|"]
        lines += [
            f"| {row.work} | {row.must} | {row.measured}{'' if row.met else ' **(missed)**'} |" for row in self.rows
        ]
        return "\n".join(lines) + "\n"


def machine() -> str:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    software = f"Python {platform.python_version()}, ansible-core {version('ansible-core')}"
    return f"{os.cpu_count()} cores and {memory:.0f} GiB ({platform.machine()}, {platform.system()}), {software}"


def write(name: str, section: Section) -> None:
    """Put the section in the place of the last one, or at the end."""
    begin, end = f"<!-- begin: make bench, {name} -->", f"<!-- end: make bench, {name} -->"
    new = f"{begin}\n{section.text()}{end}\n"
    text = DOCUMENT.read_text()
    old = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}\n", re.DOTALL)
    DOCUMENT.write_text(old.sub(lambda _match: new, text) if old.search(text) else f"{text.rstrip()}\n\n{new}")
