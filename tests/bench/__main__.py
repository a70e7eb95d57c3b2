# SPDX-License-Identifier: GPL-3.0-or-later
"""Run benchmarks and write their sections of docs/benchmarks.md; fails when something is slower than it must be."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path

from tests import bench
from tests.bench import report


def names() -> list[str]:
    modules = [each.name for each in pkgutil.iter_modules(bench.__path__)]
    return sorted(name for name in modules if hasattr(importlib.import_module(f"tests.bench.{name}"), "run"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which, of {', '.join(names())} (default: all)")
    parser.add_argument(
        "--small", action="store_true", help="a twentieth of the size, to try it out; nothing is written"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(names())
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    missed = False
    for name in arguments.names or names():
        with tempfile.TemporaryDirectory(prefix="tokenlabs-bench-") as directory:
            section = importlib.import_module(f"tests.bench.{name}").run(
                Path(directory), 0.05 if arguments.small else 1.0
            )
        print(section.text())
        if not arguments.small:
            report.write(name, section)
            missed |= section.missed
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
