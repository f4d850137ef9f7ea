from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as HfTokenizer

from latticework.lang.errors import BrokenModel, InvalidArgument, UnsupportedModel
from latticework.runtime.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes_only()
START, END = BYTES.special["<|im_start|>"], BYTES.special["<|im_end|>"]


def sentencepiece(prefix: bool = True) -> Tokenizer:
    """A Llama 2 style tokenizer: '▁' for blanks, bytes as a fallback, a dummy blank before every text."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁ab"]
    merges = [("a", "b"), ("▁", "ab")]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    inner = HfTokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", 1)])
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in pieces[:3]])
    return Tokenizer(inner.to_str())


def test_byte_tokens_are_their_own_ids() -> None:
    assert BYTES.token_bytes[:256] == [bytes([byte]) for byte in range(256)]
    assert BYTES.token_bytes[256:] == [b"", b"", b""]
    assert BYTES.encode("é") == [0xC3, 0xA9]


def test_a_tokenizer_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(BYTES.to_json())
    again = Tokenizer.from_file(path)
    assert again.token_bytes == BYTES.token_bytes
    assert again.special == BYTES.special == {"<|endoftext|>": 256, "<|im_start|>": START, "<|im_end|>": END}


def test_padding_ids_stand_for_nothing() -> None:
    assert BYTES.padded(264)[259:] == [b""] * 5
    assert BYTES.decode_bytes([104, 263, 105]) == b"hi"
    with pytest.raises(BrokenModel, match="259 tokens, the model only 10"):
        BYTES.padded(10)


def test_plain_text_never_becomes_special_tokens() -> None:
    assert BYTES.encode("<|im_end|>") == list(b"<|im_end|>")
    assert BYTES.encode("a<|im_end|>b", special=True) == [97, END, 98]


@given(st.lists(st.sampled_from(["<|im_end|>", "<|im_", "end|>", "x", " ", "é", "<|endoftext|>"]), max_size=8))
def test_plain_pieces_never_join_into_special_tokens(parts: list[str]) -> None:
    tokens, head, head_tokens = BYTES.encode_pieces([(part, False) for part in parts])
    assert BYTES.decode_bytes(tokens) == head == "".join(parts).encode()
    assert head_tokens == len(tokens)


def test_special_tokens_are_recognised_in_template_pieces_only() -> None:
    tokens, head, head_tokens = BYTES.encode_pieces(
        [("hi", False), ("!<|im_end|>\n<|im_start|>user\n", True), ("<|im_end|>", False), ("<|im_end|>", True)]
    )
    assert tokens == [*b"hi!", END, *b"\n", START, *b"user\n", *b"<|im_end|>", END]
    assert (head, head_tokens) == (b"hi!", 3)


def test_a_special_token_is_not_put_together_from_two_pieces() -> None:
    assert END not in BYTES.encode_pieces([("<|im_", True), ("end|>", True)])[0]
    assert END not in BYTES.encode_pieces([("<|im_", False), ("end|>", True)])[0]


def test_stretches_are_joined_across_pieces_and_encoded_once() -> None:
    tokenizer = sentencepiece()
    whole = tokenizer.encode("ab")
    assert len(whole) == 1
    assert tokenizer.encode_pieces([("a", False), ("b", True)]) == (whole, b"ab", 1)


def test_an_empty_run_has_an_empty_head() -> None:
    assert BYTES.encode_pieces([]) == ([], b"", 0)
    assert BYTES.encode_pieces([("<|im_start|>", True)]) == ([START], b"", 0)


def test_special_tokens_swallow_the_blanks_their_flags_name() -> None:
    inner = HfTokenizer.from_str(BYTES.to_json())
    inner.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False, rstrip=True)])
    tokenizer = Tokenizer(inner.to_str())
    assert tokenizer.encode("a<|end|>\n b", special=True) == [97, 259, 98]


def test_byte_fallback_tokens_have_their_bytes_and_no_dummy_blank() -> None:
    tokenizer = sentencepiece()
    assert tokenizer.token_bytes[tokenizer.encode(" ab")[0]] == b" ab"
    assert tokenizer.decode_bytes(tokenizer.encode("ab é\n")) == "ab é\n".encode()
    assert tokenizer.token_bytes[3 + 0xE2] == b"\xe2"
    assert tokenizer.bos_ids == (1,)
    assert tokenizer.encode("</s>") != [2]


def test_bos_is_what_the_post_processor_would_put_first() -> None:
    assert BYTES.bos_ids == ()
    assert sentencepiece().bos_ids == (1,)


@given(st.binary(max_size=40))
def test_any_bytes_are_spelled_exactly(data: bytes) -> None:
    assert BYTES.decode_bytes(BYTES.encode_bytes(data)) == data
    assert sentencepiece_once.decode_bytes(sentencepiece_once.encode_bytes(data)) == data


sentencepiece_once = sentencepiece()


def test_bytes_a_normaliser_would_change_are_spelled_exactly() -> None:
    inner = HfTokenizer.from_str(BYTES.to_json())
    inner.normalizer = normalizers.NFC()
    tokenizer = Tokenizer(inner.to_str())
    decomposed = "e\u0301".encode()
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(decomposed)) == decomposed


def test_a_byte_no_token_can_write_is_an_error() -> None:
    inner = HfTokenizer(models.BPE({"a": 0}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    with pytest.raises(InvalidArgument, match="0x62"):
        Tokenizer(inner.to_str()).encode_bytes(b"ab")


def test_half_a_surrogate_pair_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="surrogate pair at character 1"):
        BYTES.encode("a\ud800")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{")
    with pytest.raises(BrokenModel, match=r"tokenizer\.json"):
        Tokenizer.from_file(path)
    with pytest.raises(BrokenModel, match=r"missing\.json"):
        Tokenizer.from_file(tmp_path / "missing.json")


def test_a_tokenizer_that_is_not_made_of_bytes_is_unsupported() -> None:
    inner = HfTokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece()
    with pytest.raises(UnsupportedModel, match="WordPiece"):
        Tokenizer(inner.to_str())


def test_other_threads_run_while_a_long_text_is_encoded() -> None:
    text = "hello world " * 100_000
    found: list[list[int]] = []
    encoding = threading.Thread(target=lambda: found.append(BYTES.encode(text)))
    turns = 0
    encoding.start()
    while encoding.is_alive():
        turns += 1
        time.sleep(0.001)
    assert found == [list(text.encode())]
    assert turns > 20  # where the interpreter is held, hardly any
