"""Building and finding the library, with a compiler that is a shell script."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from latticework.kernels.cpu import build

SCRIPT = """#!/bin/sh
echo called >> {log}
sleep {seconds}
while [ "$1" != -o ]; do shift; done
echo "a library" > "$2"
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of a compiler that works."""
    return use_script(tmp_path, monkeypatch, SCRIPT.format(log=tmp_path / "log", seconds=0.1))


def use_script(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    script = folder / "compiler"
    script.write_text(text)
    script.chmod(0o700)
    monkeypatch.setenv("CXX", str(script))
    return folder / "log"


def test_a_library_is_built_once_and_found_again(tmp_path: Path, calls: Path) -> None:
    cache = tmp_path / "cache"
    assert build.find(cache) is None
    path = build.build(cache)
    assert path == build.build(cache) == build.find(cache)
    assert path.read_text() == "a library\n"
    assert calls.read_text() == "called\n"
    assert {file.suffix for file in cache.iterdir()} == {".so", ".lock"}


def test_of_several_that_build_at_once_one_does(tmp_path: Path, calls: Path) -> None:
    threads = [threading.Thread(target=build.build, args=(tmp_path / "cache",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls.read_text() == "called\n"


def test_a_library_is_built_in_the_background(tmp_path: Path, calls: Path) -> None:
    build.build_in_background(tmp_path / "cache")
    deadline = time.monotonic() + 30
    while build.find(tmp_path / "cache") is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_compiler_that_fails_is_quoted_and_not_tried_again_in_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_script(tmp_path, monkeypatch, "#!/bin/sh\necho 'vectors.h: no such thing' >&2\nexit 3\n")
    cache = tmp_path / "cache"
    with pytest.raises(build.BuildFailed, match=r"compiler.*-O3.*\nvectors\.h: no such thing"):
        build.build(cache)
    assert {file.suffix for file in cache.iterdir()} == {".failed", ".lock"}
    with pytest.raises(build.BuildFailed, match="no such thing"):
        build.build_in_background(cache)
    log = use_script(tmp_path, monkeypatch, SCRIPT.format(log=tmp_path / "log", seconds=0))
    build.build(cache)
    assert log.exists()
    assert {file.suffix for file in cache.iterdir()} == {".so", ".lock"}


def test_a_machine_without_a_compiler_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -x")
    for attempt in (build.build, build.build_in_background):
        with pytest.raises(build.BuildFailed, match="no C\\+\\+ compiler: looked for no-such-compiler"):
            attempt(tmp_path)


def test_a_library_that_others_may_write_is_not_loaded(tmp_path: Path, calls: Path) -> None:
    build.build(tmp_path).chmod(0o666)
    with pytest.raises(build.BuildFailed, match="may be written by others"):
        build.find(tmp_path)


def test_other_flags_make_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.library_path(tmp_path)
    assert build.library_path(tmp_path) == before
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    assert build.library_path(tmp_path) != before
