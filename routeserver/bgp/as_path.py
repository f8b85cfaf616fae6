"""AS_PATH octets, and the two views of it that 2-octet speakers force on us (RFC 4271 section 4.3, RFC 6793).

Inside there is one view: 4-octet numbers, segments of AS_SET and AS_SEQUENCE.  Towards an old peer the path leaves
as a 2-octet AS_PATH with AS_TRANS in place of large numbers, and as AS4_PATH beside it when it holds any; from an
old peer both are merged back (RFC 6793 section 4.2.3).

Confederation segments are refused: no confederation is configured, so every peer is outside of it (RFC 5065
section 5).  AS 0 is refused as well (RFC 7607).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from routeserver.bgp.attributes import AS_SEQUENCE, AS_SET, AsPath, path_length
from routeserver.bgp.iana import AS_TRANS

CONFEDERATION_SEGMENTS = (3, 4)
SEGMENT_MAX = 255


def decode_as_path(value: bytes, width: int) -> AsPath:
    """Segments of `width`-octet numbers. Raises ValueError for whatever RFC 7606 section 7.2 calls malformed."""
    path = tuple(_segments(value, width))
    for kind, _ in path:
        if kind not in (AS_SET, AS_SEQUENCE):
            raise ValueError(f"segment type {kind}")
    return path


def decode_as4_path(value: bytes) -> tuple[AsPath, bool]:
    """AS4_PATH and whether confederation segments were cut out of it (RFC 6793 section 6). Raises ValueError."""
    path = tuple(_segments(value, 4))
    if not path or any(kind not in (AS_SET, AS_SEQUENCE, *CONFEDERATION_SEGMENTS) for kind, _ in path):
        raise ValueError("no segments of a known type")
    kept = tuple(segment for segment in path if segment[0] not in CONFEDERATION_SEGMENTS)
    return kept, len(kept) != len(path)


def _segments(value: bytes, width: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    offset = 0
    while offset < len(value):
        if offset + 2 > len(value):
            raise ValueError("one octet is left over")
        kind, count = value[offset], value[offset + 1]
        end = offset + 2 + count * width
        if count == 0 or end > len(value):
            raise ValueError("an empty segment" if count == 0 else "a segment overruns the attribute")
        ases = struct.unpack_from(f">{count}{'I' if width == 4 else 'H'}", value, offset + 2)
        if 0 in ases:
            raise ValueError("AS 0")
        yield kind, ases
        offset = end


def encode_as_path(path: AsPath, width: int) -> bytes:
    """Octets of a path; numbers that do not fit two octets become AS_TRANS, long sequences become several."""
    parts = []
    for kind, ases in path:
        for start in range(0, len(ases), SEGMENT_MAX):
            piece = ases[start : start + SEGMENT_MAX]
            if width == 2:
                piece = tuple(number if number <= 0xFFFF else AS_TRANS for number in piece)
            parts.append(struct.pack(f">BB{len(piece)}{'I' if width == 4 else 'H'}", kind, len(piece), *piece))
    return b"".join(parts)


def needs_as4_path(path: AsPath) -> bool:
    """Whether an old peer must be sent AS4_PATH: exactly when some AS is above 65535 (RFC 6793 section 4.2.2)."""
    return any(number > 0xFFFF for _, ases in path for number in ases)


def merge_as_paths(as_path: AsPath, as4_path: AsPath) -> AsPath:
    """The true path behind what an old peer sent (RFC 6793 section 4.2.3).

    The leading units of AS_PATH that AS4_PATH does not cover come first; a SET is one unit and is taken whole. An
    AS4_PATH longer than the AS_PATH was left stale by someone on the way and is ignored.
    """
    missing = path_length(as_path) - path_length(as4_path)
    if missing < 0:
        return as_path
    leading = []
    for kind, ases in as_path:
        if missing <= 0:
            break
        taken = ases if kind == AS_SET else ases[:missing]
        missing -= 1 if kind == AS_SET else len(taken)
        leading.append((kind, taken))
    return (*leading, *as4_path)
