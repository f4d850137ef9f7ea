"""What SGLang's `RuntimeEndpoint` sends and reads, call by call: the same routes, bodies, headers and arithmetic.

Written from a description of its behaviour; its client is not installed here.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

Entry = list[Any]

RUN_DEFAULTS: dict[str, Any] = {
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "max_new_tokens": 128,
    "min_new_tokens": 0,
    "n": 1,
    "stop": [],
    "stop_token_ids": [],
    "stop_regex": [],
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "ignore_eos": False,
    "regex": None,
    "json_schema": None,
}
"""The sampling_params of a run that sets nothing."""


class EndpointClient:
    """It asks for the model as soon as it is made, and raises RuntimeError with the body of any answer but 200."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url
        self.api_key = api_key
        self.model_info = json.loads(self._request("/get_model_info"))

    # ------------------------------------------------------------ what a program calls

    def generate(self, text: str, fields: dict[str, Any] | None = None, **params: Any) -> tuple[str, dict[str, Any]]:
        answer = self._generate({"text": text, "sampling_params": RUN_DEFAULTS | params} | (fields or {}))
        return answer["text"], answer["meta_info"]

    def generate_stream(
        self, text: str, fields: dict[str, Any] | None = None, **params: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        body = {"text": text, "sampling_params": RUN_DEFAULTS | params, **(fields or {}), "stream": True}
        position = 0
        for line in self._request("/generate", body).decode().split("\n"):
            if line == "data: [DONE]":
                break
            if line.startswith("data:"):
                told = json.loads(line[5:])
                new = told["text"][position:]
                position += len(new)
                yield new, told["meta_info"]

    def commit(self, text: str) -> Any:
        """Before a fork, for an image, and for a constant prefix: the prompt alone."""
        return self._generate({"text": text, "sampling_params": {"max_new_tokens": 0}})

    def flush_cache(self) -> None:
        self._request("/flush_cache", {"empty_cache": True})

    def server_info(self) -> Any:
        return json.loads(self._request("/get_server_info"))

    # ------------------------------------------------------------ select

    def select(self, text: str, choices: Sequence[str], method: str) -> str:
        """token_length_normalized, greedy_token_selection or unconditional_likelihood_normalized."""
        prompt = self.commit(text)["meta_info"]["prompt_tokens"]
        scored = self._generate(
            {
                "text": [text + choice for choice in choices],
                "sampling_params": {"max_new_tokens": 0, "temperature": 0},
                "return_logprob": True,
                "return_text_in_logprobs": True,
                "logprob_start_len": max(prompt - 2, 0),
            }
        )
        found: list[list[Entry]] = [one["meta_info"]["input_token_logprobs"] for one in scored]
        assert all("output_token_logprobs" in one["meta_info"] for one in scored)
        means = [self._mean(option) for option in found]
        for index, option in enumerate(found):
            if text.endswith(option[0][-1]):  # the prompt's last token came back as it was
                means[index] = (means[index] * len(option) - option[0][0]) / (len(option) - 1)
                found[index] = option[1:]
        self.scored = found
        if method == "token_length_normalized":
            return choices[means.index(max(means))]
        if method == "greedy_token_selection":
            return choices[self._greedy(found)]
        alone = self._generate(
            {
                "input_ids": [[entry[1] for entry in option] for option in found],
                "sampling_params": {"max_new_tokens": 0},
                "return_logprob": True,
            }
        )
        unconditional = [one["meta_info"]["input_token_logprobs"] for one in alone]
        gains = [self._gain(*pair) for pair in zip(found, unconditional, strict=True)]
        return choices[gains.index(max(gains))]

    @staticmethod
    def _mean(option: list[Entry]) -> float:
        values = [entry[0] for entry in option if entry[0]]
        return sum(values) / len(values)

    @staticmethod
    def _greedy(found: list[list[Entry]]) -> int:
        """Token by token the likeliest; shorter options go on with their mean."""
        rows = [[entry[0] for entry in option] for option in found]
        longest = max(map(len, rows))
        rows = [row + [sum(row) / len(row)] * (longest - len(row)) for row in rows]
        remaining = list(range(len(rows)))
        for column in range(longest):
            best = max(rows[index][column] for index in remaining)
            remaining = [index for index in remaining if rows[index][column] == best]
        return remaining[0]

    @staticmethod
    def _gain(given: list[Entry], alone: list[Entry]) -> float:
        assert len(given) == len(alone)
        first, *rest = [entry[0] for entry in alone]
        without = [first or 0, *rest]
        return sum(entry[0] - other for entry, other in zip(given, without, strict=True)) / len(given)

    # ------------------------------------------------------------ HTTP

    def _generate(self, body: dict[str, Any]) -> Any:
        return json.loads(self._request("/generate", body))

    def _request(self, path: str, body: Any = None) -> bytes:
        headers = {"Content-Type": "application/json; charset=utf-8"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, headers=headers, data=data)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(json.loads(error.read())) from None
