# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A small schema language whose errors are for the person who wrote the value. Private to the collection.

Unlike an argument spec it never converts a value, never stops at the first mistake and never quotes a secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Path = tuple["str | int", ...]
# Receives (path, reason, remedy).
Report = Callable[[Path, str, str], None]


class Unreadable:
    """Stands for a value that could not be read (and was reported then), so that nobody reports it twice."""

    def __repr__(self) -> str:
        return "UNREADABLE"


UNREADABLE = Unreadable()

_TRUE = {"yes", "on", "true", "y"}
_FALSE = {"no", "off", "false", "n"}


def path_text(path: Path) -> str:
    """``("tokenlabs_models", 1, "args")`` as ``tokenlabs_models[1].args``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_-]+", part):
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


def kind_of(value: Any) -> str:
    """What a value is, in words of YAML; never what it says."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int):
        return "a number"
    if isinstance(value, float):
        return "a number with a fraction"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"a {type(value).__name__}"


def quoted(value: Any, limit: int = 60) -> str:
    text = str(value)
    return f"'{text}'" if len(text) <= limit else f"'{text[:limit]}...'"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy for a name that is not known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"known are {', '.join(names)}" if names else "none is known"


@dataclass(frozen=True)
class Text:
    """A text, optionally of a form."""

    pattern: str | None = None
    form: str = ""
    choices: tuple[str, ...] = ()
    secret: bool = False
    longest: int | None = None
    empty: bool = False

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if not isinstance(value, str):
            remedy = "put it in quotes" if isinstance(value, (bool, int, float)) else "write a text"
            report(path, f"must be a text, is {kind_of(value)}", remedy)
            return False
        if self.choices and value not in self.choices and not re.fullmatch(r"<.*>", value, re.DOTALL):
            reason = "has no such choice" if self.secret else f"cannot be {quoted(value)}"
            by_lower = {choice.lower(): choice for choice in self.choices}
            close = difflib.get_close_matches(value.lower(), by_lower, n=1, cutoff=0.7)
            remedy = f"did you mean {by_lower[close[0]]}?" if close else f"write one of {', '.join(self.choices)}"
            report(path, reason, remedy)
            return False
        if not self.choices and not value.strip() and not self.empty:
            report(path, "is an empty text", f"write {self.form}" if self.form else "fill it in or remove it")
            return False
        if re.fullmatch(r"<.*>", value, re.DOTALL):
            report(path, "is still the placeholder of an example", "fill it in")
            return False
        if self.longest is not None and len(value) > self.longest:
            report(path, f"has {len(value)} characters", f"use at most {self.longest}")
            return False
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            reason = "is not of the right form" if self.secret else f"is {quoted(value)}, not of the right form"
            report(path, reason, f"write {self.form}")
            return False
        return True


@dataclass(frozen=True)
class Number:
    """A whole number within bounds."""

    minimum: int = 1
    maximum: int | None = None

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if isinstance(value, bool) or not isinstance(value, int):
            if isinstance(value, str) and re.fullmatch(r"[0-9]+", value):
                report(path, f"must be a number, is the text '{value}'", f"write {int(value)} without quotes")
            else:
                report(path, f"must be a whole number, is {kind_of(value)}", "write a whole number")
            return False
        if value < self.minimum:
            report(path, f"is {value}", f"write {self.minimum} or more")
            return False
        if self.maximum is not None and value > self.maximum:
            report(path, f"is {value}", f"write {self.maximum} or less")
            return False
        return True


@dataclass(frozen=True)
class Flag:
    """true or false, and not a text that looks like it."""

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if isinstance(value, bool):
            return True
        word = value.strip().lower() if isinstance(value, str) else ""
        if word in _TRUE | _FALSE:
            right = "true" if word in _TRUE else "false"
            report(path, f"must be true or false, is the text '{word}'", f"write {right} without quotes")
        else:
            report(path, f"must be true or false, is {kind_of(value)}", "write true or false")
        return False


@dataclass(frozen=True)
class Items:
    """A list whose elements all have one schema."""

    of: Any
    filled: bool = False
    example: str = "[...]"

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if not isinstance(value, (list, tuple)):
            report(path, f"must be a list, is {kind_of(value)}", f"write {self.example}")
            return False
        if self.filled and not value:
            report(path, "is an empty list", "name at least one or remove it")
            return False
        results = [check(self.of, item, (*path, index), report) for index, item in enumerate(value)]
        return all(results)


@dataclass(frozen=True)
class Record:
    """A mapping with known keys."""

    keys: Mapping[str, Any]
    required: tuple[str, ...] = ()
    what: str = "key"
    hints: Mapping[str, str] = field(default_factory=dict)

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if not isinstance(value, Mapping):
            report(path, f"must be a mapping, is {kind_of(value)}", f"give it the {self.what}s {', '.join(self.keys)}")
            return False
        fine = True
        for key, item in value.items():
            schema = self.keys.get(key) if isinstance(key, str) else None
            if schema is None:
                name = key if isinstance(key, str) else str(key)
                remedy = self.hints.get(name) or did_you_mean(name, self.keys)
                report((*path, name), f"is not a {self.what} that exists", remedy)
                fine = False
            elif item is not None or key in self.required:
                fine = check(schema, item, (*path, key), report) and fine
        for key in self.required:
            if key not in value:
                report((*path, key), "is missing", "add it")
                fine = False
        return fine


@dataclass(frozen=True)
class Table:
    """A mapping with free keys of one form and values of one schema."""

    key: Any
    value: Any
    filled: bool = False
    example: str = "{...}"

    def check(self, value: Any, path: Path, report: Report) -> bool:
        if not isinstance(value, Mapping):
            report(path, f"must be a mapping, is {kind_of(value)}", f"write {self.example}")
            return False
        if self.filled and not value:
            report(path, "is empty", f"write {self.example}")
            return False
        fine = True
        for key, item in value.items():
            name = key if isinstance(key, str) else str(key)
            good_key = check(self.key, key, (*path, name), report)
            fine = check(self.value, item, (*path, name), report) and good_key and fine
        return fine


def check(schema: Any, value: Any, path: Path, report: Report) -> bool:
    """Report everything that is wrong with a value; true when nothing is."""
    if value is UNREADABLE:
        return False
    return bool(schema.check(value, path, report))
