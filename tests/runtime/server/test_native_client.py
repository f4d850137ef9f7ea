"""What SGLang's own client does, done to the whole server: real HTTP, real front, real engine, tiny model."""

from __future__ import annotations

import json
import math
import re
import threading
from typing import Any

import httpx
import jsonschema
import pytest

from tests.conftest import SERVER_KEYS
from tests.runtime.server.endpoint_client import EndpointClient

KEY = SERVER_KEYS["ada"]
HEADERS = {"Authorization": f"Bearer {KEY}"}
PROMPT = "The quick brown fox jumps over the lazy dog."
CHOICES = ["cat", "a dog", "an elephant", "x"]
METHODS = ["token_length_normalized", "greedy_token_selection", "unconditional_likelihood_normalized"]


@pytest.fixture(scope="module")
def served(tiny_server: Any) -> Any:
    return tiny_server


@pytest.fixture(scope="module")
def client(served: Any) -> EndpointClient:
    return EndpointClient(served.url, KEY)


def post(served: Any, body: Any, status: int = 200) -> Any:
    answer = httpx.post(f"{served.url}/generate", headers=HEADERS, json=body, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.json()


def echoed(served: Any, text: str) -> list[float | None]:
    """The log-probability of every token of `text`, by another route."""
    body = {"model": "tiny", "prompt": text, "max_tokens": 1, "echo": True, "logprobs": 0}
    found = httpx.post(f"{served.url}/v1/completions", headers=HEADERS, json=body, timeout=60).json()
    return list(found["choices"][0]["logprobs"]["token_logprobs"][: len(text)])


# ---------------------------------------------------------------- generate


def test_the_client_learns_the_model_and_the_servers_sizes(client: EndpointClient) -> None:
    assert client.model_info["model_path"] == "tiny"
    assert client.model_info["is_generation"] is True
    info = client.server_info()
    assert info["context_length"] == 4096
    assert info["internal_states"][0]["pages_total"] > 0


def test_a_run_that_sets_nothing_is_answered(client: EndpointClient) -> None:
    text, meta = client.generate(PROMPT)
    assert text
    assert meta["prompt_tokens"] == len(PROMPT)
    assert meta["completion_tokens"] <= 128
    assert meta["finish_reason"]["type"] in ("stop", "length")
    assert meta["e2e_latency"] > 0
    assert meta["id"]


def test_generated_text_is_what_the_other_api_generates(served: Any, client: EndpointClient) -> None:
    text, meta = client.generate(PROMPT, temperature=0, max_new_tokens=20)
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 20, "temperature": 0}
    other = httpx.post(f"{served.url}/v1/completions", headers=HEADERS, json=body).json()["choices"][0]
    assert text == other["text"]
    assert meta["finish_reason"] == {"type": "length", "length": 20}


def test_the_tokens_of_an_output_spell_its_text(served: Any) -> None:
    body = {"text": PROMPT, "sampling_params": {"max_new_tokens": 12, "temperature": 0}}
    answer = post(served, body)
    assert bytes(answer["output_ids"]).decode("utf-8", "replace") == answer["text"]
    assert answer["meta_info"]["completion_tokens"] == len(answer["output_ids"]) == 12


def test_special_tokens_in_a_text_are_recognised(served: Any) -> None:
    answer = post(served, {"text": "<|im_start|>user\nHi<|im_end|>\n", "sampling_params": {"max_new_tokens": 1}})
    assert answer["meta_info"]["prompt_tokens"] == 1 + len("user\nHi") + 1 + 1


def test_a_prompt_alone_is_computed_and_kept(client: EndpointClient) -> None:
    client.flush_cache()
    alone = client.commit(PROMPT * 3)
    assert alone["text"] == ""
    assert alone["output_ids"] == []
    assert alone["meta_info"]["prompt_tokens"] == 3 * len(PROMPT)
    assert alone["meta_info"]["completion_tokens"] == 0
    assert alone["meta_info"]["finish_reason"] == {"type": "length", "length": 0}
    assert alone["meta_info"]["cached_tokens"] == 0
    assert client.generate(PROMPT * 3, max_new_tokens=1)[1]["cached_tokens"] >= 3 * len(PROMPT) - 1
    client.flush_cache()
    assert client.generate(PROMPT * 3, max_new_tokens=1)[1]["cached_tokens"] == 0


