"""Muon for hidden matrices, AdamW for the rest, schedules of the learning rate and of the number of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

_NS = (3.4445, -4.7750, 2.0315)


def orthogonalize(grad: Tensor, steps: int = 5) -> Tensor:
    """Nearly orthogonal factor of [..., m, n] matrices by a quintic Newton-Schulz iteration, in bfloat16."""
    tall = grad.shape[-2] > grad.shape[-1]
    x = grad.mT if tall else grad
    x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    a, b, c = _NS
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(grad.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; matrices of one shape are processed together."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                updates = []
                for p in params:
                    state = self.state[p]
                    if "buffer" not in state:
                        state["buffer"] = torch.zeros_like(p)
                    buffer = state["buffer"].mul_(group["momentum"]).add_(p.grad)
                    updates.append(p.grad.add(buffer, alpha=group["momentum"]))
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                stacked = orthogonalize(torch.stack(updates))
                for p, update in zip(params, stacked, strict=True):
                    p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-group["lr"] * scale)


def make_optimizers(
    module: nn.Module, *, muon_lr: float, adam_lr: float, decay: float = 0.01
) -> list[torch.optim.Optimizer]:
    """Muon on the matrices of ``module`` inside ``layers``; AdamW on everything else."""
    hidden, rest = [], []
    for name, p in module.named_parameters():
        if p.requires_grad:
            (hidden if p.ndim == 2 and ".layers." in f".{name}" else rest).append(p)
    optimizers: list[torch.optim.Optimizer] = []
    if hidden:
        optimizers.append(Muon(hidden, muon_lr, decay=decay))
    if rest:
        optimizers.append(torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.98), weight_decay=0.0))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def schedule(step: int, steps: int, *, warmup: int = 50, cooldown: float = 0.4) -> float:
    """Warm up, stay, then fall linearly to 2 %."""
    rise = min(1.0, (step + 1) / warmup)
    left = (steps - step) / max(1.0, cooldown * steps)
    return rise * min(1.0, max(0.02, left))


def descend(
    module: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    loss: Tensor,
    rate: float,
    *,
    clip: float = 1.0,
    combine: Callable[[nn.Module], None] = lambda module: None,
) -> None:
    """One step at ``rate`` times the peak learning rates; ``combine`` sees the gradients before they are clipped."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    combine(module)
    nn.utils.clip_grad_norm_(module.parameters(), clip)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        optimizer.step()


#: (fraction of a run at which it starts, numbers of visual tokens to cycle through)
Lengths = tuple[tuple[float, tuple[int, ...]], ...]


def length_at(lengths: Lengths, step: int, steps: int) -> int:
    """Number of visual tokens of a step."""
    current = [cycle for start, cycle in lengths if step >= start * steps][-1]
    return current[step % len(current)]
