# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that the collection renders, against what upstream really accepts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.tokenlabs.platform.plugins.module_utils._releases import RELEASES

from tests.contract import crds
from tests.integration import apiserver


@pytest.fixture(scope="session")
def upstream() -> Path:
    directory = crds.upstream()
    if directory is None:
        pytest.skip("no real definitions and charts: set LAB_UPSTREAM to a directory with crds/ and charts/")
    return directory


@pytest.fixture(scope="session")
def definition_files(upstream: Path) -> list[Path]:
    return crds.definition_files(upstream, dict(RELEASES["2026.07"].versions))


@pytest.fixture(scope="session")
def definitions(definition_files: list[Path]) -> crds.Definitions:
    return crds.Definitions(definition_files)


@pytest.fixture(scope="session")
def helm() -> str:
    """The helm that the lab built, or one on the PATH."""
    tools = apiserver.find_tools()
    for candidate in (str(tools / "helm") if tools else None, shutil.which("helm")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    pytest.skip("no helm: build the lab's tools first, or set LAB_TOOLS to their directory")


@pytest.fixture(scope="module")
def server(definition_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[apiserver.ApiServer]:
    """A real API server with the real definitions."""
    tools = apiserver.find_tools()
    if tools is None:
        pytest.skip("no kube-apiserver and etcd: build the lab's tools first, or set LAB_TOOLS to their directory")
    with apiserver.running(tools, tmp_path_factory.mktemp("contract")) as running:
        for namespace in ("token-labs", "kuadrant-system"):
            running.raw("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        for file in definition_files:
            for body in crds.documents(file):
                name = body["metadata"]["name"]
                path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
                content = "application/apply-patch+yaml"
                running.raw("PATCH", f"{path}?fieldManager=test&force=true", body, content)
        yield running
