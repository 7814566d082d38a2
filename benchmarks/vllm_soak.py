"""Load on a pruning server: many clients, malformed requests, clients that hang up; then: is anything wrong or lost?

Distinct requests are asked alone first. Under load every answer is compared with the one it had alone, every malformed
request must get its 400, and between them stand images that nobody sent before, which no cache holds. Read on the way:
resident memory of engine and server; at the end: requests and KV blocks that the server still holds. Run it in vLLM's
environment, with the embedded model, a checkpoint folder or a hub id:

    PYTHONPATH=tests/vllm/startup .venv-vllm/bin/python -m benchmarks.vllm_soak embedded --requests 5000

Ends with status 1 if an answer was wrong, a block was kept, or memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import itertools
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from PIL import Image

from gridprune.cli.serve import command_line
from gridprune.tiny.data import iter_examples

from .vllm_server import running

NAME, TOKENS = "soak", 12
CLEAR = 0.05  # nats: answers with two nearer candidates may change with the batch they are computed in
GROWTH = 0.02  # of the engine's memory, between the second and the last quarter of the run
HELD = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
Body = dict[str, Any]


def shown(number: int, side: int) -> Image.Image:
    """An image that no other number has."""
    blocks = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST)


def asked(model: str, side: int) -> Iterator[tuple[Image.Image, str]]:
    """Images and questions without end: scenes for the embedded model, coloured blocks and words for any other."""
    if model == "embedded":
        yield from ((example.image, example.question) for example in iter_examples("dev", 10**6))
    for number in itertools.count():
        words = np.random.default_rng(number).integers(0, 300, 5)
        yield shown(number, side), " ".join(f"w{word}" for word in words)


def body(image: Image.Image, question: str, keep: int | None = None, **extra: Any) -> Body:
    """A greedy chat request of a fixed length."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    own = {} if keep is None else {"mm_processor_kwargs": {"gridprune_keep": keep}}
    return {
        "model": NAME, "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": TOKENS,
        "ignore_eos": True, "add_special_tokens": True, "return_token_ids": True, **own, **extra,
    }  # fmt: skip


def malformed(image: Image.Image, question: str) -> list[Body]:
    """Requests that deserve a 400: budgets, names, an empty question, bytes that are no image."""
    broken = body(image, question)
    broken["messages"][0]["content"][0]["image_url"]["url"] = "data:image/png;base64,AAAA"
    options = ({"gridprune_keep": 0}, {"gridprune_keep": 10**6}, {"gridprune_kept": 3})
    return [*(body(image, question, mm_processor_kwargs=each) for each in options), body(image, ""), broken]


@dataclass
class Soak:
    """One run against a server that answers.

    Attributes:
        url: where it answers.
        counts: what came back: "right", "wrong", "new", "refused", "left", and anything that must not be.
        memory: seconds, requests done, and MB of engine and server.
    """

    url: str
    counts: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, int, float, float]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    async def ask(self, session: aiohttp.ClientSession, given: Body) -> tuple[int, Any]:
        async with session.post(f"{self.url}/v1/chat/completions", json=given) as answer:
            return answer.status, await answer.json()

    async def alone(self, session: aiohttp.ClientSession, given: Body) -> list[int] | None:
        """The answer of an idle server; None if it was nearly another."""
        status, answer = await self.ask(session, {**given, "logprobs": True, "top_logprobs": 2})
        if status != 200:
            raise RuntimeError(f"a good request got {status}: {answer}")
        (choice,) = answer["choices"]
        best = [[top["logprob"] for top in step["top_logprobs"]] for step in choice["logprobs"]["content"]]
        return choice["token_ids"] if min(abs(first - second) for first, second in best) > CLEAR else None

    async def good(self, session: aiohttp.ClientSession, given: Body, expected: list[int]) -> str:
        status, answer = await self.ask(session, given)
        return (
            ("right" if answer["choices"][0]["token_ids"] == expected else "wrong")
            if status == 200
            else f"good {status}"
        )

    async def fresh(self, session: aiohttp.ClientSession, given: Body) -> str:
        status, _ = await self.ask(session, given)
        return "new" if status == 200 else f"new {status}"

    async def refused(self, session: aiohttp.ClientSession, given: Body) -> str:
        status, _ = await self.ask(session, given)
        return "refused" if status == 400 else f"malformed {status}"

    async def leave(self, session: aiohttp.ClientSession, given: Body) -> str:
        """Read the first words of a long answer and hang up."""
        answer = await session.post(
            f"{self.url}/v1/chat/completions", json={**given, "stream": True, "max_tokens": 300}
        )
        await answer.content.readline()
        answer.close()
        return "left" if answer.status == 200 else f"left {answer.status}"

    async def held(self, session: aiohttp.ClientSession) -> dict[str, float]:
        """What the server says it still holds."""
        async with session.get(f"{self.url}/metrics") as answer:
            text = await answer.text()
        return {name: float(re.findall(rf"^vllm:{name}{{.*}} (\S+)$", text, re.MULTILINE)[0]) for name in HELD}

    def read_memory(self, done: int) -> None:
        engine, server = resident()
        self.memory.append((time.monotonic() - self.started, done, engine, server))


