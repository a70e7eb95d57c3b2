# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's world: what third parties' controllers, charts and container images do, in small."""

from __future__ import annotations

from lab.world.faults import FAULTS
from lab.world.kwok import kwok_stages

__all__ = ["FAULTS", "kwok_stages"]
