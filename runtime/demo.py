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
from latticework.runtime.terminal import run_text, started, usage_line, values_table

MAIL = "Hello, my name is Anna Berg. I would like to order 3 red bicycles. Please send them by express."
TASKS = ("Write a subject line for our answer.", "Write one sentence to thank the customer.")
SEED = 7


@dataclass
class Order:
    customer: str
    quantity: int
    product: str
    express: bool


@lw.function
def read_mail(s: lw.State, mail: str) -> None:
    s += lw.system("You answer the mail of a shop.")
    s += lw.user(f"{mail}\n\nWrite the order as JSON.")
    s += lw.assistant(lw.gen("order", schema=Order, max_tokens=60))
    s += lw.user("Is this mail an order, a complaint or a question?")
    s += lw.assistant("It is " + lw.select("kind", ["an order", "a complaint", "a question"]) + ".")
    branches = s.fork(len(TASKS))
    for branch, task in zip(branches, TASKS, strict=True):
        branch += lw.user(task)
        branch += lw.assistant(lw.gen("draft", max_tokens=40, stop="\n"))
    branches.join()


def show_demo(engine: EngineConfig) -> None:
    """Runs it at temperature 0 and shows source, text, values and tokens."""
    console = Console(highlight=False)
    console.print(Rule("the program", align="left"))
    source = f"{inspect.getsource(Order)}\n\n{inspect.getsource(read_mail.body)}"
    console.print(Syntax(source.strip(), "python", background_color="default", word_wrap=True))
    with started(engine) as backend:
        start = time.perf_counter()
        state = read_mail.run(MAIL, temperature=0, seed=SEED, backend=backend)
        seconds = time.perf_counter() - start
        console.print(Rule("its text; bold is the model's, coloured is constrained", align="left"))
        console.print(run_text(state), soft_wrap=True)
        console.print(Rule("its values", align="left"))
        console.print(values_table(state))
        console.print(Rule("its cost", align="left"))
        console.print(usage_line(state, seconds))
