"""The egress process of a project: `python3 -m egress`.

It listens for the gateway (`egress.sock`), for doors (`doors.sock`) and for connections into namespaces
(`ingress.sock`), and denies everything until a policy was pushed. SIGTERM drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from egress.connection.dialer import Dialer
from egress.doors.connectors import Connectors
from egress.doors.ingress import Ingress
from egress.doors.packets import PacketServer
from egress.journal.loglines import LineWriter
from egress.journal.record import Recorder
from egress.net.interfaces import interface_addresses
from egress.net.limits import raise_fd_limit
from egress.net.poller import Pollers
from egress.net.resolver import SystemResolver
from egress.service.control import Control
from egress.service.server import Egress


async def run(control_dir: Path, doors_dir: Path, log: LineWriter) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    recorder = Recorder(epoch=secrets.token_hex(8), seq_file=control_dir / "seq", log=log.write)
    resolver = SystemResolver(loop.time)
    own = interface_addresses()
    pollers = Pollers(loop)
    dialer = Dialer.unconfigured(resolver, pollers)
    async with asyncio.TaskGroup() as tasks:
        egress = Egress(loop, tasks, recorder, dialer, own=own, log_dropped=lambda: log.dropped)
        control = Control(loop, egress)
        dialer.ask_host_port = control.ask_host_port
        dialer.networks = Connectors(egress.doors)
        egress.on_door_state = control.door_state
        await control.listen(control_dir / "egress.sock")
        doors = PacketServer(loop, doors_dir / "doors.sock", egress.doors.on_peer)
        ingress = PacketServer(loop, control_dir / "ingress.sock", Ingress(egress.doors, tasks).on_peer)
        sweep = tasks.create_task(egress.sweep())
        recorder.notice("egress_started", "the egress is up; nothing is allowed until policies come")
        await stop.wait()
        await egress.drain()
        for part in (doors, ingress, control, egress):
            part.close()
        sweep.cancel()
    pollers.close()
    resolver.close()
    recorder.close()


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where it is installed, else on asyncio."""
    factory = None
    if os.environ.get("STOCKADE_LOOP") != "asyncio":
        with contextlib.suppress(ImportError):
            import uvloop

            factory = uvloop.new_event_loop
    # What is loaded now stays; connections come and go by reference counts, so cycles are looked for rarely.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def main() -> int:
    """Run the egress container's process."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    raise_fd_limit()
    log = LineWriter()
    control_dir = Path(os.environ.get("STOCKADE_CONTROL_DIR", "/run/stockade/control"))
    doors_dir = Path(os.environ.get("STOCKADE_DOORS_DIR", "/run/stockade/doors"))
    try:
        run_loop(run(control_dir, doors_dir, log))
    finally:
        log.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
