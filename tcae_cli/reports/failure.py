"""The failure of one sample, from the image that could not be read to the store, the reports and the terminal."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """A sample that could not be used, and why."""

    row: int
    path: str  # its key in the source
    stage: str  # "index", "read", "decode" or "encode"
    error: str
