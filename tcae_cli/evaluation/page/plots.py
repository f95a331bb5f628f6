"""The pictures of a report, as PNG on white: curves over latent channels, and reconstructions on one sheet."""

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

# By file name: what is drawn of the channels of each evaluation, and its title.
PLOTS = {
    "std": "std of each channel, descending",
    "spectrum": "share of the variance of each principal component",
    "spatial-correlation": "correlation of neighbouring positions in each channel, descending",
    "mean": "mean of each channel, descending",
}

_INCHES, _DPI = (5.2, 3.0), 150
_NAME_INCHES = 0.18  # more for each in the legend
_COLOURS = ("#2a6fbb", "#d9822b", "#3a9b5c", "#8e5bb5", "#b8434e", "#777777")
_DASHES = ("-", "--", ":")  # of the first six, the next six, ...
_INK, _PALE = "#444444", "#bbbbbb"
_MARKED = 30  # points that are few enough for a dot each
_LETTERS = 48  # of a name

_COLUMNS = 8  # of the sheet
_GAP, _LINE = 4, 22  # pixels between pictures, and for a name above them
_SHEET_DPI = 100


def draw_channels(evaluations: Sequence[tuple[str, Mapping[str, Sequence[float]]]]) -> dict[str, bytes]:
    """Return those plots of PLOTS that there are values for, with all evaluations in each.

    evaluations: their names and, by "std", "spectrum", "spatial_correlation" and "mean", a value a channel; those
    that are not finite are left out, and of the spectrum, which is logarithmic, those that are not positive.
    """
    drawn = {}
    for plot, title in PLOTS.items():
        key = plot.replace("-", "_")
        lines = [(name, _descending(channels.get(key, ()), plot == "spectrum")) for name, channels in evaluations]
        if any(len(values) for _, values in lines):
            drawn[plot] = _draw(title, lines, logarithmic=plot == "spectrum")
    return drawn


def _descending(values: Sequence[float], only_positive: bool) -> np.ndarray:
    # Channels of two models do not correspond, so each is drawn in an order of its own.
    found = np.array(values, dtype=float)
    found = found[np.isfinite(found)]
    return np.sort(found[found > 0] if only_positive else found)[::-1]


def _draw(title: str, lines: Sequence[tuple[str, np.ndarray]], logarithmic: bool) -> bytes:
    named = [name for name, _ in lines] if len(lines) > 1 else []
    width, height = _INCHES
    picture = Figure(figsize=(width, height + _NAME_INCHES * len(named)), facecolor="white", layout="constrained")
    axes = picture.add_subplot()
    axes.set_title(title, fontsize=9, loc="left", color=_INK)
    axes.grid(color=_PALE, linewidth=0.4)
    axes.tick_params(which="both", labelsize=8, labelcolor=_INK, color=_PALE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_PALE)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if logarithmic:
        axes.set_yscale("log")
    for number, (_, values) in enumerate(lines):
        axes.plot(
            np.arange(1, len(values) + 1),
            values,
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_DASHES[number // len(_COLOURS) % len(_DASHES)],
            linewidth=1.3,
            marker="o" if len(values) <= _MARKED else None,
            markersize=3,
        )
    # The names come later: matplotlib leaves out labels that begin with an underscore.
    if named:
        numbers = [str(number) for number in range(len(named))]
        legend = picture.legend(axes.lines, numbers, loc="outside lower left", fontsize=8, frameon=False)
        for text, name in zip(legend.get_texts(), named, strict=True):
            _write(text, name)
    return _encode(picture, _DPI)


def contact_sheet(rows: Sequence[tuple[str, Sequence[bytes]]]) -> bytes:
    """Return a picture with rows of pictures, each row under its name; after eight columns the rows continue below.

    rows: names and PNGs, as many in each row, all of one size. No picture is scaled.
    """
    pixels = [np.stack([_read(png) for png in pngs]) for _, pngs in rows]  # each [n, h, w, 3], uint8
    count, height, width, _ = pixels[0].shape
    row_height = _LINE + height + _GAP
    starts = range(0, count, _COLUMNS)
    shape = (_GAP + len(starts) * len(rows) * row_height, _GAP + min(count, _COLUMNS) * (width + _GAP))
    sheet = np.full((*shape, 3), 255, dtype=np.uint8)

    places = [(start, row) for start in starts for row in range(len(rows))]
    for place, (start, row) in enumerate(places):
        top = place * row_height + _LINE
        for column, image in enumerate(pixels[row][start : start + _COLUMNS]):
            left = _GAP + column * (width + _GAP)
            sheet[top : top + height, left : left + width] = image

    picture = Figure(figsize=(shape[1] / _SHEET_DPI, shape[0] / _SHEET_DPI), dpi=_SHEET_DPI, facecolor="white")
    picture.figimage(sheet, origin="upper")
    for place, (_, row) in enumerate(places):
        middle = 1 - (place * row_height + _LINE / 2) / shape[0]
        _write(picture.text(_GAP / shape[1], middle, "", va="center", fontsize=9), rows[row][0])
    return _encode(picture, _SHEET_DPI)


def _read(png: bytes) -> np.ndarray:
    """Return the pixels of a PNG, [h, w, 3], uint8."""
    return np.rint(imread(BytesIO(png), format="png")[..., :3] * 255).astype(np.uint8)


def _write(text: Text, name: str) -> None:
    """Write a name verbatim, dollar signs too; of a long name the end, which says more than its beginning."""
    shown = name.encode("utf-8", "backslashreplace").decode()
    text.set(text=shown if len(shown) <= _LETTERS else "…" + shown[1 - _LETTERS :], parse_math=False, color=_INK)


def _encode(picture: Figure, dpi: int) -> bytes:
    encoded = BytesIO()
    with warnings.catch_warnings():
        # Letters that no font here has are boxes; index.html has the names in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        picture.savefig(encoded, format="png", dpi=dpi)
    return encoded.getvalue()
