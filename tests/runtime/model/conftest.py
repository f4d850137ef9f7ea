from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.model.by_hand import save_llama


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny random Llama as a Hugging Face folder."""
    save_llama(tmp_path)
    return tmp_path
