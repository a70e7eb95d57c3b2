# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules against a real API server."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from tests.integration import apiserver
from tests.integration.charts import Source, serving

_numbers = itertools.count(1)


@contextmanager
def control_plane(directory: Path) -> Iterator[apiserver.ApiServer]:
    """One that runs in this directory; where its programs are missing, the test is skipped."""
    tools = apiserver.find_tools()
    if tools is None:
        pytest.skip("no kube-apiserver and etcd: build the lab's tools first, or set LAB_TOOLS to their directory")
    with apiserver.running(tools, directory) as server:
        yield server


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apiserver.ApiServer]:
    """One control plane for the whole session; tests keep apart by namespaces."""
    with control_plane(tmp_path_factory.mktemp("api")) as server:
        yield server


@pytest.fixture
def namespace(api: apiserver.ApiServer) -> str:
    """A namespace of the test's own."""
    name = f"test-{next(_numbers)}"
    api.raw("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    return name


@pytest.fixture
def source() -> Iterator[Source]:
    """Where charts come from."""
    with serving() as found:
        yield found


class ModuleResult(dict[str, Any]):
    """What a module handed back, and everything that it printed."""

    output: str = ""


RunModule = Callable[..., ModuleResult]


@pytest.fixture
def run(api: apiserver.ApiServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> RunModule:
    """Run a module in this process against the server; `check=True` and `diff=True` as on the command line."""
    monkeypatch.setenv("K8S_AUTH_KUBECONFIG", str(api.kubeconfig))

    def call(module: ModuleType, *, check: bool = False, diff: bool = False, **arguments: Any) -> ModuleResult:
        loaded = "ansible.utils.display" in sys.modules
        assert not loaded, "a test has loaded Ansible's control side, which takes warnings: it belongs in contract"
        capsys.readouterr()
        internal = {"_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args({**arguments, **internal}), pytest.raises(SystemExit):
            module.main()
        printed = capsys.readouterr()
        result = ModuleResult(json.loads(printed.out.strip().splitlines()[-1]))
        result.output = printed.out + printed.err
        return result

    return call


@pytest.fixture
def upstream() -> Path:
    """Real CRDs and bundles, where the tester has them."""
    import os

    default = Path(__file__).resolve().parents[2] / ".." / "shared" / "upstream"
    directory = Path(os.environ.get("LAB_UPSTREAM") or default)
    if not directory.is_dir():
        pytest.skip("no real CRDs: set LAB_UPSTREAM to a directory that has crds/NAME-VERSION/*.yaml")
    return directory.resolve()
