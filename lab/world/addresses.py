# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the addresses at which Envoy is served on the lab's bridge, and takes them off again."""

from __future__ import annotations

import json
import logging
import subprocess

from lab.world.controllers.microk8s import in_use
from lab.world.store import Store, key_of, labels

log = logging.getLogger("world")


def behind_hosts(store: Store) -> set[str]:
    """Addresses of Envoy's pods that hosts forward to: those of Services with addresses of hosts."""
    return {
        address
        for service in store.all("Service")
        if service["spec"].get("externalIPs") and labels(service).get("app.kubernetes.io/managed-by") == "envoy-gateway"
        for address in store.endpoints(*key_of(service))
    }


class Addresses:
    """Addresses with a /32 on the bridge are the world's; the bridge's own has the network's length."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.held: set[str] | None = None

    def sync(self, store: Store) -> None:
        wanted = in_use(store) | behind_hosts(store)
        if wanted == self.held:
            return
        held = self._read()
        for address in sorted(wanted - held):
            self._ip("add", address)
        for address in sorted(held - wanted):
            self._ip("del", address)
        self.held = wanted

    def _read(self) -> set[str]:
        shown = subprocess.run(
            ["ip", "-j", "-4", "addr", "show", "dev", self.device], check=True, capture_output=True, text=True
        )
        return {
            item["local"]
            for link in json.loads(shown.stdout)
            for item in link.get("addr_info", [])
            if item["prefixlen"] == 32
        }

    def _ip(self, verb: str, address: str) -> None:
        subprocess.run(["ip", "addr", verb, f"{address}/32", "dev", self.device], check=True, capture_output=True)
        log.info("address %s %s %s", verb, address, self.device)
