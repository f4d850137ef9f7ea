"""The KV pool as numbers: which pages are free.

A page is an index into the KV tensors and holds `page_size` tokens. This file knows which pages nobody owns; it
knows neither what a page holds nor who has the others (`RadixTree.check` does).
"""

from __future__ import annotations

from collections.abc import Iterable


class OutOfPages(Exception):
    """Fewer pages are free than were wanted. Internal: whoever schedules evicts, retracts or waits."""


class PagePool:
    """Owner of all free pages. Pages leave through `allocate` and come back through `free`, once each."""

    def __init__(self, pages: int, page_size: int) -> None:
        assert min(pages, page_size) > 0, (pages, page_size)
        self.total = pages
        self.page_size = page_size
        self._free = list(range(pages - 1, -1, -1))  # a stack: the page freed last is still warm
        self._is_free = bytearray(b"\x01") * pages

    @property
    def free_count(self) -> int:
        return len(self._free)

    def is_free(self, page: int) -> bool:
        return bool(self._is_free[page])

    def allocate(self, count: int) -> list[int]:
        """`count` pages that are now the caller's. Raises OutOfPages and takes none if there are not as many."""
        if count > len(self._free):
            raise OutOfPages(f"{count} pages wanted, {len(self._free)} of {self.total} free")
        if count == 0:
            return []
        taken = self._free[-count:][::-1]
        del self._free[-count:]
        for page in taken:
            self._is_free[page] = 0
        return taken

    def free(self, pages: Iterable[int]) -> None:
        """Gives pages back. Their content stays until the next owner writes."""
        for page in pages:
            assert not self._is_free[page], f"page {page} was freed twice"
            self._is_free[page] = 1
            self._free.append(page)
