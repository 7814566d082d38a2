#!/usr/bin/env bash
# Qwen2.5-VL-7B at 192, 128, 64 and 32 of 576 visual tokens.
#
# Resolution: every image is stretched to 672 x 672 first: 24 x 24 tokens of 28 x 28 pixels, N = 576 for all.
# `resize=1008x1008` gives 1296 tokens, the other count in use. What the GridPrune paper did is not known to us.
# Relevance: mean cosine with the question's input embeddings (there is no CLIP text tower); positions are kept (M-RoPE).
set -euo pipefail
cd "$(dirname "$0")"
recipe=qwen2.5-vl-7b
source ./run.sh

common=pretrained=Qwen/Qwen2.5-VL-7B-Instruct,resize=${resize:-672x672}
tasks=ai2d,chartqa,docvqa_val,mmbench_en_dev_static,mme,ocrbench,pope,scienceqa_img,textvqa_val
baselines="random uniform fastervlm vispruner divprune cdpruner holov s2prune,structure=features eadp mmtok"

sweep "gridprune ${methods:-$baselines}" "${keeps:-192 128 64 32}"
python -m gridprune.lmms.retention "$results/$recipe" --expected expected.json
