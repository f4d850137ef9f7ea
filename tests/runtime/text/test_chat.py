from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from latticework.lang.errors import BrokenModel, InvalidArgument, Unsupported
from latticework.runtime.model.locate import find_model
from latticework.runtime.model.tiny import CHAT_TEMPLATE
from latticework.runtime.text.chat import ChatTemplate

Messages = list[dict[str, str]]

DEFAULT_SYSTEM = (  # SmolLM2's
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BLOCKS = """
{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] | trim + ' [/INST]' }}
    {%- else %}
        {% generation %}{{ ' ' + message['content'] | trim + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}"""
JSON_DUMP = "{% for message in messages %}{{ message | tojson }}\n{% endfor %}"
TEMPLATES = {"chatml": CHAT_TEMPLATE, "default system": DEFAULT_SYSTEM, "blocks": BLOCKS, "json": JSON_DUMP}
CONVERSATIONS: list[Messages] = [
    [{"role": "user", "content": "Hi <b>there</b> & you"}],
    [{"role": "user", "content": "  a\n"}, {"role": "assistant", "content": "b "}, {"role": "user", "content": "ü"}],
    [{"role": "user", "content": ""}, {"role": "assistant", "content": " "}],
]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [False, True])
def test_rendering_equals_transformers(name: str, prompt: bool) -> None:
    template = ChatTemplate(TEMPLATES[name], "<s>", "</s>")
    for messages in CONVERSATIONS:
        expected = render_jinja_template(
            [messages],
            chat_template=TEMPLATES[name],
            add_generation_prompt=prompt,
            bos_token="<s>",
            eos_token="</s>",
        )[0]
        assert [template.render(messages, prompt)] == expected


@pytest.mark.parametrize("source", [CHAT_TEMPLATE, DEFAULT_SYSTEM])
@pytest.mark.parametrize(
    "roles", [("user", "assistant"), ("system", "user", "assistant", "user", "assistant"), ("user", "user")]
)
def test_openings_and_closings_put_together_the_rendering(source: str, roles: tuple[str, ...]) -> None:
    template = ChatTemplate(source)
    text = ""
    for index, role in enumerate(roles):
        text += template.opening(roles[:index], role) + f"text {index}" + template.closing(roles[:index], role)
    messages = [{"role": role, "content": f"text {index}"} for index, role in enumerate(roles)]
    assert text == template.render(messages, add_generation_prompt=False)


def test_a_default_system_message_belongs_to_the_first_opening() -> None:
    template = ChatTemplate(DEFAULT_SYSTEM)
    assert template.opening((), "user") == "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\n"
    assert template.opening((), "system") == "<|im_start|>system\n"
    assert template.opening(("system",), "user") == "<|im_start|>user\n"


def test_the_assistants_opening_is_the_generation_prompt() -> None:
    thinking = CHAT_TEMPLATE.replace("assistant\n", "assistant\n<think>")
    assert ChatTemplate(thinking).opening(("user",), "assistant") == "<|im_start|>assistant\n<think>"


def test_a_model_without_a_template_is_named() -> None:
    template = ChatTemplate(None, model="gpt2")
    with pytest.raises(Unsupported, match="gpt2 has no chat template"):
        template.render([{"role": "user", "content": "hi"}], True)
    with pytest.raises(Unsupported, match="gpt2"):
        template.opening((), "user")


def test_a_template_that_rewrites_earlier_messages_is_unsupported() -> None:
    last_only = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% if loop.last %}!{% endif %}\n{% endfor %}"
    with pytest.raises(Unsupported, match="changes earlier messages"):
        ChatTemplate(last_only).opening(("user",), "assistant")


def test_a_template_that_drops_or_repeats_a_message_is_unsupported() -> None:
    for source in (
        "{% for m in messages %}{{ m.role }}{% endfor %}",
        "{% for m in messages %}{{ m.content * 2 }}{% endfor %}",
    ):
        with pytest.raises(Unsupported, match="exactly once"):
            ChatTemplate(source).opening((), "user")


@pytest.mark.parametrize("name", TEMPLATES)
def test_pieces_concatenate_to_the_rendering(name: str) -> None:
    template = ChatTemplate(TEMPLATES[name], "<s>", "</s>")
    for messages in CONVERSATIONS:
        pieces = template.pieces(messages)
        assert "".join(text for text, _ in pieces) == template.render(messages, add_generation_prompt=True)


def test_what_messages_say_is_no_template_text() -> None:
    pieces = ChatTemplate(CHAT_TEMPLATE).pieces([{"role": "user", "content": " <|im_end|>\ue000"}])
    assert pieces == [
        ("<|im_start|>user\n ", True),
        ("<|im_end|>\ue000", False),
        ("<|im_end|>\n<|im_start|>assistant\n", True),
    ]


@pytest.mark.parametrize(
    ("expression", "content"),
    [
        ("m.content.split('|')[-1]", "a|<|im_end|>"),  # drops the mark before
        ("m.content.split('~')[1]", "a~<|im_end|>~b"),  # drops both marks
        ("m.content ~ m.content[1:3]", "ab"),
        ("'yes' if 'x' in m.content else 'no'", "x"),
    ],
)
def test_a_template_that_cuts_contents_up_is_refused_for_messages(expression: str, content: str) -> None:
    with pytest.raises((Unsupported, InvalidArgument), match=r"rewrites|does not take"):
        ChatTemplate("{% for m in messages %}{{ " + expression + " }}{% endfor %}").pieces(
            [{"role": "user", "content": content}]
        )


@pytest.mark.parametrize(
    "source",
    [
        "{{ ().__class__.__bases__[0].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages.__init__.__globals__ }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{{ ('x' * 60000000) * 60000000 }}",
        "{% for i in range(90000) %}{% for j in range(90000) %}{{ 'y' * 99999 }}{% endfor %}{% endfor %}",
        "{{ raise_exception('no') }}",
        "{{ messages[7].role }}",
        "{{ 1 / 0 }}",
    ],
)
def test_the_sandbox_refuses_and_says_so(source: str) -> None:
    with pytest.raises(InvalidArgument, match="does not take these messages"):
        ChatTemplate(source).render([{"role": "user", "content": "hi"}], False)


def test_a_template_that_is_no_jinja_is_broken() -> None:
    with pytest.raises(BrokenModel, match="line 2"):
        ChatTemplate("\n{% for %}")


@pytest.mark.parametrize("role", ["", "user<|im_end|>", "a b", None, 3])
def test_a_role_that_is_no_name_is_refused(role: object) -> None:
    with pytest.raises(InvalidArgument, match="role"):
        ChatTemplate(CHAT_TEMPLATE).render([{"role": role, "content": "x"}], False)


def test_smollm2_has_its_default_system_message() -> None:
    template = ChatTemplate.of(find_model("smollm2"))
    assert template.opening((), "user").startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert template.closing((), "user") == "<|im_end|>\n"
