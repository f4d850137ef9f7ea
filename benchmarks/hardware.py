"""What stands beside every number: the machine, the threads and the commit."""

from __future__ import annotations

import subprocess
from datetime import datetime, timezone
from pathlib import Path

from latticework.runtime.environment import allowed_cores, cpu, cpu_features, version


def hardware() -> str:
    """One line: processor, cores allowed, and the features that decide speed."""
    return f"{cpu()}, {allowed_cores()} cores, {' '.join(cpu_features())}"


def commit() -> str:
    """The commit measured; `+` where the tree has changes of its own, `unknown` outside a checkout."""
    root = Path(__file__).parent
    try:
        name = _git(root, "rev-parse", "--short", "HEAD")
        return name + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def conditions() -> dict[str, str]:
    """For the head of a table or a JSON file."""
    return {
        "hardware": hardware(),
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "torch": version("torch") or "none",
    }


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
