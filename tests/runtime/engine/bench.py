"""A tiny engine under test: every step is followed by `check()`, every event is kept.

Knows how to build engines and tokenizers for tests, and what a dense forward pass says. No sockets.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import msgspec
import numpy as np
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer
from torch import Tensor

from latticework.lang.errors import ConstraintError
from latticework.lang.ir import Sampling
from latticework.runtime.attention import make_attention
from latticework.runtime.attention.base import KVCache
from latticework.runtime.cache.kv import allocate_kv
from latticework.runtime.config import EngineConfig
from latticework.runtime.constrain import Vocabulary
from latticework.runtime.constrain.base import Matcher, Row
from latticework.runtime.engine import Engine, Runner
from latticework.runtime.model.decoder import Decoder
from latticework.runtime.model.runner import ModelRunner
from latticework.runtime.model.tiny import SPEC, tiny_weights
from latticework.runtime.request import GenSegment, Request, Segment, SelectSegment, TextSegment, TokenEvent
from latticework.runtime.schedule.batch import Batch, Entry, build_batch
from latticework.runtime.text.tokenizer import BYTES_ONLY_SPECIAL, END_OF_TEXT, Tokenizer, byte_alphabet

MERGES = 90

torch.set_num_threads(1)  # a second thread costs these tiny matrices more than it computes


@functools.cache
def byte_tokenizer() -> Tokenizer:
    return Tokenizer.bytes_only()


@functools.cache
def merged_tokenizer() -> Tokenizer:
    """Bytes, special tokens, and tokens of two or three printable bytes after them."""
    alphabet = byte_alphabet()
    random = np.random.default_rng(5)
    pieces = list("abcdefghijklmnop Ġ")
    pieces.remove(" ")
    vocabulary = dict(alphabet)
    merges: list[tuple[str, str]] = []
    while len(merges) < MERGES:
        left, right = str(random.choice(pieces)), str(random.choice(pieces))
        if len(left + right) <= 3 and left + right not in vocabulary:
            merges.append((left, right))
            vocabulary[left + right] = len(vocabulary)
            pieces.append(left + right)
    inner = HfTokenizer(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in BYTES_ONLY_SPECIAL])
    return Tokenizer(inner.to_str())


@functools.cache
def model_for(vocab_size: int) -> Decoder:
    """The tiny model in float64; tokens past the bytes are as likely as printable ones."""
    spec = msgspec.structs.replace(SPEC, vocab_size=vocab_size)
    model = Decoder(spec, torch.float64)
    weights = dict(tiny_weights(spec))
    weights["lm_head.weight"][256:] *= 3.0
    model.load(weights.items())
    return model.eval()


def dense_logits(tokens: Sequence[int], tokenizer: Tokenizer | None = None) -> Tensor:
    """What the model says after each token, computed in one piece: [T, V] float64."""
    model = model_for(vocab_size_of(tokenizer or byte_tokenizer()))
    kv = allocate_kv(model.spec, 1, len(tokens), torch.float64)
    runner = ModelRunner(model, make_attention("torch", "cpu"), kv)
    return runner.run(build_batch([Entry(list(tokens), 0, [0], len(tokens))], len(tokens)))


def vocab_size_of(tokenizer: Tokenizer) -> int:
    return len(tokenizer) + 5


@functools.cache
def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    ends = (tokenizer.special[END_OF_TEXT], tokenizer.special["<|im_end|>"])
    return Vocabulary(tokenizer.padded(vocab_size_of(tokenizer)), ends)


class ScriptedRunner:
    """A model that always continues with the script: after position i comes script[i + 1]."""

    def __init__(self, script: Sequence[int], vocab_size: int, pages: int = 64, page_size: int = 4) -> None:
        self.kv: KVCache = allocate_kv(SPEC, pages, page_size, torch.float64)
        self.script = list(script)
        self.seen: list[list[int]] = []
        self._vocab_size = vocab_size

    def run(self, batch: Batch) -> Tensor:
        self.seen.append(batch.tokens.tolist())
        logits = torch.zeros(len(batch.logit_rows), self._vocab_size, dtype=torch.float64)
        for row, at in enumerate(batch.logit_rows):
            logits[row, self.script[batch.positions[at] + 1]] = 50.0
        return logits


class FiniteAutomaton:
    """A constraint to exactly the given strings, by looking at all of them. For byte-level vocabularies."""

    def __init__(self, options: Sequence[bytes], tokens: Sequence[bytes], end_ids: Sequence[int]) -> None:
        self.options = options
        self.tokens = tokens
        self.end_ids = end_ids
        self.cached_bytes = 0
        self.cold = 0  # how many calls of prepare come too early
        self.prepared = 0
        self.forgotten = 0

    def matcher(self) -> FiniteMatcher:
        return FiniteMatcher(self)

    def healing_matcher(self, prefix: bytes) -> Matcher:
        raise NotImplementedError("constraints behind healed text are tested with real automata")

    def search(self) -> FiniteSearch:
        return FiniteSearch(self.options)

    def forget(self) -> bool:
        self.cached_bytes = 0
        self.forgotten += 1
        return True


class FiniteSearch:
    """Looks for the options in all of the bytes so far, each time."""

    def __init__(self, options: Sequence[bytes]) -> None:
        self.options = options
        self.text = b""

    def feed(self, byte: int) -> int | None:
        self.text += bytes([byte])
        return max((len(option) for option in self.options if self.text.endswith(option)), default=None)

    @property
    def held(self) -> int:
        sizes = range(len(self.text) + 1)
        return max(n for n in sizes if not n or any(o.startswith(self.text[-n:]) for o in self.options))

    def copy(self) -> FiniteSearch:
        twin = FiniteSearch(self.options)
        twin.text = self.text
        return twin


class FiniteMatcher:
    def __init__(self, automaton: FiniteAutomaton) -> None:
        self.automaton = automaton
        self.accepted: list[int] = []

    def _following(self, token: int | None = None) -> list[tuple[bytes, int]]:
        """Every option that still fits, and how many of its bytes are left."""
        tokens = self.accepted if token is None else [*self.accepted, token]
        text = b"".join(self.automaton.tokens[t] for t in tokens)
        return [(option, len(option) - len(text)) for option in self.automaton.options if option.startswith(text)]

    def _left(self, token: int | None = None) -> list[int]:
        return [left for _, left in self._following(token)]

    def fill_mask(self, row: Row, remaining: int | None = None) -> None:
        row[:] = 0
        for token, data in enumerate(self.automaton.tokens):
            left = self._left(token) if data else []
            allowed = bool(left) and (remaining is None or min(left) <= remaining - 1)
            if allowed or (token in self.automaton.end_ids and self.is_complete()):
                row[token // 32] |= np.uint32(1 << token % 32).astype(np.int32)

    def prepare(self, deadline: float) -> bool:
        if deadline <= 0:
            return self.automaton.cold == 0  # a question only
        self.automaton.prepared += 1
        if self.automaton.cold > 0:
            self.automaton.cold -= 1
            return False
        return True

    def accept(self, token: int) -> bool:
        if token in self.automaton.end_ids:
            return self.is_complete()
        if not self._left(token):
            return False
        self.accepted.append(token)
        return True

    def rollback(self, count: int) -> None:
        del self.accepted[len(self.accepted) - count :]

    def forced(self, most: int | None = None) -> bytes:
        texts = [option[-left:] if left else b"" for option, left in self._following()]
        same = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
        return bytes(letters[0] for letters in same)[:most]

    def is_complete(self) -> bool:
        return 0 in self._left()

    def is_finished(self) -> bool:
        return self._left() == [0]

    def shortest(self) -> int:
        return min(self._left())

    def copy(self) -> FiniteMatcher:
        twin = FiniteMatcher(self.automaton)
        twin.accepted = list(self.accepted)
        return twin


class Bench:
    """One engine and what it has said. Options are EngineConfig's; kv_tokens and page_size size the pool."""

    def __init__(
        self,
        tokenizer: Tokenizer | None = None,
        runner: Callable[[Runner], Runner] | Runner | None = None,
        **options: Any,
    ) -> None:
        self.config = EngineConfig(
            **{"model": "tiny", "dtype": "float64", "kv_tokens": 2048, "page_size": 4, **options}
        )
        self.tokenizer = tokenizer or byte_tokenizer()
        model = model_for(vocab_size_of(self.tokenizer))
        self.end_ids = (self.tokenizer.special[END_OF_TEXT], self.tokenizer.special["<|im_end|>"])
        self.automata: list[FiniteAutomaton] = []
        own = self._runner(model)
        chosen: Runner = own if runner is None else runner(own) if callable(runner) else runner
        self.engine = Engine(
            self.config,
            chosen,
            self.tokenizer,
            self._build,
            model.spec,
            self.end_ids,
            self.config.dtype,
            vocabulary_of(self.tokenizer),
        )
        self.events: dict[tuple[bytes | str, int], list[TokenEvent]] = {}
        self._ids = itertools.count()

    def _runner(self, model: Decoder) -> ModelRunner:
        assert self.config.kv_tokens is not None
        pages = self.config.kv_tokens // self.config.page_size
        kv = allocate_kv(model.spec, pages, self.config.page_size, torch.float64)
        return ModelRunner(model, make_attention("torch", "cpu"), kv)

    def _build(self, rules: bytes) -> FiniteAutomaton:
        """Rules are a JSON list of strings here."""
        options = json.loads(rules)
        if not isinstance(options, list):
            raise ConstraintError("not a list")
        encoded = [option.encode() for option in options]
        self.automata.append(
            FiniteAutomaton(encoded, self.tokenizer.padded(vocab_size_of(self.tokenizer)), self.end_ids)
        )
        return self.automata[-1]

    # ------------------------------------------------------------ asking

    def text(self, text: str) -> TextSegment:
        tokens, head, head_tokens = self.tokenizer.encode_pieces([(text, True)])
        return TextSegment(tuple(tokens), head, head_tokens)

    def select(self, *options: str) -> SelectSegment:
        return SelectSegment(tuple(tuple(self.tokenizer.encode(option)) for option in options))

    def define(self, key: str, *options: str) -> None:
        self.engine.define("a", key, json.dumps(options).encode())
        self.engine.pieces.go_on(60.0)  # it is made at once

    def submit(self, *chain: str | Segment, owner: bytes | str = "a", **fields: Any) -> int:
        """Plain strings are text segments. Returns the request's id."""
        number = next(self._ids)
        segments = tuple(self.text(part) if isinstance(part, str) else part for part in chain)
        assert self.engine.submit(owner, Request(number, segments, **fields)) is None
        self.events[owner, number] = []
        return number

    def step(self) -> None:
        for owner, events in self.engine.step().items():
            for event in events:
                self.events.setdefault((owner, event.request), []).append(event)
        self.engine.check()

    def run(self, limit: int = 3000) -> None:
        for _ in range(limit):
            if not self.engine.has_work():
                return
            self.step()
        raise AssertionError("the engine does not come to an end")

    # ------------------------------------------------------------ what came back

    def final(self, number: int, owner: bytes | str = "a") -> TokenEvent:
        """The final event; there is one, and it is the last."""
        events = self.events[owner, number]
        assert [event.final for event in events] == [False] * (len(events) - 1) + [True]
        return events[-1]

    def tokens(self, number: int, segment: int | None = None, owner: bytes | str = "a") -> list[int]:
        events = self.events[owner, number]
        return [t for event in events if segment in (None, event.segment) for t in event.tokens]

    def data(self, number: int, segment: int | None = None, owner: bytes | str = "a") -> bytes:
        events = self.events[owner, number]
        return b"".join(event.data for event in events if segment in (None, event.segment))

    def end(self, number: int, segment: int) -> TokenEvent:
        """The event that ended a segment."""
        (event,) = (e for e in self.events["a", number] if e.segment == segment and e.end is not None)
        return event

    def assert_all_free(self) -> None:
        """Nothing is held any more: after a flush every page is free."""
        self.engine.flush_cache()
        self.engine.check()
        assert self.engine.pool.free_count == self.engine.pool.total


def greedy(max_tokens: int = 8, **fields: Any) -> GenSegment:
    return gen(max_tokens=max_tokens, temperature=0.0, **fields)


def gen(constraint: str | None = None, on_length: Any = "close", **fields: Any) -> GenSegment:
    return GenSegment(Sampling(**{"seed": 1, **fields}), constraint, on_length)
