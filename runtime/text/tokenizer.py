"""Text to token ids and back, as bytes.

Wraps a `tokenizers.Tokenizer` so that a text is encoded alone: nothing is put before it (no BOS, no dummy
space), and plain text never becomes special tokens. Every token has the bytes it stands for. This file knows
no model, no chat template and no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from latticework.lang.errors import BrokenModel, InvalidArgument, UnsupportedModel

END_OF_TEXT = "<|endoftext|>"
LONG_TEXT = 10_000  # characters; longer ones are encoded as a batch, which lets other threads run meanwhile
BYTES_ONLY_SPECIAL = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")


def byte_alphabet() -> dict[str, int]:
    """The 256 characters that byte-level BPE writes bytes with (GPT-2's `bytes_to_unicode`, inverted)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    rest = (byte for byte in range(256) if byte not in set(printable))
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(rest)}


class Tokenizer:
    """token_bytes[id]: the bytes of a token, b"" for special tokens. special: text to id of special tokens.
    bos_ids: what the tokenizer's own post-processor would put before a text.

    A character that the vocabulary cannot write at all (SmolLM2's lacks some control characters) is left out of
    a prompt, as transformers does.
    """

    def __init__(self, source: str) -> None:
        """source: the text of a tokenizer.json. Raises BrokenModel, UnsupportedModel."""
        try:
            state = json.loads(source)
            _drop_prefix(state)
            self._inner = HfTokenizer.from_str(json.dumps(state))
        except Exception as error:  # the tokenizers library raises plain Exception
            raise BrokenModel(f"not a tokenizer.json: {error}") from None
        self._inner.no_truncation()
        self._inner.no_padding()
        self._inner.encode_special_tokens = True  # special tokens in plain text are spelled out
        self.bos_ids = _bos_ids(self._inner)
        added: dict[str, dict[str, Any]] = {token["content"]: token for token in state["added_tokens"]}
        self.special: dict[str, int] = {text: token["id"] for text, token in added.items() if token["special"]}
        self._special_text = {token: text for text, token in self.special.items()}
        self._special_pattern = _special_pattern([token for token in added.values() if token["special"]])
        self._unknown = self.special.get(state["model"].get("unk_token") or "")
        self.token_bytes = _token_bytes(self._inner, state, added)
        self._byte_tokens = _byte_tokens(self.token_bytes)
        self._texts: dict[int, str] = {}

    @staticmethod
    def from_file(path: str | Path) -> Tokenizer:
        """Reads a tokenizer.json. Raises BrokenModel naming the file, or UnsupportedModel."""
        try:
            return Tokenizer(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise BrokenModel(f"{path} cannot be read: {error}") from None
        except (BrokenModel, UnsupportedModel) as error:
            raise type(error)(f"{path}: {error.message}", hint=error.hint) from None

    @staticmethod
    def bytes_only(extra_special: Sequence[str] = (), words: Sequence[bytes] = ()) -> Tokenizer:
        """Tokens 0 to 255 are the bytes; then <|endoftext|>, <|im_start|>, <|im_end|> and `extra_special`; then
        `words`, which no text is encoded to."""
        vocabulary = byte_alphabet()
        if words:  # their ids come after the special ones, which have to be in the vocabulary for that
            characters = {byte: character for character, byte in vocabulary.items()}
            names = (*BYTES_ONLY_SPECIAL, *extra_special, *("".join(map(characters.__getitem__, w)) for w in words))
            vocabulary |= {name: 256 + index for index, name in enumerate(names)}
        inner = HfTokenizer(models.BPE(vocab=vocabulary, merges=[]))
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.decoder = decoders.ByteLevel()
        inner.add_special_tokens(
            [AddedToken(text, special=True, normalized=False) for text in (*BYTES_ONLY_SPECIAL, *extra_special)]
        )
        return Tokenizer(inner.to_str())

    def __len__(self) -> int:
        """Ids known to the tokenizer; a model's vocabulary may be padded beyond."""
        return len(self.token_bytes)

    def to_json(self) -> str:
        """What `from_file` reads."""
        return self._inner.to_str()

    def padded(self, vocab_size: int) -> list[bytes]:
        """`token_bytes` for a model with `vocab_size` logits: ids beyond the tokenizer stand for nothing."""
        if vocab_size < len(self.token_bytes):
            raise BrokenModel(f"the tokenizer has {len(self.token_bytes)} tokens, the model only {vocab_size} logits")
        return self.token_bytes + [b""] * (vocab_size - len(self.token_bytes))

    # ------------------------------------------------------------ encoding

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The tokens of `text` alone. With `special`, special tokens in it are recognised."""
        return self.encode_pieces([(text, special)])[0]

    def encode_pieces(self, pieces: Sequence[tuple[str, bool]]) -> tuple[list[int], bytes, int]:
        """Encodes a run of (text, is_template) as one text: (all tokens, head bytes, head token count).

        Special tokens are recognised inside template pieces only, never across pieces. The plain stretches
        between them are joined across pieces and encoded once. The head is the stretch before the first special
        token: all of it, if there is none.
        """
        tokens: list[int] = []
        stretch: list[str] = []
        head_tokens: int | None = None
        for part in self._parts(pieces):
            if isinstance(part, str):
                stretch.append(part)
                continue
            tokens += self._plain("".join(stretch))
            if head_tokens is None:
                head_tokens = len(tokens)
            tokens.append(part)
            stretch = []
        tokens += self._plain("".join(stretch))
        if head_tokens is None:
            head_tokens = len(tokens)
        return tokens, self.decode_bytes(tokens[:head_tokens]), head_tokens

    def encode_bytes(self, data: bytes) -> list[int]:
        """Tokens that spell `data` exactly, whether it is UTF-8 or not. Raises InvalidArgument when no token
        can write one of its bytes."""
        tokens: list[int] = []
        while data:
            try:
                valid, broken = len(data), len(data)
                data.decode()
            except UnicodeDecodeError as error:
                valid, broken = error.start, error.end
            tokens += self._exactly(data[:valid]) + self._spell(data[valid:broken])
            data = data[broken:]
        return tokens

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes of the tokens, end to end; special and padding tokens stand for nothing."""
        known = self.token_bytes
        return b"".join(known[token] for token in tokens if token < len(known))

    def text_of(self, token: int) -> str:
        """The text of one token alone; bytes that are no whole character are replaced. The same object each time."""
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = self.decode_bytes([token]).decode("utf-8", "replace")
        return text

    def _parts(self, pieces: Sequence[tuple[str, bool]]) -> Iterable[str | int]:
        """The pieces with special tokens of templates as ids."""
        for text, is_template in pieces:
            if not is_template or self._special_pattern is None:
                yield text
                continue
            start = 0
            for match in self._special_pattern.finditer(text):
                yield text[start : match.start()]
                yield self.special[match[match.lastindex or 0]]
                start = match.end()
            yield text[start:]

    def _plain(self, text: str) -> list[int]:
        if not text:
            return []
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(
                f"the text holds half a surrogate pair at character {error.start}, which is not Unicode text",
                field="prompt",
            ) from None
        tokens: list[int]
        if len(text) > LONG_TEXT:
            tokens = self._inner.encode_batch([text], add_special_tokens=False)[0].ids
        else:
            tokens = self._inner.encode(text, add_special_tokens=False).ids
        if self._special_text.keys().isdisjoint(tokens):
            return tokens
        # A vocabulary may hold the very text of a special token as one piece: write it with byte tokens.
        spelled: list[int] = []
        for token in tokens:
            content = self._special_text.get(token)
            spelled += [token] if content is None or token == self._unknown else self._spell(content.encode())
        return spelled

    def _exactly(self, data: bytes) -> list[int]:
        """Tokens of valid UTF-8; spelled byte by byte where the tokenizer's normaliser would change it."""
        tokens = self._plain(data.decode())
        return tokens if self.decode_bytes(tokens) == data else self._spell(data)

    def _spell(self, data: bytes) -> list[int]:
        tokens = []
        for byte in data:
            token = self._byte_tokens[byte]
            if token is None:
                raise InvalidArgument(f"no token of this model can write the byte 0x{byte:02X}")
            tokens.append(token)
        return tokens


def _special_pattern(tokens: list[dict[str, Any]]) -> re.Pattern[str] | None:
    """Matches special tokens, the longest first, with the blanks that a token's lstrip and rstrip swallow.
    One group a token: it holds the token's own text."""
    if not tokens:
        return None
    longest_first = sorted(tokens, key=lambda token: len(token["content"]), reverse=True)
    return re.compile(
        "|".join(
            (r"\s*" if token["lstrip"] else "")
            + f"({re.escape(token['content'])})"
            + (r"\s*" if token["rstrip"] else "")
            for token in longest_first
        )
    )


def _bos_ids(tokenizer: HfTokenizer) -> tuple[int, ...]:
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return tuple(whole[:start])
    return ()


def _drop_prefix(state: dict[str, Any]) -> None:
    """Takes out of a tokenizer.json everything that puts a blank before a text."""
    for part in _flat(state.get("pre_tokenizer"), "pretokenizers"):
        if part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
        if "add_prefix_space" in part:
            part["add_prefix_space"] = False
    normalizer = state.get("normalizer")
    if normalizer and normalizer["type"] == "Prepend":
        state["normalizer"] = None
    elif normalizer and normalizer["type"] == "Sequence":
        normalizer["normalizers"] = [part for part in normalizer["normalizers"] if part["type"] != "Prepend"]


def _flat(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The parts of a component of tokenizer.json, sequences opened."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [leaf for child in part[name] for leaf in _flat(child, name)]
    return [part]


def _token_bytes(inner: HfTokenizer, state: dict[str, Any], added: dict[str, dict[str, Any]]) -> list[bytes]:
    decoder_types = {part["type"] for part in _flat(state.get("decoder"), "decoders")}
    vocabulary: dict[str, int] = inner.get_vocab(with_added_tokens=True)
    found = [b""] * (max(vocabulary.values(), default=-1) + 1)
    if "ByteLevel" in decoder_types:
        alphabet = byte_alphabet()

        def spell(piece: str) -> bytes:
            return bytes(alphabet[character] for character in piece)

    elif decoder_types & {"ByteFallback", "Metaspace"}:

        def spell(piece: str) -> bytes:
            if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", piece):
                return bytes([int(piece[3:5], 16)])
            return piece.replace("\u2581", " ").encode()

    else:
        raise UnsupportedModel(
            f"the tokenizer decodes with {', '.join(sorted(decoder_types)) or 'nothing'}; "
            "supported: ByteLevel, ByteFallback, Metaspace"
        )
    for piece, token in vocabulary.items():
        if piece in added:
            found[token] = b"" if added[piece]["special"] else piece.encode()
            continue
        try:
            found[token] = spell(piece)
        except KeyError:
            raise BrokenModel(f"token {token} of the tokenizer, {piece!r}, is not written in bytes") from None
    return found


def _byte_tokens(token_bytes: list[bytes]) -> list[int | None]:
    """For each byte, the first token that is just this byte."""
    found: list[int | None] = [None] * 256
    for token, data in enumerate(token_bytes):
        if len(data) == 1 and found[data[0]] is None:
            found[data[0]] = token
    return found
