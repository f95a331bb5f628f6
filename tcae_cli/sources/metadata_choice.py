"""Gathers the labels and captions that several places state for images, and chooses among them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tcae_cli.errors import FieldError, SourceError
from tcae_cli.recipe.choices import SampleFields
from tcae_cli.sources.columns import (
    CAPTION_NAMES,
    LABEL_NAMES,
    caption_in,
    has_several,
    label_in,
    means_none,
    several_words,
    usual,
)
from tcae_cli.sources.dataset_json import DATASET_JSON

FOLDERS = "folders"  # as a choice: the names of folders are the labels
NONE = "none"  # as a choice: there are no labels, or no captions
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

# What --label and --caption may name beside a column, in order of precedence.
_TABLES = (".json", *METADATA_FILES)
_PLACES = {
    "label": (".cls", ".json", DATASET_JSON, *METADATA_FILES, FOLDERS, NONE),
    "caption": (".txt", ".caption", ".json", *METADATA_FILES, NONE),
}
_FIRST_CAPTIONS = ("caption", "text")  # of two columns of captions, these come first, in this order
_COLUMNS_SHOWN = 8


class Origin(NamedTuple):
    """A place that states labels or captions."""

    place: str
    column: str = ""  # of a table, or a key of a JSON object

    def __str__(self) -> str:
        if self.place == FOLDERS:
            return "class folders"
        return f"{self.column} in {self.place}" if self.column else self.place


class Chosen(NamedTuple):
    """The label or the caption of each image that has one, by row, and the place that states it."""

    texts: dict[int, str]
    origins: dict[int, Origin]
    disagreement: str = ""  # a sentence on images for which two places state different texts


@dataclass
class Statements:
    """The labels, or the captions, of images, by the place that states them and by row."""

    kind: Literal["label", "caption"]
    asked: str | None  # the place or the column that the user chose
    by_origin: dict[Origin, dict[int, str]] = field(default_factory=dict)
    columns: dict[str, None] = field(default_factory=dict)  # seen in tables and JSON objects

    @property
    def asks_for_column(self) -> bool:
        """Return whether the user chose a column."""
        return self.asked is not None and self.asked not in _PLACES[self.kind]

    def takes(self, place: str) -> bool:
        """Return whether a place may state this, and the user has not chosen another."""
        places = _TABLES if self.asks_for_column else _PLACES[self.kind]
        return place in places and (self.asks_for_column or self.asked in (None, place))

    def state(self, origin: Origin, rows: Sequence[int], text: str) -> bool:
        """Add what a place states for rows; return whether it has stated nothing else for the first of them before."""
        if not text or (self.kind == "label" and means_none(text)):
            return True
        stated = self.by_origin.setdefault(origin, {})
        return all(stated.setdefault(row, text) == text for row in rows)

    def columns_of(self, cells: Mapping[str, Any]) -> list[str]:
        """Return the columns of the user's choice, or else of the usual names, among the cells that are not empty."""
        if self.asks_for_column:
            return [name for name in cells if name == self.asked]
        filled = [name for name, cell in cells.items() if cell not in (None, "", [])]
        if self.kind == "label":
            return usual(filled, LABEL_NAMES)
        first = sorted(usual(filled, _FIRST_CAPTIONS), key=lambda name: _FIRST_CAPTIONS.index(name.lower()))
        return first[:1] or usual(filled, CAPTION_NAMES)

    def choose(self, uri: str, key: Callable[[int], str]) -> Chosen:
        """Return the texts of the places that come first, and whether others state different ones.

        key: returns the key of a row, for the sentence. Raises FieldError if the user chose what states nothing.
        """
        if self.asked not in (None, NONE, FOLDERS) and not any(self.by_origin.values()):
            raise FieldError(self.kind, self._nothing_there(uri))
        texts: dict[int, str] = {}
        origins: dict[int, Origin] = {}
        differing: dict[int, tuple[Origin, str]] = {}
        for origin, stated in sorted(self.by_origin.items(), key=lambda item: self._precedence(item[0])):
            for row, text in stated.items():
                if row not in texts:
                    texts[row] = text
                    origins[row] = origin
                elif not _is_same(texts[row], text):
                    differing.setdefault(row, (origin, text))
        if not differing:
            return Chosen(texts, origins)
        row = min(differing)
        other, text = differing[row]
        if self.asks_for_column:  # which both have: no option tells them apart
            advice = f"correct one of them, or rename the column {self.asked} in it"
        else:
            advice = f"choose with {self.option(origins[row], other)} or {self.option(other, origins[row])}"
        return Chosen(
            texts,
            origins,
            f"{uri}: {len(differing):,} images have two {self.kind}s that differ, the first of them {key(row)}: "
            f"{texts[row][:40]!r} by {origins[row]} and {text[:40]!r} by {other}; {advice}",
        )

    def option(self, origin: Origin, other: Origin) -> str:
        """Return the option that chooses one place rather than another."""
        return f"--{self.kind} {origin.place if origin.place != other.place else origin.column}"

    def _precedence(self, origin: Origin) -> int:
        return _PLACES[self.kind].index(origin.place)

    def _nothing_there(self, uri: str) -> str:
        if not self.asks_for_column:
            return f"--{self.kind} {self.asked}: nothing of the kind states {self.kind}s in {uri}; omit it"
        found = ", ".join(list(self.columns)[:_COLUMNS_SHOWN]) or "none"
        return (
            f"--{self.kind} {self.asked}: no image of {uri} has it; columns and keys beside the images are {found}, "
            f"and other choices {', '.join(_PLACES[self.kind])}"
        )


