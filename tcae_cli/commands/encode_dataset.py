"""`tcae encode-dataset SOURCE STORE`."""

from typing import Any, get_args

import click

from tcae_cli.commands import _options
from tcae_cli.commands._run import run_job
from tcae_cli.recipe.choices import LatentDtype, Precision, Resize
from tcae_cli.reports.encode import EncodeReport, EncodeRequest
from tcae_cli.reports.report import Tolerance


@click.command("encode-dataset")
@click.argument("source")
@click.argument("store")
@click.option(
    "--model",
    default="tcae-tiny",
    show_default=True,
    help="File, run folder, hf://org/name, diffusers:org/name or built-in name.",
)
@_options.gpus
@_options.device
@click.option("--precision", type=click.Choice(get_args(Precision)), help="[default: bf16 on a GPU, fp32 on the CPU]")
@_options.batch_size
@_options.workers
@click.option(
    "--size",
    "sizes",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="PIXELS",
    help="Square to encode; repeat for more views of each image.  [default: the model's]",
)
@click.option("--flip", is_flag=True, help="Encode the mirrored images too.")
@click.option("--resize", type=click.Choice(get_args(Resize)), default="torch", show_default=True)
@click.option("--dtype", type=click.Choice(get_args(LatentDtype)), default="float16", show_default=True)
@click.option("--codec", type=click.Choice(["zstd", "none", "lz4-bitshuffle"]), default="zstd", show_default=True)
@click.option("--append", is_flag=True, help="Add rows for images that are new in SOURCE.")
@click.option("--retry-failed", is_flag=True, help="Try the failed rows again.")
@_options.max_failures
@click.option(
    "--num-parts", type=click.IntRange(min=1), default=1, metavar="N", help="Split the work among N separate commands."
)
@click.option("--part", type=click.IntRange(min=0), default=0, metavar="P", help="Which of them this is, from 0.")
@_options.as_json
def encode_dataset(gpus: int | None, max_failures: str, as_json: bool, **options: Any) -> int:
    """Encode SOURCE into the Zarr store STORE; repeat the command to go on where it stopped.

    SOURCE is a folder of images, tar shards like "shards/{000..127}.tar", or a text file with an image a line: here, or
    at s3://, gs://, hf:// or https://. STORE is a path here, or at s3:// or gs://.
    """
    request = EncodeRequest(max_failures=Tolerance.parse(max_failures), **options)
    from tcae_cli.jobs.encode import encode_dataset as job

    if gpus is None:
        return run_job(job, request, as_json=as_json)
    from tcae_cli.runtime.launch import on_gpus

    return run_job(on_gpus(job, EncodeReport.of_ranks, gpus, request.device), request, as_json=as_json)
