"""`gridprune serve` under concurrent chat requests: good ones right, bad ones a 4xx, nothing left behind."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from kit import TOKENS, Reference, Request
from models import image, words
from PIL import Image

from benchmarks.vllm_server import running

KEEP = 40


class Server(NamedTuple):
    """A running server."""

    url: str
    reference: Reference


@pytest.fixture(scope="module")
def server(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = checkpoint("llava")
    command = [
        sys.executable, "-c", "from gridprune.cli import app; app()",
        "serve", str(folder), "--keep", str(KEEP), "--dtype", "float32", "--max-model-len", "1024",
        "--max-num-seqs", "8", "--enforce-eager", "--served-model-name", "tiny", "--trust-request-mm-kwargs",
        "--allow-methods", "fastervlm,divprune",
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with running(command, log, VLLM_ENABLE_V1_MULTIPROCESSING="1") as url:
        yield Server(url, Reference(folder, keep=KEEP))


def as_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def body(request: Request, **extra: Any) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": as_url(image)}} for image in request.images]
    content += [{"type": "text", "text": request.turns[0]}]
    options = {"mm_processor_kwargs": request.options()} if request.options() else {}
    chat = {"model": "tiny", "messages": [{"role": "user", "content": content}], "temperature": 0}
    exact = {"max_tokens": TOKENS, "ignore_eos": True, "add_special_tokens": True, "return_token_ids": True}
    return {**chat, **exact, **options, **extra}


async def post(session: aiohttp.ClientSession, server: Server, given: dict[str, Any]) -> tuple[int, Any]:
    async with session.post(f"{server.url}/v1/chat/completions", json=given) as answer:
        return answer.status, {**await answer.json(), "told": told(answer.headers)}


def told(headers: Mapping[str, str]) -> list[str | None]:
    """What the headers of an answer say: method, k and N."""
    return [headers.get(f"gridprune-{name}") for name in ("method", "kept", "total")]


async def leave_early(session: aiohttp.ClientSession, server: Server, given: dict[str, Any]) -> None:
    """Read the first words of a long answer and hang up."""
    answer = await session.post(f"{server.url}/v1/chat/completions", json={**given, "stream": True, "max_tokens": 600})
    assert answer.status == 200
    await answer.content.readline()
    answer.close()


def good() -> list[Request]:
    return [
        Request(
            [image(30 + i)],
            [words(i)],
            None if i % 2 else (17, "25%")[i % 4 // 2],
            method=(None, "fastervlm")[i % 3 // 2],
        )
        for i in range(20)
    ]


WRONG: list[tuple[dict[str, Any], str]] = [  # settings of a request, and what the answer names
    ({"gridprune_kept": 3}, "gridprune_keep, gridprune_min_tokens, gridprune_method, gridprune_question"),
    ({"gridprune_min_tokens": -1}, "whole number"),
    ({"gridprune_method": "visionzip"}, "divprune, fastervlm"),
    ({"gridprune_method": "fastvlm"}, "Known methods"),
    ({"gridprune_method": "fastervlm(zone=3)"}, "It has: keep"),
    ({"gridprune_question": "\ud83d"}, "Unicode"),
    ({"gridprune_question": "why? " * 3000}, "at most 10000"),
]


def bad() -> list[dict[str, Any]]:
    one = Request([image(50)], [words(50)])
    broken, beyond = body(one), [body(one, mm_processor_kwargs=each) for each, _ in WRONG]
    broken["messages"][0]["content"][0]["image_url"]["url"] = "data:image/png;base64,AAAA"
    return [
        body(Request(one.images, one.turns, keep=0)),
        body(Request(one.images, one.turns, keep=999)),
        body(Request(one.images, [""])),
        broken,
        *beyond,
    ]


async def _storm(server: Server, requests: list[Request]) -> tuple[list[tuple[int, Any]], list[tuple[int, Any]]]:
    async with aiohttp.ClientSession() as session:
        right = [post(session, server, body(request)) for request in requests]
        wrong = [post(session, server, given) for given in bad()]
        leaving = leave_early(session, server, body(Request([image(60)], [words(60)])))
        answers = await asyncio.gather(*right, *wrong, leaving)
    return answers[: len(right)], answers[len(right) : -1]


_HELD = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")


async def _held(server: Server) -> dict[str, float]:
    """What the server says it still holds."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/metrics") as answer:
        text = await answer.text()
    return {name: float(re.findall(rf"^vllm:{name}{{.*}} (\S+)$", text, re.MULTILINE)[0]) for name in _HELD}


