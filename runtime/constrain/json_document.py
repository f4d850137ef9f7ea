"""A JSON Schema document: where each schema stands, what it is called, and where references lead.

Names follow the standard: `$id` (in draft 4 `id`) starts a resource with a URI of its own against which references
inside are resolved; `$anchor` and `$dynamicAnchor` name places of a resource. Nothing is ever fetched: a reference
leads to a resource of this document, to the schema of a draft, or is refused. What the keywords of a schema mean is
not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from latticework.runtime.constrain.json_drafts import LATEST, Draft, draft_of, known_drafts
from latticework.runtime.constrain.json_keywords import fail, place, shown
from latticework.runtime.constrain.json_metaschemas import metaschema

_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SCHEMAS = (
    *("items", "additionalItems", "unevaluatedItems", "contains", "additionalProperties", "unevaluatedProperties"),
    *("propertyNames", "not", "if", "then", "else", "contentSchema"),
)
_NAMING = ('"$id"', '"$anchor"', '"$dynamicAnchor"', '"$recursiveAnchor"')


class Resource:
    """A schema with a URI, and the places in it that have names. is_recursive: `$recursiveAnchor` is true. outer: the
    whole of which this is a part in another draft."""

    __slots__ = ("anchors", "draft", "dynamic", "is_recursive", "outer", "pointer", "schema", "uri")

    def __init__(self, uri: str, schema: Any, pointer: str, draft: Draft) -> None:
        self.uri = uri
        self.schema = schema
        self.pointer = pointer
        self.draft = draft
        self.anchors: dict[str, tuple[Any, str]] = {}
        self.dynamic: dict[str, tuple[Any, str]] = {}
        self.is_recursive = False
        self.outer = self


class Place:
    """A schema where it stands. Two places with the same pointer are the same object."""

    __slots__ = ("pointer", "resource", "schema")

    def __init__(self, schema: Any, pointer: str, resource: Resource) -> None:
        self.schema = schema
        self.pointer = pointer
        self.resource = resource

    @property
    def draft(self) -> Draft:
        return self.resource.draft


class Document:
    """All places of one document."""

    def __init__(self, schema: Any, text: str) -> None:
        draft = draft_of(schema)
        if draft is None:
            hint = f"the drafts are {', '.join(known_drafts())}; without $schema it is {LATEST.name}"
            fail(f"unknown draft {shown(schema['$schema'])}", "/$schema", hint)
        self._places: dict[str, Place] = {}
        self._resources: dict[str, Resource] = {}
        self._roots: dict[int, Resource] = {}  # by identity of the schema
        root = Resource("", schema, "", draft)
        self._resources[""] = self._roots[id(schema)] = root
        if any(name in text for name in _NAMING) or ('"id"' in text and _may_use_id(draft, text)):
            self._name(schema, "", root)
        self.root = self.place(schema, "", root)

    def place(self, schema: Any, pointer: str, resource: Resource) -> Place:
        """The schema at `pointer`. Raises SchemaError where there is none."""
        known = self._places.get(pointer)
        if known is None:
            self._check(schema, pointer, resource)
            known = self._places[pointer] = Place(schema, pointer, self._owner(schema, resource, pointer))
        return known

    def _owner(self, schema: Any, resource: Resource, pointer: str) -> Resource:
        """The resource that `schema` belongs to, which stands in `resource`."""
        if not isinstance(schema, dict):
            return resource
        owner = self._roots.get(id(schema))
        if owner is None and "$schema" in schema:
            draft = draft_of(schema)
            if draft is None:
                fail(f"unknown draft {shown(schema['$schema'])}", f"{pointer}/$schema")
            if draft != resource.draft:  # only what its keywords mean changes
                owner = self._roots[id(schema)] = Resource(resource.uri, resource.schema, resource.pointer, draft)
                owner.outer = resource.outer
                owner.anchors, owner.dynamic = resource.anchors, resource.dynamic
        return owner or resource

    def _check(self, schema: Any, pointer: str, resource: Resource) -> None:
        if isinstance(schema, dict):
            return
        if isinstance(schema, bool):
            # Draft 4 has true and false only beside lists of items and of properties.
            is_beside = pointer.endswith(("/additionalProperties", "/additionalItems"))
            if resource.draft.has_boolean_schemas or is_beside or not pointer:
                return
        draft = resource.draft
        kinds = "an object or a boolean" if draft.has_boolean_schemas else f"an object in draft {draft.name}"
        fail(f"a schema is {kinds}; got {shown(schema)}", pointer)

    # ------------------------------------------------------------ names

    def _name(self, schema: Any, pointer: str, resource: Resource) -> None:
        """Registers the names in `schema` and below it."""
        work: list[tuple[Any, str, Resource]] = [(schema, pointer, resource)]
        while work:
            schema, pointer, resource = work.pop()
            if not isinstance(schema, dict):
                continue
            resource = self._own_resource(schema, pointer, resource)
            for keyword, names in (("$anchor", resource.anchors), ("$dynamicAnchor", resource.dynamic)):
                name = schema.get(keyword)
                if isinstance(name, str):
                    resource.anchors[name] = names[name] = (schema, pointer)
            work += [(value, where, resource) for value, where in _below(schema, pointer)]

    def _own_resource(self, schema: dict[str, Any], pointer: str, resource: Resource) -> Resource:
        draft = draft_of(schema, resource.draft) or resource.draft
        identifier = resource.draft.identifier  # what surrounds a schema says whether it has a name
        name = schema.get(identifier)
        if isinstance(name, str) and not (draft.has_lone_references and "$ref" in schema):
            uri, fragment = urldefrag(name)
            if fragment:
                resource.anchors[fragment] = (schema, pointer)
            if uri:
                uri = urljoin(resource.uri, uri)
                resource = self._roots.get(id(schema)) or Resource(uri, schema, pointer, draft)
                resource.uri = uri
                self._roots[id(schema)] = resource
                self._resources.setdefault(uri, resource)
        if schema is resource.schema and schema.get("$recursiveAnchor") is True:
            resource.is_recursive = True
        return resource

    # ------------------------------------------------------------ references

    def follow(self, reference: Any, start: Place, keyword: str, scope: tuple[Resource, ...]) -> Place:
        """Where the reference in `keyword` of `start` leads. scope: the resources on the way here, outermost first.
        Raises SchemaError."""
        at = f"{start.pointer}/{keyword}"
        if not isinstance(reference, str):
            fail(f"{keyword!r} is a string; got {shown(reference)}", at)
        resource, fragment = self._resource(reference, start, at)
        if keyword == "$recursiveRef" and resource.is_recursive:
            resource = next((outer for outer in scope if outer.is_recursive), resource)
        if keyword == "$dynamicRef" and fragment in resource.dynamic:
            resource = next((outer for outer in scope if fragment in outer.dynamic), resource)
            return self.place(*resource.dynamic[fragment], resource)
        if not fragment:
            return self.place(resource.schema, resource.pointer, resource)
        if fragment.startswith("/"):
            return self._walk(fragment, resource, reference, at)
        if fragment not in resource.anchors:
            fail(f"nothing is named {reference}", at)
        return self.place(*resource.anchors[fragment], resource)

    def _resource(self, reference: str, start: Place, at: str) -> tuple[Resource, str]:
        if reference.startswith("#"):
            return start.resource.outer, unquote(reference[1:])
        uri, fragment = urldefrag(urljoin(start.resource.uri, reference))
        resource = self._resources.get(uri) or self._metaschema(uri)
        if resource is None:
            hint = "put the schema under $defs and refer to it as #/$defs/…"
            fail(f"only references into this schema are supported; got {shown(reference)}", at, hint)
        return resource, unquote(fragment)

    def _metaschema(self, uri: str) -> Resource | None:
        schema = metaschema(uri)
        if schema is None:
            return None
        draft = draft_of(schema)
        assert draft is not None
        resource = self._resources[uri] = self._roots[id(schema)] = Resource(uri, schema, f"{uri}#", draft)
        self._name(schema, resource.pointer, resource)
        return resource

    def _walk(self, fragment: str, resource: Resource, reference: str, at: str) -> Place:
        target, pointer, owner = resource.schema, resource.pointer, resource
        for part in fragment.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isascii() and name.isdigit() and int(name) < len(target):
                target = target[int(name)]
            else:
                fail(f"nothing is at {reference}", at)
            pointer = place(pointer, name)
            owner = self._owner(target, owner, pointer) if _is_schema_like(target) else owner
        return self.place(target, pointer, owner)


def _may_use_id(draft: Draft, text: str) -> bool:
    """Whether some schema in a document of `draft` may be called by `id`, as only the oldest drafts do: else it is
    nothing but the name of a property, and a usual one."""
    return draft.identifier == "id" or text.count('"$schema"') > 1


def _is_schema_like(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("$schema", ""), str)


def _below(schema: dict[str, Any], pointer: str) -> Iterator[tuple[Any, str]]:
    """The schemas inside a schema."""
    for keyword in _SCHEMAS_BY_NAME:
        named = schema.get(keyword)
        if isinstance(named, dict):
            for name, value in named.items():
                yield value, place(f"{pointer}/{keyword}", name)
    for keyword in _LISTS_OF_SCHEMAS:
        listed = schema.get(keyword)
        if isinstance(listed, list):
            for index, value in enumerate(listed):
                yield value, f"{pointer}/{keyword}/{index}"
    for keyword in _SCHEMAS:
        value = schema.get(keyword)
        if isinstance(value, dict):
            yield value, f"{pointer}/{keyword}"
