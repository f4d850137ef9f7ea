r"""Lark grammars -> rules.

The language is the one of lark's Earley parser with its dynamic lexer, the default: any terminal that may come next
is tried, and takes as much as it can. So keywords and names may overlap, and left recursion and ambiguity are fine.
Ignored terminals may stand before and after every terminal, in bounded number: up to 20 blanks, and up to 4 ignored
texts that are no blanks (comments).

Aliases, `?rule`, `!rule`, `_rule` and rule priorities shape lark's tree, not its language; they are read and have no
effect. Refused, with position: imports from anywhere but `common`, `%declare`, `%override`, `%extend`, and terminal
priorities that would decide between two terminals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from lark import Token, Transformer_NonRecursive, Tree
from lark.exceptions import VisitError

from latticework.lang.errors import ConstraintError
from latticework.lang.ir import Lark
from latticework.runtime.constrain.algebra import (
    Text,
    both,
    chars,
    either,
    is_never,
    is_subset,
    length,
    lower_plain,
    repeat,
)
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import EMPTY, NEVER, Builder
from latticework.runtime.constrain.grammar import build_rules, grammar_error
from latticework.runtime.constrain.lark_syntax import FIELD, parse_lark, position
from latticework.runtime.constrain.lark_terminals import Definition, Terminals, bounds_of, common_terminals
from latticework.runtime.constrain.longest import with_longest_tokens

MOST_BLANKS = 20  # ignored blanks side by side
MOST_COMMENTS = 4  # other ignored texts side by side
_BLANKS = chars(((0x09, 0x0D), (0x20, 0x20)))
_TALLEST = 16  # nodes that nest deeper become a rule of their own


@dataclass(frozen=True, slots=True)
class _Rule:
    """A rule as it is written; params: of a template."""

    tree: Tree[Any]
    params: tuple[str, ...]
    place: int


def build_lark(builder: Builder, constraint: Lark, limits: Limits) -> int:
    """The node of the grammar's texts; NEVER where it has none. Raises GrammarError."""
    return _Grammar(builder, constraint.grammar, limits).build(constraint.start)


