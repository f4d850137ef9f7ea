"""What each token of a tokenizer writes, as bytes and as a trie.

Built once per tokenizer and shared by every automaton. The trie is a handful of numpy arrays in level order, so a
whole level is walked by one vectorised step. This file knows bytes and ids; it knows no constraint.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latticework.lang.errors import InvalidArgument
from latticework.runtime.constrain.characters import Characters

if TYPE_CHECKING:
    from latticework.runtime.constrain.standard import Standard

_ROWS_KEPT = 64
_FEW_TOKENS = 64  # fewer than these are packed one by one


class Trie:
    """The distinct prefixes of all tokens. Node 0 is the empty prefix; nodes are numbered level by level, and the
    children of one node are neighbours, in byte order. N nodes.

    parent: int64[N]; byte: uint8[N]; first_child, children: int32[N]; levels[l]:levels[l + 1] are the nodes of
    length l. token_start: int32[N + 1] and token_ids: the tokens that end at node n are
    token_ids[token_start[n] : token_start[n + 1]].
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        ids = sorted((i for i, token in enumerate(tokens) if token), key=tokens.__getitem__)
        text = np.frombuffer(b"".join(tokens[i] for i in ids), np.uint8)
        lengths = np.fromiter((len(tokens[i]) for i in ids), np.int64, len(ids))
        offsets = np.cumsum(lengths) - lengths
        shared = _shared_prefixes(text, lengths, offsets)

        parents, letters, self.levels = [np.zeros(1, np.int32)], [np.zeros(1, np.uint8)], [0, 1]
        at = np.zeros(len(ids), np.int32)  # node of each token's prefix of the current length
        alive = np.arange(len(ids))
        for length in range(1, int(lengths.max(initial=0)) + 1):
            alive = alive[lengths[alive] >= length]
            is_new = shared[alive] < length
            first = alive[is_new]
            parents.append(at[first])
            letters.append(text[offsets[first] + length - 1])
            at[alive] = self.levels[-1] + np.cumsum(is_new) - 1
            self.levels.append(self.levels[-1] + len(first))
        self.parent = np.concatenate(parents).astype(np.int64)  # numpy indexes much faster with these than with int32
        self.byte = np.concatenate(letters)
        size = len(self.parent)
        self.children = np.bincount(self.parent[1:], minlength=size).astype(np.int32)
        self.first_child = (1 + np.cumsum(self.children) - self.children).astype(np.int32)
        counts = np.bincount(at, minlength=size) if len(ids) else np.zeros(size, np.int64)
        self.token_start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        self.token_ids = np.asarray(ids, np.int32)[np.argsort(at, kind="stable")]

    @cached_property
    def letters(self) -> bytes:
        """[N]: `byte`, to be sliced in plain Python."""
        return self.byte.tobytes()

    @cached_property
    def firsts(self) -> array[int]:
        """[N + 1]: the children of node n are firsts[n] to firsts[n + 1] - 1."""
        return array("i", np.append(self.first_child, len(self.parent)).astype(np.intc).tobytes())

    @cached_property
    def starts(self) -> array[int]:
        """[N + 1]: `token_start`, for plain Python."""
        return array("i", self.token_start.astype(np.intc).tobytes())

    @cached_property
    def below(self) -> NDArray[np.int64]:
        """[N]: how many nodes each node has below it, itself included."""
        below = np.ones(len(self.parent), np.int64)
        for first, last in zip(self.levels[-2:0:-1], self.levels[:1:-1], strict=True):
            np.add.at(below, self.parent[first:last], below[first:last])
        return below

    def find(self, text: bytes, node: int = 0) -> int | None:
        """The node that `text` leads to."""
        for byte in text:
            node = self.child(node, byte)
            if node < 0:
                return None
        return node

    def child(self, node: int, byte: int) -> int:
        """The child of `node` by `byte`; -1: there is none."""
        return self.letters.find(byte, self.firsts[node], self.firsts[node + 1])

    def tokens_below(self, node: int) -> NDArray[np.int32]:
        """The tokens that begin with what leads to `node`, and go on."""
        found = [np.zeros(0, np.int32)]
        nodes = np.array([node], np.int64)
        while len(nodes):
            counts = self.children[nodes]
            nodes = spread(self.first_child[nodes].astype(np.int64), counts, int(counts.sum()))
            found.append(self.tokens_at(nodes)[0])
        return np.concatenate(found)

    def tokens_at(self, nodes: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The tokens that end at `nodes`, and for each the index into `nodes` it ends at."""
        starts = self.token_start[nodes]
        counts = self.token_start[nodes + 1] - starts
        which = np.flatnonzero(counts)
        starts, counts = starts[which], counts[which]
        total = int(counts.sum())
        if total == len(which):
            return self.token_ids[starts], which
        return self.token_ids[spread(starts, counts, total)], np.repeat(which, counts)


def spread(starts: NDArray[Any], counts: NDArray[Any], total: int) -> NDArray[np.int64]:
    """starts[0], starts[0] + 1, … counts[0] of them, then those of starts[1], and so on; `total` in all."""
    return np.arange(total) + np.repeat(starts - (np.cumsum(counts) - counts), counts)


def _shared_prefixes(
    text: NDArray[np.uint8], lengths: NDArray[np.int64], offsets: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each of the sorted tokens, how many leading bytes it shares with the one before."""
    shared = np.zeros(len(lengths), np.int64)
    pairs = np.arange(1, len(lengths))
    length = 0
    while len(pairs):
        pairs = pairs[(lengths[pairs] > length) & (lengths[pairs - 1] > length)]
        pairs = pairs[text[offsets[pairs] + length] == text[offsets[pairs - 1] + length]]
        length += 1
        shared[pairs] = length
    return shared


class Vocabulary:
    """The V tokens of a tokenizer.

    tokens: the bytes that each id writes; b"" for ids that write none (special, unused): they never match text.
    end_ids: the ids that end a text; whatever bytes are given for them are ignored.
    """

    def __init__(self, tokens: Sequence[bytes], end_ids: tuple[int, ...]) -> None:
        for end in end_ids:
            if not 0 <= end < len(tokens):
                raise InvalidArgument(f"end id {end} is not one of the {len(tokens)} tokens", field="end_ids")
        written = list(tokens)
        for end in end_ids:
            written[end] = b""
        self.tokens = tuple(written)
        self.end_ids = tuple(dict.fromkeys(end_ids))
        self.size = len(self.tokens)  # V
        self.words = -(-self.size // 32)  # W
        self.trie = Trie(self.tokens)
        self.characters = Characters(self.trie)
        self.longest = len(self.trie.levels) - 2  # bytes of the longest token
        self._ids: dict[bytes, int] = {}
        for index, token in enumerate(self.tokens):
            if token:
                self._ids.setdefault(token, index)
        self._prefixes = {token[:length] for token in self._ids for length in range(1, len(token) + 1)}
        self.writable = frozenset(token[0] for token in self._ids if len(token) == 1)

        self.standard: Standard | None = None  # see `warm`
        self._rows_below: dict[int, NDArray[np.int32]] = {}
        self.end_row = np.zeros(self.words, np.int32)
        for end in self.end_ids:
            self.end_row.view(np.uint32)[end >> 5] |= np.uint32(1 << (end & 31))

    def warm(self) -> Vocabulary:
        """Makes what JSON constraints have in common now, once: about as long as the vocabulary itself took, and some
        MB. Without it every automaton makes its own. Not while automata over this vocabulary are being made."""
        # Here, because it is made of automata, which are made of a vocabulary.
        from latticework.runtime.constrain.standard import Standard

        if self.standard is None:
            self.standard = Standard(self)
            self.characters.pin()
        return self

    def forget(self) -> None:
        """Drops what was found out about the vocabulary; it is found again when needed."""
        self.characters.forget()
        self._rows_below.clear()

    def row_below(self, node: int) -> NDArray[np.int32]:
        """`Trie.tokens_below` as a row, not to be changed. Kept, as prompts end alike."""
        row = self._rows_below.get(node)
        if row is None:
            if len(self._rows_below) >= _ROWS_KEPT:
                self._rows_below.clear()
            row = self._rows_below[node] = self.pack(self.trie.tokens_below(node))
        return row

    @cached_property
    def spanning(self) -> tuple[int, ...]:
        """Tokens that may end one JSON string or item and hold another whole one: two quotes after a first, or two
        commas."""
        return tuple(
            index for index, token in enumerate(self.tokens) if token.count(b'"') >= 3 or token.count(b",") >= 2
        )

    @cached_property
    def quoted(self) -> dict[bytes, list[int]]:
        """The tokens that begin with a text that ends in a quote, by that text."""
        found: dict[bytes, list[int]] = {}
        for index, token in enumerate(self.tokens):
            end = token.find(b'"')
            while end >= 0:
                found.setdefault(token[: end + 1], []).append(index)
                end = token.find(b'"', end + 1)
        return found

    @cached_property
    def _sorted_ids(self) -> tuple[list[bytes], list[int]]:
        ids = sorted((index for index, token in enumerate(self.tokens) if token), key=self.tokens.__getitem__)
        return [self.tokens[index] for index in ids], ids

    def tokens_with_prefix(self, prefix: bytes) -> list[int]:
        """The ids whose bytes begin with `prefix`."""
        if prefix[-1:] == b'"':
            return self.quoted.get(prefix, [])
        texts, ids = self._sorted_ids
        start = bisect_left(texts, prefix)
        end = start
        while end < len(texts) and texts[end].startswith(prefix):
            end += 1
        return ids[start:end]

    def pack(self, tokens: NDArray[np.int32] | list[int]) -> NDArray[np.int32]:
        """A row, int32[W], with the bits of `tokens` set."""
        if len(tokens) < _FEW_TOKENS:
            packed = bytearray(self.words * 4)
            for token in tokens if isinstance(tokens, list) else tokens.tolist():
                packed[token >> 3] |= 1 << (token & 7)
            return np.frombuffer(packed, "<i4").astype(np.int32, copy=False)
        allowed = np.zeros(self.words * 32, bool)
        allowed[tokens] = True
        return np.packbits(allowed, bitorder="little").view("<i4").astype(np.int32, copy=False)

    def token_for(self, text: bytes) -> int | None:
        """The lowest id that writes exactly `text`, if any."""
        return self._ids.get(text)

    def fewest_tokens(self, text: bytes) -> list[int]:
        """cost[i] = the fewest tokens that spell text[i:]; cost[len(text)] is 0. Every byte must be writable."""
        cost = [0] * (len(text) + 1)
        for start in range(len(text) - 1, -1, -1):
            best = cost[start + 1]
            for end in range(start + 2, min(start + self.longest, len(text)) + 1):
                piece = text[start:end]
                if piece not in self._prefixes:
                    break
                if cost[end] < best and piece in self._ids:
                    best = cost[end]
            cost[start] = best + 1
        return cost

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Any, end_ids: tuple[int, ...] | None = None, size: int | None = None
    ) -> Vocabulary:
        """The vocabulary of a fast transformers tokenizer or of a `tokenizers.Tokenizer`.

        end_ids: default is the tokenizer's eos_token_id. size: pads with ids that write nothing, for models whose
        logits are wider than the tokenizer. Raises InvalidArgument for a tokenizer whose tokens are no bytes.
        """
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not hasattr(backend, "to_str"):
            raise InvalidArgument(
                f"{type(tokenizer).__name__} has no fast tokenizer behind it",
                field="tokenizer",
                hint="use a PreTrainedTokenizerFast or a tokenizers.Tokenizer",
            )
        if end_ids is None:
            end = getattr(tokenizer, "eos_token_id", None)
            if end is None:
                raise InvalidArgument("the tokenizer names no end token", field="end_ids", hint="pass end_ids")
            end_ids = (end,)
        tokens = _token_bytes(json.loads(backend.to_str()), backend.get_vocab(with_added_tokens=True))
        if size is not None:
            if size < len(tokens):
                raise InvalidArgument(f"size is {size}, but the tokenizer has {len(tokens)} ids", field="size")
            tokens += [b""] * (size - len(tokens))
        return cls(tokens, end_ids).warm()


def _token_bytes(description: dict[str, Any], ids: dict[str, int]) -> list[bytes]:
    """The bytes of each id, from a `tokenizer.json` and its token → id map."""
    parts = {part.get("type") for key in ("decoder", "pre_tokenizer") for part in _flatten(description.get(key))}
    added = {token["id"]: token for token in description.get("added_tokens", [])}
    if "ByteLevel" in parts:
        of_character = {character: byte for byte, character in enumerate(_byte_level_alphabet())}
        convert = lambda token: _from_byte_level(token, of_character)  # noqa: E731
    elif description.get("model", {}).get("byte_fallback"):
        convert = _from_byte_fallback
    else:
        raise InvalidArgument(
            "the tokenizer is neither byte-level nor byte-fallback, so its tokens have no exact bytes",
            field="tokenizer",
        )
    tokens = [b""] * (max(ids.values(), default=-1) + 1)
    for token, index in ids.items():
        if index not in added:
            tokens[index] = convert(token)
        elif not added[index].get("special"):
            tokens[index] = added[index]["content"].encode()
    return tokens


def _flatten(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    if not part:
        return []
    if part.get("type") == "Sequence":
        inner = part.get("decoders") or part.get("pretokenizers") or []
        return [found for child in inner for found in _flatten(child)]
    return [part]


def _byte_level_alphabet() -> list[str]:
    """GPT-2's table: the printable character that stands for each byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _from_byte_level(token: str, of_character: dict[str, int]) -> bytes:
    if any(character not in of_character for character in token):
        return b""  # no text encodes to it
    return bytes(of_character[character] for character in token)


def _from_byte_fallback(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass
    return token.replace("▁", " ").encode()
