"""Shortening chats: what is kept, what goes first, and that the result fits."""

from __future__ import annotations

import random

import pytest

from latticework.lang.errors import PromptTooLong
from latticework.runtime.text.truncate import GAP, Messages, fit_middle

OVERHEAD = 5  # of a message's markers, in the tokens of these tests: one a character


def count(messages: Messages) -> int:
    return sum(OVERHEAD + len(message["content"]) for message in messages)


def chat(*turns: tuple[str, str]) -> Messages:
    return [{"role": {"s": "system", "u": "user", "a": "assistant"}[role], "content": text} for role, text in turns]


LONG = chat(("s", "S" * 10), *[(role, f"{n}" * 20) for n in range(9) for role in "ua"], ("u", "last"))


def test_what_fits_is_left_alone() -> None:
    assert fit_middle(LONG, count(LONG), count) == LONG


def test_old_turns_go_first_and_whole() -> None:
    kept = fit_middle(LONG, count(LONG) - 1, count)
    assert kept == [LONG[0], *LONG[3:]]
    assert fit_middle(LONG, 80, count) == [LONG[0], *LONG[-3:]]
    assert [message["role"] for message in kept[1:]] == ["user", "assistant"] * 8 + ["user"]


def test_no_more_turns_go_than_must() -> None:
    for limit in range(40, count(LONG)):
        kept = fit_middle(LONG, limit, count)
        assert count(kept) <= limit
        one_more = [LONG[0], *LONG[len(LONG) - len(kept) - 1 :]]
        assert len(kept) == len(LONG) or count(one_more) > limit


def test_then_the_middle_of_the_longest_text_is_cut_and_the_others_are_whole() -> None:
    messages = chat(("s", "be kind"), ("u", "old"), ("a", "older"), ("u", "B" + "x" * 500 + "E"))
    kept = fit_middle(messages, 100, count)
    assert kept[0] == messages[0]
    assert len(kept) == 2
    text = kept[1]["content"]
    assert text.startswith("Bx")
    assert text.endswith("xE")
    assert text.count(GAP) == 1
    assert 95 <= count(kept) <= 100


def test_several_long_texts_are_cut_to_one_length() -> None:
    kept = fit_middle(chat(("s", "S" * 300), ("u", "U" * 900)), 200, count)
    lengths = [len(message["content"]) for message in kept]
    assert abs(lengths[0] - lengths[1]) <= 1
    assert 190 <= count(kept) <= 200


def test_what_can_never_fit_says_how_much_there_is() -> None:
    with pytest.raises(PromptTooLong, match=r"20 tokens .* 9 fit"):
        fit_middle(chat(("s", "S" * 100), ("u", "U" * 100)), 9, count)


def test_random_chats_fit_or_are_refused() -> None:
    draw = random.Random(1)
    for _ in range(300):
        messages = chat(*[(draw.choice("suaua"), "x" * draw.randrange(80)) for _ in range(draw.randrange(1, 12))])
        limit = draw.randrange(1, 300)
        try:
            kept = fit_middle(messages, limit, count)
        except PromptTooLong:
            assert limit < len(messages) * (OVERHEAD + len(GAP))
            continue
        assert count(kept) <= limit
        assert kept[-1]["role"] == messages[-1]["role"]
