"""What OpenAI-compatible servers take beyond OpenAI's own API, and how they call it.

A table: nothing here is sent or decided. A field that is not in a server's dialect is not sent to it in the hope that
it helps: asking for it raises Unsupported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from latticework.lang.ir import Choices, Constraint, Gbnf, JsonSchema, Regex

DialectName: TypeAlias = Literal["auto", "openai", "latticework", "vllm", "sglang"]


@dataclass(frozen=True)
class Dialect:
    """sampling: names of further fields by our own. stops: most stop strings. seed_bits: of a seed. chat_tokens: what a
    chat calls max_tokens. defaults: whether a field that is left out has OpenAI's default. scores: completions tell the
    log-probabilities of their prompt (echo). continues: a chat may end inside an assistant's message. best_of: taken.
    schema_in_completions: response_format is taken there, too."""

    name: str
    sampling: Mapping[str, str] = field(default_factory=dict)
    stops: int | None = None
    seed_bits: int = 63
    chat_tokens: str = "max_tokens"
    defaults: bool = False
    scores: bool = False
    continues: bool = False
    best_of: bool = False
    schema_in_completions: bool = True
    top_logprobs: int = 20

    def constraint(self, constraint: Constraint) -> dict[str, Any] | None:
        """Fields that ask for it; None: there are none."""
        match self.name, constraint:
            case _, JsonSchema(_, "compact", "schema", "assert"):
                return {"response_format": _json_schema(constraint)}
            case "latticework", Regex(pattern):
                return {"regex": pattern}
            case "latticework", Choices(options):
                return {"choices": list(options)}
            case "vllm", Regex(pattern):
                return {"structured_outputs": {"regex": pattern}}
            case "vllm", Choices(options):
                return {"structured_outputs": {"choice": list(options)}}
            case "vllm", Gbnf(grammar, "root"):
                return {"structured_outputs": {"grammar": grammar}}
            case "sglang", Regex(pattern):
                return {"regex": pattern}
            case "sglang", Choices(options):
                return {"regex": "(" + "|".join(map(_escaped, options)) + ")"}
            case "sglang", Gbnf(grammar, "root"):
                return {"ebnf": grammar}
        return None


def _json_schema(constraint: JsonSchema) -> dict[str, Any]:
    import json

    schema = json.loads(constraint.text)
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _escaped(text: str) -> str:
    """As a pattern that matches just this: what has a meaning in every syntax, and nothing else, has a backslash."""
    return "".join(f"\\{character}" if character in r"\.^$*+?{}[]()|" else character for character in text)


_COMMON = {
    name: name for name in ("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids")
}

DIALECTS: Mapping[str, Dialect] = {
    "openai": Dialect(
        "openai", stops=4, chat_tokens="max_completion_tokens", defaults=True, schema_in_completions=False
    ),
    "latticework": Dialect(
        "latticework",
        _COMMON | {"stop_regex": "stop_regex", "include_stop": "include_stop"},
        seed_bits=64,
        scores=True,
        best_of=True,
    ),
    "vllm": Dialect("vllm", _COMMON | {"include_stop": "include_stop_str_in_output"}, scores=True, continues=True),
    "sglang": Dialect(
        "sglang",
        _COMMON | {"stop_regex": "stop_regex", "include_stop": "no_stop_trim"},
        scores=True,
        continues=True,
    ),
}


def dialect_of(models: Any, model: str) -> Dialect:
    """The dialect of a server by its answer to `GET /models`: what it says who owns the model."""
    listed = models.get("data") if isinstance(models, dict) else None
    cards = [card for card in listed if isinstance(card, dict)] if isinstance(listed, list) else []
    chosen = next((card for card in cards if card.get("id") == model), cards[0] if cards else {})
    return DIALECTS.get(str(chosen.get("owned_by")), DIALECTS["openai"])
