"""`gridprune doctor --serve`: vLLM's engine prunes an image, and its greedy tokens are compared with transformers'.

The engine runs in a process of its own, this file as a module, so that a crash is a line of the report and the memory
of the device is free again for transformers. What the worker chose (runner, graphs) is read in that process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor

from ..cues.chat import conversation, prompt_text, special_tokens_of
from ..errors import GridPruneError
from ..methods.registry import create
from ..tiny.data import iter_examples
from ..vllm.architectures import overrides
from .ask import EMBEDDED_FORMS, Loaded, load, prepare
from .doctor import Check
from .plan import source_of

KEEP, TOKENS = "11.1%", 12
QUESTION = "What is in the image?"
_REPORT = "Compare with the stock architecture (vllm serve); if that is right, report this with --json"


def served(model: str, clip: str | None, options: Sequence[str] = ()) -> Iterator[Check]:
    """The lines of the report.

    Args:
        options: further options of vLLM's engine, as on its command line.
    """
    if find_spec("vllm") is None:
        yield Check("serve", "vLLM", "broken", "not installed", "pip install 'gridprune[vllm]'")
        return
    with TemporaryDirectory() as folder:
        try:
            request = question_of(model, clip, Path(folder))
        except GridPruneError as error:
            yield Check("serve", "model", "broken", "cannot be asked", str(error))
            return
        found = _run(request, options, Path(folder))
        if "failed" in found:
            yield Check("serve", "engine", "broken", "it ended early; the end of its log:", found["failed"])
            return
        for name in ("runner", "compiled", "graphs", "device"):
            yield Check("serve", name, "ok", found[name])
        loaded = load(model, clip=clip, device=found["torch_device"], dtype=found["dtype"])
        for keep, tokens in zip(("100%", KEEP), found["tokens"]):
            yield compared(loaded, request, keep, tokens)


def question_of(model: str, clip: str | None, folder: Path) -> dict[str, Any]:
    """What is asked, with the checkpoint's own prompt, as plain values."""
    (example,), source = iter_examples("dev", 1), source_of(model)
    question = example.question if model in EMBEDDED_FORMS else QUESTION
    overriding = overrides(source, keep=KEEP, clip=clip)
    processor = AutoProcessor.from_pretrained(source)
    text = prompt_text(processor, conversation(question))
    ids = processor.tokenizer(text, **special_tokens_of(processor, text))["input_ids"]
    example.image.save(folder / "image.png")
    return {
        "model": source, "question": question, "overrides": overriding, "ids": list(ids),
        "image": str(folder / "image.png"),
    }  # fmt: skip


def _run(request: dict[str, Any], options: Sequence[str], folder: Path) -> dict[str, Any]:
    """What the process with the engine found; "failed" holds the end of its log if it ended early."""
    asked, answered, log = folder / "asked.json", folder / "answered.json", folder / "log.txt"
    asked.write_text(json.dumps(request), encoding="utf-8")
    here = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # the worker is asked where the engine is started
    with log.open("w") as output:
        command = [sys.executable, "-m", __name__, str(asked), str(answered), *options]
        subprocess.run(command, stdout=output, stderr=output, env=here)
    if answered.is_file():
        return json.loads(answered.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    return {"failed": log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()}


def compared(loaded: Loaded, request: dict[str, Any], keep: str, tokens: list[int]) -> Check:
    """One answer of vLLM's beside transformers, which reads it token by token in one call.

    Each of vLLM's tokens is the greedy one if it has the largest logit behind those before it. Half precision rounds
    sums in other orders to other values, so a token that is second by no more than that counts as well, and is told.
    """
    with Image.open(request["image"]) as image:
        inputs = prepare(loaded, image.convert("RGB"), request["question"])
    behind = torch.tensor([tokens], device=inputs["input_ids"].device, dtype=torch.long)
    longer = {
        **inputs,
        "input_ids": torch.cat([inputs["input_ids"], behind], dim=1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(behind)], dim=1),
    }
    if "mm_token_type_ids" in inputs:
        longer["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(behind)], dim=1)
    with torch.no_grad(), loaded.pruning(create("gridprune", keep=keep), request["question"]) as pruning:
        logits = loaded.model(**longer).logits[0, -1 - len(tokens) : -1].float()  # [tokens, V]
    report = pruning.reports[-1]
    name = f"{report.kept} of {report.total}"
    if report.kept < report.total and bool(report.token_map.separator.any()):
        do = "vLLM drops the newline tokens of this model, which transformers keeps; the line with all tokens compares"
        return Check("serve", name, "note", "answered, not compared", do)
    short = logits.max(1).values - logits.gather(1, behind.T)[:, 0]
    equal, most = int((short == 0).sum()), float(short.max())
    if equal == len(tokens):
        return Check("serve", name, "ok", f"all {equal} greedy tokens are those of transformers")
    rounding = 4 * torch.finfo(loaded.model.dtype).eps * float(logits.abs().max())
    told = f"{equal} of {len(tokens)} greedy tokens are those of transformers, the others second by at most {most:.2g}"
    if most <= rounding:
        return Check("serve", name, "ok", f"{told}, less than {loaded.model.dtype} may round ({rounding:.2g})")
    return Check("serve", name, "broken", told, _REPORT)


def engine(request: dict[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """In a process of its own: start vLLM's engine, answer with all and with some visual tokens, and say what ran."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from vllm import LLM, SamplingParams

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    overriding = json.dumps(request["overrides"])
    arguments = parser.parse_args(["--model", request["model"], "--hf-overrides", overriding, *options])
    llm = LLM.from_engine_args(EngineArgs.from_cli_args(arguments))
    with Image.open(request["image"]) as image:
        shown = {"prompt_token_ids": request["ids"], "multi_modal_data": {"image": image.convert("RGB")}}
    prompts: list[Any] = [shown | {"mm_processor_kwargs": {"gridprune_keep": keep}} for keep in ("100%", KEEP)]
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    answers = [llm.generate([prompt], sampling, use_tqdm=False)[0].outputs[0] for prompt in prompts]
    (ran, *_) = llm.collective_rpc(_ran)
    return {"tokens": [list(answer.token_ids) for answer in answers], **ran}


def _ran(worker: Any) -> dict[str, str]:
    """Which of vLLM's runners a worker has, and what it compiled and captured."""
    runner, config = worker.model_runner, worker.vllm_config
    second = any(cls.__module__ == "vllm.v1.worker.gpu.model_runner" for cls in type(runner).__mro__)
    compilation = config.compilation_config
    sizes = len(compilation.cudagraph_capture_sizes or ())
    return {
        "runner": f"Model Runner {'V2' if second else 'V1'} ({type(runner).__module__})",
        "compiled": f"language model: {compilation.mode.name}; tower: not",
        "graphs": f"language model: {compilation.cudagraph_mode.name}, {sizes} sizes; tower: none",
        "device": f"{worker.device}, {config.model_config.dtype}",
        "torch_device": str(worker.device.type),
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(engine(json.loads(Path(sys.argv[1]).read_text()), sys.argv[3:])))
