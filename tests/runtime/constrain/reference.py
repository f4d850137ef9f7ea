"""What a rule graph means, as plainly as it can be said: the oracle for the automata that run it.

Slow and simple. `ends` parses whole texts, `words` writes all texts up to a length. The two share no code, nor does
either with `runtime/constrain`, whose data types in `rules.py` are all they know.
"""

from __future__ import annotations

from collections.abc import Iterator

from latticework.runtime.constrain.rules import (
    Array,
    Bytes,
    Call,
    Choice,
    Either,
    Empty,
    Literal,
    Machine,
    Object,
    Repeat,
    RuleGraph,
    Terminal,
    Then,
    Words,
)

Bounds = tuple[tuple[int, int | None], ...]


def ends(graph: RuleGraph, text: bytes) -> bool:
    """Whether `text` is in the language of `graph`."""
    return len(text) in Parse(graph, text).ends(graph.root, 0)


def within(count: int, low: int, high: int | None) -> bool:
    return low <= count and (high is None or count <= high)


def may_be_empty(node: Object | Array) -> bool:
    """Whether the frame may have no member at all."""
    required = isinstance(node, Object) and any(member.is_required for member in node.properties)
    return not required and node.low == 0 and all(low == 0 for low, _ in node.bounds)


def is_over(count: int, high: int | None) -> bool:
    return high is not None and count > high


def marked(sums: tuple[int, ...], choice: Choice) -> tuple[int, ...]:
    return tuple(total + choice.marks.count(mark) for mark, total in enumerate(sums))


