"""URIs, IRIs and templates of them: RFC 3986, RFC 3987, RFC 6570.

Named as in the ABNF of RFC 3986, appendix A. An IRI has more characters in the same places, `ucschar` and, in a query,
`iprivate`.
"""

from __future__ import annotations

from dataclasses import dataclass

from latticework.runtime.constrain.formats.network import ipv6
from latticework.runtime.constrain.patterns import from_python
from latticework.runtime.constrain.rules import Ranges
from latticework.runtime.constrain.text_kinds import Text
from latticework.runtime.constrain.texts import chars, either, literal, repeat, seq

_UCSCHAR: Ranges = (
    (0xA0, 0xD7FF), (0xF900, 0xFDCF), (0xFDF0, 0xFFEF),
    *((plane << 16 | (0x1000 if plane == 14 else 0), plane << 16 | 0xFFFD) for plane in range(1, 15)),
)  # fmt: skip
_IPRIVATE: Ranges = ((0xE000, 0xF8FF), (0xF0000, 0xFFFFD), (0x100000, 0x10FFFD))
_PERCENT = from_python("%[0-9A-Fa-f]{2}")
_UNRESERVED = r"A-Za-z0-9._~\-"
_SUB_DELIMITERS = "!$&'()*+,;="


@dataclass(frozen=True)
class _Syntax:
    """The characters that may stand beyond ASCII: anywhere, and in queries."""

    beyond: Ranges = ()
    private: Ranges = ()

    def of(self, ascii_set: str) -> Text:
        """One character of the set, of those beyond ASCII, or a percent escape."""
        return either(from_python(f"[{ascii_set}]"), chars(self.beyond), _PERCENT)

    def authority(self) -> Text:
        name = repeat(self.of(_UNRESERVED + _SUB_DELIMITERS))
        user = repeat(self.of(_UNRESERVED + _SUB_DELIMITERS + ":"))
        future = from_python(f"v[0-9A-Fa-f]+\\.[{_UNRESERVED}{_SUB_DELIMITERS}:]+")
        host = either(seq(literal("["), either(ipv6(), future), literal("]")), name)
        return seq(_optional(seq(user, literal("@"))), host, from_python("(?::[0-9]*)?"))

    def segment(self) -> Text:
        return self.of(f"{_UNRESERVED}{_SUB_DELIMITERS}:@")

    def rest(self) -> Text:
        """Query and fragment, both optional."""
        character = either(self.segment(), from_python("[/?]"))
        query = seq(literal("?"), repeat(either(character, chars(self.private))))
        return seq(_optional(query), _optional(seq(literal("#"), repeat(character))))

    def with_authority(self) -> Text:
        """ "//" authority path-abempty."""
        segments = repeat(seq(literal("/"), repeat(self.segment())))
        return seq(literal("//"), self.authority(), segments)

    def absolute_path(self) -> Text:
        slash = literal("/")
        return seq(slash, _optional(self.rootless_path(self.segment())))

    def rootless_path(self, first: Text) -> Text:
        """first: a character of the first segment."""
        return seq(repeat(first, 1), repeat(seq(literal("/"), repeat(self.segment()))))

    def whole(self) -> Text:
        """URI: scheme ":" hier-part, query and fragment."""
        scheme = from_python("[A-Za-z][A-Za-z0-9+.-]*:")
        paths = either(self.with_authority(), self.absolute_path(), self.rootless_path(self.segment()), literal(""))
        return seq(scheme, paths, self.rest())

    def reference(self) -> Text:
        """URI-reference: a URI, or relative to one: no colon in the first segment of its path."""
        first = self.of(f"{_UNRESERVED}{_SUB_DELIMITERS}@")
        relative = either(self.with_authority(), self.absolute_path(), self.rootless_path(first), literal(""))
        return either(self.whole(), seq(relative, self.rest()))


def uri() -> Text:
    return _Syntax().whole()


def uri_reference() -> Text:
    return _Syntax().reference()


def iri() -> Text:
    return _Syntax(_UCSCHAR, _IPRIVATE).whole()


def iri_reference() -> Text:
    return _Syntax(_UCSCHAR, _IPRIVATE).reference()


def uri_template() -> Text:
    """RFC 6570, section 2; without the operators that are reserved for later."""
    letter = either(
        from_python(r"[!#$&(-;=?-\[\]_a-z~]"), chars(_UCSCHAR), chars(_IPRIVATE), _PERCENT
    )  # fmt: skip
    character = either(from_python("[A-Za-z0-9_]"), _PERCENT)
    name = seq(character, repeat(seq(_optional(literal(".")), character)))
    variable = seq(name, from_python(r"(?:\*|:[1-9][0-9]{0,3})?"))
    variables = seq(variable, repeat(seq(literal(","), variable)))
    expression = seq(literal("{"), from_python("[+#./;?&]?"), variables, literal("}"))
    return repeat(either(letter, expression))


def _optional(text: Text) -> Text:
    return either(text, literal(""))
