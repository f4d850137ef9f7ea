"""A compiled constraint over one vocabulary, and one sequence's place in it.

`Automaton` is shared by every sequence under one constraint; it owns everything that is built lazily: terminals,
frames, rows. A `ConstraintMatcher` is one sequence's config in it. Both live in one thread. What the contract
promises is written in `base.py`; how configs come about, in `frames.py`; rows, in `rows.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.base import Pause, Row, never_pause
from latticework.runtime.constrain.clock import Clock, Late
from latticework.runtime.constrain.expressions import Expressions
from latticework.runtime.constrain.frames import Config, Frames
from latticework.runtime.constrain.healing import HealingMatcher
from latticework.runtime.constrain.parts import Parts
from latticework.runtime.constrain.places import States
from latticework.runtime.constrain.rows import Rows
from latticework.runtime.constrain.rules import RuleGraph
from latticework.runtime.constrain.search import AutomatonSearch
from latticework.runtime.constrain.suffixes import Suffixes
from latticework.runtime.constrain.vocabulary import Vocabulary

ROW_CACHE_BYTES = 64 << 20
STATE_BYTES = 64 << 20  # all states are forgotten, and made again as needed, beyond this
FORCED_BYTES = 4096  # `forced` looks no further


class Automaton:
    """A constraint over one vocabulary.

    row_cache_bytes: memory for cached rows; the least recently used go first. is_live: the rules come straight from a
    `Builder`, so that no part of them is without text; what came over a wire is looked through again. pause: called
    while the automaton, a state or a row is made; another row may not be asked for until that one is there.
    Raises ConstraintError when the vocabulary cannot write any text of the language.
    """

    def __init__(
        self,
        rules: RuleGraph,
        vocabulary: Vocabulary,
        row_cache_bytes: int = ROW_CACHE_BYTES,
        *,
        is_live: bool = False,
        pause: Pause = never_pause,
    ) -> None:
        self.vocabulary = vocabulary
        self._rows_under_way = 0
        self._expressions = Expressions(rules, vocabulary, is_live, pause)
        standard = vocabulary.standard
        if standard is None:
            self._suffixes = Suffixes(vocabulary.trie)
            self.frames = Frames(self._expressions, vocabulary, self._suffixes)
            parts = Parts(vocabulary, self._suffixes)
        else:
            self._suffixes = Suffixes(vocabulary.trie, standard.suffixes)
            known = standard.recognise(self._expressions.nodes)
            self.frames = Frames(self._expressions, vocabulary, self._suffixes, known)
            parts = Parts(vocabulary, self._suffixes, standard.parts)
        self.rows = Rows(self.frames, vocabulary, self._suffixes, row_cache_bytes, parts, pause)

    def matcher(self) -> ConstraintMatcher:
        """A fresh matcher at the start of the text."""
        return ConstraintMatcher(self)

    def healing_matcher(self, prefix: bytes) -> HealingMatcher:
        """A fresh matcher before the prefix."""
        return HealingMatcher(self.vocabulary, prefix, ConstraintMatcher(self))

    def search(self) -> AutomatonSearch:
        """A fresh search at the start of the output. Raises ConstraintError if the empty text is a match."""
        return AutomatonSearch(self)

    @property
    def states(self) -> States:
        """The DFA of a constraint that is regular. Raises ConstraintError for others."""
        if not self.frames.is_regular:
            raise ConstraintError("the constraint is not regular")
        return self.frames.terminal(self._expressions.root).states

    @property
    def cached_bytes(self) -> int:
        """Memory held by cached rows and states."""
        return self.rows.nbytes + self.frames.nbytes + self._suffixes.nbytes

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While a row is made, which may pause, so that others are begun, ended or told of meanwhile."""
        self._rows_under_way += 1
        try:
            yield
        finally:
            self._rows_under_way -= 1

    @property
    def is_at_work(self) -> bool:
        """A row is being made."""
        return self._rows_under_way > 0

    def forget(self) -> bool:
        """Drops cached rows and states; matchers go on, and make what they need again. False, and nothing is dropped,
        while a row is being made: what it has come to is still needed."""
        if self.is_at_work:
            return False
        self.frames.forget()
        self.rows.forget()
        self._suffixes.forget()
        return True

    def tidy(self) -> None:
        """Forgets everything if it has grown too much."""
        if self.frames.nbytes > STATE_BYTES:
            self.forget()