class Parse:
    """Where texts of each node that begin at each position of `text` can end."""

    def __init__(self, graph: RuleGraph, text: bytes) -> None:
        self.graph = graph
        self.text = text
        self._known: dict[tuple[int, int], frozenset[int]] = {}

    def ends(self, index: int, start: int) -> frozenset[int]:
        known = self._known.get((index, start))
        if known is None:
            known = self._known[index, start] = frozenset(self._find(index, start))
        return known

    def _find(self, index: int, start: int) -> set[int]:
        text = self.text
        match self.graph.nodes[index]:
            case Empty():
                return {start}
            case Bytes(ranges):
                is_in = start < len(text) and any(low <= text[start] <= high for low, high in ranges)
                return {start + 1} if is_in else set()
            case Literal(data):
                return {start + len(data)} if text.startswith(data, start) else set()
            case Words(words):
                return {start + len(word) for word in words if text.startswith(word, start)}
            case Then(first, rest):
                return {end for middle in self.ends(first, start) for end in self.ends(rest, middle)}
            case Either(items):
                return {end for item in items for end in self.ends(item, start)}
            case Repeat() as node:
                return self._repeat(node, start)
            case Machine() as node:
                return self._machine(node, start)
            case Terminal(item):
                return set(self.ends(item, start))
            case Call(rule):
                return set(self.ends(self.graph.rules[rule], start))
            case Object() as node:
                return self._object(node, start)
            case Array() as node:
                return self._array(node, start)
        raise AssertionError(self.graph.nodes[index])

    def _repeat(self, node: Repeat, start: int) -> set[int]:
        is_nullable = start in self.ends(node.item, start)
        found: set[int] = set()
        seen = {(start, 0)}
        work = [(start, 0)]
        while work:
            place, count = work.pop()
            if count >= node.low or is_nullable:  # the empty text fills up what is missing
                found.add(place)
            if node.high is not None and count == node.high:
                continue
            more = count + 1 if node.high is not None else min(count + 1, node.low)
            for end in self.ends(node.item, place):
                if end > place and (end, more) not in seen:
                    seen.add((end, more))
                    work.append((end, more))
        return found

    def _machine(self, node: Machine, start: int) -> set[int]:
        found: set[int] = set()
        work = [(start, 0, 0)]
        while work:
            place, state, count = work.pop()
            if node.states[state].accepts and within(count, node.low, node.high):
                found.add(place)
            if node.high is not None and count == node.high:
                continue
            for part, target in node.states[state].moves:
                work += [(end, target, count + 1) for end in self.ends(part, place)]
        return found

    def _follow(self, places: set[int], index: int) -> set[int]:
        return {end for place in places for end in self.ends(index, place)}

    def _object(self, node: Object, start: int) -> set[int]:
        found = set(self.ends(node.empty, start)) if may_be_empty(node) else set()
        listed = {member.key: place for place, member in enumerate(node.properties)}
        required = frozenset(member.key for member in node.properties if member.is_required)
        State = tuple[int, frozenset[bytes], int, tuple[int, ...]]  # where a member may begin; keys; next listed; sums
        begun = [(place, frozenset[bytes](), 0, (0,) * len(node.bounds)) for place in self.ends(node.open, start)]
        seen: set[State] = set(begun)
        work: list[State] = begun
        while work:
            place, keys, following, sums = work.pop()
            members = list(self._listed(node, place, keys, following)) + list(self._extras(node, place, keys, listed))
            for key, is_next, key_end, choices in members:
                for choice in choices:
                    after = self._follow(self._follow({key_end}, node.colon), choice.value)
                    counted = marked(sums, choice)
                    written = keys | {key}
                    is_full = required <= written and within(len(written), node.low, node.high)
                    if is_full and are_within(counted, node.bounds):
                        found |= self._follow(after, node.close)
                    if is_over(len(written) + 1, node.high):
                        continue
                    for begin in self._follow(after, node.comma):
                        state = (begin, written, is_next, counted)
                        if state not in seen:
                            seen.add(state)
                            work.append(state)
        return found

    def _listed(
        self, node: Object, place: int, keys: frozenset[bytes], following: int
    ) -> Iterator[tuple[bytes, int, int, tuple[Choice, ...]]]:
        """Listed members that can come at `place`: key, the next that may come after it, where the key ends, values."""
        for number, member in enumerate(node.properties):
            if member.key in keys or (node.is_ordered and number < following):
                continue
            if self.text.startswith(member.key, place):
                yield member.key, number + 1, place + len(member.key), member.choices

    def _extras(
        self, node: Object, place: int, keys: frozenset[bytes], listed: dict[bytes, int]
    ) -> Iterator[tuple[bytes, int, int, tuple[Choice, ...]]]:
        following = max((listed[key] + 1 for key in keys if key in listed), default=0)
        for extra in node.extras:
            for end in self.ends(extra.key, place):
                key = self.text[place:end]
                if key not in keys and key not in listed:
                    yield key, following, end, extra.choices

    def _array(self, node: Array, start: int) -> set[int]:
        found = set(self.ends(node.empty, start)) if may_be_empty(node) else set()
        State = tuple[int, int, frozenset[bytes], tuple[int, ...]]  # where an item may begin; items; texts; sums
        begun = [(place, 0, frozenset[bytes](), (0,) * len(node.bounds)) for place in self.ends(node.open, start)]
        seen: set[State] = set(begun)
        work: list[State] = begun
        while work:
            place, count, texts, sums = work.pop()
            for choice in node.first[count] if count < len(node.first) else node.rest:
                counted = marked(sums, choice)
                for end in self.ends(choice.value, place):
                    item = same_value(self.text[place:end]) if node.is_unique else b""
                    if node.is_unique and item in texts:
                        continue
                    if within(count + 1, node.low, node.high) and all(
                        within(total, *bound) for total, bound in zip(counted, node.bounds, strict=True)
                    ):
                        found |= self.ends(node.close, end)
                    if is_over(count + 2, node.high):
                        continue
                    for begin in self.ends(node.comma, end):
                        state = (begin, count + 1, texts | {item} if node.is_unique else texts, counted)
                        if state not in seen:
                            seen.add(state)
                            work.append(state)
        return found


def words(graph: RuleGraph, longest: int, prefix: bytes = b"", alphabet: bytes = bytes(range(256))) -> set[bytes]:
    """Every text of the language of at most `longest` bytes, all in `alphabet`, that begins with `prefix`."""
    found = Writing(graph, alphabet).words(graph.root, longest, prefix)
    return {word for word in found if word.startswith(prefix)}


