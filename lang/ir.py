"""The program as data: ops, constraints, sampling.

Everything here is frozen, equal by content and serialisable; ids are positions. This file knows no backend,
no tokenizer and no model: it is what they all agree on.

A `Program` is straight-line blocks of ops, one per branch; branch 0 is the program itself, the others are
started by a `Fork`. The same ops travel one by one when a program is interpreted.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from latticework.lang.errors import (
    ConstraintError,
    InvalidArgument,
    ProgramError,
    RegexError,
    SchemaError,
    point_at,
)

if TYPE_CHECKING:
    from latticework.lang.graph import Node

IR_VERSION = 1
MAX_BRANCHES = 4096
MAX_FORK_DEPTH = 64
MAX_OPS = 100_000
MAX_TEXT_BYTES = 16 << 20
MAX_INDENT = 8
MAX_TOKENS_LIMIT = 1 << 20
MAX_STOPS = 64
MAX_STOP_CHARS = 1024
MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
MAX_N = 64

REGEX_INT = r"-?(0|[1-9][0-9]*)[ \n]*"
REGEX_FLOAT = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?[ \n]*"
REGEX_STR = r'"[\w\d ]*"'
REGEX_BOOL = r"(True|False)"
"""What SGLang's programs know by these names, each a part of SGLang's own language that JSON can read: no leading
zeros and no line ends in strings. The blanks at the end are where a stop of " " or "\\n" ends a number."""


# ---------------------------------------------------------------- sampling


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """How tokens are drawn. Language, HTTP and engine use this very class.

    max_tokens: at most this many output tokens. temperature: 0 is greedy. top_p in (0, 1], 1 is off.
    top_k: -1 is off. min_p in [0, 1], 0 is off. stop: strings that end the output and are not part of it.
    stop_token_ids: token ids that do the same. stop_regex: patterns whose first match anywhere in the output does the
    same, as soon as it is one; without anchors. seed: None derives one from the run's seed.
    logprobs: None for none, 0 for the chosen token's, k for the k likeliest as well (raw model log-probabilities,
    natural logarithm, before all that follows). prompt_logprobs: the same for the tokens of the constant text right
    before, back to the last gen, select or fork; a token that nothing precedes has none. prompt_logprobs_start: they
    begin with this token of the whole text, counted from 0; what is before it may come from the cache.
    frequency_penalty, presence_penalty: in [-2, 2], 0 is off; subtracted from the logit of a token as often as, or
    if, it is in this output. repetition_penalty: in [0.01, 100], 1 is off; a logit above 0 is divided by it, others
    are multiplied, for every token in the text so far: the prompt's and the output's. logit_bias: (token id, number
    in [-100, 100]) pairs, or a mapping; added to logits.
    min_tokens: end tokens and stop_token_ids are not drawn, and stops not looked at, before so many output tokens,
    unless a constraint leaves nothing else. ignore_eos: the same for end tokens, throughout. include_stop: what
    stopped the output stays part of it, end tokens excepted.
    n: so many outputs, at most MAX_N; the text goes on with the first. Output i has the seed `sample_seed(seed, i)`.
    best_of: so many are drawn, and the n of the highest mean log-probability are kept, best first. None: n, in order.
    Raises InvalidArgument naming the field.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    include_stop: bool = False
    stop_regex: tuple[str, ...] = ()
    n: int = 1
    best_of: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprobs_start: int = 0

    def __post_init__(self) -> None:
        _check_range("max_tokens", self.max_tokens, 1, MAX_TOKENS_LIMIT)
        _check_range("temperature", self.temperature, 0.0, 100.0, kind=float)
        _check_range("top_p", self.top_p, 0.0, 1.0, kind=float)
        if self.top_p == 0.0:
            raise InvalidArgument(
                "top_p is 0; expected 0 < top_p <= 1", field="top_p", hint="temperature=0 takes the likeliest token"
            )
        if self.top_k != -1:
            _check_range("top_k", self.top_k, 1, 1 << 30, hint="-1 turns top_k off")
        _check_range("min_p", self.min_p, 0.0, 1.0, kind=float)
        for field in ("logprobs", "prompt_logprobs"):
            if getattr(self, field) is not None:
                _check_range(field, getattr(self, field), 0, MAX_TOP_LOGPROBS)
        _check_range("prompt_logprobs_start", self.prompt_logprobs_start, 0, MAX_TOKENS_LIMIT)
        if self.seed is not None:
            _check_range("seed", self.seed, 0, (1 << 64) - 1)
        for field in ("frequency_penalty", "presence_penalty"):
            _check_range(field, getattr(self, field), -2.0, 2.0, kind=float)
        _check_range("repetition_penalty", self.repetition_penalty, 0.01, 100.0, kind=float, hint="1 turns it off")
        _check_range("min_tokens", self.min_tokens, 0, MAX_TOKENS_LIMIT)
        for field in ("ignore_eos", "include_stop"):
            if not isinstance(getattr(self, field), bool):
                raise InvalidArgument(f"{field} is {getattr(self, field)!r}; expected true or false", field=field)
        _check_range("n", self.n, 1, MAX_N)
        if self.best_of is not None:
            _check_range("best_of", self.best_of, self.n, MAX_N, hint="best_of outputs are drawn, the best n are kept")
        self._check_bias()
        self._check_stops()

    def _check_bias(self) -> None:
        given: Any = self.logit_bias
        pairs = tuple(given.items()) if isinstance(given, Mapping) else given
        if not isinstance(pairs, tuple | list) or any(not isinstance(p, tuple | list) or len(p) != 2 for p in pairs):
            raise InvalidArgument("logit_bias is no mapping of token ids to numbers", field="logit_bias")
        if len(pairs) > MAX_LOGIT_BIAS:
            raise InvalidArgument(
                f"logit_bias has {len(pairs)} entries; at most {MAX_LOGIT_BIAS} are taken", field="logit_bias"
            )
        for token, bias in pairs:
            _check_range("logit_bias", token, 0, (1 << 31) - 1, hint="its keys are token ids")
            _check_range("logit_bias", bias, -100.0, 100.0, kind=float)
        if len({token for token, _ in pairs}) < len(pairs):
            raise InvalidArgument("logit_bias names a token twice", field="logit_bias")
        ordered = tuple(sorted((token, float(bias)) for token, bias in pairs))
        msgspec.structs.force_setattr(self, "logit_bias", ordered)

    def _check_stops(self) -> None:
        # Callers write a list, or one string; equality and hashing need the tuple.
        for field in ("stop", "stop_regex", "stop_token_ids"):
            given = getattr(self, field)
            given = (given,) if isinstance(given, str) and field != "stop_token_ids" else given
            if not isinstance(given, tuple | list):
                raise InvalidArgument(f"{field} is a {type(given).__name__}; expected a list", field=field)
            if len(given) > MAX_STOPS:
                raise InvalidArgument(f"{field} has {len(given)} entries; at most {MAX_STOPS} are taken", field=field)
            msgspec.structs.force_setattr(self, field, tuple(given))
        for field, text in [("stop", text) for text in self.stop] + [("stop_regex", text) for text in self.stop_regex]:
            if not isinstance(text, str):
                raise InvalidArgument(f"{field} holds a {type(text).__name__}; expected strings", field=field)
            if not 0 < len(text) <= MAX_STOP_CHARS:
                raise InvalidArgument(
                    f"a string of {field} has {len(text)} characters; expected 1 to {MAX_STOP_CHARS}", field=field
                )
            _check_text(InvalidArgument, field, text)
        for pattern in self.stop_regex:
            _refuse_anchors(pattern)
        for token in self.stop_token_ids:
            _check_range("stop_token_ids", token, 0, (1 << 31) - 1)

    @property
    def greedy(self) -> bool:
        """The likeliest token is taken: temperature is 0."""
        return self.temperature == 0.0

    @property
    def candidates(self) -> int:
        """How many outputs are drawn."""
        return self.n if self.best_of is None else self.best_of

    @property
    def ranked(self) -> bool:
        """The outputs are compared before any of them is given."""
        return self.best_of is not None and self.best_of > 1


