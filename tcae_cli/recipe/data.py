"""Decides which images a run uses: those that the command line names, or else those of its recipe."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tcae_cli.errors import RecipeError
from tcae_cli.recipe.schema import Recipe

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")
_OPTIONS: dict[Literal["train", "val"], str] = {"train": "--data", "val": "--val"}


@dataclass(frozen=True)
class NamedImages:
    """A source of images, and how a user can name another one."""

    uri: str
    advice: str = ""  # for the end of a sentence that says why it cannot be used; "": it was named on the command line


def choose_images(
    recipe: Recipe, where: str, part: Literal["train", "val"], given: str | None, environment: Mapping[str, str]
) -> NamedImages | None:
    """Return the images that the command line gives, or else those of the recipe's data.train or data.val, if any.

    where: the recipe's file, for messages. In its names ${VARIABLE} and ${VARIABLE:-default} are filled in from the
    environment. Raises RecipeError for a variable without default that is not set.
    """
    named = recipe.data.train if part == "train" else recipe.data.val
    if given is not None:
        return NamedImages(given)
    if named is None:
        return None

    def fill_in(found: re.Match[str]) -> str:
        value = environment.get(found["name"]) or found["default"]
        if not value:
            raise RecipeError(
                f"{where}: data.{part} is {named}, and {found['name']} is not set; set it, or pass {_OPTIONS[part]}"
            )
        return value

    variables = [found["name"] for found in _VARIABLE.finditer(named)]
    ways = [*(f"set {name} to the images you have" for name in variables), f"pass {_OPTIONS[part]}"]
    return NamedImages(_VARIABLE.sub(fill_in, named), " or ".join(ways))


def with_images(recipe: Recipe, train: str, val: str | None) -> Recipe:
    """Return the recipe with the names of the images that are used, as it is recorded with a run."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"train": train, "val": val})})
