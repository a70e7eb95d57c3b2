# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Windows and limits of a tier, as Kuadrant and Envoy Gateway understand them. Private to the collection."""

from __future__ import annotations

import re

# Kuadrant's CRDs accept exactly this (no `d`).
WINDOW = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")
_PART = re.compile(r"([0-9]{1,5})(ms|h|m|s)")
_MILLISECONDS = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}

# Envoy Gateway counts in whole calendar-free units and knows no other window.
ENVOY_UNITS = {1: "Second", 60: "Minute", 3600: "Hour", 86400: "Day"}

# Envoy Gateway's rate limits are unsigned 32-bit numbers; Limitador's are larger.
MAXIMUM = 4294967295


class WindowError(ValueError):
    """A window that no policy can hold; the first argument is the reason, the second what to write instead."""

    @property
    def reason(self) -> str:
        return str(self.args[0])

    @property
    def remedy(self) -> str:
        return str(self.args[1])


def window_seconds(window: str) -> int:
    """The length of a window such as ``1m`` or ``1h30m`` in seconds."""
    days = re.fullmatch(r"([0-9]{1,3})d", window)
    if days:
        raise WindowError("counts in days, a unit that the policies do not have", f"write {int(days[1]) * 24}h")
    if not WINDOW.fullmatch(window):
        raise WindowError(
            "is not a window",
            "write whole numbers with the units h, m, s, such as 1m, 24h or 1h30m",
        )
    milliseconds = sum(int(number) * _MILLISECONDS[unit] for number, unit in _PART.findall(window))
    if milliseconds % 1000 or milliseconds == 0:
        raise WindowError("is not a whole number of seconds, which Limitador would cut to 0", "write 1s or more")
    return milliseconds // 1000


def envoy_unit(window: str) -> str:
    """The unit of Envoy Gateway that a window equals."""
    seconds = window_seconds(window)
    if seconds not in ENVOY_UNITS:
        raise WindowError(
            "is not one second, one minute, one hour or one day, the only windows Envoy Gateway can count tokens in",
            "use 1s, 1m, 1h or 24h, or set tokenlabs_token_limits to kuadrant",
        )
    return ENVOY_UNITS[seconds]