def test_stops_name_what_matched(client: EndpointClient) -> None:
    text, _ = client.generate(PROMPT, temperature=0, max_new_tokens=40)
    stop = text[7:9]
    cut, meta = client.generate(PROMPT, temperature=0, max_new_tokens=40, stop=[stop])
    assert cut == text[: text.index(stop)]
    assert meta["finish_reason"] == {"type": "stop", "matched": stop}
    kept, _ = client.generate(PROMPT, temperature=0, max_new_tokens=40, stop=stop, no_stop_trim=True)
    assert kept == text[: text.index(stop) + len(stop)]
    _, meta = client.generate(PROMPT, temperature=0, max_new_tokens=40, stop_token_ids=[ord(text[5])])
    assert meta["finish_reason"] == {"type": "stop", "matched": ord(text[5])}
    _, meta = client.generate(PROMPT, temperature=0, max_new_tokens=40, stop_regex=re.escape(stop))
    assert meta["finish_reason"] == {"type": "stop", "matched": re.escape(stop)}
    at_least, meta = client.generate(PROMPT, temperature=0, max_new_tokens=40, min_new_tokens=20, stop=[text[1]])
    assert meta["completion_tokens"] >= 20
    assert at_least[:19] == text[:19]


def test_a_temperature_next_to_zero_is_greedy(client: EndpointClient) -> None:
    texts = {
        client.generate(PROMPT, temperature=t, max_new_tokens=12, sampling_seed=s)[0] for t, s in ((0, 1), (1e-7, 2))
    }
    assert len(texts) == 1


# ---------------------------------------------------------------- several


def test_a_list_of_prompts_is_answered_in_order_with_every_output_of_each(served: Any) -> None:
    texts = ["One", "Two"]
    params = {"max_new_tokens": 6, "n": 2, "sampling_seed": 3}
    answers = post(served, {"text": texts, "sampling_params": params, "rid": ["a", "b"]})
    assert [one["meta_info"]["id"] for one in answers] == ["a_0", "a_1", "b_0", "b_1"]
    alone = [post(served, {"text": text, "sampling_params": params | {"n": 1}})["text"] for text in texts]
    assert [answers[0]["text"], answers[2]["text"]] == alone


def test_without_parameters_a_prompt_is_answered(served: Any) -> None:
    assert post(served, {"text": "x"})["meta_info"]["completion_tokens"] <= 128
    assert post(served, {"text": "x", "sampling_params": None})["meta_info"]["completion_tokens"] <= 128


def test_a_list_of_one_is_a_list(served: Any) -> None:
    assert len(post(served, {"text": ["One"], "sampling_params": {"max_new_tokens": 1}})) == 1
    assert len(post(served, {"input_ids": [[79, 110]], "sampling_params": {"max_new_tokens": 1}})) == 1
    assert "text" in post(served, {"input_ids": [79, 110], "sampling_params": {"max_new_tokens": 1}})


def test_a_stream_of_several_says_whose_each_event_is(served: Any) -> None:
    body = {"text": ["One", "Two"], "sampling_params": {"max_new_tokens": 4, "temperature": 0}, "stream": True}
    found = httpx.post(f"{served.url}/generate", headers=HEADERS, json=body, timeout=60).text.split("\n\n")
    assert found[-2:] == ["data: [DONE]", ""]
    last: dict[int, Any] = {}
    for event in found[:-2]:
        told = json.loads(event.removeprefix("data: "))
        last[told["index"]] = told
    whole = post(served, body | {"stream": False})
    assert [last[index]["text"] for index in (0, 1)] == [one["text"] for one in whole]
    assert [last[index]["output_ids"] for index in (0, 1)] == [one["output_ids"] for one in whole]


# ---------------------------------------------------------------- streams


def test_a_stream_counts_its_tokens_as_it_goes(client: EndpointClient) -> None:
    fields = {"return_logprob": True, "top_logprobs_num": 2, "return_text_in_logprobs": True}
    text, meta = client.generate(PROMPT, fields, temperature=0, max_new_tokens=15)
    tokens, parts, told = 0, [], []
    for part, part_meta in client.generate_stream(PROMPT, fields, temperature=0, max_new_tokens=15):
        new = part_meta["output_token_logprobs"]
        assert len(new) == part_meta["completion_tokens"] - tokens == part_meta["output_token_logprobs_length"] - tokens
        tokens = part_meta["completion_tokens"]
        parts.append(part)
        told += new
    assert "".join(parts) == text
    assert told == meta["output_token_logprobs"]
    assert len(parts) > 5
    assert part_meta["finish_reason"] == {"type": "length", "length": 15}


def test_a_refused_stream_has_its_status(served: Any) -> None:
    body = {"text": "x", "stream": True, "sampling_params": {"regex": "("}}
    assert post(served, body, 400)["error"]["param"] == "sampling_params.regex"


# ---------------------------------------------------------------- log-probabilities


