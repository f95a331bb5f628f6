"""The page of an evaluation: what it says and shows, that it needs nothing else, and whose files it touches."""

import json
import math
from dataclasses import dataclass, field
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcae_cli.errors import DiskError, UsageError
from tcae_cli.evaluation.metrics.registry import figure_of
from tcae_cli.evaluation.page.write import Example, prepare_folder, write_page
from tcae_cli.reports.evaluation import EvalReport, Evaluation

SIZE = 64
HOSTILE = "\"><script>alert(1)</script>/é猫\udcff&amp;$x_$'/<b>.png"
FIGURES = {"rfid": 57.9, "psnr": 24.5, "ssim": math.nan, "encode-macs": 4.1e9, "decode-peak-bytes": 1.5 * 2**30}
CHANNELS = {
    "mean": [0.1, -0.2, 0.0],
    "std": [1.0, 0.5, math.nan],
    "spatial_correlation": [0.4, 0.3, math.nan],
    "spectrum": [0.7, 0.3, 0.0],
}


def report(*evaluations: Evaluation, **changes) -> EvalReport:
    fields = {
        "rank": 0,
        "data": "photos",
        "num_images": 1200,
        "num_failed": 3,
        "failures": [],
        "too_many_failed": False,
        "protocol": {"crop": "centre 64 px", "psnr": "mean over <all> images"},
        "evaluations": list(evaluations) or [Evaluation(name="tiny", values=FIGURES, channels=CHANNELS)],
        "skipped": {"probe": "photos has no labels"},
        "warnings": ["rfid is of few images"],
        "page": None,
        "elapsed_s": 1.0,
    }
    return EvalReport(**{**fields, **changes})


def encode(picture: Image.Image, kind: str, **options) -> bytes:
    encoded = BytesIO()
    picture.save(encoded, kind, **options)
    return encoded.getvalue()


@pytest.fixture(scope="session")
def make_examples(photos):
    """Examples of photographs; each evaluation's reconstruction is a JPEG of another quality."""

    def make(*names: str, count: int = 3, keys: dict[int, str] | None = None) -> list[Example]:
        examples = []
        for number, path in enumerate(sorted(photos.rglob("*.jpg"))[:count]):
            with Image.open(path) as picture:
                original = picture.convert("RGB").resize((SIZE, SIZE))
            lossy = [Image.open(BytesIO(encode(original, "JPEG", quality=10 + 30 * n))) for n in range(len(names))]
            examples.append(
                Example(
                    key=(keys or {}).get(number, f"{path.parent.name}/{path.name}"),
                    kind=("worst", "best", "even")[number % 3],
                    original=encode(original, "PNG"),
                    decoded={name: encode(each, "PNG") for name, each in zip(names, lossy, strict=True)},
                    values={name: {"psnr": 20.25 + number, "ssim": math.nan} for name in names},
                )
            )
        return examples

    return make


@dataclass
class Page(HTMLParser):
    """What a browser makes of a page: the words people read, the tags, and what is loaded or linked."""

    path: Path
    words: list[str] = field(default_factory=list)
    bold: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict]] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "input"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_data(self, data):
        if self.inside and self.inside[-1] not in ("style", "script") and data.strip():
            self.words.append(" ".join(data.split()))
            if self.inside[-1] == "strong":
                self.bold.append(data)

    @property
    def references(self) -> list[str]:
        return [value for _, tag in self.tags for name, value in tag.items() if name in ("src", "href")]

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What it says


def test_the_page_has_every_figure_and_every_line_of_how_it_was_taken(tmp_path, make_examples):
    page = Page(write_page(tmp_path, report(), make_examples("tiny")))

    assert page.path == tmp_path / "index.html"
    assert "tiny on photos" in page.words
    assert any(words.startswith("1,200 images, 3 failed") for words in page.words)
    for name, value in FIGURES.items():
        place = page.words.index(name)
        assert page.words[place + 1] == figure_of(name).in_words(value)
    for words in ("crop", "centre 64 px", "mean over <all> images", "rfid is of few images", "photos has no labels"):
        assert words in page.words


def test_nothing_is_said_of_what_there_is_not(tmp_path):
    page = Page(write_page(tmp_path, report(num_images=1, num_failed=0, warnings=[], skipped={}), []))

    assert {attributes["id"] for attributes in page.named("section")} == {"figures", "protocol", "latent-channels"}
    assert any(words.startswith("1 image. ") for words in page.words)
    assert not (tmp_path / "reconstructions.png").exists()


def test_the_better_figure_of_a_row_is_bold_where_it_is_known_which_is_better(tmp_path):
    values = {
        "psnr": (20.0, 21.0, math.nan),
        "rfid": (3.0, 4.0, 5.0),
        "lpips-vgg": (0.1, 0.1, 0.1),
        "probe-latents": (0.5, 0.75, 0.25),
        "structural-loss": (0.5, 0.25, 0.75),
        "dead-channels": (1.0, 2.0, 3.0),
    }
    columns = [{name: row[column] for name, row in values.items()} for column in range(3)]
    evaluations = [Evaluation(name=name, values=column) for name, column in zip("abc", columns, strict=True)]

    page = Page(write_page(tmp_path, report(*evaluations), []))

    assert page.bold == ["21.00 dB", "3", "0.75", "0.25"]


