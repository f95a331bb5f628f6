"""`tcae weights`: lists the files of pretrained weights, and fetches those that no cache holds."""

from difflib import get_close_matches
from pathlib import Path

from tcae_cli.errors import UsageError
from tcae_cli.features.dino import load_dino
from tcae_cli.features.published import FILES, PublishedFile
from tcae_cli.features.weights import find_cached, hub_cache, weights_path
from tcae_cli.reports.progress import Progress
from tcae_cli.reports.weights import WeightsFile, WeightsReport, WeightsRequest


def list_weights(request: WeightsRequest, _: Progress) -> WeightsReport:
    """List the weights of the networks named, or of all, and fetch what is missing if that is asked for.

    Raises UsageError for a name that is none, and WeightsError for a file that cannot be fetched.
    """
    for name in request.names:
        if name not in FILES:
            close = get_close_matches(name, FILES, n=1)
            advice = f"did you mean {close[0]}?" if close else f"use some of {', '.join(FILES)}"
            raise UsageError(f"{name} is no pretrained network; {advice}")
    files = [FILES[name] for name in dict.fromkeys(request.names or FILES)]
    if request.fetch:
        for file in files:
            _fetch(file)
    return WeightsReport(folder=str(hub_cache("")), files=[_describe(file, find_cached(file)) for file in files])


def _fetch(file: PublishedFile) -> None:
    if file.sha256:
        weights_path(file.name, None, instead="repeat this command later")
    else:
        load_dino(file.name)  # which checks the tensors


def _describe(file: PublishedFile, path: Path | None) -> WeightsFile:
    return WeightsFile(
        name=file.name,
        used_for=file.used_for,
        licence=file.licence,
        file=file.file,
        url=file.url,
        size_bytes=path.stat().st_size if path else file.size_bytes,
        sha256=file.sha256,
        shipped=file.shipped,
        path=str(path) if path else None,
    )