def _check_range(
    field: str, value: float, low: float, high: float, *, kind: type = int, hint: str | None = None
) -> None:
    allowed: tuple[type, ...] = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, allowed):
        wanted = "an integer" if kind is int else "a number"
        raise InvalidArgument(f"{field} is {value!r}; expected {wanted}", field=field, hint=hint)
    if not low <= value <= high:
        raise InvalidArgument(f"{field} is {value}; expected {low} <= {field} <= {high}", field=field, hint=hint)


def _check_text(kind: type[InvalidArgument], field: str, text: str) -> None:
    """Raises an error of that kind where `text` is not Unicode that UTF-8 can carry."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise kind(
            f"{field} holds a lone surrogate at character {error.start}", field=field, position=error.start
        ) from None


_ANCHOR_OR_SKIPPED = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\.|[\^$]", re.DOTALL)


def _refuse_anchors(pattern: str) -> None:
    """An output under way has no end to anchor to, and its beginning is where the search starts anyway."""
    for part in _ANCHOR_OR_SKIPPED.finditer(pattern):
        if part[0] in ("^", "$", "\\A", "\\Z"):
            raise RegexError(
                f"stop_regex has the anchor {part[0]}, which a search cannot use\n{point_at(pattern, part.start())}",
                field="stop_regex",
                position=part.start(),
                hint="leave it out: the pattern is looked for everywhere in the output",
            )


def merge_sampling(base: Sampling, own: Sampling, given: tuple[str, ...]) -> Sampling:
    """`base` with the fields named in `given` taken from `own`: run defaults under an op's own choices."""
    if not given:
        return base
    return msgspec.structs.replace(base, **{name: getattr(own, name) for name in given})


