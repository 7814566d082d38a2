"""Several images and a video on the page, in a browser without a window."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

import pytest

from gridprune.demo.limits import MAX_IMAGES
from gridprune.runtime import answer
from gridprune.tiny.scenes import make_scene

from .conftest import png
from .test_page import OPAQUE, ask, card, figure, set_keep

pytestmark = pytest.mark.usefixtures("browser")


def scenes(*numbers: int) -> list[dict[str, object]]:
    """Images as a browser sends them."""
    return [
        {"name": f"scene {n}.png", "mimeType": "image/png", "buffer": png(make_scene("dev", n).image)} for n in numbers
    ]


def shown(page) -> list[int]:
    """Which images' maps are on the screen."""
    count = page.locator(".gp-views label").count()
    return [number for number in range(count) if page.locator(f".gp-view-{number} .gp-map").first.is_visible()]


def test_two_images_in_one_question(visit, loaded):
    page = visit().page
    page.locator(".gp-drop input").set_input_files(scenes(5, 2))
    both = page.locator(".gp-thumb[aria-pressed=true]")
    both.locator("b", has_text="2").wait_for()
    assert both.get_attribute("title") == "scene 5.png, scene 2.png"
    assert page.locator(".gp-empty img").count() == 2
    ask(page, "Where is the dog?")
    expected = answer(loaded, [make_scene("dev", n).image for n in (5, 2)], "Where is the dog?").text
    assert card(page, 0).locator(".gp-text").inner_text() == expected  # of the stock model, with all tokens of both
    assert [figure(page, number, "visual tokens") for number in (0, 1)] == ["1,152", "128"]
    assert page.locator("#gp-keep").get_by_text("kept of each image, of 576").count() == 1
    assert shown(page) == [0]
    assert page.locator(".gp-view-0 .gp-count").first.inner_text() == "64 of 576 kept"
    page.locator(".gp-views label").nth(1).click()
    assert shown(page) == [1]
    box = page.locator("#gp-keep input[type=number]")
    box.fill("32")
    box.press("Enter")
    page.locator(".gp-view-1 .gp-map[aria-label^='32 of 576']").first.wait_for()
    assert shown(page) == [1]  # another k leaves the choice alone
    page.locator(".gp-thumb").first.click()
    page.locator(".gp-views").wait_for(state="detached")
    set_keep(page, 48)
    assert page.locator(".gp-maps").count() == 1


def test_images_are_chosen_by_keyboard_and_the_focus_is_seen(visit):
    page = visit(width=390, height=844).page
    page.locator(".gp-thumb").last.click()
    page.locator("#gp-view-0").focus()
    page.keyboard.press("ArrowRight")
    assert shown(page) == [1]
    image = page.locator(".gp-views label").nth(1).locator("img")
    assert image.evaluate("e => parseFloat(getComputedStyle(e).outlineWidth)") >= 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(visit, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs gridprune[page-tests]").Axe()
    page = visit(color_scheme=scheme).page
    page.locator(".gp-thumb").last.click()
    page.locator(".gp-views").wait_for()
    page.wait_for_function(OPAQUE)
    found = axe.run(page).response["violations"]
    assert not [each["id"] for each in found if each["impact"] in ("serious", "critical")]


def test_what_cannot_be_sent_says_why(visit, server):
    page = visit().page
    problem = page.locator(".gp-controls .gp-problem")
    video = {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"\0\0\0\x18ftypmp42"}
    broken = {"name": "b.png", "mimeType": "image/png", "buffer": b"words"}
    for files, words in (
        ([video], "images only"),
        (scenes(*range(MAX_IMAGES + 1)), f"at most {MAX_IMAGES} images"),
        ([*scenes(5), broken], "b.png: "),
    ):
        page.locator(".gp-drop input").set_input_files(files)
        problem.filter(has_text=words).wait_for()
    assert page.locator(".gp-thumb").count() == 4
    request = urllib.request.Request(server.url + "/video", b"\0\0\0\x18ftypmp42")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 422
    assert "images only" in refused.value.read().decode()


@pytest.fixture(scope="module")
def video_page(browser):
    """The page over a model that takes videos, in this process."""
    pytest.importorskip("gradio", reason="the page needs gridprune[demo]")
    pytest.importorskip("av", reason="videos need gridprune[video]")
    from gridprune.cli.demo import bind
    from gridprune.demo.server import make_app, serve

    from .videos import video_loaded

    where = bind("127.0.0.1", 0)
    threading.Thread(target=serve, args=(make_app(video_loaded()), where), daemon=True).start()
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(60_000)
    page.goto(f"http://127.0.0.1:{where.getsockname()[1]}")
    page.locator(".gp-map").first.wait_for()
    yield page
    page.context.close()


def test_a_video_shows_a_map_of_each_frame(video_page, tmp_path):
    from .videos import PER_FRAME, video_loaded, write_video

    page, file = video_page, write_video(tmp_path / "short.mp4")
    page.locator(".gp-drop input").set_input_files(file)
    page.locator(".gp-thumb[aria-pressed=true] b", has_text="video").wait_for()
    ask(page, "What is red?")
    from gridprune.runtime.video import read_video

    expected = answer(video_loaded(), read_video(file, MAX_IMAGES), "What is red?").text
    assert card(page, 0).locator(".gp-text").inner_text() == expected
    assert page.locator(".gp-views label").all_inner_texts() == [f"frame {n}" for n in range(1, MAX_IMAGES + 1)]
    assert figure(page, 0, "visual tokens") == str(PER_FRAME * MAX_IMAGES)
    kept = [page.locator(f".gp-view-{n} .gp-count").first.text_content() for n in range(MAX_IMAGES)]
    assert sum(int(words.split()[0]) for words in kept) == PER_FRAME  # the k of the first image stays
    assert {words.split(maxsplit=1)[1] for words in kept} == {f"of {PER_FRAME} kept"}
    page.locator(".gp-views label").last.click()
    assert shown(page) == [MAX_IMAGES - 1]
    assert "read_video('short.mp4'" in page.locator(".gp-code pre").text_content()
