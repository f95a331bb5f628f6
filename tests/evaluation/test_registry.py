"""A metric is one class and one line of the registry: help, refusals, tables, reports and documentation follow."""

import json
import subprocess
import sys

import pytest

from tcae_cli.errors import UsageError
from tcae_cli.evaluation.metrics.figure import Figure
from tcae_cli.evaluation.metrics.per_image import PerImage
from tcae_cli.evaluation.metrics.registry import ALL, METRICS, chosen_metrics, describe_metrics, figure_of
from tcae_cli.evaluation.networks import NETWORKS


class MeanAbsoluteError(PerImage):
    """How far pixels are from the originals', in 8-bit steps."""

    name = "mae"
    figures = (Figure("mae", unit="8-bit steps", more_is_better=False, format="{:.1f} steps".format),)
    protocol = "mean over pixels and images"

    def measure(self, originals, decoded):
        return (originals.float() - decoded.float()).abs().mean(dim=(1, 2, 3))


@pytest.fixture
def toy(add) -> None:
    add(METRICS, "mae", MeanAbsoluteError)


@pytest.fixture
def evaluate(monkeypatch, tcae):
    """Runs `tcae eval`, freshly imported, which has to succeed; gives what it prints."""

    def run(*arguments) -> str:
        monkeypatch.delitem(sys.modules, "tcae_cli.commands.eval", raising=False)
        code, printed, _ = tcae("eval", *arguments)
        assert code == 0
        return printed

    return run


def test_a_metric_added_to_the_registry_is_in_help_in_the_table_in_the_report_and_on_the_page(
    toy, evaluate, photos, small_checkpoint, tmp_path
):
    assert "mae" in evaluate("--help")

    command = [small_checkpoint, "--data", photos / "animal", "--metric", "mae", "--device", "cpu"]
    table = evaluate(*command, "--workers", 0, "--report", tmp_path / "page")
    report = json.loads(evaluate(*command, "--workers", 0, "--json"))

    (evaluation,) = report["evaluations"]
    value = evaluation["values"]["mae"]
    assert 1 < value < 255
    assert report["protocol"]["mae"] == "mean over pixels and images"
    assert ["mae", f"{value:.1f}", "steps"] in [line.split() for line in table.splitlines()]
    assert f"<td>{value:.1f} steps</td>" in (tmp_path / "page" / "index.html").read_text()
    (described,) = [each for each in describe_metrics() if each.name == "mae"]
    assert described.figures[0].unit == "8-bit steps" and described.needs == ("originals and their reconstructions",)


def test_every_metric_says_what_it_is_under_the_name_it_is_registered_by():
    assert len(METRICS) >= 13
    for name, metric in METRICS.items():
        assert metric.name == name and metric.protocol and metric.needs and metric.figures
        assert metric.network is None or metric.network in NETWORKS
    figures = [figure.name for metric in METRICS.values() for figure in metric.figures]
    assert len(figures) == len(set(figures))
    assert [each.name for each in describe_metrics()] == list(METRICS)


def test_names_are_chosen_once_each_in_the_order_of_the_registry():
    assert chosen_metrics(["psnr", "rfid", "psnr", "lpips"]) == ("rfid", "psnr", "lpips-vgg")
    assert chosen_metrics([ALL]) == tuple(METRICS)
    with pytest.raises(UsageError, match=r"--metric beauty is not one of rfid, fd-dinov2, .*, cost, all$"):
        chosen_metrics(["psnr", "beauty"])


def test_a_figure_that_no_metric_has_is_written_plainly():
    assert figure_of("nobody's").in_words(1234.5) == "1,234" and figure_of("nobody's").more_is_better is None


def test_names_are_listed_without_torch():
    script = (
        "import sys; from tcae_cli.evaluation.metrics.registry import METRICS; print(*METRICS, 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ended.stdout.split() == [*METRICS, "False"]
