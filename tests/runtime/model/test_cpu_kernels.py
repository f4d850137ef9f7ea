"""Which operations an engine starts with."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest

from latticework.kernels.cpu import build
from latticework.lang.errors import Unsupported
from latticework.runtime.attention import make_attention
from latticework.runtime.config import EngineConfig
from latticework.runtime.engine import Engine
from latticework.runtime.model.cpu_kernels import build_now, load_kernels
from latticework.runtime.model.runner import ModelRunner


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATTICEWORK_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")


def test_off_looks_for_nothing(empty_cache: Path) -> None:
    assert load_kernels("off") is None
    assert not list(empty_cache.iterdir())


def test_on_without_a_compiler_is_an_error(empty_cache: Path, no_compiler: None) -> None:
    with pytest.raises(Unsupported, match="looked for no-such-compiler"):
        load_kernels("on")
    with pytest.raises(Unsupported, match="looked for no-such-compiler"):
        build_now()


def test_auto_without_a_compiler_says_so_and_goes_on(
    empty_cache: Path, no_compiler: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert load_kernels("auto") is None
    assert "computing with torch's operations" in caplog.text
    assert "looked for no-such-compiler" in caplog.text


def test_auto_waits_for_no_compiler_and_says_so(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun: list[Path] = []
    monkeypatch.setattr(build, "build_in_background", begun.append)
    with caplog.at_level(logging.WARNING):
        assert load_kernels("auto") is None
    assert begun == [empty_cache / "kernels"]
    assert "until the next start: CPU kernels are being built" in caplog.text


def test_a_file_that_is_no_library_is_not_used(
    empty_cache: Path, built_kernels: Path | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = build.library_path(empty_cache / "kernels")
    path.parent.mkdir()
    path.write_text("half of a library")
    path.chmod(0o600)
    with caplog.at_level(logging.WARNING):
        assert load_kernels("auto") is None
    assert "cannot be used" in caplog.text
    with pytest.raises(Unsupported, match="cannot be used"):
        load_kernels("on")


def test_an_engine_computes_with_what_is_asked_for(built_kernels: Path | None) -> None:
    if built_kernels is None:
        pytest.skip("needs a C++ compiler")
    plain = EngineConfig(model="tiny", dtype="float32", kv_tokens=512, threads=1)
    for mode, name in (("off", "torch"), ("auto", "native"), ("on", "native")):
        runner = Engine.load(msgspec.structs.replace(plain, cpu_kernels=mode)).runner
        assert isinstance(runner, ModelRunner)
        assert runner.attention.name == name


def test_native_attention_without_kernels_is_refused() -> None:
    with pytest.raises(Unsupported, match="latticework kernels build"):
        make_attention("native", "cpu")
