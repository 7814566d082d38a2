"""Reading vLLM's vision towers while they run: queries, keys and states by hooks, all heads on every rank."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_gather

from ..cues.tower import Captured, Tower
from ..errors import UnsupportedModelError


@dataclass(eq=False)
class VllmTower(Tower):
    """A tower of vLLM's. `blocks` are those that were built, which may be fewer than the checkpoint has.

    Attributes:
        layers: blocks of the checkpoint; depths and negative indices count these.
        heads: attention heads of a block, on all ranks together.
        width: channels of a head.
        behind: a module that is called with the output of the last block, for blocks whose own calls run no hooks
            (vLLM's compilable ones). None: the blocks are hooked.
    """

    layers: int = 0
    heads: int = 1
    width: int = 1
    behind: nn.Module | None = None

    @property
    def depth(self) -> int:
        return self.layers

    def block(self, index: int) -> int:
        absolute = super().block(index)
        if absolute >= len(self.blocks):
            raise UnsupportedModelError(
                f"vLLM builds {len(self.blocks)} of the {self.layers} blocks of this vision tower, up to the layer "
                f"that the language model reads; block {absolute} does not exist here. Choose a method (or a `depth`) "
                "that reads an earlier one."
            )
        return absolute

    def block_at(self, depth: float) -> int:
        return self.block(super().block_at(depth))

    @contextmanager
    def reading(
        self, *, states: Collection[int] = (), attention: Collection[int] = (), last: int | None = None
    ) -> Iterator[Captured]:
        """As for transformers; vLLM does not build the blocks behind the last one that is read."""
        captured = Captured()
        with ExitStack() as undo:
            for index in states:
                undo.callback(self._watch_state(index, captured.states[index].append).remove)
            for index in attention:
                operator = getattr(self.blocks[index], self.attention).attn
                hook = self._keep_attention(captured, index)
                undo.callback(operator.register_forward_pre_hook(hook, with_kwargs=True).remove)
            yield captured

    def _watch_state(self, index: int, keep: Callable[[Tensor], None]) -> Any:
        if self.behind is None:

            def hook(module: nn.Module, args: Any, output: Tensor | tuple[Tensor, ...]) -> None:
                keep((output[0] if isinstance(output, tuple) else output).detach())

            return self.blocks[index].register_forward_hook(hook)
        assert index == len(self.blocks) - 1  # the only state that a family reads
        return self.behind.register_forward_pre_hook(lambda module, args: keep(args[0].detach()))

    def _keep_attention(self, captured: Captured, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            query, key = args[:2] if args else (kwargs["query"], kwargs["key"])
            captured.queries[index].append(self._all_heads(query))
            captured.keys[index].append(self._all_heads(key))
            captured.masks[index].append(None)

        return hook

    def _all_heads(self, values: Tensor) -> Tensor:
        """(V, S, heads of this rank, d), or the same with the last two flattened, to (V, H, S, d)."""
        split = values.detach().unflatten(-1, (-1, self.width)) if values.dim() == 3 else values.detach()
        if split.shape[2] < self.heads and get_tensor_model_parallel_world_size() > 1:
            split = tensor_model_parallel_all_gather(split.contiguous(), dim=2)
        return split.transpose(1, 2)


def clip_tower(vision_model: Any, config: Any, post_norm: nn.Module | None) -> VllmTower:
    """vLLM's CLIP tower."""
    heads = int(config.num_attention_heads)
    return VllmTower(
        vision_model,
        vision_model.encoder.layers,
        prefix=1,
        saliency="cls",
        post_norm=post_norm,
        layers=int(config.num_hidden_layers),
        heads=heads,
        width=int(config.hidden_size) // heads,
    )


def siglip_tower(vision_model: Any, config: Any) -> VllmTower:
    """vLLM's SigLIP tower: CLIP's without [CLS], so saliency is the attention received."""
    return replace(clip_tower(vision_model, config, None), prefix=0, saliency="received")


def intern_tower(vision_tower: Any, config: Any) -> VllmTower:
    """vLLM's tower of an InternVL; its [CLS] is not trained to sum the image up."""
    heads = int(config.num_attention_heads)
    return VllmTower(
        vision_tower,
        vision_tower.encoder.layer,
        "attention",
        prefix=1,
        layers=int(config.num_hidden_layers),
        heads=heads,
        width=int(config.hidden_size) // heads,
    )


def qwen_tower(visual: Any, config: Any) -> VllmTower:
    """vLLM's tower of a Qwen-VL."""
    full = tuple(getattr(config, "fullatt_block_indexes", None) or ())
    attend = visual.blocks[0].attn
    merger = visual.merger
    return VllmTower(
        visual,
        visual.blocks,
        "attn",
        saliency_block=full[-1] if full else -2,
        full_blocks=full,
        layers=len(visual.blocks),
        heads=int(config.num_heads),
        width=int(attend.hidden_size_per_attention_head),
        behind=getattr(merger, "ln_q", None) or merger.norm,
    )
