"""What the page is given: numbers of the run, images made again, refusals in words."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from gridprune.cli.report import report_command
from gridprune.errors import SettingError
from gridprune.eval import data, kept
from gridprune.eval.html.data import numbers, read
from gridprune.eval.html.page import report
from gridprune.eval.html.questions import sample
from gridprune.eval.store import RunFolder

from .conftest import write


def inside(page: str) -> dict:
    """The data of a page."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.fixture(scope="module")
def found(run):
    return inside(report(run, questions=200))


def test_numbers_are_those_of_the_run(run, found):
    config, rows = read(run)
    by = {(row["method"], row["keep"]): row for row in found["rows"]}
    right = [answer == 1 for row in rows for answer in row["answers"]["gridprune|16"]]
    assert by["gridprune", "16"]["accuracy"] == pytest.approx(np.mean(right), abs=1e-4)
    assert by["gridprune", "4"]["retention"] == 0
    assert by["gridprune", "16"]["seconds"] == pytest.approx(0.021)
    assert by["gridprune", "4"]["seconds"] is None  # reading 4 tokens was not timed
    assert sum(kind["asked"] for kind in found["kinds"]) == sum(len(row["questions"]) for row in rows)
    assert {method["label"]: bool(method["note"]) for method in found["methods"]} == {
        "gridprune": False,
        "pooling": True,
    }
    untimed = numbers(config, rows, {})
    assert {row["decide"] for row in untimed["rows"]} == {None}


def test_questions_carry_answers_images_and_kept_tokens(found, asked):
    scenes = list(asked.scenes())
    browser = found["browser"]
    assert [q["text"] for q in browser["questions"]] == [q.text for scene in scenes for q in scene.questions]
    question = browser["questions"][1]
    place = found["cells"].index("gridprune|16")
    assert question["given"][place] == "<b>no</b>"
    stored = browser["scenes"][0]["kept"][place][question["place"]]
    assert np.flatnonzero(kept.unpack(stored, 576)).tolist() == list(range(1, 17))
    image = Image.open(io.BytesIO(base64.b64decode(browser["scenes"][0]["image"].split(",")[1])))
    assert np.array_equal(np.asarray(image), np.asarray(scenes[0].image.convert("RGB")))
    expected = scenes[0].questions[1].boxes
    assert [tuple(box) for box in question["boxes"]] == [tuple(round(v, 4) for v in box) for box in expected]


def test_the_sample_is_whole_scenes_and_bounded(run):
    _, rows = read(run)
    first = len(rows[0]["questions"])
    assert [len(sample(rows, count)) for count in (0, 1, first, first + 1, 999)] == [0, 1, 1, 2, len(rows)]
    assert inside(report(run, questions=0))["browser"]["questions"] == []


def test_a_run_without_kept_tokens_still_shows_its_questions(asked, tmp_path):
    browser = inside(report(write(tmp_path / "old", asked, with_kept=False), questions=5))["browser"]
    assert browser["questions"]
    assert all("kept" not in scene and scene["image"] for scene in browser["scenes"])


def test_images_of_other_questions_are_left_out(run, monkeypatch, asked):
    other = data.generated("dev", 22, seed=5)
    monkeypatch.setattr("gridprune.eval.html.questions.data.generated", lambda *arguments: other)
    browser = inside(report(run, questions=200))["browser"]
    assert {scene["image"] for scene in browser["scenes"]} == {None}
    assert all(question["boxes"] == [] for question in browser["questions"])


def test_own_questions_show_the_part_the_tower_sees(own_file, tmp_path):
    run = write(tmp_path / "own", data.own(own_file))
    lines = [json.loads(line) | {"seen": [0.25, 0, 0.75, 1]} for line in run_lines(run)]
    run.packed_file.unlink()
    run.append(lines)
    run.finish()
    browser = inside(report(run, questions=9, data=own_file))["browser"]
    assert browser["scenes"][0]["size"] == [320, 320]
    assert browser["questions"][0]["boxes"] == [[0, 0, 0.5, 0.5]]
    with pytest.raises(SettingError, match="--data"):
        report(run, questions=9)
    assert inside(report(run, questions=0))["browser"]["scenes"] == []
    own_file.with_name("other.jsonl").write_text(own_file.read_text() + "\n")
    with pytest.raises(SettingError, match="differs"):
        report(run, questions=9, data=own_file.with_name("other.jsonl"))


def run_lines(run: RunFolder) -> list[str]:
    return [json.dumps(row) for row in run.rows()]


def test_refusals_say_what_to_do(run, asked, tmp_path, own_file):
    with pytest.raises(SettingError, match="holds no run"):
        report(RunFolder(tmp_path), questions=1)
    with pytest.raises(SettingError, match="leave --data out"):
        report(run, questions=1, data=own_file)
    unfinished = RunFolder(tmp_path / "cut")
    unfinished.path.mkdir()
    unfinished.config_file.write_text(run.config_file.read_text())
    with pytest.raises(SettingError, match="Continue it first: gridprune eval"):
        report(unfinished, questions=1)


def test_words_of_a_run_cannot_leave_their_place(run):
    page = report(run, questions=200)
    assert page.count("</script>") == 2  # of the data and of the script
    assert "<b>no</b>" not in page
    assert "gridprune eval &lt;/script&gt;" in page


def test_nothing_is_loaded_from_elsewhere(run):
    page = report(run, questions=5)
    assert "default-src 'none'" in page
    assert set(re.findall(r"https?://[^\"'\s)]+", page)) == {"http://www.w3.org/2000/svg"}  # a namespace, never fetched


def test_on_the_command_line(run, tmp_path):
    app = Typer()
    app.command()(report_command)
    target = tmp_path / "new" / "report.html"
    done = CliRunner().invoke(app, [str(run.path), "-o", str(target), "-n", "3"], catch_exceptions=False)
    assert done.exit_code == 0
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
