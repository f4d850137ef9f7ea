"""Where the tests of this folder put their tensors: see conftest.py."""

from __future__ import annotations

import os
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")


def tensor_of(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array).to(DEVICE)
