# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory of API keys, one file per tenant, for nobody but its owner.

This module util is private to the collection: it may change in any way at any time.

A key is on disk before it is in the cluster: what a crash can leave behind is a file with a key that does not work yet,
never a key that works and that nobody knows. A new file is marked until the operator has fetched it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PREFIX = "tlabs_sk_"
SHAPE = re.compile(PREFIX + r"[A-Za-z0-9_-]{32,128}")
SUFFIX = ".key"
MARKS = ".pending"
# From so many files on, waiting for the disk once is cheaper than waiting for each file.
BULK = 16
_LIBC = ctypes.CDLL(None, use_errno=True)


class KeyFileError(Exception):
    """A key file, or the directory of all of them, that cannot be trusted."""


def new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


class KeyFiles:
    """The key files in one directory."""

    def __init__(self, directory: str | Path):
        self._directory = Path(directory)
        self._marks = self._directory / MARKS

    def path(self, tenant: str) -> Path:
        return self._directory / f"{tenant}{SUFFIX}"

    def check(self) -> bool:
        """Whether the directory is there; an error when others than its owner could get at the keys."""
        try:
            found = os.lstat(self._directory)
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(found.st_mode):
            raise KeyFileError(f"{self._directory} must be a directory (no link to one)")
        if found.st_uid != os.geteuid():
            raise KeyFileError(f"{self._directory} belongs to another user")
        if found.st_mode & 0o077:
            raise KeyFileError(f"{self._directory} is open to other users (mode {stat.S_IMODE(found.st_mode):04o})")
        return True

    def make(self) -> None:
        """Make the directory if need be."""
        if self.check():
            return
        self._directory.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._directory, 0o700)
        self.check()

    def tenants(self) -> set[str]:
        """Whom there are key files of."""
        return {name.removesuffix(SUFFIX) for name in self._names(self._directory) if name.endswith(SUFFIX)}

    def read(self, tenant: str) -> str | None:
        """The key in a tenant's file; None without a file, or with one that a killed process did not get to fill."""
        path = self.path(tenant)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise KeyFileError(f"{path}: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise KeyFileError(f"{path} is no file of this user")
            if found.st_mode & 0o077:
                raise KeyFileError(f"{path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o})")
            text = file.read(1024).decode("ascii", "replace").strip("\r\n")
        if not text:
            return None
        if not SHAPE.fullmatch(text):
            raise KeyFileError(f"{path} holds no key")
        return text

    def write(self, tenant: str, key: str) -> Path:
        """Make a tenant's file; an error when there is one already. It is on the disk when this returns."""
        for error in self.write_all({tenant: key}).values():
            raise error
        return self.path(tenant)

    def write_all(self, keys: Mapping[str, str]) -> dict[str, KeyFileError | OSError]:
        """Make many tenants' files, all on the disk when this returns; the errors of those that could not be made."""
        errors: dict[str, KeyFileError | OSError] = {}
        with contextlib.ExitStack() as opened:
            descriptors: dict[str, int] = {}
            for tenant, key in keys.items():
                try:
                    descriptor = self._write(tenant, key)
                except (KeyFileError, OSError) as error:
                    errors[tenant] = error
                    continue
                if len(keys) > BULK:
                    os.close(descriptor)
                else:
                    opened.callback(os.close, descriptor)
                descriptors[tenant] = descriptor
            try:
                self._to_disk([] if len(keys) > BULK else list(descriptors.values()))
            except OSError:
                for tenant in descriptors:
                    with contextlib.suppress(OSError):
                        self.remove(tenant)
                raise
        return errors

    def _write(self, tenant: str, key: str) -> int:
        path = self.path(tenant)
        self._mark(tenant)
        try:
            descriptor = self._open_new(path)
        except FileExistsError as error:
            raise KeyFileError(f"{path} has appeared in the meantime") from error
        try:
            os.write(descriptor, key.encode())
        except OSError:
            os.close(descriptor)
            os.unlink(path)
            raise
        return descriptor

    def _to_disk(self, descriptors: Sequence[int]) -> None:
        """Wait for the disk: file by file, or without files for all of the file system at once."""
        for descriptor in descriptors:
            os.fsync(descriptor)
        self._fsync_directory(everything=not descriptors)

    def _fsync_directory(self, everything: bool = False) -> None:
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            if not everything:
                os.fsync(directory)
            elif _LIBC.syncfs(directory):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(directory)

    def _open_new(self, path: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            return os.open(path, flags, 0o600)
        except FileExistsError:
            # Empty is what a process leaves that is killed right after this call.
            if os.lstat(path).st_size:
                raise
            os.unlink(path)
            return os.open(path, flags, 0o600)

    def remove(self, tenant: str) -> bool:
        """Take a tenant's file away; whether there was one."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._marks / tenant)
        try:
            os.unlink(self.path(tenant))
        except FileNotFoundError:
            return False
        # A key that was taken away must not come back with the power.
        self._fsync_directory()
        return True

    def not_fetched(self) -> dict[str, str]:
        """The files that the operator has not fetched yet, by tenant."""
        there = self.tenants()
        return {name: str(self.path(name)) for name in sorted(self._names(self._marks)) if name in there}

    def _mark(self, tenant: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT
        try:
            descriptor = os.open(self._marks / tenant, flags, 0o600)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._marks, 0o700)
            descriptor = os.open(self._marks / tenant, flags, 0o600)
        os.close(descriptor)

    @staticmethod
    def _names(directory: Path) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
            for entry in entries:
                yield entry.name
