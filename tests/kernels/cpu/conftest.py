from __future__ import annotations

import pytest

from latticework.kernels.cpu.library import Library


@pytest.fixture
def native_library(library: Library | None) -> Library:
    if library is None:
        pytest.skip("needs a C++ compiler")
    return library
