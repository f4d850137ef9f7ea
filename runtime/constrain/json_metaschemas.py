"""The schemas of schemas, which schemas may refer to: those of the five drafts, as https://json-schema.org publishes
them (`metaschemas.json`, one a line). Nothing else is known by its URI, and nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("metaschemas.json")


def metaschema(uri: str) -> dict[str, Any] | None:
    """The schema of that URI, which has no fragment; None where there is none."""
    if "://json-schema.org/draft" not in uri:
        return None
    schemas: list[dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))
    return next((schema for schema in schemas if _name(schema) == uri), None)


def _name(schema: dict[str, Any]) -> str:
    name: str = schema.get("$id") or schema["id"]
    return name.removesuffix("#")
