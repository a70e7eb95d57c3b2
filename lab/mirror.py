# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's file mirror: release files under /downloads/HOST/PATH and a package index under /simple/.

It stands for the mirror of a site without Internet. Two directories are looked at for downloads: what the lab's
world has put there for this lab (``STATE/downloads``), then what was built for all labs.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import mimetypes
import shutil
import signal
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from lab.paths import MIRROR_PORT, OUTSIDE, Lab
from lab.wheels import normalize, project_of


@dataclass(frozen=True)
class Content:
    """What the mirror serves; plain lookups, no HTTP."""

    downloads: tuple[Path, ...]
    wheels: Path | None

    def file(self, path: str) -> Path | None:
        """The file behind a URL path, if there is one."""
        parts = [part for part in unquote(path).split("/") if part]
        if not parts or any(part in (".", "..") or "\0" in part for part in parts):
            return None
        if parts[0] == "downloads" and len(parts) > 1:
            candidates: Iterable[Path] = (root.joinpath(*parts[1:]) for root in self.downloads)
        elif parts[0] == "wheels" and len(parts) == 2 and self.wheels:
            candidates = (self.wheels / parts[1],)
        else:
            return None
        return next((path for path in candidates if path.is_file()), None)

    def projects(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in sorted(self.wheels.iterdir()) if self.wheels and self.wheels.is_dir() else []:
            project = project_of(path.name)
            if project:
                found.setdefault(project, []).append(path)
        return found

    def index(self, path: str) -> str | None:
        """The index page behind /simple/ or /simple/PROJECT/, if there is one."""
        parts = [part for part in unquote(path).split("/") if part]
        if not parts or parts[0] != "simple" or len(parts) > 2:
            return None
        projects = self.projects()
        if len(parts) == 1:
            return page("Packages", ((f"/simple/{name}/", name) for name in projects))
        files = projects.get(normalize(parts[1]))
        if files is None:
            return None
        links = ((f"/wheels/{quote(file.name)}#sha256={sha256(file)}", file.name) for file in files)
        return page(parts[1], links)


def sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def page(title: str, links: Iterable[tuple[str, str]]) -> str:
    rows = "\n".join(f'<a href="{html.escape(url)}">{html.escape(text)}</a><br>' for url, text in links)
    return f"<!DOCTYPE html>\n<html><head><title>{html.escape(title)}</title></head><body>\n{rows}\n</body></html>\n"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Mirror

    def do_GET(self) -> None:
        self.reply(body=True)

    def do_HEAD(self) -> None:
        self.reply(body=False)

    def reply(self, body: bool) -> None:
        path = urlsplit(self.path).path
        text = self.server.content.index(path)
        if text is not None:
            self.start(HTTPStatus.OK, "text/html; charset=utf-8", len(text.encode()))
            if body:
                self.wfile.write(text.encode())
            return
        file = self.server.content.file(path)
        if file is None:
            self.start(HTTPStatus.NOT_FOUND, "text/plain", 10)
            if body:
                self.wfile.write(b"not found\n")
            return
        with open(file, "rb") as stream:
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            self.start(HTTPStatus.OK, kind, file.stat().st_size)
            if body:
                shutil.copyfileobj(stream, self.wfile, 2**20)

    def start(self, status: HTTPStatus, kind: str, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        sys.stdout.write(f"{self.log_date_time_string()} {self.client_address[0]} {format % args}\n")


class Mirror(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], content: Content) -> None:
        self.content = content
        super().__init__(address, Handler)


def main() -> int:
    parser = argparse.ArgumentParser(prog="lab.mirror")
    parser.add_argument("--state", type=Path, required=True)
    lab = Lab.load(parser.parse_args().state)
    content = Content((lab.state / "downloads", Path(lab.downloads)), Path(lab.wheels) if lab.wheels else None)
    server = Mirror((OUTSIDE, MIRROR_PORT), content)

    def stop(*_: object) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
