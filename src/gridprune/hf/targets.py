"""What a call is compared with: labels and the counts that go with them, when tokens they name are gone.

Labels of dropped tokens count as -100, in the loss and in `num_items_in_batch`, so that a loss is that of the prompt
written out with the kept tokens only. A loss that the caller takes himself from full-length logits needs -100 there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedCallError

_IGNORED = -100


@dataclass(eq=False)
class Targets:
    """A call with labels, mask and count of its own. They are blanked in place as soon as it is known which tokens are
    dropped: with a method inside the language model, that is when the call is long under way.

    Attributes:
        call: the arguments.
        balanced: experts have a balancing loss, which weighs tokens by the mask.
        blanked: labels other than -100 that were blanked.
    """

    call: dict[str, Any]
    balanced: bool = False
    blanked: Tensor | None = None

    @classmethod
    def of(cls, call: dict[str, Any], config: Any) -> Targets:
        """The same call to a model of this configuration, the caller's tensors out of reach."""
        own = {name: call[name].clone() for name in _NEXT if isinstance(call.get(name), Tensor)}
        if own and call.get("num_items_in_batch") is not None:
            count, device = call["num_items_in_batch"], next(iter(own.values())).device
            own["num_items_in_batch"] = torch.as_tensor(count, dtype=torch.float32, device=device).clone()
        if router_logits(call, config) and call.get("input_ids") is not None:
            mask = call.get("attention_mask")
            own["attention_mask"] = torch.ones_like(call["input_ids"]) if mask is None else mask.clone()
        return cls({**call, **own}, balanced="attention_mask" in own)

    def exclude(self, dropped: Tensor) -> None:
        """Leave out what names a dropped token.

        Args:
            dropped: (B, n) bool, for the ids of the call.

        Raises:
            UnsupportedCallError: labels are not beside the ids.
        """
        if self.balanced:
            mask = self.call["attention_mask"]
            mask[..., -dropped.shape[1] :].masked_fill_(dropped.to(mask.device), 0)
        share = None
        for name, shift in _NEXT.items():
            labels = self.call.get(name)
            if not isinstance(labels, Tensor):
                continue
            if labels.shape != dropped.shape:
                raise UnsupportedCallError(
                    f"{name} has shape {tuple(labels.shape)}; give one per token, {tuple(dropped.shape)}, -100 where "
                    "none is meant."
                )
            named = _count(labels, shift)
            labels.masked_fill_(torch.nn.functional.pad(dropped[:, shift:], (0, shift)).to(labels.device), _IGNORED)
            left = _count(labels, shift)
            self.blanked, share = named - left, left.clamp(min=1) / named.clamp(min=1)
        if share is not None and self.call.get("num_items_in_batch") is not None:
            # The count may be of several batches, whose labels are not seen here: their share is taken to be this one.
            self.call["num_items_in_batch"] *= share

    def check(self, output: Any) -> None:
        """Refuse an answer whose loss somebody else divides by the caller's own count.

        Raises:
            UnsupportedCallError: a head that is not the model's scored labels, and some of them named dropped tokens.
        """
        if self.blanked is None or isinstance(output, tuple) or hasattr(output, "logits") or not bool(self.blanked):
            return
        raise UnsupportedCallError(
            f"{int(self.blanked)} labels name visual tokens that were dropped, and {type(output).__name__} comes from "
            "a head that leaves the loss to the caller, who would count them. Set labels to -100 where `input_ids` "
            "holds visual tokens (for TRL's SFTTrainer: in the data collator, or train on completions only)."
        )


# Arguments that hold labels, and how many columns they are ahead of the ids.
_NEXT = {"labels": 0, "shift_labels": 1}


def _count(labels: Tensor, shift: int) -> Tensor:
    """How many labels a loss takes: the first token is predicted from nothing."""
    return (labels[:, 1 - shift :] != _IGNORED).sum()


def router_logits(call: dict[str, Any], config: Any) -> bool:
    """Whether a call asks for what a mixture of experts balances itself by."""
    asked = call.get("output_router_logits")
    return bool(getattr(config.get_text_config(), "output_router_logits", False) if asked is None else asked)
