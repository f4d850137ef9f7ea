"""Types as JSON Schema, and text as values."""

import dataclasses
import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
import random
import uuid
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import jsonschema
import msgspec
import pytest
from pydantic import UUID1, UUID4, BaseModel, Field, Json, NaiveDatetime, PastDate, SecretStr, TypeAdapter

from latticework.lang.errors import InvalidArgument, InvalidValue, SchemaError
from latticework.lang.ir import JsonSchema
from latticework.lang.values import JSON, constraint_of
from latticework.runtime.constrain import compile_constraint
from tests.runtime.constrain.oracle import accepts, byte_vocabulary, walk


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class City(BaseModel):
    name: str = Field(max_length=20, description="in English")
    population: int


@dataclasses.dataclass
class Point:
    """Where."""

    x: int
    y: Annotated[float, msgspec.Meta(ge=0)]


@dataclasses.dataclass
class Shape:
    title: str
    points: list[Point]
    color: Color
    kind: Literal["open", "closed"]
    note: str | None = None


class Person(TypedDict):
    zeal: int
    alias: str
    nested: NotRequired[list["Inner"]]


class Inner(TypedDict):
    b: bool
    a: None


class Node(BaseModel):
    children: list["Node"]


SHAPE = {"title": "t", "points": [{"x": 1, "y": 0.5}], "color": "red", "kind": "open"}


@pytest.mark.parametrize(
    ("kind", "document", "value"),
    [
        (City, {"name": "Rome", "population": 3}, City(name="Rome", population=3)),
        (Point, {"x": 1, "y": 2.0}, Point(1, 2.0)),
        (Shape, SHAPE, Shape("t", [Point(1, 0.5)], Color.RED, "open")),
        (Person, {"zeal": 1, "alias": "a"}, {"zeal": 1, "alias": "a"}),
        (Color, "blue", Color.BLUE),
        (Literal["yes", "no"], "yes", "yes"),
        (int, 4, 4),
        (float, 4.5, 4.5),
        (bool, True, True),
        (str, "hi", "hi"),
        (None, None, None),
        (list[int], [1, 2], [1, 2]),
        (int | None, None, None),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (TypeAdapter(list[City]), [{"name": "R", "population": 1}], [City(name="R", population=1)]),
    ],
)
def test_a_type_gives_a_schema_that_its_documents_satisfy_and_reads_them_back(
    kind: Any, document: Any, value: Any
) -> None:
    constraint, decoder = constraint_of(kind)
    jsonschema.validate(document, json.loads(constraint.text))
    decoded = decoder.decode("x", json.dumps(document))
    assert decoded == value
    assert type(decoded) is type(value)


def test_properties_keep_the_order_of_the_source_in_typed_dicts_too() -> None:
    schema = json.loads(constraint_of(list[Person])[0].text)
    person = schema["$defs"]["Person"]
    assert list(person["properties"]) == ["zeal", "alias", "nested"]
    assert person["required"] == ["zeal", "alias"]
    assert list(schema["$defs"]["Inner"]["properties"]) == ["b", "a"]
    assert list(json.loads(constraint_of(Shape)[0].text)["properties"]) == ["title", "points", "color", "kind", "note"]


def test_annotations_are_dropped_but_a_property_called_title_is_not() -> None:
    schema = json.loads(constraint_of(City)[0].text)
    assert schema == {
        "properties": {"name": {"maxLength": 20, "type": "string"}, "population": {"type": "integer"}},
        "required": ["name", "population"],
        "type": "object",
        "additionalProperties": False,
    }
    assert "title" in json.loads(constraint_of(Shape)[0].text)["properties"]


def test_a_root_reference_is_replaced_by_what_it_refers_to() -> None:
    assert json.loads(constraint_of(Point)[0].text) == {
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {"type": "number", "minimum": 0}},
        "required": ["x", "y"],
        "additionalProperties": False,
    }
    recursive = json.loads(constraint_of(Node)[0].text)
    assert recursive["$ref"] == "#/$defs/Node"
    assert "Node" in recursive["$defs"]


def test_equal_types_give_equal_constraints() -> None:
    twin = dataclasses.make_dataclass("Twin", [("x", int), ("y", Annotated[float, msgspec.Meta(ge=0)])])
    assert constraint_of(Point)[0] == constraint_of(twin)[0]


