"""What a parent tells a child process of ours on stdin."""

from __future__ import annotations

import msgspec

from latticework.runtime.config import EngineConfig, ServerConfig


class EngineSettings(msgspec.Struct, frozen=True):
    """For an engine: its config and the address it binds."""

    config: EngineConfig
    address: str


class FrontSettings(msgspec.Struct, frozen=True):
    """For an embedded front: `server.ipc` is the address it binds; `folder` goes when its parent goes."""

    engine: EngineConfig
    server: ServerConfig
    folder: str