@dataclass
class Loss:
    """Something that is not used, many times."""

    count: int
    example: str


@dataclass
class Descriptions:
    """What places state of images, and what of that is not used."""

    labels: Statements
    captions: Statements
    remarks: list[str] = field(default_factory=list)
    losses: dict[str, Loss] = field(default_factory=dict)  # by words that say what is lost

    def state_cells(self, place: str, rows: Sequence[int], cells: Mapping[str, Any], where: str) -> bool:
        """State the labels and captions in the cells of a record; return whether it has a column of either."""
        self.see_columns(cells)
        of_labels = self.labels.columns_of(cells) if self.labels.takes(place) else []
        of_captions = self.captions.columns_of(cells) if self.captions.takes(place) else []
        for column in of_labels:
            try:
                self._state(self.labels, Origin(place, column), rows, label_in(cells[column], where), where)
            except SourceError:
                self.lose(f"labels in {place} are neither a number nor a name, and are not used", where)
        for column in of_captions:
            cell = cells[column]
            if has_several(cell):
                self.lose(several_words(place), where)
            try:
                self._state(self.captions, Origin(place, column), rows, caption_in(cell, where), where)
            except SourceError:
                self.lose(f"captions in {place} are neither a text nor a list of texts, and are not used", where)
        return bool(of_labels or of_captions)

    def see_columns(self, columns: Iterable[str]) -> None:
        """Note the columns that the user might have chosen."""
        for statements in (self.labels, self.captions):
            if statements.asks_for_column and len(statements.columns) < _COLUMNS_SHOWN:
                statements.columns.update(dict.fromkeys(columns))

    def _state(self, statements: Statements, origin: Origin, rows: Sequence[int], text: str, where: str) -> None:
        if not statements.state(origin, rows, text):
            self.lose(
                f"{statements.kind}s in {origin.place} come after others of the same image, which are used", where
            )

    def lose(self, words: str, example: str, count: int = 1) -> None:
        """Count something that is not used."""
        self.losses.setdefault(words, Loss(0, example)).count += count

    def add(self, others: "Descriptions", first_row: int) -> None:
        """Add the descriptions of images that come from a row on."""
        for mine, theirs in ((self.labels, others.labels), (self.captions, others.captions)):
            mine.columns.update(theirs.columns)
            for origin, stated in theirs.by_origin.items():
                mine.by_origin.setdefault(origin, {}).update((first_row + row, text) for row, text in stated.items())
        self.remarks += others.remarks
        for words, loss in others.losses.items():
            self.lose(words, loss.example, loss.count)

    def all_remarks(self, uri: str) -> Iterator[str]:
        """Yield a sentence on each kind of thing that is not used."""
        yield from self.remarks
        for words, loss in self.losses.items():
            yield f"{uri}: {loss.count:,} {words}; the first: {loss.example}"


def descriptions_for(fields: SampleFields) -> Descriptions:
    """Return empty descriptions, for the labels and captions that the user chose."""
    return Descriptions(Statements("label", fields.label), Statements("caption", fields.caption))


def _is_same(text: str, other: str) -> bool:
    """Return whether two texts are the same label or caption: pandas writes 3 as 3.0."""
    return text == other or (text.removesuffix(".0") == other.removesuffix(".0") and text[:1].isdigit())
