"""TLS sessions are not kept, so that none is resumed.

OpenSSL keeps those of TLS 1.2 for two hours unless it is told not to: twenty thousand, each with the certificate of
its client, 11 KiB at least, so that one client that comes and goes makes the process grow by 200 MB.  And whoever
resumes one is not checked again (RFC 8446 section 2.2): its certificate may have ended since.  TLS 1.3 without tickets
keeps nothing.

Python's `ssl` can do without tickets and has no word for this, so OpenSSL is asked itself, in the library and the
structure that `ssl` works with.  A Python that has OpenSSL built in may hide its functions: then TLS 1.3 is all there
is.
"""

from __future__ import annotations

import _ssl
import ctypes
import ssl

_SET_CACHE_MODE, _OFF = 44, 0
"""SSL_CTRL_SET_SESS_CACHE_MODE and SSL_SESS_CACHE_OFF of openssl/ssl.h."""
_LIBRARY: str | None = getattr(_ssl, "__file__", None)
"""Where OpenSSL's functions can be found; None is the program itself."""


def keep_none(context: ssl.SSLContext, library: str | None = _LIBRARY) -> None:
    """For all connections of the context that begin from now on."""
    try:
        control = ctypes.CDLL(library).SSL_CTX_ctrl
    except AttributeError:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return
    control.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)
    control.restype = ctypes.c_long
    first_field = id(context) + object.__basicsize__  # CPython's PySSLContext begins with its SSL_CTX *
    control(ctypes.c_void_p.from_address(first_field), _SET_CACHE_MODE, _OFF, None)
