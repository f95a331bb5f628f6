"""Fills in what pages generate from the code: a line `<!-- generated: NAME -->` becomes the Markdown of that name.

The command reference is made from click's own commands, so any subclass of click's works, lazy groups included; the
lists are made from the registries.
"""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from sphinx.application import Sphinx

_ACCEPTANCE = Path(__file__).parents[1] / "gpu-acceptance.json"
_PLACE = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", _fill_in)
    app.connect("autodoc-process-docstring", _set_apart)
    return {"parallel_read_safe": True}


def _fill_in(_app: Sphinx, _page: str, source: list[str]) -> None:
    source[0] = _PLACE.sub(lambda found: "\n".join(_GENERATORS[found[1]]()), source[0])


def _set_apart(_app: Sphinx, _kind: str, _name: str, thing: Any, _options: Any, lines: list[str]) -> None:
    """Begin a paragraph with each parameter that a docstring explains, and with the errors that it names."""
    try:
        parameters = inspect.signature(thing).parameters if callable(thing) else {}
    except ValueError:  # of a builtin
        return
    for number in reversed(range(len(lines))):
        names = re.match(r"([\w, ]+): ", lines[number])
        if names and set(names[1].split(", ")) <= set(parameters):
            lines[number : number + 1] = ["", f"**{names[1]}**: {lines[number][names.end() :]}"]
        elif lines[number].startswith("Raises "):
            lines.insert(number, "")


def _commands() -> Iterator[str]:
    from tcae_cli.cli import tcae

    context = click.Context(tcae, info_name=tcae.name, **tcae.context_settings)
    yield from _command(tcae, context)
    for name in tcae.list_commands(context):
        command = tcae.get_command(context, name)
        assert command, name
        yield from _command(command, click.Context(command, context, name, **command.context_settings))


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    path = context.command_path
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"\n({path.replace(' ', '-')})=\n## {path}\n"
    yield f"```text\n{path} {usage}\n```\n"
    yield _escaped(inspect.cleandoc(command.help or "")) + "\n"
    for title, options in _groups(command, context).items():
        yield f"**{_escaped(title)}**\n"
        for names, explanation in options:
            yield f"`{names}`\n: {_escaped(explanation) or '&nbsp;'}\n"
    for sentence, line in getattr(command, "examples", ()):
        yield f"{_escaped(sentence)}:\n\n```text\n{line}\n```\n"


def _groups(command: click.Command, context: click.Context) -> dict[str, list[tuple[str, str]]]:
    """Return names and help of what a command takes, by the group in which --help shows them."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and any(record[1:]):  # of an argument, usage and text say enough
            groups.setdefault(getattr(parameter, "group", "General"), []).append(record)
    return groups


def _metrics() -> Iterator[str]:
    from tcae_cli.evaluation.metrics.registry import METRICS, describe_metrics

    for metric in describe_metrics():
        yield f"`{metric.name}`"
        yield f": {_about(METRICS[metric.name])}\n"
        yield f"  *Protocol:* {_linked(metric.protocol)}. *Needs:* {_with_network(metric)}."
        figures = [f"`{each.name}`{_unit(each.unit)}{_better(each.more_is_better)}" for each in metric.figures]
        yield f"  *Figures:* {', '.join(figures)}.\n"


def _codecs() -> Iterator[str]:
    from tcae_cli.store.codecs.registry import CODECS

    for name, codec in CODECS.items():
        compressor = codec().compressor(itemsize=2)  # of float16
        metadata = json.dumps(compressor.to_dict()) if compressor else "none"
        yield f"`{name}`"
        yield f": {_about(sys.modules[codec.__module__])}\n"
        damage = "by its own checksum" if codec.has_checksum else "by `tcae verify`, through the commit record"
        yield f"  *Zarr codec:* `{metadata}`. *Damage is detected* {damage}.\n"


def _formats() -> Iterator[str]:
    from tcae_cli.exports.registry import FORMATS

    for name, form in FORMATS.items():
        takes = ["Takes `--scale`."] if form.takes_scale else ["Values are raw."]
        takes += ["Needs classes."] if form.needs_classes else []
        takes += ["May be one .zip."] if form.may_be_zip else []
        yield f"`{name}`"
        yield f": Read by {_linked(form.trainer)}. *Writes* {_linked(form.contents)}. {' '.join(takes)}\n"


def _losses() -> Iterator[str]:
    from tcae_cli.losses.registry import DISCRIMINATORS, TERMS

    for name, term in TERMS.items():
        yield f"`loss.{name}`\n: {_about(term)}\n"
    for discriminator in dict.fromkeys(DISCRIMINATORS.values()):
        names = [f"`{name}`" for name, other in DISCRIMINATORS.items() if other is discriminator]
        yield f"`loss.adversarial.discriminator:` {', '.join(names)}\n: {_about(discriminator)}\n"


def _gpus() -> Iterator[str]:
    """Yield the figures of docs/gpu-acceptance.json, which `make gpu` writes, or say that no GPU was at hand yet."""
    if not _ACCEPTANCE.exists():
        yield "**All GPU figures of these pages are estimates: tcae has not run on a GPU yet.**"
        return
    lines = json.loads(_ACCEPTANCE.read_text())
    yield f"Measured by `make gpu` on {_escaped(lines[0]['machine'])}:\n"
    yield "| section | figure | measured | expected |\n|---|---|---|---|"
    for line in lines:
        for found in line["findings"]:
            measured = f"{found['value']:,}" if isinstance(found["value"], int | float) else str(found["value"])
            cells = (line["section"], found["name"], measured, found["expected"])
            yield f"| {' | '.join(map(_escaped, cells))} |"
        if line["error"]:
            yield f"| {_escaped(line['section'])} | failed | {_escaped(line['error'])} | |"


def _about(thing: Any) -> str:
    """Return the first paragraph of a docstring."""
    return _linked((inspect.getdoc(thing) or "").partition("\n\n")[0])


def _with_network(metric: Any) -> str:
    network = [f"the weights `{metric.network}`"] if metric.network else []
    return ", ".join((*metric.needs, *network)) or "nothing"


def _unit(unit: str) -> str:
    return f" in {unit}" if unit else ""


def _better(more_is_better: bool | None) -> str:
    return {True: " (more is better)", False: " (less is better)", None: ""}[more_is_better]


def _linked(text: str) -> str:
    """Escape Markdown, and link papers."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", _escaped(" ".join(text.split())))


def _escaped(text: str) -> str:
    """Escape what Markdown would take for markup, except for code between backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(each if each[:1] == "`" else re.sub(r"([\\*_{}\[\]<>|#$])", r"\\\1", each) for each in parts)


_GENERATORS: dict[str, Callable[[], Iterator[str]]] = {
    "commands": _commands,
    "metrics": _metrics,
    "codecs": _codecs,
    "formats": _formats,
    "losses": _losses,
    "gpus": _gpus,
}
