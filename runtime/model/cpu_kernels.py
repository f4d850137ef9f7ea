"""Which operations a CPU engine computes with: those built in C++ on this machine, or torch's.

Decided once, when an engine starts, and kept: within a process, numbers do not change.
"""

from __future__ import annotations

import logging
from pathlib import Path

from latticework.kernels.cpu import build
from latticework.kernels.cpu.library import Library
from latticework.lang.errors import Unsupported
from latticework.runtime.config import cache_folder

log = logging.getLogger(__name__)

BUILD_NOW = "`latticework kernels build` builds them now"


def kernels_folder() -> Path:
    return cache_folder() / "kernels"


def load_kernels(mode: str) -> Library | None:
    """The built operations; None: torch's.

    mode: see EngineConfig.cpu_kernels. "auto" never waits for a compiler: where nothing is built, a process of low
    priority starts building for the next engine, and the reason for torch's is logged. Raises Unsupported for "on"
    where they cannot be built or loaded.
    """
    if mode == "off":
        return None
    try:
        path = build.build(kernels_folder()) if mode == "on" else _find_or_begin(kernels_folder())
        return None if path is None else Library(path)
    except (build.BuildFailed, OSError) as error:
        if mode == "on":
            raise Unsupported(
                f"the CPU kernels cannot be used: {error}", hint="cpu_kernels='off' computes with torch's operations"
            ) from None
        log.warning("computing with torch's operations, the CPU kernels cannot be used: %s", error)
        return None


def _find_or_begin(folder: Path) -> Path | None:
    path = build.find(folder)
    if path is None:
        build.build_in_background(folder)
        log.warning(
            "computing with torch's operations until the next start: CPU kernels are being built; %s", BUILD_NOW
        )
    return path


def build_now() -> Path:
    """Where the library is, which is built if need be. Raises Unsupported, with what the compiler said."""
    try:
        return build.build(kernels_folder())
    except build.BuildFailed as error:
        raise Unsupported(f"the CPU kernels cannot be built: {error}") from None
