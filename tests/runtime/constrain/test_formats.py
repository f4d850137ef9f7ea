from __future__ import annotations

import calendar
import datetime
import ipaddress
import random
import re
import uuid
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latticework.runtime.constrain import Automaton, Limits
from latticework.runtime.constrain.algebra import FORMATS, from_format, has_word, lower_json, lower_plain
from latticework.runtime.constrain.builder import Builder
from tests.runtime.constrain.oracle import accepts, byte_vocabulary, walk

A63 = "a" * 63
CASES: dict[str, tuple[list[str], list[str]]] = {
    "date": (
        ["2024-02-29", "2000-02-29", "1963-06-19", "0001-01-01", "9999-12-31"],
        [
            "2023-02-29",
            "1900-02-29",
            "2024-02-30",
            "2024-04-31",
            "2024-13-01",
            "2024-00-10",
            "24-01-01",
            "2024-1-1",
            "",
        ],
    ),
    "time": (
        [
            "08:30:06Z",
            "23:59:60Z",
            "08:30:06.283185z",
            "01:29:60+01:30",
            "23:29:60+23:30",
            "15:59:60-08:00",
            "00:29:60-23:30",
            "12:34:56-00:00",
        ],
        ["08:30:06", "24:00:00Z", "00:60:00Z", "00:00:61Z", "22:59:60Z", "23:59:60+01:00", "01:02:03+24:00", "8:3:6Z"],
    ),
    "date-time": (
        [
            "1963-06-19T08:30:06.283185Z",
            "1998-12-31T15:59:60.123-08:00",
            "1963-06-19t08:30:06z",
            "2024-02-29T00:00:00Z",
        ],
        [
            "1990-02-31T15:59:59Z",
            "1998-12-31T23:58:60Z",
            "2013-350T01:01:01Z",
            "1963-06-19 08:30:06Z",
            "2020-01-01",
            "1985-04-12T23:20:50Z\n",
            "1963-06-1\u09eaT00:00:00Z",
        ],
    ),
    "duration": (
        ["P4DT12H30M5S", "P4Y", "PT0S", "P1M", "PT36H", "P1DT12H", "P2W", "P1Y2M3D", "PT1M30S"],
        ["", "P", "PT", "P4DT", "P1D2H", "P1Y2W", "P2D1Y", "PT1D", "4DT12H", "P\u09e8Y", "P1"],
    ),
    "email": (
        [
            "joe.bloggs@example.com",
            "te~st@example.com",
            '"joe bloggs"@example.com',
            '"joe..b\\"s"@example.com',
            "joe@[127.0.0.1]",
            "joe@[IPv6:::1]",
            "te.s.t@example.com",
            "a" * 64 + "@x.org",
        ],
        [
            "2962",
            ".test@example.com",
            "test.@example.com",
            "te..st@example.com",
            "joe@[127.0.0.300]",
            "joe@a=b.com",
            "@x.org",
            "a@",
            "a@-x.org",
            "a b@x.org",
            "a@b@c.org",
        ],
    ),
    "idn-email": (["실례@실례.테스트", "joe.bloggs@example.com", "josé@example.com"], ["2962", "実@", "@例"]),
    "hostname": (
        ["www.example.com", "a", "1host", "host-name", f"{A63}.{A63}.{A63}.{'a' * 61}", "a.b.c.d.e.f.g", "ab"],
        [
            "",
            ".",
            "-a.b",
            "a-.b",
            "a_b",
            f"{A63}a.com",
            f"{A63}.{A63}.{A63}.{A63}",
            "a..b",
            ".a",
            "a.",
            "xn--X",
            "XN--aa---o47jg78q",
            "ab--cd",
            "é.com",
            "-> $1.00 <--",
        ],
    ),
    "idn-hostname": (
        ["실례.테스트", "hostname", "host-name", "例え", "aé1", "münchen.de", "א.ב", "abc.אב"],
        [
            "\u302e실례",
            "-hello",
            "hello-",
            "\u0300hello",
            "a\u0375b",
            "a\u05d0",
            "0a.\u05d0",
            "xn--X",
            "ü" * 60,
            "a..b",
            "l\u00b7a",
            "\u0640\u07fa",
            "Éa",
            "öä--b",
            "ﬁ",
            "\u1100\u1161",
        ],
    ),
    "ipv4": (
        ["192.168.0.1", "0.0.0.0", "255.255.255.255"],
        ["256.0.0.1", "1.2.3", "01.2.3.4", "1.2.3.4.5", "1.2.3.4/24"],
    ),
    "ipv6": (
        [
            "::1",
            "::",
            "2345::",
            "1:2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7::",
            "::2:3:4:5:6:7:8",
            "::ffff:192.168.0.1",
            "1::d6:192.168.0.1",
            "1:2:3:4:5:6:1.2.3.4",
            "fe80::a:b",
        ],
        [
            "12345::",
            ":2:3:4:5:6:7:8",
            "1:2:3:4:5:6:7:8:9",
            "1::2::3",
            "::1%eth0",
            "1:2:3:4:5:6:7:1.2.3.4",
            "1::2:192.168.256.1",
            "::1.2.3.4.5",
            "1:2:3:4:5:6:7",
            "::g",
            ":",
            ":::",
            "::1/64",
        ],
    ),
    "uri": (
        [
            "http://foo.bar/?baz=qux#quux",
            "urn:oasis:names:x",
            "mailto:a@b.c",
            "http://[::1]:80/",
            "http://a%20b@h/p;x?y/?#z/",
            "file:///etc",
            "a:",
            "http://999.999.999.999/",
            "ldap://[2001:db8::7]/c=GB?objectClass?one",
        ],
        [
            "//foo.bar/",
            "/abc",
            "abc",
            "http:// fail.com",
            ":// fail",
            "http://a/<>",
            "http://a/{}",
            "http://a/%zz",
            "http://[a]/",
            "http://a\\b",
            "http://h:8a/",
            "1http://x",
            "http://é.com/",
            "https://[@example.org/test.txt",
        ],
    ),
    "uri-reference": (
        ["http://foo.bar/", "//foo.bar/?q", "/abc", "abc", "#f", "", "?q=1", "//", "./this:that"],
        [
            "\\\\WINDOWS",
            "#frag\\ment",
            "1:b",
            "/%zz",
            '/a"b',
            "/[::1]",
            "//h:abc/p",
            "//a@b@h/",
            "//[::ffff:192.168.0.01]/p",
        ],
    ),
    "iri": (["http://ƒøø.ßår/?∂éœ=πîx#πîüx", "http://a/b"], ["/abc", "http:// a", "âππ", "http://[a]/", "\\\\x"]),
    "iri-reference": (["âππ", "#ƒrägmênt", "//ƒøø.ßår/", ""], ["#ƒräg\\mênt", "\\\\W", "a b"]),
    "uri-template": (
        ["http://example.com/dictionary/{term:1}/{term}", "dictionary", "{+path,x*}{?q}", "a%20{a.b}", "é"],
        ["{term", "term}", "{}", "{a:0}", "{a:10000}", "a b", "{ a}", "%2"],
    ),
    "uuid": (
        ["2EB8AA08-aa98-11ea-B4AA-73B441D16380", "00000000-0000-0000-0000-000000000000"],
        [
            "2eb8aa08aa9811eab4aa73b441d16380",
            "2eb8aa08-aa98-11ea-b4ga-73b441d16380",
            "2eb8aa08-aa98-11ea-b4aa-73b441d1638",
        ],
    ),
    "json-pointer": (["", "/foo/bar~0/baz~1/%a", "/", "//", "/ é\\"], ["foo", "/~", "/~2", "#/a"]),
    "relative-json-pointer": (["0", "1/a", "0#", "120/foo/bar"], ["", "/a", "01/a", "-1", "+1/a", "0##", "1a"]),
    "regex": (
        ["([abc])+\\s+$", "^a{2,3}?$", "", "[a-z0-9_-]+", "(?:a|b)*", "(?!x)y", "\\u0041\\/", "[^\\d]", "a{2}", "a|"],
        ["^(abc]", "\\a", "a**", "(", ")", "[", "a{3,2}", "[z-a]", "+", "^*", "(?<a)", "\\", "a{1,2}{3}"],
    ),
}


