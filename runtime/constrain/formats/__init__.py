"""The formats of JSON Schema (2020-12, section 7.3) as texts, one file a family.

Every word of a format's text is valid. The text of a few leaves out what is valid but cannot be told by a regular
language, or only at a price; their files say what.
"""

from __future__ import annotations

from collections.abc import Callable

from latticework.runtime.constrain.formats import dates, identifiers, idn, network, regexes, uris
from latticework.runtime.constrain.text_kinds import Text

_FORMATS: dict[str, Callable[[], Text]] = {
    "date": dates.date,
    "date-time": dates.date_time,
    "duration": dates.duration,
    "email": network.email,
    "hostname": network.hostname,
    "idn-email": lambda: network.idn_email(idn.idn_hostname()),
    "idn-hostname": idn.idn_hostname,
    "ipv4": network.ipv4,
    "ipv6": network.ipv6,
    "iri": uris.iri,
    "iri-reference": uris.iri_reference,
    "json-pointer": identifiers.json_pointer,
    "regex": regexes.regex,
    "relative-json-pointer": identifiers.relative_json_pointer,
    "time": dates.time,
    "uri": uris.uri,
    "uri-reference": uris.uri_reference,
    "uri-template": uris.uri_template,
    "uuid": identifiers.uuid,
}
FORMATS = frozenset(_FORMATS)
_known: dict[str, Text] = {}  # what was asked for so far: the same in every schema


def from_format(name: str) -> Text | None:
    """The strings that are valid in the format; None for a format that is not known, which asserts nothing."""
    if name in FORMATS and name not in _known:
        _known[name] = _FORMATS[name]()
    return _known.get(name)


def is_format(text: Text) -> bool:
    """Whether `text` is all that a format allows, and no more was asked of it."""
    return text in _known.values()
