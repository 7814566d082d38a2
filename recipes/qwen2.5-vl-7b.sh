#!/usr/bin/env bash
# Qwen2.5-VL-7B at 192, 128, 64 and 32 of 576 visual tokens; with `resize=`, at 25 % and 10 % of its own number.
#
# Resolution: every image is stretched to 672 x 672 first: 24 x 24 tokens of 28 x 28 pixels, N = 576 for all.
# `resize=1008x1008` gives 1296 tokens, the other count in use; `resize=` leaves images as they are, which documents need:
# `resize= recipes/qwen2.5-vl-7b.sh`. What the GridPrune paper did is not known to us.
# Smaller images: `downsample` shrinks them before the processor to the count nearest to the budget that keeps their shape.
# Relevance: mean cosine with the question's input embeddings (there is no CLIP text tower).
# Positions: always original (M-RoPE).
set -euo pipefail
cd "$(dirname "$0")"
resize=${resize-672x672}
recipe=qwen2.5-vl-7b/${resize:-native}
source ./run.sh

checkpoint=Qwen/Qwen2.5-VL-7B-Instruct
common=pretrained=$checkpoint${resize:+,resize=$resize}
baselines="random uniform downsample fastervlm vispruner divprune cdpruner holov s2prune,structure=features eadp mmtok"
baselines+=" scope hiprune"
counts="192 128 64 32"
shares="25% 10%"
keeps=${keeps:-${resize:+$counts}}
keeps=${keeps:-$shares}

sweep "gridprune ${methods:-$baselines}" "$keeps"
speed --model "$checkpoint" --keep "${keeps// /,}"
tables
