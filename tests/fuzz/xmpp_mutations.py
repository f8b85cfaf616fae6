"""Random mutations of what an XMPP client says, from a bit that flips to XML that means something else.

There are two kinds.  Those of octets mostly end the stream, whose reader they try.  Those of elements keep the XML
well-formed, and so come as far as requests do and what is behind them.  All randomness comes from the `Random` handed
in, so a seed says everything.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random

from lxml import etree

from schema.names import NS_BIND, NS_CLIENT, NS_DATA, NS_PING, NS_PUBSUB, NS_PUBSUB_OWNER, NS_RSM, NS_SASL, NS_STREAM
from tests.fuzz.xmpp_seeds import ATTACKS, NS_SM
from tests.support.xmpp_script import AUTH, HEADER, STARTTLS, STREAM_END, bind

NAMESPACES = (
    *(NS_BIND, NS_CLIENT, NS_DATA, NS_PING, NS_PUBSUB, NS_PUBSUB_OWNER, NS_RSM, NS_SASL, NS_STREAM, NS_SM),
    "",
    "urn:x",
    "http://www.w3.org/2000/xmlns/",
)
NAMES = (
    *(
        "iq",
        "message",
        "presence",
        "pubsub",
        "publish",
        "retract",
        "items",
        "item",
        "subscribe",
        "options",
        "entry",
        "x",
    ),
    *(
        "set",
        "max",
        "after",
        "before",
        "index",
        "field",
        "value",
        "instance-id",
        "next-hop",
        "label",
        "address",
        "error",
    ),
    *("a", "r", "resume", "enable", "auth", "response", "bind", "ping", "query", "body", "text", "_", "a.b-c", "é"),
)
ATTRIBUTES = (
    *(
        "id",
        "to",
        "from",
        "type",
        "node",
        "jid",
        "var",
        "max_items",
        "subid",
        "h",
        "previd",
        "max",
        "resume",
        "version",
    ),
    *("mechanism", "index", "notify", "{http://www.w3.org/XML/1998/namespace}lang", "{urn:x}id", "{jabber:x:data}type"),
)
NUMBERS = (
    *("0", "-1", "1", "15", "16", "4094", "4095", "65535", "65536", "1048575", "1048576", "4294967295", "4294967296"),
    *("18446744073709551616", "9" * 30, "9" * 5000, "1e9", "0x10", "+5", " 7 ", "1.5", "٣", "²", "１２", "007", "NaN"),
)
TEXTS = (
    *("", " ", "\n", "\t", "x", "=", "====", "AA==", "AA=A", "////", "get", "set", "result", "error", "submit", "form"),
    *("host1.example.net", "evil0.example.net", "w1.example.net", "w1.example.net/vpn", "rs.example.net", "a@b@c"),
    *("@", "/", "a/", "@a", "a@", "[::1]", "[::1", "[fe80::1%eth0]", "192.0.2.1", "10.0.0.0/8", "10.0.0.1/8", "::/0"),
    *("192.0.2.1:1:10.1.0.1/32", "0:0:0.0.0.0/0", "1:2:::/0", ":::", "blue", "few", "hidden", "blue/ipv6", "a'b\"c"),
    *(
        "&lt;&amp;",
        "<iq>",
        "]]>",
        "<!--",
        "\u202e",
        "\ufdd0",
        "\U0010ffff",
        "\U0001f600",
        "e\u0301",
        "\u00a0",
        "\ufb01",
    ),
    *("x" * 300, "x" * 1023, "x" * 1024, "é" * 600, "x" * 5000, "a." * 200, "\u0085", "\u2028", "İ", "ß", "\ufffd"),
)
_FRAGMENTS: tuple[bytes, ...] = (
    *(HEADER, STARTTLS, AUTH, bind("vpn"), STREAM_END, b"</iq>", b"<iq>", b"<", b">", b"/>", b"<iq", b"'", b'"', b"="),
    *(
        b"<!DOCTYPE x>",
        b"<!DOCTYPE x [<!ENTITY e 'x'>]>",
        b"<!ENTITY e SYSTEM 'file:///etc/hostname'>",
        b"<!ELEMENT a ANY>",
    ),
    *(b"&e;", b"&#0;", b"&#xD800;", b"&#xFFFE;", b"&#x110000;", b"&#99999999999;", b"&lt;", b"&", b"&#", b"&amp"),
    *(b"<!--", b"<!-- x -->", b"-->", b"<?x y?>", b"<?xml version='1.0'?>", b"<?", b"?>", b"<![CDATA[", b"]]>"),
    *(b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\x00", b"\x01", b"\x7f", b"\x0c", b"\xc0\x80", b"\xc3\x28", b"\xe2\x82"),
    *(
        b"\xed\xa0\x80",
        b"\xed\xb0\x80",
        b"\xf4\x90\x80\x80",
        b"\xef\xbf\xbe",
        b"\xef\xb7\x90",
        b"\xf0\x9f\x98\x80",
        b"\x80",
    ),
    *(b" xmlns='", b" xmlns:p='urn:p'", b" xmlns=''", b" xml:lang='x'", b" xml:id='1'", b" id='1' id='2'", b"<p:iq/>"),
    *(b" ", b"\r\n", b"\t", b"text", b"+ADw-", b"stream:", b"xmlns:stream"),
)
_QUOTED = re.compile(rb"(['\"])[^'\"<>]*\1")
_NUMBER = re.compile(rb"(?<=[>'\"])\d+(?=[<'\"])")
_NAME = re.compile(rb"(?<=[</])[A-Za-z][\w:-]*")
_NAMESPACE = re.compile(rb"(?<=xmlns=')[^']*")
_ENCODINGS = ("utf-16-le", "utf-16-be", "utf-16", "utf-32", "utf-7", "latin-1", "cp500")


def mutated(random: Random, part: bytes, other: bytes) -> bytes:
    """The part, changed once or a few times; `other` is a second one to take from."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        makers = _OF_ELEMENTS if random.random() < 0.6 else _OF_OCTETS
        part = random.choice(makers)(random, part, other)
    return part


