"""What the variables of one run of a stored program say, as text.

Arguments are there from the start; what an op draws, once it has its Done; what a Set says, when its parts are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from latticework.lang.errors import ErrorData, ProgramError, from_data
from latticework.lang.events import Done
from latticework.lang.ir import Arg, Program, Ref, Set, Text
from latticework.lang.passes import op_at

Place = tuple[int, int]


class Values:
    """program: linked."""

    def __init__(self, program: Program, arguments: Mapping[str, str]) -> None:
        self._program = program
        self._arguments = arguments
        self._said: dict[Place, tuple[str, ...] | ErrorData] = {}
        self._news: dict[Place, asyncio.Event] = {}

    def put(self, done: Done) -> None:
        """An op has its text, or one for each of its outputs."""
        texts = tuple(sample.text for sample in done.samples) or (done.text,)
        self._say((done.branch, done.position), texts)

    def fail(self, place: Place, error: ErrorData) -> None:
        """An op will have none."""
        self._say(place, error)

    def _say(self, place: Place, said: tuple[str, ...] | ErrorData) -> None:
        self._said.setdefault(place, said)
        if place in self._news:
            self._news.pop(place).set()

    def is_known(self, piece: Text | Arg | Ref) -> bool:
        """Whether `text` has nothing to wait for."""
        if not isinstance(piece, Ref):
            return True
        source = op_at(self._program, piece.op)
        if isinstance(source, Set):
            return all(map(self.is_known, source.value))
        return piece.op in self._said

    async def text(self, piece: Text | Arg | Ref) -> str:
        """Waits for it. Raises why there is none."""
        match piece:
            case Text(text):
                return text
            case Arg(name):
                if name not in self._arguments:
                    raise ProgramError(f"the call gives no argument {name!r}", field=name)
                return self._arguments[name]
            case Ref():
                source = op_at(self._program, piece.op)
                if isinstance(source, Set):
                    return "".join([await self.text(part) for part in source.value])
                return await self._output(piece)

    async def _output(self, ref: Ref) -> str:
        assert ref.op is not None, "the program is linked"
        while ref.op not in self._said:
            await self._news.setdefault(ref.op, asyncio.Event()).wait()
        said = self._said[ref.op]
        if isinstance(said, ErrorData):
            raise from_data(said)
        if ref.sample >= len(said):
            raise ProgramError(f"there is no output {ref.sample} of {ref.name!r}, which has {len(said)}")
        return said[ref.sample]
