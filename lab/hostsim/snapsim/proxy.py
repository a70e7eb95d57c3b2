# SPDX-License-Identifier: GPL-3.0-or-later
"""kube-proxy, as far as the world outside meets it: Services that have addresses of hosts.

The real one writes rules that send the packets on, and reject them when there is no pod; here a socket takes the
connection and another one calls the pod, for as long as there is one.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import sys
import threading
from collections.abc import Mapping
from typing import Any

from .kube import Kube

Socket = tuple[str, int]
Backends = tuple[tuple[str, int], ...]
SLICES = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices?labelSelector=kubernetes.io/service-name%3D{}"


def backends(service: Mapping[str, Any], slices: list[Mapping[str, Any]], node: str) -> dict[int, Backends]:
    """The pods behind each of a Service's ports, as this node may use them."""
    spec, found = service["spec"], {}
    local = spec.get("externalTrafficPolicy") == "Local"
    for port in spec.get("ports") or []:
        if port.get("protocol", "TCP") != "TCP":
            continue
        found[port["port"]] = tuple(
            (address, target["port"])
            for part in slices
            for target in part.get("ports") or []
            if (target.get("name") or "") == (port.get("name") or "")
            for endpoint in part.get("endpoints") or []
            if (endpoint.get("conditions") or {}).get("ready", True) and (not local or endpoint.get("nodeName") == node)
            for address in endpoint.get("addresses") or []
        )
    return found


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _carry(client: socket.socket, targets: Backends) -> None:
    with client, contextlib.suppress(OSError, IndexError), socket.create_connection(random.choice(targets), 5) as pod:
        pod.settimeout(None)
        back = threading.Thread(target=_pump, args=(pod, client), daemon=True)
        back.start()
        _pump(client, pod)
        back.join()


class ServiceProxy:
    """Holds one socket for each port at which a Service with pods is met on an address of this host."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.targets: dict[Socket, Backends] = {}
        self._listeners: dict[Socket, socket.socket] = {}

    def follow(self, client: Kube) -> None:
        wanted: dict[Socket, Backends] = {}
        for service in (client.call("GET", "/api/v1/services") or {}).get("items") or []:
            if addresses := service.get("spec", {}).get("externalIPs"):
                meta = service["metadata"]
                slices = client.call("GET", SLICES.format(meta["namespace"], meta["name"]))["items"]
                for port, pods in backends(service, slices, self.node).items():
                    wanted.update({(address, port): pods for address in addresses if pods})
        self.targets = wanted
        for place in set(self._listeners) - set(wanted):
            held = self._listeners.pop(place)
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
            held.close()
        for place in set(wanted) - set(self._listeners):
            self._open(place)

    def _open(self, place: Socket) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
            listener.listen(128)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRNOTAVAIL:  # another host's
                print(f"kube-proxy: {place}: {error}", file=sys.stderr, flush=True)
            return
        self._listeners[place] = listener
        threading.Thread(target=self._serve, args=(place, listener), daemon=True).start()

    def _serve(self, place: Socket, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=_carry, args=(client, self.targets.get(place, ())), daemon=True).start()