@dataclasses.dataclass
class HoldsModel:
    city: City


@dataclasses.dataclass
class HoldsUnknown:
    x: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    "kind", [object, complex, HoldsModel, HoldsUnknown, 5, {"type": "object"}, '{"type": "object"}']
)
def test_what_is_no_usable_type_is_refused_naming_schema(kind: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        constraint_of(kind)
    assert caught.value.field == "schema"
    assert caught.value.hint


class Addressed(BaseModel):
    id: int
    net: ipaddress.IPv4Network


class Keyed(BaseModel):
    net: ipaddress.IPv6Network


class Wrapped(BaseModel):
    inner: list[Keyed]


class Encoded(BaseModel):
    payload: Json[list[int]]


@dataclasses.dataclass
class Blob:
    orders: dict[str, bytes]


@pytest.mark.parametrize(
    ("kind", "pointer"),
    [
        (Addressed, "/properties/net/format"),
        (Wrapped, "/$defs/Keyed/properties/net/format"),
        (Encoded, "/properties/payload/contentMediaType"),
        (Blob, "/properties/orders/additionalProperties/contentEncoding"),
        (TypeAdapter(ipaddress.IPv4Network | None), "/anyOf/0/format"),
        (TypeAdapter(bytes), "/format"),
    ],
)
def test_strings_with_an_inner_form_are_refused_with_their_pointer(kind: Any, pointer: str) -> None:
    with pytest.raises(SchemaError, match="not enforced") as caught:
        constraint_of(kind)
    assert caught.value.pointer == pointer
    assert caught.value.field == "schema"
    assert caught.value.hint


@dataclasses.dataclass
class Meeting:
    when: Annotated[datetime.datetime, msgspec.Meta(tz=False)] | None
    others: "list[Meeting]"


class Table(TypedDict):
    rows: dict[int, str]


class Price(BaseModel):
    amounts: list[Annotated[decimal.Decimal, Field(max_digits=4)]]
    others: list["Price"]


class Visit(BaseModel):
    day: PastDate


class Numbered(BaseModel):
    names: dict[int, str]


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (Meeting, "Meeting.when is a datetime"),
        (Table, "Table.rows has keys other than str"),
        (Price, "Price.amounts is a decimal"),
        (Visit, "Visit.day is a date with bounds"),
        (TypeAdapter(NaiveDatetime), "without an offset from UTC"),
        (Numbered, "Numbered.names has keys other than str"),
        (TypeAdapter(dict[int, str]), "has keys other than str"),
    ],
)
def test_what_a_schema_leaves_unsaid_is_refused_with_its_place(kind: Any, place: str) -> None:
    with pytest.raises(InvalidArgument, match=place) as caught:
        constraint_of(kind)
    assert caught.value.field == "schema"
    assert caught.value.hint


# ---------------------------------------------------------------- strings of a form


class Slot(NamedTuple):
    start: datetime.datetime
    room: str


class Logged(TypedDict):
    zone: datetime.time
    slots: dict[str, tuple[int, Slot] | None]


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    day: datetime.date
    placed: datetime.datetime | None
    lasts: datetime.timedelta
    total: decimal.Decimal
    host: ipaddress.IPv4Address | None
    log: Logged
    others: "list[Order]"
    file: pathlib.Path


class Stay(BaseModel):
    id: UUID4
    first: UUID1
    day: datetime.date
    at: datetime.datetime
    opens: datetime.time
    lasts: datetime.timedelta | None
    price: Annotated[decimal.Decimal, Field(ge=0, le=1000)]
    host: ipaddress.IPv6Address


SECOND = datetime.datetime(2026, 2, 28, 9, 30, 5, 250000, datetime.timezone.utc)
ID = uuid.UUID("f47ac10b-58cc-4372-a567-0e02b2c3d479")
ORDER: dict[str, Any] = {
    "id": str(ID),
    "day": "2024-02-29",
    "placed": "2026-02-28T09:30:05.25Z",
    "lasts": "P1DT2H3M",
    "total": "12.50",
    "host": "10.0.0.1",
    "log": {"zone": "09:30:05.25Z", "slots": {"a": [1, ["2026-02-28T09:30:05.25Z", "b"]], "c": None}},
    "others": [],
    "file": "a/b",
}


