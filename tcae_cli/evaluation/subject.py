"""The subject of an evaluation: the originals, how they are cropped, and what makes reconstructions of them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.autoencoders.families import ModelCard
from tcae_cli.autoencoders.runner import Runner, load_runner
from tcae_cli.errors import SourceError, UsageError
from tcae_cli.evaluation.candidates import (
    Candidate,
    FolderCandidate,
    ModelCandidate,
    SamplesCandidate,
    StoreCandidate,
    read_picture,
)
from tcae_cli.images.file_names import file_name
from tcae_cli.images.samples import write_sample_windows
from tcae_cli.recipe.choices import DEFAULT_MODEL, Resize
from tcae_cli.reports.evaluation import EvalRequest
from tcae_cli.reports.progress import Progress
from tcae_cli.runtime.folder import open_pinned
from tcae_cli.sources.scan import open_source
from tcae_cli.sources.shared_fields import open_sharing
from tcae_cli.sources.source import Source, open_index
from tcae_cli.store.buckets import whole_of
from tcae_cli.store.handle import StoreHandle
from tcae_cli.store.layout import index_folder
from tcae_cli.store.reader import LatentStore
from tcae_cli.store.spec import MAIN_VIEW, StoreSpec


@dataclass(frozen=True)
class Originals:
    """The images that reconstructions are of, and how they are cropped."""

    name: str
    source: Source
    rows: np.ndarray  # [n], int64, of the source, ascending
    resize: Resize
    content_hashes: np.ndarray | None = None  # [n], uint64, of those a store was made from
    as_they_are: bool = False  # no image may need a crop

    def labels(self) -> np.ndarray:
        """Return class numbers, [n], int64; -1 where there is none."""
        return self.source.labels(0, len(self.source))[self.rows]


@dataclass(frozen=True)
class Subject:
    """Everything that is evaluated, loaded."""

    size: int  # pixels, square
    originals: Originals | None  # the images that are looked at; None where no metric looks at any
    candidates: list[Candidate]
    models: list[Runner]  # one a candidate; none where images alone are evaluated
    cards: list[ModelCard]  # of the models
    store: LatentStore | None = None
    store_rows: np.ndarray | None = None  # [n], int64, of the store: one for each of the originals
    probe_data: Originals | None = None  # further images, to train probes on
    is_generated: bool = False  # the images are generated ones, and have no originals
    real: Originals | None = None  # the images that generated ones are compared with
    warnings: list[str] = field(default_factory=list)


def open_subject(
    request: EvalRequest, device: torch.device, scratch: Path, progress: Progress, *, with_images: bool = True
) -> Subject:
    """Return what the request names, loaded; without images, a model needs no data.

    Raises a TcaeError for models, sources and stores that cannot be evaluated together.
    """
    if request.store:
        return _open_store(request, request.store, device, scratch, progress)
    if request.reconstructions:
        return _open_reconstructions(request, request.reconstructions, scratch, progress)
    if request.samples:
        return _open_samples(request, request.samples, scratch, progress)
    return _open_models(request, device, scratch, progress, with_images)


def _open_models(
    request: EvalRequest, device: torch.device, scratch: Path, progress: Progress, with_images: bool
) -> Subject:
    cards = _read_cards(request.models or (DEFAULT_MODEL,))
    size = _common_size(request.size, cards)
    named = [(request.data, scratch / "index")] if with_images and request.data else []
    named += [(request.probe_data, scratch / "probe")] if request.probe_data else []
    opened = open_sharing(named, request.fields, progress)
    probe_data = _all_of(opened.pop(), request.probe_data, request) if request.probe_data else None
    originals = None
    if with_images:
        source, name = (opened[0], request.data) if request.data else _sample_images(scratch)
        originals = _all_of(source, name, request)
    models = [load_runner(card.name, device, request.precision) for card in cards]
    return Subject(size, originals, [ModelCandidate(model) for model in models], models, cards, probe_data=probe_data)


def _open_store(request: EvalRequest, uri: str, device: torch.device, scratch: Path, progress: Progress) -> Subject:
    _refuse_other_shapes(StoreHandle(open_pinned(uri)).spec, uri)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an incomplete store: it is reported beside the figures
        store = LatentStore(uri)
    store.refuse_without_ok_rows()
    cards = _read_cards(request.models or (store.spec.encoder.name,))
    for card in cards:
        store.refuse_other_encoder(card.encoder_hash, card.name, "omit it, or name the first")
    if request.data is None:
        if whole := whole_of(store.folder):
            raise UsageError(f"{uri} is a bucket of {whole.folder.uri}, which lists its images; name them with --data")
        source = open_index(store.folder, index_folder(store.spec), scratch)
    else:
        source, _ = _open_data(request, scratch, progress)
    rows, store_rows = _rows_in_common(source, store)
    found = []
    if len(store.ok_rows) < len(store):
        found.append(f"{len(store.ok_rows):,} of {len(store):,} rows of {uri} are ok; the others are left out")
    if missing := len(store.ok_rows) - len(rows):
        found.append(f"{missing:,} rows of {uri} have no image in {source.uri}; they are left out")
    models = [load_runner(card.name, device, request.precision) for card in cards]
    names = [uri] if len(models) == 1 else [f"{uri}, decoded by {model.name}" for model in models]
    return Subject(
        store.spec.views[store.view].size,
        Originals(source.uri, source, rows, store.spec.transform.resize, store.content_hash(store_rows.tolist())),
        [StoreCandidate(name, store, store_rows, model) for name, model in zip(names, models, strict=True)],
        models,
        cards,
        store=store,
        store_rows=store_rows,
        warnings=found,
    )


def _refuse_other_shapes(spec: StoreSpec, uri: str) -> None:
    """Raise UsageError unless the latents of a store are of squares."""
    view = spec.views[MAIN_VIEW]
    if spec.buckets is None and view.height == view.width:
        return
    found = "is a store of buckets" if spec.buckets else "holds latents of images that are not square"
    raise UsageError(f"{uri} {found}, and only squares are evaluated; encode into another store without --buckets")


def _read_cards(names: Sequence[str]) -> list[ModelCard]:
    """Return the cards of models. Raises UsageError if one has no decoder."""
    cards = [read_card(name) for name in names]
    for card in cards:
        card.refuse_without_decoder()
    return cards


def _open_reconstructions(request: EvalRequest, uri: str, scratch: Path, progress: Progress) -> Subject:
    source, name = _open_data(request, scratch, progress)
    images = open_source(uri, scratch / "reconstructions", progress=progress)
    matches = _match_names(source, images)
    if not matches:
        raise SourceError(
            f"none of the {len(images):,} images in {uri} is named after one of {name}: "
            f"a.jpg is paired with a.jpg, a.png or a.jpg.png in the same folder"
        )
    found = []
    if missing := len(source) - len(matches):
        found.append(f"{missing:,} of {len(source):,} originals have no reconstruction; they are left out")
    if extra := len(images) - len(matches):
        found.append(f"{extra:,} images in {uri} are named after no original; they are left out")
    rows = np.array(sorted(matches))
    candidate = FolderCandidate(uri, images, np.array([matches[row] for row in rows.tolist()]))
    originals = Originals(name, source, rows, request.resize or "adm")
    return Subject(_size_of(images, int(candidate.rows[0])), originals, [candidate], [], [], warnings=found)


def _open_samples(request: EvalRequest, uri: str, scratch: Path, progress: Progress) -> Subject:
    source = open_source(uri, scratch / "samples", progress=progress)
    samples = Originals(uri, source, np.arange(len(source)), "torch", as_they_are=True)
    real = None
    if request.data is not None:
        real = _all_of(*_open_data(request, scratch, progress), request)
    return Subject(_size_of(source, 0), samples, [SamplesCandidate(uri)], [], [], is_generated=True, real=real)


def _all_of(source: Source, name: str, request: EvalRequest) -> Originals:
    return Originals(name, source, np.arange(len(source)), request.resize or "adm")


def _size_of(images: Source, row: int) -> int:
    """Return the side, in pixels, of the image of a row. Raises SourceError if it is not a square."""
    height, width = read_picture(images, row).shape[:2]
    if height != width:
        raise SourceError(f"{images.uri}: {images.key(row)} is {height}x{width} pixels, and not a square")
    return int(height)


def _common_size(asked: int | None, cards: Sequence[ModelCard]) -> int:
    """Return the size in pixels that all models are evaluated at. Raises UsageError if none suits them all."""
    sizes = [card.image_size for card in cards]
    if asked is None and len(set(sizes)) > 1:
        found = ", ".join(f"{card.name} for {card.image_size}" for card in cards)
        raise UsageError(f"the models were made for different sizes ({found}); choose one with --size")
    size = asked or sizes[0]
    for card in cards:
        card.refuse_size(size)
    return size


def _open_data(request: EvalRequest, scratch: Path, progress: Progress) -> tuple[Source, str]:
    """Return the originals and their name; the sample images where none are named."""
    if request.data is not None:
        return open_source(request.data, scratch / "index", request.fields, progress), request.data
    return _sample_images(scratch)


def _sample_images(scratch: Path) -> tuple[Source, str]:
    count = write_sample_windows(scratch / "samples")
    return open_source(str(scratch / "samples"), scratch / "index"), f"the sample images ({count}; no --data was given)"


def _rows_in_common(source: Source, store: LatentStore) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of the source, ascending, and for each the store's row of that name.

    Raises SourceError if the two have none in common.
    """
    if source.fingerprint == store.spec.source.fingerprint:
        return store.ok_rows, store.ok_rows
    stored = dict(zip(store.keys(store.ok_rows.tolist()), store.ok_rows.tolist(), strict=True))
    pairs = [(row, stored[key]) for row in range(len(source)) if (key := source.key(row)) in stored]
    if not pairs:
        raise SourceError(f"{source.uri} has none of the images {store.folder.uri} was made from; name those")
    rows, store_rows = np.array(pairs).T
    return rows, store_rows


def _match_names(originals: Source, images: Source) -> dict[int, int]:
    """Return the row of each original that has a reconstruction, with the row of the reconstruction.

    A reconstruction is named as `tcae decode` names it, or like the original, or like it except for the suffix.
    Raises SourceError if two originals would share one.
    """
    by_name = {images.key(row): row for row in range(len(images))}
    by_stem = {_stem(key): row for key, row in by_name.items()}
    found = {}
    for row in range(len(originals)):
        key = originals.key(row)
        choices = (by_stem.get(str(file_name(key))), by_name.get(key), by_stem.get(_stem(key)))
        matches = [image for image in choices if image is not None]
        if matches:
            found[row] = matches[0]
    if len(set(found.values())) < len(found):
        raise SourceError(
            f"{images.uri}: some images are named after two of {originals.uri}, which differ in suffix only; "
            f"name each after the whole name, as tcae decode does: a.jpg.png"
        )
    return found


def _stem(key: str) -> str:
    return str(PurePosixPath(key).with_suffix(""))
