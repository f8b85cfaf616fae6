"""Item ids, and whose package `schema` is."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

import schema
from schema.names import item_id_prefix, route_item_id


@pytest.mark.parametrize(
    ("item_id", "prefix"),
    [
        ("192.0.2.1:1:203.0.113.42/32", "203.0.113.42/32"),
        ("192.0.2.1:1:203.0.113.42", "203.0.113.42/32"),
        ("64512:100:10.0.0.0/8", "10.0.0.0/8"),
        ("4200000000:7:0.0.0.0/0", "0.0.0.0/0"),
        ("64512:100:fd00::/64", "fd00::/64"),
        ("192.0.2.1:1:FD00:0::1", "fd00::1/128"),
        ("64512:100:::/0", "::/0"),
    ],
)
def test_ids_that_name_a_prefix(item_id: str, prefix: str) -> None:
    assert item_id_prefix(item_id) == ipaddress.ip_network(prefix)


@pytest.mark.parametrize(
    "item_id",
    [
        "",
        "vm1",
        "203.0.113.42/32",
        "64512:203.0.113.42/32",
        "fd00::1/128",
        "blue:1:203.0.113.42/32",
        "64512:one:203.0.113.42/32",
        "192.0.2:1:203.0.113.42/32",
        "64512:100:",
        "64512:100:203.0.113.42/24",
        "64512:100:203.0.113.42/33",
        "64512:100:vm1",
        "٦٤:100:203.0.113.42/32",
    ],
)
def test_ids_of_another_form(item_id: str) -> None:
    assert item_id_prefix(item_id) is None


@pytest.mark.parametrize("prefix", ["10.0.0.0/8", "203.0.113.42/32", "fd00::/64", "::/0"])
@pytest.mark.parametrize("rd", ["64512:100", "192.0.2.1:1", "4200000000:65535"])
def test_a_routes_id_names_its_prefix(rd: str, prefix: str) -> None:
    network = ipaddress.ip_network(prefix)
    assert item_id_prefix(route_item_id(rd, network)) == network


def test_schema_is_this_projects_package_and_not_the_one_of_the_same_name() -> None:
    assert schema.__file__ is not None
    assert Path(schema.__file__).parent == Path(__file__).parents[2] / "schema"
