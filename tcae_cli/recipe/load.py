"""Loads recipes from YAML 1.2, with overrides; each error is one sentence with the file, the key and the fix."""

import io
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from tcae_cli.errors import NotFoundError, RecipeError
from tcae_cli.recipe.presets import PRESETS
from tcae_cli.recipe.schema import ModelSpec, Recipe

# What the parser raises: some values, such as a date in a thirteenth month, are refused by Python itself.
_NOT_YAML = (YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
}


def load_recipe(path: Path, overrides: Sequence[str] = (), parent: ModelSpec | None = None) -> Recipe:
    """Return the recipe in a file, with overrides like "train.steps=100" applied.

    parent: the model to finetune, which supplies the keys of `model` that the recipe omits. Those that it gives must
    agree with the parent, except for image_size.
    Raises NotFoundError if there is no file, and RecipeError naming the file, the key and the fix for anything else.
    """
    if not path.is_file():
        raise NotFoundError(f"no recipe at {path}; see the recipes folder for examples")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise RecipeError(f"{path} is not a recipe ({reason}); see the recipes folder for examples") from error
    settings = _parse(text, str(path))
    for override in overrides:
        _set(settings, override)
    settings = _without_none(settings)
    if parent is not None:
        settings["model"] = _as_parent(settings.get("model"), parent, path)
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_explain(error)}") from error


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML that load_recipe reads back equal."""
    text = io.StringIO()
    YAML().dump(recipe.model_dump(mode="json"), text)
    return text.getvalue()


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        settings = YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise RecipeError(f"{where}, line {line}: {str(error.problem).splitlines()[0]}") from error
    except _NOT_YAML as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RecipeError(f"{where} is not YAML ({reason})") from error
    if not isinstance(settings, dict):
        raise RecipeError(f"{where} should be a mapping of sections ({', '.join(Recipe.model_fields)})")
    return settings


def _set(settings: dict[str, Any], override: str) -> None:
    name, found, text = override.partition("=")
    if not found or not name:
        raise RecipeError(f"--set {override} is not of the form key=value, as in --set train.steps=1000")
    *sections, key = name.split(".")
    for section in sections:
        if settings.get(section) in (None, "none"):
            settings[section] = {}
        settings = settings[section]
        if not isinstance(settings, dict):
            raise RecipeError(f"--set {override}: {section} is not a section")
    try:
        settings[key] = YAML(typ="safe").load(text)
    except _NOT_YAML as error:
        raise RecipeError(f"--set {override}: the value is not YAML") from error


def _as_parent(given: Any, parent: ModelSpec, path: Path) -> Any:
    """Return the section `model` as it was given, with the parent's values for the keys that it omits."""
    if given is not None and not isinstance(given, dict):
        return given  # the schema reports what is wrong with it
    given = given or {}
    inherited = parent.model_dump(mode="json")
    expanded = {**PRESETS.get(str(given.get("preset")), {}), **given}
    for key in (key for key in inherited if key in expanded and key != "image_size"):
        found = list(expanded[key]) if isinstance(expanded[key], tuple) else expanded[key]
        if found != inherited[key]:
            raise RecipeError(
                f"{path}: model.{key} is {found}, but the model to finetune has {inherited[key]}; "
                f"omit model.{key if key in given else 'preset'}, or train from scratch with tcae train"
            )
    return {**inherited, **given}


def _without_none(settings: Any) -> Any:
    """Return the settings with `none` replaced by None, as YAML's `null` is."""
    if isinstance(settings, dict):
        return {key: _without_none(value) for key, value in settings.items()}
    return None if settings == "none" else settings


def _explain(error: ValidationError) -> str:
    """Return the first error as a sentence without the file's name."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key {name}; {_nearest(first['loc'])}"
        case "missing":
            return f"{name} is missing"
        case "value_error":
            return f"{name}: {first['ctx']['error']}".removeprefix(": ")
        case "literal_error":
            return f"{name} should be {first['ctx']['expected']}, found {first['input']!r}"
        case kind if kind in _WANTED:
            return f"{name} should be {_WANTED[kind]}, found {first['input']!r}"
        case _:
            return f"{name}: {first['msg'][0].lower()}{first['msg'][1:]}, found {first['input']!r}"


def _nearest(location: tuple[int | str, ...]) -> str:
    """Suggest the known key nearest to an unknown one, or list the keys of its section."""
    *sections, key = (str(part) for part in location)
    model: type[BaseModel] = Recipe
    for section in sections:
        annotation = model.model_fields[section].annotation
        kinds = (annotation, *get_args(annotation))  # a section, or a section or None
        model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    known = [*model.model_fields, *(["preset"] if sections == ["model"] else [])]
    close = get_close_matches(key, known, n=1)
    if close:
        return f"did you mean {'.'.join([*sections, close[0]])}?"
    return f"{'.'.join(sections) or 'a recipe'} has {', '.join(known)}"