def well_formed(random: Random, part: bytes, other: bytes) -> bytes:
    """Changed so that whoever reads it may be surprised, but finds XML."""
    for _ in range(random.choice((1, 1, 2, 3))):
        part = random.choice(_OF_ELEMENTS)(random, part, other)
    return part


def noise(random: Random) -> bytes:
    """Octets of no kind at all, or of a kind that nobody waits for."""
    length = random.choice((1, 3, 20, 300))
    if random.random() < 0.5:
        return random.randbytes(length)
    return b"".join(random.choices(_FRAGMENTS, k=random.randrange(1, 6)))


def pieces(random: Random, data: bytes) -> Iterator[bytes]:
    """The octets whole, or cut at random places; those of a short part now and then one by one."""
    how = random.random()
    if how < 0.4 or len(data) < 2:
        yield data
        return
    count = len(data) if how > 0.99 and len(data) < 200 else random.randrange(1, 5)
    edges = [0, *sorted(random.choices(range(len(data)), k=count)), len(data)]
    for start, end in itertools.pairwise(edges):
        if start < end:
            yield data[start:end]


# --- Octets -----------------------------------------------------------------------------------------------------------


def _range(random: Random, data: bytes) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.choice((1, 1, 2, 8, 100)))


def _flip(random: Random, data: bytes, _other: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 3))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut_out(random: Random, data: bytes, _other: bytes) -> bytes:
    start, end = _range(random, data)
    return data[:start] + data[end:]


def _double(random: Random, data: bytes, _other: bytes) -> bytes:
    start, end = _range(random, data)
    return data[:end] + data[start:end] * random.choice((1, 1, 2, 50)) + data[end:]


