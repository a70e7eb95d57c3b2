# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operator's folder for new keys. Private to the collection."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path


class HandoverError(Exception):
    """Keys that could not be handed over."""


class Folder:
    """A folder with a file for each key, in the clear or encrypted with age for a recipient."""

    def __init__(self, directory: Path, recipient: str | None = None):
        self._directory = directory
        self._recipient = recipient
        self._age: str | None = None

    def path(self, name: str) -> Path:
        return self._directory / f"{name}.key{'.age' if self._recipient else ''}"

    def check(self) -> None:
        """Find out whether keys can be encrypted for the recipient."""
        if self._recipient:
            self._age = shutil.which("age")
            if self._age is None:
                raise HandoverError("age is not installed on the machine that runs Ansible: install it (package age)")
            self._encrypt(b"")

    def make(self) -> None:
        """Make the folder if need be, and close it to others."""
        with contextlib.suppress(FileExistsError):
            self._directory.mkdir(mode=0o700, parents=True)
        found = self._directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise HandoverError(f"{self._directory} is no directory of this user")
        if found.st_mode & 0o077:
            self._directory.chmod(0o700)

    def write(self, keys: Mapping[str, str]) -> dict[str, Path]:
        """Write all files, each whole or not at all; they are on the disk when this returns."""
        written = {}
        for name, key in keys.items():
            target = self.path(name)
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._encrypt(key.encode()) if self._recipient else key.encode())
            partial.replace(target)
            written[name] = target
        os.sync()
        return written

    def _encrypt(self, text: bytes) -> bytes:
        # A recipient is public; the key comes in by the pipe.
        command = [str(self._age), "--armor", "--recipient", str(self._recipient)]
        done = subprocess.run(command, input=text, capture_output=True, check=False, timeout=60)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()[:1]
            raise HandoverError(f"age cannot encrypt for this recipient: {' '.join(reason)}")
        return done.stdout
