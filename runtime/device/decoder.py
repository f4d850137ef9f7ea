"""Which sequences decode on the device, in which of its rows, and what it has to be told of them.

    plan ──▶ works that decode one token each ──▶ rows: kept, moved into holes, or written anew ──▶ Flight
        └──▶ all others: the runner and the host's sampler, as on a CPU

A sequence that stays needs nothing but the numbers of its new pages: its token, state and counts go on in the device.
So the next step can be launched before this one's tokens are known (`goes_ahead`). What the device cannot do is counted
by its reason in `by_host`. This file knows rows by number; it imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latticework.runtime.constrain.automaton import ConstraintMatcher
from latticework.runtime.constrain.base import Pause
from latticework.runtime.constrain.healing import HealingMatcher
from latticework.runtime.device.flight import Flight, Flown
from latticework.runtime.device.row import (
    FREE,
    MOST_BARRED,
    MOST_CHANGED,
    MOST_LOGPROBS,
    barred_until,
    changed_tokens,
    is_changed,
    row_of,
)
from latticework.runtime.device.sizes import Shape
from latticework.runtime.device.tables import NO_TABLE, Placed, Tables
from latticework.runtime.request import GenSegment
from latticework.runtime.schedule.automata import Automata
from latticework.runtime.schedule.pieces import Pieces
from latticework.runtime.schedule.plan import Plan, Work
from latticework.runtime.schedule.sequence import Output, Sequence

if TYPE_CHECKING:
    from latticework.runtime.device.steps import DecodeSteps

HEALED = "healed text"
LOGPROBS = (0, 5, MOST_LOGPROBS)  # how many of the likeliest a step tells: as many as are wanted, or a few more


@dataclass(slots=True)
class Resident:
    """A sequence in a row. turn, output: the sequence's when it came; length: its tokens, those under way included;
    pages: so many of them are on the device. key: of its constraint; listed: at most so many tokens are in its list of
    changes."""

    sequence: Sequence
    turn: int
    output: Output
    length: int
    key: str | None
    is_barred: bool
    listed: int
    pages: int = 0

    def is_at(self, position: int) -> bool:
        """The row's next input is the token at this position, of the same gen."""
        sequence = self.sequence
        return self.turn == sequence.turn and self.output is sequence.output and self.length == position + 1


