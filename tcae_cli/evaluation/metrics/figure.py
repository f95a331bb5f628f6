"""The figures that metrics give: their names, their units, what is better, and how they are written.

Importing this module does not import torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


def significant(value: float) -> str:
    """Write a figure with four significant digits, or as a whole number from 1,000 on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def in_thousands(value: float) -> str:
    """Write a count in units, thousands, millions, billions or trillions: 7.48 M."""
    return _scaled(value, 1000, ("", " k", " M", " G", " T"))


def in_bytes(value: float) -> str:
    """Write a number of bytes in bytes, KiB, MiB, GiB or TiB: 12.00 MiB."""
    return _scaled(value, 1024, (" bytes", " KiB", " MiB", " GiB", " TiB"))


@dataclass(frozen=True)
class Figure:
    """One number that a metric gives of a model, a store or a folder."""

    name: str  # in tables and reports
    unit: str = ""  # for the documentation; "" where there is none
    more_is_better: bool | None = None  # None where neither more nor less is better by itself
    format: Callable[[float], str] = significant  # of finite values

    def in_words(self, value: float) -> str:
        """Return the value as people read it, with its unit where the format has one."""
        if math.isnan(value):
            return "undefined"
        if math.isinf(value):
            return "infinite" if value > 0 else "minus infinite"
        return self.format(value)


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    """Write a value in the largest unit that leaves at least 1, with two decimals; in the first as a whole number."""
    power = 0
    while round(value / step**power, 2) >= step and power < len(units) - 1:
        power += 1
    return f"{value / step**power:,.{2 if power else 0}f}{units[power]}"