def test_a_figure_that_one_evaluation_lacks_is_a_dash(tmp_path):
    evaluations = Evaluation(name="a", values={"psnr": 20.0}), Evaluation(name="b", values={})

    page = Page(write_page(tmp_path, report(*evaluations), []))

    place = page.words.index("20.00 dB")
    assert page.words[place - 1 : place + 2] == ["psnr", "20.00 dB", "-"]


# What it shows


def test_each_example_has_its_pictures_a_slider_and_its_figures_in_the_order_worst_best_even(tmp_path, make_examples):
    evaluations = [Evaluation(name=name, values={"psnr": 20.0}) for name in "ab"]
    examples = make_examples("a", "b", count=4)

    page = Page(write_page(tmp_path, report(*evaluations), examples))

    shown = [attributes["src"] for attributes in page.named("img")]
    ordered = [example for kind in ("worst", "best", "even") for example in examples if example.kind == kind]
    assert [(tmp_path / source).read_bytes() for source in shown] == [
        png for example in ordered for png in (example.original, example.decoded["a"], example.decoded["b"])
    ]
    sliders = [attributes for attributes in page.named("input") if attributes["type"] == "range"]
    assert [slider["aria-label"] for slider in sliders] == [f"original of {each.key}, %" for each in ordered]
    assert [attributes["value"] for attributes in page.named("option")] == ["1", "2"]
    place = page.words.index(ordered[1].key)
    assert page.words[place : place + 3] == [ordered[1].key, "a", ": psnr 23.25 dB, ssim undefined"]


def test_one_sheet_has_the_originals_above_each_evaluations_reconstructions_pixel_by_pixel(tmp_path, make_examples):
    examples = make_examples("a", "b", count=10)
    evaluations = [Evaluation(name=name, values={}) for name in "ab"]

    write_page(tmp_path, report(*evaluations), examples)

    with Image.open(tmp_path / "reconstructions.png") as image:
        sheet = np.array(image.convert("RGB"))
    rows = [[example.original for example in examples]]
    rows += [[example.decoded[name] for example in examples] for name in "ab"]
    blocks = [row[start : start + 8] for start in (0, 8) for row in rows]
    for number, pngs in enumerate(blocks):
        for column, png in enumerate(pngs):
            top, left = 22 + number * (22 + SIZE + 4), 4 + column * (SIZE + 4)
            with Image.open(BytesIO(png)) as picture:
                np.testing.assert_array_equal(sheet[top : top + SIZE, left : left + SIZE], np.array(picture))


def test_plots_show_the_channels_of_all_evaluations_that_have_latents(tmp_path):
    def colours(*evaluations: Evaluation) -> dict[str, set[tuple[int, ...]]]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        page = Page(write_page(folder, report(*evaluations), []))
        assert len(page.named("img")) == len(list((folder / "plots").iterdir()))
        pictures = {path.stem: Image.open(path).convert("RGB") for path in (folder / "plots").iterdir()}
        return {name: {colour for _, colour in picture.getcolors(2**20)} for name, picture in pictures.items()}

    first, second = (0x2A, 0x6F, 0xBB), (0xD9, 0x82, 0x2B)
    a = Evaluation(name="_a $x$ 猫", values={}, channels=CHANNELS)
    b = Evaluation(name="b" * 300, values={}, channels={"std": [2.0, 1.0]})
    folder_of_images = Evaluation(name="c", values={})

    assert colours(folder_of_images) == {}
    alone, both = colours(folder_of_images, a), colours(a, b)
    assert set(alone) == {"std", "spectrum", "spatial-correlation", "mean"}
    assert all(first in found and second not in found for found in alone.values())
    assert {first, second} <= both["std"]


def test_channels_without_a_finite_value_have_no_plot(tmp_path):
    nothing = Evaluation(name="a", values={}, channels={"std": [math.nan], "spectrum": [0.0, 0.0], "mean": [0.0]})

    write_page(tmp_path, report(nothing), [])

    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["mean.png"]


# That it can be trusted


