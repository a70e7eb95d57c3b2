# SPDX-License-Identifier: GPL-3.0-or-later
"""When a controller renews the cluster's authority, hosts see the API server with a certificate of the new one."""

from __future__ import annotations

import logging
from pathlib import Path

from lab import pki
from lab.world.store import Store

log = logging.getLogger("world")


class Authority:
    """Follows ConfigMap cluster-authority, which the simulated `microk8s refresh-certs` writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sync(self, store: Store) -> None:
        data = (store.get("ConfigMap", "lab-system", "cluster-authority") or {}).get("data") or {}
        cert, key = data.get("ca.crt", "").encode(), data.get("ca.key", "").encode()
        if cert and cert != (self.folder / pki.CLUSTER_CA).read_bytes():
            pki.adopt(self.folder, cert, key)
            log.info("the cluster has another authority")
