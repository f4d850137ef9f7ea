"""An embedded front: `python -m latticework.runtime.link.front_worker`, the private runtime of one client process.

The same front and engine as `latticework serve`, on one ipc socket, without HTTP.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from latticework.lang.errors import InvalidArgument
from latticework.runtime.link.child import Lifeline
from latticework.runtime.link.front_server import FrontServer
from latticework.runtime.link.settings import FrontSettings
from latticework.runtime.link.sockets import RuntimeFolder
from latticework.runtime.programs.front import Front


async def serve(settings: FrontSettings, lifeline: Lifeline) -> None:
    """Runs until the process ends: the client closes our stdin, or a signal comes."""
    address = settings.server.ipc
    if address is None:
        raise InvalidArgument("an embedded front needs an ipc address", field="ipc")
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    folder = RuntimeFolder(Path(settings.folder))
    lifeline.before_exit(folder.remove)
    front = await Front.start(settings.engine, settings.server, lifeline.loading, folder)
    server = FrontServer(front, address, settings.server.max_open)
    server.start()
    lifeline.ready()
    await stopped.wait()
    await server.close()
    await front.close()


def main() -> None:
    lifeline = Lifeline()
    settings = lifeline.settings(FrontSettings)
    try:
        asyncio.run(serve(settings, lifeline))
    except Exception as error:
        lifeline.failed(error)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
