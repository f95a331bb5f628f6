"""`tcae decode STORE OUT_DIR`."""

from pathlib import Path
from typing import Any, get_args

import click

from tcae_cli.commands import _options
from tcae_cli.commands._command import command, option
from tcae_cli.commands._options import MODEL, OUTPUT, STORE
from tcae_cli.commands._run import run_job
from tcae_cli.recipe.choices import ImageFormat
from tcae_cli.reports.decode import DecodeRequest


@command(
    "decode",
    examples=[
        ("Decode every row to a PNG", "tcae decode latents.zarr reconstructions"),
        (
            "Decode the first hundred rows to WebP",
            "tcae decode latents.zarr reconstructions --rows 0:100 --format webp",
        ),
        ("Draw 16 originals above their reconstructions", "tcae decode latents.zarr reconstructions --grid 16"),
    ],
)
@click.argument("store")
@click.argument("out_dir", type=click.Path(path_type=Path))
@option(
    "--view",
    default=DecodeRequest.view,
    show_default=True,
    group=STORE,
    help="View to decode, such as latents_flip or latents_512.",
)
@option("--rows", metavar="A:B", group=STORE, show_default="all", help="Rows to decode: 7, 0:100, 100: or :100.")
@_options.decoder
@_options.precision(DecodeRequest.precision)
@option("--force", is_flag=True, group=MODEL, help="Decode even if the model's encoder did not make these latents.")
@option(
    "--format",
    type=click.Choice(get_args(ImageFormat)),
    default=DecodeRequest.format,
    show_default=True,
    group=OUTPUT,
    help="Format of the image files.",
)
@option(
    "--grid",
    type=click.IntRange(min=0),
    default=DecodeRequest.grid,
    metavar="N",
    group=OUTPUT,
    help="Also draw N originals above their reconstructions, in one picture.",
)
@_options.device
@_options.as_json
def decode(as_json: bool, **options: Any) -> int:
    """Decode the latents of STORE into OUT_DIR, one image file for each row, named after its key."""
    request = DecodeRequest(**options)
    from tcae_cli.jobs.decode import decode_store

    return run_job(decode_store, request, as_json=as_json)
