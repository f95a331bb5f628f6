"""Prints the report of a job on stdout: a few lines and a table, or one JSON object."""

import json
from collections.abc import Callable
from typing import Any

from rich.console import Console

from tcae_cli.reports.decode import DecodeReport
from tcae_cli.reports.encode import EncodeReport, UpdateReport
from tcae_cli.reports.encode_plan import EncodePlan
from tcae_cli.reports.evaluation import EvalReport
from tcae_cli.reports.export import ExportReport
from tcae_cli.reports.models import CardReport, ModelsReport
from tcae_cli.reports.push import PushReport
from tcae_cli.reports.report import Report
from tcae_cli.reports.store import InfoReport, VerifyReport
from tcae_cli.reports.train import TrainReport
from tcae_cli.reports.train_plan import TrainPlan
from tcae_cli.reports.weights import WeightsReport
from tcae_cli.terminal.evaluation_tables import show_evaluation
from tcae_cli.terminal.models_table import show_card, show_models
from tcae_cli.terminal.plan_tables import show_encoding_plan, show_training_plan
from tcae_cli.terminal.store_tables import show_info, show_verification
from tcae_cli.terminal.summaries import show_decoding, show_encoding, show_export, show_push, show_training, show_update
from tcae_cli.terminal.weights_table import show_weights

_WIDE = 400  # characters

_SHOW: dict[type[Report], Callable[[Console, Any], None]] = {
    EncodeReport: show_encoding,
    UpdateReport: show_update,
    DecodeReport: show_decoding,
    ExportReport: show_export,
    InfoReport: show_info,
    VerifyReport: show_verification,
    TrainReport: show_training,
    TrainPlan: show_training_plan,
    EncodePlan: show_encoding_plan,
    EvalReport: show_evaluation,
    WeightsReport: show_weights,
    PushReport: show_push,
    ModelsReport: show_models,
    CardReport: show_card,
}


def show_report(report: Report, as_json: bool) -> None:
    """Print what a job did; of a launch, only the first rank prints its report of all but encoding."""
    if isinstance(report, TrainReport | EvalReport | TrainPlan | EncodePlan) and report.rank:
        return
    if as_json:
        print(json.dumps(report.as_dict(), ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if not console.is_terminal:
        console.width = _WIDE  # a row of a table stays on one line, so that it can be searched with grep
    _SHOW[type(report)](console, report)