def derive_seed(run_seed: int, item: int, path: tuple[int, ...], ordinal: int, sample: int = 0) -> int:
    """The seed of one generating op, uint64.

    item: index in a batch. path: for each fork above the branch, (number of that fork in its branch, child).
    ordinal: number of the op among the generating ops of its branch. The result depends on nothing else, so
    timing, batching and message order never change what is drawn.
    """
    numbers = (run_seed, item, len(path), *path, ordinal, sample)
    digest = hashlib.blake2b(b"".join(n.to_bytes(8, "little") for n in numbers), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def sample_seed(seed: int, sample: int) -> int:
    """The seed of one of several outputs of an op: the first has the op's own."""
    return seed if sample == 0 else derive_seed(seed, 0, (), 0, sample)


# ---------------------------------------------------------------- constraints


class Regex(msgspec.Struct, frozen=True, tag="regex", forbid_unknown_fields=True):
    """Text that `re.fullmatch(pattern, text)` accepts, for the supported subset of Python's syntax."""

    pattern: str

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str):
            raise RegexError(f"regex is a {type(self.pattern).__name__}; expected a string", field="regex")
        _check_text(RegexError, "regex", self.pattern)


class Choices(msgspec.Struct, frozen=True, tag="choices", forbid_unknown_fields=True):
    """Exactly one of the given strings."""

    options: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ConstraintError("choices is empty; expected at least one string", field="choices")
        if any(not isinstance(o, str) for o in self.options):
            raise ConstraintError("choices holds something that is not a string", field="choices")
        for option in self.options:
            _check_text(ConstraintError, "choices", option)


