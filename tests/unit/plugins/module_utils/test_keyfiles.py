# SPDX-License-Identifier: GPL-3.0-or-later
"""Key files: only for their owner, whole or not at all, never overwritten."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils import _keyfiles
from ansible_collections.tokenlabs.platform.plugins.module_utils._keyfiles import (
    CURRENT,
    SHAPE,
    KeyFileError,
    KeyFiles,
    new_key,
)


@pytest.fixture
def files(tmp_path: Path) -> KeyFiles:
    made = KeyFiles(tmp_path / "deep" / "keys")
    made.make()
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_keys_are_long_and_all_different() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(SHAPE.fullmatch(key) and len(key) == len("tlabs_sk_") + 43 for key in keys)


def test_a_key_comes_back_as_it_was_written(files: KeyFiles) -> None:
    key = new_key()
    old = os.umask(0)
    try:
        path = files.write("acme", key)
    finally:
        os.umask(old)
    assert path.read_text() == key and mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert files.read("acme") == key
    assert files.stems() == {"acme"}
    assert files.not_fetched() == {"acme": str(path)}
    # Nothing else has been left lying about.
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".pending", "acme.key"]


def test_a_file_is_made_once(files: KeyFiles) -> None:
    first = new_key()
    files.write("acme", first)
    with pytest.raises(KeyFileError, match="has appeared in the meantime"):
        files.write("acme", new_key())
    assert files.read("acme") == first
    assert sorted(entry.name for entry in files.path("acme").parent.iterdir()) == [".pending", "acme.key"]


def test_a_write_that_breaks_off_leaves_no_file(files: KeyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_keyfiles.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write("acme", new_key())
    assert files.stems() == set() and files.not_fetched() == {}


def test_many_files_at_once(files: KeyFiles) -> None:
    taken = new_key()
    files.write("t7", taken)
    keys = {f"t{number}": new_key() for number in range(_keyfiles.BULK + 5)}
    errors = files.write_all({(name, CURRENT): key for name, key in keys.items()}, keys)
    assert [*errors] == ["t7"] and "has appeared" in str(errors["t7"])
    assert {tenant: files.read(tenant) for tenant in keys} == {**keys, "t7": taken}
    assert {mode(files.path(tenant)) for tenant in keys} == {0o600}
    assert set(files.not_fetched()) == set(keys)


@pytest.mark.parametrize("number", [1, _keyfiles.BULK + 1])
def test_without_a_disk_to_rely_on_no_file_stays(files: KeyFiles, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    class Broken:
        @staticmethod
        def syncfs(_descriptor: int) -> int:
            return -1

    def broken(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(_keyfiles.os, "fsync", broken)
    monkeypatch.setattr(_keyfiles, "_LIBC", Broken)
    with pytest.raises(OSError):
        files.write_all({(f"t{each}", CURRENT): new_key() for each in range(number)})
    assert files.stems() == set() and files.not_fetched() == {}


def test_descriptors_are_not_leaked(files: KeyFiles) -> None:
    before = len(os.listdir("/proc/self/fd"))
    files.write_all({(f"t{number}", CURRENT): new_key() for number in range(_keyfiles.BULK + 5)})
    files.write("one", new_key())
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_killed_before_it_wrote_leaves_no_key(files: KeyFiles) -> None:
    files.path("acme").touch(mode=0o600)
    assert files.read("acme") is None
    key = new_key()
    files.write("acme", key)
    assert files.read("acme") == key


def test_a_link_is_not_followed_when_writing(files: KeyFiles, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("theirs")
    files.path("acme").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="has appeared"):
        files.write("acme", new_key())
    assert (tmp_path / "elsewhere").read_text() == "theirs"


def test_removal_takes_the_mark_along(files: KeyFiles) -> None:
    files.write("acme", new_key())
    assert files.remove("acme") is True
    assert files.remove("acme") is False
    assert files.not_fetched() == {} and files.read("acme") is None


def test_a_fetched_file_is_not_offered_again(files: KeyFiles) -> None:
    path = files.write("acme", new_key())
    for mark in (path.parent / ".pending").iterdir():
        mark.unlink()
    (path.parent / ".pending").rmdir()
    assert files.not_fetched() == {} and files.stems() == {"acme"}


def test_a_trailing_newline_is_no_part_of_the_key(files: KeyFiles) -> None:
    key = new_key()
    path = files.write("acme", key)
    path.write_text(key + "\n")
    assert files.read("acme") == key


@pytest.mark.parametrize("content", ["\n x", "tlabs_sk_short", "tlabs_sk_" + "x" * 43 + " y", "\xff", "sk_" + "x" * 20])
def test_what_is_no_key(files: KeyFiles, content: str) -> None:
    files.write("acme", new_key()).write_text(content)
    with pytest.raises(KeyFileError, match="acme.key holds no key"):
        files.read("acme")


def test_files_that_cannot_be_trusted(files: KeyFiles, tmp_path: Path) -> None:
    path = files.write("acme", new_key())
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match=r"open to other users \(mode 0640\)"):
        files.read("acme")
    files.path("link").symlink_to(path)
    with pytest.raises(KeyFileError, match="link.key"):
        files.read("link")
    os.mkfifo(files.path("pipe"), 0o600)
    with pytest.raises(KeyFileError, match="no file of this user"):
        files.read("pipe")


def test_directories_that_cannot_be_trusted(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    assert KeyFiles(directory).check() is False
    assert KeyFiles(directory).stems() == set()
    directory.mkdir(mode=0o700)
    assert KeyFiles(directory).check() is True
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(KeyFileError, match="must be a directory"):
        KeyFiles(tmp_path / "link").make()
    directory.chmod(0o750)
    with pytest.raises(KeyFileError, match=r"open to other users \(mode 0750\)"):
        KeyFiles(directory).make()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, 12345)
    with pytest.raises(KeyFileError, match="belongs to another user"):
        KeyFiles(directory).make()
