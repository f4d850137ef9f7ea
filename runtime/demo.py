"""The program that `latticework demo` runs: an extraction, a choice, and two branches on one shared prefix."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass

from rich.console import Console
from rich.rule import Rule
from rich.syntax import Syntax

import latticework as lw
from latticework.runtime.config import EngineConfig
from latticework.runtime.terminal import started, usage_line, values_table

MAIL = "Hello, I am Anna Berg. My order 4711, a red bicycle, came 9 days late and the bell is broken. Please refund me."
SEED = 7


@dataclass
class Complaint:
    customer: str
    product: str
    order_number: int
    days_late: int
    wants_refund: bool


@lw.function
def triage(s: lw.State, mail: str) -> None:
    s += lw.system("You read the mail of a shop and answer exactly.")
    s += lw.user(f"{mail}\n\nWrite the complaint as JSON.")
    s += lw.assistant(lw.gen("complaint", schema=Complaint, max_tokens=80))
    s += lw.user("Which team should answer it?")
    s += lw.assistant(lw.select("team", ["shipping", "marketing", "kitchen"]))
    drafts = s.fork(2)
    for draft, tone in zip(drafts, ["formal", "friendly"], strict=True):
        draft += lw.user(f"Write one {tone} sentence to say sorry to the customer.")
        draft += lw.assistant(lw.gen("reply", max_tokens=40, stop="\n"))
    drafts.join()


def show_demo(engine: EngineConfig) -> None:
    """Runs it at temperature 0 and shows source, text, values and tokens."""
    console = Console(highlight=False)
    console.print(Rule("the program", align="left"))
    source = f"{inspect.getsource(Complaint)}\n\n{inspect.getsource(triage.body)}"
    console.print(Syntax(source.strip(), "python", background_color="default"))
    with started(engine) as backend:
        start = time.perf_counter()
        state = triage.run(MAIL, temperature=0, seed=SEED, backend=backend)
        seconds = time.perf_counter() - start
        console.print(Rule("its text; bold is the model's, coloured is constrained", align="left"))
        console.print(lw.show_run(state), soft_wrap=True)
        console.print(Rule("its values", align="left"))
        console.print(values_table(state))
        console.print(Rule("its cost", align="left"))
        console.print(usage_line(state, seconds))
