"""What tokens have after some of their bytes, as a trie that is unfolded where it is looked at.

A token that leaves a terminal goes on with what it has left, whatever came before. So the places in the vocabulary's
trie at which many tokens leave are followed as one: their rests are a trie again. This file knows the vocabulary; it
knows no constraint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from latticework.runtime.constrain.vocabulary import Trie, spread

_SUFFIX_BYTES = 300  # what a suffix of few nodes takes
_MANY_NODES = 48  # the children of more nodes than these are found by numpy


class Suffix:
    """The rests of all tokens that pass through one of `nodes` of a trie, ascending. Children are made when looked
    at."""

    __slots__ = ("_children", "_owner", "_size", "_tokens", "nodes")

    def __init__(self, owner: Suffixes, nodes: list[int]) -> None:
        self._owner = owner
        self.nodes = nodes
        self._tokens: list[int] | None = None
        self._children: dict[int, Suffix] | None = None
        self._size = -1

    @property
    def tokens(self) -> list[int]:
        """The tokens that end here."""
        if self._tokens is None:
            trie = self._owner.trie
            starts, ids = trie.starts, trie.token_ids
            found: list[int] = []
            for node in self.nodes:
                first, last = starts[node], starts[node + 1]
                if last == first + 1:
                    found.append(ids.item(first))
                elif last > first:
                    found += ids[first:last].tolist()
            self._tokens = found
        return self._tokens

    def all_tokens(self) -> Iterator[int]:
        """The tokens that end here or go on from here."""
        yield from self.tokens
        for child in self.children.values():
            yield from child.all_tokens()

    @property
    def inner(self) -> list[int]:
        """The nodes that some token goes on from."""
        firsts = self._owner.trie.firsts
        return [node for node in self.nodes if firsts[node] != firsts[node + 1]]

    @property
    def size(self) -> int:
        """Trie nodes here and below."""
        if self._size < 0:
            below = self._owner.trie.below
            nodes = self.nodes
            self._size = int(below[nodes].sum()) if len(nodes) > _MANY_NODES else sum(map(below.item, nodes))
        return self._size

    @property
    def children(self) -> dict[int, Suffix]:
        """What follows each byte that goes on from here."""
        if self._children is None:
            if len(self.nodes) > _MANY_NODES:
                self._children = self._many_children()
            else:
                firsts, letters = self._owner.trie.firsts, self._owner.trie.letters
                groups: dict[int, list[int]] = {}
                for node in self.nodes:
                    first = firsts[node]
                    for child, byte in enumerate(letters[first : firsts[node + 1]], first):
                        groups.setdefault(byte, []).append(child)
                self._children = {byte: Suffix(self._owner, group) for byte, group in groups.items()}
            self._owner.nbytes += _SUFFIX_BYTES * len(self._children)
        return self._children

    def _many_children(self) -> dict[int, Suffix]:
        trie = self._owner.trie
        nodes = np.array(self.nodes, np.int64)
        counts = trie.children[nodes]
        children = spread(trie.first_child[nodes], counts, int(counts.sum()))
        letters = trie.byte[children].astype(np.int64)
        order = np.argsort(letters, kind="stable")
        children, letters = children[order], letters[order]
        starts: list[int] = np.flatnonzero(np.diff(letters, prepend=-1)).tolist()
        found: dict[int, Suffix] = {}
        for start, end in zip(starts, [*starts[1:], len(letters)], strict=True):
            found[letters.item(start)] = Suffix(self._owner, children[start:end].tolist())
        return found


class Suffixes:
    """The suffixes that somebody came to: equal ones are one object, so that what is known of one is known of all.

    whole: all tokens. nbytes: memory held, roughly. standard: those that need not be made.
    """

    def __init__(self, trie: Trie, standard: Suffixes | None = None) -> None:
        self.trie = trie
        self._standard = standard
        self.forget()

    def forget(self) -> None:
        self._known: dict[tuple[int, ...], Suffix] = {}
        self.nbytes = 0
        self.whole = self.of((0,))

    def of(self, nodes: Iterable[int]) -> Suffix:
        """The one of these nodes."""
        key = tuple(sorted(nodes))
        found = self._known.get(key)
        if found is None and self._standard is not None and len(key) > 1:
            found = self._standard._known.get(key)
        if found is None:
            found = self._known[key] = Suffix(self, list(key))
            self.nbytes += _SUFFIX_BYTES + 16 * len(key)
        return found

    def either(self, one: Suffix, other: Suffix) -> Suffix:
        """The rests that any of two has."""
        return one if one is other else self.of({*one.nodes, *other.nodes})


__all__ = ["Suffix", "Suffixes"]
