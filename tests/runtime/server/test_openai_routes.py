"""What the routes ask of the front, and how they answer, without an engine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from latticework.lang.errors import Busy, EngineDied, PromptTooLong, RegexError, SchemaError
from latticework.lang.ir import Choices, Gbnf, JsonSchema, Lark, Regex, Sampling, Tag, Triggered
from latticework.runtime.server.schemas import ChatBody, CompletionBody

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HI = [{"role": "user", "content": "Hi"}]


def chat(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post(CHAT, json={"model": "tiny", "messages": HI} | fields)


def complete(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post(COMPLETIONS, json={"model": "tiny", "prompt": "Once"} | fields)


def events(response: httpx.Response) -> list[Any]:
    """The objects of a stream; `[DONE]` stays a string."""
    data = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


# ---------------------------------------------------------------- answers


def test_a_chat_answer_is_a_chat_completion(client: httpx.Client) -> None:
    answer = chat(client).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello!", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 9,
        "completion_tokens": 6,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def test_a_chat_stream_has_role_text_finish_usage_and_done(client: httpx.Client) -> None:
    response = chat(client, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, usage, done = events(response)
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello!"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 6


def test_usage_is_streamed_only_when_asked(client: httpx.Client) -> None:
    assert all("usage" not in event for event in events(chat(client, stream=True))[:-1])


def test_a_completion_stream_says_the_same_as_the_whole(client: httpx.Client) -> None:
    whole = complete(client).json()
    *chunks, done = events(complete(client, stream=True))
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"] == "Hello!"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_length_is_reported_as_length(client: httpx.Client, scripted: Any) -> None:
    scripted.finish = "length"
    assert chat(client).json()["choices"][0]["finish_reason"] == "length"


def test_chat_logprobs_carry_bytes_and_the_likeliest(client: httpx.Client) -> None:
    first = chat(client, logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"][0]
    assert first["token"] == "H"
    assert first["bytes"] == [ord("H")]
    assert first["top_logprobs"] == [
        {"token": "a", "logprob": -0.5, "bytes": [97]},
        {"token": "b", "logprob": -9999.0, "bytes": [98]},  # JSON has no minus infinity
    ]


def test_completion_logprobs_have_offsets_across_chunks(client: httpx.Client) -> None:
    chunks = events(complete(client, logprobs=1, stream=True))[:-1]
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert [offset for one in found for offset in one["text_offset"]] == list(range(6))
    assert found[0]["top_logprobs"][0] == {"a": -0.5}


def test_models_lists_the_one_served(client: httpx.Client) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tiny"]
    assert client.get("/v1/models/tiny").json()["id"] == "tiny"
    assert client.get("/v1/models/gpt-4").status_code == 404


def test_health_follows_the_engine(client: httpx.Client, scripted: Any) -> None:
    assert client.get("/health").status_code == 200
    scripted.link.ready.clear()
    assert client.get("/health").status_code == 503


# ---------------------------------------------------------------- what is asked


def test_defaults_are_openais(client: httpx.Client, scripted: Any) -> None:
    chat(client)
    complete(client)
    (prompt, of_chat), (_, of_completion) = scripted.asked
    assert of_chat.sampling.temperature == of_completion.sampling.temperature == 1.0
    assert of_chat.sampling.max_tokens == scripted.context - len(prompt.tokens)
    assert of_completion.sampling.max_tokens == 16
    assert of_chat.on_length == "prefer_close"


def test_sampling_fields_arrive(client: httpx.Client, scripted: Any) -> None:
    fields = {"temperature": 0, "top_p": 0.5, "top_k": 7, "min_p": 0.25, "seed": 3, "stop": "x", "stop_token_ids": [9]}
    chat(client, max_completion_tokens=5, **fields)
    sampling = scripted.asked[0][1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.0, 0.5, 7, 0.25)
    assert (sampling.seed, sampling.stop, sampling.stop_token_ids, sampling.max_tokens) == (3, ("x",), (9,), 5)


def test_every_field_of_sampling_is_a_field_of_the_bodies(client: httpx.Client, scripted: Any) -> None:
    fields = {
        "frequency_penalty": 0.5,
        "presence_penalty": -1,
        "repetition_penalty": 1.2,
        "logit_bias": {"7": -100, "3": 2.5},
        "min_tokens": 2,
        "ignore_eos": True,
        "include_stop": True,
        "stop_regex": ["a+b"],
        "n": 2,
        "best_of": 3,
        "prompt_logprobs": 1,
    }
    known = set(Sampling.__struct_fields__) - {"prompt_logprobs_start"}  # lists here have all tokens of the prompt
    assert known <= set(ChatBody.model_fields) & set(CompletionBody.model_fields)
    assert chat(client, **fields).status_code == complete(client, **fields).status_code == 200
    for _, gen in scripted.asked:
        found = {name: getattr(gen.sampling, name) for name in fields}
        assert found == fields | {"logit_bias": ((3, 2.5), (7, -100.0)), "stop_regex": ("a+b",)}
    chat(client, include_stop_str_in_output=True)  # as vLLM calls it
    assert scripted.asked[-1][1].sampling.include_stop


def test_constraints_arrive(client: httpx.Client, scripted: Any) -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    formats = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    chat(client, regex="a+")
    chat(client, choices=["x", "y"])
    chat(client, response_format=formats)
    chat(client, response_format={"type": "json_object"})
    chat(client, response_format={"type": "text"})
    found = [gen.constraint for _, gen in scripted.asked]
    assert found == [Regex("a+"), Choices(("x", "y")), JsonSchema(schema), JsonSchema({"type": "object"}), None]


GBNF, LARK = 'root ::= "a"+', 'start: "a"+'
STRUCTURES = {"structures": [{"begin": "<f>", "schema": {"type": "null"}, "end": "</f>"}], "triggers": ["<f"]}
FORMAT = {
    "type": "triggered_tags",
    "triggers": ["<f"],
    "tags": [
        {"type": "tag", "begin": "<f>", "content": {"type": "json_schema", "json_schema": {}}, "end": "</f>"},
        {"begin": "<fr>", "content": {"type": "regex", "pattern": "a+"}, "end": ""},
        {"begin": "<fg>", "content": {"type": "grammar", "grammar": GBNF}, "end": "."},
        {"begin": "<fc>", "content": {"type": "const_string", "value": "x"}, "end": "."},
    ],
    "stop_after_first": True,
}
TAGS = Triggered((Tag("<f>", JsonSchema({"type": "null"}), "</f>"),), ("<f",))
FORMATTED = Triggered(
    (
        Tag("<f>", JsonSchema({}), "</f>"),
        Tag("<fr>", Regex("a+")),
        Tag("<fg>", Gbnf(GBNF), "."),
        Tag("<fc>", Choices(("x",)), "."),
    ),
    ("<f",),
    stop_after_first=True,
)


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"json_schema": '{"type":"null"}'}, JsonSchema({"type": "null"})),
        ({"ebnf": GBNF}, Gbnf(GBNF)),
        ({"structural_tag": json.dumps({"type": "structural_tag", **STRUCTURES})}, TAGS),
        ({"guided_json": {"type": "null"}}, JsonSchema({"type": "null"})),
        ({"guided_regex": "a+"}, Regex("a+")),
        ({"guided_choice": ["x", "y"]}, Choices(("x", "y"))),
        ({"guided_grammar": GBNF}, Gbnf(GBNF)),
        ({"guided_grammar": LARK}, Lark(LARK)),
        ({"structured_outputs": {"json": {"type": "null"}}}, JsonSchema({"type": "null"})),
        ({"structured_outputs": {"json": '{"type":"null"}'}}, JsonSchema({"type": "null"})),
        ({"structured_outputs": {"json_object": True}}, JsonSchema({"type": "object"})),
        ({"structured_outputs": {"regex": "a+", "choice": None}}, Regex("a+")),
        ({"structured_outputs": {"choice": ["x"]}}, Choices(("x",))),
        ({"structured_outputs": {"grammar": LARK}}, Lark(LARK)),
        ({"structured_outputs": {"structural_tag": json.dumps(STRUCTURES)}}, TAGS),
        ({"structured_outputs": {}}, None),
        ({"response_format": {"type": "structural_tag", **STRUCTURES}}, TAGS),
        ({"response_format": {"type": "structural_tag", "format": FORMAT}}, FORMATTED),
        ({"response_format": {"type": "structural_tag", "format": {"type": "regex", "pattern": "a"}}}, Regex("a")),
    ],
)
def test_the_fields_of_other_clients_mean_the_same(
    client: httpx.Client, scripted: Any, fields: dict[str, Any], constraint: Any
) -> None:
    assert chat(client, **fields).status_code == complete(client, **fields).status_code == 200
    assert [gen.constraint for _, gen in scripted.asked] == [constraint, constraint]


@pytest.mark.parametrize("route", ["chat", "complete"])
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"guided_regex": "a"}, "guided_regex"),
        ({"ebnf": GBNF}, "ebnf"),
        ({"structured_outputs": {"grammar": LARK}}, "structured_outputs.grammar"),
        ({"response_format": {"type": "structural_tag", **STRUCTURES}}, "response_format"),
    ],
)
def test_errors_of_compiling_name_the_field_as_the_body_does(
    client: httpx.Client, scripted: Any, fields: dict[str, Any], field: str, route: str
) -> None:
    scripted.pieces = []
    for name in ("regex", "gbnf", "lark", "json_schema", "tags"):
        scripted.failure = RegexError("a bad one", field=name, position=3)
        response = (chat if route == "chat" else complete)(client, **fields)
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["position"]) == (400, field, 3)


def test_a_prompt_may_be_text_or_tokens_or_a_list_of_one(client: httpx.Client, scripted: Any) -> None:
    for prompt in ("ab", ["ab"], [97, 98], [[97, 98]]):
        assert complete(client, prompt=prompt).status_code == 200
    assert {segment.tokens for segment, _ in scripted.asked} == {(97, 98)}


def test_text_parts_and_developer_messages_are_understood(client: httpx.Client, scripted: Any) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    chat(client, messages=[{"role": "developer", "content": "s"}, {"role": "user", "content": parts, "name": None}])
    tokens = scripted.asked[0][0].tokens
    assert scripted.tokenizer.decode_bytes(tokens) == b"system: s\nuser: ab\n"


def test_harmless_fields_are_ignored(client: httpx.Client) -> None:
    fields = {"user": "me", "metadata": {"a": "b"}, "store": False, "n": 1, "presence_penalty": 0.0, "logit_bias": {}}
    assert chat(client, tools=None, frequency_penalty=0, **fields).status_code == 200


# ---------------------------------------------------------------- refusals

BAD_BODIES: list[tuple[str, dict[str, Any], str | None, str]] = [
    (CHAT, {"temperature": -1}, "temperature", "expected 0.0 <= temperature"),
    (CHAT, {"temperature": "hot"}, "temperature", "valid number"),
    (CHAT, {"max_tokens": -5}, "max_tokens", "max_tokens is -5"),
    (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens", "is 0"),
    (CHAT, {"max_tokens": 1, "max_completion_tokens": 1}, "max_completion_tokens", "both given"),
    (CHAT, {"messages": []}, "messages", "at least 1"),
    (CHAT, {"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role", "Input should be"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages.0.content", "required"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "messages.0", "tool_calls"),
    (CHAT, {"messages": None}, "messages", "valid list"),
    (CHAT, {"n": 0}, "n", "expected 1 <= n <= 64"),
    (CHAT, {"n": 65}, "n", "expected 1 <= n <= 64"),
    (CHAT, {"n": True}, "n", "valid integer"),
    (CHAT, {"n": 9}, "n", "9 outputs are asked for; 8 can be open"),
    (CHAT, {"n": 2, "best_of": 3, "stream": True}, "best_of", "cannot be streamed"),
    (CHAT, {"prompt_logprobs": 0, "stream": True}, "prompt_logprobs", "cannot be streamed"),
    (CHAT, {"echo": True}, "echo", "not supported yet"),
    (CHAT, {"presence_penalty": 2.5}, "presence_penalty", "expected -2.0 <="),
    (CHAT, {"repetition_penalty": 0}, "repetition_penalty", "expected 0.01 <="),
    (CHAT, {"stop_regex": "^a"}, "stop_regex", "anchor"),
    (CHAT, {"min_tokens": -1}, "min_tokens", "is -1"),
    (CHAT, {"tools": [{"type": "function"}]}, "tools", "not supported yet"),
    (CHAT, {"logit_bias": {"the": 2}}, "logit_bias", "expected token ids"),
    (CHAT, {"logit_bias": {"1": 200}}, "logit_bias", "expected -100.0 <="),
    (CHAT, {"temprature": 1}, "temprature", "did you mean temperature"),
    (CHAT, {"choices": []}, "choices", "choices is empty"),
    (CHAT, {"regex": "a", "choices": ["a"]}, "choices", "regex and choices are given together"),
    (CHAT, {"response_format": {"type": "json_schema"}}, "response_format", "json_schema is given exactly when"),
    (CHAT, {"response_format": {"type": "xml"}}, "response_format.type", "Input should be"),
    (CHAT, {"guided_regex": "a", "ebnf": GBNF}, "guided_regex", "are given together"),
    (CHAT, {"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice", "given together"),
    (CHAT, {"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp", "Extra inputs"),
    (COMPLETIONS, {"guided_json": "{"}, "guided_json", "not JSON"),
    (COMPLETIONS, {"structured_outputs": {"choice": []}}, "structured_outputs.choice", "choices is empty"),
    (CHAT, {"structural_tag": "{"}, "structural_tag", "not JSON"),
    (CHAT, {"structural_tag": {"triggers": ["<"]}}, "structural_tag", "either structures, or a format"),
    (CHAT, {"response_format": {"type": "structural_tag"}}, "response_format", "given exactly when"),
    (CHAT, {"response_format": {"type": "text", **STRUCTURES}}, "response_format", "given exactly when"),
    (
        CHAT,
        {"response_format": {"type": "structural_tag", **STRUCTURES, "triggers": ["<g"]}},
        "response_format",
        "no tag begins with the trigger",
    ),
    (
        CHAT,
        {"response_format": {"type": "structural_tag", "format": {"type": "any_text"}}},
        "response_format",
        "'any_text' of a structural tag is not supported (at /format/type)",
    ),
    (
        CHAT,
        {"response_format": {"type": "structural_tag", "format": {**FORMAT, "tags": [{"begin": "<f>"}]}}},
        "response_format",
        "content is missing (at /format/tags/0)",
    ),
    (
        CHAT,
        {"response_format": {"type": "structural_tag", "format": {**FORMAT, "tags": [3]}}},
        "response_format",
        "where an object was expected (at /format/tags/0)",
    ),
    (CHAT, {"top_logprobs": 3}, "top_logprobs", "needs logprobs: true"),
    (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "is 21"),
    (CHAT, {"stream_options": {"include_usage": True}}, "stream_options", "without stream"),
    (CHAT, {"stop": [""]}, "stop", "0 characters"),
    (CHAT, {"seed": 1 << 64}, "seed", "64-bit"),
    (COMPLETIONS, {"prompt": ""}, "prompt", "prompt is empty"),
    (COMPLETIONS, {"prompt": ["a"] * 129}, "prompt", "this server takes 128"),
    (COMPLETIONS, {"prompt": ["a", ""]}, "prompt", "prompt is empty"),
    (COMPLETIONS, {"prompt": ["a", "b", "c"], "best_of": 3}, "n", "9 outputs are asked for"),
    (COMPLETIONS, {"prompt": [999]}, "prompt", "no token id"),
    (COMPLETIONS, {"prompt": {"a": 1}}, "prompt", "valid"),
    (COMPLETIONS, {"echo": True, "logprobs": 1, "stream": True}, "echo", "cannot be streamed"),
    (COMPLETIONS, {"n": 3, "best_of": 2}, "best_of", "expected 3 <= best_of"),
]


@pytest.mark.parametrize(
    ("path", "fields", "param", "part"), BAD_BODIES, ids=[json.dumps(body)[:60] for _, body, _, _ in BAD_BODIES]
)
def test_a_bad_body_is_400_and_names_the_field(
    client: httpx.Client, scripted: Any, path: str, fields: dict[str, Any], param: str, part: str
) -> None:
    good = {"model": "tiny", **({"messages": HI} if path == CHAT else {"prompt": "x"})}
    response = client.post(path, json=good | fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert part in error["message"]
    assert error["type"] == "invalid_request_error"
    assert scripted.entered == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_400(client: httpx.Client, content: bytes) -> None:
    response = client.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_an_unknown_model_and_an_unknown_route_are_404(client: httpx.Client) -> None:
    response = chat(client, model="gpt-4")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert response.json()["error"]["param"] == "model"
    assert client.get("/v2/anything").json()["error"]["code"] == "unknown_url"
    assert client.get(CHAT).status_code == 405


def test_a_body_over_the_limit_is_413_declared_or_not(client: httpx.Client) -> None:
    def pieces() -> Any:
        for _ in range(17):
            yield b" " * (1 << 20)

    declared = client.post(CHAT, content=b" " * (17 << 20))
    assert declared.status_code == 413
    assert "1048576 bytes (max_body_mb)" in declared.json()["error"]["message"]
    assert client.post(CHAT, content=pieces()).status_code == 413


@pytest.mark.parametrize(
    ("failure", "status", "param", "code"),
    [
        (PromptTooLong("the prompt has 9 tokens", field="prompt"), 400, "messages", "context_length_exceeded"),
        (
            SchemaError("not is not supported", field="json_schema", pointer="/not"),
            400,
            "response_format",
            "invalid_json_schema",
        ),
        (RegexError("a bad pattern", field="regex", position=3), 400, "regex", "invalid_regex"),
        (Busy("the queue is full"), 503, None, "busy"),
        (EngineDied("the engine died"), 503, None, "engine_died"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_text_has_its_status_even_for_a_stream(
    client: httpx.Client, scripted: Any, failure: Exception, status: int, param: str | None, code: str, stream: bool
) -> None:
    scripted.pieces, scripted.failure = [], failure
    response = chat(client, stream=stream)
    error = response.json()["error"]
    assert response.status_code == status
    assert (error["param"], error["code"]) == (param, code)
    assert ("retry-after" in response.headers) == (status == 503)
    assert error.get("pointer") == getattr(failure, "pointer", None)
    assert error.get("position") == getattr(failure, "position", None)


def test_a_failure_after_the_first_text_is_an_event_that_ends_the_stream(client: httpx.Client, scripted: Any) -> None:
    scripted.failure = EngineDied("the engine died")
    last = events(chat(client, stream=True))[-1]
    assert last["error"]["code"] == "engine_died"


def test_an_unexpected_exception_is_500_without_details(client: httpx.Client, scripted: Any) -> None:
    scripted.pieces, scripted.failure = [], ZeroDivisionError("secret")
    response = chat(client)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert chat(client).status_code == 500  # and the server goes on


# ---------------------------------------------------------------- clients that leave


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_generation(client: httpx.Client, scripted: Any, stream: bool) -> None:
    scripted.pause = 30.0
    with pytest.raises(httpx.ReadTimeout):
        client.post(CHAT, json={"model": "tiny", "messages": HI, "stream": stream}, timeout=0.3)
    assert scripted.entered == 1
    assert wait_until(lambda: scripted.left == 1)


def test_a_client_that_leaves_in_the_middle_of_a_stream_cancels_it(client: httpx.Client, scripted: Any) -> None:
    scripted.pieces, scripted.pause = ["x"] * 1000, 0.02
    body = {"model": "tiny", "messages": HI, "stream": True}
    with client.stream("POST", CHAT, json=body) as response:
        lines = response.iter_lines()
        for _ in range(4):
            next(lines)
    assert wait_until(lambda: scripted.left == 1)


def test_too_many_open_requests_are_answered_busy(client: httpx.Client, scripted: Any) -> None:
    scripted.pause = 0.5
    threads = [threading.Thread(target=chat, args=(client,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: scripted.entered == 8)
    response = chat(client)
    for thread in threads:
        thread.join()
    assert response.status_code == 503
    assert chat(client).status_code == 200