def automaton(name: str) -> Automaton:
    text = from_format(name)
    assert text is not None
    builder = Builder(Limits(), "format")
    rules = builder.finish(lower_plain(builder, text))
    assert rules is not None
    return Automaton(rules, byte_vocabulary())


def test_every_format_has_cases_and_an_unknown_one_asserts_nothing() -> None:
    assert set(CASES) == set(FORMATS)
    assert from_format("unknown") is None
    assert from_format("int32") is None


@pytest.mark.parametrize("name", sorted(CASES))
def test_formats_and_their_texts(name: str) -> None:
    text, compiled = from_format(name), automaton(name)
    assert text is not None
    for string in CASES[name][0]:
        assert has_word(text, string), string
        assert accepts(compiled, string.encode()), string
    for string in CASES[name][1]:
        assert not has_word(text, string), string
        assert not accepts(compiled, string.encode()), string


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_format_lowers_small(name: str) -> None:
    text = from_format(name)
    assert text is not None
    builder = Builder(Limits(), "format")
    rules = builder.finish(lower_json(builder, text))
    assert rules is not None
    assert len(rules.nodes) < 1000


def test_dates_are_those_of_the_calendar() -> None:
    text = from_format("date")
    assert text is not None
    for year in (1, 4, 99, 100, 400, 1899, 1900, 1904, 2000, 2023, 2024, 2100, 9996, 9999):
        for month in range(14):
            for day in (0, 1, 28, 29, 30, 31, 32):
                is_date = 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]
                assert has_word(text, f"{year:04}-{month:02}-{day:02}") == is_date


