"""Chats that are too long, made shorter on request: old turns go first, then the middle of long messages.

    system │ user assistant │ user assistant │ user        too long
    system │                │ user assistant │ user        whole turns go, the oldest first
    system │                                 │ us […] er   then the middle of the longest texts

Works on messages alone, so that no template's marker is ever cut. This file knows no template and no tokens; it is
given a function that counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from latticework.lang.errors import PromptTooLong

Messages = list[dict[str, str]]
GAP = " […] "
"""Stands where the middle of a text was."""


def fit_middle(messages: Sequence[dict[str, str]], limit: int, count: Callable[[Messages], int]) -> Messages:
    """`messages` in at most `limit` tokens, of which `count` says how many some messages are.

    The system messages at the beginning and the last turn (from the last user message on) are always kept. What is cut
    has no more characters than is needed to fit, within 2 %. Raises PromptTooLong when nothing fits.
    """
    whole = list(messages)
    if count(whole) <= limit:
        return whole
    start = next((at for at, message in enumerate(whole) if message["role"] != "system"), len(whole))
    system, turns = whole[:start], _turns(whole[start:])

    def without(dropped: int) -> Messages:
        return system + [message for turn in turns[dropped:] for message in turn]

    last = max(0, len(turns) - 1)
    if count(without(last)) > limit:
        return _cut(without(last), limit, count)
    low, high = 0, last  # dropping `low` is too few, `high` is enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(without(middle)) <= limit else (middle, high)
    return without(high)


def _turns(messages: Messages) -> list[Messages]:
    """A user's message and what follows it, up to the next; so that roles alternate after some are dropped."""
    turns: list[Messages] = []
    for at, message in enumerate(messages):
        if at == 0 or (message["role"] == "user" and messages[at - 1]["role"] != "user"):
            turns.append([])
        turns[-1].append(message)
    return turns


def _cut(messages: Messages, limit: int, count: Callable[[Messages], int]) -> Messages:
    """Texts longer than some length are cut to that length: the longest ones, and no more than is needed."""
    low, high = 0, max(len(message["content"]) for message in messages)  # `low` fits, `high` does not
    best = [_shortened(message, low) for message in messages]
    least = count(best)
    if least > limit:
        raise PromptTooLong(
            f"the chat is at least {least} tokens even with its texts left out; {limit} fit", field="prompt"
        )
    while high - low > max(1, low // 50):
        length = (low + high) // 2
        tried = [_shortened(message, length) for message in messages]
        if count(tried) <= limit:
            low, best = length, tried
        else:
            high = length
    return best


def _shortened(message: dict[str, str], length: int) -> dict[str, str]:
    text = message["content"]
    if len(text) <= length + len(GAP):
        return message
    head = (length + 1) // 2
    return message | {"content": text[:head] + GAP + text[len(text) - (length - head) :]}
