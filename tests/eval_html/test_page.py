"""The page in a browser: filters find what the run says, images show what was kept, nothing is fetched."""

from __future__ import annotations

import pytest

from gridprune.eval.html.data import read
from gridprune.eval.html.page import report


@pytest.fixture(scope="module")
def opened(run, browser, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(report(run, questions=200), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1200, "height": 1000})
    page = context.new_page()
    page.troubles, page.asked = [], []
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("console", lambda message: page.troubles.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: page.asked.append(request.url))
    page.address = file.as_uri()
    page.goto(page.address)
    yield page
    assert page.troubles == []
    context.close()


@pytest.fixture
def page(opened):
    opened.goto("about:blank")
    opened.goto(opened.address)
    return opened


@pytest.fixture(scope="module")
def answers(run):
    """(kind, gridprune right, pooling right) of every question at 16 tokens."""
    _, rows = read(run)
    return [
        (question[1], row["answers"]["gridprune|16"][i] == 1, row["answers"]["pooling|16"][i] == 1)
        for row in rows
        for i, question in enumerate(row["questions"])
    ]


def listed(page) -> int:
    return page.locator("#list li").count()


def test_filters_find_what_the_run_says(page, answers):
    page.select_option("#keep", "16")
    page.select_option("#b", "pooling")
    assert listed(page) == len(answers)
    page.select_option("#outcome", "gain")
    assert listed(page) == sum(a and not b for _, a, b in answers) > 0
    page.select_option("#outcome", "loss")
    assert listed(page) == sum(b and not a for _, a, b in answers) > 0
    page.select_option("#outcome", "any")
    kind = answers[0][0]
    page.select_option("#kind", kind)
    assert listed(page) == sum(name == kind for name, *_ in answers)
    page.select_option("#outcome", "neither")
    page.select_option("#keep", "4")
    assert listed(page) == sum(name == kind for name, *_ in answers)  # nothing is right with 4 tokens
    page.fill("#words", "no question has these words")
    assert listed(page) == 0
    assert "No question fits" in page.inner_text("#detail")


def test_the_image_shows_what_was_kept(page):
    page.select_option("#keep", "16")
    page.select_option("#b", "pooling")
    page.click("#list li:nth-child(2) button")
    extent = "path => [path.getBBox().x, path.getBBox().width]"
    assert page.eval_on_selector("[data-side=A] .edge", extent) == pytest.approx(
        [1 / 24, 16 / 24]
    )  # tokens 1 to 16 of the first row
    assert page.eval_on_selector("[data-side=B] .edge", extent) == pytest.approx([0, 16 / 24])
    assert page.locator("[data-side=A] figcaption b").count() == 0  # an answer is text, whatever it holds
    assert "<b>no</b>" in page.inner_text("[data-side=A] figcaption")
    page.select_option("#b", "all tokens")
    assert page.locator("[data-side=B] .edge").count() == 0


def test_a_press_in_the_gallery_compares(page):
    page.click(".gallery [data-method=pooling]")
    assert page.input_value("#b") == "pooling"
    assert "pooling" in page.inner_text("[data-side=B] figcaption")
    assert "absorbed" in page.inner_text("[data-side=B] figcaption")


def test_lines_come_and_go_and_tell_their_numbers(page):
    assert page.locator("#curve .series").count() == 2
    page.click("#legend [data-method=pooling]")
    assert page.locator("#curve .series").count() == 1
    assert page.locator("#multiples figure:first-child .series").count() == 1
    assert page.get_attribute("#legend [data-method=pooling]", "aria-pressed") == "false"
    page.click("#draw-all")
    assert page.locator("#curve .series").count() == 2
    page.hover("#curve [data-method=gridprune] circle >> nth=-1")
    assert "gridprune" in page.inner_text(".tip")
    assert "16 visual tokens" in page.inner_text(".tip")
    for axis in ("flops", "seconds"):
        page.select_option("#axis", axis)
        assert page.locator("#curve circle").count() == (4 if axis == "flops" else 2)  # two budgets, one was timed


def test_the_table_sorts(page):
    def methods():
        return page.locator("#table-body tbody th").all_inner_texts()

    page.click("[data-sort=method]")
    assert methods() == ["gridprune", "pooling"]
    page.select_option("#measure", "flops")
    assert "all 576 tokens" in page.inner_text("#table-body")


def test_nothing_is_fetched(page):
    assert {address.partition(":")[0] for address in page.asked} <= {"file", "data", "about"}


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1200, "height": 1000})


def test_accessibility(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
