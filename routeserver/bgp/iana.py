"""Code points, named once.

Families carry the names operators know from openconfig; everything else follows the registry's own words.
A family is an `IntEnum` of `AFI << 8 | SAFI`, so that it hashes like an int in the RIB's dictionaries.
"""

from __future__ import annotations

import enum


class Family(enum.IntEnum):
    """AFI/SAFI pairs this speaker carries (RFC 4760 section 6, RFC 4364, RFC 4659, RFC 4684)."""

    VPNV4 = 1 << 8 | 128
    VPNV6 = 2 << 8 | 128
    RTC = 1 << 8 | 132

    @property
    def afi(self) -> int:
        return self.value >> 8

    @property
    def safi(self) -> int:
        return self.value & 0xFF

    @property
    def label(self) -> str:
        """The name in configuration, CLI and API."""
        return FAMILY_NAMES[self]

    @classmethod
    def of(cls, afi: int, safi: int) -> Family | None:
        """The family of an AFI/SAFI pair, or None when this speaker does not carry it."""
        return _BY_PAIR.get((afi, safi))

    @classmethod
    def named(cls, name: str) -> Family:
        """The family of a configuration name. Raises KeyError for an unknown one."""
        return _BY_NAME[name]


FAMILY_NAMES = {
    Family.VPNV4: "l3vpn-ipv4-unicast",
    Family.VPNV6: "l3vpn-ipv6-unicast",
    Family.RTC: "route-target-constrain",
}
VPN_FAMILIES = (Family.VPNV4, Family.VPNV6)
_BY_PAIR = {(f.value >> 8, f.value & 0xFF): f for f in Family}
_BY_NAME = {name: family for family, name in FAMILY_NAMES.items()}


class TunnelType(enum.IntEnum):
    """BGP tunnel encapsulation types (RFC 9012 section 13.1) we give a meaning to."""

    GRE = 2
    VXLAN = 8
    MPLS_IN_GRE = 11
    MPLS_IN_UDP = 13


class Origin(enum.IntEnum):
    """ORIGIN values (RFC 4271 section 5.1.1)."""

    IGP = 0
    EGP = 1
    INCOMPLETE = 2


class Capability(enum.IntEnum):
    """Capability codes (RFC 5492 section 6) we give a meaning to."""

    MULTIPROTOCOL = 1
    ROUTE_REFRESH = 2
    EXTENDED_NEXT_HOP = 5
    EXTENDED_MESSAGE = 6
    ROLE = 9
    GRACEFUL_RESTART = 64
    FOUR_OCTET_AS = 65
    ADD_PATH = 69
    ENHANCED_ROUTE_REFRESH = 70
    LONG_LIVED_GRACEFUL_RESTART = 71


class Role(enum.IntEnum):
    """What a speaker is to its external neighbor (RFC 9234 section 4.1)."""

    PROVIDER = 0
    RS = 1
    RS_CLIENT = 2
    CUSTOMER = 3
    PEER = 4

    @property
    def label(self) -> str:
        """The name in configuration, CLI and API."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def named(cls, name: str) -> Role:
        """The role of a configuration name. Raises KeyError for an unknown one."""
        return cls[name.upper().replace("-", "_")]


AS_TRANS = 23456
DEFAULT_LOCAL_PREF = 100
