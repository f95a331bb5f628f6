"""The terms of the reconstruction loss and the discriminators, by the names that recipes give them.

A term is a field of the recipe's ReconstructionSpec, a discriminator a choice of AdversarialSpec. The name leads to its
file, losses/NAME.py, whose TERM or DISCRIMINATOR is the class. Listing the names imports no torch.
The two other losses, adversarial and self-distillation, own networks and updates of a step besides their terms, so they
are not terms: see training/adversary.py and training/distillation.py.
"""

from typing import TYPE_CHECKING, get_args

from tcae_cli.recipe.choices import FrozenFeatures
from tcae_cli.recipe.schema import OwnNetwork, ReconstructionSpec
from tcae_cli.runtime.registry import Registry

if TYPE_CHECKING:
    from tcae_cli.losses.discriminator import Discriminator
    from tcae_cli.losses.reconstruction import Term

TERMS: Registry[type["Term"]] = Registry(
    {name: f"tcae_cli.losses.{name}:TERM" for name in ReconstructionSpec.model_fields}
)
DISCRIMINATORS: Registry[type["Discriminator"]] = Registry(
    dict.fromkeys(get_args(FrozenFeatures), "tcae_cli.losses.feature_discriminator:DISCRIMINATOR")
    | {name: f"tcae_cli.losses.{name}:DISCRIMINATOR" for name in get_args(OwnNetwork)}
)
