"""Cache image datasets as TC-AE latents: the public API, whose parts are imported when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcae_cli.autoencoders.by_name import load_autoencoder
    from tcae_cli.store.bucket_sampler import BucketBatchSampler
    from tcae_cli.store.classes import ConcatDataset
    from tcae_cli.store.dataset import LatentDataset
    from tcae_cli.store.reader import LatentStore
    from tcae_cli.store.stream import LatentStream

__version__ = "0.1.0"
__all__ = [
    "BucketBatchSampler",
    "ConcatDataset",
    "LatentDataset",
    "LatentStore",
    "LatentStream",
    "__version__",
    "load_autoencoder",
]

_HOMES = {
    "load_autoencoder": "tcae_cli.autoencoders.by_name",
    "BucketBatchSampler": "tcae_cli.store.bucket_sampler",
    "ConcatDataset": "tcae_cli.store.classes",
    "LatentDataset": "tcae_cli.store.dataset",
    "LatentStore": "tcae_cli.store.reader",
    "LatentStream": "tcae_cli.store.stream",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tcae_cli' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
