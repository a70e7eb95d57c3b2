# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of YAML that launch configurations are written in: block and flow mappings and lists, scalars, `|` and `>`.

Hosts have the standard library only. Anchors, tags, complex keys and several documents are refused, not guessed.
"""

from __future__ import annotations

import json
import re
from typing import Any


class YamlError(ValueError):
    pass


_KEY = re.compile(
    r"""^("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s#&*!|>%@`"'{\[,][^#]*?|[^\s#&*!|>%@`"'{\[,]):(?:\s+(.*))?$"""
)


def _strip_comment(text: str) -> str:
    quote = ""
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'" and (i == 0 or text[i - 1] in " \t[{,:"):
            quote = char
        elif char == "#" and (i == 0 or text[i - 1] in " \t"):
            return text[:i].rstrip()
    return text.rstrip()


def scalar(text: str) -> Any:
    text = text.strip()
    if text[:1] == '"':
        try:
            return json.loads(text)
        except ValueError:
            raise YamlError(f"bad double-quoted string {text}") from None
    if text[:1] == "'":
        if len(text) < 2 or text[-1] != "'":
            raise YamlError(f"bad single-quoted string {text}")
        return text[1:-1].replace("''", "'")
    if text[:1] in "&*!%@`" and text:
        raise YamlError(f"unsupported: {text}")
    low = text.lower()
    if low in ("", "~", "null"):
        return None
    if low in ("true", "false"):
        return low == "true"
    if re.fullmatch(r"[-+]?(0|[1-9]\d*)", text):
        return int(text)
    if re.fullmatch(r"[-+]?\d+\.\d*(e[-+]?\d+)?", low):
        return float(text)
    return text


class _Flow:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def _skip(self) -> str:
        while self.at < len(self.text) and self.text[self.at] in " \t\n":
            self.at += 1
        return self.text[self.at : self.at + 1]

    def value(self) -> Any:
        start = self._skip()
        if start == "[":
            return self._sequence()
        if start == "{":
            return self._mapping()
        return scalar(self._token(",]}"))

    def _token(self, ends: str) -> str:
        begin = self.at
        if self._skip() in ("'", '"'):
            quote = self.text[self.at]
            end = self.at + 1
            while end < len(self.text) and self.text[end] != quote:
                end += 2 if quote == '"' and self.text[end] == "\\" else 1
            if end >= len(self.text):
                raise YamlError("unterminated string")
            token, self.at = self.text[self.at : end + 1], end + 1
            return token
        while self.at < len(self.text) and self.text[self.at] not in ends:
            self.at += 1
        return self.text[begin : self.at]

    def _sequence(self) -> list[Any]:
        self.at += 1
        items: list[Any] = []
        while (char := self._skip()) != "]":
            if not char:
                raise YamlError("unterminated [")
            items.append(self.value())
            if self._skip() == ",":
                self.at += 1
        self.at += 1
        return items

    def _mapping(self) -> dict[str, Any]:
        self.at += 1
        found: dict[str, Any] = {}
        while (char := self._skip()) != "}":
            if not char:
                raise YamlError("unterminated {")
            key = scalar(self._token(":,}"))
            if self._skip() != ":":
                raise YamlError("missing : in {}")
            self.at += 1
            found[key] = None if self._skip() in (",", "}") else self.value()
            if self._skip() == ",":
                self.at += 1
        self.at += 1
        return found


class _Block:
    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.at = 0

    def peek(self) -> tuple[int, str] | None:
        while self.at < len(self.lines):
            raw = self.lines[self.at]
            text = _strip_comment(raw)
            if text.strip() and not (self.at == 0 and text.strip() == "---"):
                if text[: len(text) - len(text.lstrip())].count("\t"):
                    raise YamlError(f"line {self.at + 1}: tab in indentation")
                if text.strip() in ("---", "..."):
                    raise YamlError(f"line {self.at + 1}: more than one document")
                return len(text) - len(text.lstrip(" ")), text.strip()
            self.at += 1
        return None

    def node(self, indent: int) -> Any:
        head = self.peek()
        if head is None or head[0] < indent:
            return None
        if head[1] == "-" or head[1].startswith("- "):
            return self.sequence(head[0])
        if head[1][0] not in "[{" and _KEY.match(head[1]):
            return self.mapping(head[0])
        self.at += 1
        return self.inline(head[1], head[0])

    def inline(self, text: str, indent: int) -> Any:
        if text[:1] in ("|", ">"):
            return self.literal(text, indent)
        if text[:1] in ("[", "{"):
            while True:
                flow = _Flow(text)
                try:
                    value = flow.value()
                except YamlError as error:
                    if not str(error).startswith("unterminated") or self.at >= len(self.lines):
                        raise
                    text += "\n" + _strip_comment(self.lines[self.at])
                    self.at += 1
                    continue
                if text[flow.at :].strip():
                    raise YamlError(f"unexpected text after {text[: flow.at]}")
                return value
        if text[:1] not in ("'", '"') and ": " in text:
            raise YamlError(f"mapping values are not allowed in this context: {text}")
        return scalar(text)

    def literal(self, text: str, indent: int) -> str:
        taken: list[str] = []
        width = 0
        while self.at < len(self.lines):
            raw = self.lines[self.at]
            own = len(raw) - len(raw.lstrip(" "))
            if raw.strip():
                width = width or own
                if own <= indent and own < max(width, 1) or width <= indent:
                    break
            taken.append(raw[width:] if raw.strip() else "")
            self.at += 1
        while taken and not taken[-1]:
            taken.pop()
        joined = ("\n" if text[0] == "|" else " ").join(taken)
        return joined + ("" if text.endswith("-") or not taken else "\n")

    def sequence(self, indent: int) -> list[Any]:
        items: list[Any] = []
        while (head := self.peek()) and head[0] == indent and (head[1] == "-" or head[1].startswith("- ")):
            rest = head[1][1:].strip()
            if not rest:
                self.at += 1
                items.append(self.node(indent + 1))
            elif rest[0] not in "[{\"'" and _KEY.match(rest) or rest.startswith("- "):
                # the dash counts as indentation of what follows it on the line
                raw = self.lines[self.at]
                dash = raw.index("-")
                self.lines[self.at] = raw[:dash] + " " + raw[dash + 1 :]
                items.append(self.node(indent + 1))
            else:
                self.at += 1
                items.append(self.inline(rest, indent))
        self._must_end(indent)
        return items

    def mapping(self, indent: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while (head := self.peek()) and head[0] == indent:
            match = _KEY.match(head[1])
            if not match:
                raise YamlError(f"line {self.at + 1}: could not find expected ':'")
            key, rest = str(scalar(match[1])), (match[2] or "").strip()
            if key in found:
                raise YamlError(f"line {self.at + 1}: key {key!r} already set in map")
            self.at += 1
            if rest:
                found[key] = self.inline(rest, indent)
                continue
            below = self.peek()
            dashes = below is not None and below[0] == indent and (below[1] == "-" or below[1].startswith("- "))
            found[key] = self.sequence(indent) if dashes else self.node(indent + 1)
        self._must_end(indent)
        return found

    def _must_end(self, indent: int) -> None:
        head = self.peek()
        if head is not None and head[0] > indent:
            raise YamlError(f"line {self.at + 1}: wrong indentation")


def load(text: str) -> Any:
    block = _Block(text)
    value = block.node(0)
    if block.peek() is not None:
        raise YamlError(f"line {block.at + 1}: unexpected text")
    return value
