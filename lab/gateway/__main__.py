# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the data plane: ``python -m lab.gateway --state STATE/NAME``.

The API server is found by --kubeconfig, else $KUBECONFIG, else admin.kubeconfig in the state directory.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from .kubeapi import Api, Mirror, Watch, load_kubeconfig
from .model import Config
from .objects import CONFIG_MAP, ENVOY_GATEWAY_CONFIG, KINDS, SECRET, Name, Store
from .plane import Plane
from .server import Listeners, Proxy
from .translate import describe, translate

log = logging.getLogger("lab.gateway")

_SETTLE = 0.05
# Helm keeps its releases in Secrets: large, many, and nobody's credentials.
_NO_HELM = "type!=helm.sh/release.v1"


class Controller:
    """Turns changes in the store into configuration."""

    def __init__(self, store: Store, mirror: Mirror, plane: Plane, listeners: Listeners) -> None:
        self._store, self._mirror, self._plane, self._listeners = store, mirror, plane, listeners
        self._changed = asyncio.Event()
        self._changed.set()
        self._said = ""
        store.on_change.append(self._note)
        store.on_secret.append(plane.rings.event)

    def _note(self, kind: str, name: Name) -> None:
        # Tenants' keys go to the key rings directly: thousands of them need no new configuration.
        if kind != "Secret" or name in self._plane.config.secrets:
            self._changed.set()

    def watches(self, config: Config) -> set[Watch]:
        found = {Watch(kind) for kind in KINDS}
        found.add(Watch(CONFIG_MAP, *ENVOY_GATEWAY_CONFIG))
        namespace = config.kuadrant.authorino_namespace
        if namespace:
            found.add(Watch(SECRET, namespace, fields=_NO_HELM))
        return found | {Watch(SECRET, *name) for name in config.secrets if name[0] != namespace}

    async def run(self) -> None:
        self._mirror.want(self.watches(Config()))
        while True:
            await self._changed.wait()
            await asyncio.sleep(_SETTLE)
            self._changed.clear()
            if not await self.step():
                self._changed.set()

    async def step(self) -> bool:
        """Take the present state over; False when something that it depends on has not been read yet."""
        if not self._mirror.ready:
            return False
        config = translate(self._store.snapshot())
        self._mirror.want(self.watches(config))
        if not self._mirror.ready:
            return False
        await self._plane.apply(config, lambda: self._store.kinds.get("Secret", {}).values())
        await self._listeners.reconcile()
        if (said := describe(config)) != self._said:
            self._said = said
            log.info("%s", said)
        return True


async def serve(kubeconfig: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not kubeconfig.exists() and not stop.is_set():
        await asyncio.sleep(0.2)
    if stop.is_set():
        return
    store, plane = Store(), Plane()
    proxy = Proxy(plane)
    listeners = Listeners(proxy)
    async with Api(load_kubeconfig(kubeconfig)) as api:
        mirror = Mirror(api, store)
        await proxy.start()
        tasks = [
            asyncio.create_task(mirror.discover(), name="discovery"),
            asyncio.create_task(Controller(store, mirror, plane, listeners).run(), name="controller"),
            asyncio.create_task(stop.wait(), name="stop"),
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await mirror.close()
        await listeners.close()
        await proxy.close()
        await plane.close()
        for task in done:
            if task.get_name() != "stop":
                task.result()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.gateway", description=__doc__)
    parser.add_argument("--state", type=Path, help="the lab's state directory")
    parser.add_argument("--kubeconfig", type=Path, help="a kubeconfig file")
    parser.add_argument("--verbose", action="store_true", help="log what the watches do")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    kubeconfig = arguments.kubeconfig
    if kubeconfig is None and os.environ.get("KUBECONFIG"):
        kubeconfig = Path(os.environ["KUBECONFIG"])
    if kubeconfig is None and arguments.state:
        kubeconfig = arguments.state / "admin.kubeconfig"
    if kubeconfig is None:
        parser.error("one of --kubeconfig, $KUBECONFIG and --state is needed")
    asyncio.run(serve(kubeconfig))
    return 0


if __name__ == "__main__":
    sys.exit(main())
