"""`tcae encode-dataset SOURCE STORE`."""

from typing import Any, get_args

import click

from tcae_cli.commands import _options
from tcae_cli.commands._command import NameIn, command, option
from tcae_cli.commands._options import IMAGES, MODEL, PROCESSES, STORE, Gpus
from tcae_cli.commands._run import num_ranks, run_job, run_job_on_gpus
from tcae_cli.errors import UsageError
from tcae_cli.recipe.choices import Decode, LatentDtype, Resize
from tcae_cli.reports.encode import EncodeRequest
from tcae_cli.reports.encode_plan import EncodePlanRequest
from tcae_cli.store.codecs.registry import CODECS


@command(
    "encode-dataset",
    examples=[
        ("Encode a folder of images with the built-in model", "tcae encode-dataset photos latents.zarr"),
        (
            "Encode a dataset of the Hugging Face Hub on 8 GPUs, mirrored too",
            'tcae encode-dataset "hf://datasets/org/name#train" latents.zarr --model runs/mine --gpus 8 --flip',
        ),
        ("Add the images that are new since then", "tcae encode-dataset photos latents.zarr --append"),
    ],
)
@click.argument("source")
@click.argument("store")
@option(
    "--model",
    default=EncodeRequest.model,
    show_default=True,
    group=MODEL,
    help="Model to encode with: a file, a run folder, hf://org/name, diffusers:org/name or a built-in name.",
)
@_options.precision(EncodeRequest.precision)
@option(
    "--compile/--no-compile",
    default=EncodeRequest.compile,
    show_default="as the store was begun; in a new one, on a GPU",
    group=MODEL,
    help="Compile the encoder's blocks: faster on a GPU, after a slower start.",
)
@option(
    "--strict",
    is_flag=True,
    group=MODEL,
    help="Refuse to resume compiled encoding on another GPU model or with other library versions.",
)
@option(
    "--size",
    "sizes",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="PIXELS",
    group=IMAGES,
    show_default="the model's",
    help="Side of the square to encode; may be repeated, for a view of each size.",
)
@option(
    "--buckets",
    is_flag=True,
    group=IMAGES,
    help="Encode each image in a shape near its own, of at most --size squared pixels, rather than a square of it.",
)
@option(
    "--bucket-step",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    default=EncodeRequest.bucket_step,
    show_default="64, or the model's downsampling if larger",
    group=IMAGES,
    help="With --buckets: heights and widths are multiples of this.",
)
@option(
    "--max-aspect",
    type=click.FloatRange(min=1),
    default=EncodeRequest.max_aspect,
    show_default=True,
    group=IMAGES,
    help="With --buckets: the longest side of a bucket over its shortest, at most.",
)
@option("--flip", is_flag=True, group=IMAGES, help="Encode the mirrored images too.")
@option(
    "--posterior",
    is_flag=True,
    group=MODEL,
    help="Store the deviations of the model's latents too, so that trainers draw from its posterior.",
)
@option(
    "--resize",
    type=click.Choice(get_args(Resize)),
    default=EncodeRequest.resize,
    show_default=True,
    group=IMAGES,
    help="How images are resized: torch is fast, adm is the crop of published evaluations.",
)
@option(
    "--decode",
    type=click.Choice(get_args(Decode)),
    default=EncodeRequest.decode,
    show_default="as the store was begun; draft in a new one",
    group=IMAGES,
    help="How large JPEGs are decoded: draft scales them down while decoding, to at least twice --size.",
)
@option(
    "--min-size",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    default=EncodeRequest.min_size,
    show_default="any",
    group=IMAGES,
    help="Leave out images with a shorter side than this; they are listed apart from failures.",
)
@_options.sample_fields
@option(
    "--classes",
    metavar="FILE|STORE",
    default=EncodeRequest.classes,
    group=IMAGES,
    show_default="the classes of SOURCE, by sorted name",
    help="Number the classes as in a file of one name a line, a JSON list, or another store.",
)
@_options.max_failures(EncodeRequest.max_failures)
@option("--retry-failed", is_flag=True, group=IMAGES, help="Try the failed rows again.")
@option("--append", is_flag=True, group=STORE, help="Add rows for images that are new in SOURCE.")
@option(
    "--update-metadata",
    is_flag=True,
    group=STORE,
    help="Bring labels and captions up to date with SOURCE, and encode nothing.",
)
@option(
    "--dtype",
    type=click.Choice(get_args(LatentDtype)),
    default=EncodeRequest.dtype,
    show_default=True,
    group=STORE,
    help="Type that latents are stored as; int8 has a scale for each channel.",
)
@option(
    "--codec",
    type=NameIn(CODECS),
    default=EncodeRequest.codec,
    show_default=True,
    group=STORE,
    help="How latents are compressed.",
)
@_options.gpus
@_options.device
@_options.batch_size(EncodeRequest.batch_size)
@_options.workers(EncodeRequest.num_workers)
@option(
    "--num-parts",
    type=click.IntRange(min=1),
    default=EncodeRequest.num_parts,
    show_default=True,
    metavar="N",
    group=PROCESSES,
    help="Divide the work among N separate commands.",
)
@option(
    "--part",
    type=click.IntRange(min=0),
    default=EncodeRequest.part,
    show_default=True,
    metavar="P",
    group=PROCESSES,
    help="Number of this part, counted from 0.",
)
@_options.dry_run
@_options.as_json
def encode_dataset(gpus: Gpus, dry_run: bool, as_json: bool, **options: Any) -> int:
    """Encode SOURCE into the Zarr store STORE; repeat the command to resume where it stopped.

    SOURCE is a folder of images, tar shards like "shards/{000..127}.tar", zip archives, Parquet files, a list (.txt,
    .csv, .tsv, .jsonl), a folder written by save_to_disk, or a dataset of the Hugging Face Hub like
    "hf://datasets/org/name#train"; it may be local, or at s3://, gs://, hf:// or https://. STORE is a local path, or at
    s3:// or gs://.
    """
    request = EncodeRequest(**options)
    if request.update_metadata:
        if dry_run:
            raise UsageError(
                "--update-metadata has no dry run; tcae verify STORE --source SOURCE lists what has changed"
            )
        from tcae_cli.jobs.update_metadata import update_store

        return run_job(update_store, request, as_json=as_json)
    if dry_run:
        from tcae_cli.jobs.plan_encode import plan_encoding

        plan = EncodePlanRequest(encode=request, num_ranks=num_ranks(gpus, request.device))
        return run_job(plan_encoding, plan, as_json=as_json)
    from tcae_cli.jobs.encode import encode_dataset as job

    return run_job_on_gpus(job, request, gpus, as_json=as_json)
