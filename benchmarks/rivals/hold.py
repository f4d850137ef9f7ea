"""Runs a command while one rival is up: `{url}` in it becomes the rival's base URL, with its /v1.

    python -m benchmarks.rivals.hold vllm -- python -m benchmarks.programs --base-url {url} --json programs.json

The rival is pinned and ended as in the comparison; the exit status is the command's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from benchmarks.rivals.places import LOGS
from benchmarks.rivals.process import Launch, PeerError, end_with_us, free_port, served
from benchmarks.rivals.servers import OFFLINE, SERVERS, ServerPeer

URL = "{url}"


def hold(peer: ServerPeer, command: list[str]) -> int:
    """The command's exit status. Raises PeerError if the rival does not come up."""
    peer.check_built()
    cores, port = sorted(os.sched_getaffinity(0)), free_port()
    environment = {**OFFLINE, **peer.environment(cores)}
    log = LOGS / f"{peer.name}-held.log"
    with served(Launch(peer.command(port, cores), environment, cores, log, peer.ready_seconds), port) as base_url:
        return subprocess.run([part.replace(URL, base_url) for part in command]).returncode


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.rivals.hold", description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=SERVERS)
    parser.add_argument("command", nargs="+", help=f"behind --, with {URL} where the base URL belongs")
    options = parser.parse_args(arguments)
    end_with_us()
    try:
        sys.exit(hold(SERVERS[options.peer](), options.command))
    except PeerError as error:
        sys.exit(f"{options.peer}: {error}\n{error.tail}")


if __name__ == "__main__":
    main()
