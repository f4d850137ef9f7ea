"""One engine of constrained decoding under the harness: `python constraint_worker.py ENGINE JOB FIRST RUNS`.

A process of its own, because a rival may crash, hang or live in another interpreter: beyond the engine it needs numpy
alone. JOB is a JSON file (see `constraint_cases.py`). Each case from FIRST on is written to stdout as JSON lines: the
stage it is in, then its result. All times are CPU nanoseconds; the garbage collector is off while they are taken.
"""

from __future__ import annotations

import base64
import gc
import importlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.int32]
Case = dict[str, Any]
WALK_TOKENS = 200


class Job(NamedTuple):
    """tokens: what each id writes. tokenizer: the text of its tokenizer.json."""

    tokens: list[bytes]
    end_ids: tuple[int, ...]
    tokenizer: str
    cases: list[Case]


class Refused(Exception):
    """The engine does not take the constraint; where it says so, the place."""

    def __init__(self, reason: str, pointer: str | None = None) -> None:
        super().__init__(reason)
        self.pointer = pointer


class Engine(Protocol):
    """One adapter. `compile` returns what every matcher starts from; kind: json, regex, lark or gbnf. `forget` drops
    what earlier cases left behind, so that each begins cold."""

    def forget(self) -> None: ...
    def compile(self, kind: str, source: Any) -> Any: ...
    def matcher(self, compiled: Any) -> Any: ...
    def fill(self, matcher: Any, row: Row) -> None: ...
    def accept(self, matcher: Any, token: int) -> bool: ...
    def is_complete(self, matcher: Any) -> bool: ...


class Latticework:
    def __init__(self, job: Job) -> None:
        ir = importlib.import_module("latticework.lang.ir")  # nothing of it is there in a rival's interpreter
        constrain = importlib.import_module("latticework.runtime.constrain")
        self._compile = constrain.compile_constraint
        self._error: type[Exception] = importlib.import_module("latticework.lang.errors").ConstraintError
        self._vocabulary = constrain.Vocabulary(job.tokens, job.end_ids).warm()
        self._kinds: dict[str, Callable[[Any], Any]] = {
            "json": lambda schema: ir.JsonSchema(schema, whitespace="flexible", key_order="schema", formats="assert"),
            "regex": ir.Regex,
            "lark": lambda text: ir.Lark(text),
            "gbnf": lambda text: ir.Gbnf(text),
        }

    def forget(self) -> None:
        self._vocabulary.forget()

    def compile(self, kind: str, source: Any) -> Any:
        try:
            return self._compile(self._kinds[kind](source), self._vocabulary)
        except self._error as error:
            raise Refused(str(error), getattr(error, "pointer", None)) from None

    def matcher(self, compiled: Any) -> Any:
        return compiled.matcher()

    def fill(self, matcher: Any, row: Row) -> None:
        matcher.fill_mask(row)

    def accept(self, matcher: Any, token: int) -> bool:
        return bool(matcher.accept(token))

    def is_complete(self, matcher: Any) -> bool:
        return bool(matcher.is_complete())


class Llguidance:
    def __init__(self, job: Job) -> None:
        llguidance = importlib.import_module("llguidance")
        self._make = llguidance.LLMatcher
        # It takes forced text as the tokenizer would write it, so it has to have the real one.
        self._general = llguidance.LLTokenizer(job.tokenizer, n_vocab=len(job.tokens), eos_token=job.end_ids)
        self._json = self._general.with_slices(llguidance.LLTokenizer.json_slices())

    def forget(self) -> None:
        """Nothing is kept from case to case."""

    def compile(self, kind: str, source: Any) -> Any:
        make = self._make
        grammars = {
            "json": lambda: make.grammar_from_json_schema(source, defaults={"whitespace_flexible": True}),
            "regex": lambda: make.grammar_from_regex(source),
            "lark": lambda: make.grammar_from_lark(source),
        }
        if kind not in grammars:
            raise Refused(f"no {kind}")
        try:
            matcher = make(self._json if kind == "json" else self._general, grammars[kind](), log_level=0)
        except ValueError as error:
            raise Refused(str(error)) from None
        if matcher.is_error():
            raise Refused(matcher.get_error())
        return matcher

    def matcher(self, compiled: Any) -> Any:
        return compiled.deep_copy()

    def fill(self, matcher: Any, row: Row) -> None:
        matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)

    def accept(self, matcher: Any, token: int) -> bool:
        return bool(matcher.consume_token(token))

    def is_complete(self, matcher: Any) -> bool:
        return bool(matcher.is_accepting())


