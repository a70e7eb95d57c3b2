# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts' kube-proxy: who is met at an address of a host."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from lab.hostsim.snapsim.kube import Kube
from lab.hostsim.snapsim.proxy import ServiceProxy
from tests.lab.hostsim_harness import FakeApi, eventually

NET = f"127.79.{os.getpid() % 250 + 1}"
HOST, POD, PORT = f"{NET}.2", f"{NET}.9", 18080


class Client:
    """The fake API without the way to it."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api

    def call(self, method: str, path: str) -> Any:
        return self.api.handle(method, path.partition("?")[0], {})[1]


@pytest.fixture
def pod() -> Iterator[str]:
    """A pod that says hello."""
    with socket.create_server((POD, 10080)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.sendall(b"hello " + client.recv(100))

        threading.Thread(target=serve, daemon=True).start()
        yield POD
        server.shutdown(socket.SHUT_RDWR)


def cluster(policy: str = "Cluster", *pods: str) -> FakeApi:
    api = FakeApi()
    spec = {
        "externalIPs": [HOST, "192.0.2.1"],
        "externalTrafficPolicy": policy,
        "ports": [{"name": "http-80", "port": PORT}],
    }
    api.put("api/v1", "services", "default", "kubernetes", {"spec": {"ports": [{"port": 443}]}})
    api.put("api/v1", "services", "eg", "envoy", {"spec": spec})
    body = {
        "ports": [{"name": "http-80", "port": 10080}],
        "endpoints": [{"addresses": [each], "nodeName": "spark-01", "conditions": {"ready": True}} for each in pods],
    }
    api.put("apis/discovery.k8s.io/v1", "endpointslices", "eg", "envoy-x", body)
    return api


def ask() -> str:
    try:
        with socket.create_connection((HOST, PORT), 5) as sock:
            sock.sendall(b"you")
            sock.shutdown(socket.SHUT_WR)
            return sock.recv(100).decode()
    except ConnectionRefusedError:
        return "refused"


def test_a_host_hands_on_what_comes_for_its_address(pod: str) -> None:
    proxy = ServiceProxy("controller")
    proxy.follow(cast(Kube, Client(cluster("Cluster", pod))))
    assert ask() == "hello you"
    proxy.follow(cast(Kube, Client(cluster("Cluster"))))
    eventually(lambda: ask() == "refused")


def test_local_traffic_finds_local_pods_only(pod: str) -> None:
    elsewhere, there = ServiceProxy("controller"), ServiceProxy("spark-01")
    elsewhere.follow(cast(Kube, Client(cluster("Local", pod))))
    assert ask() == "refused"
    there.follow(cast(Kube, Client(cluster("Local", pod))))
    assert ask() == "hello you"