class DeviceDecoder:
    """Owner of who is in which row. overlaps: a step may be launched before the one before has landed."""

    def __init__(self, steps: DecodeSteps, automata: Automata, pieces: Pieces, pace: Pause, overlaps: bool) -> None:
        self.overlaps = overlaps
        self.by_host: Counter[str] = Counter()  # tokens that the host draws, by why the device does not
        self.drawn = 0  # tokens that the device was asked for, and of these for nothing
        self.surplus = 0
        self.tables = Tables(steps, automata, pieces, pace, self._is_used)
        self._steps = steps
        self._residents: list[Resident | None] = []  # by row; None: nobody's
        self._rows: dict[Sequence, int] = {}
        self._page_table = np.full((steps.rows, steps.pages), steps.scratch, np.int32)  # as the device has it
        self._lengths = np.zeros(steps.rows, np.int64)
        self._is_unknown = False  # what the device has, as something went wrong

    def _is_used(self, key: str) -> bool:
        return any(resident is not None and resident.key == key for resident in self._residents)

    # ------------------------------------------------------------ what the scheduler asks

    def takes(self, sequence: Sequence) -> bool:
        """Its next token is drawn on the device, whatever the host's masks."""
        return sequence.output is not None and self._refusal(sequence) is None

    def goes_ahead(self, sequence: Sequence) -> bool:
        """The token after those under way is drawn on the device, before anybody knows those."""
        output = sequence.output
        if output is None or not self.overlaps:
            return False
        return output.remaining > sequence.ahead and self._refusal(sequence) is None

    def _refusal(self, sequence: Sequence) -> str | None:
        """Why the device cannot draw the next token of a gen."""
        output = sequence.output
        assert output is not None
        resident = self._resident(sequence)
        if resident is not None and resident.is_at(len(sequence.tokens) + sequence.ahead - 1):
            return "many penalised tokens" if resident.listed >= MOST_CHANGED else None
        if output.unspelled:
            return HEALED
        if output.matcher is not None:
            found = self._table(sequence, output)
            if isinstance(found, str):
                return found
        if (output.sampling.logprobs or 0) > MOST_LOGPROBS:
            return "many log-probabilities"
        if len(barred_until(output)) > MOST_BARRED:
            return "many barred tokens"
        if is_changed(output.sampling) and len(changed_tokens(output)) >= MOST_CHANGED:
            return "many penalised tokens"
        return None

    def _table(self, sequence: Sequence, output: Output) -> Placed | str:
        key = _key(sequence)
        if key is None or isinstance(output.matcher, HealingMatcher):
            return HEALED
        return self.tables.find(key) if isinstance(output.matcher, ConstraintMatcher) else NO_TABLE

    def _resident(self, sequence: Sequence) -> Resident | None:
        row = self._rows.get(sequence)
        return None if row is None else self._residents[row]

    # ------------------------------------------------------------ a step

    def launch(self, plan: Plan) -> Flight | None:
        """Takes the works that the device can do out of the plan, and does them. None: there are none. If that goes
        wrong, it is the plan's failure of their sequences."""
        works = list(plan.works)
        try:
            works = self._select(plan)
            if not works and not self._residents:
                return None
            self._seat(works)
            return self._fly(works) if works else None
        except Exception as error:
            self._is_unknown = True
            for work in works:
                plan.fail(work.sequence, error)
            return None

    def _fly(self, works: list[Work]) -> Flight:
        residents = [self._residents[self._rows[work.sequence]] for work in works]
        self._write_pages(works)
        results = self._steps.launch(
            self._shape([one for one in residents if one is not None]),
            self._page_table,
            self._lengths,
            np.arange(len(works)),
        )
        flown = []
        for work, resident in zip(works, residents, strict=True):
            assert resident is not None
            resident.length += 1
            resident.listed += resident.listed >= 0
            work.sequence.ahead += 1
            asked = resident.output.sampling.logprobs
            flown.append(Flown(work, self._rows[work.sequence], resident.turn, asked))
        self.drawn += len(works)
        return Flight(flown, results)

    def _select(self, plan: Plan) -> list[Work]:
        copied = {id(work.source.work) for work in plan.works}
        chosen: list[Work] = []
        for work in plan.works:
            if work.scoring is not None or work.sequence.output is None or work.entry.logits == work.prompt_rows:
                continue  # it draws nothing
            reason = _kind(work, id(work) in copied) or self._refusal(work.sequence)
            if reason is None:
                chosen.append(work)
            else:
                assert not work.is_ahead, "the host cannot go on from a token that only the device knows"
                self.by_host[reason] += 1
        taken = set(map(id, chosen))
        plan.works = [work for work in plan.works if id(work) not in taken]
        return chosen

    def _seat(self, works: list[Work]) -> None:
        """Gives every work's sequence a row, the first ones; all others become nobody's."""
        if self._is_unknown:
            self._residents, self._rows = [], {}
            self._steps.reset(range(self._steps.rows))
            self._is_unknown = False
        staying = {
            work.sequence
            for work in works
            if (resident := self._resident(work.sequence)) is not None and resident.is_at(work.entry.start)
        }
        occupied = len(self._residents)
        self._residents += [None] * (len(works) - occupied)
        for row, resident in enumerate(self._residents):
            if resident is not None and resident.sequence not in staying:
                del self._rows[resident.sequence]
                self._residents[row] = None
        holes = [row for row in range(len(works)) if self._residents[row] is None]
        for row in range(len(works), len(self._residents)):
            if self._residents[row] is not None:
                self._move(row, holes.pop(0))
        self._steps.reset(range(len(works), occupied))
        self._page_table[len(works) : occupied] = self._steps.scratch
        del self._residents[len(works) :]
        self._write([work for work in works if work.sequence not in staying], holes)

    def _move(self, source: int, target: int) -> None:
        resident = self._residents[source]
        assert resident is not None
        self._residents[target], self._residents[source] = resident, None
        self._rows[resident.sequence] = target
        self._page_table[target] = self._page_table[source]
        self._steps.move(source, target)

    def _write(self, works: list[Work], holes: list[int]) -> None:
        """Tells the device of those that come."""
        rows = []
        for work, place in zip(works, holes, strict=True):
            sequence = work.sequence
            output = sequence.output
            assert output is not None
            assert sequence.ahead == 0, "a row whose token only the device knows was given up"
            key, state = None, FREE
            if output.matcher is not None:
                key, found = _key(sequence), self._table(sequence, output)
                assert isinstance(found, Placed)
                inside = found.table.walk(output.text.data)
                assert inside >= 0, "the text is not one of its constraint"
                state = found.base + inside
            row = row_of(sequence, state)
            rows.append(row)
            self._residents[place] = Resident(
                sequence, sequence.turn, output, len(sequence.tokens), key, row.barred is not None, row.listed
            )
            self._rows[sequence] = place
        self._steps.write(holes, rows)

    def _write_pages(self, works: list[Work]) -> None:
        """Tells the device of new pages, and remembers them."""
        cells: list[tuple[int, int, int]] = []
        for work in works:
            row = self._rows[work.sequence]
            resident = self._residents[row]
            assert resident is not None
            self._lengths[row] = work.entry.start + 1
            pages = work.entry.pages
            if len(pages) > resident.pages:
                cells += [(row, at, pages[at]) for at in range(resident.pages, len(pages))]
                self._page_table[row, resident.pages : len(pages)] = pages[resident.pages :]
                resident.pages = len(pages)
        self._steps.write_pages(cells)

    def _shape(self, residents: list[Resident]) -> Shape:
        asked = [resident.output.sampling for resident in residents]
        most = max((-1 if sampling.logprobs is None else sampling.logprobs for sampling in asked), default=-1)
        longest = int(self._lengths[: len(residents)].max())
        return Shape(
            rows=len(residents),
            pages=-(-longest // self._steps.page_size),
            masks=any(resident.key is not None for resident in residents),
            bars=any(resident.is_barred for resident in residents),
            changes=any(map(is_changed, asked)),
            logprobs=next(count for count in (-1, *LOGPROBS) if count >= most),
        )

    # ------------------------------------------------------------ proof

    def check(self, running: Iterable[Sequence]) -> None:
        """Proves that every row has one sequence, and that the pages of those that run are those the device knows."""
        self.tables.check()
        held = {resident.sequence: row for row, resident in enumerate(self._residents) if resident is not None}
        assert held == self._rows
        for sequence in running:
            resident = self._resident(sequence)
            if resident is not None and resident.is_at(len(sequence.tokens) + sequence.ahead - 1):
                row = held[sequence]
                known = self._page_table[row, : resident.pages].tolist()
                assert known == sequence.pages[: resident.pages], "the device has other pages"
                assert len(sequence.pages) >= resident.pages, "the device has pages that were given back"


def _kind(work: Work, is_copied: bool) -> str | None:
    """Why a work that draws a token is no decode of the device."""
    if work.draft.tokens:
        return "guessed tokens"
    if len(work.entry.tokens) > 1 or work.prompt_rows:
        return "prompt"
    return "shared prompt" if work.source.work is not None or is_copied else None


def _key(sequence: Sequence) -> str | None:
    segment = sequence.request.chain[sequence.segment]
    assert isinstance(segment, GenSegment)
    return segment.constraint
