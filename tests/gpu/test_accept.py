"""The acceptance run for GPUs, at toy size on the CPU, and what it says of sections that fail."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.gpu.accept import SECTIONS, describe, run_section
from tests.gpu.findings import Findings, Setting
from tests.recipe.conftest import imported

ROOT = Path(__file__).parents[2]


def test_every_section_passes_at_toy_size_on_the_cpu(tmp_path):
    command = [sys.executable, "-m", "tests.gpu.accept", "--cpu", "--small", "--minutes=20", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "acceptance.jsonl").read_text().splitlines()]
    assert [line["section"] for line in lines] == list(SECTIONS)
    for line in lines:
        assert line["ok"] and line["error"] is None and "the CPU" in line["machine"], line
        assert line["findings"] and all({"name", "value", "expected"} <= each.keys() for each in line["findings"])
    assert json.loads((tmp_path / "gpu-acceptance.json").read_text()) == lines
    assert done.stdout.endswith(f"{len(SECTIONS)} of {len(SECTIONS)} sections passed\n")


@pytest.fixture
def outcome_of(tmp_path):
    """Runs a function as a section, and gives its line."""

    def run(section, limit_s=30.0):
        setting = Setting(device="cpu", small=True, folder=tmp_path)
        return run_section("toy", lambda _name: section, setting, limit_s, tmp_path / "toy.log")

    return run


def test_a_section_that_raises_keeps_what_it_found(outcome_of):
    def raises(_setting: Setting, findings: Findings) -> None:
        findings.note("images/s", 1234.5678, "about 1,000")
        raise ValueError("no such thing")

    outcome = outcome_of(raises)

    assert not outcome["ok"] and outcome["error"] == "ValueError: no such thing"
    assert outcome["findings"] == [{"name": "images/s", "value": 1235.0, "expected": "about 1,000", "ok": None}]


def test_a_section_beyond_its_limit_is_killed_with_its_processes(outcome_of, tmp_path):
    def hangs(_setting: Setting, _findings: Findings) -> None:
        child = subprocess.Popen(["sleep", "60"])
        (tmp_path / "child").write_text(str(child.pid))
        child.wait()

    outcome = outcome_of(hangs, limit_s=1.0)

    assert not outcome["ok"] and outcome["error"] == "took longer than its limit of 1 s"
    assert outcome["seconds"] < 10
    assert _ends(int((tmp_path / "child").read_text()))


def _ends(pid: int) -> bool:
    """Return whether a process ends within seconds."""
    patience_ends_at = time.monotonic() + 10
    while time.monotonic() < patience_ends_at:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":  # a zombie process, which whoever adopted it has yet to collect
            return True
        time.sleep(0.01)
    return False


def test_a_section_is_not_begun_when_the_time_is_over(outcome_of):
    outcome = outcome_of(lambda _setting, _findings: os._exit(0), limit_s=-1.0)

    assert outcome["error"] == "not run: the time for all sections is over" and not outcome["ok"]


def test_what_was_expected_stands_beside_what_was_found(outcome_of):
    def finds(_setting: Setting, findings: Findings) -> None:
        findings.note("images/s", 2000.0, "about 80")
        findings.check("bytes", "different", "equal", ok=False)

    outcome = outcome_of(finds)

    assert not outcome["ok"] and outcome["error"] is None
    assert describe({"section": "toy", "machine": "the CPU", **outcome})[1:] == [
        "    images/s: 2,000.0 (expected: about 80)",
        "    bytes: different (expected: equal) <- not met",
    ]


def test_the_page_on_performance_calls_figures_estimates_until_a_gpu_was_measured(tmp_path, monkeypatch):
    with imported(ROOT / "docs" / "_ext" / "generated.py") as generated:
        monkeypatch.setattr(generated, "_ACCEPTANCE", tmp_path / "gpu-acceptance.json")
        assert "estimates: tcae has not run on a GPU" in "\n".join(generated._gpus())

        found = [{"name": "eager, images/s", "value": 1234.0, "expected": "1,000 to 1,450", "ok": None}]
        lines = [{"section": "encode", "machine": "NVIDIA H100", "error": "took longer", "findings": found}]
        (tmp_path / "gpu-acceptance.json").write_text(json.dumps(lines))
        page = "\n".join(generated._gpus())
    assert "on NVIDIA H100" in page and "| encode | eager, images/s | 1,234.0 | 1,000 to 1,450 |" in page
    assert "| encode | failed | took longer | |" in page
