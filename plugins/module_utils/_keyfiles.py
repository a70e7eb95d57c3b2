# Copyright (c) TokenLabs platform developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory of API keys, for nobody but its owner.

This module util is private to the collection: it may change in any way at any time.

A key is on disk before it is in the cluster, and for as long as it is there: what a crash can leave behind is a file
with a key that does not work (yet, or any more), never a key that works and that nobody knows. Of one key of a tenant,
whose stem is C(TENANT) or C(TENANT.KEY), there can be:

- C(STEM.key): the key that counts. Given back to the tenant when its Secret is lost.
- C(STEM.key.next): its successor, until the cluster has it.
- C(STEM.key.FINGERPRINT.old): keys on their way out. Never given back.

A file that counts is marked until the operator has fetched it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

PREFIX = "tlabs_sk_"
# What a key may be that was not made here: nothing that an HTTP header or a file could change.
SHAPE = re.compile(r"[A-Za-z0-9._~+/=-]{24,256}")
PLACEHOLDER = re.compile(r"change[-_]?me", re.IGNORECASE)
STEM = re.compile(r"(?P<tenant>[a-z0-9][-a-z0-9]{0,62})(?:\.(?P<key>[a-z0-9][-a-z0-9]{0,31}))?")
FILE = re.compile(rf"(?P<stem>{STEM.pattern})\.key(?P<slot>|\.next|\.(?P<digits>[0-9a-f]{{8}})\.old)")
CURRENT, NEXT = ".key", ".key.next"
MARKS = ".pending"
# From so many files on, waiting for the disk once is cheaper than waiting for each file.
BULK = 16
_LIBC = ctypes.CDLL(None, use_errno=True)


class KeyFileError(Exception):
    """A key file, or the directory of all of them, that cannot be trusted."""


def new_key() -> str:
    """A key with 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digits(key: str) -> str:
    """Enough of a hash to tell keys apart, of a key too long to be guessed."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def stem(tenant: str, key: str) -> str:
    return tenant if key == "default" else f"{tenant}.{key}"


@dataclass(frozen=True)
class Stored:
    """What is on disk of one key of a tenant."""

    key: str | None = field(default=None, repr=False)
    successor: str | None = field(default=None, repr=False)
    old: frozenset[str] = frozenset()
    trouble: str = ""
    # When the file that counts was written.
    written: datetime | None = None


NOTHING = Stored()


def read_key(path: str | Path) -> str | None:
    """The key in a file; None without a file, or with one that a killed process did not get to fill."""
    return _read_key(str(path))[0]


