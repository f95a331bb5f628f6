"""The log of a run: lines of figures, TensorBoard events, curves."""

import json
import math
import sys

import numpy as np
import pytest
from PIL import Image

from tcae_cli.errors import DiskError
from tcae_cli.tracking.curves import draw_curves
from tcae_cli.tracking.log import MetricsLog

LINE, BAND, INK = (0x2A, 0x6F, 0xBB), (0xD4, 0xE2, 0xF1), (0x44, 0x44, 0x44)


def lines(run) -> list[dict]:
    return [json.loads(line, parse_constant=pytest.fail) for line in (run / "metrics.jsonl").read_text().splitlines()]


def log_figures(run, **figures):
    """Write a log with one line for each value, ten steps apart."""
    log = MetricsLog(run, 0)
    for number, values in enumerate(zip(*figures.values(), strict=True), start=1):
        log.write(10 * number, dict(zip(figures, values, strict=True)))
    log.close()


def pixels_of(picture, colour, tolerance=4) -> np.ndarray:
    """Return [h, w], bool: which pixels have about this colour."""
    with Image.open(picture) as image:
        return (np.abs(np.array(image.convert("RGB")).astype(int) - colour) <= tolerance).all(axis=2)


def size_of(picture) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


# metrics.jsonl


def test_each_write_is_a_line_of_json(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(50, {"loss": 0.5, "num_failed": 0})
    log.write(100, {"loss": 0.25, "val_psnr": 21.5})

    assert lines(tmp_path) == [
        {"step": 50, "loss": 0.5, "num_failed": 0},
        {"step": 100, "loss": 0.25, "val_psnr": 21.5},
    ]


def test_what_is_no_finite_number_is_null_so_that_every_reader_of_json_can_read_it(tmp_path):
    MetricsLog(tmp_path, 0).write(1, {"loss": math.nan, "grad_norm": math.inf, "lr": 1e-4})

    assert lines(tmp_path) == [{"step": 1, "loss": None, "grad_norm": None, "lr": 1e-4}]


def test_a_resumed_run_forgets_lines_after_its_checkpoint_and_the_half_line_it_was_killed_in(tmp_path):
    log_figures(tmp_path, loss=[3.0, 2.0, 1.0])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')

    MetricsLog(tmp_path, 20).write(30, {"loss": 1.5})

    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(10, 3.0), (20, 2.0), (30, 1.5)]


def test_a_run_folder_that_vanishes_is_one_sentence(tmp_path):
    (tmp_path / "run").mkdir()
    log = MetricsLog(tmp_path / "run", 0)
    for file in sorted((tmp_path / "run").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (tmp_path / "run").rmdir()

    with pytest.raises(DiskError, match=r"metrics\.jsonl cannot be written: it was removed while in use"):
        log.write(1, {"loss": 1.0})


# TensorBoard


def test_without_tensorboard_nothing_is_missed_and_nothing_said(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)

    log_figures(tmp_path, loss=[1.0])

    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert capfd.readouterr() == ("", "")


def test_with_tensorboard_its_curves_are_those_of_the_log_after_a_resume_too(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_figures(tmp_path, loss=[3.0, 2.0, 1.0])
    log = MetricsLog(tmp_path, 20)
    log.write(30, {"loss": 1.5, "lr": 1e-4})
    log.close()

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 3.0), (20, 2.0), (30, 1.5)]
    assert [event.step for event in events.Scalars("lr")] == [30]


# curves.png


def test_a_loss_that_falls_is_drawn_falling(tmp_path):
    log_figures(tmp_path, loss=[5.0, 3.0, 2.0, 1.5])

    picture = draw_curves(tmp_path)

    assert picture == tmp_path / "curves.png"
    rows, columns = np.nonzero(pixels_of(picture, LINE))
    first, last = rows[columns == columns.min()].mean(), rows[columns == columns.max()].mean()
    assert last > first + 100  # rows count downwards


def test_only_what_was_measured_has_a_panel(tmp_path):
    for name in ("alone", "more", "unknown"):
        (tmp_path / name).mkdir()
    log_figures(tmp_path / "alone", loss=[1.0, 0.5])
    log_figures(tmp_path / "more", loss=[1.0, 0.5], lr=[1e-4, 2e-4], val_psnr=[20.0, 21.0], val_ssim=[0.5, 0.6])
    log_figures(tmp_path / "unknown", loss=[1.0, 0.5], num_failed=[0, 1])

    width, height = size_of(draw_curves(tmp_path / "alone"))
    assert size_of(draw_curves(tmp_path / "unknown")) == (width, height)
    more_width, more_height = size_of(draw_curves(tmp_path / "more"))
    assert more_width == 2 * width and 1.8 * height < more_height < 2 * height  # two by two


def test_losses_of_self_distillation_are_drawn_beside_the_logarithm_they_begin_at(tmp_path):
    log_figures(tmp_path, class_token=[9.2, 7.0, 5.0], masked_patch=[9.1, 8.0, 7.0])

    def most_ink_beside_the_curves() -> int:
        """Pixels of the row that has most, of the rows that the curves lie in."""
        rows = np.nonzero(pixels_of(tmp_path / "curves.png", LINE).any(axis=1))[0]
        ink = pixels_of(tmp_path / "curves.png", INK, tolerance=90).sum(axis=1)
        return int(ink[rows.min() : rows.max()].max())

    draw_curves(tmp_path)
    legend_alone = most_ink_beside_the_curves()
    draw_curves(tmp_path, num_prototypes=8192)
    assert most_ink_beside_the_curves() > legend_alone + 30  # a dotted line across the panel


def test_a_long_run_is_thinned_to_means_and_the_range_they_lie_in(tmp_path):
    values = [1.0 + number % 2 for number in range(3000)]
    values[1500:1800:10] = [9.0] * 30
    log_figures(tmp_path, images_per_s=values)

    picture = draw_curves(tmp_path)

    line, band = pixels_of(picture, LINE), pixels_of(picture, BAND)
    top_of_line, top_of_band = (np.nonzero(found.any(axis=1))[0].min() for found in (line, band))
    assert top_of_band + 40 < top_of_line  # high values are not lost, nor do they carry the line with them


def test_gaps_and_a_half_written_line_do_not_keep_the_rest_from_being_drawn(tmp_path):
    log_figures(tmp_path, loss=[3.0, math.nan, 1.0], grad_norm=[0.0, 5.0, 1000.0])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')

    assert pixels_of(draw_curves(tmp_path), LINE).sum() > 100


def test_before_the_first_line_there_is_a_picture_that_says_so(tmp_path):
    assert size_of(draw_curves(tmp_path)) > (0, 0)
    assert pixels_of(tmp_path / "curves.png", INK).any()