class JsonSchema(msgspec.Struct, frozen=True, tag="json_schema", omit_defaults=True, forbid_unknown_fields=True):
    """A JSON document that the schema accepts.

    schema: a schema as JSON text, or as a dict or bool, which is turned into text; the order of its keys is
    kept and is part of the constraint's identity. whitespace: "compact" writes none between tokens, "spaced"
    writes json.dumps' separators, a number indents as json.dumps does; "flexible" is JSON as anyone may write it:
    up to 20 spaces, tabs or line ends between tokens, and 1.0 for an integer. key_order: "schema" writes the listed
    properties in the schema's order, "any" in any. formats: whether `format` is an assertion or says nothing.
    Objects are open, as the standard has it: close them with `"additionalProperties": false`.
    Raises SchemaError when the text is no JSON, InvalidArgument for an option that does not exist.
    """

    schema: str | dict[str, Any] | bool
    whitespace: Literal["compact", "spaced", "flexible"] | int = "compact"
    key_order: Literal["schema", "any"] = "schema"
    formats: Literal["assert", "annotate"] = "assert"

    def __post_init__(self) -> None:
        self._check_options()
        if isinstance(self.schema, str):
            try:
                value = json.loads(self.schema)
            except (ValueError, RecursionError) as error:
                raise SchemaError(f"the schema is not JSON: {error}", field="json_schema", pointer="") from None
        else:
            value = self.schema
        if not isinstance(value, dict | bool):
            raise SchemaError(
                f"the schema is a JSON {type(value).__name__}; expected an object or a boolean",
                field="json_schema",
                pointer="",
            )
        try:
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            if not _has_utf8(text):  # it stays escaped, and whoever compiles it points at it
                text = json.dumps(value, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise SchemaError(f"the schema is not JSON: {error}", field="json_schema", pointer="") from None
        msgspec.structs.force_setattr(self, "schema", text)

    def _check_options(self) -> None:
        space = self.whitespace
        if isinstance(space, int) and not isinstance(space, bool):
            _check_range("whitespace", space, 0, MAX_INDENT)
        elif space not in ("compact", "spaced", "flexible"):
            hint = 'expected "compact", "spaced", "flexible", or the width of the indent'
            raise InvalidArgument(f"whitespace is {space!r}", field="whitespace", hint=hint)
        for field, allowed in (("key_order", ("schema", "any")), ("formats", ("assert", "annotate"))):
            if getattr(self, field) not in allowed:
                hint = f"expected {' or '.join(map(repr, allowed))}"
                raise InvalidArgument(f"{field} is {getattr(self, field)!r}", field=field, hint=hint)

    @property
    def text(self) -> str:
        """The schema as JSON text, key order kept."""
        assert isinstance(self.schema, str)
        return self.schema


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Lark(msgspec.Struct, frozen=True, tag="lark", omit_defaults=True, forbid_unknown_fields=True):
    """Text that the grammar's rule `start` derives. The grammar is in lark's syntax and means what lark's Earley parser
    takes it to mean. Whether it is one is found out when it is compiled: GrammarError."""

    grammar: str
    start: str = "start"

    def __post_init__(self) -> None:
        _check_strings("lark", grammar=self.grammar, start=self.start)


class Gbnf(msgspec.Struct, frozen=True, tag="gbnf", omit_defaults=True, forbid_unknown_fields=True):
    """Text that the grammar's rule `start` derives. The grammar is in the syntax of llama.cpp and xgrammar. Whether it
    is one is found out when it is compiled: GrammarError."""

    grammar: str
    start: str = "root"

    def __post_init__(self) -> None:
        _check_strings("gbnf", grammar=self.grammar, start=self.start)


class After(msgspec.Struct, frozen=True, tag="after", forbid_unknown_fields=True):
    """Any text up to the first `marker`, the marker, then text of `constraint`: for models that reason first."""

    marker: str
    constraint: Constraint

    def __post_init__(self) -> None:
        _check_strings("after", marker=self.marker)


class Tag(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`begin`, text of `constraint`, `end`."""

    begin: str
    constraint: Constraint
    end: str = ""

    def __post_init__(self) -> None:
        _check_strings("tags", begin=self.begin)
        if not isinstance(self.end, str):
            raise ConstraintError(f"end is a {type(self.end).__name__}; expected a string", field="tags")


class Triggered(msgspec.Struct, frozen=True, tag="triggered", omit_defaults=True, forbid_unknown_fields=True):
    """Free text in which a trigger always begins a tag: tool calls among prose.

    tags: what may follow; each begins with a trigger. triggers: strings that free text never has; without them, every
    tag's `begin` is one. at_least_one: a text without any tag is not complete. stop_after_first: the first tag ends
    the text.
    """

    tags: tuple[Tag, ...]
    triggers: tuple[str, ...] = ()
    at_least_one: bool = False
    stop_after_first: bool = False

    def __post_init__(self) -> None:
        for field in ("tags", "triggers"):
            given = getattr(self, field)
            if not isinstance(given, tuple | list):
                raise ConstraintError(f"{field} is a {type(given).__name__}; expected a list", field=field)
            msgspec.structs.force_setattr(self, field, tuple(given))
        if not self.tags:
            raise ConstraintError("tags is empty; expected at least one", field="tags")
        if not all(isinstance(tag, Tag) for tag in self.tags):
            raise ConstraintError("tags holds something that is no Tag", field="tags")
        for trigger in self.triggers:
            _check_strings("triggers", trigger=trigger)
        for trigger in self.triggers:
            if not any(tag.begin.startswith(trigger) for tag in self.tags):
                raise ConstraintError(f"no tag begins with the trigger {trigger!r}", field="triggers")
        for tag in self.tags:
            if self.triggers and not tag.begin.startswith(self.triggers):
                raise ConstraintError(
                    f"the tag {tag.begin!r} begins with none of the triggers",
                    field="tags",
                    hint="a trigger is the beginning of the tags that it starts",
                )


def _check_strings(field: str, **values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, str):
            raise ConstraintError(f"{name} is a {type(value).__name__}; expected a string", field=field)
        if not value:
            raise ConstraintError(f"{name} is empty", field=field)


Constraint: TypeAlias = Regex | Choices | JsonSchema | Lark | Gbnf | After | Triggered

OnLength: TypeAlias = Literal["close", "cut", "prefer_close"]
"""What a constrained gen does as its budget ends.

close: only tokens that still leave room to finish are allowed, and a budget below the shortest completion is
refused. cut: stop in the middle, finish reason "length". prefer_close: close where the budget allows it at all,
else cut.
"""


def constraint_key(constraint: Constraint) -> str:
    """A content hash: the name of a compiled constraint on every link and in every cache."""
    return hashlib.blake2b(msgspec.msgpack.encode(constraint), digest_size=16).hexdigest()


# ---------------------------------------------------------------- ops


class Text(msgspec.Struct, frozen=True, tag="text", forbid_unknown_fields=True):
    """Constant text. Never becomes special tokens."""

    text: str


class Arg(msgspec.Struct, frozen=True, tag="arg", forbid_unknown_fields=True):
    """The text of a program argument."""

    name: str


class Ref(msgspec.Struct, frozen=True, tag="ref", omit_defaults=True, forbid_unknown_fields=True):
    """The text of an earlier variable of this branch or of one it came from.

    op: (branch, position) of the very Gen, Select or Set that gives it the value, where the name alone would say
    another or none: a variable of another branch, or one that a later op of the same name hides. sample: which
    output, of a Gen with several.
    """

    name: str
    op: tuple[int, int] | None = None
    sample: int = 0


class Set(msgspec.Struct, frozen=True, tag="set", forbid_unknown_fields=True):
    """Gives a variable a value made of constant text, arguments and variables; appends nothing."""

    name: str
    value: tuple[Text | Arg | Ref, ...]


class Gen(msgspec.Struct, frozen=True, tag="gen", omit_defaults=True, forbid_unknown_fields=True):
    """Text the model writes. `given` names the fields of `sampling` that the op sets itself; the rest come from
    the run. name None: the text is appended but no variable holds it. heal: the last tokens of the plain text before it
    may be spelled again by tokens that go on into this text."""

    name: str | None = None
    sampling: Sampling = Sampling()
    given: tuple[str, ...] = ()
    constraint: Constraint | None = None
    on_length: OnLength = "close"
    heal: bool = False


SelectMethod: TypeAlias = Literal[
    "token_length_normalized", "greedy_token_selection", "unconditional_likelihood_normalized", "probability"
]
"""How a select scores its options, see lang/choices.py."""


class Select(msgspec.Struct, frozen=True, tag="select", omit_defaults=True, forbid_unknown_fields=True):
    """The likeliest of the given options, appended to the text. temperature: above 0, one is drawn from
    softmax(scores / temperature), with the seed that a gen would have here."""

    name: str | None
    options: tuple[str, ...]
    method: SelectMethod = "token_length_normalized"
    temperature: float = 0.0

    def __post_init__(self) -> None:
        _check_range("temperature", self.temperature, 0.0, 100.0, kind=float)
        if self.temperature and self.method == "greedy_token_selection":
            raise InvalidArgument(
                "greedy_token_selection cannot draw: it gives options no probabilities",
                field="temperature",
                hint='leave temperature out, or use choices_method="probability"',
            )
        if not self.options:
            raise InvalidArgument("select got no choices; expected at least one", field="choices")
        if any(not option for option in self.options):
            raise InvalidArgument("select got an empty choice", field="choices")
        if len(set(self.options)) != len(self.options):
            raise InvalidArgument("select got the same choice twice", field="choices")


class Role(msgspec.Struct, frozen=True, tag="role", forbid_unknown_fields=True):
    """Opens a message of `role`; None closes the open one. The model's template supplies the marker text."""

    role: str | None


class Fork(msgspec.Struct, frozen=True, tag="fork", forbid_unknown_fields=True):
    """Starts branches that continue from here; `children` are branch ids."""

    children: tuple[int, ...]


class Join(msgspec.Struct, frozen=True, tag="join", forbid_unknown_fields=True):
    """Waits for branches and ends them. Their variables become lists here; their text is not appended."""

    children: tuple[int, ...]


Op: TypeAlias = Text | Arg | Ref | Set | Gen | Select | Role | Fork | Join


# ---------------------------------------------------------------- program


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One straight-line block of ops."""

    ops: tuple[Op, ...]


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole program. Branch 0 starts it; every other branch is started by exactly one Fork of a lower branch."""

    branches: tuple[Branch, ...]
    version: int = IR_VERSION

    def __post_init__(self) -> None:
        if self.version != IR_VERSION:
            raise ProgramError(f"the program has IR version {self.version}; this build reads {IR_VERSION}")
        if not 0 < len(self.branches) <= MAX_BRANCHES:
            raise ProgramError(f"the program has {len(self.branches)} branches; expected 1 to {MAX_BRANCHES}")
        if sum(len(branch.ops) for branch in self.branches) > MAX_OPS:
            raise ProgramError(f"the program has more than {MAX_OPS} ops")
        text = sum(len(op.text) for branch in self.branches for op in branch.ops if isinstance(op, Text))
        if text > MAX_TEXT_BYTES:
            raise ProgramError(f"the program has more than {MAX_TEXT_BYTES} characters of text")
        self._check_forks()

    def _check_forks(self) -> None:
        parent: dict[int, int] = {}
        for index, branch in enumerate(self.branches):
            for op in branch.ops:
                if isinstance(op, Fork):
                    for child in op.children:
                        if not index < child < len(self.branches) or child in parent:
                            raise ProgramError(f"branch {index} forks branch {child}, which it cannot start")
                        parent[child] = index
                elif isinstance(op, Join) and any(parent.get(child) != index for child in op.children):
                    raise ProgramError(f"branch {index} joins a branch it did not fork")
        orphans = set(range(1, len(self.branches))) - set(parent)
        if orphans:
            raise ProgramError(f"no fork starts branch {min(orphans)}")

    @property
    def hash(self) -> str:
        """Content hash, hex."""
        return content_hash(self.to_msgpack())

    @property
    def last_node(self) -> Node:
        """The last op of the program, by SGLang's name for where a trace is looked at from. Raises ProgramError for a
        program without ops."""
        from latticework.lang.graph import Node

        if not self.branches[0].ops:
            raise ProgramError("the program has no ops")
        return Node(self, (0, len(self.branches[0].ops) - 1))

    def to_msgpack(self) -> bytes:
        """The program as a message: what `hash` is of."""
        return msgspec.msgpack.encode(self)

    def to_json(self) -> str:
        """The program as JSON text."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def from_msgpack(data: bytes) -> Program:
        """Raises ProgramError when `data` is no valid program, see `check.py`."""
        return _decode(msgspec.msgpack.decode, data)

    @staticmethod
    def from_json(data: str | bytes) -> Program:
        """Raises ProgramError when `data` is no valid program, see `check.py`."""
        return _decode(msgspec.json.decode, data)

    def __str__(self) -> str:
        lines: list[str] = []
        for index, branch in enumerate(self.branches):
            lines.append("program:" if index == 0 else f"branch {index}:")
            lines += [f"    {describe(op)}" for op in branch.ops]
        return "\n".join(lines)


class _Versioned(msgspec.Struct):
    version: int = IR_VERSION


def content_hash(data: bytes) -> str:
    """The name by which runtimes know the program of that msgpack."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _decode(decode: Any, data: str | bytes) -> Program:
    if len(data) > 4 * MAX_TEXT_BYTES:
        raise ProgramError(f"the program is {len(data)} bytes; at most {4 * MAX_TEXT_BYTES} are read")
    from latticework.lang.check import check_program

    try:
        version = decode(data, type=_Versioned).version  # first: of another version, the rest may be anything
        if version != IR_VERSION:
            raise ProgramError(f"the program has IR version {version}; this build reads {IR_VERSION}")
        program = decode(data, type=Program)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise ProgramError(f"not a program: {error}") from None
    check_program(program)
    return program


def describe(op: Op) -> str:
    """One line that reads like the source."""
    match op:
        case Text(text):
            return f"text {_quoted(text)}"
        case Arg(name):
            return f"arg {name}"
        case Ref():
            return _describe_ref(op)
        case Set(name, value):
            return f"set {name} = " + (" + ".join(describe(piece) for piece in value) or '""')
        case Gen():
            return _describe_gen(op)
        case Select(name, options, method, temperature):
            drawn = f" temperature={temperature!r}" if temperature else ""
            return f"select {name or '_'} from [{_listed(options)}] by {method}{drawn}"
        case Role(role):
            return f"role {role}" if role else "role end"
        case Fork(children):
            return "fork " + " ".join(map(str, children))
        case Join(children):
            return "join " + " ".join(map(str, children))


def _quoted(text: str) -> str:
    """As JSON, on one line and without control characters, so that a terminal shows it as it is."""
    quoted = json.dumps(text, ensure_ascii=False)
    if quoted.isprintable():
        return quoted
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in quoted)


def _listed(texts: tuple[str, ...]) -> str:
    return ", ".join(map(_quoted, texts))


def _describe_ref(op: Ref) -> str:
    place = "" if op.op is None else f"@{op.op[0]}.{op.op[1]}"
    return f"ref {op.name}{place}" + (f"#{op.sample}" if op.sample else "")


def _describe_gen(op: Gen) -> str:
    parts = [f"gen {op.name or '_'}"]
    parts += [f"{name}={getattr(op.sampling, name, '?')!r}" for name in op.given]
    if op.constraint is not None:
        parts.append(_describe_constraint(op.constraint))
    if op.on_length != "close":
        parts.append(f"on_length={op.on_length!r}")
    if op.heal:
        parts.append("heal=True")
    return " ".join(parts)


def _describe_constraint(constraint: Constraint) -> str:
    match constraint:
        case Regex(pattern):
            return f"regex={pattern!r}"
        case Choices(options):
            return f"choices=[{_listed(options)}]"
        case JsonSchema():
            return f"json_schema={constraint.text}"
        case Lark(grammar, start) | Gbnf(grammar, start):
            return f"{type(constraint).__name__.lower()}={_quoted(grammar)} start={start}"
        case After(marker, inner):
            return f"after={_quoted(marker)} {_describe_constraint(inner)}"
        case Triggered(tags):
            return (
                "triggered=["
                + ", ".join(f"{_quoted(t.begin)} {_describe_constraint(t.constraint)}" for t in tags)
                + "]"
            )
