"""Types as JSON Schema, and text as values."""

import dataclasses
import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
import uuid
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import jsonschema
import msgspec
import pytest
from pydantic import UUID4, BaseModel, Field, Json, SecretStr, TypeAdapter

from latticework.lang.errors import InvalidArgument, InvalidValue, SchemaError
from latticework.lang.values import JSON, constraint_of


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
    by_id: UUID4


class Wrapped(BaseModel):
    inner: list[Keyed]


class Encoded(BaseModel):
    payload: Json[list[int]]


@dataclasses.dataclass
class Order:
    total: decimal.Decimal


@dataclasses.dataclass
class Blob:
    orders: dict[str, bytes]


@pytest.mark.parametrize(
    ("kind", "pointer"),
    [
        (Addressed, "/properties/net/format"),
        (Wrapped, "/$defs/Keyed/properties/by_id/format"),
        (Encoded, "/properties/payload/contentMediaType"),
        (Order, "/properties/total/format"),
        (Blob, "/properties/orders/additionalProperties/contentEncoding"),
        (uuid.UUID, "/format"),
        (datetime.date | None, "/anyOf/0/format"),
        (TypeAdapter(datetime.datetime), "/format"),
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
    when: datetime.datetime | None
    others: "list[Meeting]"


class Table(TypedDict):
    rows: dict[int, str]


class Price(BaseModel):
    amounts: list[decimal.Decimal]
    others: list["Price"]


class Numbered(BaseModel):
    names: dict[int, str]


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        (Meeting, "Meeting.when is a datetime"),
        (Table, "Table.rows has keys other than str"),
        (Price, "Price.amounts is a decimal"),
        (Numbered, "Numbered.names has keys other than str"),
        (TypeAdapter(dict[int, str]), "has keys other than str"),
    ],
)
def test_what_a_schema_leaves_unsaid_is_refused_with_its_place(kind: Any, place: str) -> None:
    with pytest.raises(InvalidArgument, match=place) as caught:
        constraint_of(kind)
    assert caught.value.field == "schema"
    assert caught.value.hint


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
