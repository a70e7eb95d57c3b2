# SPDX-License-Identifier: GPL-3.0-or-later
"""The file mirror, over HTTP."""

from __future__ import annotations

import hashlib
import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.mirror import Content, Mirror
from lab.wheels import project_of

WHEEL = "Some_Package-1.2.3-py3-none-any.whl"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[tuple[str, int]]:
    (tmp_path / "secret").write_text("outside")
    for directory in ("own/example.com/a", "common/example.com/a", "wheels"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "common/example.com/a/tool-v1+x.tgz").write_bytes(b"common tool")
    (tmp_path / "common/example.com/a/both").write_bytes(b"common")
    (tmp_path / "own/example.com/a/both").write_bytes(b"own")
    (tmp_path / "wheels" / WHEEL).write_bytes(b"wheel")
    server = Mirror(("127.0.0.1", 0), Content((tmp_path / "own", tmp_path / "common"), tmp_path / "wheels"))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_address[0], server.server_address[1]  # type: ignore[misc]
    server.shutdown()
    server.server_close()


def get(address: tuple[str, int], path: str, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(*address, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_a_download_by_host_and_path(address: tuple[str, int]) -> None:
    assert get(address, "/downloads/example.com/a/tool-v1+x.tgz")[:2] == (200, b"common tool")
    assert get(address, "/downloads/example.com/a/tool-v1%2Bx.tgz")[:2] == (200, b"common tool")


def test_head_tells_the_length_and_nothing_else(address: tuple[str, int]) -> None:
    status, body, headers = get(address, "/downloads/example.com/a/tool-v1+x.tgz", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "11")


def test_the_labs_own_file_comes_first(address: tuple[str, int]) -> None:
    assert get(address, "/downloads/example.com/a/both")[1] == b"own"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/downloads",
        "/downloads/example.com/a",
        "/downloads/example.com/none",
        "/downloads/../secret",
        "/downloads/example.com/../../../secret",
        "/downloads/%2e%2e/secret",
        "/wheels/..%2fsecret",
        "/simple/none/",
        "/simple/some-package/more/",
        "/downloads/a%00b",
    ],
)
def test_what_is_not_there_is_404(address: tuple[str, int], path: str) -> None:
    status, body, _ = get(address, path)
    assert (status, body) == (404, b"not found\n")


@pytest.mark.parametrize("name", ["some-package", "Some_Package", "some.package"])
def test_the_index_finds_a_project_under_any_spelling(address: tuple[str, int], name: str) -> None:
    status, body, headers = get(address, f"/simple/{name}/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    link = f'<a href="/wheels/{WHEEL}#sha256={hashlib.sha256(b"wheel").hexdigest()}">{WHEEL}</a>'
    assert link.encode() in body
    assert get(address, f"/wheels/{WHEEL}")[:2] == (200, b"wheel")


def test_the_index_lists_all_projects(address: tuple[str, int]) -> None:
    assert b'<a href="/simple/some-package/">some-package</a>' in get(address, "/simple/")[1]


@pytest.mark.parametrize(
    ("name", "project"),
    [
        (WHEEL, "some-package"),
        ("PyYAML-6.0-cp311-cp311-manylinux2014_x86_64.whl", "pyyaml"),
        ("aiohttp_retry-2.9.1.tar.gz", "aiohttp-retry"),
        ("checksums.json", None),
    ],
)
def test_project_of_a_file(name: str, project: str | None) -> None:
    assert project_of(name) == project
