#!/usr/bin/env bash
# LLaVA-NeXT-7B (Vicuna) at 640, 320 and 160 of 2880 visual tokens.
#
# Resolution: every image is stretched to 672 x 672 first, so that N is 2880 (an overview and four tiles) for all, as
# the paper counts. `resize= recipes/llava-next-7b.sh` leaves images as they are: N then depends on their shape.
# Budget: one count over all views; newline tokens come on top, one for every row that keeps a token.
# Smaller images: none is small enough, for the processor makes 1152 tokens of the smallest; `pooling` averages instead,
# and the unpruned model with 336 x 336 pixels is `resize=336x336 methods=random keeps=640 recipes/llava-next-7b.sh`.
# Positions: contiguous as in papers on LLaVA, and original beside them, which grounding needs.
set -euo pipefail
cd "$(dirname "$0")"
resize=${resize-672x672}
recipe=llava-next-7b/${resize:-native}
source ./run.sh

checkpoint=llava-hf/llava-v1.6-vicuna-7b-hf
clip=openai/clip-vit-large-patch14-336
common=pretrained=$checkpoint,clip=$clip${resize:+,resize=$resize}
baselines="random uniform pooling fastervlm vispruner visionzip divprune cdpruner,reading=minus holov scope"
baselines+=" eadp,reading=minus mmtok fsr zoo-prune"
keeps=${keeps:-640 320 160}

sweep "gridprune gridprune,positions=original gridprune-literal ${methods:-$baselines}" "$keeps"
speed --model "$checkpoint" --clip "$clip" --keep "${keeps// /,}"
tables