class _Grammar:
    def __init__(self, builder: Builder, source: str, limits: Limits) -> None:
        self.builder = builder
        self.source = source
        self.limits = limits
        self.rules: dict[str, _Rule] = {}
        self.terminals: dict[str, Definition] = {}
        self.ignored: list[Tree[Any]] = []
        self.texts = Terminals(source, self.terminals, limits, builder.tick)
        self.tokens: dict[int, Text] = {}  # terminal node -> its words
        self.places: dict[int, int] = {}  # terminal node -> where it is first used
        self.bodies: dict[int, int] = {}
        self.instances: dict[tuple[str, tuple[int, ...]], int] = {}  # rule with arguments -> rule of the builder
        self.waiting: list[tuple[str, tuple[int, ...]]] = []
        self.gap = EMPTY  # what may stand between two terminals

    def build(self, start: str) -> int:
        self._read()
        if start not in self.rules:
            known = ", ".join(list(self.rules)[:8]) or "none"
            self._fail(f"the grammar has no rule {start}", 0, f"its rules are: {known}; start= names another")
        if self.rules[start].params:
            self._fail(f"{start} is a template", self.rules[start].place, "start with a rule that uses it")
        self._make_gap()
        root = self.builder.rule()
        self.bodies[root] = self.builder.sequence([self.gap, self.call(start, (), self.rules[start].place)])
        while self.waiting:
            self._build_rule(*self.waiting.pop())
        self._check_priorities()
        bodies, root = with_longest_tokens(self.builder, self.bodies, root, self.tokens, self.limits)
        return build_rules(self.builder, bodies, root)

    # ------------------------------------------------------------ statements

    def _read(self) -> None:
        size = len(self.source.encode("utf-8", "surrogatepass"))
        if size > self.limits.pattern_bytes:
            limit = self.limits.pattern_bytes
            raise ConstraintError(f"the grammar has {size} bytes; the limit `pattern_bytes` is {limit}", field=FIELD)
        for statement in parse_lark(self.source, self.limits, self.builder.tick).children:
            assert isinstance(statement, Tree)
            parts: list[Any] = statement.children
            match statement.data, parts:
                case "rule", [_, name, params, _, tree]:
                    self._define_rule(name, params, tree)
                case "term", [name, priority, tree]:
                    number = int(priority.children[0]) if priority is not None else 0
                    place = position(priority) if priority is not None else name.start_pos
                    self._define_terminal(name, Definition(tree, self.terminals, self.source, number, place))
                case "ignore", [tree]:
                    self.ignored.append(tree)
                case "import", [path, *names]:
                    self._import(path, names[0] if names else None)
                case kind, _:
                    self._fail(f"%{kind} is not supported", position(statement), "write the definition itself")
        self._check_names()

    def _define_rule(self, name: Token, params: Tree[Any] | None, tree: Tree[Any]) -> None:
        if str(name) in self.rules:
            self._fail(f"the rule {name} is defined twice", position(name))
        names = tuple(map(str, params.children)) if params is not None else ()
        if params is not None and len(set(names)) < len(names):
            self._fail(f"the template {name} names a parameter twice", position(params))
        self.rules[str(name)] = _Rule(tree, names, position(name))

    def _define_terminal(self, name: Token, definition: Definition) -> None:
        if str(name) in self.terminals:
            self._fail(f"the terminal {name} is defined twice", position(name))
        self.terminals[str(name)] = definition

    def _import(self, path: Tree[Any], names: Tree[Any] | Token | None) -> None:
        parts: list[Any] = path.children
        wanted: list[Any]
        if isinstance(names, Tree):
            library, wanted = parts, names.children
        else:
            library, wanted = parts[:-1], parts[-1:]
        if [str(part) for part in library] != ["common"]:
            hint = "%import common.NAME takes a terminal that comes with lark; write others out"
            self._fail("only `common` can be imported from", position(path), hint)
        for name in wanted:
            if str(name) not in common_terminals():
                self._fail(f"`common` has no terminal {name}", position(name))
            self._define_terminal(names if isinstance(names, Token) else name, common_terminals()[str(name)])

    def _check_names(self) -> None:
        for rule in self.rules.values():
            for tree in rule.tree.find_pred(lambda tree: tree.data in ("nonterminal", "terminal", "template_usage")):
                name = tree.children[0]
                assert isinstance(name, Token)
                known = self.terminals if tree.data == "terminal" else self.rules
                if str(name) not in known and str(name) not in rule.params:
                    self._fail(f"{name} is not defined", position(name))

    # ------------------------------------------------------------ terminals

    def token(self, text: Text, place: int) -> int:
        """The node of a terminal, and what may be ignored behind it."""
        node = self.builder.terminal(lower_plain(self.builder, text))
        if node == NEVER:
            return NEVER
        self.tokens[node] = text
        self.places.setdefault(node, place)
        return self.builder.sequence([node, self.gap])

    def _make_gap(self) -> None:
        blanks: list[Text] = []
        others: list[Text] = []
        for tree in self.ignored:
            text = self.texts.written(tree)
            is_blank = is_subset(text, repeat(_BLANKS), self.limits, self.builder.tick)
            (blanks if is_blank else others).append(text)
        if not self.ignored:
            return
        blank = both(repeat(either(*blanks), 1), length(1, MOST_BLANKS)) if blanks else None
        space = self.builder.optional(self.token(blank, 0)) if blank is not None else EMPTY
        comments = [self.token(text, 0) for text in others]
        comment = self.builder.sequence([self.builder.either(comments), space])
        rule = self.builder.rule()
        self.bodies[rule] = self.builder.sequence([space, self.builder.repeat(comment, 0, MOST_COMMENTS)])
        self.gap = self.builder.call(rule)

    def _check_priorities(self) -> None:
        """Refuses priorities that lexers of lark other than ours would choose by."""
        ranked = [
            (definition, self.texts.known(definition))
            for definition in self.terminals.values()
            if definition.scope is self.terminals and self.texts.known(definition) is not None
        ]
        for definition, text in ranked:
            if not definition.priority:
                continue
            for other, other_text in ranked:
                if other.priority == definition.priority or text is None or other_text is None:
                    continue
                if not is_never(both(text, other_text), self.limits, self.builder.tick):
                    self._fail(
                        "the priority would decide between terminals that match the same text",
                        definition.place,
                        "here all terminals that match are followed; leave the priority out",
                    )

    # ------------------------------------------------------------ rules

    def call(self, name: str, arguments: tuple[int, ...], place: int) -> int:
        """A call of a rule, which is built later."""
        if len(self.rules[name].params) != len(arguments):
            wanted = len(self.rules[name].params)
            self._fail(f"{name} takes {wanted} arguments, not {len(arguments)}", place)
        key = (name, arguments)
        if key not in self.instances:
            self.instances[key] = self.builder.rule()
            self.waiting.append(key)
        return self.builder.call(self.instances[key])

    def _build_rule(self, name: str, arguments: tuple[int, ...]) -> None:
        rule = self.rules[name]
        known = dict(zip(rule.params, arguments, strict=True))
        try:
            body = _Body(self, known).transform(rule.tree)
        except VisitError as error:
            raise error.orig_exc from None
        self.bodies[self.instances[name, arguments]] = body

    def _fail(self, message: str, place: int, hint: str | None = None) -> NoReturn:
        raise grammar_error(self.source, place, message, FIELD, hint)


