"""The page of an evaluation: a folder with index.html, the pictures and plots that it shows, and report.json."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Literal

from tcae_cli.errors import UsageError
from tcae_cli.evaluation.metrics.registry import figure_of
from tcae_cli.evaluation.page.plots import PLOTS, contact_sheet, draw_channels
from tcae_cli.reports.evaluation import EvalReport, by_reason, finite
from tcae_cli.runtime.files import disk_errors, make_folder, path_inside, write_atomic

RANKED_BY = "psnr"  # the metric whose worst and best images are shown

_INDEX = "index.html"
_REPORT = "report.json"
_SHEET = "reconstructions.png"
_PICTURES = "images"  # a folder
_PLOTS = "plots"  # a folder
_LISTS = ("evaluations", "examples")  # by which a report.json is known as ours


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image and its reconstructions."""

    key: str
    kind: Literal["even", "worst", "best"]  # spread evenly over the source, or by RANKED_BY of the first evaluation
    original: bytes  # PNG
    decoded: dict[str, bytes]  # PNG of each evaluation, by its name; of the original's size, as all examples are
    values: dict[str, dict[str, float]]  # of each evaluation: figures of this image


def prepare_folder(folder: Path) -> None:
    """Make the folder, which may exist if it is empty or has an earlier report. Raises UsageError, DiskError."""
    if folder.is_dir():
        if any(folder.iterdir()) and _earlier(folder) is None:
            raise UsageError(f"--report {folder} has files and no earlier report of tcae eval; name a new folder")
    elif folder.exists():
        raise UsageError(f"--report {folder} is a file; name a folder")
    make_folder(folder)


def write_page(folder: Path, report: EvalReport, examples: Sequence[Example]) -> Path:
    """Write FOLDER/index.html, which needs no server and no network, and return its path.

    Beside it stands report.json, which has report.as_dict() and the examples. The files of an earlier report are
    replaced, and no others are touched, also not through links. Raises UsageError as prepare_folder does, DiskError.
    """
    prepare_folder(folder)
    # The old page goes first, so that none ever shows figures beside another run's pictures.
    _remove_earlier(folder)
    for name in ("", _PICTURES, _PLOTS):
        make_folder(folder / name)
    index = folder / _INDEX
    shown = [{"key": each.key, "kind": each.kind, "values": each.values} for each in examples]
    contents = finite({**replace(report, page=index).as_dict(), "examples": shown})
    write_atomic(folder / _REPORT, json.dumps(contents, indent=2, allow_nan=False).encode())
    pngs = _pngs(report, examples)
    for name, png in pngs.items():
        write_atomic(path_inside(folder, name), png)
    write_atomic(index, _as_html(report, examples, pngs).encode("utf-8", "backslashreplace"))
    return index


def _earlier(folder: Path) -> dict[str, Any] | None:
    """Return the contents of report.json; None if it does not exist or is none of ours."""
    try:
        found = json.loads((folder / _REPORT).read_bytes())
    except (OSError, ValueError):
        return None
    is_ours = isinstance(found, dict) and all(isinstance(found.get(name), list) for name in _LISTS)
    return found if is_ours else None


def _remove_earlier(folder: Path) -> None:
    found = _earlier(folder) or {"evaluations": [], "examples": []}
    columns = range(1 + len(found["evaluations"]))
    pictures = [_picture(row, column) for row in range(len(found["examples"])) for column in columns]
    with disk_errors(folder):
        for name in (_INDEX, _SHEET, *(_plot(name) for name in PLOTS), *pictures):
            path_inside(folder, name).unlink(missing_ok=True)


def _picture(row: int, column: int) -> str:
    """Return the file of an example's picture; column: 0 for the original, then the evaluations."""
    return f"{_PICTURES}/{row}-{column}.png"


def _plot(name: str) -> str:
    return f"{_PLOTS}/{name}.png"


def _pngs(report: EvalReport, examples: Sequence[Example]) -> dict[str, bytes]:
    """Return all pictures and plots, by file name."""
    names = [each.name for each in report.evaluations]
    columns = [("original", [each.original for each in examples])]
    columns += [(name, [each.decoded[name] for each in examples]) for name in names]
    pngs = {_picture(row, column): png for column, (_, all_) in enumerate(columns) for row, png in enumerate(all_)}
    if examples:
        pngs[_SHEET] = contact_sheet(columns)
    plots = draw_channels([(each.name, each.channels) for each in report.evaluations if each.channels])
    return pngs | {_plot(name): png for name, png in plots.items()}


