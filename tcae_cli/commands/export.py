"""`tcae export STORE TARGET --format F`."""

from typing import Any

import click

from tcae_cli.commands import _options
from tcae_cli.commands._command import NameIn, command, option
from tcae_cli.commands._options import OUTPUT, STORE
from tcae_cli.commands._run import run_job
from tcae_cli.exports.registry import FORMATS
from tcae_cli.reports.export import ExportRequest


class Scale(click.ParamType):
    """A number, or `model`."""

    name = "scale"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        return "model" if value == "model" else click.FLOAT.convert(value, param, ctx)


@command(
    "export",
    examples=[
        ("Write one memory-mapped array", "tcae export latents.zarr array --format npy"),
        ("Write what EDM2 trains on, in one zip", "tcae export latents.zarr latents.zip --format edm2"),
        (
            "Write class folders for DC-AE's trainers, scaled",
            "tcae export latents.zarr folders --format dc-ae --scale 0.5",
        ),
    ],
)
@click.argument("store")
@click.argument("target")
@option(
    "--view",
    default=ExportRequest.view,
    show_default=True,
    group=STORE,
    help="View to export, such as latents_512.",
)
@option(
    "--format",
    required=True,
    type=NameIn(FORMATS),
    group=OUTPUT,
    help="Format of the files, by the trainer that reads them.",
)
@option(
    "--scale",
    type=Scale(),
    metavar="S",
    group=OUTPUT,
    show_default="1 / std over the store",
    help="Number that raw latents are multiplied by, for trainers that take values as they are; model: as the model's "
    "own generators take them.",
)
@_options.as_json
def export(as_json: bool, **options: Any) -> int:
    """Write the latents of STORE to TARGET as another trainer reads them; repeat the command to resume.

    TARGET is a folder, or a .zip for edm2. Its tcae_export.json says what the files hold and where they came from.
    """
    request = ExportRequest(**options)
    from tcae_cli.jobs.export import export_store

    return run_job(export_store, request, as_json=as_json)
