"""The images and the model that other sections use, and how long it takes to make them."""

import time

from tests.gpu.findings import Findings, Setting
from tests.gpu.inputs import images, random_model


def run(setting: Setting, findings: Findings) -> None:
    """Make them."""
    started_at = time.perf_counter()
    count = sum(1 for _ in images(setting).glob("*/*.jpg"))
    findings.note("images", count)
    findings.note("seconds to write them", time.perf_counter() - started_at)
    findings.note("MB of the model with random weights", random_model(setting).stat().st_size / 1e6)
