"""Shows the reports of `tcae info` and `tcae verify`, each on one screen."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tcae_cli.reports.described import described_words
from tcae_cli.reports.failure import apart_words
from tcae_cli.reports.store import InfoReport, VerifyReport
from tcae_cli.terminal.words import data_size

_CLASSES_SHOWN = 4
_RECORDS_SHOWN = 10


def show_info(console: Console, report: InfoReport) -> None:
    """Print the description of a store."""
    state = "complete" if report.complete else "incomplete; repeat tcae encode-dataset to resume"
    console.print(f"{report.store}: {state}")
    table = Table.grid(padding=(0, 2))
    for name, words in [
        *_progress(report),
        *_contents(report),
        *_figures(report),
        ("duplicates", _duplicates(report)),
        ("failures", ", ".join(f"{count:,} in {stage}" for stage, count in report.failures_by_stage.items()) or "none"),
    ]:
        table.add_row(name, Text(words))
    console.print(table)
    if report.buckets:
        console.print(_buckets(report))
    if report.failures:
        failures = Table("failed", "stage", "reason", box=None, pad_edge=False)
        for failure in report.failures:
            failures.add_row(Text(failure.path), failure.stage, Text(failure.error))
        console.print(failures)
        if report.rows["failed"] > len(report.failures):
            where = f"{report.store}/buckets/*/failures" if report.buckets else f"{report.store}/failures"
            console.print(f"and {report.rows['failed'] - len(report.failures):,} more, in {where}")


def _buckets(report: InfoReport) -> Table:
    table = Table("bucket", box=None, pad_edge=False)
    for name in ("rows", "share", "failed", "pending", "latents"):
        table.add_column(name, justify="right")
    for bucket in report.buckets:
        counts = (f"{bucket[name]:,}" for name in ("failed", "pending"))
        share = f"{bucket['share']:.1%}"
        table.add_row(bucket["name"], f"{bucket['num_rows']:,}", share, *counts, Text(str(bucket["shape"])))
    return table


def _progress(report: InfoReport) -> list[tuple[str, str]]:
    rows = report.rows
    again = rows["encoded_again_in_float32"]
    words = f"{report.num_rows:,}: {rows['ok']:,} ok, {rows['failed']:,} failed, {rows['pending']:,} pending"
    shards = f"{report.num_shards_committed:,} of {report.num_shards:,} committed"
    shards += f", {report.rows_per_shard:,} rows each" if not report.buckets else ""
    lines = [
        ("rows", words + (f"; {again:,} encoded again in float32" if again else "")),
        ("shards", shards),
    ]
    lines += apart_words(report.num_repaired, report.num_too_small).items()
    if report.num_shards_damaged:
        lines.append(("damaged", f"{report.num_shards_damaged:,} shards have lost files; tcae verify names them"))
    for claim in report.writers:
        lines.append(("writing now", f"process {claim['pid']} on {claim['host']}, seen {claim['silence_s']:.0f} s ago"))
    return lines


def _contents(report: InfoReport) -> list[tuple[str, str]]:
    encoder, source, compute = report.encoder, report.source, report.compute
    views = [_view_words(name, view, in_buckets=bool(report.buckets)) for name, view in report.views.items()]
    takes = f"; raw, generators take {report.generators_take}" if report.generators_take else ""
    steps = encoder["recipe"].get("train", {}).get("steps")
    names = source["class_names"]
    classes = f", {len(names):,} classes ({_some(names, _CLASSES_SHOWN)})" if names else ""
    compiled = f", compiled on {compute['compiled']['device']}" if "compiled" in compute else ""
    how = f"{report.transform['resize']} resize, {report.transform['decode']} decoding"
    tools = ", ".join(f"{name} {version}" for name, version in report.tool_versions.items())
    return [
        ("views", "; ".join(views)),
        ("stored as", f"{report.dtype}, codec {report.codec}{takes}"),
        ("encoder", f"{encoder['name']} ({encoder['hash'][:12]})" + (f", recipe of {steps:,} steps" if steps else "")),
        ("encoded", f"{how}, {compute['dtype']}, batches of {compute['batch_size']:,}{compiled}"),
        ("source", f"{source['uri']}: {source['count']:,} images ({source['fingerprint'][:12]}){classes}"),
        ("described", described_words(report.num_rows, report.labels_from, report.captions_from)),
        ("made", f"{report.created_at}" + (f" with {tools}" if tools else "")),
    ]


def _view_words(name: str, view: dict[str, Any], *, in_buckets: bool) -> str:
    mirrored = ", mirrored" if view["flip"] else ""
    if in_buckets:
        return f"{name} of at most {view['size']} x {view['size']} px{mirrored}"
    return f"{name} {view['shape']} of {view['size']} px{mirrored}"


def _figures(report: InfoReport) -> list[tuple[str, str]]:
    size = f"{data_size(report.bytes_on_disk)} on disk"
    if report.bytes_per_image is not None and report.share_of_pixels and report.share_of_raw_latents:
        size += (
            f", {data_size(report.bytes_per_image)} an image: {report.share_of_pixels:.1%} of 8-bit pixels; "
            f"latents are {report.share_of_raw_latents:.1%} of raw {report.dtype}"
        )
    lines = [("size", size)]
    for view, each in report.statistics.items():
        words = f"{view}: mean {each['mean']:.4g}, std {each['std']:.4g}, of channels {each['channel_std_min']:.3g} to "
        words += f"{each['channel_std_max']:.3g}; {each['num_nearly_dead']} of {each['num_channels']} nearly dead"
        lines.append(("statistics", words))
    for view, share in report.posterior.items():
        words = f"{view}: deviations in {view}_std, {share:.2%} of the variance of latents drawn from the posterior"
        lines.append(("posterior", words))
    for view, each in report.quantisation.items():
        words = f"{view}: scales {each['scale_min']:.3g} to {each['scale_max']:.3g}, relative error "
        lines.append(("int8", f"{words}{each['relative_rmse']:.2%}, {each['num_clipped']:,} values clipped"))
    if report.psnr_float32 is not None and report.psnr_int8 is not None:
        change = report.psnr_int8 - report.psnr_float32
        lines.append(("", f"PSNR {report.psnr_float32:.2f} -> {report.psnr_int8:.2f} dB ({change:+.2f})"))
    return lines


def _duplicates(report: InfoReport) -> str:
    found = report.duplicates
    if not found["num_groups"]:
        return "none by content"
    groups = "; ".join(" = ".join(keys) for keys in found["keys"])
    more = "; ..." if found["num_groups"] > len(found["keys"]) else ""
    images = "image" if found["num_groups"] == 1 else "images"
    return f"{found['num_rows']:,} rows hold {found['num_groups']:,} {images}: {groups}{more}"


def show_verification(console: Console, report: VerifyReport) -> None:
    """Print the extent of a verification and the problems found."""
    console.print(
        f"{report.num_shards_checked:,} of {report.num_shards:,} shards checked: {report.num_files:,} files, "
        f"{data_size(report.num_bytes)}; {report.num_ok:,} rows ok, {report.num_failed:,} failed"
    )
    for sentence in apart_words(report.num_repaired, report.num_too_small).values():
        console.print(sentence)
    if report.source:
        console.print(f"{report.num_compared:,} images of {report.source} read and compared by content")
    num_sampled = len({row["key"] for row in report.sample})
    for view, mean in report.mean_psnr.items():
        console.print(
            f"{view}: decode to their images at {mean['psnr']:.2f} dB, where latents encoded now do at "
            f"{mean['psnr_fresh']:.2f} dB (PSNR, mean of a sample of {num_sampled:,})"
        )
    if report.picture:
        console.print(f"originals above what their latents decode to: {report.picture}")
    for sentence in report.not_checked:
        console.print(f"not checked: {sentence}")
    for sentence in report.notes:
        console.print(f"note: {sentence}")
    for sentence in report.problems:
        console.print(f"problem: {sentence}")
    if report.num_problems > len(report.problems):
        console.print(f"and {report.num_problems - len(report.problems):,} more problems")
    if report.damaged_records:
        console.print(
            f"to mend shards, remove {_some(report.damaged_records, _RECORDS_SHOWN)} in {report.store} "
            f"and repeat tcae encode-dataset: they are encoded again"
        )
    if len(report.damaged_records) > _RECORDS_SHOWN:
        console.print(
            f"{len(report.damaged_records):,} records are to be removed; damaged_records of --json lists all of them"
        )
    console.print(f"{report.store}: {_verdict(report)}")


def _verdict(report: VerifyReport) -> str:
    extent = "" if report.complete else " so far; it is incomplete, repeat tcae encode-dataset to resume"
    if not report.num_problems:
        return f"sound{extent}"
    return f"{report.num_problems:,} {'problem' if report.num_problems == 1 else 'problems'}{extent}"


def _some(names: list[str], count: int) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