class Xgrammar:
    def __init__(self, job: Job) -> None:
        torch, xgrammar = importlib.import_module("torch"), importlib.import_module("xgrammar")

        torch.set_num_threads(1)
        self._module, self._from_numpy = xgrammar, torch.from_numpy
        vocabulary = xgrammar.TokenizerInfo(
            job.tokens, xgrammar.VocabType.RAW, vocab_size=len(job.tokens), stop_token_ids=list(job.end_ids)
        )
        self._compiler = xgrammar.GrammarCompiler(vocabulary, max_threads=1)

    def forget(self) -> None:
        """Nothing is kept from case to case."""

    def compile(self, kind: str, source: Any) -> Any:
        compiler = self._compiler
        try:
            match kind:
                case "json":
                    text = json.dumps(source)
                    return compiler.compile_json_schema(text, any_whitespace=True, strict_mode=False)
                case "regex":
                    return compiler.compile_regex(source)
                case "gbnf":
                    return compiler.compile_grammar(source)
        except Exception as error:  # each version has its own types
            raise Refused(str(error)) from None
        raise Refused(f"no {kind}")

    def matcher(self, compiled: Any) -> Any:
        return self._module.GrammarMatcher(compiled)

    def fill(self, matcher: Any, row: Row) -> None:
        matcher.fill_next_token_bitmask(self._from_numpy(row.reshape(1, -1)))

    def accept(self, matcher: Any, token: int) -> bool:
        return bool(matcher.accept_token(token))

    def is_complete(self, matcher: Any) -> bool:
        return bool(matcher.is_completed())


class OutlinesCore:
    def __init__(self, job: Job) -> None:
        outlines_core = importlib.import_module("outlines_core")

        ids: dict[bytes | str, list[int]] = {}
        for index, token in enumerate(job.tokens):
            if token:
                ids.setdefault(token, []).append(index)
        self._module = outlines_core
        self._vocabulary = outlines_core.Vocabulary(job.end_ids[0], ids)

    def forget(self) -> None:
        """Nothing is kept from case to case."""

    def compile(self, kind: str, source: Any) -> Any:
        try:
            if kind == "json":
                source = self._module.json_schema.build_regex_from_schema(
                    json.dumps(source), self._module.json_schema.WHITESPACE
                )
            elif kind != "regex":
                raise Refused(f"no {kind}")
            return self._module.Index(source, self._vocabulary)
        except (ValueError, TypeError) as error:
            raise Refused(str(error)) from None

    def matcher(self, compiled: Any) -> Any:
        return self._module.Guide(compiled)

    def fill(self, matcher: Any, row: Row) -> None:
        matcher.write_mask_into(row.ctypes.data, row.size, row.itemsize)

    def accept(self, matcher: Any, token: int) -> bool:
        try:
            matcher.advance(token, return_tokens=False)
        except ValueError:
            return False
        return True

    def is_complete(self, matcher: Any) -> bool:
        return bool(matcher.is_finished())


ENGINES: dict[str, Callable[[Job], Engine]] = {
    "latticework": Latticework,
    "llguidance": Llguidance,
    "xgrammar": Xgrammar,
    "outlines_core": OutlinesCore,
}


