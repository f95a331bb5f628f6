"""Says how many images have a label and a caption, and where these come from."""

from collections.abc import Mapping

EARLIER = "an earlier listing"  # in place of a place, for what a source does not state any more


def described_words(num_images: int, labels_from: Mapping[str, int], captions_from: Mapping[str, int]) -> str:
    """Return a sentence on the number of labels and captions, given by the places that state them."""
    num_labels = sum(labels_from.values())
    num_captions = sum(captions_from.values())
    labels = f"{num_labels:,} of {num_images:,} images have a label{_places(labels_from)}"
    captions = f"{num_captions:,} have a caption{_places(captions_from)}"
    return f"{labels if num_labels else 'no image has a label'}, {captions if num_captions else 'none has a caption'}"


def _places(counts: Mapping[str, int]) -> str:
    if len(counts) == 1:
        return f" ({next(iter(counts))})"
    return f" ({', '.join(f'{count:,} {place}' for place, count in counts.items())})"
