"""A constraint -> its rule graph -> an automaton.

`to_rules` is a pure function without a vocabulary: a killable child runs it. `compile_constraint` does everything
in this process, for use without the runtime.
"""

from __future__ import annotations

from latticework.lang.errors import ConstraintError, GrammarError, RegexError, SchemaError
from latticework.lang.ir import After, Choices, Constraint, Gbnf, JsonSchema, Lark, Regex, Triggered
from latticework.runtime.constrain.automaton import Automaton
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import Builder
from latticework.runtime.constrain.choices import build_choices
from latticework.runtime.constrain.gbnf import build_gbnf
from latticework.runtime.constrain.json_schema import build_json_schema
from latticework.runtime.constrain.regex import build_regex
from latticework.runtime.constrain.rules import RuleGraph
from latticework.runtime.constrain.triggered import build_after, build_triggered
from latticework.runtime.constrain.vocabulary import Vocabulary

_DEEPEST = 16  # constraints inside of constraints


def to_rules(constraint: Constraint, limits: Limits | None = None) -> RuleGraph:
    """The byte expressions of `constraint`. Raises ConstraintError, RegexError, SchemaError or GrammarError: invalid,
    unsupported, beyond a limit, or satisfied by no text."""
    limits = limits or Limits()
    builder = Builder(limits, "constraint")
    root = _build(builder, constraint, limits, 0)
    builder.field = field_of(constraint)
    rules = builder.finish(root)
    if rules is None:
        raise _without_text(constraint)
    return rules


def _build(builder: Builder, constraint: Constraint, limits: Limits, depth: int) -> int:
    """The node of `constraint`, which may stand inside of another."""
    if depth > _DEEPEST:
        raise ConstraintError(f"constraints nest more than {_DEEPEST} deep", field="constraint")
    builder.field = field_of(constraint)
    match constraint:
        case Regex(pattern):
            return build_regex(builder, pattern, limits)
        case Choices(options):
            return build_choices(builder, options, limits)
        case JsonSchema():
            return build_json_schema(builder, constraint, limits)
        case Lark():
            # Here, because only those who use such grammars need lark.
            from latticework.runtime.constrain.lark_grammar import build_lark

            return build_lark(builder, constraint, limits)
        case Gbnf():
            return build_gbnf(builder, constraint, limits)
        case After():
            return build_after(builder, constraint, lambda inner: _build(builder, inner, limits, depth + 1))
        case Triggered():
            return build_triggered(builder, constraint, lambda inner: _build(builder, inner, limits, depth + 1))
        case _:
            raise ConstraintError(f"{type(constraint).__name__} is no kind of constraint", field="constraint")


def field_of(constraint: Constraint) -> str:
    """The argument that errors of a kind of constraint name."""
    match constraint:
        case JsonSchema():
            return "json_schema"
        case _:
            return type(constraint).__name__.lower()


def _without_text(constraint: Constraint) -> ConstraintError:
    field = field_of(constraint)
    match constraint:
        case Regex():
            return RegexError("no text matches the pattern", field=field, position=0)
        case JsonSchema():
            return SchemaError("no JSON value satisfies the schema", field=field, pointer="")
        case Lark(_, start) | Gbnf(_, start):
            return GrammarError(f"the rule {start} derives no text", field=field, position=0)
        case _:
            return ConstraintError("no text satisfies the constraint", field=field)


def compile_constraint(constraint: Constraint, vocabulary: Vocabulary, limits: Limits | None = None) -> Automaton:
    """The automaton of `constraint` over `vocabulary`; errors as `to_rules`, or a text that no token can write."""
    return Automaton(to_rules(constraint, limits), vocabulary, is_live=True)
