"""`JsonSchema` -> a rule graph.

Enforce or refuse: every text of the language is accepted by a validator of the schema's draft, and what cannot be
enforced raises SchemaError with its JSON pointer. The schema is read (`json_document.py`), what it means is found by
need (`json_meanings.py`: shapes of objects and arrays, sets of strings and numbers, in which `allOf`, `oneOf`, `not`
and their like are gone), and the result is written as nodes (`json_lowering.py`). The language may be smaller than
what the schema allows:

- listed properties come in the order of the schema, if `key_order` is "schema"; no key comes twice;
- a character of a string is written in one way, numbers are bounded in length (`json_numbers.py`), and 1.0 for an
  integer is written only where `whitespace` is "flexible";
- a number inside an array with `uniqueItems` is written in one way;
- indented arrays and objects nest at most MAX_INDENTED deep.
"""

from __future__ import annotations

import json

from latticework.lang.errors import ConstraintError, SchemaError
from latticework.lang.ir import JsonSchema
from latticework.runtime.constrain.base import Limits
from latticework.runtime.constrain.builder import Builder, OutOfTime
from latticework.runtime.constrain.json_document import Document
from latticework.runtime.constrain.json_lowering import Lowering
from latticework.runtime.constrain.json_meanings import Meanings
from latticework.runtime.constrain.json_writing import Layout


def build_json_schema(builder: Builder, constraint: JsonSchema, limits: Limits) -> int:
    """The node of JSON texts that the schema accepts; NEVER when there is none. Raises SchemaError."""
    text = constraint.text
    if len(text) > limits.schema_bytes or len(text.encode("utf-8", "surrogatepass")) > limits.schema_bytes:
        raise SchemaError(
            f"the schema is larger than the limit `schema_bytes`, {limits.schema_bytes}",
            field="json_schema",
            pointer="",
        )
    lowering: Lowering | None = None
    try:
        document = Document(json.loads(text), text)
        meanings = Meanings(document, limits, builder.tick, asserts_formats=constraint.formats == "assert")
        layout = Layout(builder, constraint.whitespace)
        lowering = Lowering(builder, meanings, layout, is_ordered=constraint.key_order == "schema")
        return lowering.node(meanings.formulas.schema(document.root, ()))
    except RecursionError:
        where = lowering.where if lowering else ""
        message = f"the schema nests too deep; the limit `depth` is {limits.depth}, less where schemas hold schemas"
        raise SchemaError(message, field="json_schema", pointer=where) from None
    except OutOfTime as error:
        error.pointer = lowering.where if lowering else ""
        raise
    except SchemaError:
        raise
    except ConstraintError as error:  # a limit of the builder
        where = lowering.where if lowering else ""
        message = f"{error.message} (at {where or 'the root'})"
        raise SchemaError(message, hint=error.hint, field="json_schema", pointer=where) from None
