"""An XMPP client made of bytes: whatever a test wants on the wire, inside TLS or before it, and all that is answered.

client = await RawXmpp.connect(server.address("xmpp"))
await client.start_tls(context)
await client.login()
client.send(b"<iq")
assert b"not-well-formed" in await client.rest()
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from tests.support.pki import DOMAIN
from tests.support.xmpp_script import AUTH, HEADER, STARTTLS, bind

_PROCEED = b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
_TIMEOUT = 20.0


class RawXmpp:
    """One connection. What takes longer than 20 s raises TimeoutError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(
        cls, address: tuple[str, int], context: ssl.SSLContext | None = None, server_hostname: str | None = DOMAIN
    ) -> RawXmpp:
        """With a context TLS is the first thing spoken (XEP-0368)."""
        name = server_hostname if context else None
        return cls(*await asyncio.open_connection(*address, ssl=context, server_hostname=name))

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until most of it is on its way; what a server that is gone did not take is no fault."""
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(_TIMEOUT):
            return await self._reader.readuntil(end)

    async def start_tls(self, context: ssl.SSLContext) -> None:
        self.send(HEADER + STARTTLS)
        await self.until(_PROCEED)
        await self._writer.start_tls(context, server_hostname=DOMAIN)

    async def login(self, resource: str = "vpn", auth: bytes = AUTH) -> bytes:
        """Everything from under TLS to a bound resource; the answer to the bind."""
        self.send(HEADER + auth + HEADER + bind(resource))
        await self.until(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        return (await self.until(b"</iq>")).partition(b"</stream:features>")[2]

    async def read(self) -> bytes:
        """What has come since the last time, at least one octet; nothing at the end of the connection."""
        return await self._reader.read(1 << 16)

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        async with asyncio.timeout(_TIMEOUT):
            received = b""
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while data := await self._reader.read(65536):
                    received += data
        return received

    @property
    def alpn(self) -> str | None:
        chosen: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return chosen.selected_alpn_protocol()

    def close(self) -> None:
        self._writer.close()
