"""Reads the files beside an image that hold its label, caption or metadata: .cls, .txt, .caption and .json."""

import os
from collections.abc import Collection, Iterable, Sequence

from tcae_cli.sources.metadata import as_utf8, parse_json, parse_label, parse_text
from tcae_cli.sources.metadata_choice import Descriptions, Origin
from tcae_cli.sources.spelling import BySpelling

SIDECAR_SUFFIXES = (".cls", ".txt", ".caption", ".json")

_KEYS_SHOWN = 4


class Sidecars:
    """The sidecars among names, by the image that they lie beside."""

    def __init__(self, names: Iterable[str]) -> None:
        by_stem: dict[str, tuple[str, ...]] = {}
        for name in names:
            if suffix_of_sidecar(name):
                stem = os.path.splitext(name)[0]
                by_stem[stem] = (*by_stem.get(stem, ()), name)
        self._by_stem = BySpelling(by_stem)

    def beside(self, image: str) -> Collection[str]:
        """Return the sidecars of an image, one of a suffix: they have its name without suffix or, as WebDataset has it,
        up to the first dot.
        """
        found: dict[str, str] = {}
        for stem in dict.fromkeys((sample_of(image), os.path.splitext(image)[0])):
            found.update((suffix_of_sidecar(name), name) for name in self._by_stem.get(stem) or ())
        return found.values()


def suffix_of_sidecar(name: str) -> str:
    """Return the suffix of a sidecar, in lower case; "" for other files."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if suffix in SIDECAR_SUFFIXES else ""


def sample_of(name: str) -> str:
    """Return the sample that a file belongs to in WebDataset: its path up to the first dot of its base name."""
    parent, base = os.path.split(name)
    return os.path.join(parent, base.split(".")[0])


def is_wanted(suffix: str, descriptions: Descriptions) -> bool:
    """Return whether sidecars of a suffix state what the user leaves in question."""
    return descriptions.labels.takes(suffix) or descriptions.captions.takes(suffix)


def state_sidecar(descriptions: Descriptions, suffix: str, data: bytes, rows: Sequence[int], where: str) -> None:
    """State what a sidecar says of the images of these rows.

    Raises SourceError, naming `where`, for one that is wanted and cannot be read.
    """
    if suffix == ".json" and is_wanted(suffix, descriptions):
        _state_json(descriptions, data, rows, where)
    elif suffix == ".cls" and descriptions.labels.takes(suffix):
        label = parse_label(as_utf8(data, where).decode(errors="replace"), where)
        descriptions.labels.state(Origin(suffix), rows, str(label))
    elif descriptions.captions.takes(suffix):
        descriptions.captions.state(Origin(suffix), rows, parse_text(data, where))


def _state_json(descriptions: Descriptions, data: bytes, rows: Sequence[int], where: str) -> None:
    found = parse_json(data, where)
    if not isinstance(found, dict):
        descriptions.lose(".json beside images are no JSON objects, and are not used", where)
    elif not descriptions.state_cells(".json", rows, found, where):
        keys = ", ".join(list(found)[:_KEYS_SHOWN]) or "nothing"
        descriptions.lose(
            ".json beside images have no label or caption under the names that are known; name a key of theirs with "
            "--label or --caption if they do",
            f"{where}, with {keys}",
        )
