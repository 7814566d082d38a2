"""``python -m training --seed 0 --out runs/judge-0``: from nothing to weights, resumable at any moment."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .recipe import RECIPES, STAGES, train


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an interrupted one is resumed")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and scenes")
    parser.add_argument("--recipe", choices=RECIPES, default="", help="sizes and lengths (default: by the device)")
    parser.add_argument("--stages", default=",".join(STAGES), help="which stages, in order, by commas")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that make scenes; 0: the training process")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on a CPU")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = RECIPES[args.recipe or ("gpu" if args.device.startswith("cuda") else "cpu")]()
    stages = args.stages.split(",")
    train(args.out, recipe, seed=args.seed, stages=stages, device=args.device, workers=args.workers)


if __name__ == "__main__":
    main()