@settings(max_examples=300, deadline=None)
@given(st.datetimes(min_value=datetime.datetime(1, 1, 1)), st.integers(-1439, 1439))
def test_what_python_writes_as_a_date_time_is_one(moment: datetime.datetime, offset: int) -> None:
    zone = datetime.timezone(datetime.timedelta(minutes=offset))
    text = from_format("date-time")
    assert text is not None
    assert has_word(text, moment.replace(tzinfo=zone).isoformat())


@settings(max_examples=200, deadline=None)
@given(st.ip_addresses(), st.uuids())
def test_what_python_writes_as_addresses_and_uuids_are_some(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, number: uuid.UUID
) -> None:  # fmt: skip
    text, uuids = from_format(f"ipv{address.version}"), from_format("uuid")
    assert text is not None
    assert uuids is not None
    assert has_word(text, str(address))
    assert has_word(text, address.exploded)
    assert has_word(uuids, str(number))


@settings(max_examples=300, deadline=None)
@given(st.text("0123:af.", max_size=20))
def test_an_address_is_one_that_python_reads(string: str) -> None:
    for version, read in ((4, ipaddress.IPv4Address), (6, ipaddress.IPv6Address)):
        try:
            read(string)
            is_address = True
        except ValueError:
            is_address = False
        text = from_format(f"ipv{version}")
        assert text is not None
        assert has_word(text, string) == is_address


def _walks(name: str, count: int) -> list[str]:
    compiled = automaton(name)
    rng = random.Random(name)
    return [walk(compiled, 60, rng, end=0.2).decode() for _ in range(count)]


def test_random_regexes_are_valid_ones() -> None:
    for string in _walks("regex", 150):
        re.compile(string)


def test_random_names_addresses_and_uris_are_valid_ones() -> None:
    for string in _walks("ipv6", 60):
        ipaddress.IPv6Address(string)
    for string in _walks("uri", 60):
        assert urlsplit(string).scheme
    for string in _walks("hostname", 60):
        assert re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*", string)
        assert not re.search(r"(^|\.)..--", string)
    for string in _walks("date-time", 60):
        if ":60" not in string:
            datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", string).upper())


def test_internationalised_names_have_short_ascii_forms_and_keep_their_letters() -> None:
    idna = pytest.importorskip("idna")
    for string in _walks("idn-hostname", 120):
        idna.encode(string, uts46=False)
