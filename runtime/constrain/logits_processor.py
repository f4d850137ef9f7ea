"""A constraint for `transformers.generate`.

    vocabulary = Vocabulary.from_tokenizer(tokenizer, size=model.config.vocab_size)
    automaton = compile_constraint(JsonSchema(schema), vocabulary)
    processor = ConstraintLogitsProcessor(automaton, max_new_tokens=100)
    model.generate(**inputs, logits_processor=[processor], max_new_tokens=100)

Works for batches, sampling and beams: what a row has written is read from its ids, so rows may change places. Nothing
of torch or transformers is imported; the tensors come from the caller and bring their own methods.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from latticework.lang.errors import BudgetTooSmall, InvalidArgument
from latticework.runtime.constrain.automaton import Automaton
from latticework.runtime.constrain.base import Matcher

Written = tuple[int, ...]


class ConstraintLogitsProcessor:
    """Gives every token that the constraint does not allow next the score -inf. For one call of `generate`.

    max_new_tokens: as `generate` is given; then every text is complete by then. Without it a text may be cut.
    """

    def __init__(self, automaton: Automaton, max_new_tokens: int | None = None) -> None:
        self.automaton = automaton
        self.max_new_tokens = max_new_tokens
        shortest = automaton.matcher().shortest()
        if max_new_tokens is not None and shortest > max_new_tokens:
            raise BudgetTooSmall(
                f"max_new_tokens is {max_new_tokens}; the shortest text of the constraint may take {shortest} tokens",
                field="max_new_tokens",
            )
        self._prompt: int | None = None  # tokens of the prompt, padding included
        self._matchers: dict[Written, Matcher | None] = {}  # by what a row has written; None: it is over
        self._row = np.zeros(automaton.vocabulary.words, np.int32)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """input_ids: int64[B, T], scores: float[B, V]. The scores with what is not allowed at -inf; rows that are over
        stay as they are. Raises InvalidArgument for ids that the constraint did not allow."""
        batch, width = scores.shape
        size = self.automaton.vocabulary.size
        if width != size:
            raise InvalidArgument(
                f"the scores are for {width} tokens; the vocabulary has {size}",
                field="vocabulary",
                hint="Vocabulary.from_tokenizer(tokenizer, size=model.config.vocab_size)",
            )
        if self._prompt is None:
            self._prompt = input_ids.shape[1]
        known, self._matchers = self._matchers, {}
        bias = np.zeros((batch, width), np.float32)
        for index, ids in enumerate(input_ids[:, self._prompt :].tolist()):
            written = tuple(ids)
            if written not in self._matchers:
                self._matchers[written] = self._after(written, known)
            matcher = self._matchers[written]
            if matcher is not None:
                remaining = None if self.max_new_tokens is None else self.max_new_tokens - len(written)
                matcher.fill_mask(self._row, remaining)
                allowed = np.unpackbits(self._row.view(np.uint8), count=width, bitorder="little")
                bias[index, allowed == 0] = -np.inf
        return scores + scores.new_tensor(bias)

    def _after(self, written: Written, known: dict[Written, Matcher | None]) -> Matcher | None:
        """The matcher of a row; a row that has ended is only padded from then on."""
        if not written:
            return self.automaton.matcher()
        if written[:-1] not in known:
            raise InvalidArgument("the ids do not continue those of the step before", field="input_ids")
        before = known[written[:-1]]
        if before is None or written[-1] in self.automaton.vocabulary.end_ids:
            return None
        matcher = before.copy()
        if not matcher.accept(written[-1]):
            raise InvalidArgument(f"token {written[-1]} is not allowed by the constraint", field="input_ids")
        return matcher


__all__ = ["ConstraintLogitsProcessor"]
