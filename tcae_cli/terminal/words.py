"""Quantities as people read them."""

_MOST_HOURS = 100


def duration(seconds: float) -> str:
    """Return seconds as "8.2 s", "3 min 05 s", "2 h 07 min" or "12 days 3 h"."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= _MOST_HOURS:
        return f"{hours // 24:,} days {hours % 24} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def data_size(count: float) -> str:
    """Return bytes as "930 bytes" or "1.2 GB"."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count:,.0f} bytes"
