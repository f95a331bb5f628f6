"""`tcae decode STORE OUT_DIR`."""

from pathlib import Path
from typing import Any, get_args

import click

from tcae_cli.commands import _options
from tcae_cli.commands._run import run_job
from tcae_cli.recipe.choices import ImageFormat
from tcae_cli.reports.decode import DecodeRequest


@click.command()
@click.argument("store")
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option("--model", help="Model to decode with.  [default: the one the store was made with]")
@click.option("--view", default="latents", show_default=True, help="Which latents: latents_flip, latents_512, ...")
@click.option("--rows", metavar="A:B", help="Rows to decode: 7, 0:100, 100: or :100.  [default: all]")
@click.option("--format", type=click.Choice(get_args(ImageFormat)), default="png", show_default=True)
@click.option(
    "--grid", type=click.IntRange(min=0), default=0, metavar="N", help="Draw N originals above reconstructions."
)
@click.option("--force", is_flag=True, help="Decode with a model whose encoder did not make these latents.")
@_options.device
@_options.as_json
def decode(as_json: bool, **options: Any) -> int:
    """Decode the latents of STORE into OUT_DIR, a file a row, named after its key."""
    request = DecodeRequest(**options)
    from tcae_cli.jobs.decode import decode_store

    return run_job(decode_store, request, as_json=as_json)
