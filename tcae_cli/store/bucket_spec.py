"""The spec of a bucket: that of its store, for the images of one shape."""

import numpy as np

from tcae_cli.store.spec import SourceIdentity, StoreSpec, rows_per_shard


def bucket_spec(root: StoreSpec, name: str, source: SourceIdentity) -> StoreSpec:
    """Return the spec of a bucket of a store; source: the part of the store's source that its rows are of."""
    height, width = bucket_shape(name)
    f = root.latent.downsampling
    views = {
        name: view.model_copy(update={"height": height // f, "width": width // f}) for name, view in root.views.items()
    }
    values = root.latent.channels * (height // f) * (width // f)
    rows = rows_per_shard(source.count, values * np.dtype(root.dtype).itemsize)
    compute = root.compute.model_copy(update={"batch_size": min(root.compute.batch_size, rows)})
    changes = {"views": views, "source": source, "rows_per_shard": rows, "compute": compute, "buckets": None}
    return root.model_copy(update=changes)


def bucket_name(shape: tuple[int, int]) -> str:
    """Return the name of the bucket of images of this height and width, in pixels."""
    return "{}x{}".format(*shape)


def bucket_shape(name: str) -> tuple[int, int]:
    """Return the height and width, in pixels, of a bucket of this name."""
    height, width = map(int, name.split("x"))
    return height, width
