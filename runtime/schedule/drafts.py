"""Guesses of the next tokens, which one step of the model then checks: text that a constraint forces, and text that
follows what was just written wherever that stood before.

A guess changes no token: every row of logits is drawn from as if there had been no guess, and what was drawn decides
how much of it stays. So a guess costs rows of a step and saves whole steps.

    drawn so far   {"name":"Yuki"          forced: ,"age":     guess: [,"] [age] [":]
    step           last token + guess      rows: 4             drawn: [,"] [age] [":] [2]  four tokens, one step

Other engines jump over forced text; here the model's own draws decide where one of its tokens ends and the next
begins. This file draws nothing and owns no pages.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Literal, NamedTuple, TypeAlias

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.base import Matcher
from latticework.runtime.schedule.lookup import Lookup
from latticework.runtime.schedule.masks import Masks
from latticework.runtime.schedule.sequence import Output, Sequence

DraftKinds: TypeAlias = Literal["off", "forced", "all"]
MAX_DRAFT = 32  # tokens of one guess
FORCED_BYTES = 8 * MAX_DRAFT  # of forced text that are looked at: tokens are shorter as a rule
CONTEXT_BYTES = 24  # of the text before forced bytes, looked at for where the tokenizer would cut
_SPELLINGS_KEPT = 4096


class Draft(NamedTuple):
    """The tokens that may come next. is_forced: a constraint leaves no other text."""

    tokens: tuple[int, ...] = ()
    is_forced: bool = False


NOTHING = Draft()


class Drafts:
    """Makes guesses. What it learns of a text is kept with the sequence.

    encode: tokens that spell bytes. token_bytes: what each token spells. masks: whose rows a guess needs.
    """

    def __init__(
        self, kinds: DraftKinds, encode: Callable[[bytes], list[int]], token_bytes: Many[bytes], masks: Masks
    ) -> None:
        self._kinds = kinds
        self._encode = encode
        self._token_bytes = token_bytes
        self._masks = masks
        self.drafted = 0  # tokens guessed so far, and of these drawn as guessed
        self.accepted = 0
        self._spellings: OrderedDict[tuple[bytes, bytes], tuple[int, ...]] = OrderedDict()

    def propose(self, sequence: Sequence, room: int, is_roomy: bool) -> Draft:
        """What may come after the sequence's last token: at most `room` tokens, each of which its constraint allows
        and after each of which the mask is ready. is_roomy: guesses that may well be wrong are welcome too."""
        output = sequence.output
        if self._kinds == "off" or output is None or output.unspelled:  # healed: the model chooses where it cuts
            return NOTHING
        room = min(room, MAX_DRAFT, output.remaining - 1)  # the step draws one more
        if room <= 0:
            return NOTHING
        if output.matcher is not None:
            forced = _forced(output.matcher)
            if forced:
                tokens = self._masks.ready_along(sequence, self._spell(output, forced)[:room], True)
                return Draft(tokens, True)
        if self._kinds != "all" or not is_roomy:
            return NOTHING
        return Draft(self._masks.ready_along(sequence, self._look_up(sequence, room), False))

    def learn(self, sequence: Sequence, draft: Draft, accepted: int) -> None:
        """How many tokens of a guess were drawn as guessed."""
        sequence.drafted += len(draft.tokens)
        sequence.accepted += accepted
        self.drafted += len(draft.tokens)
        self.accepted += accepted
        if not draft.is_forced and sequence.lookup is not None:
            sequence.lookup.learn(len(draft.tokens), accepted, len(sequence.tokens))

    def forget(self) -> None:
        """Drops the spellings that are kept. They are small, but made among all that constraints need for a while, so
        each keeps a piece of memory that is otherwise free."""
        self._spellings.clear()

    def _look_up(self, sequence: Sequence, room: int) -> tuple[int, ...]:
        if sequence.lookup is None:
            sequence.lookup = Lookup()
        return sequence.lookup.continuation(sequence.tokens, room)

    # ------------------------------------------------------------ forced text

    def _spell(self, output: Output, forced: bytes) -> tuple[int, ...]:
        """Forced bytes as the tokenizer cuts them behind the text so far, where a token begins with them there; else
        as it cuts them alone."""
        before = self._last_bytes(output)
        found = self._spellings.get((before, forced))
        if found is None:
            found = self._spellings[before, forced] = self._cut(before, forced)
            if len(self._spellings) > _SPELLINGS_KEPT:
                self._spellings.popitem(last=False)
        else:
            self._spellings.move_to_end((before, forced))
        return found

    def _last_bytes(self, output: Output) -> bytes:
        """The last whole tokens of the output, in bytes. What is before the output was encoded by itself."""
        size = 0
        pieces: list[bytes] = []
        for token in reversed(output.text.tokens):
            if size >= CONTEXT_BYTES:
                break
            pieces.append(self._token_bytes[token])
            size += len(pieces[-1])
        return b"".join(reversed(pieces))

    def _cut(self, before: bytes, forced: bytes) -> tuple[int, ...]:
        tokens = self._encode(before + forced)
        at = 0
        for index, token in enumerate(tokens):
            if at == len(before):
                return tuple(tokens[index:])
            at += len(self._token_bytes[token])
        return tuple(self._encode(forced))


def _forced(matcher: Matcher) -> bytes:
    """What surely follows. Nothing where looking for it leads into what is too ambiguous: the text may never come
    there."""
    try:
        return matcher.forced(FORCED_BYTES)
    except ConstraintError:
        return b""
