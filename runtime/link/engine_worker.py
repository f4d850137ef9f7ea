"""The engine process: one `Engine` behind one ROUTER socket, run as `python -m latticework.runtime.link.engine_worker`.

Any number of fronts may connect; each is an owner whose requests and leases go when it goes silent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import msgspec
import zmq

from latticework.runtime.engine import Engine
from latticework.runtime.garbage import Garbage
from latticework.runtime.link.child import Lifeline
from latticework.runtime.link.messages import (
    HEARTBEAT_SECONDS,
    SILENCE_SECONDS,
    BadFrame,
    Cancel,
    Decoder,
    Define,
    EngineReady,
    EngineStats,
    FlushCache,
    Release,
    Submit,
    ToEngine,
    TokenEvents,
    UnknownKey,
    encode,
)
from latticework.runtime.link.settings import EngineSettings
from latticework.runtime.link.sockets import bind, configure
from latticework.runtime.schedule.sequence import Owner

FRAMES_PER_STEP = 1000  # about, so that a flood of messages never keeps the model waiting


class EngineServer:
    """Moves messages between the socket and the engine. Owns the socket.

    between: called between steps, and told whether nobody waits for the next one.
    """

    def __init__(self, engine: Engine, address: str, between: Callable[[bool], None] = lambda is_idle: None) -> None:
        self.engine = engine
        self.fronts: dict[bytes, float] = {}  # when each was heard last
        self.bad_frames = 0
        self._decoder = Decoder(ToEngine)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        configure(self._socket)
        bind(self._socket, address)
        self._next_heartbeat = 0.0
        self._between = between

    def serve_forever(self) -> None:
        while True:
            self.turn()

    def turn(self) -> None:
        """Reads what has arrived, runs one step, sends what came of it."""
        busy = self.engine.has_work()
        self._between(not busy)
        if self._socket.poll(0 if busy else int(HEARTBEAT_SECONDS * 1000)):
            with self.engine.profile.part("link"):
                self._receive()
        self._keep_alive(time.monotonic())
        if self.engine.has_work():
            told = self.engine.step()
            with self.engine.profile.part("link"):
                for owner, events in told.items():
                    self._send(owner, TokenEvents(tuple(events)))

    def _receive(self) -> None:
        now, received = time.monotonic(), 0
        while received < FRAMES_PER_STEP:
            try:
                owner, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            received += max(1, len(frames))
            if owner not in self.fronts:  # new, or given up before: either way it starts from nothing
                self._send(owner, self._greeting())
            self.fronts[owner] = now
            for frame in frames:
                try:
                    message = self._decoder.decode(frame)
                except BadFrame:
                    self.bad_frames += 1
                    continue
                self._act(owner, message)
                if owner not in self.fronts:
                    break  # it does not listen: what is left is nobody's

    def _act(self, owner: bytes, message: object) -> None:
        match message:
            case Submit(request):
                missing = self.engine.submit(owner, request)
                if missing is not None:
                    self._send(owner, UnknownKey(missing, request.id))
            case Define(key, rules):  # a graph that cannot be used fails the requests that name it, later
                self.engine.define(owner, key, rules)
            case Release(leases):
                self.engine.release(owner, leases)
            case Cancel(request_id):
                self.engine.cancel(owner, request_id)
            case FlushCache():
                self.engine.flush_cache()

    def _greeting(self) -> EngineReady:
        return EngineReady(self.engine.context, self.engine.kv_tokens, self.engine.dtype)

    def _keep_alive(self, now: float) -> None:
        if now < self._next_heartbeat:
            return
        self._next_heartbeat = now + HEARTBEAT_SECONDS
        stats = msgspec.structs.replace(self.engine.stats(), bad_frames=self.bad_frames)
        for owner, last_seen in list(self.fronts.items()):
            if now - last_seen > SILENCE_SECONDS:
                self._drop(owner)
            else:
                self._send(owner, stats)

    def _drop(self, owner: Owner) -> None:
        self.fronts.pop(cast(bytes, owner), None)
        self.engine.drop(owner)

    def _send(self, owner: Owner, message: TokenEvents | UnknownKey | EngineReady | EngineStats) -> None:
        try:
            self._socket.send_multipart([cast(bytes, owner), encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError:  # the peer is gone, or further behind than its queue is long
            self._drop(owner)

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def main() -> None:
    lifeline = Lifeline()
    settings = lifeline.settings(EngineSettings)
    try:
        engine = Engine.load(settings.config, progress=lifeline.loading)
        garbage = Garbage(lambda: engine.automata.dropped_bytes)
        server = EngineServer(engine, settings.address, garbage.collect)
    except Exception as error:
        lifeline.failed(error)
        raise SystemExit(1) from error
    lifeline.ready()
    server.serve_forever()


if __name__ == "__main__":
    main()
