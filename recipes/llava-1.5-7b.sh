#!/usr/bin/env bash
# LLaVA-1.5-7B at 192, 128 and 64 of 576 visual tokens.
#
# Resolution: the checkpoint's own, 336 x 336 after a centre crop or padding as its processor does it; N = 576 always.
# Budget: a count; 33.3 %, 22.2 %, 11.1 %.
# Smaller images: `downsample` has the budget's count exactly, the tower's position embeddings are interpolated.
# Method settings: defaults of `gridprune methods`; gridprune-literal has the paper's formulas as printed.
# Positions: contiguous as in papers on LLaVA, and original beside them, which grounding needs.
set -euo pipefail
cd "$(dirname "$0")"
recipe=llava-1.5-7b
source ./run.sh

checkpoint=llava-hf/llava-1.5-7b-hf
clip=openai/clip-vit-large-patch14-336
common=pretrained=$checkpoint,clip=$clip
baselines="random uniform pooling downsample fastervlm vispruner visionzip divprune centered cdpruner,reading=minus"
baselines+=" centered-cdpruner holov scope eadp,reading=minus mmtok fsr zoo-prune"
keeps=${keeps:-192 128 64}

sweep "gridprune gridprune,positions=original gridprune-literal ${methods:-$baselines}" "$keeps"
speed --model "$checkpoint" --clip "$clip" --keep "${keeps// /,}"
tables
