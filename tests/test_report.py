"""The page holds what was measured, loads nothing, takes hostile names as text, and works in a browser."""

import base64
import io
import math
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import PIL.Image
import pytest

from refscale_codec.errors import UsageError
from refscale_codec.study import heatmaps, report
from refscale_codec.study.results import CoderInfo, Comparison, Results, Row
from refscale_codec.study.viewers import Scene

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = '</script><b onclick="x">&amp;<!-- lead -->'
CODERS = ("jpeg", "avif", "x265-reference", "refscale-x2")
VOID = {"meta", "link", "img", "br"}


def results(extra: str = "") -> Results:
    """Return results of two pictures; `extra` is put into every name and text."""
    coders = {name + (extra if name != "jpeg" else ""): "reference" in name or "refscale" in name for name in CODERS}
    rows = tuple(
        Row(
            *(dataset + extra, f"picture{extra}", coder, quality, 1000, {"picture": 1000}),
            *(0.1 * quality, 20.0 + quality + index, 20.0, 1 - 0.1**quality, *[math.nan] * 3, {"encode": 0.2}),
        )
        for dataset in ("fields", "roofs")
        for index, coder in enumerate(coders)
        for quality in (1, 3, 5)
    )

    def compared(dataset: str, coder: str, percent: float, left_out: int = 0, notes: str = "") -> Comparison:
        return Comparison(
            *(dataset if dataset == "all" else dataset + extra, coder + extra, "jpeg", percent, -percent / 20),
            *(2 - left_out, left_out, (notes + extra,) if notes else ()),
        )

    return Results(
        command=f"refscale rd-curve pairs.csv -o report{extra}",
        convention=f"whole file{extra}",
        weights={f"refscale-x2{extra}": "548aea3a8b7f"},
        versions={"refscale": "0.1.0", f"torch{extra}": "2.4"},
        machine={"system": f"Linux{extra}", "threads": 2},
        coders=tuple(
            CoderInfo(name, f"The {name}", needs, name if name.startswith("refscale") else None)
            for name, needs in coders.items()
        ),
        missing={f"jxl{extra}": f"pip install pillow-jxl-plugin{extra}"},
        rows=rows,
        comparisons=(
            compared("fields", "avif", -47.14),
            compared("roofs", "avif", 12.06, 1, "few points"),
            compared("all", "avif", -17.5),
            compared("fields", "refscale-x2", -50.04),
            compared("roofs", "refscale-x2", math.nan, 2, "no PSNR in common"),
            compared("all", "refscale-x2", -50.04),
        ),
    )


