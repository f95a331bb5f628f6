"""Statistics of features in a file, as evaluation scripts exchange them.

Axes: d width of the features.
"""

import zipfile
from pathlib import Path

import numpy as np
import torch

from tcae_cli.errors import NotFoundError, SourceError
from tcae_cli.metrics.frechet import Gaussian


def read_statistics(path: Path, width: int) -> Gaussian:
    """The Gaussian of an .npz file with `mu` [d] and `sigma` [d, d], as pytorch-fid, ADM and DC-AE write them.

    Raises NotFoundError if it is not there, SourceError if it holds anything else or features of another width.
    """
    if not path.is_file():
        raise NotFoundError(f"--reference {path} does not exist; correct the path")
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as arrays:
            mean, covariance = (torch.from_numpy(arrays[name].astype(np.float64)) for name in ("mu", "sigma"))
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise SourceError(f"--reference {path} is not an .npz file with arrays mu and sigma of numbers") from error
    if mean.shape != (width,) or covariance.shape != (width, width):
        raise SourceError(f"--reference {path} is of {list(mean.shape)} features, not [{width}]; give another")
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise SourceError(f"--reference {path} holds values that are not numbers; make it again")
    return Gaussian(mean, covariance)
