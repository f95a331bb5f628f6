"""What candidates are compared with: statistics of a network's features of the originals, or those in a file.

Statistics of the originals are kept on this machine for the next evaluation of the same images.
Axes: b images, d width of the features.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tcae_cli import __version__
from tcae_cli.errors import DiskError, NotFoundError, SourceError
from tcae_cli.evaluation.subject import Originals
from tcae_cli.evaluation.viewer import See, Seen, Viewer
from tcae_cli.metrics.frechet import FeatureSums, Gaussian
from tcae_cli.runtime import distributed
from tcae_cli.runtime.files import cache_folder, make_folder, write_atomic
from tcae_cli.runtime.process_group import add_over_ranks, sum_over_ranks

_UNREADABLE = (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile)  # as numpy refuses a damaged file


class FeatureNetwork(Protocol):
    """A frozen network: uint8 images [b, 3, h, w] to features [b, width], float32."""

    width: int

    def __call__(self, images: Tensor) -> Tensor: ...
    def state_dict(self) -> dict[str, Tensor]: ...


class Reference:
    """Statistics of a network's features of some images, which are added batch by batch unless they are known."""

    def __init__(self, network: FeatureNetwork, known: Gaussian | None = None) -> None:
        """known: statistics from elsewhere, to which no image is added."""
        self.network = network
        self.known = known
        self.sums = FeatureSums.zero(network.width)

    def add(self, originals: Tensor) -> None:
        """Count images, uint8, [b, 3, h, w]."""
        if self.known is None:
            self.sums.add(self.network(originals))

    def gaussian(self) -> Gaussian:
        """Return the statistics of all images, once the sums are those of all ranks."""
        return self.known or self.sums.gaussian()


def read_statistics(path: Path, width: int) -> Gaussian:
    """Return the Gaussian of an .npz file with `mu` [d] and `sigma` [d, d], as pytorch-fid, ADM and DC-AE write them.

    Raises NotFoundError if the file does not exist, SourceError if it holds anything else or features of another width.
    """
    if not path.is_file():
        raise NotFoundError(f"--reference {path} does not exist; correct the path")
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as arrays:
            mean, covariance = (torch.from_numpy(arrays[name].astype(np.float64)) for name in ("mu", "sigma"))
    except _UNREADABLE as error:
        raise SourceError(f"--reference {path} is not an .npz file with arrays mu and sigma of numbers") from error
    if mean.shape != (width,) or covariance.shape != (width, width):
        raise SourceError(f"--reference {path} is of {list(mean.shape)} features, not [{width}]; give another")
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise SourceError(f"--reference {path} holds values that are not numbers; make it again")
    return Gaussian(mean, covariance)


def show_to_references(viewer: Viewer, originals: Originals, references: Sequence[Reference], see: See) -> Seen:
    """Show the originals to `see`, and to those references whose statistics of these images were not kept.

    If the images turn out to differ from those that statistics were kept of, they are shown once more.
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
        # Every rank does what the first one finds, which alone has read what was kept.
        changed = found is not None and distributed.rank() == 0 and found.digest != _digest(seen)
        if found is not None and sum_over_ranks(int(changed)):
            _measure_again(viewer, originals, reference)
        if reference.known is None:
            _add_up_and_keep(viewer, key, reference, seen)
    return seen


@dataclass(frozen=True)
class _Kept:
    """Statistics of some images' features, and the digest of those images."""

    gaussian: Gaussian
    digest: str


def _recall(key: str, reference: Reference) -> _Kept | None:
    """Return what the first rank has kept of these images, on all ranks; the reference then knows it."""
    kept = _find(key) if distributed.rank() == 0 else None
    if not sum_over_ranks(int(kept is not None)):
        return None
    known = kept.gaussian if kept else Gaussian(*(torch.zeros_like(t) for t in reference.sums.tensors()[1:]))
    add_over_ranks([known.mean, known.covariance])
    reference.known = known
    return kept or _Kept(known, "")


def _measure_again(viewer: Viewer, originals: Originals, reference: Reference) -> None:
    viewer.progress.say("the originals have changed since their statistics were kept; measuring them again")
    reference.known = None
    viewer.show("originals", originals, lambda _positions, images: reference.add(images))


def _add_up_and_keep(viewer: Viewer, key: str, reference: Reference, seen: Seen) -> None:
    """Sum what the ranks have counted, and keep it for the next evaluation."""
    add_over_ranks(reference.sums.tensors())
    if distributed.rank() == 0 and seen.num_good > 1:
        try:
            _keep(key, _Kept(reference.gaussian(), _digest(seen)))
        except DiskError as error:
            viewer.progress.say(f"the originals' statistics are not kept for the next time: {error}")


def _key(viewer: Viewer, originals: Originals, reference: Reference) -> str:
    """Return a hash of what statistics depend on except the images' contents.

    That is the version of this package, the images' names and sizes, the crop, and the network.
    """
    crop = [__version__, originals.source.fingerprint, originals.resize, viewer.size]
    digest = hashlib.sha256(json.dumps(crop).encode() + originals.rows.tobytes())
    for name, tensor in sorted(reference.network.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest(seen: Seen) -> str:
    """Return a hash of the contents of the images that were seen, in hex."""
    return hashlib.sha256(seen.content_hashes.numpy().tobytes() + seen.good.numpy().tobytes()).hexdigest()


def _find(key: str) -> _Kept | None:
    """Return what this machine keeps under that key; None if there is nothing, or a damaged file."""
    try:
        with np.load(_path(key), allow_pickle=False) as arrays:
            mean, covariance = torch.from_numpy(arrays["mu"]), torch.from_numpy(arrays["sigma"])
            return _Kept(Gaussian(mean, covariance), str(arrays["digest"]))
    except _UNREADABLE:
        return None


def _keep(key: str, kept: _Kept) -> None:
    file = io.BytesIO()
    gaussian = kept.gaussian
    np.savez(file, mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy(), digest=np.array(kept.digest))
    make_folder(_path(key).parent)
    write_atomic(_path(key), file.getvalue())


def _path(key: str) -> Path:
    return cache_folder() / "references" / f"{key[:32]}.npz"
