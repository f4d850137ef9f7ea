"""How errors look, and how they cross a wire."""

import msgspec
import pytest

from latticework.lang import errors
from latticework.lang.errors import (
    Busy,
    ConnectionLost,
    DeadlineExceeded,
    EngineDied,
    ErrorData,
    InvalidArgument,
    InvalidValue,
    LatticeworkError,
    RegexError,
    RuntimeFailure,
    SchemaError,
    UnknownVariable,
    from_data,
    point_at,
)


def classes(root: type[LatticeworkError] = LatticeworkError) -> list[type[LatticeworkError]]:
    children = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
    return [root] + [found for child in children for found in classes(child)]


@pytest.mark.parametrize("kind", classes())
def test_every_error_of_the_tree_crosses_a_wire_whole(kind: type[LatticeworkError]) -> None:
    error = kind("what", hint="try", field="f", position=3, pointer="/a", where="gen 'x' (f.py:1)")
    data = msgspec.msgpack.decode(msgspec.msgpack.encode(error.to_data()), type=ErrorData)
    back = from_data(data)
    assert type(back) is kind
    assert back.to_data() == error.to_data()
    assert str(back) == str(error) == "what\n  at: gen 'x' (f.py:1)\n  hint: try"


@pytest.mark.parametrize("kind", classes())
def test_the_tree_in_the_docstring_is_the_tree(kind: type[LatticeworkError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")
    assert kind.__name__ in errors.__all__


def test_a_private_subclass_crosses_as_the_one_of_the_tree_it_is() -> None:
    class Private(errors.BudgetTooSmall):
        pass

    assert type(from_data(Private("what").to_data())) is errors.BudgetTooSmall


def test_an_unknown_type_becomes_a_runtime_failure_that_says_so() -> None:
    error = from_data(ErrorData("ZeroDivisionError", "division by zero"))
    assert type(error) is RuntimeFailure
    assert str(error) == "ZeroDivisionError: division by zero"


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(InvalidArgument, ValueError)
    assert issubclass(InvalidValue, ValueError)
    assert issubclass(UnknownVariable, KeyError)
    assert issubclass(DeadlineExceeded, TimeoutError)
    assert issubclass(ConnectionLost, ConnectionError)
    assert issubclass(RegexError, InvalidArgument)
    assert issubclass(SchemaError, InvalidArgument)


def test_only_failures_of_the_runtime_are_worth_a_retry() -> None:
    assert Busy("full").retryable
    assert EngineDied("gone").retryable
    assert not InvalidArgument("no").retryable


def test_an_unknown_variable_prints_its_message_not_a_repr_of_it() -> None:
    assert str(UnknownVariable("no op sets 'x'")) == "no op sets 'x'"


@pytest.mark.parametrize(
    ("source", "position", "shown"),
    [
        ("a(b", 1, "a(b\n ^"),
        ("", 0, "\n^"),
        ("ab", 2, "ab\n  ^"),
        ("a\nb(", 3, "a⏎b(\n   ^"),
        ("x" * 100, 50, "…" + "x" * 60 + "…\n" + " " * 31 + "^"),
    ],
)
def test_the_caret_stands_under_the_character(source: str, position: int, shown: str) -> None:
    assert point_at(source, position) == shown
