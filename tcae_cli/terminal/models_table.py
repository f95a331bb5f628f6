"""Shows the reports of `tcae models`."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tcae_cli.reports.models import CardReport, ModelsReport


def show_models(console: Console, report: ModelsReport) -> None:
    """Print each family, and a row for each of its models."""
    for number, family in enumerate(report.families):
        console.print(("\n" if number else "") + family.about)
        table = Table("model", "channels", "downsampling", "parameters", "licence", "weights", box=None, pad_edge=False)
        for model in family.models:
            parameters = f"{model.num_parameters / 1e6:,.1f} M"
            where = Text(model.path or "not cached")
            table.add_row(
                Text(model.name), f"{model.channels}", f"{model.downsampling}", parameters, model.licence, where
            )
        console.print(table)


def show_card(console: Console, report: CardReport) -> None:
    """Print what is known of a model without its weights."""
    alone = " alone" if report.is_of_one_size else ""
    takes = report.generators_take or "what is not known; normalise by the statistics of the store"
    lines = {
        "encoder": report.encoder_hash,
        "latents": f"{report.channels} channels, a position for {report.downsampling} x {report.downsampling} pixels",
        "images": f"{report.image_size} px{alone}",
        "generators": f"take {takes}",
    }
    if report.has_posterior:
        lines["posterior"] = "latents are means of a distribution, whose deviations --posterior stores"
    if report.num_parameters is not None:
        lines["parameters"] = f"{report.num_parameters / 1e6:,.1f} M"
    if report.overflows_in_half:
        lines["precision"] = "overflows in float16; encoded in bf16 or float32"
    if "class" in report.spec:
        lines["class"] = f"{report.spec['class']} of {report.spec['library']}"
    console.print(report.name)
    table = Table.grid(padding=(0, 2))
    for name, words in lines.items():
        table.add_row(name, Text(words))
    console.print(table)
