"""The `[external]` table as the file has it; `config` reads it."""

from __future__ import annotations

import enum

import msgspec


class ExternalError(Exception):
    """The table cannot be used; the text is path of the key and reason."""


class Role(enum.StrEnum):
    """Of two forwarders that end-systems are behind: the one that serves them, and the one that waits."""

    ACTIVE = "active"
    STANDBY = "standby"


class ExternalEndSystem(msgspec.Struct, rename="kebab", forbid_unknown_fields=True, kw_only=True):
    """One of `end-systems`."""

    jid: str
    port: str
    mac: str
    vpns: list[str]
    prefixes: list[str] | None = None


class External(msgspec.Struct, rename="kebab", forbid_unknown_fields=True, kw_only=True):
    """The table; what is missing is said in `config`."""

    listen: list[str]
    end_systems: list[ExternalEndSystem]
    domain: str | None = None
    client_ca: str | None = None
    stale_time: str | None = None
    redundant: bool = False
