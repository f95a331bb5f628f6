"""The request and the report of `tcae weights`."""

from dataclasses import dataclass

from tcae_cli.reports.report import Report


@dataclass(frozen=True, kw_only=True)
class WeightsRequest:
    """`tcae weights`."""

    names: tuple[str, ...] = ()  # of pretrained networks; all of them, if there are none
    fetch: bool = False


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """The weights of a pretrained network."""

    name: str  # in --weights
    used_for: str
    licence: str
    file: str
    url: str
    size_bytes: int | None  # of the cached file, or as published; None if neither is known
    sha256: str | None  # or its first digits, where they are published
    shipped: str | None  # weights that the network needs besides, and where they are
    path: str | None  # in a cache, if one holds it


@dataclass(frozen=True, kw_only=True)
class WeightsReport(Report):
    """The pretrained networks, and which of them are cached."""

    folder: str  # that files are fetched to
    files: list[WeightsFile]
