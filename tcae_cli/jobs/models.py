"""`tcae models`: lists the families of autoencoders, and shows the card of a model."""

from tcae_cli.autoencoders.by_name import read_card
from tcae_cli.autoencoders.families import FAMILIES
from tcae_cli.reports.models import CardReport, CardRequest, Family, ListedModel, ModelsReport
from tcae_cli.reports.progress import Progress


def list_models(_request: None, _: Progress) -> ModelsReport:
    """List the families, and of each a few models that can be had."""
    families = []
    for prefix, family in FAMILIES.items():
        models = [
            ListedModel(**vars(each) | {"path": str(each.path) if each.path else None}) for each in family.published()
        ]
        families.append(Family(prefix=prefix, about=family.about, models=models))
    return ModelsReport(families=families)


def show_card(request: CardRequest, _: Progress) -> CardReport:
    """Return the card of a model, whose files are fetched first if no cache holds them. Raises as read_card."""
    card = read_card(request.name)
    return CardReport(
        name=card.name,
        encoder_hash=card.encoder_hash,
        image_size=card.image_size,
        is_of_one_size=card.is_of_one_size,
        channels=card.latent_channels,
        downsampling=card.downsampling,
        num_parameters=card.num_parameters,
        generators_take=card.generator.words if card.generator else None,
        generator=card.generator.model_dump(mode="json") if card.generator else None,
        overflows_in_half=card.overflows_in_half,
        has_posterior=card.has_posterior,
        spec=card.spec,
    )
