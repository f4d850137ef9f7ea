"""What a body asks of a value without the value hearing of it, found in the body's source.

A symbol refuses what it is asked (see `symbols.py`), but `x in "some text"`, `"text".startswith(x)`, `re.search(p, x)`
and `f"{x}!" == "yes!"` look at the characters of a str and ask nobody. Where such a question is put in the source to
what is surely a value, tracing refuses it. What comes to it in other ways, through a list or another function, is
not found. Where there is no source, nothing is.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Collection, Iterator
from typing import Any, NoReturn

from latticework.lang.errors import NeedsValue

_ASKING = frozenset(
    "startswith endswith removeprefix removesuffix count find rfind index rindex split rsplit partition rpartition"
    " strip lstrip rstrip translate".split()
)
_MODULES = frozenset({"re", "json", "ast", "fnmatch", "difflib", "unicodedata"})


def refuse_silent_questions(body: Callable[..., Any], state: str, values: Collection[str]) -> None:
    """Raises NeedsValue with file and line. state: the name of the state's parameter; values: parameters without a
    value."""
    found = _source(body)
    if found is None:
        return
    function, file, first = found
    asked = _Names(function, state, values)
    for node in ast.walk(function):
        question = _question(node, asked)
        if question is not None:
            _refuse(ast.unparse(question), f"{file}:{first + question.lineno - 1}")


def _source(body: Callable[..., Any]) -> tuple[ast.FunctionDef, str, int] | None:
    try:
        lines, first = inspect.getsourcelines(body)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return None
    function = tree.body[0] if tree.body else None
    file = inspect.getsourcefile(body)
    return (function, file, max(first, 1)) if isinstance(function, ast.FunctionDef) and file else None


class _Names:
    """Which expressions are surely values: of the state, of parameters, and of names that are given nothing else."""

    def __init__(self, function: ast.FunctionDef, state: str, values: Collection[str]) -> None:
        given: dict[str, list[ast.expr | None]] = {}
        for name, value in _bindings(function):
            given.setdefault(name, []).append(value)
        self.state = "" if state in given else state
        self.values = set(values) - set(given)
        self.set_here = set(_keys_set(function))  # variables of the program's own may be plain constants
        for name, exprs in given.items():
            if all(value is not None and self.is_value(value) for value in exprs):
                self.values.add(name)

    def is_value(self, node: ast.AST) -> bool:
        """Whether it is a value, or text with one in it."""
        match node:
            case ast.Name(id=name):
                return name in self.values
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=key)):
                return name == self.state and key not in self.set_here
            case _:
                return self.has_value(node)

    def has_value(self, node: ast.AST) -> bool:
        """Whether it is text made with a value in it."""
        match node:
            case ast.JoinedStr(values=parts):
                return any(self.is_value(part.value) for part in parts if isinstance(part, ast.FormattedValue))
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self.is_value(left) or self.is_value(right)
            case _:
                return False


def _keys_set(function: ast.FunctionDef) -> Iterator[object]:
    for node in ast.walk(function):
        match node:
            case ast.Subscript(slice=ast.Constant(value=key), ctx=ast.Store()):
                yield key


def _bindings(function: ast.FunctionDef) -> Iterator[tuple[str, ast.expr | None]]:
    """Names that are given something, and what; None where that is hard to say. `s += …` leaves a state a state."""
    plain: set[int] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) for target in node.targets):
            for target in node.targets:
                assert isinstance(target, ast.Name)
                plain.add(id(target))
                yield target.id, node.value
        elif isinstance(node, ast.AugAssign):
            plain.add(id(node.target))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del) and id(node) not in plain:
            yield node.id, None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and node is not function:
            inner = node.args
            for argument in (*inner.posonlyargs, *inner.args, *inner.kwonlyargs, inner.vararg, inner.kwarg):
                if argument is not None:
                    yield argument.arg, None


def _question(node: ast.AST, names: _Names) -> ast.expr | None:
    match node:
        case ast.Compare(left=left, ops=operators, comparators=comparators):
            operands = [left, *comparators]
            for first, operator, second in zip(operands, operators, comparators, strict=False):
                is_containment = isinstance(operator, ast.In | ast.NotIn)
                is_equality = isinstance(operator, ast.Eq | ast.NotEq)  # which a value itself hears of
                if (is_containment and names.is_value(first)) or (
                    is_equality and (names.has_value(first) or names.has_value(second))
                ):
                    return node
        case ast.Call(func=ast.Attribute(value=ast.Name(id=module)), args=arguments) if module in _MODULES:
            if any(map(names.is_value, arguments)):
                return node
        case ast.Call(func=ast.Attribute(attr=method), args=arguments) if method in _ASKING:
            if any(map(names.is_value, arguments)):
                return node
    return None


def _refuse(question: str, where: str) -> NoReturn:
    raise NeedsValue(
        f"{question} asks for a value, and there is none while the program is traced",
        where=where,
        hint="a body that decides on values is run with f.run(…); one that is compiled may only put them into text",
    )
