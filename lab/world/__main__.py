# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m lab.world --state STATE/NAME`: serves charts and manifests, then plays the controllers and pods."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from pathlib import Path

from lab.world.api import Api
from lab.world.controllers import RECONCILERS
from lab.world.engine import Engine


def main() -> None:
    parser = argparse.ArgumentParser(prog="lab.world", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="the lab's state directory")
    parser.add_argument("--no-pods", action="store_true", help="run no real pods and set no addresses")
    parser.add_argument("--registry", default="10.77.255.254:5000", help="where charts are pushed; empty: nowhere")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    state = options.state.resolve()
    api = Api(os.environ.get("KUBECONFIG") or state / "admin.kubeconfig")
    engine = Engine(api, RECONCILERS)
    signal.signal(signal.SIGTERM, lambda *_: engine.stop())
    signal.signal(signal.SIGINT, lambda *_: engine.stop())
    runner = None
    if not options.no_pods:
        from lab.world.addresses import Addresses
        from lab.world.authority import Authority
        from lab.world.runner import Runner

        runner = Runner(api, state, engine.wake)
        engine.after += [Addresses("br0").sync, runner.sync, Authority(state / "pki").sync]
    ready = state / "ready" / "world"
    threading.Thread(target=_publish, args=(options.registry, state, ready), daemon=True).start()
    engine.run()
    if runner:
        runner.close()


def _publish(registry: str, state: Path, ready: Path) -> None:
    from lab.world.publish import publish_all

    publish_all(registry, state)
    ready.parent.mkdir(parents=True, exist_ok=True)
    ready.touch()


if __name__ == "__main__":
    main()