class _Body(Transformer_NonRecursive[Any, Any]):
    """Bottom up, the node of every part of a rule. arguments: of a template, by parameter."""

    def __init__(self, grammar: _Grammar, arguments: dict[str, int]) -> None:
        super().__init__(visit_tokens=False)
        self.grammar = grammar
        self.builder = grammar.builder
        self.arguments = arguments
        self.heights: dict[int, int] = {}

    def expansions(self, branches: list[int]) -> int:
        return self._lowered(self.builder.either(branches), branches)

    def expansion(self, items: list[int]) -> int:
        return self._lowered(self.builder.sequence(items), items)

    def alias(self, items: list[Any]) -> int:
        return items[0]

    def maybe(self, items: list[int]) -> int:
        return self._lowered(self.builder.optional(items[0]), items)

    def repeat(self, items: list[Any]) -> int:
        low, high = bounds_of(items, self.grammar.source)
        return self._lowered(self.builder.repeat(items[0], low, high), items[:1])

    def terminal(self, items: list[Token]) -> int:
        return self.grammar.token(self.grammar.texts.named(items[0]), position(items[0]))

    def literal(self, items: list[Any]) -> int:
        return self.grammar.token(self.grammar.texts.written(Tree("literal", items)), position(items[0]))

    def range(self, items: list[Any]) -> int:
        return self.grammar.token(self.grammar.texts.written(Tree("range", items)), position(items[0]))

    def nonterminal(self, items: list[Token]) -> int:
        name = str(items[0])
        if name in self.arguments:
            return self.arguments[name]
        return self.grammar.call(name, (), position(items[0]))

    def template_usage(self, items: list[Any]) -> int:
        name = str(items[0])
        if name in self.arguments:
            self.grammar._fail("a parameter takes no arguments", position(items[0]))
        return self.grammar.call(name, tuple(items[1:]), position(items[0]))

    def _lowered(self, node: int, parts: list[int]) -> int:
        """`node`, or a call of it where it nests too deep for what comes later."""
        height = 1 + max((self.heights.get(part, 0) for part in parts), default=0)
        if height > _TALLEST and node != NEVER:
            rule = self.builder.rule()
            self.grammar.bodies[rule] = node
            node, height = self.builder.call(rule), 0
        self.heights[node] = height
        return node
