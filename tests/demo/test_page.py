"""The page as visitors use it, in a browser without a window."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from gridprune.demo.limits import MAX_BYTES
from gridprune.methods import get
from gridprune.methods.registry import summary

from .conftest import png

pytestmark = pytest.mark.usefixtures("server", "browser")


def card(page, number: int):
    return page.locator(".gp-card").nth(number)


def figure(page, number: int, name: str) -> str:
    """A number of a card, such as its visual tokens."""
    return card(page, number).locator("dl > div", has_text=name).locator("dd").first.inner_text()


def wait_for_tokens(page, number: int, tokens: int) -> None:
    card(page, number).locator("dd", has_text=re.compile(rf"^{tokens}$")).wait_for()


def set_keep(page, tokens: int) -> None:
    box = page.locator("#gp-keep input[type=number]")
    box.fill(str(tokens))
    box.press("Enter")
    wait_for_tokens(page, 1, tokens)


def ask(page, question: str) -> None:
    page.locator("#gp-ask textarea").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".gp-question", has_text=question).wait_for()


def choose(page, box: str, name: str) -> None:
    page.locator(f"{box} input").click()
    page.get_by_role("option", name=name, exact=True).click()


def _plain(sentence: str) -> str:
    """Without its marks of code and emphasis."""
    return sentence.replace("`", "").replace("*", "")


def there(url: str) -> bool:
    """Whether the server still has what the link names."""
    try:
        with urllib.request.urlopen(url) as reply:
            return reply.status == 200
    except urllib.error.HTTPError as error:
        return error.code != 404


def test_the_first_answer_comes_unasked(visit):
    page = visit().page
    assert card(page, 0).get_by_role("heading").inner_text() == "all tokens"
    assert figure(page, 0, "visual tokens") == "576"
    assert figure(page, 1, "visual tokens") == "64"
    assert all(card(page, number).locator(".gp-text").inner_text().strip() for number in (0, 1))
    assert float(figure(page, 1, "KV memory").split()[0]) < float(figure(page, 0, "KV memory").split()[0])
    assert page.locator(".gp-thumb").count() == 4


def test_upload_ask_and_a_second_turn(visit, upload):
    page = visit().page
    page.locator(".gp-drop input").set_input_files(upload)
    page.locator(".gp-thumb[title='own image.png'][aria-pressed=true]").wait_for()
    page.get_by_role("img", name="own image.png").last.wait_for()  # nothing was asked about it yet
    assert page.locator(".gp-map").count() == 0
    ask(page, "What does the blue sign say?")
    first = card(page, 1).locator(".gp-text").inner_text()
    page.get_by_label("Follow-up").check()
    ask(page, "Where is the dog?")
    past = page.locator(".gp-past")
    past.locator("summary").click()
    assert "What does the blue sign say?" in past.inner_text()
    assert first in past.inner_text()
    assert "history" in page.locator(".gp-code pre").text_content()
    page.locator(".gp-thumb").first.click()  # back to the first image, whose turn is still there
    page.locator(".gp-question", has_text="What does the sign say?").wait_for()


def test_the_answer_follows_k_while_it_is_dragged(visit):
    page = visit().page
    slider = page.locator("#gp-keep input[type=range]")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 64 / 576, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.4, middle, steps=4)
    card(page, 1).locator("dl > div", has_text="visual tokens").filter(has_not_text="64").wait_for()  # still held
    page.mouse.up()
    tokens = int(page.locator("#gp-keep input[type=number]").input_value())
    wait_for_tokens(page, 1, tokens)
    assert f"{tokens} of 576" in page.locator(".gp-map").first.get_attribute("aria-label")
    assert f"keep={tokens}" in page.locator(".gp-code pre").text_content()


def test_compare_with_a_second_method(visit):
    page = visit().page
    choose(page, "#gp-compare", "fastervlm")
    card(page, 2).get_by_role("heading", name="fastervlm").wait_for()
    assert page.locator(".gp-map").count() == 2
    choose(page, "#gp-compare", "fastv")  # cannot keep 64 of 576 on average over its layers
    card(page, 2).get_by_role("alert").wait_for()
    assert "keep at least" in card(page, 2).inner_text()
    choose(page, "#gp-compare", "nothing")
    card(page, 2).wait_for(state="detached")


def test_settings_of_gridprune(visit):
    page = visit().page
    code = page.locator(".gp-code pre")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("as printed").check()
    card(page, 1).get_by_role("heading", name="gridprune-literal").wait_for()
    zone = page.get_by_role("spinbutton", name=re.compile("Zone side"))
    zone.fill("4")
    zone.press("Enter")
    page.locator(".gp-code pre", has_text="zone=4").wait_for(state="attached")
    assert "gridprune-literal" in code.text_content()
    assert page.locator(".gp-map").first.locator(".gp-zones rect").count() == 36


def test_layers_and_what_a_patch_says(visit):
    page = visit().page
    for layer in ("zones", "relevance", "saliency", "score"):
        page.locator(f"#gp-layer-{layer}").check(force=True)
        assert page.locator(f".gp-map g.gp-{layer}").first.is_visible()
        assert not page.locator(".gp-map .gp-edge").first.is_visible()
    map_, tip = page.locator(".gp-map").first, page.locator(".gp-tip").first
    map_.scroll_into_view_if_needed()
    map_.hover(position={"x": 8, "y": 8})
    words = tip.inner_text()
    assert "row 1, column 1" in words
    assert all(name in words for name in ("relevance", "saliency", "score", "zone 1"))
    map_.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert "row 2, column 2" in tip.inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_downloads_and_the_file_works_alone(visit, browser, tmp_path):
    page = visit().page
    saved = {}
    for ending in ("PNG", "JSON", "HTML"):
        with page.expect_download() as started:
            page.get_by_role("link", name=ending, exact=True).click()
        saved[ending] = tmp_path / f"saved.{ending.lower()}"
        started.value.save_as(saved[ending])
    with Image.open(saved["PNG"]) as image:
        assert image.width > 3 * image.height
    told = json.loads(saved["JSON"].read_text())
    assert len(told["answers"][1]["kept_indices"]) == 64
    alone, urls = browser.new_page(), []
    alone.on("request", lambda request: urls.append(request.url))
    alone.goto(saved["HTML"].as_uri())
    alone.locator("#gp-layer-zones").check(force=True)
    assert alone.locator(".gp-map g.gp-zones").first.is_visible()
    alone.locator(".gp-map").first.hover(position={"x": 8, "y": 8})
    assert "row 1, column 1" in alone.locator(".gp-tip").first.inner_text()
    assert {urlsplit(url).scheme for url in urls} <= {"file", "data"}
    alone.close()


def test_copy_as_python(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"]).page
    page.get_by_role("button", name="Copy as Python").click()
    page.get_by_role("button", name="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "create('gridprune', keep=64)" in copied
    compile(copied, "copied.py", "exec")


def test_files_that_are_refused_say_why(visit, tmp_path):
    page = visit().page
    problem = page.locator(".gp-controls .gp-problem")
    refused = {
        "text.png": (b"this is text", "not an image"),
        "huge.png": (bytes(MAX_BYTES + 1), f"at most {MAX_BYTES:,} are read"),
        "bomb.png": (png(Image.new("1", (20_000, 20_000))), "decode safely"),
    }
    for name, (content, words) in refused.items():
        (tmp_path / name).write_bytes(content)
        page.locator(".gp-drop input").set_input_files(tmp_path / name)
        problem.filter(has_text=words).wait_for()
    assert page.locator(".gp-thumb").count() == 4
    assert page.locator(".gp-map").first.is_visible()  # what was there stays
    page.locator(".gp-thumb").nth(1).click()
    problem.wait_for(state="detached")


def test_an_empty_question_says_what_to_do(visit):
    page = visit().page
    page.locator("#gp-ask textarea").fill("  ")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".gp-controls .gp-problem", has_text="The question is empty").wait_for()


def test_the_page_says_what_the_embedded_model_knows_and_refuses_the_rest(visit):
    page = visit().page
    assert "mushroom" in page.locator(".gp-known").inner_text()
    page.locator("#gp-ask textarea").fill("What is the meaning of life?")
    page.locator("#gp-ask textarea").press("Enter")
    page.locator(".gp-controls .gp-problem", has_text="does not know 'meaning', 'life'").wait_for()
    assert page.locator(".gp-question").inner_text() == "What does the sign say?"  # the last answer stays


def test_methods_and_maps_say_what_they_are(visit):
    page = visit().page
    assert _plain(summary(get("gridprune"))) in page.locator("#gp-method").inner_text()
    choose(page, "#gp-compare", "fastervlm")
    page.locator("#gp-compare", has_text=_plain(summary(get("fastervlm")))).wait_for()
    for layer in ("kept", "zones", "relevance", "saliency", "score", "photo"):
        page.locator(f"#gp-layer-{layer}").check(force=True)
        assert page.locator(".gp-says:visible").count() == 1
        assert page.locator(f".gp-says-{layer}").is_visible()


def test_the_smallest_k_with_the_same_answer(visit):
    page = visit().page
    page.get_by_role("button", name="Smallest k").click()
    page.locator(".gp-found", has_text="is the smallest that gives “stop”").wait_for()
    keep = int(page.locator(".gp-found b").inner_text().removeprefix("k = "))
    wait_for_tokens(page, 1, keep)
    page.wait_for_function(f"document.querySelector('#gp-keep input[type=number]').value === '{keep}'")
    assert card(page, 1).locator(".gp-yes").is_visible()
    set_keep(page, 64)
    page.locator(".gp-found").wait_for(state="detached")  # it was about another k


def test_a_long_list_scrolls_inside_and_covers_no_header(visit):
    page = visit(width=1280, height=800).page
    page.locator("#gp-method input").click()
    page.get_by_role("option").first.wait_for()
    header, opened = page.locator(".gp-head").bounding_box(), page.locator("[role=listbox]").bounding_box()
    assert opened["y"] > header["y"] + header["height"]
    assert page.locator("[role=listbox]").evaluate("e => e.scrollHeight > e.clientHeight")
    last = page.get_by_role("option").last
    last.scroll_into_view_if_needed()
    assert last.bounding_box()["y"] < opened["y"] + opened["height"]


def test_dropdowns_close(visit):
    page = visit().page
    options = page.get_by_role("option")
    closers = {"Escape": lambda: page.keyboard.press("Escape"), "outside": lambda: page.locator(".gp-question").click()}
    for close in closers.values():
        page.locator("#gp-method input").click()
        options.first.wait_for()
        close()
        options.first.wait_for(state="detached")
    assert page.locator("#gp-method input").input_value() == "gridprune"


def test_what_has_the_focus_shows_it(visit):
    page = visit().page
    page.locator("#gp-ask textarea").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        width = page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
        hidden = page.evaluate("document.activeElement.matches('.gp-layers input, .gp-drop input')")
        assert hidden or width >= 2, page.evaluate("document.activeElement.outerHTML.slice(0, 200)")


def test_a_phone_shows_the_answer_after_asking(visit):
    page = visit(width=390, height=844).page
    page.locator("#gp-ask textarea").fill("Where is the key?")
    page.locator("#gp-ask textarea").press("Enter")
    page.locator(".gp-question", has_text="Where is the key?").wait_for()
    page.wait_for_function(
        "(() => { const text = document.querySelector('.gp-text').getBoundingClientRect();"
        " return text.top >= 0 && text.bottom <= innerHeight; })()"
    )


def test_a_visitor_who_leaves_is_forgotten(visit, server):
    page = visit().page
    saved = server.url + page.get_by_role("link", name="JSON").get_attribute("href").removeprefix(".")
    assert there(saved)
    page.close()
    for _ in range(120):  # the server notices with the next heartbeat
        if not there(saved):
            return
        time.sleep(0.5)
    pytest.fail("what a visitor saw can still be downloaded a minute after the page was closed")


def test_two_visitors_at_once(visit):
    one, two = visit().page, visit().page
    questions = {one: "Where is the key?", two: "Is the clock below the bus?"}
    for page, question in questions.items():
        page.locator("#gp-ask textarea").fill(question)
    for page in questions:
        page.get_by_role("button", name="Ask", exact=True).click()
    for page, question in questions.items():
        page.locator(".gp-question", has_text=question).wait_for()
    set_keep(one, 100)
    assert figure(two, 1, "visual tokens") == "64"
    keys = [page.get_by_role("link", name="JSON").get_attribute("href") for page in questions]
    assert keys[0] != keys[1]


def test_narrow_screens_do_not_scroll_sideways(visit):
    page = visit(width=820).page
    for width in (820, 390, 320):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for kind in (".gp-map", ".gp-card", ".gp-layers", "#gp-keep"):
            box = page.locator(kind).first.bounding_box()
            assert box["x"] >= 0, (width, kind)
            assert box["x"] + box["width"] <= width, (width, kind)


OPAQUE = """() => {
    for (let e = document.querySelector('.gp-all'); e; e = e.parentElement)
        if (getComputedStyle(e).opacity !== '1') return false;
    return true;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(visit, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs gridprune[page-tests]").Axe()
    page = visit(color_scheme=scheme).page
    page.get_by_role("button", name="Settings").click()
    page.locator(".gp-code summary").click()
    page.locator("#gp-ask textarea").fill(" ")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".gp-problem").wait_for()
    page.wait_for_function(OPAQUE)  # Gradio fades what is being updated
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        result = axe.run(page).response
        assert len(result["passes"]) > 20  # it did look
        serious = [
            f"{found['id']}: {node['target']} {node['failureSummary']}"
            for found in result["violations"]
            if found["impact"] in ("serious", "critical")
            for node in found["nodes"]
        ]
        assert not serious, "\n".join(serious)


def test_nothing_leaves_this_machine_and_nothing_is_left_on_it(visit, server, upload):
    visitor = visit()
    page = visitor.page
    page.locator(".gp-drop input").set_input_files(upload)
    page.locator(".gp-thumb[title='own image.png'][aria-pressed=true]").wait_for()
    ask(page, "Where is the star?")
    set_keep(page, 96)
    with page.expect_download() as started:
        page.get_by_role("link", name="PNG", exact=True).click()
    Path(started.value.path()).unlink()
    hosts = {urlsplit(url).hostname for url in visitor.urls if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert server.stray.read_text() == ""
    assert not [file for file in server.temporary.rglob("*") if file.is_file()]
    assert not visitor.errors
    secrets = (str(server.temporary), str(server.log.parent), "site-packages", "Traceback")
    for request in visitor.finished:
        reply = request.response()
        if "heartbeat" not in request.url and "text" in reply.headers.get("content-type", ""):
            assert not [secret for secret in secrets if secret in reply.text()], request.url