def tokens(answers: list[tuple[int, Any]]) -> list[list[int]]:
    return [answer["choices"][0]["token_ids"] for _, answer in answers]


def test_32_at_once(server: Server) -> None:
    requests = good()
    expected = [server.reference.tokens(request) for request in requests]
    right, wrong = asyncio.run(_storm(server, requests))
    assert len(right) + len(wrong) + 1 == 32
    assert [status for status, _ in wrong] == [400] * len(wrong), wrong
    assert "keep" in wrong[0][1]["error"]["message"]
    for (_, named), (_, answer) in zip(WRONG, wrong[-len(WRONG) :]):
        assert named in answer["error"]["message"]
    assert [status for status, _ in right] == [200] * len(right), right
    assert tokens(right) == expected
    assert [answer["told"] for _, answer in right] == [
        [request.method or "gridprune", {None: "40", 17: "17", "25%": "36"}[request.keep], "144"]
        for request in requests
    ]
    deadline = time.monotonic() + 60
    while any((held := asyncio.run(_held(server))).values()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not any(held.values()), held
    again, _ = asyncio.run(_storm(server, requests))
    assert tokens(again) == expected


async def _ask(server: Server, given: dict[str, Any]) -> tuple[list[str | None], str]:
    """What the headers say, and the answer as it was sent."""
    url = f"{server.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=given) as answer:
        assert answer.status == 200
        return told(answer.headers), await answer.text()


def test_the_client_hears_what_was_kept(server: Server) -> None:
    """In headers, of each image, cold and warm, streamed or not; the sum also in `usage`, as vLLM counts it."""
    two = Request([image(70), image(71)], [words(70)], method="divprune")
    options = {"mm_processor_kwargs": {**two.options(), "gridprune_keep": [5, "100%"], "gridprune_min_tokens": 9}}
    for _ in range(2):
        heard, answer = asyncio.run(_ask(server, body(two, **options)))
        assert heard == ["divprune", "9, 144", "144, 144"]
        assert json.loads(answer)["usage"]["prompt_tokens_details"]["multimodal_tokens"] == {"image": 153}
    assert asyncio.run(_ask(server, body(two, **options, stream=True)))[0] == heard
    assert asyncio.run(_ask(server, body(Request([], ["what is it?"]))))[0] == [None] * 3


_COUNTED = ("visual_tokens_total", "kept_tokens_total", "decision_seconds_count", "decision_seconds_sum")


async def _counted(server: Server, method: str) -> list[float]:
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/metrics") as answer:
        text = await answer.text()
    assert "gridprune:fallback_images_total{" not in text
    lines = [rf'^gridprune:{name}{{method="{method}",model_name="tiny"}} (\S+)$' for name in _COUNTED]
    return [sum(map(float, re.findall(line, text, re.MULTILINE))) for line in lines]


def test_metrics_count_tokens_where_prompts_are_made_and_decisions_where_the_model_runs(server: Server) -> None:
    before = asyncio.run(_counted(server, "divprune"))
    for question in (80, 80, 81):  # a method without text: the image is encoded, and chosen from, once
        asyncio.run(_ask(server, body(Request([image(80)], [words(question)], method="divprune"))))
    after = asyncio.run(_counted(server, "divprune"))
    total, kept, decisions, seconds = [b - a for a, b in zip(before, after)]
    assert (total, kept, decisions) == (3 * 144, 3 * KEEP, 1)
    assert 0 < seconds < 10
