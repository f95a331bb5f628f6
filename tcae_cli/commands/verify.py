"""`tcae verify STORE`."""

from pathlib import Path
from typing import Any

import click

from tcae_cli.commands import _options
from tcae_cli.commands._command import command, option
from tcae_cli.commands._options import IMAGES, OUTPUT
from tcae_cli.commands._run import run_job
from tcae_cli.reports.store import VerifyRequest


@command(
    "verify",
    examples=[
        ("Check the files of a store, and a sample of its rows", "tcae verify latents.zarr"),
        ("Check the files only", "tcae verify latents.zarr --rows 0"),
        ("Compare every row with the images as they are now", "tcae verify latents.zarr --source photos"),
    ],
)
@click.argument("store")
@option("--source", group=IMAGES, help="Compare every row with the images that this source holds now.")
@_options.sample_fields
@option(
    "--rows",
    "num_rows",
    type=click.IntRange(min=0),
    default=VerifyRequest.num_rows,
    show_default=True,
    metavar="N",
    group=IMAGES,
    help="Size of the sample of rows to decode and compare.",
)
@_options.decoder
@_options.device
@option(
    "--picture",
    type=click.Path(path_type=Path),
    metavar="PATH",
    group=OUTPUT,
    show_default="STORE-verify.png here or, where images of SOURCE are, beside STORE or in a temporary folder",
    help="File of the picture: originals above what their latents decode to.",
)
@_options.as_json
def verify(as_json: bool, **options: Any) -> int:
    """Check every shard of STORE, and compare a sample of its rows with their images.

    The exit code is 1 if anything is wrong. Nothing is written but the picture.
    """
    from tcae_cli.jobs.verify import verify_store

    return run_job(verify_store, VerifyRequest(**options), as_json=as_json)
