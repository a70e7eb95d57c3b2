# SPDX-License-Identifier: GPL-3.0-or-later
"""The real Prometheus and promtool of the lab's tools, for tests of alerts and of usage."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration import apiserver


def program(name: str) -> Path:
    """A program of the lab's tools; skips the test where it is not built."""
    tools = apiserver.find_tools()
    if tools is None or not (tools / name).exists():
        pytest.skip(f"no {name}: build the lab's tools first, or set LAB_TOOLS to their directory")
    return tools / name


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_expressions(folder: Path, expressions: list[str]) -> None:
    """Have every expression parsed, as a rule of its own."""
    rules = [{"record": f"test:{number}", "expr": expr} for number, expr in enumerate(expressions)]
    path = folder / "expressions.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "test", "rules": rules}]}))
    promtool("check", "rules", path)


def check_alerts(folder: Path, rules: dict[str, Any], tests: list[dict[str, Any]]) -> None:
    """Have alerts evaluated over series, as `promtool test rules` does."""
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    path = folder / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", path)


@contextmanager
def running(folder: Path, openmetrics: str, port: int, host: str = "127.0.0.1") -> Iterator[str]:
    """A Prometheus that has scraped nothing and holds what is given; its address."""
    data = folder / "data"
    (folder / "series.txt").write_text(openmetrics)
    promtool("tsdb", "create-blocks-from", "openmetrics", folder / "series.txt", data)
    (folder / "prometheus.yml").write_text("global: {}\n")
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=10y",
        f"--web.listen-address={host}:{port}",
        "--log.level=error",
    ]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://{host}:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{address}/-/ready", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (folder / "prometheus.log").read_text()
                assert time.monotonic() < deadline, "Prometheus is not ready after 60 s"
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)