def test_the_log_probabilities_of_a_prompt_are_those_of_an_echo(served: Any) -> None:
    fields = {"return_logprob": True, "return_text_in_logprobs": True, "sampling_params": {"max_new_tokens": 0}}
    known = echoed(served, PROMPT)
    meta = post(served, {"text": PROMPT, "logprob_start_len": 0} | fields)["meta_info"]
    assert [entry[0] for entry in meta["input_token_logprobs"]][1:] == pytest.approx(known[1:], abs=1e-9)
    assert meta["input_token_logprobs"][0][0] is known[0] is None
    assert "".join(entry[2] for entry in meta["input_token_logprobs"]) == PROMPT
    assert [entry[1] for entry in meta["input_token_logprobs"]] == list(PROMPT.encode())
    everything = post(served, {"text": PROMPT} | fields)["meta_info"]
    assert everything["input_token_logprobs"] == meta["input_token_logprobs"]


@pytest.mark.parametrize("start", [0, 1, 4, len(PROMPT) - 1])
def test_where_tokens_are_drawn_the_start_is_the_first_token_told(served: Any, start: int) -> None:
    params = {"max_new_tokens": 3, "temperature": 0}
    fields = {"return_logprob": True, "top_logprobs_num": 2, "logprob_start_len": start}
    meta = post(served, {"text": PROMPT, "sampling_params": params} | fields)["meta_info"]
    told = meta["input_token_logprobs"]
    assert len(told) == meta["prompt_tokens"] - start == len(meta["input_top_logprobs"])
    assert told[0][0] is None if start == 0 else told[0][0] < 0
    known = echoed(served, PROMPT)
    assert [entry[0] for entry in told[-3:]] == pytest.approx(known[max(start, len(PROMPT) - 3) :], abs=1e-9)
    assert len(meta["output_token_logprobs"]) == len(meta["output_top_logprobs"]) == 3
    for chosen, top in zip(meta["output_token_logprobs"], meta["output_top_logprobs"], strict=True):
        assert len(top) == 2
        assert top[0] == chosen  # greedy
        assert chosen[2] is None


def test_without_a_start_only_the_outputs_tokens_are_told(served: Any) -> None:
    body = {"text": PROMPT, "sampling_params": {"max_new_tokens": 3}, "return_logprob": True}
    meta = post(served, body)["meta_info"]
    assert meta["input_token_logprobs"] == []
    assert len(meta["output_token_logprobs"]) == meta["completion_tokens"]
    assert "input_token_logprobs" not in post(served, body | {"return_logprob": False})["meta_info"]


def test_a_later_start_leaves_the_beginning_in_the_cache(served: Any, client: EndpointClient) -> None:
    client.commit(PROMPT * 4)
    body = {"text": PROMPT * 4 + "!", "sampling_params": {"max_new_tokens": 0}, "return_logprob": True}
    meta = post(served, body | {"logprob_start_len": 4 * len(PROMPT) - 2})["meta_info"]
    assert meta["cached_tokens"] >= 4 * len(PROMPT) - 2
    assert len(meta["input_token_logprobs"]) == 2


def test_tokens_scored_again_have_the_probabilities_they_were_drawn_with(served: Any) -> None:
    params = {"max_new_tokens": 12, "ignore_eos": True, "sampling_seed": 5}
    fields = {"return_logprob": True, "logprob_start_len": 0}
    drawn = post(served, {"text": PROMPT, "sampling_params": params} | fields)["meta_info"]
    tokens = [entry[1] for entry in drawn["input_token_logprobs"] + drawn["output_token_logprobs"]]
    scored = post(served, {"input_ids": tokens, "sampling_params": {"max_new_tokens": 0}} | fields)["meta_info"]
    again = scored["input_token_logprobs"][drawn["prompt_tokens"] :]
    for one, other in zip(drawn["output_token_logprobs"], again, strict=True):
        assert one[0] == pytest.approx(other[0], abs=1e-9)


# ---------------------------------------------------------------- select


@pytest.mark.parametrize("method", METHODS)
def test_a_select_scores_the_tokens_of_the_choices_and_no_others(
    served: Any, client: EndpointClient, method: str
) -> None:
    chosen = client.select(PROMPT, CHOICES, method)
    given = [echoed(served, PROMPT + choice)[len(PROMPT) :] for choice in CHOICES]
    for option, known in zip(client.scored, given, strict=True):
        assert [entry[0] for entry in option] == pytest.approx(known, abs=1e-9)
    scores: list[list[float]] = [[value for value in option if value is not None] for option in given]
    if method == "token_length_normalized":
        means = [math.fsum(option) / len(option) for option in scores]
        assert chosen == CHOICES[means.index(max(means))]
    elif method == "greedy_token_selection":
        assert chosen.startswith(max(CHOICES, key=lambda choice: scores[CHOICES.index(choice)][0])[0])
    else:
        alone = [echoed(served, choice) for choice in CHOICES]
        gains = [
            sum(a - (b or 0) for a, b in zip(option, other, strict=True)) / len(option)
            for option, other in zip(scores, alone, strict=True)
        ]
        assert chosen == CHOICES[gains.index(max(gains))]


# ---------------------------------------------------------------- constraints


