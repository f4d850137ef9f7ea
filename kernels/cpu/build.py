"""Makes one shared library of the C++ files beside this one, with the machine's compiler, and keeps it on disk.

A library's name is a hash of what it is made of: sources, flags, processor, torch. So one that is there is the right
one, another version or machine makes its own, and nothing is looked for but that file. The sources know neither torch
nor Python: building takes seconds and needs no headers of either; OpenMP's threads are torch's, as both load the same
libgomp. Nothing is built when this module is imported.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fPIC",
    "-shared",
    "-fno-math-errno",  # sqrt is one instruction; NaN and infinity stay what they are
    "-Wno-psabi",
)
LONGEST_BUILD = 600.0  # seconds


class BuildFailed(RuntimeError):
    """There is no library, and why."""


def library_path(cache: Path) -> Path:
    """Where the library for this machine is, or will be, in the folder `cache`."""
    digest = hashlib.sha256()
    for source in _sources():
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    for part in (*FLAGS, os.environ.get("CXX", ""), platform.machine(), _processor(), _torch()):
        digest.update(part.encode() + b"\0")
    return cache / f"cpu-{digest.hexdigest()[:24]}.so"


def find(cache: Path) -> Path | None:
    """The library, if it is built. Raises BuildFailed for a file that others could have written."""
    path = library_path(cache)
    try:
        found = path.stat()
    except OSError:
        return None
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BuildFailed(f"{path} belongs to another user or may be written by others: not loaded")
    return path


def build(cache: Path) -> Path:
    """The library, made now if it is not there; of several processes one makes it. Raises BuildFailed, and leaves the
    reason beside where the library would be."""
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = library_path(cache)
        with _locked(path.with_suffix(".lock")):
            if find(cache) is None:
                _compile(path)
    except OSError as error:
        raise BuildFailed(f"{cache}: {error}") from None
    return path


def build_in_background(cache: Path) -> None:
    """Starts a process of low priority that builds the library, for whoever starts after it. Raises BuildFailed
    where that cannot even begin, or has failed before."""
    compiler()
    failure = library_path(cache).with_suffix(".failed")
    if failure.exists():
        raise BuildFailed(failure.read_text().strip())
    command = [sys.executable, "-m", "latticework.kernels.cpu.build", str(cache)]
    here = Path(__file__).parents[2]
    paths = os.pathsep.join(filter(None, (str(here), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    threading.Thread(target=process.wait, daemon=True, name="kernels-build").start()  # its end is taken note of


def compiler() -> list[str]:
    """The command of the C++ compiler: $CXX, else the first of c++, g++, clang++. Raises BuildFailed."""
    asked = shlex.split(os.environ.get("CXX", ""))
    for command in [asked] if asked else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    raise BuildFailed(f"no C++ compiler: looked for {asked[0] if asked else 'c++, g++ and clang++'}")


def _sources() -> list[Path]:
    return sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")])


def _compile(path: Path) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    os.close(handle)
    sources = [str(source) for source in _sources() if source.suffix == ".cpp"]
    failure = path.with_suffix(".failed")
    try:
        _call([*compiler(), *FLAGS, *sources, "-o", temporary])
        os.chmod(temporary, 0o600)
        os.replace(temporary, path)
        failure.unlink(missing_ok=True)
    except BuildFailed as error:
        failure.write_text(f"{error}\n")
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)


def _call(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_BUILD, check=False)
    except subprocess.TimeoutExpired:
        raise BuildFailed(f"{command[0]} took more than {LONGEST_BUILD:.0f} s") from None
    if done.returncode:
        said = done.stderr.strip()[-2000:] or f"exit status {done.returncode}"
        raise BuildFailed(f"{shlex.join(command)}\n{said}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl  # POSIX only, as the sockets of the runtime are

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kept = {name.strip(): text for name, _, text in (line.partition(":") for line in lines)}
    return "".join(kept.get(name, "") for name in ("model name", "flags", "Features", "CPU part"))


def _torch() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    os.nice(10)
    build(Path(sys.argv[1]))