def _as_html(report: EvalReport, examples: Sequence[Example], pngs: Mapping[str, bytes]) -> str:
    names = ", ".join(each.name for each in report.evaluations)
    images = "1 image" if report.num_images == 1 else f"{report.num_images:,} images"
    failed = f", {report.num_failed:,} failed" if report.num_failed else ""
    warnings = "".join(f"<li>{escape(each)}</li>" for each in report.warnings)
    plots = "".join(
        f'<img src="{_plot(name)}" alt="{escape(title)}">' for name, title in PLOTS.items() if _plot(name) in pngs
    )
    sections = (
        _section("Figures", _figures(report)),
        _section("Warnings", f"<ul>{warnings}</ul>" if warnings else ""),
        _section("Protocol", _terms(report.protocol)),
        _section("Not computed", _terms({names: reason for reason, names in by_reason(report.skipped).items()})),
        _reconstructions(report, examples),
        _section("Latent channels", f'<div class="plots">{plots}</div>' if plots else ""),
    )
    page = Template((files("tcae_cli.evaluation.page") / "page.html").read_text("utf-8"))
    return page.substitute(
        title=escape(f"{names} on {report.data}"),
        images=images + failed,
        num_columns=1 + len(report.evaluations),
        sections="\n".join(sections),
    )


def _section(title: str, body: str) -> str:
    """Return a section of the page; nothing where its body is empty."""
    return f'<section id="{title.lower().replace(" ", "-")}">\n<h2>{title}</h2>\n{body}\n</section>' if body else ""


def _figures(report: EvalReport) -> str:
    """Return the table of figures: a row a figure, a column an evaluation."""
    rows = []
    for name in dict.fromkeys(name for each in report.evaluations for name in each.values):
        values = [each.values.get(name) for each in report.evaluations]
        best = _best(name, [value for value in values if value is not None])
        cells = []
        for value in values:
            words = "-" if value is None else escape(figure_of(name).in_words(value))
            is_best = best is not None and value == best
            cells.append(f"<td><strong>{words}</strong></td>" if is_best else f"<td>{words}</td>")
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th scope="col"><bdi>{escape(each.name)}</bdi></th>' for each in report.evaluations)
    table = f"<thead><tr><td></td>{heads}</tr></thead><tbody>\n{''.join(rows)}\n</tbody>"
    note = '<p class="quiet">Bold: the best of a row.</p>' if len(report.evaluations) > 1 else ""
    return f'<div class="wide"><table>{table}</table></div>{note}'


def _best(name: str, values: list[float]) -> float | None:
    """Return the value that is better than another; None where all are equal, or neither more nor less is better."""
    comparable = {value for value in values if not math.isnan(value)}
    more_is_better = figure_of(name).more_is_better
    if len(comparable) < 2 or more_is_better is None:
        return None
    return max(comparable) if more_is_better else min(comparable)


def _terms(terms: Mapping[str, str]) -> str:
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(words)}</dd></div>" for name, words in terms.items())
    return f"<dl>{pairs}</dl>" if pairs else ""


def _reconstructions(report: EvalReport, examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    first = f"{RANKED_BY.upper()} of <bdi>{escape(report.evaluations[0].name)}</bdi>"
    groups = {
        "worst": ("Worst", f"lowest {first}"),
        "best": ("Best", f"highest {first}"),
        "even": ("Across the source", "spread evenly"),
    }
    parts = [_controls(report), f'<p class="quiet"><a href="{_SHEET}">All in one picture</a></p>']
    for kind, (title, order) in groups.items():
        shown = "\n".join(_example(report, row, each) for row, each in enumerate(examples) if each.kind == kind)
        if shown:
            parts.append(f'<h3>{title} <small>{order}</small></h3>\n<div class="examples">\n{shown}\n</div>')
    return _section("Reconstructions", "\n".join(parts))


def _controls(report: EvalReport) -> str:
    """Return the controls that choose a view; a script shows them, without which all pictures are side by side."""
    views = {"slider": "slider", "side": "side by side", "difference": "difference &times; 5"}
    radios = "".join(
        f'<label><input type="radio" name="view" value="{v}"> {words}</label>' for v, words in views.items()
    )
    options = "".join(
        f'<option value="{n}">{escape(e.name)}</option>' for n, e in enumerate(report.evaluations, start=1)
    )
    hidden = "" if len(report.evaluations) > 1 else " hidden"
    chooser = f'<label class="chooser"{hidden}>compare with <select name="evaluation">{options}</select></label>'
    return f'<form autocomplete="off" hidden>{radios}{chooser}</form>'


def _example(report: EvalReport, row: int, example: Example) -> str:
    names = ["original", *(each.name for each in report.evaluations)]
    pictures = "".join(
        f'<div class="picture" data-column="{column}"><img src="{_picture(row, column)}" alt="">'
        f"<span><bdi>{escape(name)}</bdi></span></div>"
        for column, name in enumerate(names)
    )
    key = escape(example.key)
    slider = f'<input type="range" min="0" max="100" value="50" autocomplete="off" aria-label="original of {key}, %">'
    lines = []
    for column, name in enumerate(names[1:], start=1):
        heading = f"<bdi>{escape(name)}</bdi>: " if len(names) > 2 else ""
        values = example.values[name].items()
        figures = ", ".join(f"{figure} {figure_of(figure).in_words(value)}" for figure, value in values)
        lines.append(f'<div class="values" data-column="{column}">{heading}{escape(figures)}</div>')
    caption = f'<figcaption><bdi class="key">{key}</bdi>{"".join(lines)}</figcaption>'
    return f'<figure><div class="pictures">{pictures}{slider}</div>{caption}</figure>'
