"""Statistics of the originals' features, kept on this machine for the next evaluation of the same images."""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tcae_cli import __version__
from tcae_cli.errors import DiskError
from tcae_cli.evaluation.measures import Reference
from tcae_cli.evaluation.subject import Originals
from tcae_cli.evaluation.viewer import See, Seen, Viewer
from tcae_cli.metrics.frechet import Gaussian
from tcae_cli.runtime import distributed
from tcae_cli.runtime.files import cache_folder, make_folder, write_atomic
from tcae_cli.runtime.process_group import add_over_ranks, sum_over_ranks


@dataclass(frozen=True)
class Kept:
    """Statistics of some images' features, and the digest of those images."""

    gaussian: Gaussian
    digest: str


def show_to_references(viewer: Viewer, originals: Originals, references: Sequence[Reference], see: See) -> Seen:
    """Show the originals to `see`, and to those references whose statistics of these images were not kept.

    Where the images turn out to be others than the last time, they are shown once more.
    """
    unknown = [reference for reference in references if reference.known is None]
    keys = [_key(viewer, originals, reference) if distributed.rank() == 0 else "" for reference in unknown]
    kept = [_recall(key, reference) for key, reference in zip(keys, unknown, strict=True)]

    def see_all(positions: Tensor, images: Tensor) -> None:
        for reference in unknown:
            reference.add(images)
        see(positions, images)

    seen = viewer.show("evaluate", originals, see_all)
    for key, reference, found in zip(keys, unknown, kept, strict=True):
        if found is not None and _is_of_other_images(found, seen):
            _measure_again(viewer, originals, reference)
        if reference.known is None:
            _add_up_and_keep(viewer, key, reference, seen)
    return seen


def _recall(key: str, reference: Reference) -> Kept | None:
    """What the first rank has kept of these images, on all ranks; the reference then needs to see none of them."""
    kept = _find(key) if distributed.rank() == 0 else None
    if not sum_over_ranks(int(kept is not None)):
        return None
    known = kept.gaussian if kept else Gaussian(*(torch.zeros_like(t) for t in reference.sums.tensors()[1:]))
    add_over_ranks([known.mean, known.covariance])
    reference.known = known
    return kept or Kept(known, "")


def _is_of_other_images(kept: Kept, seen: Seen) -> bool:
    """On all ranks, what the first finds."""
    return bool(sum_over_ranks(int(distributed.rank() == 0 and kept.digest != _digest(seen))))


def _measure_again(viewer: Viewer, originals: Originals, reference: Reference) -> None:
    viewer.progress.say("the originals have changed since their statistics were kept; measuring them again")
    reference.known = None
    viewer.show("originals", originals, lambda _positions, images: reference.add(images))


def _add_up_and_keep(viewer: Viewer, key: str, reference: Reference, seen: Seen) -> None:
    """Add up what ranks have seen, and keep it for the next time."""
    add_over_ranks(reference.sums.tensors())
    if distributed.rank() == 0 and seen.num_good > 1:
        try:
            _keep(key, Kept(reference.gaussian(), _digest(seen)))
        except DiskError as error:
            viewer.progress.say(f"the originals' statistics are not kept for the next time: {error}")


def _key(viewer: Viewer, originals: Originals, reference: Reference) -> str:
    """What statistics depend on, but for the images' contents: their names and sizes, the crop and the network."""
    crop = [__version__, originals.source.fingerprint, originals.resize, viewer.size]
    digest = hashlib.sha256(json.dumps(crop).encode() + originals.rows.tobytes())
    for name, tensor in sorted(reference.network.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest(seen: Seen) -> str:
    """Of the contents of the images that were seen, in hex."""
    return hashlib.sha256(seen.content_hashes.numpy().tobytes() + seen.good.numpy().tobytes()).hexdigest()


def _find(key: str) -> Kept | None:
    """What was kept under that key on this machine; None if there is nothing, or a damaged file."""
    try:
        with np.load(_path(key), allow_pickle=False) as arrays:
            mean, covariance = torch.from_numpy(arrays["mu"]), torch.from_numpy(arrays["sigma"])
            return Kept(Gaussian(mean, covariance), str(arrays["digest"]))
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile):
        return None


def _keep(key: str, kept: Kept) -> None:
    file = io.BytesIO()
    gaussian = kept.gaussian
    np.savez(file, mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy(), digest=np.array(kept.digest))
    make_folder(_path(key).parent)
    write_atomic(_path(key), file.getvalue())


def _path(key: str) -> Path:
    return cache_folder() / "references" / f"{key[:32]}.npz"
