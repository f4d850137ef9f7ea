"""A constraint -> its rule graph -> an automaton.

`to_rules` is a pure function without a vocabulary: a killable child runs it. `compile_constraint` does everything
in this process, for use without the runtime.
"""

from __future__ import annotations

from latticework.lang.errors import ConstraintError, RegexError, SchemaError
from latticework.lang.ir import Choices, Constraint, JsonSchema, Regex
from latticework.runtime.constrain.automaton import Automaton
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import NEVER, Builder
from latticework.runtime.constrain.choices import build_choices
from latticework.runtime.constrain.json_schema import build_json_schema
from latticework.runtime.constrain.regex import build_regex
from latticework.runtime.constrain.rules import RuleGraph
from latticework.runtime.constrain.vocabulary import Vocabulary


def to_rules(constraint: Constraint, limits: Limits | None = None) -> RuleGraph:
    """The byte expressions of `constraint`. Raises ConstraintError, RegexError or SchemaError: invalid, unsupported,
    beyond a limit, or satisfied by no text."""
    limits = limits or Limits()
    match constraint:
        case Regex(pattern):
            builder = Builder(limits, "regex")
            root = build_regex(builder, pattern, limits)
            if root == NEVER:
                raise RegexError("no text matches the pattern", field="regex", position=0)
        case Choices(options):
            builder = Builder(limits, "choices")
            root = build_choices(builder, options, limits)
        case JsonSchema():
            builder = Builder(limits, "json_schema")
            root = build_json_schema(builder, constraint, limits)
            if root == NEVER:
                raise SchemaError("no JSON value satisfies the schema", field="json_schema", pointer="")
        case _:
            raise ConstraintError(f"{type(constraint).__name__} is no kind of constraint", field="constraint")
    rules = builder.finish(root)
    if rules is None:
        raise ConstraintError("no text satisfies the constraint", field=builder.field)
    return rules


def compile_constraint(constraint: Constraint, vocabulary: Vocabulary, limits: Limits | None = None) -> Automaton:
    """The automaton of `constraint` over `vocabulary`; errors as `to_rules`, or a text that no token can write."""
    return Automaton(to_rules(constraint, limits), vocabulary)