def can_continue(graph: RuleGraph, prefix: bytes, more: int, alphabet: bytes = bytes(range(256))) -> bool:
    """Whether at most `more` bytes make `prefix` a text of the language."""
    return any(words(graph, len(prefix) + length, prefix, alphabet) for length in range(more + 1))


class Writing:
    """The texts of each node up to a length, as far as they agree with a prefix: all bytes that both have."""

    def __init__(self, graph: RuleGraph, alphabet: bytes) -> None:
        self.graph = graph
        self.alphabet = frozenset(alphabet)
        self._known: dict[tuple[int, int, bytes], frozenset[bytes]] = {}

    def words(self, index: int, longest: int, prefix: bytes) -> frozenset[bytes]:
        if longest < 0:
            return frozenset()
        key = (index, longest, prefix)
        known = self._known.get(key)
        if known is None:
            found = self._write(index, longest, prefix)
            known = self._known[key] = frozenset(word for word in found if agree(word, prefix))
        return known

    def _fits(self, word: bytes, longest: int) -> bool:
        return len(word) <= longest and self.alphabet.issuperset(word)

    def _write(self, index: int, longest: int, prefix: bytes) -> set[bytes]:
        match self.graph.nodes[index]:
            case Empty():
                return {b""}
            case Bytes(ranges):
                singles = {bytes([byte]) for low, high in ranges for byte in range(low, high + 1)}
                return {word for word in singles if self._fits(word, longest)}
            case Literal(data):
                return {data} if self._fits(data, longest) else set()
            case Words(many):
                return {word for word in many if self._fits(word, longest)}
            case Then(first, rest):
                return self.append(self.words(first, longest, prefix), rest, longest, prefix)
            case Either(items):
                return set().union(*(self.words(item, longest, prefix) for item in items))
            case Repeat() as node:
                return self._repeat(node, longest, prefix)
            case Machine() as node:
                return self._machine(node, longest, prefix)
            case Terminal(item):
                return set(self.words(item, longest, prefix))
            case Call(rule):
                return set(self.words(self.graph.rules[rule], longest, prefix))
            case Object() as node:
                return self._object(node, longest, prefix)
            case Array() as node:
                return self._array(node, longest, prefix)
        raise AssertionError(self.graph.nodes[index])

    def append(self, begun: frozenset[bytes] | set[bytes], index: int, longest: int, prefix: bytes) -> set[bytes]:
        """Each of `begun`, followed by each text of the node."""
        return {word + more for word in begun for more in self.words(index, longest - len(word), prefix[len(word) :])}

    def _repeat(self, node: Repeat, longest: int, prefix: bytes) -> set[bytes]:
        low = 0 if self.words(node.item, 0, b"") else node.low  # the empty text fills up what is missing
        level, found, count = {b""}, set[bytes](), 0
        while level and not is_over(count, node.high):
            if count >= low:
                found |= level
            longer = self.append(level, node.item, longest, prefix)
            level = {word for word in longer if len(word) > count}  # what is shorter has an empty part
            count += 1
        return found

    def _machine(self, node: Machine, longest: int, prefix: bytes) -> set[bytes]:
        level = {(b"", 0)}
        found: set[bytes] = set()
        count = 0
        while level and not is_over(count, node.high):
            if count >= node.low:
                found |= {word for word, state in level if node.states[state].accepts}
            level = {
                (longer, target)
                for word, state in level
                for part, target in node.states[state].moves
                for longer in self.append({word}, part, longest, prefix)
            }
            count += 1
        return found

    def _object(self, node: Object, longest: int, prefix: bytes) -> set[bytes]:
        found = set(self.words(node.empty, longest, prefix)) if may_be_empty(node) else set()
        zeros = (0,) * len(node.bounds)
        listed = [member.key for member in node.properties]

        def write(begun: set[bytes], keys: tuple[bytes, ...], sums: tuple[int, ...]) -> None:
            """Goes on where a member must come; `begun`: the texts so far, each with the same keys."""
            if not begun or is_over(len(keys) + 1, node.high):
                return
            least = max((listed.index(key) + 1 for key in keys if key in listed), default=0) if node.is_ordered else 0
            for number, member in enumerate(node.properties):
                if number >= least and member.key not in keys:
                    texts = {word + member.key for word in begun if self._fits(word + member.key, longest)}
                    value(agreeing(texts, prefix), (*keys, member.key), sums, member.choices)
            for extra in node.extras:
                for word in begun:
                    for key in self.words(extra.key, longest - len(word), prefix[len(word) :]):
                        if key not in keys and key not in listed:
                            value({word + key}, (*keys, key), sums, extra.choices)

        def value(
            begun: set[bytes], keys: tuple[bytes, ...], sums: tuple[int, ...], choices: tuple[Choice, ...]
        ) -> None:
            begun = self.append(begun, node.colon, longest, prefix)
            for choice in choices:
                texts, counted = self.append(begun, choice.value, longest, prefix), marked(sums, choice)
                is_full = all(member.key in keys for member in node.properties if member.is_required)
                if is_full and within(len(keys), node.low, node.high) and are_within(counted, node.bounds):
                    found.update(self.append(texts, node.close, longest, prefix))
                write(self.append(texts, node.comma, longest, prefix), keys, counted)

        write(set(self.words(node.open, longest, prefix)), (), zeros)
        return found

    def _array(self, node: Array, longest: int, prefix: bytes) -> set[bytes]:
        found = set(self.words(node.empty, longest, prefix)) if may_be_empty(node) else set()
        Begun = dict[tuple[bytes, tuple[bytes, ...], tuple[int, ...]], None]  # text, items of a unique array, sums
        zeros = (0,) * len(node.bounds)
        level: Begun = {(word, (), zeros): None for word in self.words(node.open, longest, prefix)}
        count = 0
        while level and not is_over(count + 1, node.high):
            following: Begun = {}
            for text, items, sums in level:
                for choice in node.first[count] if count < len(node.first) else node.rest:
                    counted = marked(sums, choice)
                    for item in self.words(choice.value, longest - len(text), prefix[len(text) :]):
                        value = same_value(item) if node.is_unique else b""
                        if node.is_unique and value in items:
                            continue
                        if within(count + 1, node.low, node.high) and are_within(counted, node.bounds):
                            found |= self.append({text + item}, node.close, longest, prefix)
                        kept = tuple(sorted((*items, value))) if node.is_unique else ()
                        for longer in self.append({text + item}, node.comma, longest, prefix):
                            following[longer, kept, counted] = None
            level = following
            count += 1
        return found


