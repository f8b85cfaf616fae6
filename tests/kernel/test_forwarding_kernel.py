"""Packets between virtual machines on two hosts."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.kernel
