"""Serves one front over HTTP and over its link, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator

import uvicorn

from latticework.lang.errors import AddressInUse, InvalidArgument, LatticeworkError, Unsupported
from latticework.runtime.link.front_server import FrontServer
from latticework.runtime.programs.front import Front
from latticework.runtime.server.app import OpenPlaces, create_app
from latticework.runtime.tenants import ApiKeys

BACKLOG = 1024
SHUTDOWN_SECONDS = 3  # open streams may finish this long after everything was told to stop


def check_host(host: str) -> None:
    """Raises Unsupported for an address that other machines can reach."""
    if host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise InvalidArgument(f"host is {host!r}; expected an IP address or localhost", field="host") from None
    if not loopback:
        raise Unsupported(
            f"host is {host}, which other machines can reach; this version serves loopback addresses only",
            field="host",
            hint="serve on 127.0.0.1 behind a proxy that authenticates",
        )


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet, so that a taken port is known before a model loads."""
    check_host(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small pieces at once (TCP_NODELAY) only where the protocol is named: else the first event of a
    # stream waits until its client has acknowledged the headers, 40 ms
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise _refused(host, port, error) from None
    return bound


def _refused(host: str, port: int, error: OSError) -> LatticeworkError:
    message = f"port {port} of {host} cannot be served: {os.strerror(error.errno or 0)}"
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(message, field="port", hint="--port 0 picks a free one")
    return InvalidArgument(message, field="host" if error.errno == errno.EADDRNOTAVAIL else "port")


def url_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve_http(
    front: Front,
    bound: socket.socket,
    places: OpenPlaces,
    stopped: asyncio.Event,
    ready: Callable[[], None],
    keys: ApiKeys | None = None,
    link: FrontServer | None = None,
) -> None:
    """Answers requests on `bound` until `stopped`, then lets open ones end for SHUTDOWN_SECONDS.

    places: for the generations; closing it refuses new ones. ready: called once connections are accepted.
    keys: who may ask; default: everybody. link: serves whole programs over HTTP, too.
    """
    config = uvicorn.Config(
        create_app(front, places, keys, link),
        log_level="warning",
        access_log=False,
        lifespan="off",
        backlog=BACKLOG,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[bound]))
    stopping = asyncio.ensure_future(stopped.wait())
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if not serving.done():
            ready()
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.should_exit = True
        if link is not None:
            link.dismiss_guests()  # their answers have no other end
        stopping.cancel()
        try:
            await serving
        except OSError as error:  # another process bound the port too, and listened first
            host, port = bound.getsockname()[:2]
            raise _refused(host, port, error) from None


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: whoever runs the loop decides what a signal does."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