def test_strings_of_a_form_are_read_as_their_values() -> None:
    constraint, decoder = constraint_of(Order)
    assert is_written(constraint, ORDER)
    order = decoder.decode("x", json.dumps(ORDER))
    slots = {"a": (1, Slot(SECOND, "b")), "c": None}
    assert order == Order(
        ID,
        datetime.date(2024, 2, 29),
        SECOND,
        datetime.timedelta(days=1, hours=2, minutes=3),
        decimal.Decimal("12.50"),
        ipaddress.IPv4Address("10.0.0.1"),
        {"zone": SECOND.timetz(), "slots": slots},
        [],
        pathlib.Path("a/b"),
    )


def test_a_pattern_of_ones_own_holds_beside_that_of_a_form() -> None:
    class Entry(BaseModel):
        at: str = Field(pattern="^2020", json_schema_extra={"format": "date-time"})

    constraint, _ = constraint_of(Entry)
    assert is_written(constraint, {"at": "2020-02-28T09:30:05Z"})
    assert not is_written(constraint, {"at": "2021-02-28T09:30:05Z"})
    assert not is_written(constraint, {"at": "2020-02-28"})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("id", "f47ac10b58cc4372a5670e02b2c3d479"),
        ("day", "2023-02-29"),
        ("placed", "2026-02-28T09:30:05"),
        ("placed", "2016-12-31T23:59:60Z"),
        ("lasts", "P1Y"),
        ("lasts", "P"),
        ("total", "12,50"),
        ("host", "10.0.0.256"),
        ("log", {"zone": "9:30", "slots": {}}),
        ("log", {"zone": "09:30:05Z", "slots": {"a": [1, ["tomorrow", "b"]]}}),
    ],
)
def test_no_other_string_is_written_for_a_form(name: str, text: Any) -> None:
    constraint, _ = constraint_of(Order)
    assert is_written(constraint, ORDER)
    assert not is_written(constraint, ORDER | {name: text})


@pytest.mark.parametrize(
    "kind",
    [
        datetime.date,
        datetime.datetime,
        datetime.time,
        datetime.timedelta,
        uuid.UUID,
        decimal.Decimal,
        ipaddress.IPv4Address,
        ipaddress.IPv6Address,
        pathlib.Path,
        list[datetime.time | int],
        TypeAdapter(datetime.datetime),
        TypeAdapter(datetime.timedelta),
        TypeAdapter(Annotated[decimal.Decimal, Field(gt=0, lt=2)]),
        TypeAdapter(UUID1 | None),
        Stay,
    ],
)
def test_whatever_is_generated_is_read_back(kind: Any) -> None:
    constraint, decoder = constraint_of(kind)
    vocabulary = byte_vocabulary()
    automaton = compile_constraint(constraint, vocabulary)
    for seed in range(12):
        text = walk(automaton, automaton.matcher().shortest() + 12 * seed, random.Random(seed))
        decoder.decode("x", text.decode())


def is_written(constraint: JsonSchema, value: Any) -> bool:
    automaton = compile_constraint(constraint, byte_vocabulary())
    return accepts(automaton, json.dumps(value, separators=(",", ":")).encode())


class Harmless(BaseModel):
    format: Literal["uuid", "date"]
    type: str = "decimal"
    secret: SecretStr
    file: pathlib.Path
    extra: dict[str, Any] = {"format": "date", "type": "decimal"}


def test_names_and_values_that_look_like_formats_and_harmless_formats_are_not_refused() -> None:
    constraint, decoder = constraint_of(Harmless)
    document = {"format": "uuid", "secret": "a\n\0", "file": "\0/..", "extra": {"format": 3}}
    jsonschema.validate(document, json.loads(constraint.text))
    assert decoder.decode("x", json.dumps(document)).file == pathlib.Path("\0/..")


@pytest.mark.parametrize("kind", [City, Point, int, Color])
def test_text_of_another_type_raises_an_error_that_quotes_it(kind: Any) -> None:
    decoder = constraint_of(kind)[1]
    with pytest.raises(InvalidValue, match=r"variable 'x' is not a valid .*(?s:.)*<nope>"):
        decoder.decode("x", "<nope>")


def test_text_cut_in_the_middle_of_a_document_is_not_a_value() -> None:
    with pytest.raises(InvalidValue):
        JSON.decode("x", '{"a": ')
    assert JSON.decode("x", '{"a": [1]}') == {"a": [1]}