def test_hostile_keys_and_names_are_words_like_any_other(tmp_path, make_examples):
    def page_of(name: str) -> Page:
        evaluations = [Evaluation(name=each, values={name: 1.0}, channels=CHANNELS) for each in (name, "b")]
        words = {"data": name, "protocol": {name: name}, "skipped": {name: name}, "warnings": [name]}
        examples = make_examples(name, "b", keys={0: name})
        return Page(write_page(tmp_path / str(name == HOSTILE), report(*evaluations, **words), examples))

    page, usual = page_of(HOSTILE), page_of("usual")

    shown = HOSTILE.replace("\udcff", "\\udcff")
    assert [[tag, *attributes] for tag, attributes in page.tags] == [[tag, *found] for tag, found in usual.tags]
    assert [words.replace(shown, "usual") for words in page.words] == usual.words
    assert f"{shown}, b on {shown}" in page.words
    assert any(attributes.get("aria-label") == f"original of {shown}, %" for attributes in page.named("input"))
    assert files_in(page.path.parent).keys() == files_in(usual.path.parent).keys()


def test_the_page_refers_to_files_of_its_own_only_and_to_nothing_elsewhere(tmp_path, make_examples):
    page = Page(write_page(tmp_path, report(), make_examples("tiny")))

    pictures = {"0-0", "0-1", "1-0", "1-1", "2-0", "2-1"}
    plots = {"std", "spectrum", "spatial-correlation", "mean"}
    assert set(page.references) == {
        "report.json",
        "reconstructions.png",
        *(f"images/{name}.png" for name in pictures),
        *(f"plots/{name}.png" for name in plots),
    }
    assert set(files_in(tmp_path)) == {"index.html", *page.references}
    text = page.path.read_text("utf-8")
    assert not any(outside in text for outside in ("http", "//", "url(", "@import", "<link"))


def test_report_json_is_the_report_and_its_examples(tmp_path, make_examples):
    infinite = Evaluation(name="tiny", values={"psnr": math.inf}, channels={"std": [1.0, math.nan]})
    examples = make_examples("tiny", keys={0: HOSTILE})

    page = write_page(tmp_path, report(infinite), examples)

    found = json.loads((tmp_path / "report.json").read_bytes(), parse_constant=pytest.fail)
    expected = report(infinite, page=page).as_dict()
    expected["evaluations"][0]["channels"] = {"std": [1.0, None]}
    expected["examples"] = [
        {"key": each.key, "kind": each.kind, "values": {"tiny": {**each.values["tiny"], "ssim": None}}}
        for each in examples
    ]
    assert found == expected


# Whose files it touches


def test_a_second_report_replaces_the_first_and_touches_no_other_file(tmp_path, make_examples):
    evaluations = [Evaluation(name=name, values={"psnr": 20.0}, channels=CHANNELS) for name in "ab"]
    write_page(tmp_path / "again", report(*evaluations), make_examples("a", "b", count=5))
    others = {
        "notes.txt": b"mine",
        "images/cat.png": b"a cat",
        "images/9-0.png": b"mine too",
        "plots/loss.png": b"loss",
    }
    for name, contents in others.items():
        (tmp_path / "again" / name).write_bytes(contents)
    second = report(Evaluation(name="c", values={"ssim": 0.5}))

    write_page(tmp_path / "again", second, make_examples("c", count=2))
    write_page(tmp_path / "fresh", second, make_examples("c", count=2))

    again, fresh = files_in(tmp_path / "again"), files_in(tmp_path / "fresh")
    assert again.keys() == fresh.keys() | others.keys()
    assert others.items() <= again.items()
    assert all(again[name] == fresh[name] for name in fresh if name != "report.json")
    assert json.loads(again["report.json"])["evaluations"][0]["name"] == "c"


def test_a_report_that_was_cut_off_leaves_no_page_and_can_be_written_again(tmp_path, make_examples):
    write_page(tmp_path, report(), make_examples("tiny"))
    (tmp_path / "reconstructions.png").unlink()
    (tmp_path / "reconstructions.png").mkdir()  # what cannot be written over stops the second

    with pytest.raises(DiskError):
        write_page(tmp_path, report(), make_examples("tiny"))
    assert not (tmp_path / "index.html").exists()

    (tmp_path / "reconstructions.png").rmdir()
    assert write_page(tmp_path, report(), make_examples("tiny")).exists()


def test_an_absent_or_empty_folder_will_do(tmp_path):
    prepare_folder(tmp_path)
    prepare_folder(tmp_path / "absent" / "deep")

    assert write_page(tmp_path / "absent" / "deep", report(), []).exists()


@pytest.mark.parametrize("contents", [b"", b"{", b"[]", b'{"evaluations": []}', b'{"evaluations": 1, "examples": 1}'])
def test_a_folder_with_something_else_is_refused_and_left_as_it_is(tmp_path, contents):
    (tmp_path / "report.json").write_bytes(contents)

    with pytest.raises(UsageError) as refused:
        write_page(tmp_path, report(), [])

    assert str(refused.value) == (
        f"--report {tmp_path} has files and no earlier report of tcae eval; name a new folder"
    )
    assert files_in(tmp_path) == {"report.json": contents}


def test_a_file_is_refused(tmp_path):
    (tmp_path / "page").write_bytes(b"")

    with pytest.raises(UsageError, match="page is a file; name a folder"):
        prepare_folder(tmp_path / "page")