def _read_key(path: str) -> tuple[str | None, float]:
    """The same, and when the file was written."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None, 0.0
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise KeyFileError(f"{path} is no file of this user")
        if found.st_mode & 0o077:
            raise KeyFileError(f"{path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o})")
        text = os.read(descriptor, 1024).decode("ascii", "replace").strip("\r\n")
    finally:
        os.close(descriptor)
    if not text:
        return None, 0.0
    if not SHAPE.fullmatch(text):
        raise KeyFileError(f"{path} holds no key")
    return text, found.st_mtime


class KeyFiles:
    """The key files in one directory."""

    def __init__(self, directory: str | Path):
        self._directory = Path(directory)
        self._marks = self._directory / MARKS

    def path(self, stem: str, slot: str = CURRENT) -> Path:
        return self._directory / f"{stem}{slot}"

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

    @contextlib.contextmanager
    def locked(self, patience: float = 120.0) -> Iterator[None]:
        """Keep other runs out. The lock is the kernel's: it ends with the process, however that ends."""
        self.make()
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            deadline = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise KeyFileError(
                            f"another run has been at work on {self._directory} for {patience:.0f} seconds: "
                            "wait until it has ended, then run this again"
                        ) from None
                time.sleep(0.2)
            yield
        finally:
            os.close(descriptor)

    # --- What is there ---------------------------------------------------------------------------------------------

    def stems(self) -> set[str]:
        """Which keys there are files of."""
        return {match["stem"] for name in self._names(self._directory) if (match := FILE.fullmatch(name))}

    def read_all(self, tenant: str | None = None) -> dict[str, Stored]:
        """What is on disk, of everybody or of one tenant, by stem."""
        found: dict[str, Stored] = {}
        directory = str(self._directory)
        for name in self._names(self._directory):
            match = FILE.fullmatch(name)
            if not match or tenant not in (None, match["tenant"]):
                continue
            whose = match["stem"]
            stored = found.get(whose, NOTHING)
            if match["digits"]:
                found[whose] = replace(stored, old=stored.old | {match["digits"]})
                continue
            try:
                key, written = _read_key(f"{directory}/{name}")
            except KeyFileError as error:
                found[whose] = replace(stored, trouble=str(error))
                continue
            # An empty one, which a killed process did not get to fill, is there too: to be filled, or removed.
            if key is None:
                found[whose] = stored
            elif match["slot"]:
                found[whose] = replace(stored, successor=key)
            else:
                when = datetime.fromtimestamp(written, UTC)
                found[whose] = Stored(key, stored.successor, stored.old, stored.trouble, when)
        return found

    def read(self, stem: str) -> str | None:
        """The key that counts."""
        return read_key(self.path(stem))

    def not_fetched(self) -> dict[str, str]:
        """The files that the operator has not fetched yet, by stem."""
        paths = ((name, f"{self._directory}/{name}{CURRENT}") for name in sorted(self._names(self._marks)))
        return {name: path for name, path in paths if os.path.isfile(path)}

    @staticmethod
    def _names(directory: Path) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
            for entry in entries:
                yield entry.name

    # --- Making files ----------------------------------------------------------------------------------------------

    def write(self, stem: str, key: str, slot: str = CURRENT, mark: bool = True) -> Path:
        """Make a file; an error when there is one already. It is on the disk when this returns."""
        for error in self.write_all({(stem, slot): key}, {stem} if mark else ()).values():
            raise error
        return self.path(stem, slot)

    def write_all(
        self, keys: Mapping[tuple[str, str], str], marked: Iterable[str] = ()
    ) -> dict[str, KeyFileError | OSError]:
        """Make many files, all on the disk when this returns; the errors of those that could not be made, by stem."""
        errors: dict[str, KeyFileError | OSError] = {}
        to_mark = set(marked)
        with contextlib.ExitStack() as opened:
            descriptors: dict[tuple[str, str], int] = {}
            for (name, slot), key in keys.items():
                try:
                    if name in to_mark and slot == CURRENT:
                        self.mark(name)
                    if slot == NEXT:
                        # One that is there has been overtaken.
                        self._shelve(self.path(name, slot), name)
                    descriptor = self._write(f"{self._directory}/{name}{slot}", key)
                except (KeyFileError, OSError) as error:
                    errors[name] = error
                    continue
                if len(keys) > BULK:
                    os.close(descriptor)
                else:
                    opened.callback(os.close, descriptor)
                descriptors[name, slot] = descriptor
            try:
                bulk = len(keys) > BULK
                self.sync([] if bulk else descriptors.values(), everything=bulk)
            except OSError:
                for name, slot in descriptors:
                    with contextlib.suppress(OSError):
                        self.remove(name, slot)
                raise
        return errors

    def _write(self, path: str, key: str) -> int:
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

    def _open_new(self, path: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            return os.open(path, flags, 0o600)
        except FileExistsError:
            # Empty is what a process leaves that is killed right after this call.
            if os.lstat(path).st_size:
                raise
            os.unlink(path)
            return os.open(path, flags, 0o600)

    def sync(self, descriptors: Iterable[int] = (), everything: bool = False) -> None:
        """Wait for the disk: for these files and what files there are, or for all of the file system."""
        for descriptor in descriptors:
            os.fsync(descriptor)
        for path in (self._directory,) if everything else (self._directory, self._marks):
            with contextlib.suppress(FileNotFoundError):
                directory = os.open(path, os.O_RDONLY)
                try:
                    if not everything:
                        os.fsync(directory)
                    elif _LIBC.syncfs(directory):
                        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                finally:
                    os.close(directory)

    # --- Moving and removing them ----------------------------------------------------------------------------------

    def promote(self, stem: str, mark: bool = True) -> None:
        """The cluster has the successor: let it count, and keep its predecessor for as long as that one lives."""
        if self.path(stem, NEXT).exists():
            if mark:
                # First, so that it is fetched even if this is as far as it gets.
                self.mark(stem)
            self._shelve(self.path(stem), stem)
            os.rename(self.path(stem, NEXT), self.path(stem))

    def shelve(self, stem: str) -> None:
        """The key is to go: whatever happens from now on, no file gives it back."""
        self._unmark(stem)
        for slot in (CURRENT, NEXT):
            self._shelve(self.path(stem, slot), stem)

    def _shelve(self, path: Path, stem: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            # A file that holds no key is shelved all the same: nothing must be left that counts.
            try:
                key = read_key(path)
            except KeyFileError:
                key = ""
            if key is None:
                # Empty: what a killed process did not get to fill.
                os.unlink(path)
            else:
                os.rename(path, self.path(stem, f".key.{digits(key)}.old"))

    def forget(self, stem: str, old: Iterable[str] | None = None) -> None:
        """Remove shelved keys, by their fingerprints' digits, or all."""
        if old is None:
            old = self.read_all(stem.partition(".")[0]).get(stem, NOTHING).old
        for each in old:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(stem, f".key.{each}.old"))

    def remove(self, stem: str, slot: str = CURRENT) -> bool:
        """Take a file away whose key was never sent; whether there was one."""
        if slot == CURRENT:
            self._unmark(stem)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(stem, slot))
            return True
        return False

    def fetched(self, fingerprints: Mapping[str, str]) -> None:
        """Take away the marks of files that have been fetched, unless they hold another key by now."""
        for name, wanted in fingerprints.items():
            with contextlib.suppress(KeyFileError):
                key = self.read(name)
                if key is not None and digits(key) == wanted:
                    self._unmark(name)

    def mark(self, stem: str) -> None:
        path, flags = f"{self._marks}/{stem}", os.O_WRONLY | os.O_CREAT
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._marks, 0o700)
            descriptor = os.open(path, flags, 0o600)
        os.close(descriptor)

    def _unmark(self, stem: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._marks / stem)