class Harness:
    """One engine over the cases of a job."""

    def __init__(self, engine: Engine, job: Job, say: Callable[[dict[str, Any]], None]) -> None:
        self._engine = engine
        self._size = len(job.tokens)
        self._end_ids = list(job.end_ids)
        self._row = np.zeros(-(-self._size // 32), np.int32)
        self._say = say

    def case(self, number: int, case: Case, runs: int) -> dict[str, Any]:
        """The result of one case: medians of `runs`, each of which compiles anew."""
        taken = []
        for _ in range(runs):
            gc.collect()
            gc.disable()
            try:
                taken.append(self._run(number, case))
            except Refused as error:
                return {"error": str(error), "pointer": error.pointer}
            finally:
                gc.enable()
        result: dict[str, Any] = {"verdicts": taken[0]["verdicts"], "deaths": taken[0]["deaths"]}
        if any(run["verdicts"] != result["verdicts"] for run in taken):
            result["unstable"] = True
        for name in ("compile", "ttfm", "cold", "warm", "accepts", "walk"):
            shortest = min(len(run[name]) for run in taken)
            result[name] = np.median([run[name][:shortest] for run in taken], axis=0).astype(int).tolist()
        return result

    def _run(self, number: int, case: Case) -> dict[str, Any]:
        engine, row = self._engine, self._row
        engine.forget()
        self._say({"case": number, "stage": "compile"})
        began = time.process_time_ns()  # of the process: some compile in threads of their own
        compiled = engine.compile(case["kind"], case["source"])
        compile_time = time.process_time_ns() - began
        matcher = engine.matcher(compiled)
        first_began = time.thread_time_ns()
        engine.fill(matcher, row)
        first = time.thread_time_ns() - first_began
        ttfm = time.process_time_ns() - began
        self._say({"case": number, "stage": "masks"})
        cold, warm, accepts = [first], list[int](), list[int]()
        verdicts, deaths = [], []
        for test in case["tests"]:
            forms = [self._judge(compiled, tokens, cold, accepts) for tokens in test["forms"]]
            verdicts.append([death is None for death in forms])
            deaths.append(forms)
        if len(cold) > 1:
            del cold[1]  # the first mask again, which is no longer cold
        for test in case["tests"]:
            for tokens in test["forms"]:
                self._judge(compiled, tokens, warm, [])
        walk = list(self._walk(compiled, number)) if case.get("walk") else []
        return {
            "compile": [compile_time], "ttfm": [ttfm], "cold": cold, "warm": warm, "accepts": accepts, "walk": walk,
            "verdicts": verdicts, "deaths": deaths,
        }  # fmt: skip

    def _judge(self, compiled: Any, tokens: list[int], times: list[int], accepts: list[int]) -> int | None:
        """Where the text is refused: the place of the token, or len(tokens) where the end is; None: accepted."""
        engine, row, clock = self._engine, self._row, time.thread_time_ns
        fill, accept = engine.fill, engine.accept
        matcher = engine.matcher(compiled)
        for place, token in enumerate(tokens):
            began = clock()
            fill(matcher, row)
            times.append(clock() - began)
            if not row.item(token >> 5) >> (token & 31) & 1:
                return place
            began = clock()
            is_accepted = accept(matcher, token)
            accepts.append(clock() - began)
            if not is_accepted:
                return place
        return None if engine.is_complete(matcher) else len(tokens)

    def _walk(self, compiled: Any, seed: int) -> Iterator[int]:
        """Random tokens on the masks."""
        engine, row, rng = self._engine, self._row, random.Random(seed)
        matcher = engine.matcher(compiled)
        for _ in range(WALK_TOKENS):
            began = time.thread_time_ns()
            engine.fill(matcher, row)
            yield time.thread_time_ns() - began
            bits = np.unpackbits(row.view(np.uint8), bitorder="little")[: self._size]
            bits[self._end_ids] = 0
            choices = np.flatnonzero(bits)
            if not len(choices) or not engine.accept(matcher, int(rng.choice(choices))):
                return


def main() -> None:
    name, path, first, runs = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    out = sys.stdout
    sys.stdout = sys.stderr  # for engines that print

    def say(line: dict[str, Any]) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    tokens = [base64.b64decode(token) for token in data["tokens"]]
    job = Job(tokens, tuple(data["end_ids"]), data["tokenizer"], data["cases"])
    harness = Harness(ENGINES[name](job), job, say)
    for number in range(first, len(job.cases)):
        result = harness.case(number, job.cases[number], runs)
        say({"case": number, "stage": "done", "result": result})


if __name__ == "__main__":
    main()
