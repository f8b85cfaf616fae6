"""Data forms (XEP-0004) of the service: the options of a subscription, and what a node shows of its configuration.

Options come as children of `<options/>` (the draft's `<instance-id/>`) or as fields of a form; both may be there if
they say the same.  A form with a FORM_TYPE has to be one of subscription options, a form without is taken for one, as
the draft's own example has none.  Fields nobody here knows are ignored (XEP-0004 section 3.1), a form of type `cancel`
says nothing.  What an option may be is the table `_OPTIONS`; what it may be beside others is for the core to know.

What is configured about a node is shown in two forms of one content: with its metadata (XEP-0060 section 5.4), and to
who asks for the configuration, as a result that there is nothing to fill in.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TypeAlias

from lxml import etree

from routeserver.xmpp import errors
from schema.names import NS_DATA, NS_PUBSUB, NS_UNICAST

Element: TypeAlias = etree._Element

SUBSCRIBE_OPTIONS = f"{NS_PUBSUB}#subscribe_options"
NODE_METADATA = f"{NS_PUBSUB}#meta-data"
NODE_CONFIGURATION = f"{NS_PUBSUB}#node_config"

_INSTANCE_TAG = f"{{{NS_PUBSUB}}}instance-id"
_FORM_TAG = f"{{{NS_DATA}}}x"
_FIELD_TAG = f"{{{NS_DATA}}}field"
_VALUE_TAG = f"{{{NS_DATA}}}value"
_INSTANCE_ID, _VLAN_ID = "vpn#instance_id", "vpn#vlan_id"
NO_VLAN = 0
_OPTIONS = {_INSTANCE_ID: ("an instance id", 0, 0xFFFF), _VLAN_ID: ("a VLAN", 1, 4094)}
"""What a field says, and its least and greatest value."""
_EMPTY = {_VLAN_ID: NO_VLAN}
"""What a field that is left empty says, as in a form of ours that is sent back; others may not be empty."""


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """What a client chose; None leaves it as it is, `NO_VLAN` takes it away. `form` tells of a data form."""

    instance_id: int | None = None
    vlan_id: int | None = None
    form: bool = False


NO_OPTIONS = SubscriptionOptions()


def read_options(options: Element) -> SubscriptionOptions:
    """The children of `<options/>`. Raises StanzaError (XEP-0060 section 6.3.6.2)."""
    given: dict[str, list[str | None]] = {name: [] for name in _OPTIONS}
    given[_INSTANCE_ID] += [child.text for child in options.findall(_INSTANCE_TAG)]
    forms = options.findall(_FORM_TAG)
    for form in forms:
        _read_form(form, given)
    instance_id, vlan_id = (_number(name, texts) for name, texts in given.items())
    return SubscriptionOptions(instance_id, vlan_id, bool(forms))


def _read_form(form: Element, given: dict[str, list[str | None]]) -> None:
    kind = form.get("type", "submit")
    if kind == "cancel":
        return
    if kind != "submit":
        raise errors.invalid_options(f"a form of type {kind} sets no options")
    for field in form.findall(_FIELD_TAG):
        values = [value.text for value in field.findall(_VALUE_TAG)]
        name = field.get("var")
        if name == "FORM_TYPE" and values != [SUBSCRIBE_OPTIONS]:
            raise errors.invalid_options(f"the form is not one of {SUBSCRIBE_OPTIONS}")
        if name in given:
            given[name] += values or [None]


def _number(name: str, texts: list[str | None]) -> int | None:
    what, least, greatest = _OPTIONS[name]
    numbers = set()
    for text in texts:
        digits = (text or "").strip()
        if not digits and name in _EMPTY:
            numbers.add(_EMPTY[name])
            continue
        if not (0 < len(digits) <= 5 and digits.isascii() and digits.isdigit() and least <= int(digits) <= greatest):
            raise errors.invalid_options(f"{what} is a number from {least} to {greatest}")
        numbers.add(int(digits))
    if len(numbers) > 1:
        raise errors.invalid_options(f"{name} has two values")
    return numbers.pop() if numbers else None


def options_form(kind: str, instance_id: int, vlan_id: int | None) -> str:
    """The options in effect, as a form of type `form` to be filled in or of type `result`."""
    fields = [(_INSTANCE_ID, str(instance_id))]
    if kind == "form" or vlan_id is not None:
        fields.append((_VLAN_ID, "" if vlan_id is None else str(vlan_id)))
    return _form(kind, SUBSCRIBE_OPTIONS, fields)


def configuration_form(form_type: str, max_items: int | None, subscribers: int) -> str:
    """What is configured about every node, and `max_items` where there is a limit.

    The number of subscribers is metadata and no configuration.
    """
    fields = [
        ("pubsub#type", NS_UNICAST),
        ("pubsub#access_model", "whitelist"),
        ("pubsub#publish_model", "publishers"),
        ("pubsub#persist_items", "1"),
        ("pubsub#deliver_payloads", "1"),
        ("pubsub#notify_retract", "1"),
        ("pubsub#send_last_published_item", "never"),
        ("pubsub#publish_node_full", "reject"),
    ]
    if max_items is not None:
        fields.append(("pubsub#max_items", str(max_items)))
    if form_type == NODE_METADATA:
        fields.append(("pubsub#num_subscribers", str(subscribers)))
    return _form("result", form_type, fields)


def _form(kind: str, form_type: str, fields: list[tuple[str, str]]) -> str:
    """A field without a value is one to be filled in."""
    shown = "".join(
        f"<field var='{name}'{_field_type(kind)}>{f'<value>{escape(value)}</value>' if value else ''}</field>"
        for name, value in fields
    )
    head = f"<field var='FORM_TYPE' type='hidden'><value>{form_type}</value></field>"
    return f"<x xmlns='{NS_DATA}' type='{kind}'>{head}{shown}</x>"


def _field_type(kind: str) -> str:
    return " type='text-single'" if kind == "form" else ""
