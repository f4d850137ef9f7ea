"""A structured constraint, byte by byte: a set of threads, each a terminal with a stack of what must follow it.

    {"a":1,"b"…      thread: the key's terminal, and below it   colon · value · Object(a, b written) · end

A *frame* is one thing that must still be written, and the frame after it: a linked stack. Threads with the same top
share one frame below (`Kind.AFTER_ANY`), so ambiguous grammars cost their number of tops, not of histories. A *config*
is what a text has come to: the set of its threads. Everything is found when first needed and exact; nothing here looks
at tokens. Frames and configs have costs: tokens that surely suffice to finish.

The keys of an object that are not listed, and the items of an array without repeats, are *tracked*: the thread
carries what has been written of them, and never comes to a text that is taken. Where such an item is an array or an
object, it has frames of its own (`item_language.py`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from enum import IntEnum, auto
from typing import TYPE_CHECKING, Any

from latticework.lang.errors import ConstraintError
from latticework.runtime.constrain.copies import Copies, Copybook, normal_text
from latticework.runtime.constrain.counting import IMPOSSIBLE, Members, Tally, Written, bits
from latticework.runtime.constrain.distinct import Distinct
from latticework.runtime.constrain.expressions import TRACKED_COST, Expressions
from latticework.runtime.constrain.item_language import Escape, ItemLanguage, Trail, cost_of, last_bytes
from latticework.runtime.constrain.keys import KeyNode, key_trie
from latticework.runtime.constrain.places import State
from latticework.runtime.constrain.rules import (
    Array,
    Call,
    Either,
    Empty,
    Object,
    Repeat,
    Structured,
    Then,
    children,
)
from latticework.runtime.constrain.rules import Terminal as TerminalNode
from latticework.runtime.constrain.suffixes import Suffixes
from latticework.runtime.constrain.terminals import Terminal
from latticework.runtime.constrain.vocabulary import Vocabulary

if TYPE_CHECKING:
    from latticework.runtime.constrain.standard import Recognised

MAX_THREADS = 4096

_UNBOUNDED = 1 << 40


class Kind(IntEnum):
    """What a frame is: see `Frame`."""

    END = auto()
    NODE = auto()
    REPEAT = auto()
    AFTER_ANY = auto()
    FIRST_KEY = auto()
    NEXT_KEY = auto()
    AFTER_MEMBER = auto()
    EXTRA = auto()
    ITEM = auto()
    AFTER_ITEM = auto()
    UNIQUE_ITEM = auto()


_NOTHING: list[bytes] = []
UNKNOWN: bytes | None = None  # the text of a tracked thread that nobody needs


class Frame:
    """One link of a stack. kind: what `a` and `b` mean:

    node: a is the node. repeat: a the node, b the rounds left (low, high). after any: a is a set of frames, one of
    which follows. keys and members: a the object's node, b what is `Written`; extra: also c, which of the extras.
    items: a the array's node, b (position, tally, texts taken).
    """

    __slots__ = ("a", "b", "c", "config", "cost", "kind", "rest")

    def __init__(self, kind: Kind, a: Any, b: Any, c: int, rest: Any, cost: int) -> None:
        self.kind = kind
        self.a = a
        self.b = b
        self.c = c
        self.rest = rest
        self.cost = cost
        self.config: Config | None = None


class Thread:
    """A place in a terminal, and the frame after it. text: what is written of a tracked one."""

    __slots__ = ("cost", "rest", "state", "terminal", "text")

    def __init__(
        self, terminal: Terminal | None, state: State | None, text: bytes | None, rest: Frame, cost: int
    ) -> None:
        self.terminal = terminal
        self.state = state
        self.text = text
        self.rest = rest
        self.cost = cost


class KeyThread:
    """A place among the listed keys of an object: `at`, of those in `allowed`."""

    __slots__ = ("allowed", "at", "cost", "node", "rest", "written")

    def __init__(self, node: int, at: KeyNode, written: Written, allowed: int, rest: Frame, cost: int) -> None:
        self.node = node
        self.at = at
        self.written = written
        self.allowed = allowed
        self.rest = rest
        self.cost = cost


class ItemThread:
    """A place in an array or object that is an item of an array without repeats. config: of the item's own frames;
    text: what is written of it; copies: those in `book` of taken values that it may still become; escape: the way out
    of them; rest: the `UNIQUE_ITEM` after it."""

    __slots__ = ("book", "config", "copies", "cost", "escape", "language", "rest", "text")

    def __init__(
        self,
        language: ItemLanguage,
        config: Config,
        text: Trail,
        book: Copybook,
        copies: Copies,
        escape: Escape | None,
        rest: Frame,
    ) -> None:
        self.language = language
        self.config = config
        self.text = text
        self.book = book
        self.copies = copies
        self.escape = escape
        self.rest = rest
        self.cost = rest.cost + cost_of(config, escape)


AnyThread = Thread | KeyThread | ItemThread


class Config:
    """What a text has come to. is_complete: it may end here; cost: tokens that surely suffice until it may."""

    __slots__ = ("cost", "is_complete", "next", "steps", "threads")

    def __init__(self, threads: tuple[AnyThread, ...], is_complete: bool) -> None:
        self.threads = threads
        self.is_complete = is_complete
        self.cost = 0 if is_complete else min(thread.cost for thread in threads)
        self.steps: dict[int, Config | None] = {}
        self.next: tuple[int, ...] | None = None  # the bytes that may come next, and perhaps some that may not


class Frames:
    """The stacks of one constraint over one vocabulary."""

    def __init__(
        self,
        expressions: Expressions,
        vocabulary: Vocabulary,
        suffixes: Suffixes,
        standard: Recognised | None = None,
        root: int | None = None,
        languages: dict[int, ItemLanguage] | None = None,
    ) -> None:
        """root: of the texts, if it is not that of the constraint, and the languages of items that are known there."""
        self._standard = standard
        self._expressions = expressions
        self._suffixes = suffixes
        self._root = expressions.root if root is None else root
        self._nodes = expressions.nodes
        self._costs = expressions.costs
        self._pause = expressions.pause
        self._vocabulary = vocabulary
        self.terminals: dict[int, Terminal] = {}
        self._keys: dict[int, KeyNode] = {}
        self._taken: dict[int, frozenset[bytes]] = {}
        self._distincts: dict[int, Distinct] = {}
        self._endless: dict[Terminal, bool] = {}
        self._is_inner = languages is not None
        self._languages: dict[int, ItemLanguage] = {} if languages is None else languages
        self._structured = self._find_structured()
        self._ranks = self._find_ranks()
        self.end = Frame(Kind.END, None, None, 0, None, 0)
        self._end_thread = Thread(None, None, None, self.end, 0)
        self.forget()

    def forget(self) -> None:
        """Drops everything that can be found again; configs held elsewhere stay usable."""
        for terminal in self.terminals.values():
            terminal.forget()
        for language in self._languages.values() if not self._is_inner else ():
            language.forget()
        self._books: dict[frozenset[bytes], Copybook] = {}
        self._frames: dict[tuple[object, ...], Frame] = {}
        self._threads: dict[tuple[object, ...], AnyThread] = {}
        self._configs: dict[frozenset[AnyThread], Config] = {}
        self._sorted_taken: dict[Frame, list[bytes]] = {}
        self._costs_after_key: dict[int, list[int]] = {}
        self.end.config = None
        self.start = self.config_of(self.node(self._root, self.end))

    @property
    def size(self) -> int:
        """How much is held, in objects of some hundred bytes."""
        return len(self._frames) + len(self._threads) + 2 * len(self._configs)

    @property
    def nbytes(self) -> int:
        languages = self._languages.values() if not self._is_inner else ()
        inner = sum(language.frames.nbytes for language in languages)
        return 300 * self.size + inner + sum(terminal.nbytes for terminal in self.terminals.values())

    def terminal(self, node: int) -> Terminal:
        """The terminal of a regular node."""
        found = self.terminals.get(node)
        if found is None:
            equal = None if self._standard is None else self._standard.terminal(node)
            is_whole = self.is_regular
            found = Terminal(self._expressions, node, self._vocabulary, self._suffixes, equal, is_whole=is_whole)
            found = self.terminals.setdefault(node, found)  # making it may pause
        return found

    # ------------------------------------------------------------ moving

    def step(self, config: Config, byte: int) -> Config | None:
        """What follows `config` after `byte`; None when no text goes on so."""
        try:
            return config.steps[byte]
        except KeyError:
            pass
        found: dict[AnyThread, None] = {}
        for thread in config.threads:
            if isinstance(thread, Thread):
                self._advance(thread, byte, found)
            elif isinstance(thread, ItemThread):
                self._advance_item(thread, byte, found)
            else:
                self._advance_key(thread, byte, found)
        following = self._config(found) if found else None
        config.steps[byte] = following
        return following

    def _advance(self, thread: Thread, byte: int, found: dict[AnyThread, None]) -> None:
        if thread.terminal is None:
            return
        assert thread.state is not None
        state = thread.terminal.step(thread.state, byte)
        if state is None:
            return
        text = None if thread.text is None else thread.text + bytes((byte,))
        if state.goes_on and (text is None or not self._is_spent(thread.terminal, state, text, thread.rest)):
            found[self._thread(thread.terminal, state, text, thread.rest)] = None
        if state.is_complete:
            for after in self.after(thread, text):
                self._join(found, after)

    def after(self, thread: Thread, text: bytes | None) -> Iterator[Config]:
        """What may follow the terminal of `thread`, which wrote `text` if it is tracked."""
        rest = thread.rest
        if rest.kind == Kind.EXTRA:
            for colon, value, after in self.members_after(thread, text):
                yield self.config_of(self.node(colon, self.node(value, after)))
        elif rest.kind == Kind.UNIQUE_ITEM:
            position, tally, texts = rest.b
            if text is not None and text in self.taken(rest):
                return
            texts = texts if text is None else texts | {text}
            yield self.config_of(self._items(Kind.AFTER_ITEM, rest.a, position, tally, texts, rest.rest))
        else:
            yield self.config_of(rest)

    def members_after(self, thread: Thread, text: bytes | None) -> Iterator[tuple[int, int, Frame]]:
        """What may follow an extra key: colon, value, and what comes after the member."""
        node, written, index, rest = thread.rest.a, thread.rest.b, thread.rest.c, thread.rest.rest
        if text is None or text not in self.taken(thread.rest):
            for choice, after in self._expressions.members(node).with_extra(written, index, text):
                yield self._colon(node), choice.value, self._after_member(node, after, rest)

    def _advance_item(self, thread: ItemThread, byte: int, found: dict[AnyThread, None]) -> None:
        config = thread.language.frames.step(thread.config, byte)
        if config is None:
            return
        text = thread.text.then(byte)
        copies = thread.book.step(thread.copies, byte)
        escape = thread.escape
        if escape is not None and copies:
            is_followed = escape.text[0] == byte and len(escape.text) > 1
            escape = Escape(escape.text[1:], escape.cost) if is_followed else None
        self._enter_item(thread.language, config, text, thread.book, copies, escape, thread.rest, found)

    def _enter_item(
        self,
        language: ItemLanguage,
        config: Config,
        text: Trail,
        book: Copybook,
        copies: Copies,
        escape: Escape | None,
        rest: Frame,
        found: dict[AnyThread, None],
    ) -> None:
        """What goes on where `text` of an item is written. escape: one that is known already."""
        if config.threads:
            if not copies:
                escape = None
            elif escape is None:
                escape = language.escape(config, book, copies)
            if not copies or escape is not None:
                key = (language, config, text, rest)
                thread = self._threads.get(key)
                if thread is None:
                    thread = self._threads[key] = ItemThread(language, config, text, book, copies, escape, rest)
                found[thread] = None
        if config.is_complete and not book.has_copy(copies):
            position, tally, texts = rest.b
            texts |= {normal_text(text.text())}
            self._join(found, self.config_of(self._items(Kind.AFTER_ITEM, rest.a, position, tally, texts, rest.rest)))

    def _advance_key(self, thread: KeyThread, byte: int, found: dict[AnyThread, None]) -> None:
        at = thread.at.children.get(byte)
        if at is None or not at.mask & thread.allowed:
            return
        if at.ends < 0:
            found[self._key_thread(thread.node, at, thread.written, thread.allowed, thread.rest)] = None
            return
        for config in self.after_key(thread, at.ends):
            self._join(found, config)

    def _join(self, found: dict[AnyThread, None], config: Config) -> None:
        found.update(dict.fromkeys(config.threads))
        if config.is_complete:
            found[self._end_thread] = None

    def after_key(self, thread: KeyThread, index: int) -> Iterator[Config]:
        """What may follow the listed key number `index`."""
        for colon, value, after in self.members_after_key(thread, index):
            yield self.config_of(self.node(colon, self.node(value, after)))

    def members_after_key(self, thread: KeyThread, index: int) -> Iterator[tuple[int, int, Frame]]:
        """As `members_after`, of a listed key."""
        node, written, rest = thread.node, thread.written, thread.rest
        for choice, after in self._expressions.members(node).with_property(written, index):
            yield self._colon(node), choice.value, self._after_member(node, after, rest)

    def key_trie(self, node: int) -> KeyNode:
        found = self._keys.get(node)
        if found is None:
            kind = self._nodes[node]
            assert isinstance(kind, Object)
            found = self._keys[node] = key_trie(kind)
        return found

    def next_bytes(self, config: Config) -> tuple[int, ...]:
        """All bytes that may come next, and perhaps some that may not."""
        if config.next is None:
            found: dict[int, None] = {}
            for thread in config.threads:
                found.update(dict.fromkeys(self._next_bytes(thread, False)))
            config.next = tuple(found)
        return config.next

    def only_byte(self, config: Config) -> int | None:
        """The byte that every completion begins with, if there is one."""
        if config.is_complete:
            return None
        only: int | None = None
        for thread in config.threads:
            for byte in self._next_bytes(thread, True):
                if only is None:
                    only = byte
                elif byte != only:
                    return None
        return only if only is not None and self.step(config, only) is not None else None

    def _next_bytes(self, thread: AnyThread, is_exact: bool) -> list[int]:
        """Every byte that may come next; where texts may be taken, more than those unless it is to be exact."""
        if isinstance(thread, KeyThread):
            return [byte for byte, at in thread.at.children.items() if at.mask & thread.allowed]
        if isinstance(thread, ItemThread):
            inner = thread.language.frames.next_bytes(thread.config)
            if not is_exact:
                return list(inner)
            alone = self.lone(thread)
            return [byte for byte in inner if self.step(alone, byte) is not None]
        assert thread.terminal is not None
        assert thread.state is not None
        states = thread.terminal.states
        live = list(states.arrows(states.adopt(thread.state).index))
        if thread.text is None or len(live) == 1 or not is_exact:
            return live
        lone = self.lone(thread)
        return [byte for byte in live if self.step(lone, byte) is not None]

    def has_few_texts(self, thread: Thread) -> bool:
        assert thread.terminal is not None
        return self._expressions.few_texts(thread.terminal.node) is not None

    def lone(self, thread: AnyThread) -> Config:
        """The config of one thread alone."""
        return self._config({thread: None})

    def key_cost(self, thread: KeyThread, at: KeyNode) -> int:
        """What `thread` costs once it has come to `at`."""
        return self._key_cost(thread.node, at, thread.written, thread.allowed, thread.rest)

    def cost_after_key(self, thread: KeyThread, index: int) -> int:
        """What it costs to finish once a listed key is written."""
        return self._cost_after_key(thread.node, thread.written, index, thread.rest)

    @property
    def is_regular(self) -> bool:
        return not self._structured[self._root]

    # ------------------------------------------------------------ tracked texts

    def taken(self, rest: Frame) -> frozenset[bytes]:
        """The texts that a tracked thread before `rest` may not come to."""
        if rest.kind == Kind.UNIQUE_ITEM:
            return self._distinct(rest.a).taken(len(rest.b[2]), rest.b[2])
        return self._taken_keys(rest.a, rest.b)

    def _taken_keys(self, node: int, written: Written) -> frozenset[bytes]:
        listed = self._taken.get(node)
        if listed is None:
            kind = self._nodes[node]
            assert isinstance(kind, Object)
            listed = self._taken[node] = frozenset(member.key for member in kind.properties)
        return listed | written.extras if written.extras else listed

    def _distinct(self, node: int) -> Distinct:
        found = self._distincts.get(node)
        if found is None:
            kind = self._nodes[node]
            assert isinstance(kind, Array)
            found = self._distincts[node] = Distinct(self._expressions.few_texts, kind)
        return found

    def taken_after(self, rest: Frame, text: bytes) -> list[bytes]:
        """What those of the taken texts that begin with `text` have after it."""
        taken = self._sorted_taken.get(rest)
        if taken is None:
            taken = self._sorted_taken[rest] = sorted(self.taken(rest))
        start = end = bisect_left(taken, text)
        while end < len(taken) and taken[end].startswith(text):
            end += 1
        return [word[len(text) :] for word in taken[start:end]] if end > start else _NOTHING

    def is_spent(self, terminal: Terminal, state: State, rests: list[bytes]) -> bool:
        """Whether every text with which the terminal can go on is one of `rests`."""
        if terminal.states.loops(state):
            return False
        wanted = set(rests)
        longest = max(map(len, rests), default=0)
        work: list[tuple[State, bytes]] = [(state, b"")]
        while work:
            here, text = work.pop()
            if text and here.is_complete and text not in wanted:
                return False
            if here.goes_on and len(text) >= longest:
                return False  # a longer text than any of them
            for byte, after in terminal.states.live_bytes(terminal.states.adopt(here).index):
                following = text + bytes((byte,))
                if not any(rest.startswith(following) for rest in rests):
                    return False
                work.append((terminal.states.states[after], following))
        return True

    def _is_spent(self, terminal: Terminal, state: State, text: bytes, rest: Frame) -> bool:
        if terminal.states.loops(state):
            return False  # it has texts without end
        rests = self.taken_after(rest, text)
        return bool(rests) and self.is_spent(terminal, state, rests)

    def _tracked_cost(self, terminal: Terminal, state: State, text: bytes, rest: Frame) -> int:
        """Tokens that surely finish a text of the terminal that is not taken."""
        if not self.taken_after(rest, text):
            return state.cost
        words = self._expressions.few_texts(terminal.node)
        if words is None:
            return state.cost + TRACKED_COST
        taken = self.taken(rest)
        free = (len(word) - len(text) for word in words if word.startswith(text) and word not in taken)
        return min(free, default=state.cost)

    # ------------------------------------------------------------ frames

    def config_of(self, frame: Frame) -> Config:
        """The threads that can write the next byte where `frame` is next."""
        if frame.config is None:
            frame.config = self._config(self._expand(frame))
        return frame.config

    def _config(self, threads: dict[AnyThread, None]) -> Config:
        self._pause()
        if len(threads) > 1:
            threads = self._merged(threads)
            if len(threads) > MAX_THREADS:
                raise ConstraintError(f"the constraint is too ambiguous: a text is in {len(threads)} places at once")
        key = frozenset(threads)
        found = self._configs.get(key)
        if found is None:
            found = self._configs[key] = Config(
                tuple(thread for thread in threads if thread is not self._end_thread), self._end_thread in key
            )
        return found

    def _merged(self, threads: dict[AnyThread, None]) -> dict[AnyThread, None]:
        """Threads in the same place of the same terminal become one."""
        groups: dict[tuple[object, ...], list[Thread]] = {}
        for thread in threads:
            if isinstance(thread, Thread) and thread.text is None and thread.terminal is not None:
                groups.setdefault((thread.terminal, thread.state), []).append(thread)
        if len(groups) == len(threads) or all(len(group) == 1 for group in groups.values()):
            return threads
        merged = {
            thread: None
            for thread in threads
            if not (isinstance(thread, Thread) and thread.text is None and thread.terminal is not None)
        }
        for group in groups.values():
            first = group[0]
            if len(group) == 1:
                merged[first] = None
                continue
            assert first.terminal is not None
            assert first.state is not None
            rest = self._after_any(thread.rest for thread in group)
            merged[self._thread(first.terminal, first.state, None, rest)] = None
        return merged

    def _any_of(self, rests: dict[Frame, None]) -> Frame:
        return next(iter(rests)) if len(rests) == 1 else self._after_any(rests)

    def _after_any(self, rests: Iterable[Frame]) -> Frame:
        flat: set[Frame] = set()
        for rest in rests:
            if rest.kind == Kind.AFTER_ANY:
                flat |= rest.a
            else:
                flat.add(rest)
        return self._frame(Kind.AFTER_ANY, frozenset(flat), None, 0, None, min(frame.cost for frame in flat))

    def _expand(self, start: Frame) -> dict[AnyThread, None]:
        found: dict[AnyThread, None] = {}
        entered: dict[tuple[int, Frame], list[tuple[int, int]]] = {}
        called: dict[int, dict[Frame, None]] = {}  # rule -> what follows it, for all its calls together
        seen: set[Frame] = set()
        work = [start]
        while work or called:
            if not work:
                rule = min(called, key=self._ranks.__getitem__)
                work.append(self.node(self._expressions.rules[rule], self._any_of(called.pop(rule))))
            self._pause()
            frame = work.pop()
            if frame in seen:
                continue
            seen.add(frame)
            if frame.config is not None:
                self._join(found, frame.config)
                continue
            match frame.kind:
                case Kind.END:
                    found[self._end_thread] = None
                case Kind.NODE:
                    node = self._nodes[frame.a]
                    if isinstance(node, Call):
                        called.setdefault(node.rule, {})[frame.rest] = None
                    else:
                        self._expand_node(frame, found, work)
                case Kind.REPEAT:
                    self._expand_repeat(frame, entered, work)
                case Kind.AFTER_ANY:
                    work += frame.a
                case Kind.FIRST_KEY | Kind.NEXT_KEY:
                    self._expand_keys(frame, found)
                case Kind.AFTER_MEMBER:
                    self._expand_after_member(frame, work)
                case Kind.ITEM:
                    self._expand_item(frame, found, work)
                case Kind.AFTER_ITEM:
                    self._expand_after_item(frame, work)
        return found

    def _expand_node(self, frame: Frame, found: dict[AnyThread, None], work: list[Frame]) -> None:
        node, rest = frame.a, frame.rest
        kind = self._nodes[node]
        match kind:
            case Empty():
                work.append(rest)
            case Then(first, following) if self._structured[node]:
                work.append(self.node(first, self.node(following, rest)))
            case Either(items) if self._structured[node]:
                work += [self.node(item, rest) for item in reversed(items)]
            case Repeat(_, low, high) if self._structured[node]:
                work.append(self._repeat(node, low, _UNBOUNDED if high is None else high, rest))
            case Object():
                members = self._expressions.members(node)
                if members.may_close(members.start):
                    work.append(self.node(kind.empty, rest))
                if self._can_go_on(node, members.start):
                    work.append(self.node(kind.open, self._keys_frame(Kind.FIRST_KEY, node, members.start, rest)))
            case Array():
                places = self._expressions.items(node)
                if places.cost(0, places.bounds.start) == 0:
                    work.append(self.node(kind.empty, rest))
                if places.choices(0, places.bounds.start):
                    item = self._items(Kind.ITEM, node, 0, places.bounds.start, frozenset(), rest)
                    work.append(self.node(kind.open, item))
            case _:
                terminal = self.terminal(kind.item if isinstance(kind, TerminalNode) else node)
                self._enter(terminal, None, rest, found, work)

    def _find_ranks(self) -> list[int]:
        """An order of the rules in which each comes before those that its text may begin with. So all calls of a rule
        at one place of a text are known before it is entered, once: else a chain of rules, each called from two places
        of the one before, would be entered in two ways to the power of its length."""
        nullable: list[bool] = []
        begins: list[frozenset[int]] = []  # of each node, the rules that its text may begin with
        for node in self._nodes:
            match node:
                case Call(rule):
                    nullable.append(False)
                    begins.append(frozenset((rule,)))
                case Then(first, rest):
                    nullable.append(nullable[first] and nullable[rest])
                    begins.append(begins[first] | begins[rest] if nullable[first] else begins[first])
                case Either(items):
                    nullable.append(any(nullable[item] for item in items))
                    begins.append(frozenset().union(*(begins[item] for item in items)))
                case Repeat(item, low):
                    nullable.append(low == 0 or nullable[item])
                    begins.append(begins[item])
                case TerminalNode(item):
                    nullable.append(nullable[item])
                    begins.append(frozenset())
                case _:
                    nullable.append(isinstance(node, Empty))
                    begins.append(frozenset())
        rules = self._expressions.rules
        ranks = [0] * len(rules)
        rank = len(rules)
        seen: set[int] = set()
        for start in range(len(rules)):
            work = [(start, iter(begins[rules[start]]))] if start not in seen else []
            seen.add(start)
            while work:
                rule, following = work[-1]
                for other in following:
                    if other not in seen:
                        seen.add(other)
                        work.append((other, iter(begins[rules[other]])))
                        break
                else:
                    ranks[rule] = rank = rank - 1
                    work.pop()
        return ranks

    def _find_structured(self) -> list[bool]:
        found: list[bool] = []
        for node in self._nodes:
            found.append(isinstance(node, Structured) or any(found[child] for child in children(node)))
        return found

    def _enter(
        self,
        terminal: Terminal,
        text: bytes | None,
        rest: Frame,
        found: dict[AnyThread, None],
        work: list[Frame],
    ) -> None:
        start = terminal.start
        if start.goes_on:
            found[self._thread(terminal, start, text, rest)] = None
        if start.is_complete:
            work.append(rest)

    def _expand_repeat(
        self, frame: Frame, entered: dict[tuple[int, Frame], list[tuple[int, int]]], work: list[Frame]
    ) -> None:
        node, rest = frame.a, frame.rest
        low, high = frame.b
        kind = self._nodes[node]
        assert isinstance(kind, Repeat)
        counts = entered.setdefault((node, rest), [])
        if any(less <= low and more >= high for less, more in counts):
            return  # a round that wrote nothing: covered by the one before
        counts.append((low, high))
        if low == 0:
            work.append(rest)
        following = high if high == _UNBOUNDED else high - 1
        after = self._repeat(node, max(low - 1, 0), following, rest) if following else rest
        work.append(self.node(kind.item, after))

    def _expand_keys(self, frame: Frame, found: dict[AnyThread, None]) -> None:
        node, written, rest = frame.a, frame.b, frame.rest
        members = self._expressions.members(node)
        allowed = members.candidates(written)
        if allowed:
            found[self._key_thread(node, self.key_trie(node), written, allowed, rest)] = None
        for index, extra in enumerate(members.node.extras):
            if self._has_extra(node, written, index):
                after = self._frame(
                    Kind.EXTRA, node, written, index, rest, self._cost_after_extra(node, written, index, rest)
                )
                terminal = self.terminal(extra.key)
                found[self._thread(terminal, terminal.start, b"", after)] = None

    def _cost_after_extra(self, node: int, written: Written, index: int, rest: Frame) -> int:
        members = self._expressions.members(node)
        return min(
            self._value(node, choice.value, after, rest).cost
            for choice, after in members.with_extra(written, index, UNKNOWN)
        )

    def _expand_after_member(self, frame: Frame, work: list[Frame]) -> None:
        node, written, rest = frame.a, frame.b, frame.rest
        members = self._expressions.members(node)
        if members.may_close(written):
            work.append(self.node(members.node.close, rest))
        if self._can_go_on(node, written):
            work.append(self.node(members.node.comma, self._keys_frame(Kind.NEXT_KEY, node, written, rest)))

    def _can_go_on(self, node: int, written: Written) -> bool:
        """Whether a member can come: a listed one, or one whose key is not taken."""
        members = self._expressions.members(node)
        return bool(members.candidates(written)) or any(
            self._has_extra(node, written, index) for index in range(len(members.node.extras))
        )

    def _has_extra(self, node: int, written: Written, index: int) -> bool:
        members = self._expressions.members(node)
        if not members.with_extra(written, index, UNKNOWN):
            return False
        terminal = self.terminal(members.node.extras[index].key)
        if self._is_endless(terminal):
            return True
        taken = sorted(self._taken_keys(node, written))
        return not taken or not self.is_spent(terminal, terminal.start, taken)

    def _is_endless(self, terminal: Terminal) -> bool:
        """Whether texts without end begin with the first byte, which makes all else about what is taken needless."""
        found = self._endless.get(terminal)
        if found is None:
            states = terminal.states
            after = [states.states[index] for _, index in states.live_bytes(states.adopt(terminal.start).index)]
            found = self._endless[terminal] = any(states.loops(state) for state in after)
        return found

    def _expand_item(self, frame: Frame, found: dict[AnyThread, None], work: list[Frame]) -> None:
        node, rest = frame.a, frame.rest
        position, tally, texts = frame.b
        items = self._expressions.items(node)
        for choice, at, reached in items.choices(position, tally):
            if not items.node.is_unique:
                work.append(self.node(choice.value, self._items(Kind.AFTER_ITEM, node, at, reached, texts, rest)))
                continue
            cost = self._items(Kind.AFTER_ITEM, node, at, reached, texts, rest).cost
            after = self._frame(Kind.UNIQUE_ITEM, node, (at, reached, texts), 0, rest, cost)
            for part in self._unique_parts(choice.value):
                if self._structured[part]:
                    language = self._language(part)
                    book = self._book(texts)
                    start = language.frames.start
                    self._enter_item(language, start, language.start, book, book.start, None, after, found)
                    continue
                terminal = self.terminal(part)
                if self._is_spent(terminal, terminal.start, b"", after):
                    continue
                thread = self._thread(terminal, terminal.start, b"", after)
                if terminal.start.goes_on:
                    found[thread] = None
                if terminal.start.is_complete:
                    for config in self.after(thread, b""):
                        self._join(found, config)

    def _unique_parts(self, node: int) -> list[int]:
        """The nodes that the value of a unique item is one of: regular ones, arrays, objects."""
        kind = self._nodes[node]
        if isinstance(kind, TerminalNode):
            return [kind.item]
        if isinstance(kind, Either) and self._structured[node]:
            return [part for item in kind.items for part in self._unique_parts(item)]
        if isinstance(kind, Call):
            return self._unique_parts(self._expressions.rules[kind.rule])
        return [node]

    def _language(self, node: int) -> ItemLanguage:
        found = self._languages.get(node)
        if found is None:
            frames = Frames(self._expressions, self._vocabulary, self._suffixes, self._standard, node, self._languages)
            found = self._languages.setdefault(node, ItemLanguage(frames, last_bytes(self._nodes, node)))
        return found

    def _book(self, texts: frozenset[bytes]) -> Copybook:
        """The texts that are taken."""
        found = self._books.get(texts)
        if found is None:
            found = self._books[texts] = Copybook(texts)
        return found

    def _expand_after_item(self, frame: Frame, work: list[Frame]) -> None:
        node, rest = frame.a, frame.rest
        position, tally, texts = frame.b
        items = self._expressions.items(node)
        if items.cost(position, tally) == 0 and items.bounds.is_enough(tally):
            work.append(self.node(items.node.close, rest))
        if items.choices(position, tally) and (not items.node.is_unique or self._has_another(frame)):
            work.append(self.node(items.node.comma, self._items(Kind.ITEM, node, position, tally, texts, rest)))

    def _has_another(self, frame: Frame) -> bool:
        """Whether some item of an array without repeats is not taken yet."""
        found: dict[AnyThread, None] = {}
        self._expand_item(self._items(Kind.ITEM, frame.a, frame.b[0], frame.b[1], frame.b[2], frame.rest), found, [])
        return bool(found)

    # ------------------------------------------------------------ making

    def node(self, node: int, rest: Frame) -> Frame:
        """`node`, then `rest`."""
        return self._frame(Kind.NODE, node, None, 0, rest, self._costs[node] + rest.cost)

    def _repeat(self, node: int, low: int, high: int, rest: Frame) -> Frame:
        kind = self._nodes[node]
        assert isinstance(kind, Repeat)
        return self._frame(Kind.REPEAT, node, (low, high), 0, rest, low * self._costs[kind.item] + rest.cost)

    def _value(self, node: int, value: int, written: Written, rest: Frame) -> Frame:
        """Colon, value, and what follows the member in its object."""
        return self.node(self._colon(node), self.node(value, self._after_member(node, written, rest)))

    def _colon(self, node: int) -> int:
        kind = self._nodes[node]
        assert isinstance(kind, Object)
        return kind.colon

    def _after_member(self, node: int, written: Written, rest: Frame) -> Frame:
        members = self._expressions.members(node)
        cost = members.cost(written) + self._costs[members.node.close] + rest.cost
        return self._frame(Kind.AFTER_MEMBER, node, written, 0, rest, cost)

    def _keys_frame(self, kind: Kind, node: int, written: Written, rest: Frame) -> Frame:
        """Where a key must come. Its cost is that of the member it would rather write."""
        members = self._expressions.members(node)
        allowed = members.candidates(written)
        cost = self._key_cost(node, self.key_trie(node), written, allowed, rest) if allowed else IMPOSSIBLE
        if allowed and not members.counts:
            return self._frame(kind, node, written, 0, rest, cost)
        for index, extra in enumerate(members.node.extras):
            if self._has_extra(node, written, index):
                key = self._costs[extra.key] + TRACKED_COST
                cost = min(cost, key + self._cost_after_extra(node, written, index, rest))
        return self._frame(kind, node, written, 0, rest, cost)

    def _items(self, kind: Kind, node: int, position: int, tally: Tally, texts: frozenset[bytes], rest: Frame) -> Frame:
        items = self._expressions.items(node)
        if kind == Kind.AFTER_ITEM:
            cost = items.cost(position, tally) + self._costs[items.node.close] + rest.cost
        else:
            following = items.choices(position, tally)
            offered = tuple(choice for choice, _, _ in following)
            prices = (
                self._expressions.item_cost(choice.value, offered, items.node) + items.cost(at, reached)
                for choice, at, reached in following
            )
            cost = min(prices, default=IMPOSSIBLE)
            cost += self._costs[items.node.close] + rest.cost
        return self._frame(kind, node, (position, tally, texts), 0, rest, cost)

    def _frame(self, kind: Kind, a: object, b: object, c: int, rest: Frame | None, cost: int) -> Frame:
        key = (kind, a, b, c, rest)
        found = self._frames.get(key)
        if found is None:
            found = self._frames[key] = Frame(kind, a, b, c, rest, cost)
        return found

    def _thread(self, terminal: Terminal, state: State, text: bytes | None, rest: Frame) -> Thread:
        key = (terminal, state, text, rest)
        found = self._threads.get(key)
        if found is None:
            cost = rest.cost + (state.cost if text is None else self._tracked_cost(terminal, state, text, rest))
            found = self._threads[key] = Thread(terminal, state, text, rest, cost)
        assert isinstance(found, Thread)
        return found

    def _key_thread(self, node: int, at: KeyNode, written: Written, allowed: int, rest: Frame) -> KeyThread:
        key = (node, at, written, allowed, rest)
        found = self._threads.get(key)
        if found is None:
            cost = self._key_cost(node, at, written, allowed, rest)
            thread = KeyThread(node, at, written, allowed, rest, cost)
            found = self._threads.setdefault(key, thread)  # pricing may have paused
        assert isinstance(found, KeyThread)
        return found

    def _key_cost(self, node: int, at: KeyNode, written: Written, allowed: int, rest: Frame) -> int:
        """Tokens that finish one of the keys and all after it: the member that must come if there is one, else the
        first; the same one is chosen again all along its key."""
        members = self._expressions.members(node)
        mask = at.mask & allowed
        if members.counts:
            indexes = list(bits(mask))
        else:
            lacking = members.lacking(written) & mask
            indexes = [next(bits(lacking or mask))]
        best = IMPOSSIBLE
        costs = self._expressions.key_costs(node)
        for index in indexes:
            best = min(best, costs[index][at.depth] + self._cost_after_key(node, written, index, rest))
        return best

    def _cost_after_key(self, node: int, written: Written, index: int, rest: Frame) -> int:
        """Tokens that surely suffice after the listed key number `index`."""
        members = self._expressions.members(node)
        if members.counts or not members.node.is_ordered:
            choices = members.with_property(written, index)
            prices = (self._value(node, choice.value, after, rest).cost for choice, after in choices)
            return min(prices, default=IMPOSSIBLE)
        costs = self._costs_after_key.get(node)
        if costs is None:
            costs = self._costs_after_key[node] = self._ordered_costs(members)
        return costs[index] + rest.cost

    def _ordered_costs(self, members: Members) -> list[int]:
        """The same of each listed key, where what was written before does not matter, less what `rest` costs."""
        found: list[int] = []
        around = self._costs[members.node.colon] + self._costs[members.node.close]
        for index, member in enumerate(members.node.properties):
            after = around + members.cost(Written(index + 1, members.start.tally, frozenset()))
            found.append(min((self._costs[choice.value] + after for choice in member.choices), default=IMPOSSIBLE))
        return found


__all__ = ["UNKNOWN", "AnyThread", "Config", "Frame", "Frames", "ItemThread", "KeyThread", "Thread"]
