"""Writes the command reference, the page `commands`, from click's own commands.

It asks each command and option what click's --help would print, so any subclass of click's works, lazy groups included.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

import click
from sphinx.application import Sphinx

PAGE = "commands"


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", _add_reference)
    return {"parallel_read_safe": True}


def _add_reference(app: Sphinx, page: str, source: list[str]) -> None:
    if page == PAGE:
        from tcae_cli.cli import tcae

        source[0] += "\n" + "\n".join(_reference(tcae))


def _reference(group: click.Group) -> Iterator[str]:
    """Return the Markdown lines of a group and its commands."""
    context = click.Context(group, info_name=group.name)
    yield from _section(group, context)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command, name
        yield from _section(command, click.Context(command, info_name=name, parent=context))


def _section(command: click.Command, context: click.Context) -> Iterator[str]:
    path = context.command_path
    yield f"\n({path.replace(' ', '-')})=\n## {path}\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{path} {usage}\n```\n"
    yield _text(command.help or "") + "\n"
    for title, options in _panels(command, context).items():
        yield f"**{_text(title)}**\n"
        for names, explanation in options:
            yield f"`{names}`\n: {_text(explanation) or '&nbsp;'}\n"


def _panels(command: click.Command, context: click.Context) -> dict[str, list[tuple[str, str]]]:
    """Return names and help of the options, by the panel that --help shows them in."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            panels.setdefault(_panel(parameter), []).append(record)
    return panels


def _panel(parameter: click.Parameter) -> str:
    panel = getattr(parameter, "panel", None)  # rich-click's
    return panel if isinstance(panel, str) else "Options"


def _text(text: str) -> str:
    """Escape what Markdown would take for markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#$])", r"\\\1", inspect.cleandoc(text))
