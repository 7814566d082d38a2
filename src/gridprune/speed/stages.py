"""One model of real shape, stage by stage and end to end, against the model without pruning and against the limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .. import families
from ..cues.collect import TextSide, collect, wanted_blocks
from ..families.base import Family
from ..methods.base import checked_select
from ..methods.gridprune import GridPrune
from ..pruning import prune
from ..runtime import cache_bytes
from .clock import Ratio, Timing, interleave, resident_peak, wall
from .flops import kv_bytes, prefill_flops
from .shapes import IMAGE_TOKEN, FixedText, FixedWords, Shape, build, build_text

QUESTION = "what is this"


@torch.no_grad()
def measure(shape: Shape, rounds: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """All stages of one shape; see :func:`gridprune.speed.run.bench` for the keys."""
    progress(f"{shape.name}: building")
    return _Bench(shape, rounds, progress).run()


class _Bench:
    def __init__(self, shape: Shape, rounds: int, progress: Callable[[str], None]) -> None:
        self.shape, self.rounds, self.progress = shape, rounds, progress
        self.model = build(shape)
        self.family: Family = families.find(self.model)
        device = self.model.device
        vision = {key: value.to(device) for key, value in shape.vision().items()}
        self.vision = {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in vision.items()}
        self.map = self.family.token_maps(self.vision)[0]
        config = self.family.vision_config
        text = FixedText(config.hidden_size, config.projection_dim) if shape.clip else None
        self.text: Any = text
        self.side = TextSide(text, FixedWords())
        self.language = self.family.base.language_model
        self.layers = self.language.layers

    def run(self) -> dict[str, Any]:
        shape = self.shape
        stages = self._stages()
        ends = self._end_to_end()
        few, many = shape.counts
        total = len(self.map)
        whole = {length: _extrapolated(stages, length, shape) for length in self._lengths()}
        tower = stages["tower"].median * shape.tower_layers / shape.build_tower
        decision = stages["cues"].median + stages["decision"].median + (t.median if (t := stages.get("text")) else 0.0)
        unpruned = tower + whole[total]
        name = str(len(self.map.candidates))
        return {
            "shape": {
                "name": shape.name,
                "visual_tokens": len(self.map.candidates),
                "separators": total - len(self.map.candidates),
                "text_tokens": shape.prompt,
                "layers_built": [few, many],
                "layers": shape.layers,
                "tower_blocks_built": shape.build_tower,
                "tower_blocks": shape.tower_layers,
            },
            "stages": {key: value.to_list() for key, value in stages.items()},
            "wall_two_threads": self._wall(),
            "extrapolated": {
                "tower": round(tower, 3),
                "prefill": {str(length): round(value, 3) for length, value in whole.items()},
                "decode_per_token": {
                    str(length): round(_extrapolated(stages, length, shape, "decode"), 4) for length in self._lengths()
                },
            },
            "decision_share_of_prefill": round(decision / unpruned, 5),
            "ratio_to_native": {
                f"{name}/{k}": Ratio.of(ends[f"pruned {k}"], ends[f"native {k}"]).to_list() for k in shape.keeps
            },
            "speedup": {f"{name}/{k}": round(unpruned / (tower + decision + whole[k]), 3) for k in shape.keeps},
            "speedup_prefill": {f"{name}/{k}": round(whole[total] / whole[k], 3) for k in shape.keeps},
            "speedup_flops": {f"{name}/{k}": self._flops_ratio(k) for k in shape.keeps},
            "speedup_built": {
                f"{name}/{k}": Ratio.of(ends["unpruned"], ends[f"pruned {k}"]).to_list() for k in shape.keeps
            },
            "seconds": {key: round(value.median, 4) for key, value in ends.items()},
            "kv_bytes": {str(length): self._kv(length) for length in self._lengths()},
            "peak_bytes": self._peaks(),
        }

    def _lengths(self) -> list[int]:
        return [len(self.map), *self.shape.keeps]

    # -- stages --------------------------------------------------------------------------------------------------

    def _stages(self) -> dict[str, Timing]:
        """Seconds of every stage by itself."""
        self.progress(f"{self.shape.name}: stages")
        method = GridPrune(keep=self.shape.keeps[-1])
        read = wanted_blocks(self.family, method)
        maps = [self.map]
        encoded = self.family.encode(self.vision, maps, read)
        candidates = self.map.candidates
        cues = collect(self.family, method, encoded, [0], [QUESTION], self.side)
        k = method.count(cues, candidates)
        variants: dict[str, Callable[[], Any]] = {
            "tower": lambda: self.family.features(self.vision),
            "tower with capture": lambda: self.family.encode(self.vision, maps, read),
            "cues": lambda: collect(self.family, method, encoded, [0], [QUESTION], self.side),
            "decision": lambda: checked_select(method, cues, candidates, k),
        }
        if self.text is not None:
            tower, question = build_text(self.family.vision_config), torch.full((1, 16), 7)
            question[0, -1] = 3
            variants["text"] = lambda: tower(input_ids=question)
        variants |= self._processing()
        for count in self.shape.counts:
            for length in self._lengths():
                variants[f"prefill {length} x{count}"] = self._prefill(length, count)
        timing = interleave(variants, self.rounds, repeats={"cues": 3, "decision": 10, "text": 3})
        return timing | self._decoding()

    def _prefill(self, length: int, count: int) -> Callable[[], Any]:
        """The language model alone, with `count` layers, on a prompt with `length` visual tokens."""
        embeds = torch.randn(1, self.shape.prompt + length, self.language.config.hidden_size, dtype=self.model.dtype)
        embeds = embeds.to(self.model.device)

        def run() -> Any:
            with self._only(count):
                states = self.language(inputs_embeds=embeds, use_cache=True)
                return states.past_key_values, self.model.lm_head(states.last_hidden_state[:, -1:])

        return run

    @contextmanager
    def _only(self, count: int) -> Iterator[None]:
        """The language model with its first `count` layers."""
        config, before = self.language.config, self.language.config.num_hidden_layers
        self.language.layers, config.num_hidden_layers = self.layers[:count], count
        try:
            yield
        finally:
            self.language.layers, config.num_hidden_layers = self.layers, before

    def _decoding(self) -> dict[str, Timing]:
        """One more token behind prompts of every length, for both numbers of layers."""
        variants: dict[str, Callable[[], Any]] = {}
        token = torch.randn(1, 1, self.language.config.hidden_size, dtype=self.model.dtype, device=self.model.device)
        for count in self.shape.counts:
            for length in self._lengths():
                cache, _ = self._prefill(length, count)()

                def step(cache: Any = cache, count: int = count) -> Any:
                    with self._only(count):
                        states = self.language(inputs_embeds=token, past_key_values=cache, use_cache=True)
                        return self.model.lm_head(states.last_hidden_state)

                variants[f"decode {length} x{count}"] = step
        return interleave(variants, self.rounds, repeats=dict.fromkeys(variants, 4))

    def _processing(self) -> dict[str, Callable[[], Any]]:
        """The stock processor on a photograph of 640 x 480, where this family resizes to one size."""
        side = getattr(self.family.vision_config, "image_size", None)
        if self.shape.name.startswith(("qwen", "llava-next")) or side is None:
            return {}
        from PIL import Image
        from transformers import CLIPImageProcessor

        processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        picture = Image.effect_noise((640, 480), 60).convert("RGB")
        return {"image processing": lambda: processor(picture, return_tensors="pt")}

    def _wall(self) -> dict[str, float]:
        """Wall seconds with two threads: the encoder, and the language model with and without pruning."""
        calls = {"tower": lambda: self.family.features(self.vision)}
        few = self.shape.counts[0]
        calls |= {f"prefill {length} x{few}": self._prefill(length, few) for length in self._lengths()}
        return {name: round(wall(call, 2), 4) for name, call in calls.items()}

    # -- end to end ----------------------------------------------------------------------------------------------

    def _end_to_end(self) -> dict[str, Timing]:
        """Picture in, first token out, with the smaller number of layers: unpruned, pruned, and k native tokens."""
        self.progress(f"{self.shape.name}: end to end")
        whole = {"input_ids": self._prompt(len(self.map)), "logits_to_keep": 1, **self.vision, **self._types()}
        variants: dict[str, Callable[[], Any]] = {"unpruned": lambda: self.model(**whole)}
        for k in self.shape.keeps:
            variants[f"native {k}"] = self._native(k)
            variants[f"pruned {k}"] = self._pruned(k, whole)
        with self._only(self.shape.counts[0]):
            return interleave(variants, self.rounds)

    def _native(self, k: int) -> Callable[[], Any]:
        """The limit: the same encoder, then the language model on k visual tokens as if the picture had no more."""
        embed = self.model.get_input_embeddings()
        ids = self._prompt(k)

        def run() -> Any:
            features = self.family.features(self.vision)
            kept = self.family.embeddings(features, [self.map])[0][:k]
            embeds = embed(ids).masked_scatter((ids == IMAGE_TOKEN)[..., None], kept)
            states = self.language(inputs_embeds=embeds, use_cache=True)
            return self.model.lm_head(states.last_hidden_state[:, -1:])

        return run

    def _pruned(self, k: int, call: dict[str, Any]) -> Callable[[], Any]:
        pruning = prune(self.model, GridPrune(keep=k), question=QUESTION, clip=self.text, processor=FixedWords())

        def run() -> Any:
            with pruning:
                return self.model(**call)

        return run

    def _prompt(self, images: int) -> Tensor:
        half = self.shape.prompt // 2
        row = [1, *[10] * (half - 1), *[IMAGE_TOKEN] * images, *[11] * (self.shape.prompt - half)]
        return torch.tensor([row], device=self.model.device)

    def _types(self) -> dict[str, Tensor]:
        """Token types, for models with M-RoPE."""
        if self.shape.clip:
            return {}
        return {"mm_token_type_ids": (self._prompt(len(self.map)) == IMAGE_TOKEN).int()}

    # -- memory and FLOPs ----------------------------------------------------------------------------------------

    def _peaks(self) -> dict[str, int]:
        """Growth of the process during one end-to-end call."""
        found = {}
        whole = {"input_ids": self._prompt(len(self.map)), "logits_to_keep": 1, **self.vision, **self._types()}
        with self._only(self.shape.counts[0]):
            for name, call in {
                "unpruned": lambda: self.model(**whole),
                f"pruned {self.shape.keeps[-1]}": self._pruned(self.shape.keeps[-1], whole),
            }.items():
                with resident_peak() as grown:
                    call()
                found[name] = grown[0]
        return found

    def _kv(self, visual: int) -> dict[str, int]:
        """Keys and values of the whole model, and as the cache of the built layers holds them."""
        few = self.shape.counts[0]
        cache, _ = self._prefill(visual, few)()
        config = self.language.config
        element = torch.finfo(self.model.dtype).bits // 8
        a_layer = kv_bytes(config, self.shape.prompt + visual, element) // config.num_hidden_layers
        return {"all_layers": a_layer * self.shape.layers, "measured": cache_bytes(cache), "measured_layers": few}

    def _flops_ratio(self, k: int) -> float:
        config = self.language.config
        full, cut = (prefill_flops(config, self.shape.prompt + n) for n in (len(self.map), k))
        return round(full / cut, 3)


def _extrapolated(stages: dict[str, Timing], length: int, shape: Shape, what: str = "prefill") -> float:
    """Seconds with all layers: the smaller model plus one layer's time for each that is missing."""
    few, many = shape.counts
    small, large = (stages[f"{what} {length} x{count}"].median for count in shape.counts)
    return small + max(large - small, 0.0) / (many - few) * (shape.layers - few)
