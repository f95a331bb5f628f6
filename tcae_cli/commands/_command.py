"""Commands whose help shows options in named groups, and examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

Function = Callable[..., Any]

GENERAL = "General"


class Option(click.Option):
    """An option that help shows in a group."""

    def __init__(self, declarations: Sequence[str], *, group: str, **settings: Any) -> None:
        super().__init__(declarations, **settings)
        self.group = group


class NameIn(click.Choice):
    """A name in a registry, looked up when it is needed: names that are registered later are shown and taken too."""

    def __init__(self, registry: Mapping[str, Any]) -> None:
        self._registry = registry
        self.case_sensitive = True

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self._registry)


class Command(click.Command):
    """A command that shows its options by group, and then examples: pairs of a sentence and a command line."""

    def __init__(self, *settings: Any, examples: Sequence[tuple[str, str]] = (), **named: Any) -> None:
        super().__init__(*settings, **named)
        self.examples = tuple(examples)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        write_groups(self, context, formatter)
        if self.examples:
            with formatter.section(heading("Examples")):
                for number, (sentence, line) in enumerate(self.examples):
                    if number:
                        formatter.write_paragraph()
                    formatter.write_text(f"{sentence}:")
                    with formatter.indentation():  # as it is, so that it can be copied however narrow the terminal is
                        formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def write_groups(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write a section for each group of options, in the order in which the groups first appear; GENERAL comes last."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record:
            groups.setdefault(getattr(parameter, "group", GENERAL), []).append(record)
    general = groups.pop(GENERAL, [])
    for title, records in [*groups.items(), (GENERAL, general)]:
        with formatter.section(heading(title)):
            formatter.write_dl(records)


def heading(title: str) -> str:
    """Return a title in bold; click strips that where the output is not a terminal."""
    return click.style(title, bold=True)


def option(*declarations: str, group: str = GENERAL, help: str, **settings: Any) -> Callable[[Function], Function]:
    """Return a decorator that adds an option to a command."""
    return click.option(*declarations, cls=Option, group=group, help=help, **settings)


def command(name: str, *, examples: Sequence[tuple[str, str]], **settings: Any) -> Callable[[Function], Command]:
    """Return a decorator that makes a command with this name of a function."""
    return click.command(name, cls=Command, examples=examples, **settings)
