"""Shows what a dry run found: the work, the time, the memory and the disk that a command would take."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tcae_cli.evaluation.metrics.figure import in_thousands
from tcae_cli.reports.encode_plan import EncodePlan
from tcae_cli.reports.report import Span
from tcae_cli.reports.train_plan import TrainPlan
from tcae_cli.terminal.words import data_size, duration

_ALIKE = 1.02  # the highest over the lowest of figures that are shown as one


def show_training_plan(console: Console, plan: TrainPlan) -> None:
    """Print what a run of training would do and take."""
    console.print(f"{plan.run}: a dry run, nothing is written")
    _show(console, [*_training_work(plan), *_training_cost(plan)], plan.missing)


def _training_work(plan: TrainPlan) -> list[tuple[str, str]]:
    done = f", {plan.first_step:,} of them done" if plan.first_step else ""
    num_images = "an unknown number of" if plan.num_images is None else f"{plan.num_images:,}"
    epochs = "" if plan.epochs is None else f", {plan.epochs:,.1f} epochs"
    share = f"{plan.batch_size:,} images a step, {plan.micro_batch:,} at a time on {_ranks(plan.num_ranks)}"
    game = f", {in_thousands(plan.game_macs)} more with the discriminator" if plan.game_macs else ""
    macs = (
        f"{in_thousands(plan.encode_macs)} an image to encode, {in_thousands(plan.decode_macs)} to decode, "
        f"{in_thousands(plan.step_macs)} to train on{game}"
    )
    return [
        ("images", f"{num_images} images{f' of {plan.data}' if plan.data else ''}{epochs}"),
        ("steps", f"{plan.steps:,}{done}, {share}"),
        (
            "parameters",
            f"{in_thousands(plan.parameters)} of the autoencoder; {in_thousands(plan.trained_parameters)} learn",
        ),
        ("MACs", macs),
    ]


def _training_cost(plan: TrainPlan) -> list[tuple[str, str]]:
    memory = f"{data_size(plan.memory_bytes)} of tensors at most; {data_size(plan.device_bytes)} on {plan.device}"
    basis = f"measured on {plan.pace_basis}, on {plan.device}; without checkpoints and validation"
    reading = "not measured" if plan.read_images_per_s is None else f"{plan.read_images_per_s:,.1f} images/s"
    disk = f"{data_size(plan.checkpoint_bytes)} a checkpoint, {data_size(plan.disk_bytes)} while it is replaced"
    return [
        ("memory", f"{memory}, counted on one micro-batch without values"),
        ("time", f"{_times(plan.seconds)}, {_times(plan.seconds_per_step)} a step{_ideal(plan.num_ranks)}"),
        ("", basis),
        ("reading", reading),
        ("disk", f"{disk}, in about {plan.num_files:,} files; {data_size(plan.free_bytes)} free"),
    ]


def show_encoding_plan(console: Console, plan: EncodePlan) -> None:
    """Print what encoding would do and take."""
    console.print(f"{plan.store}: a dry run, nothing is written")
    found = plan.rehearsal
    done = plan.num_rows - plan.num_rows_left
    rows = f"{plan.num_rows:,}" + (f", {done:,} of them done" if done else "")
    failed = f", {found.num_failed:,} failed" if found.num_failed else ""
    stages = ", ".join(f"{name} {seconds:,.1f} s" for name, seconds in found.stage_seconds.items())
    speed = found.images_per_s
    lines = [
        ("images", f"{plan.num_images:,} of {plan.source}"),
        ("rows", f"{rows}; {plan.num_shards:,} shards of {plan.rows_per_shard:,} rows in the store"),
        (
            "model",
            f"{plan.model} ({plan.encoder_hash[:12]}), {in_thousands(plan.encoder_parameters)} parameters encode",
        ),
        ("MACs", f"{in_thousands(plan.encode_macs)} an image"),
        ("memory", _memory(plan)),
        ("time", "nothing to do" if plan.seconds is None else f"{_times(plan.seconds)}{_ideal(plan.num_ranks)}"),
        (
            "",
            f"{speed.median:,.1f} images/s ({speed.lowest:,.1f} to {speed.highest:,.1f}) of one rank, measured on "
            f"{found.num_images:,} images{failed}, in batches of {found.batch_size:,}, on {plan.device}",
        ),
        ("stages", f"{stages}; slowest: {plan.slowest_stage}"),
        ("disk", _disk(plan)),
    ]
    _show(console, lines, plan.missing)


def _memory(plan: EncodePlan) -> str:
    taken = plan.rehearsal.memory_bytes
    words = "not measured" if taken is None else f"{data_size(taken)} of a rank without its decoding processes"
    return f"{words}; {data_size(plan.device_bytes)} on {plan.device}"


def _disk(plan: EncodePlan) -> str:
    free = "in an object store" if plan.free_bytes is None else f"{data_size(plan.free_bytes)} free"
    left = f", {data_size(plan.bytes_left)} of it still to write" if plan.num_rows_left < plan.num_rows else ""
    return f"{data_size(plan.store_bytes)} in about {plan.num_files:,} files{left}; {free}"


def _ideal(num_ranks: int) -> str:
    return f", one rank's divided by {num_ranks:,}" if num_ranks > 1 else ""


def _show(console: Console, lines: list[tuple[str, str]], missing: list[str]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, words in lines:
        table.add_row(name, Text(words))
    console.print(table)
    for sentence in missing:
        console.print(f"missing: {sentence}")


def _ranks(count: int) -> str:
    return "one rank" if count == 1 else f"each of {count:,} ranks"


def _times(span: Span) -> str:
    if span.highest <= _ALIKE * span.lowest:
        return duration(span.median)
    return f"{duration(span.median)} ({duration(span.lowest)} to {duration(span.highest)})"
