"""Quantities as people read them."""


def duration(seconds: float) -> str:
    """Return seconds as "8.2 s", "3 min 05 s" or "2 h 07 min"."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
