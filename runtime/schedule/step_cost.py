"""How long a step takes, learned from the steps so far: seconds = fixed + per token · tokens.

A least-squares line over the past, in which every step counts a little less than the one after it. Knows numbers
only.
"""

from __future__ import annotations

MEMORY = 0.97  # weight of a step relative to the next one
LEAST_TOKENS = 16  # prompt tokens that a step may always compute, so that prompts come to an end


class StepCost:
    """Owner of the sums."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._tokens = 0.0
        self._seconds = 0.0
        self._squares = 0.0
        self._products = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """A step that computed `tokens` took this long."""
        self._weight = self._weight * MEMORY + 1
        self._tokens = self._tokens * MEMORY + tokens
        self._seconds = self._seconds * MEMORY + seconds
        self._squares = self._squares * MEMORY + tokens * tokens
        self._products = self._products * MEMORY + tokens * seconds

    def line(self) -> tuple[float, float]:
        """Seconds: fixed, and per token. Where all steps were alike, all of it is taken to be per token, which is
        careful: a line through few different sizes says nothing of larger ones."""
        if not self._tokens:
            return 0.0, 0.0
        mean_tokens, mean_seconds = self._tokens / self._weight, self._seconds / self._weight
        variance = self._squares / self._weight - mean_tokens**2
        slope = (self._products / self._weight - mean_tokens * mean_seconds) / variance if variance > 1 else 0.0
        fixed = mean_seconds - slope * mean_tokens
        if slope <= 0 or fixed < 0:
            return 0.0, mean_seconds / mean_tokens
        return fixed, slope

    def prompt_tokens(self, limit: float, decoding: int) -> int | None:
        """How many prompt tokens fit a step of `limit` seconds in which `decoding` sequences get a token each; None
        while nothing is known."""
        if not self._tokens:
            return None
        fixed, slope = self.line()
        if slope == 0:
            return None
        return max(LEAST_TOKENS, int((limit - fixed) / slope) - decoding)
