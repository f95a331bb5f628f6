"""What an evaluation looks like where there is no terminal, and its figures in words."""

import math
from pathlib import Path

import pytest

from tcae_cli.evaluation.metrics.registry import figure_of
from tcae_cli.reports.evaluation import EvalReport, Evaluation
from tcae_cli.terminal.show import show_report

LONG = "hf://an-organisation-of-many-words/" + "a-model-whose-name-goes-on/" * 8


def report(*evaluations, **changes) -> EvalReport:
    fields = {
        "rank": 0,
        "data": "photos",
        "num_images": 1200,
        "num_failed": 0,
        "failures": [],
        "too_many_failed": False,
        "protocol": {"crop": "centre 256 px", "psnr": "mean over images"},
        "evaluations": list(evaluations) or [Evaluation(name="tiny", values={"psnr": 24.567, "ssim": 0.7})],
        "skipped": {},
        "warnings": [],
        "page": None,
        "elapsed_s": 1.0,
    }
    return EvalReport(**{**fields, **changes})


@pytest.fixture
def shown(capsys):
    """The lines that a report is shown as."""

    def show(report: EvalReport) -> list[str]:
        show_report(report, as_json=False)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return show


def test_one_evaluation_is_a_table_of_metric_and_value_with_its_protocol_below(shown):
    assert shown(report(num_failed=3)) == [
        "tiny on 1,200 images of photos, 3 failed",
        "metric  value",
        "psnr    24.57 dB",
        "ssim    0.7000",
        "crop:  centre 256 px",
        "psnr:  mean over images",
    ]


def test_several_are_side_by_side_and_a_figure_that_one_lacks_is_a_dash(shown):
    lines = shown(
        report(
            Evaluation(name="a", values={"psnr": 20.0}), Evaluation(name="b", values={"psnr": 21.5, "rfid": 3.14159})
        )
    )

    assert lines[:4] == [
        "a, b on 1,200 images of photos",
        "metric  a         b",
        "psnr    20.00 dB  21.50 dB",
        "rfid    -         3.142",
    ]


def test_what_is_missing_or_doubtful_and_where_the_page_is_stand_below(shown):
    lines = shown(
        report(warnings=["few images"], skipped={"rfid": "no weights"}, page=Path("out/index.html"), num_images=1)
    )

    assert lines[0] == "tiny on 1 image of photos"
    assert lines[-3:] == ["warning: few images", "not computed: rfid: no weights", "report: out/index.html"]


def test_long_names_leave_a_line_a_row(shown):
    names = [f"{LONG}{number}" for number in range(4)]

    lines = shown(report(*(Evaluation(name=name, values={"psnr": 20.0}) for name in names)))

    assert lines[1].split() == ["metric", *names]
    assert lines[2].split() == ["psnr", *["20.00", "dB"] * 4]


def test_names_are_shown_as_they_are(shown):
    odd = "[red]:smile:[/red]"

    lines = shown(report(Evaluation(name=odd, values={}), Evaluation(name="b", values={}), data=odd))

    assert lines[:2] == [f"{odd}, b on 1,200 images of {odd}", f"metric  {odd}  b"]


def test_a_cost_that_needs_no_images_names_none(shown):
    lines = shown(report(Evaluation(name="tiny", values={"encode-macs": 4.1e9}), num_images=0, data=""))

    assert lines[:3] == ["tiny", "metric       value", "encode-macs  4.10 G"]


def test_the_first_rank_speaks_for_all(shown):
    assert shown(report(rank=1)) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("psnr", 24.5678, "24.57 dB"),
        ("ssim", 0.85606, "0.8561"),
        ("lpips-vgg", 0.05, "0.0500"),
        ("lpips-alex", 0.12345, "0.1235"),
        ("rfid", 0.57812, "0.5781"),
        ("ifid", 57.9171, "57.92"),
        ("is", 215.837, "215.8"),
        ("fd-dinov2", 1234.56, "1,235"),
        ("rfid", 5.1234e-13, "5.123e-13"),
        ("dead-channels", 3.0, "3"),
        ("dominant-channels", 0.0, "0"),
        ("encoder-parameters", 7_478_723.0, "7.48 M"),
        ("decoder-parameters", 999_999.0, "1.00 M"),
        ("decoder-parameters", 243.0, "243"),
        ("encode-macs", 4.1e9, "4.10 G"),
        ("decode-macs", 1.6e12, "1.60 T"),
        ("encode-images-per-s", 1234.56, "1,234.6"),
        ("decode-images-per-s", 0.44, "0.4"),
        ("encode-peak-bytes", 12 * 2**20, "12.00 MiB"),
        ("decode-peak-bytes", 1.5 * 2**30, "1.50 GiB"),
        ("decode-peak-bytes", 0.0, "0 bytes"),
        ("psnr", math.inf, "infinite"),
        ("rfid", math.nan, "undefined"),
        ("rfid", -math.inf, "minus infinite"),
    ],
)
def test_a_figure_has_the_digits_and_the_unit_people_expect(name, value, words):
    assert figure_of(name).in_words(value) == words