def same_value(text: bytes) -> bytes:
    """One text of the value that `text` writes: without blanks, members sorted. Letters and quotes are its scalars."""
    return _value(text.replace(b" ", b""), 0)[0]


def _value(text: bytes, place: int) -> tuple[bytes, int]:
    opening = text[place : place + 1]
    if opening not in (b"{", b"["):
        end = place
        while end < len(text) and text[end] not in b",]}:":
            end += 1
        return text[place:end], end
    closing = b"}" if opening == b"{" else b"]"
    parts: list[bytes] = []
    place += 1
    while text[place : place + 1] != closing:
        part, place = _value(text, place)
        if opening == b"{":
            value, place = _value(text, place + 1)
            part += b":" + value
        parts.append(part)
        place += text[place : place + 1] == b","
    return opening + b",".join(sorted(parts) if opening == b"{" else parts) + closing, place + 1


def agree(word: bytes, prefix: bytes) -> bool:
    return word.startswith(prefix[: len(word)])


def agreeing(texts: set[bytes], prefix: bytes) -> set[bytes]:
    return {text for text in texts if agree(text, prefix)}


def are_within(counts: tuple[int, ...], bounds: Bounds) -> bool:
    return all(within(count, *bound) for count, bound in zip(counts, bounds, strict=True))