def _truncate(random: Random, data: bytes, _other: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _splice(random: Random, data: bytes, other: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def _insert(random: Random, data: bytes, _other: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(_FRAGMENTS) + data[at:]


def _insert_octets(random: Random, data: bytes, _other: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.randbytes(random.choice((1, 2, 10))) + data[at:]


def _attack(random: Random, data: bytes, _other: bytes) -> bytes:
    whole = random.choice(ATTACKS)
    start, end = _range(random, whole)
    return data + (whole if random.random() < 0.2 else whole[start : end + 200])


def _recode(random: Random, data: bytes, _other: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode(random.choice(_ENCODINGS), "replace")


def _nest(random: Random, data: bytes, _other: bytes) -> bytes:
    depth, at = random.choice((5, 29, 33, 400)), random.randrange(len(data) + 1)
    return data[:at] + b"<a>" * depth + b"</a>" * random.choice((0, depth, depth - 1)) + data[at:]


def _crowd(random: Random, data: bytes, _other: bytes) -> bytes:
    count = random.choice((3, 17, 63, 65, 500))
    names = b" xmlns:a%d='u%d'" if random.random() < 0.3 else b" a%d='%d'"
    many = b"".join(names % (n, n) for n in range(count))
    at = data.find(b">") if random.random() < 0.8 else random.randrange(len(data) + 1)
    return data[: max(at, 0)] + many + data[max(at, 0) :]


def _grow(random: Random, data: bytes, _other: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice((b"x", b" ", b"<a/>", b"&lt;")) * random.choice((100, 3000, 20_000)) + data[at:]


# --- Elements ---------------------------------------------------------------------------------------------------------


def _replace_one(random: Random, data: bytes, pattern: re.Pattern[bytes], with_: bytes) -> bytes:
    found = list(pattern.finditer(data))
    if not found:
        return data
    hit = random.choice(found)
    return data[: hit.start()] + with_ + data[hit.end() :]


def _escaped(text: str) -> bytes:
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), ("'", "&apos;")):
        text = text.replace(plain, escaped)
    return text.encode()


def _other_value(random: Random, data: bytes, other: bytes) -> bytes:
    values = [hit[0] for hit in _QUOTED.finditer(other)]
    value = random.choice(values) if values and random.random() < 0.3 else b"'%s'" % _escaped(random.choice(TEXTS))
    return _replace_one(random, data, _QUOTED, value)


def _other_number(random: Random, data: bytes, _other: bytes) -> bytes:
    return _replace_one(random, data, _NUMBER, _escaped(random.choice(NUMBERS)))


def _other_name(random: Random, data: bytes, _other: bytes) -> bytes:
    names = sorted(set(_NAME.findall(data)))
    if not names:
        return data
    old, new = random.choice(names), random.choice(NAMES).encode()
    return re.sub(rb"(?<=[</])" + re.escape(old) + rb"(?=[\s/>])", lambda _: new, data)


def _other_namespace(random: Random, data: bytes, _other: bytes) -> bytes:
    return _replace_one(random, data, _NAMESPACE, random.choice(NAMESPACES).encode())


def _swap_namespaces(random: Random, data: bytes, _other: bytes) -> bytes:
    old, new = random.choice(NAMESPACES).encode(), random.choice(NAMESPACES).encode()
    return data.replace(b"'%s'" % old, b"'%s'" % new)


def _rearrange(random: Random, data: bytes, other: bytes) -> bytes:
    """Change the tree of a part that is one element."""
    tree = _tree(data)
    if tree is None:
        return data
    for _ in range(random.choice((1, 1, 2))):
        element = random.choice(list(tree.iter("*")))
        random.choice(_REARRANGEMENTS)(random, element, _tree(other))
    return etree.tostring(tree, encoding="utf-8")


def _tree(part: bytes) -> etree._Element | None:
    try:
        return etree.fromstring(
            part.replace(b" ", b" xmlns='jabber:client' ", 1) if b"xmlns" not in part[:60] else part
        )
    except etree.XMLSyntaxError:
        return None


def _set_attribute(random: Random, element: etree._Element, _other: etree._Element | None) -> None:
    element.set(random.choice(ATTRIBUTES), random.choice(TEXTS if random.random() < 0.7 else NUMBERS))


def _drop_attribute(random: Random, element: etree._Element, _other: etree._Element | None) -> None:
    if len(element.attrib):
        del element.attrib[random.choice(list(element.attrib))]


def _set_text(random: Random, element: etree._Element, _other: etree._Element | None) -> None:
    text = random.choice(TEXTS if random.random() < 0.5 else NUMBERS)
    if random.random() < 0.8:
        element.text = text
    else:
        element.tail = text if element.getparent() is not None else None


def _drop_element(_random: Random, element: etree._Element, _other: etree._Element | None) -> None:
    parent = element.getparent()
    if parent is not None:
        parent.remove(element)


def _double_element(random: Random, element: etree._Element, _other: etree._Element | None) -> None:
    if element.getparent() is not None:
        for _ in range(random.choice((1, 1, 3, 70, 1001))):
            element.addnext(deepcopy(element))


def _adopt(random: Random, element: etree._Element, other: etree._Element | None) -> None:
    if other is not None:
        element.append(deepcopy(random.choice(list(other.iter("*")))))


def _deepen(random: Random, element: etree._Element, _other: etree._Element | None) -> None:
    for _ in range(random.choice((1, 3, 27, 40))):
        element = etree.SubElement(element, random.choice(NAMES))


def _rename(random: Random, element: etree._Element, _other: etree._Element | None) -> None:
    namespace = random.choice(NAMESPACES)
    element.tag = f"{{{namespace}}}{random.choice(NAMES)}" if namespace else random.choice(NAMES)


_Mutation = Callable[[Random, bytes, bytes], bytes]
_OF_OCTETS: tuple[_Mutation, ...] = (
    *(_flip, _flip, _cut_out, _cut_out, _double, _truncate, _splice, _splice, _insert, _insert, _insert_octets),
    *(_attack, _recode, _nest, _crowd, _grow),
)
_OF_ELEMENTS: tuple[_Mutation, ...] = (
    *(_rearrange, _rearrange, _rearrange, _rearrange, _other_value, _other_number, _other_number),
    *(_other_name, _other_namespace, _swap_namespaces),
)
_REARRANGEMENTS: tuple[Callable[[Random, etree._Element, etree._Element | None], None], ...] = (
    *(_set_attribute, _set_attribute, _drop_attribute, _set_text, _set_text, _drop_element, _double_element),
    *(_adopt, _deepen, _rename),
)
