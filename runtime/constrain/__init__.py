"""Constrained decoding: a constraint and a vocabulary in, token masks out.

    automaton = compile_constraint(Regex(r"[0-9]{4}"), Vocabulary.from_tokenizer(tokenizer))
    matcher = automaton.matcher()
    matcher.fill_mask(row)      # int32[ceil(V / 32)]
    matcher.accept(token)

Works without the rest of the runtime and without torch.
"""

from latticework.runtime.constrain.automaton import Automaton
from latticework.runtime.constrain.base import Limits, Matcher, Row
from latticework.runtime.constrain.batch import fill_masks
from latticework.runtime.constrain.compile import compile_constraint, to_rules
from latticework.runtime.constrain.logits_processor import ConstraintLogitsProcessor
from latticework.runtime.constrain.rules import RuleGraph, decode_rules, encode_rules
from latticework.runtime.constrain.vocabulary import Vocabulary

__all__ = [
    "Automaton",
    "ConstraintLogitsProcessor",
    "Limits",
    "Matcher",
    "Row",
    "RuleGraph",
    "Vocabulary",
    "compile_constraint",
    "decode_rules",
    "encode_rules",
    "fill_masks",
    "to_rules",
]
