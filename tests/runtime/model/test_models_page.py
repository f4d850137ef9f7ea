from __future__ import annotations

import runpy
from pathlib import Path

from latticework.runtime.model.gguf_card import _ARCHITECTURES
from latticework.runtime.model.registry import SUPPORTED
from tests.runtime.model.families import FAMILIES, OTHERS

DOCS = Path(__file__).parents[3] / "docs"


def test_every_supported_architecture_has_parity_rows() -> None:
    assert [family.architecture for family in FAMILIES] == list(SUPPORTED)
    assert all(family.shapes for family in FAMILIES)
    assert {family.gguf: family.architecture for family in FAMILIES if family.gguf} == _ARCHITECTURES


def test_the_page_of_models_shows_them() -> None:
    shown = runpy.run_path(str(DOCS / "models_table.py"))["on_page_markdown"]((DOCS / "models.md").read_text())
    for family in (*FAMILIES, *OTHERS):
        assert f"| `{family.architecture}` |" in shown
