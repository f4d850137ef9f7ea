from __future__ import annotations

import pytest

from latticework.kernels.cpu.library import Library


@pytest.fixture(params=["as it is", "without tiles"])
def native_library(library: Library | None, request: pytest.FixtureRequest) -> Library:
    """As the processor allows; and, where it has matrix registers, without them."""
    if library is None:
        pytest.skip("needs a C++ compiler")
    if request.param == "as it is":
        return library
    if not library.uses_tiles:
        pytest.skip("this processor has no matrix registers")
    return library.without_tiles()
