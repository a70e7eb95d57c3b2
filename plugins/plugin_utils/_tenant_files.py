# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads tenants from files: YAML, CSV and JSON Lines. Private to the collection.

What the tenants in a file are worth is judged with those of the inventory; here it is only found out what is written.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible_collections.tokenlabs.platform.plugins.module_utils._inventory import Problem, TenantFile
from ansible_collections.tokenlabs.platform.plugins.module_utils._schema import did_you_mean, quoted
from ansible_collections.tokenlabs.platform.plugins.module_utils._tenant_list import TENANT

METADATA = "metadata."
COLUMNS = (*(name for name in TENANT.keys if name != "metadata"), f"{METADATA}NAME")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What was read, and on which line each tenant begins.
_Content = tuple[list[Any], list[int]]


class _Unreadable(Exception):
    """Why a file, or a line of it, is not what it should be: line, reason, remedy."""

    def __init__(self, line: int | None, reason: str, remedy: str):
        super().__init__(reason)
        self.line, self.reason, self.remedy = line, reason, remedy


def read_tenants(path: Path, name: str, read: Callable[[str], str]) -> tuple[TenantFile, list[Problem]]:
    """The tenants in a file, and what could not be read; `name` is what people know the file by."""
    reader = _READERS.get(path.suffix.lower())
    try:
        if reader is None:
            raise _Unreadable(None, "is no file of tenants", f"give it one of the endings {', '.join(_READERS)}")
        try:
            text = str(read(str(path))).removeprefix("\ufeff")
        except (AnsibleError, OSError, UnicodeError) as error:
            reason = "is encrypted, and could not be decrypted" if "ault" in str(error) else "cannot be read"
            remedy = "create it as text in UTF-8, or correct its name"
            raise _Unreadable(None, reason, remedy) from error
        problems: list[_Unreadable] = []
        entries, lines = reader(text, problems)
    except _Unreadable as error:
        entries, lines, problems = [], [], [error]
    found = [Problem(f"{name}:{each.line}" if each.line else name, "", each.reason, each.remedy) for each in problems]
    return TenantFile(name, entries, lines), found


def _read_yaml(text: str, problems: list[_Unreadable]) -> _Content:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.SequenceNode):
            raise _Unreadable(1, "holds no list of tenants", "begin every tenant with a dash")
        lines = [item.start_mark.line + 1 for item in node.value]
        for item in node.value:
            names = [key.value for key, _value in item.value] if isinstance(item, yaml.MappingNode) else []
            for key in {str(name) for name in names if names.count(name) > 1}:
                problems.append(_Unreadable(item.start_mark.line + 1, f"has {key} twice", "remove one"))
        return loader.construct_document(node), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or "it has no form"
        raise _Unreadable(mark.line + 1 if mark else None, f"is not YAML: {what}", "correct it") from None
    except ValueError as error:
        raise _Unreadable(None, f"is not YAML: {error}", "put what only looks like a date in quotes") from None
    finally:
        loader.dispose()


def _read_jsonl(text: str, problems: list[_Unreadable]) -> _Content:
    entries: list[Any] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entries.append(json.loads(line))
            lines.append(number)
        except ValueError as error:
            what = str(error).partition(":")[0]
            problems.append(_Unreadable(number, f"is not JSON: {what}", "write one object on a line"))
    return entries, lines


def _read_csv(text: str, problems: list[_Unreadable]) -> _Content:
    rows = csv.reader(io.StringIO(text), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        _check_header(header)
        entries: list[Any] = []
        lines: list[int] = []
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) > len(header):
                what = f"has {len(row)} fields, the first line names {len(header)}"
                problems.append(_Unreadable(rows.line_num, what, "put a text that has a comma in double quotes"))
                continue
            entries.append(_from_cells(dict(zip(header, row, strict=False))))
            lines.append(rows.line_num)
    except csv.Error as error:
        raise _Unreadable(rows.line_num, f"is not CSV: {error}", "correct it") from None
    return entries, lines


def _check_header(header: list[str]) -> None:
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise _Unreadable(1, "has other separators than commas", "save it with commas between the fields")
    for name in header:
        if name not in COLUMNS and not (name.startswith(METADATA) and name != METADATA):
            raise _Unreadable(1, f"has a column {quoted(name)}, which does not exist", did_you_mean(name, COLUMNS))
        if header.count(name) > 1:
            raise _Unreadable(1, f"has two columns {name}", "remove one")
    if "name" not in header:
        raise _Unreadable(1, "has no column name", f"begin with a line such as {','.join(COLUMNS[:3])}")


def _from_cells(cells: dict[str, str]) -> dict[str, Any]:
    """Empty cells say nothing; several names of keys are parted by spaces."""
    given = {name: cell.strip() for name, cell in cells.items() if cell.strip()}
    entry: dict[str, Any] = {name: cell for name, cell in given.items() if not name.startswith(METADATA)}
    if "keys" in entry:
        entry["keys"] = [{"name": name} for name in entry["keys"].split()]
    metadata = {name.removeprefix(METADATA): cell for name, cell in given.items() if name.startswith(METADATA)}
    return {**entry, "metadata": metadata} if metadata else entry


_READERS: dict[str, Callable[[str, list[_Unreadable]], _Content]] = {
    ".yml": _read_yaml,
    ".yaml": _read_yaml,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
}
