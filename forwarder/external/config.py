"""The `[external]` table: where end-systems connect, and who they are.

Security has no switch: an end-system needs a certificate that names its JID, signed by `client-ca` (by default the
authority of `[tls]`), and only the JIDs listed here are let in, each from its own MAC, on its own port, into its own
VPNs.  Towards end-systems this forwarder shows the certificate it shows to route servers; it has to name `domain`, by
default the forwarder's JID.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from forwarder.attachments import VLAN_LAST, AttachmentError, Vlan, parse_attachment
from forwarder.external.membership import EndSystem, attachment_id, interface_name
from forwarder.external.table import External, ExternalEndSystem, ExternalError
from routeserver.config import values
from routeserver.config.values import ConfigKeyError, at, listed, optional, refuse_repetition
from routeserver.config.xmpp import AdmissionLimits, XmppConfig
from routeserver.io.tls import TlsFileError, read_files
from routeserver.xmpp.jid import Jid
from routeserver.xmpp.stream import StreamLimits

STALE_TIME = 60.0
_LIMITS = StreamLimits(max_stanza_rate=100, max_batch=100, max_stanza_bytes=1 << 16)
"""Of an end-system, which has a few interfaces and no more to say than that."""


@dataclass(frozen=True, slots=True)
class ExternalConfig:
    """`service_jid` is this forwarder's; `stale_time` is in seconds."""

    xmpp: XmppConfig
    service_jid: str
    stale_time: float
    end_systems: tuple[EndSystem, ...]
    redundant: bool = False
    """There is another forwarder for them; which of the two is active, somebody else says."""


def read(raw: External, jid: str, files: tuple[Path, Path, Path], base: Path) -> ExternalConfig:
    """Check the table; `files` are certificate, private key and authority of `[tls]`. Raises ExternalError."""
    try:
        return _read(raw, jid, files, base)
    except ConfigKeyError as error:
        raise ExternalError(str(error)) from None


def _read(raw: External, jid: str, files: tuple[Path, Path, Path], base: Path) -> ExternalConfig:
    certificate, key, authority = files
    domain = at("external.domain", values.domain, raw.domain or jid)
    listen = listed("external.listen", values.socket_address, raw.listen) or ()
    if not listen:
        raise ConfigKeyError("external.listen", "empty: nobody could connect")
    client_ca = authority if raw.client_ca is None else base / raw.client_ca
    try:
        tls = read_files(certificate, key, client_ca, domain, None, frozenset())
    except TlsFileError as error:
        table = "external" if error.key == "client-ca" else "tls"
        raise ConfigKeyError(f"{table}.{error.key}", error.reason.replace("xmpp.", "external.")) from None
    xmpp = XmppConfig(domain, listen, (), tls, _LIMITS, AdmissionLimits(per_jid=256, per_address=1024), (), {})
    stale_time = optional("external.stale-time", values.seconds, raw.stale_time)
    return ExternalConfig(xmpp, jid, STALE_TIME if stale_time is None else stale_time, _end_systems(raw), raw.redundant)


def _end_systems(raw: External) -> tuple[EndSystem, ...]:
    if not raw.end_systems:
        raise ConfigKeyError("external.end-systems", "empty: nobody would be let in")
    found = tuple(_end_system(f"external.end-systems[{index}]", one) for index, one in enumerate(raw.end_systems))
    refuse_repetition((one.jid for one in found), lambda index: f"external.end-systems[{index}].jid")
    return found


def _end_system(key: str, raw: ExternalEndSystem) -> EndSystem:
    jid = Jid.parse(at(f"{key}.jid", values.bare_jid, raw.jid))
    vpns = listed(f"{key}.vpns", values.vpn_name, raw.vpns) or ()
    if not vpns:
        raise ConfigKeyError(f"{key}.vpns", "empty: it could not have any interface")
    prefixes = listed(f"{key}.prefixes", ipaddress.ip_network, raw.prefixes)
    made = EndSystem(jid, raw.port, raw.mac.lower().replace("-", ":"), vpns, prefixes)
    for vpn in vpns:
        _try(key, made, vpn)
    return made


def _try(key: str, end_system: EndSystem, vpn: str) -> None:
    """Whatever of it an attachment could not have is wrong here already."""
    longest = Vlan(end_system.port, VLAN_LAST)
    try:
        parse_attachment(
            attachment_id(end_system, VLAN_LAST), vpn=vpn, interface=interface_name(end_system.port, VLAN_LAST),
            addresses=["192.0.2.1"], mac=end_system.mac, vlan=str(longest),
        )  # fmt: skip
    except AttachmentError as error:
        raise ConfigKeyError(key, str(error)) from None
