"""How a select decides: pure functions on log-probabilities.

A method takes, for every option, the natural log-probabilities of that option's tokens after the shared prefix, and
returns a `Decision`. Every token counts, one of exactly 0.0 (probability 1) too. This file knows no tokens, no model
and no text. The first three methods are SGLang's, by its names.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from latticework.lang.errors import InvalidArgument
from latticework.lang.ir import SelectMethod

Logprobs: TypeAlias = Sequence[Sequence[float]]
"""By option, by token."""


class Decision(NamedTuple):
    """The index of the chosen option, and one score per option, higher is likelier by the method. probabilities: of
    each option after the prefix, given that it is one of them: exp(sum of its log-probabilities), normalised."""

    chosen: int
    scores: tuple[float, ...]
    probabilities: tuple[float, ...] = ()


class ChoicesDecision(NamedTuple):
    """A decision as SGLang's methods return it. meta_info: what went in, and the method's numbers."""

    decision: str
    meta_info: dict[str, Any]


# ---------------------------------------------------------------- scores


def mean_scores(logprobs: Logprobs) -> tuple[float, ...]:
    """The mean log-probability of each option's tokens. Long options that predict themselves win more often than their
    probability says: Brown et al. 2020 (GPT-3), section 2.4, and SGLang issue 523."""
    return tuple(math.fsum(option) / len(option) for option in logprobs)


def sum_scores(logprobs: Logprobs) -> tuple[float, ...]:
    """ln P(option | prefix), of the tokens that the option is encoded to."""
    return tuple(map(math.fsum, logprobs))


def lifted_scores(logprobs: Logprobs, unconditional: Sequence[float]) -> tuple[float, ...]:
    """The mean, over each option's tokens, of log-probability minus log-probability without the prefix: Brown et al.
    2020, section 2.4. unconditional: the sum of the latter, by option; the first token, which then nothing predicts,
    counts 0."""
    return tuple(
        -math.inf if -math.inf in option else (math.fsum(option) - alone) / len(option)
        for option, alone in zip(logprobs, unconditional, strict=True)
    )


def padded_matrix(logprobs: Logprobs) -> list[list[float]]:
    """A row for each option, as long as the longest: short ones are filled up with their mean."""
    longest = max(map(len, logprobs))
    pairs = zip(logprobs, mean_scores(logprobs), strict=True)
    return [[*option, *[mean] * (longest - len(option))] for option, mean in pairs]


def rounds_survived(logprobs: Logprobs) -> tuple[float, ...]:
    """Token by token, only the likeliest of the options that are left stay: how many tokens each has stayed for."""
    matrix = padded_matrix(logprobs)
    survived = [0.0] * len(matrix)
    left = list(range(len(matrix)))
    for column in range(len(matrix[0])):
        best = max(matrix[row][column] for row in left)
        left = [row for row in left if matrix[row][column] == best]
        for row in left:
            survived[row] += 1.0
    return tuple(survived)


# ---------------------------------------------------------------- decisions


def likeliest(scores: Sequence[float]) -> int:
    """The index of the highest score; ties go to the lower index."""
    return max(range(len(scores)), key=scores.__getitem__)


def normalised(scores: Sequence[float], temperature: float = 1.0) -> tuple[float, ...]:
    """softmax(scores / temperature); where the highest is infinite, of either sign, those that have it share alike."""
    highest = max(scores)
    if math.isinf(highest):
        weights = [float(score == highest) for score in scores]
    else:
        weights = [math.exp((score - highest) / temperature) for score in scores]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def draw(probabilities: Sequence[float], seed: int) -> int:
    """An index, by inverse CDF: a pure function of the seed."""
    digest = hashlib.blake2b(b"select" + seed.to_bytes(8, "little"), digest_size=8).digest()
    uniform = (int.from_bytes(digest, "little") >> 11) / (1 << 53)
    below = 0.0
    for index, probability in enumerate(probabilities):
        below += probability
        if uniform < below:
            return index
    return likeliest(probabilities)  # rounding: the sum stayed below u


def decide(
    method: SelectMethod,
    logprobs: Logprobs,
    unconditional: Sequence[float] = (),
    temperature: float = 0.0,
    seed: int = 0,
) -> Decision:
    """The decision of the named method; at a temperature above 0, drawn from softmax(scores / temperature).

    unconditional: see `lifted_scores`, the only one that needs it."""
    assert logprobs, "a Select has at least one option"
    assert all(logprobs), "an option has at least one token"
    assert not any(math.isnan(number) for option in logprobs for number in option), "a log-probability is no number"
    sums = sum_scores(logprobs)
    match method:
        case "token_length_normalized":
            scores = mean_scores(logprobs)
        case "greedy_token_selection":
            scores = rounds_survived(logprobs)
        case "unconditional_likelihood_normalized":
            scores = lifted_scores(logprobs, unconditional)
        case "probability":
            scores = sums
    chosen = likeliest(scores) if temperature == 0.0 else draw(normalised(scores, temperature), seed)
    return Decision(chosen, scores, normalised(sums))


# ---------------------------------------------------------------- SGLang's objects


class ChoicesSamplingMethod:
    """A method as programs name it: `select(..., choices_method=token_length_normalized)`. `name` is the IR's.

    Called with SGLang's arguments it decides on numbers at hand, and returns a ChoicesDecision. They are: choices;
    input_token_logprobs, of each option the list of its tokens as [logprob, id, text];
    normalized_prompt_logprobs, their means, only looked at by token_length_normalized, which computes them where they
    are left out; unconditional_token_logprobs, the same as input_token_logprobs but without the prefix, whose first
    logprob may be None; output_token_logprobs, kept as they are.
    """

    def __init__(self, name: SelectMethod, numbers: Callable[[Logprobs, dict[str, Any]], tuple[float, ...]]) -> None:
        self.name: SelectMethod = name
        self._numbers = numbers

    def __call__(
        self,
        *,
        choices: Sequence[str],
        input_token_logprobs: Sequence[Sequence[Sequence[Any]]],
        normalized_prompt_logprobs: Sequence[float] | None = None,
        output_token_logprobs: Sequence[Any] | None = None,
        unconditional_token_logprobs: Sequence[Sequence[Sequence[Any]]] | None = None,
    ) -> ChoicesDecision:
        logprobs = [[float(token[0]) for token in option] for option in input_token_logprobs]
        if not choices or len(logprobs) != len(choices) or not all(logprobs):
            raise InvalidArgument(
                f"{len(choices)} choices, {len(logprobs)} lists of log-probabilities; expected one list for each, none "
                "empty",
                field="input_token_logprobs",
            )
        meta: dict[str, Any] = {
            "normalized_prompt_logprobs": list(normalized_prompt_logprobs or mean_scores(logprobs)),
            "input_token_logprobs": input_token_logprobs,
            "output_token_logprobs": output_token_logprobs,
        }
        if unconditional_token_logprobs is not None:
            meta["unconditional_token_logprobs"] = unconditional_token_logprobs
        return ChoicesDecision(choices[likeliest(self._numbers(logprobs, meta))], meta)

    def __repr__(self) -> str:
        return f"<select method {self.name}>"


def _means(logprobs: Logprobs, meta: dict[str, Any]) -> tuple[float, ...]:
    return tuple(meta["normalized_prompt_logprobs"])


def _rounds(logprobs: Logprobs, meta: dict[str, Any]) -> tuple[float, ...]:
    meta["greedy_logprob_matrix"] = padded_matrix(logprobs)
    return rounds_survived(logprobs)


def _lifted(logprobs: Logprobs, meta: dict[str, Any]) -> tuple[float, ...]:
    given = meta.get("unconditional_token_logprobs")
    if given is None or len(given) != len(logprobs):
        raise InvalidArgument(
            "unconditional_likelihood_normalized needs the options' log-probabilities without the prefix",
            field="unconditional_token_logprobs",
        )
    alone = [math.fsum(token[0] or 0.0 for token in option) for option in given]
    scores = meta["normalized_unconditional_prompt_logprobs"] = list(lifted_scores(logprobs, alone))
    return tuple(scores)


token_length_normalized = ChoicesSamplingMethod("token_length_normalized", _means)
"""The option with the highest mean log-probability of its tokens."""

greedy_token_selection = ChoicesSamplingMethod("greedy_token_selection", _rounds)
"""The option that greedy decoding among the options would write, token by token."""

unconditional_likelihood_normalized = ChoicesSamplingMethod("unconditional_likelihood_normalized", _lifted)
"""The option whose tokens the prefix makes likelier than they are without it, by the mean over its tokens."""

probability = ChoicesSamplingMethod("probability", lambda logprobs, meta: sum_scores(logprobs))
"""The option with the highest probability; at temperature 1, drawn exactly as the model would draw among them."""
