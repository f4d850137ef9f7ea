"""How many CPU threads the model's operations use."""

from __future__ import annotations

import os

import torch


def use_threads(count: int | None) -> None:
    """None: every core this process may run on. Process-wide."""
    torch.set_num_threads(count or _allowed_cores())


def _allowed_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