class ConstraintMatcher:
    """One sequence's place in its constraint: see `base.Matcher`."""

    __slots__ = ("_automaton", "_config", "_history")

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._history: list[Config | None] = []  # configs before each accepted token
        self._config: Config | None = automaton.frames.start  # None: an end token was accepted

    def fill_mask(self, row: Row, remaining: int | None = None) -> None:
        config = self._config
        if config is None:
            row[:] = 0
            return
        rows = self._automaton.rows
        with self._automaton.at_work():
            cached = rows.get(config)
            if remaining is None or remaining >= cached.need:
                row[:] = cached.words
            else:
                row[:] = rows.filtered(config, remaining)

    def row_below(self, node: int, remaining: int | None = None) -> Row:
        """The tokens below a node of the vocabulary's trie whose bytes from there on are allowed next; a new row.
        remaining: as in `fill_mask`."""
        config = self._config
        if config is None:
            return np.zeros(self._automaton.vocabulary.words, np.int32)
        with self._automaton.at_work():
            return self._automaton.rows.below(config, node, remaining)

    def prepare(self, deadline: float) -> bool:
        config, rows = self._config, self._automaton.rows
        if config is None or rows.has(config):
            return True
        return self._prepare(lambda clock: rows.get(config, clock), deadline)

    def prepare_below(self, node: int, deadline: float) -> bool:
        """`prepare` for `row_below`."""
        config, rows = self._config, self._automaton.rows
        if config is None or rows.has_below(config, node):
            return True
        return self._prepare(lambda clock: rows.following(config, node, clock), deadline)

    def _prepare(self, make: Callable[[Clock], object], deadline: float) -> bool:
        clock = Clock(deadline)
        if clock.is_late() or self._automaton.is_at_work:
            return False
        try:
            with self._automaton.at_work():
                make(clock)
        except Late:
            return False
        return True

    def accept(self, token: int) -> bool:
        config = self._config
        vocabulary = self._automaton.vocabulary
        if config is None or not 0 <= token < vocabulary.size:
            return False
        if token in vocabulary.end_ids:
            if not config.is_complete:
                return False
            self._history.append(config)
            self._config = None
            return True
        return self.accept_bytes(vocabulary.tokens[token])

    def accept_bytes(self, text: bytes) -> bool:
        """Moves over bytes, at least one, as over one token; False and no change if they are not allowed."""
        config = self._config
        if config is None or not text:
            return False
        step = self._automaton.frames.step
        here = config
        for byte in text:
            following = here.steps[byte] if byte in here.steps else step(here, byte)
            if following is None:
                return False
            here = following
        self._history.append(config)
        self._config = here
        if not len(self._history) & 63:
            self._automaton.tidy()
        return True

    def rollback(self, count: int) -> None:
        assert 0 <= count <= len(self._history)
        if count:
            self._config = self._history[-count]
            del self._history[-count:]

    def forced(self, most: int | None = None) -> bytes:
        """The longest byte string that every completion begins with, up to `most`, else FORCED_BYTES."""
        most = FORCED_BYTES if most is None else most
        text = bytearray()
        config = self._config
        frames = self._automaton.frames
        while config is not None and len(text) < most:
            byte = frames.only_byte(config)
            if byte is None:
                break
            text.append(byte)
            config = frames.step(config, byte)
        return bytes(text)

    def is_complete(self) -> bool:
        return self._config is None or self._config.is_complete

    def is_finished(self) -> bool:
        return self._config is None or not self._config.threads

    def shortest(self) -> int:
        return 0 if self._config is None else self._config.cost

    def copy(self) -> ConstraintMatcher:
        twin = ConstraintMatcher.__new__(ConstraintMatcher)
        twin._automaton = self._automaton
        twin._history = self._history.copy()
        twin._config = self._config
        return twin
