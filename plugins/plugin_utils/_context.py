# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The folder that an image is built from, as one number that changes with anything in it. Private."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIGITS = 12
# What a build does not look at, or what looking at it leaves behind.
IGNORED = {".git", "__pycache__", ".DS_Store"}


def digest(folder: Path, settings: Mapping[str, Any]) -> str:
    """Of every file's name, mode and content, and of what else the build is told; raises OSError."""
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - IGNORED)
        for name in sorted(set(files) - IGNORED):
            file = Path(root) / name
            # A link is what it points to, as text: it may lead out of the folder.
            content = os.readlink(file).encode() if file.is_symlink() else file.read_bytes()
            mode = "x" if os.access(file, os.X_OK) else "-"
            for part in (file.relative_to(folder).as_posix().encode(), mode.encode(), content):
                total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()[:DIGITS]
