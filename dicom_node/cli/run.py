"""``dicom-node run``: start the node (`dicom_node.node`), stop it on SIGINT and SIGTERM.

Exit status 3 if a thread of the node has died.
"""

from __future__ import annotations

import logging
import signal
import threading
from typing import Annotated, Any

import typer

from dicom_node.cli.options import DEFAULT_CONFIG, ConfigOption


def run(
    config: ConfigOption = DEFAULT_CONFIG,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every instance and association.")] = False,
) -> None:
    """Run the node until it is told to stop (Ctrl-C, SIGTERM)."""
    from dicom_node import log
    from dicom_node.config.load import load
    from dicom_node.node import Node

    log.configure(level=logging.DEBUG if verbose else logging.INFO)
    stop = threading.Event()
    received: list[int] = []

    def on_signal(number: int, _frame: Any) -> None:
        received.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    node = Node(load(config))
    node.start()
    while not stop.wait(1.0):
        if node.stuck:  # a node that only looks alive must end, so that the service manager restarts it
            log.logger().error("node.stuck", reason=f"the thread {node.stuck} has died", fix="restart the node")
            raise SystemExit(3)
    log.logger().info("node.stopping", signal=signal.Signals(received[0]).name)
    node.stop()
    log.logger().info("node.stopped")
