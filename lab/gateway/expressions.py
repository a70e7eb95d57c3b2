# SPDX-License-Identifier: GPL-3.0-or-later
"""CEL expressions as the policies use them, evaluated by cel-rust (the library the real wasm filter embeds)."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus


class ExpressionError(Exception):
    """The expression cannot be parsed, or cannot be evaluated in this context."""


def _load_cel() -> Any:
    # The package's __init__ pulls in a command line with a terminal toolkit (30 MiB); the extension is enough.
    package = importlib.util.find_spec("cel")
    if package is None:
        raise ImportError("the Python package common-expression-language is missing")
    spec = importlib.machinery.PathFinder.find_spec("cel.cel", package.submodule_search_locations)
    if spec is None or spec.loader is None:
        raise ImportError("the extension module of common-expression-language is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_cel = _load_cel()


def query_map(query: str, first_only: bool = False) -> dict[str, Any]:
    """The pairs of a query string; a repeated key gives a list, unless only first values are wanted."""
    found: dict[str, Any] = {}
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        key, value = unquote_plus(key), unquote_plus(value)
        if key not in found:
            found[key] = value
        elif not first_only:
            previous = found[key]
            found[key] = [*previous, value] if isinstance(previous, list) else [previous, value]
    return found


def _index_of(text: str, part: str, start: int = 0) -> int:
    return text.find(part, start)


def _last_index_of(text: str, part: str, start: int = 0) -> int:
    return text.rfind(part, start)


def _char_at(text: str, index: int) -> str:
    if not 0 <= index < len(text):
        raise ValueError(f"no index {index}")
    return text[index]


def _substring(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else end
    if stop < start:
        raise ValueError("the end is before the start")
    return text[start:stop]


def _split(text: str, separator: str, limit: int | None = None) -> list[str]:
    if separator == "":
        return list(text)
    return text.split(separator) if limit is None else text.split(separator, max(limit - 1, 0))


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    return text.replace(old, new, count)


def _ascii(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: "".join(change(c) if c.isascii() else c for c in text)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "charAt": _char_at,
    "indexOf": _index_of,
    "lastIndexOf": _last_index_of,
    "join": lambda items, separator="": separator.join(items),
    "lowerAscii": _ascii(str.lower),
    "upperAscii": _ascii(str.upper),
    "trim": str.strip,
    "replace": _replace,
    "split": _split,
    "substring": _substring,
    "queryMap": query_map,
}


class Scope:
    """The variables of one request, converted once and shared by every expression that looks at them."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self.variables = dict(variables)
        self._context = _cel.Context(variables=self.variables, functions=FUNCTIONS)

    def extended(self, **more: Any) -> Scope:
        return Scope({**self.variables, **more})

    @property
    def context(self) -> Any:
        return self._context


class Expression:
    """One parsed expression."""

    def __init__(self, source: str) -> None:
        self.source = source
        try:
            self._program = _cel.compile(source)
        except Exception as error:
            raise ExpressionError(f"{source!r}: {error}") from error

    def evaluate(self, scope: Scope) -> Any:
        try:
            return self._program.execute(scope.context)
        except Exception as error:
            raise ExpressionError(f"{self.source!r}: {type(error).__name__}: {error}") from error

    def holds(self, scope: Scope) -> bool:
        """True only for the boolean true: another type is an error, as it is in the policy engines."""
        value = self.evaluate(scope)
        if not isinstance(value, bool):
            raise ExpressionError(f"{self.source!r}: gives {type(value).__name__}, not a boolean")
        return value


@lru_cache(maxsize=4096)
def parse(source: str) -> Expression:
    return Expression(source)


def text_of(value: Any) -> str:
    """A value as a header or a counter variable shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def select(path: str, variables: Mapping[str, Any]) -> Any:
    """Authorino's older JSON selectors: dotted names, dots inside a name escaped; what is missing is empty."""
    names, current = [], ""
    escaped = False
    for character in path:
        if escaped:
            current, escaped = current + character, False
        elif character == "\\":
            escaped = True
        elif character == ".":
            names.append(current)
            current = ""
        else:
            current += character
    value: Any = variables
    for name in [*names, current]:
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            return ""
    return value
