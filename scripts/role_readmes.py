# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the table of variables into the READMEs of roles that ask for it, from their argument specs.

python scripts/role_readmes.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[1] / "roles"
BEGIN, END = "<!-- variables: from meta/argument_specs.yml -->", "<!-- end of variables -->"


def sentence(text: str | list[str]) -> str:
    first = text if isinstance(text, str) else " ".join(text)
    return " ".join(first.split()).replace("|", "\\|")


def default(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "required"
    return f"`{option['default']}`" if option.get("default") not in (None, "") else ""


def table(role: Path) -> str:
    entries = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    lines = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    seen: set[str] = set()
    for entry in entries.values():
        for name, option in (entry.get("options") or {}).items():
            if name not in seen:
                seen.add(name)
                meaning = sentence(option["description"])
                lines.append(f"| `{name}` | {option.get('type', 'str')} | {default(option)} | {meaning} |")
    return "\n".join(lines)


def filled(role: Path) -> str | None:
    """The README with a fresh table, or None when it has no place for one."""
    text = (role / "README.md").read_text()
    if BEGIN not in text:
        return None
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table(role)}\n\n{END}{rest.partition(END)[2]}"


def main(check: bool) -> int:
    stale = []
    for role in sorted(ROLES.iterdir()):
        text = filled(role)
        if text is not None and text != (role / "README.md").read_text():
            stale.append(role.name)
            if not check:
                (role / "README.md").write_text(text)
    print(("stale: " if check else "written: ") + (", ".join(stale) or "none"))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
