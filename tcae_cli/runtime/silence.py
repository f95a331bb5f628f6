"""Remembers that a host did not answer, so that a command without a network waits once and not for every file."""

import math
import time

PATIENCE_S = 8.0  # for an answer, and for each piece of it; clients themselves would wait for minutes

_REMEMBERED_S = 60.0

_silent_at = -math.inf


def note_silence() -> None:
    """Remember that a host does not answer now."""
    global _silent_at
    _silent_at = time.monotonic()


def is_expected() -> bool:
    """Return whether a host did not answer a moment ago, so that this one need not be waited for."""
    return time.monotonic() - _silent_at < _REMEMBERED_S
