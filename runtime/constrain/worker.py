"""The compiling child: `python -m latticework.runtime.constrain.worker`.

Reads jobs from standard input and answers each on standard output, one at a time, until the input ends, as it does
when the parent dies. It holds itself to the limits of memory and time of each job, and runs at a low priority, given
as its argument, so that the model's threads come first. Frames are a four-byte big-endian length and msgpack.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from typing import BinaryIO, Literal, TypeAlias

import msgspec

from latticework.lang.errors import ConstraintError, ErrorData, LatticeworkError, RuntimeFailure
from latticework.lang.ir import Constraint
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import OutOfTime
from latticework.runtime.constrain.compile import to_rules
from latticework.runtime.constrain.rules import encode_rules

HEADER = struct.Struct(">I")


class Job(msgspec.Struct, frozen=True, tag="job", forbid_unknown_fields=True):
    constraint: Constraint
    limits: Limits


class Compiled(msgspec.Struct, frozen=True, tag="compiled", forbid_unknown_fields=True):
    """rules: an encoded RuleGraph. resident: bytes of memory that the child has come to hold; 0: not known."""

    rules: bytes
    resident: int = 0


Reason: TypeAlias = Literal["constraint", "time", "memory", "fault"]


class Failed(msgspec.Struct, frozen=True, tag="failed", forbid_unknown_fields=True):
    """reason: what was at fault. Only a fault of the constraint itself is there again the next time."""

    error: ErrorData
    reason: Reason = "constraint"
    resident: int = 0


Answer: TypeAlias = Compiled | Failed

_jobs = msgspec.msgpack.Decoder(Job)


def answer(frame: bytes) -> Answer:
    """What becomes of one job. Never raises for what a job holds."""
    limits = Limits()
    try:
        job = _jobs.decode(frame)
        limits = job.limits
        return Compiled(encode_rules(to_rules(job.constraint, limits)))
    except OutOfTime as error:
        return Failed(error.to_data(), "time")
    except LatticeworkError as error:
        return Failed(error.to_data())
    except (MemoryError, RecursionError) as error:
        message = f"compiling the constraint needs more than the limit `memory_mb`, {limits.memory_mb} ({error!r})"
        return Failed(ConstraintError(message).to_data(), "memory")
    except Exception as error:  # our own fault, but it must not end the child
        return Failed(RuntimeFailure(f"compiling the constraint failed: {error!r}").to_data(), "fault")


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame; None at the end of the input."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    frame = stream.read(size)
    return frame if len(frame) == size else None


def serve(frame: bytes) -> Answer:
    """`answer` within the job's limit of memory."""
    with contextlib.suppress(msgspec.DecodeError, ValueError):  # `answer` says so
        _limit_memory(_jobs.decode(frame).limits.memory_mb << 20)
    return msgspec.structs.replace(answer(frame), resident=_resident())


def _resident() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return 0


def _limit_memory(most: int) -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system: the time limit alone holds
        return
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _give_way(niceness: int) -> None:
    """niceness: the last one, 19, means "only where nobody else would run", which Linux takes by its word: a merely
    nice process ends its slice of some 3 ms before a thread of the model that wakes up beside it. So a compiler waits
    as long as others of its session keep all cores busy."""
    with contextlib.suppress(OSError):
        os.nice(niceness)
        if niceness >= 19 and sys.platform == "linux":
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main() -> None:
    _give_way(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing printed by accident may land between frames
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        data = msgspec.msgpack.encode(serve(frame))
        answers.write(HEADER.pack(len(data)) + data)
        answers.flush()


if __name__ == "__main__":
    main()
