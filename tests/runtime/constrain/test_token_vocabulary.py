from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from latticework.lang.errors import InvalidArgument
from latticework.runtime.constrain import Vocabulary

TOKENS = st.lists(st.binary(max_size=4), min_size=1, max_size=30)


@given(TOKENS)
def test_every_token_ends_at_the_trie_node_of_its_bytes(tokens: list[bytes]) -> None:
    trie = Vocabulary(tokens, ()).trie
    paths = {0: b""}
    for node in range(1, len(trie.parent)):
        paths[node] = paths[int(trie.parent[node])] + bytes([trie.byte[node]])
    prefixes = {token[:length] for token in tokens for length in range(len(token) + 1)} | {b""}
    assert sorted(paths.values()) == sorted(prefixes)
    found, which = trie.tokens_at(np.arange(len(trie.parent)))
    assert sorted(found.tolist()) == [index for index, token in enumerate(tokens) if token]
    assert all(tokens[token] == paths[int(node)] for token, node in zip(found, which, strict=True))


@given(TOKENS)
def test_children_are_neighbours_and_levels_hold_equal_lengths(tokens: list[bytes]) -> None:
    trie = Vocabulary(tokens, ()).trie
    for node in range(len(trie.parent)):
        first, count = int(trie.first_child[node]), int(trie.children[node])
        children = [child for child in range(1, len(trie.parent)) if trie.parent[child] == node]
        assert children == list(range(first, first + count)) if count else children == []
    assert trie.levels[0] == 0
    assert trie.levels[-1] == len(trie.parent)


@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=6), st.text("ab", max_size=7))
def test_fewest_tokens_is_the_least_number_that_spells_a_text(longer: list[str], text: str) -> None:
    vocabulary = Vocabulary([b"a", b"b", *(piece.encode() for piece in longer)], ())
    pieces = {token.decode() for token in vocabulary.tokens}
    costs = vocabulary.fewest_tokens(text.encode())
    for start in range(len(text) + 1):
        rest = text[start:]
        cuts = itertools.chain.from_iterable(
            itertools.combinations(range(1, len(rest)), count) for count in range(max(len(rest), 1))
        )
        spellings = [
            len(cut) + 1
            for cut in cuts
            if all(rest[a:b] in pieces for a, b in itertools.pairwise((0, *cut, len(rest))))
        ]
        assert costs[start] == (min(spellings) if rest else 0)


def test_end_tokens_never_match_text() -> None:
    vocabulary = Vocabulary([b"a", b"</s>"], end_ids=(1,))
    assert vocabulary.tokens == (b"a", b"")
    assert vocabulary.token_for(b"</s>") is None


def test_an_end_id_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="end id 7"):
        Vocabulary([b"a"], end_ids=(7,))


def test_a_byte_level_tokenizer_gives_the_bytes_of_its_tokens() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: index for index, token in enumerate([*alphabet, "Ġt", "Ã©"])}
    tokenizer = Tokenizer(models.BPE(ids, [("Ġ", "t"), ("Ã", "©")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.add_tokens(["<think>"])
    added = tokenizer.get_vocab(with_added_tokens=True)
    end, think = added["<end>"], added["<think>"]
    vocabulary = Vocabulary.from_tokenizer(tokenizer, end_ids=(end,), size=300)
    assert vocabulary.size == 300
    assert vocabulary.tokens[ids["Ġt"]] == b" t"
    assert vocabulary.tokens[ids["Ã©"]] == "é".encode()
    assert vocabulary.tokens[end] == b""
    assert vocabulary.tokens[think] == b"<think>"
    assert vocabulary.writable == frozenset(range(256))
    for token in tokenizer.encode("un été").ids:
        assert vocabulary.tokens[token]


def test_a_byte_fallback_tokenizer_gives_the_bytes_of_its_tokens() -> None:
    ids = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}, "▁the": 257, "é": 258}
    tokenizer = Tokenizer(models.BPE(ids, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens(["<unk>"])
    vocabulary = Vocabulary.from_tokenizer(tokenizer, end_ids=(0,))
    assert vocabulary.tokens[1 + 0x41] == b"A"
    assert vocabulary.tokens[257] == b" the"
    assert vocabulary.tokens[258] == "é".encode()
    assert vocabulary.tokens[0] == b""


def test_a_tokenizer_without_exact_bytes_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"hello": 0}, unk_token="hello"))
    with pytest.raises(InvalidArgument, match="no exact bytes"):
        Vocabulary.from_tokenizer(tokenizer, end_ids=(0,))
    with pytest.raises(InvalidArgument, match="no fast tokenizer"):
        Vocabulary.from_tokenizer(object(), end_ids=(0,))
