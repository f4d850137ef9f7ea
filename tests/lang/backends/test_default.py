"""The default backend, and what programs written for SGLang ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import latticework as lw
from latticework.lang.backends.default import GlobalConfig


class Caching(lw.Scripted):
    """A scripted backend with a cache to flush."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed = 0

    def flush_cache(self) -> None:
        self.flushed += 1

    def get_server_info(self) -> dict[str, Any]:
        return {"model_path": "scripted"}


@pytest.fixture
def backend() -> Iterator[Caching]:
    made = Caching()
    with made:
        lw.set_default_backend(made)
        yield made
    lw.set_default_backend(None)


def test_the_cache_that_is_flushed_is_the_default_backends(backend: Caching) -> None:
    lw.flush_cache()
    lw.flush_cache(backend)
    assert backend.flushed == 2
    assert lw.get_server_info() == {"model_path": "scripted"}


def test_a_backend_without_a_cache_says_so() -> None:
    with lw.Scripted() as plain:
        with pytest.raises(lw.Unsupported, match="flush_cache"):
            lw.flush_cache(plain)
        with pytest.raises(lw.Unsupported, match="get_server_info"):
            lw.get_server_info(plain)


def test_the_global_config_names_the_default_backend(backend: Caching) -> None:
    assert lw.global_config.default_backend is backend
    with lw.Scripted() as other:
        lw.global_config.default_backend = other
        assert lw.global_config.default_backend is other
    lw.global_config.default_backend = None
    assert lw.global_config.default_backend is None


def test_the_global_config_takes_what_programs_set_and_nothing_else() -> None:
    config = GlobalConfig()
    config.verbosity = 2
    config.enable_precache_with_tracing = False
    config.enable_parallel_encoding = False
    assert (config.verbosity, config.enable_precache_with_tracing) == (2, False)
    with pytest.raises(AttributeError):
        config.verbose = 1  # type: ignore[attr-defined]
    with pytest.raises(lw.InvalidArgument):
        config.default_backend = "a backend"  # type: ignore[assignment]


def test_a_runtime_takes_its_model_by_either_name_and_not_by_both() -> None:
    with pytest.raises(lw.InvalidArgument, match="both") as caught:
        lw.Runtime("tiny", model_path="tiny")
    assert caught.value.field == "model_path"
    with pytest.raises(lw.ModelNotFound, match="no-such-model"):
        lw.Runtime(model_path="no-such-model")