def stored(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def scene(extra: str = "", coder: str = "refscale-x2", shade: int = 90) -> Scene:
    """Return a scene 48 wide and 32 high with all layers; `shade` is that of what is the coder's own."""

    def flat(value: int) -> np.ndarray:
        return np.full((32, 48, 3), value, np.uint8)

    layers = {
        "target": stored(flat(200)),
        "reference": stored(flat(150), "JPEG"),
        "reconstruction": stored(flat(shade), "WEBP"),
        "error": stored(flat(shade + 1)),
        "similarity": stored(flat(shade + 2)),
    }
    return Scene("fields" + extra, "picture" + extra, coder + extra, 0.4167, 31.204, 13_655, layers)


class Elements(HTMLParser):
    """Every element of a page: its tag, its attributes and the text directly in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[list[str]] = [[]]
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(self.found[-1][2])

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        self.open[-1].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(text)) for name, attributes, text in self.found if name == tag]


def written(folder: Path, scenes: list[Scene], extra: str = "") -> str:
    return report.write(results(extra), scenes, folder).read_text(encoding="utf-8")


def plain_text(page: str) -> str:
    """Return what a reader sees of a piece of page."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


# --- the page --------------------------------------------------------------------------------------------------------


def test_page_is_one_file_and_the_same_again(tmp_path: Path) -> None:
    path = report.write(results(), [scene()], tmp_path / "new" / "report")
    assert path == tmp_path / "new" / "report" / "report.html"
    assert list(path.parent.iterdir()) == [path]
    first = path.read_bytes()
    assert report.write(results(), [scene()], tmp_path / "new" / "report").read_bytes() == first
    assert first.startswith(b"<!doctype html>")


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    page = written(tmp_path, [scene()])
    without_namespaces = re.sub(r'\sxmlns(:\w+)?="http://www\.w3\.org/[\w/]+"', "", page)
    assert re.search(r"https?:|ftp:|//[\w.-]+\.\w", without_namespaces, re.IGNORECASE) is None
    elements = Elements(page)
    for tag, attributes, _ in elements.found:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
        assert tag not in {"iframe", "object", "embed", "base", "form", "audio", "video"}
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "@import" not in page
    (policy,) = [a["content"] for a, _ in elements.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    assert set(directives) <= {"default-src", "img-src", "style-src", "script-src", "base-uri", "form-action"}


def test_hostile_names_are_text_and_change_no_element(tmp_path: Path) -> None:
    plain, hostile = (
        Elements(written(tmp_path, [scene(extra), scene(extra, "avif", 60)], extra)) for extra in ("", HOSTILE)
    )
    assert [(tag, list(attributes)) for tag, attributes, _ in hostile.found] == [
        (tag, list(attributes)) for tag, attributes, _ in plain.found
    ]
    assert len(hostile.all("script")) == 1
    assert hostile.all("script") == plain.all("script")
    headings = [text for _, text in hostile.all("h3")]
    assert f"picture{HOSTILE} " in headings
    assert [text for _, text in hostile.all("pre")] == [f"refscale rd-curve pairs.csv -o report{HOSTILE}"]
    assert f"refscale-x2{HOSTILE}" in [text for _, text in hostile.all("text")]  # in the curves
    assert f"Reconstruction, avif{HOSTILE}" in [attributes["alt"] for attributes, _ in hostile.all("img")]


def test_both_curves_are_there_and_no_id_is_used_twice(tmp_path: Path) -> None:
    elements = Elements(written(tmp_path, [scene(), scene()._replace(name="another")]))
    plots = [attributes for attributes, _ in elements.all("div") if attributes.get("class") == "plot"]
    assert [(plot["id"], "hidden" in plot) for plot in plots] == [  # MS-SSIM was not measured
        *(("psnr-linear-all", False), ("psnr-log-all", True), ("ssim-linear-all", True), ("ssim-log-all", True))
    ]
    assert len(elements.all("svg")) == 4
    ids = Counter(attributes["id"] for _, attributes, _ in elements.found if "id" in attributes)
    assert {"psnr-linear-all-line-3", "psnr-log-all-line-3", "psnr-linear-all-band-0", "ssim-log-all-label-2"} <= set(
        ids
    )
    assert max(ids.values()) == 1
    used = {a["xlink:href"] for a, _ in elements.all("use")} | {
        f"#{target}" for a, _ in elements.all("g") for target in re.findall(r"url\(#([^)]*)", a.get("clip-path") or "")
    }
    assert used
    assert {str(target).removeprefix("#") for target in used} <= set(ids)


# --- BD-rates --------------------------------------------------------------------------------------------------------


def test_table_marks_what_is_worse_what_is_best_and_what_is_missing(tmp_path: Path) -> None:
    page = written(tmp_path, [])
    page = page[page.index("By dataset, against jpeg") :]
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    rows = [re.findall(r"<t[dh][^>]*>.*?</t[dh]>", row) for row in body.split("</tr>")[:-1]]
    assert [[plain_text(cell).strip() for cell in row] for row in rows] == [
        ["fields 2 pictures", "−50.0 % +2.50 dB", "−47.1 % +2.36 dB"],
        ["roofs 2 pictures", "– 1", "▲ +12.1 % worse than jpeg 2 −0.60 dB 1 of 2 pictures"],
        ["all 2 pictures", "−50.0 % +2.50 dB", "−17.5 % +0.88 dB"],
    ]
    kinds = [[re.findall(r'^<td class="(\w+)"', cell) for cell in row[1:]] for row in rows]
    assert kinds == [[["best"], []], [[], ["thin"]], [["best"], []]]
    notes = page[page.index("<ol>") : page.index("</ol>")]
    assert (
        plain_text(notes).strip() == "2 of 2 pictures left out; no PSNR in common 1 of 2 pictures left out; few points"
    )


def test_lead_is_refscale_over_everything_better_or_worse_and_of_most_pictures(tmp_path: Path) -> None:
    def lead(percent: float, left_out: int = 0, pictures: int = 2) -> str:
        *others, last = results().comparisons
        changed = replace(last, percent=percent, pictures=pictures, left_out=left_out)
        best = replace(changed, anchor="x265-reference")
        page = report.write(replace(results(), comparisons=(*others, changed, best)), [], tmp_path)
        text = page.read_text(encoding="utf-8")
        return text[text.index("</p>") : text.index("<main>")]

    both = [f"refscale-x2 against {anchor} at equal PSNR, mean of 2 pictures" for anchor in ("x265-reference", "jpeg")]
    assert [plain_text(lead(-50.04)).find(f"50.0 % fewer bits {text}") > 0 for text in both] == [True, True]
    assert 'class="worse"' not in lead(-50.04)
    assert "7.3 % more bits" in plain_text(lead(7.3))
    assert 'class="worse"' in lead(7.3)
    assert "mean of 2 of 3 pictures" in lead(-50.04, left_out=1)
    assert "at equal PSNR, one picture" in lead(-50.04, pictures=1)
    for pictures, left_out, percent in ((1, 1, -50.04), (0, 2, math.nan)):
        text = plain_text(lead(percent, left_out, pictures))
        assert f"No mean for refscale-x2 against jpeg: only {pictures} of 2 pictures can be compared" in text
        assert "bits" not in text


def test_few_curves_come_first_where_there_are_many(tmp_path: Path) -> None:
    many = results()
    others = tuple(CoderInfo(f"codec-{number}", "Another", False) for number in range(4))
    rows = tuple(replace(row, coder=of.name) for of in others for row in many.rows if row.coder == "jpeg")
    many = replace(many, coders=(*many.coders, *others), rows=many.rows + rows)
    elements = Elements(report.write(many, [], tmp_path).read_text(encoding="utf-8"))
    plots = [attributes["id"] for attributes, _ in elements.all("div") if attributes.get("class") == "plot"]
    assert plots[:2] == ["psnr-linear-few", "psnr-linear-all"]
    lines = {
        prefix: sum(str(a.get("id")).startswith(f"{prefix}-line-") for _, a, _ in elements.found)
        for prefix in plots[:2]
    }
    assert lines == {"psnr-linear-few": 4, "psnr-linear-all": 8}
    assert sum("hidden" in attributes for attributes, _ in elements.all("button")) == 4  # of coders that are not shown


def test_every_point_of_every_picture_is_in_its_table(tmp_path: Path) -> None:
    percents = {("fields", "picture", "refscale-x2", "x265-reference"): -12.34}
    page = report.write(results(), [], tmp_path, percents).read_text(encoding="utf-8")
    section = page[page.index('id="each"') : page.index('id="measured"')]
    assert section.count("<details") == 2
    assert "−12.3 % against x265-reference" in plain_text(section)
    rows = [plain_text(row).split() for row in section.split("<tr>")[1:]]
    assert ["3", "1,000", "0.300", "26.00", "0.9990", "–", "0.200", "–"] in rows
    assert len(rows) == 2 * (1 + 4 * 3)


def test_summary_has_bits_and_times_of_every_coder(tmp_path: Path) -> None:
    page = written(tmp_path, [])
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    rows = [plain_text(row).strip() for row in body.split("</tr>")[:-1]]
    assert rows[0] == "refscale-x2 The refscale-x2 −50.0 % 4.891 –"  # 0.2 s of 8000 bits, at 0.1, 0.3 and 0.5 a pixel
    assert len(rows) == 4


def test_nothing_measured_is_a_page_too(tmp_path: Path) -> None:
    empty = replace(results(), coders=(), rows=(), comparisons=(), missing={})
    page = report.write(empty, [], tmp_path).read_text(encoding="utf-8")
    assert "Nothing was compared." in page
    assert "0 coders, 0 pictures, 0 datasets" in page
    assert "Picture by picture" not in page
    assert 'id="pictures"' not in page
    assert "not installed" not in page


def test_how_it_was_measured_is_on_the_page(tmp_path: Path) -> None:
    page = written(tmp_path, [])
    section = plain_text(page[page.index('id="measured"') : page.index("<script>")]).replace(" ,", ",")
    for fact in (
        "refscale rd-curve pairs.csv -o report",
        "Convention whole file",
        "system Linux, threads 2",
        "refscale 0.1.0, torch 2.4",
        "refscale-x2 548aea3a8b7f",
        "avif: The avif",
        "jxl pip install pillow-jxl-plugin",
    ):
        assert fact in section


# --- pictures --------------------------------------------------------------------------------------------------------


def test_layers_are_embedded_byte_for_byte_with_their_type(tmp_path: Path) -> None:
    shown = scene()
    images = [attributes for attributes, _ in Elements(written(tmp_path, [shown])).all("img")]
    assert [image["alt"] for image in images] == [
        "Target", "Reference", "Reconstruction", "Error heat map", "Similarity map",
    ]  # fmt: skip
    types = ["image/png", "image/jpeg", "image/webp", "image/png", "image/png"]
    for image, kind, data in zip(images, types, shown.layers.values(), strict=True):
        head, _, payload = str(image["src"]).partition(",")
        assert head == f"data:{kind};base64"
        assert base64.b64decode(payload) == data
    assert ["hidden" in image for image in images] == [False, True, True, True, True]


def test_coders_of_one_picture_share_a_viewer_and_its_target(tmp_path: Path) -> None:
    page = written(tmp_path, [scene(), scene(coder="avif", shade=60)._replace(psnr=math.inf)])
    assert page.count('class="viewer"') == 1
    assert [attributes["alt"] for attributes, _ in Elements(page).all("img")] == [
        "Target", "Reference",
        "Reconstruction, refscale-x2", "Error heat map, refscale-x2", "Similarity map, refscale-x2",
        "Reconstruction, avif", "Error heat map, avif", "Similarity map, avif",
    ]  # fmt: skip
    caption = plain_text(page[page.index("<figcaption>") : page.index("</figcaption>")])
    assert "refscale-x2 : 13,655 bytes, 0.417 bits per pixel, PSNR 31.20 dB" in caption
    assert "avif : 13,655 bytes, 0.417 bits per pixel, lossless" in caption
    assert "Error: 0 32 or more levels of 255 (mean of R, G, B)" in caption
    assert written(tmp_path, [scene(), scene()._replace(dataset="roofs")]).count('class="viewer"') == 2


def test_layer_that_is_no_picture_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a PNG, WebP or JPEG file"):
        report.write(results(), [scene()._replace(layers={"target": b"<svg onload=x>"})], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_error_heat_map_is_the_mean_of_the_channels_on_a_fixed_scale() -> None:
    target = np.full((1, 5, 3), 100, np.uint8)
    decoded = target.copy()
    decoded[0, 1:] = [[100, 148, 100], [132, 68, 132], [0, 255, 7], [96, 100, 100]]  # mean error 16, 32, more, 4 / 3
    inferno = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    assert np.array_equal(heatmaps.error(target, decoded).pixels[0], inferno[[0, 128, 255, 255, 11]])
    assert np.array_equal(heatmaps.error(decoded, target).pixels, heatmaps.error(target, decoded).pixels)
    with pytest.raises(ValueError, match="different shape"):
        heatmaps.error(target, decoded[:, :4])


def test_similarity_heat_map_stretches_levels_over_the_picture() -> None:
    levels = np.array([[0, 1, 2], [3, 0, 1]], np.uint8)
    viridis = matplotlib.colormaps["viridis"](np.arange(256), bytes=True)[:, :3]
    enlarged = np.array([[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 0, 0, 1], [3, 3, 0, 0, 1]])
    assert np.array_equal(heatmaps.similarity(levels, 4, 4, 5).pixels, viridis[85 * enlarged])
    for map_levels in (1, 3):
        with pytest.raises(ValueError, match="no map of levels"):
            heatmaps.similarity(levels, map_levels, 4, 5)


def test_without_matplotlib_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'refscale-codec\[rd\]'"):
        report.write(results(), [], tmp_path)
    with pytest.raises(UsageError, match="rd"):
        heatmaps.error(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1, 3), np.uint8))


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Chromium without a window, driven by Playwright; skipped without either, unless REFSCALE_REQUIRE_BROWSER=1."""
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        no_browser("Playwright is not installed: pip install playwright")
    if executable is None:
        no_browser(f"none of {', '.join(names)} is on the path: apt-get install chromium")
    quiet = ("quic", "gpu", "background-networking", "component-update", "sync")
    arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=arguments, headless=True)
        yield launched
        launched.close()


def no_browser(reason: str) -> None:
    if os.environ.get("REFSCALE_REQUIRE_BROWSER") == "1":
        pytest.fail(f"REFSCALE_REQUIRE_BROWSER=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def opened(browser: "Browser", path: Path, **options: Any) -> "tuple[Page, list[str]]":
    """Open a page; what it complains about or asks the network for is collected in the list."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(20_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("data:") else complaints.append(request.url))
    page.goto(path.as_uri())
    assert complaints.pop(0) == path.as_uri()
    return page, complaints


def shown_layers(page: "Page") -> dict[str, str]:
    """Return the layers that are seen and how each is clipped."""
    return dict(
        page.eval_on_selector_all(
            ".stage img", "all => all.filter(i => i.offsetParent).map(i => [i.alt, i.style.clipPath])"
        )
    )


def assert_divider_at(page: "Page", percent: int) -> None:
    slider, view = page.get_by_role("slider"), page.locator(".view").bounding_box()
    assert view is not None
    assert slider.get_attribute("aria-valuenow") == str(percent)
    (clip,) = [clip for clip in shown_layers(page).values() if clip]
    cut = float(re.fullmatch(r"inset\(0px 0px 0px ([\d.]+)px\)", clip)[1])  # type: ignore[index]
    assert cut == pytest.approx(percent / 100 * view["width"], abs=0.006 * view["width"])


def test_page_works_in_a_browser(browser: "Browser", tmp_path: Path) -> None:
    path = report.write(results(HOSTILE), [scene(HOSTILE)], tmp_path)
    page, complaints = opened(browser, path, viewport={"width": 1000, "height": 800})
    page.locator(".frame").scroll_into_view_if_needed()
    view = page.locator(".view").bounding_box()
    handle = page.get_by_role("slider").bounding_box()
    assert view is not None and handle is not None
    assert set(shown_layers(page)) == {"Target", "Reconstruction"}
    assert_divider_at(page, 50)

    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(view["x"] + 0.8 * view["width"], view["y"] + 5, steps=4)
    page.mouse.up()
    page.mouse.move(view["x"] + 0.1 * view["width"], view["y"] + 5)  # let go: it stays
    assert_divider_at(page, 80)
    for key, percent in (
        ("ArrowLeft", 79),
        ("Shift+ArrowLeft", 69),
        ("ArrowRight", 70),
        ("End", 100),
        ("PageDown", 90),
    ):
        page.keyboard.press(key)
        assert_divider_at(page, percent)
    page.mouse.click(view["x"] + 0.25 * view["width"], view["y"] + 20)
    assert_divider_at(page, 25)

    page.locator("select.right").select_option(label="Error heat map")
    assert set(shown_layers(page)) == {"Target", "Error heat map"}
    assert page.locator(".tag.right").text_content() == "Error heat map"
    assert_divider_at(page, 25)
    page.locator("select.right").select_option(label="Target")
    assert shown_layers(page) == {"Target": ""}

    image = page.locator(".stage img").first
    fitted = image.bounding_box()
    page.locator("[data-zoom='2']").click()
    zoomed = image.bounding_box()
    assert fitted is not None and zoomed is not None
    assert (zoomed["width"], zoomed["height"]) == (96, 64) != (fitted["width"], fitted["height"])
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"

    page.locator("[data-value=log]").click()
    page.locator("[data-value=ssim]").click()
    assert page.locator("#ssim-log-all").is_visible()
    assert not page.locator("#psnr-linear-all").is_visible()
    page.locator("[data-coder='3']").click()
    assert page.locator("#ssim-log-all .on").count() == page.locator("#psnr-linear-all .on").count() == 4
    assert complaints == []


def test_page_fits_a_phone_and_follows_a_finger(browser: "Browser", tmp_path: Path) -> None:
    wide = results()
    others = [f"codec-{number}" for number in range(12)]
    wide = replace(
        wide,
        coders=(*wide.coders, *(CoderInfo(name, "Another", False) for name in others)),
        comparisons=(*wide.comparisons, *(replace(wide.comparisons[1], coder=name) for name in others)),
    )
    path = report.write(wide, [scene()], tmp_path)
    page, complaints = opened(browser, path, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("document.querySelectorAll('.wide')[1].scrollWidth") > 800  # it is the table that scrolls
    page.locator(".frame").scroll_into_view_if_needed()
    view = page.locator(".view").bounding_box()
    assert view is not None
    page.touchscreen.tap(view["x"] + 0.7 * view["width"], view["y"] + view["height"] / 2)
    assert_divider_at(page, 70)
    assert complaints == []


def test_page_is_dark_where_the_reader_likes_it_dark(browser: "Browser", tmp_path: Path) -> None:
    path = report.write(results(), [], tmp_path)
    brightness = {}
    for scheme in ("light", "dark"):
        page, complaints = opened(browser, path, color_scheme=scheme)
        picture = PIL.Image.open(io.BytesIO(page.locator("#curves").screenshot())).convert("L")
        brightness[scheme] = float(np.mean(picture))
        assert complaints == []
    assert brightness["light"] > 230
    assert brightness["dark"] < 50
