"""What tests share: a cache folder of the session's own, and runtimes and a server that are started once."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from latticework.kernels.cpu import build
from latticework.lang.backends.runtime import Runtime

if TYPE_CHECKING:
    from latticework.kernels.cpu.library import Library

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # engines in this process share its cores with those beside it
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_configure(config: pytest.Config) -> None:
    """Tests that are not about GPUs run alike where there is one: nothing sees it."""
    if "not gpu" in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def built_kernels(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The C++ operations, built once for all sessions; None without a compiler. One that fails to build is an error."""
    try:
        build.compiler()
    except build.BuildFailed:
        return None
    cache = getattr(pytestconfig, "cache", None)  # there is none with "-p no:cacheprovider"
    kept = cache.mkdir("cpu-kernels") if cache else tmp_path_factory.mktemp("cpu-kernels")
    return build.build(kept)


@pytest.fixture(scope="session")
def library(built_kernels: Path | None) -> Library | None:
    """The C++ operations, loaded."""
    if built_kernels is None:
        return None
    from latticework.kernels.cpu.library import Library

    return Library(built_kernels)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, built_kernels: Path | None) -> Iterator[None]:
    """What is converted and built goes to a folder of this session, never to the user's."""
    before = os.environ.get("LATTICEWORK_CACHE")
    cache = tmp_path_factory.mktemp("cache")
    if built_kernels is not None:
        (cache / "kernels").mkdir()
        shutil.copy2(built_kernels, cache / "kernels")
    os.environ["LATTICEWORK_CACHE"] = str(cache)
    yield
    if before is None:
        del os.environ["LATTICEWORK_CACHE"]
    else:
        os.environ["LATTICEWORK_CACHE"] = before


@pytest.fixture(scope="session")
def tiny_runtime(_own_cache: None) -> Iterator[Runtime]:
    """A whole runtime, front and engine in subprocesses, over the tiny random model in float64."""
    with Runtime("tiny", dtype="float64", kv_tokens=8192, threads=1) as runtime:
        yield runtime


@pytest.fixture(scope="session")
def smollm2_runtime(_own_cache: None) -> Iterator[Runtime]:
    """A whole runtime over the default model in float32."""
    with Runtime("smollm2", dtype="float32", kv_tokens=32768) as runtime:
        yield runtime


SERVER_KEYS = {name: f"sentinel-key-of-{name}" for name in ("ada", "bob")}


@pytest.fixture(scope="session")
def tiny_server(_own_cache: None) -> Iterator[Any]:
    """The tiny model in float64 over real HTTP, programs too, for the tenants of `SERVER_KEYS`: a `ServedFront`."""
    from latticework.runtime.config import EngineConfig, ServerConfig
    from latticework.runtime.programs.front import Front
    from latticework.runtime.tenants import ApiKeys
    from tests.runtime.server.conftest import ServedFront

    keys = ApiKeys({hashlib.sha256(key.encode()).digest(): name for name, key in SERVER_KEYS.items()})
    engine = EngineConfig(model="tiny", dtype="float64", kv_tokens=8192, threads=1)
    server = ServedFront(lambda: Front.start(engine, ServerConfig()), keys=keys, programs=True, most=256)
    yield server
    server.close()
