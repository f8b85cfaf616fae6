"""Passwords as both sides prepare them before anything is derived from them (SASLprep, RFC 4013).

It is a profile of stringprep over Unicode 3.2: mapped, normalized by NFKC, then held against the tables of what must
not be there and against the rule for text that runs from right to left.  What is not assigned in that old Unicode is
refused, because a server stores what it prepares (RFC 4013 section 2.5).
"""

from __future__ import annotations

import stringprep
import unicodedata

_PROHIBITED = (
    stringprep.in_table_a1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str) -> str:
    """Raises ValueError, whose words do not quote the text."""
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c)
    )  # RFC 4013 section 2.1
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(is_in_table(c) for c in prepared for is_in_table in _PROHIBITED):
        raise ValueError("it has a character that no password may have (RFC 4013 section 2.3)")
    if any(map(stringprep.in_table_d1, prepared)) and not _is_all_right_to_left(prepared):
        raise ValueError("it mixes text that runs from right to left with other text (RFC 3454 section 6)")
    return prepared


def _is_all_right_to_left(text: str) -> bool:
    has_other = any(map(stringprep.in_table_d2, text))
    return not has_other and stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
