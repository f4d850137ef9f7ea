"""Names and addresses of hosts, mail boxes.

Host names: RFC 1123, section 2.1, and RFC 952. Labels with hyphens in the third and fourth place, those beginning with
"xn--" among them, are left out, because which of them stand for a Unicode label is no regular question (RFC 5890,
section 2.3.1). Of the names with more than four labels, those with labels of more than 24 characters are left out: so
the 253 characters that a name may have are never exceeded, and nothing needs to count them.
"""

from __future__ import annotations

from latticework.runtime.constrain.patterns import from_python
from latticework.runtime.constrain.text_kinds import EMPTY, Text
from latticework.runtime.constrain.texts import either, literal, repeat, seq

_LDH = "[A-Za-z0-9-]"
_ALNUM = "[A-Za-z0-9]"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]"


def _label(longest: int) -> Text:
    """A label of letters, digits and inner hyphens, not two of these in the third and fourth place."""
    middle = f"(?:-{_ALNUM}|{_ALNUM}{{2}}|{_ALNUM}-)"  # characters 3 and 4: never "--"
    short = from_python(f"{_ALNUM}(?:{_LDH}?{_ALNUM})?")
    return either(
        short,
        from_python(f"{_ALNUM}{_LDH}(?:-{_ALNUM}|{_ALNUM}{{2}})"),
        from_python(f"{_ALNUM}{_LDH}{middle}{_LDH}{{0,{longest - 5}}}{_ALNUM}"),
    )


def hostname() -> Text:
    dot = literal(".")
    long = seq(_label(63), dot)
    few = seq(repeat(long, 0, 2), _label(63))
    four = seq(repeat(long, 3, 3), _label(61))
    many = seq(repeat(seq(_label(24), dot), 4, 9), _label(24))
    return either(few, four, many)


def ipv4() -> Text:
    """dotted-quad, as RFC 3986, section 3.2.2 writes it: no leading zeros."""
    octet = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
    return from_python(rf"{octet}(?:\.{octet}){{3}}")


def ipv6() -> Text:
    """RFC 4291, section 2.2, as the ABNF of RFC 3986 has it; no zone."""
    group = from_python("[0-9A-Fa-f]{1,4}")
    colon = literal(":")

    def compressed(most: int) -> Text:
        """What may follow the double colon: at most so many groups, the last two perhaps as dotted quad."""
        groups = seq(group, repeat(seq(colon, group), 0, most - 1)) if most > 0 else EMPTY
        quad = [seq(repeat(seq(group, colon), 0, most - 2), ipv4())] if most > 1 else []
        return either(EMPTY, groups, *quad)

    after = EMPTY  # what follows eight groups
    for groups in range(7, 0, -1):  # what follows so many groups
        branches = [seq(colon, compressed(7 - groups)), seq(group, after)]
        if groups == 6:
            branches.append(ipv4())
        after = seq(colon, either(*branches))
    return either(seq(literal("::"), compressed(7)), seq(group, after))


def email() -> Text:
    """Mailbox, RFC 5321, section 4.1.2: the rule itself, which bounds no length."""
    label = f"{_ALNUM}(?:{_LDH}*{_ALNUM})?"
    return _mailbox(_ATOM, from_python(rf"{label}(?:\.{label})*"))


def idn_email(place: Text) -> Text:
    """RFC 6531, section 3.3: characters beyond ASCII in the local part and the domain. place: the domain."""
    beyond = "\\u00A1-\\uFFEF\\U00010000-\\U0003FFFD"
    return either(email(), _mailbox(_ATOM[:-1] + beyond + "]", place))


def _mailbox(atom: str, place: Text) -> Text:
    local = from_python(rf'{atom}+(?:\.{atom}+)*|"(?:[ !#-\[\]-~]|\\[ -~])*"')
    address = seq(literal("["), either(ipv4(), seq(literal("IPv6:"), ipv6())), literal("]"))
    return seq(local, literal("@"), either(place, address))