def resident() -> tuple[float, float]:
    """MB of the engine's process, and of all others below this one."""
    sizes = {process: process.memory_info().rss / 2**20 for process in psutil.Process().children(recursive=True)}
    engine = sum(size for process, size in sizes.items() if "EngineCor" in process.name())
    return engine, sum(sizes.values()) - engine


async def soak(
    url: str, model: str, keep: int, requests: int, clients: int, distinct: int, side: int
) -> dict[str, Any]:
    """Everything: alone, under load, and what is left."""
    run, source, draw = Soak(url), asked(model, side), random.Random(0)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        pool: list[tuple[Body, list[int]]] = []
        while len(pool) < distinct:
            given = body(*next(source), (None, max(keep // 2, 1))[len(pool) % 2])
            if (answer := await run.alone(session, given)) is not None:
                pool.append((given, answer))
        bad = malformed(*next(source))
        numbers = iter(range(requests))

        async def client() -> None:
            for number in numbers:
                kind = draw.random()
                if kind < 0.65:
                    found = run.good(session, *draw.choice(pool))
                elif kind < 0.85:
                    found = run.fresh(session, body(*next(source)))
                elif kind < 0.95:
                    found = run.refused(session, draw.choice(bad))
                else:
                    found = run.leave(session, body(*next(source)))
                run.counts[await found] += 1
                if number % max(requests // 100, 1) == 0:
                    run.read_memory(number)
                    print(json.dumps([round(x) for x in run.memory[-1]]), dict(run.counts), flush=True)

        run.started = time.monotonic()
        await asyncio.gather(*(client() for _ in range(clients)))
        seconds = time.monotonic() - run.started
        deadline = time.monotonic() + 60
        while any((held := await run.held(session)).values()) and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
        again = Counter([await run.good(session, *each) for each in pool])  # as before the load
    run.read_memory(requests)
    return {
        "seconds": seconds,
        "counts": dict(run.counts),
        "afterwards": dict(again),
        "held": held,
        "memory": run.memory,
    }


def verdict(result: dict[str, Any]) -> list[str]:
    """What is wrong; nothing if all is well."""
    wrong = [
        f"{count} x {kind}"
        for kind, count in result["counts"].items()
        if kind not in ("right", "new", "refused", "left")
    ]
    wrong += [f"afterwards {count} x {kind}" for kind, count in result["afterwards"].items() if kind != "right"]
    wrong += [f"still held: {name} {value}" for name, value in result["held"].items() if value]
    engine = [row[2] for row in result["memory"]]
    quarter = len(engine) // 4
    if quarter > 4:
        early, late = statistics.median(engine[quarter : 2 * quarter]), statistics.median(engine[-quarter:])
        result["engine_mb"] = {"second quarter": early, "last quarter": late}
        if late > (1 + GROWTH) * early:
            wrong.append(f"the engine grew from {early:.0f} to {late:.0f} MB")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="'embedded', a checkpoint folder or a hub id")
    parser.add_argument("--keep", type=int, default=64)
    parser.add_argument("--method", default="gridprune")
    parser.add_argument("--requests", type=int, default=1000, help="how many in all; the run ends with them")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--distinct", type=int, default=64, help="requests whose answers are compared")
    parser.add_argument("--side", type=int, default=336, help="pixels of an image's side")
    parser.add_argument("--out", type=Path)
    given, rest = parser.parse_known_args()
    for name, value in {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}.items():
        os.environ.setdefault(name, value)
    options = ["--max-model-len", "1024", "--enforce-eager", "--served-model-name", NAME, "--trust-request-mm-kwargs"]
    # Caches are small, so that they are full early and do not look like a leak: images, and blocks of the KV cache,
    # whose memory is the process's only once it was written.
    options += ["--mm-processor-cache-gb", "0.05", "--num-gpu-blocks-override", "256", *rest]
    command = command_line(given.model, {"method": given.method, "keep": given.keep}, options)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(command, Path(folder) / "log", VLLM_ENABLE_V1_MULTIPROCESSING="1") as url,
    ):
        result = asyncio.run(
            soak(url, given.model, given.keep, given.requests, given.clients, given.distinct, given.side)
        )
    wrong = verdict(result)
    result |= {"command": " ".join(sys.argv[1:]), "verdict": wrong or "ok"}
    print(json.dumps({key: value for key, value in result.items() if key != "memory"}, indent=1))
    if given.out is not None:
        given.out.write_text(json.dumps(result) + "\n", encoding="utf-8")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