def test_constraints_hold(client: EndpointClient) -> None:
    assert re.fullmatch(r"\d{3}-\d{2}", client.generate("x", regex=r"\d{3}-\d{2}")[0])
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    for given in (schema, json.dumps(schema)):
        jsonschema.validate(json.loads(client.generate("x", json_schema=given)[0]), schema)
    assert client.generate("x", ebnf='root ::= "yes" | "no"')[0] in ("yes", "no")
    tag = {"structures": [{"begin": "<f>", "schema": schema, "end": "</f>"}], "triggers": ["<f>"]}
    text, _ = client.generate("x", structural_tag=json.dumps({"type": "structural_tag", **tag}), max_new_tokens=60)
    for found in re.findall("<f>(.*?)</f>", text):
        jsonschema.validate(json.loads(found), schema)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"regex": "a("}, "regex"),
        ({"json_schema": '{"type": "text"}'}, "json_schema"),
        ({"json_schema": "{"}, "json_schema"),
        ({"ebnf": "root ::= nothing"}, "ebnf"),
        ({"structural_tag": "{"}, "structural_tag"),
        ({"structural_tag": {"format": {}}}, "structural_tag"),
        ({"regex": "a", "ebnf": 'root ::= "a"'}, "ebnf"),
        ({"temperature": -1}, "temperature"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, "min_new_tokens"),
        ({"stop_regex": "a*"}, "stop_regex"),
        ({"skip_special_tokens": False}, "skip_special_tokens"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
    ],
)
def test_a_wrong_parameter_is_named(served: Any, client: EndpointClient, params: Any, field: str) -> None:
    error = post(served, {"text": "x", "sampling_params": params}, 400)["error"]
    assert field in error["param"]
    assert error["message"]
    with pytest.raises(RuntimeError) as caught:
        client.generate("x", **params)
    assert caught.value.args[0]["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": "x", "input_ids": [1]}, "text"),
        ({"text": []}, "text"),
        ({"text": ""}, "text"),
        ({"input_ids": [[1], []]}, "input_ids"),
        ({"input_ids": [99999]}, "input_ids"),
        ({"text": "x" * 5000}, "text"),
        ({"input_ids": [7] * 5000}, "input_ids"),
        ({"text": "x", "return_logprob": True, "logprob_start_len": 1}, "logprob_start_len"),
        ({"text": "x", "return_logprob": True, "top_logprobs_num": 21}, "top_logprobs_num"),
        ({"text": "x", "image_data": "cat.png"}, "image_data"),
        ({"text": "x", "rid": ["a", "b"]}, "rid"),
        ({"text": "x", "rid": "a" * 300}, "rid"),
        ({"text": "x", "rid": ["a" * 300]}, "rid"),
        ({"text": "x", "sampling_parms": {}}, "sampling_parms"),
        ({"text": "x", "sampling_params": [{}]}, "sampling_params"),
    ],
)
def test_a_wrong_body_is_refused_by_its_field(served: Any, body: Any, field: str) -> None:
    assert field in post(served, body, 400)["error"]["param"]


# ---------------------------------------------------------------- the rest


def test_a_request_can_be_aborted_by_its_id_and_tells_what_there_is(served: Any) -> None:
    body = {"text": "x", "rid": "long", "sampling_params": {"max_new_tokens": 4000, "regex": "[a-z]{3900}"}}
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.append(post(served, body)))
    asking.start()
    link = served.front.link
    while not link.open_requests:
        assert asking.is_alive()
    httpx.post(f"{served.url}/abort_request", headers=HEADERS, json={"rid": "other"})
    while asking.is_alive():
        assert httpx.post(f"{served.url}/abort_request", headers=HEADERS, json={"rid": "long"}).status_code == 200
        asking.join(0.05)
    assert found[0]["meta_info"]["finish_reason"]["type"] == "abort"
    assert found[0]["meta_info"]["completion_tokens"] < 3900
    assert httpx.post(f"{served.url}/abort_request", headers=HEADERS, json={}).status_code == 400


def test_health_generate_draws_a_token(served: Any) -> None:
    before = served.front.link.meter.usage.output
    assert httpx.get(f"{served.url}/health_generate", headers=HEADERS).status_code == 200
    assert served.front.link.meter.usage.output == before + 1


def test_the_cache_is_flushed_by_get_and_by_post(served: Any) -> None:
    assert httpx.get(f"{served.url}/flush_cache", headers=HEADERS).status_code == 200
    assert httpx.post(f"{served.url}/flush_cache", headers=HEADERS).status_code == 200


def test_what_the_server_tells_of_itself_names_no_file_and_no_address(served: Any) -> None:
    told = (
        httpx.get(f"{served.url}/server_info", headers=HEADERS).text
        + httpx.get(f"{served.url}/get_model_info", headers=HEADERS).text
    )
    assert "/" not in told
    assert "key" not in told
