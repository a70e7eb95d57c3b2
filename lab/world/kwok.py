# SPDX-License-Identifier: GPL-3.0-or-later
"""KWOK's own pod stages, changed so that they leave alone what the world's kubelet has not let start."""

from __future__ import annotations

import copy

from lab.world.controllers.kubelet import STARTABLE
from lab.world.images import jq_played
from lab.world.store import Json

_SANDBOX = f'[.status.conditions[]? | select(.type == "{STARTABLE}") | .status] | first'


def kwok_stages(stages: list[Json]) -> list[Json]:
    """Stages for pods that KWOK may play: it waits for the kubelet's word, and takes no real program's pod."""
    changed = []
    for stage in copy.deepcopy(stages):
        if stage["spec"]["resourceRef"]["kind"] == "Pod":
            rules = stage["spec"]["selector"].setdefault("matchExpressions", [])
            rules.append({"jq": {"key": jq_played(), "operator": "In", "values": ["true"]}})
            for name, word in (("pod-ready", "True"), ("pod-delete", "False")):
                if stage["metadata"]["name"] == name:
                    rules.append({"jq": {"key": _SANDBOX, "operator": "In", "values": [word]}})
        changed.append(stage)
    return changed
