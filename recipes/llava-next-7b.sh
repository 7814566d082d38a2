#!/usr/bin/env bash
# LLaVA-NeXT-7B (Vicuna) at 640, 320 and 160 of 2880 visual tokens.
#
# Resolution: every image is stretched to 672 x 672 first, so that N is 2880 (an overview and four tiles) for all, as
# the paper counts. `resize= recipes/llava-next-7b.sh` leaves images as they are: N then depends on their shape.
# Budget: one count over all views; newline tokens come on top, one for every row that keeps a token.
set -euo pipefail
cd "$(dirname "$0")"
recipe=llava-next-7b
source ./run.sh

common=pretrained=llava-hf/llava-v1.6-vicuna-7b-hf,clip=openai/clip-vit-large-patch14-336
resize=${resize-672x672}
common+=${resize:+,resize=$resize}
tasks=gqa,mmbench_en_dev_static,mme,pope,scienceqa_img,textvqa_val,vizwiz_vqa_val,vqav2_val
baselines="random uniform pooling fastervlm vispruner visionzip divprune cdpruner,reading=minus holov scope eadp,reading=minus mmtok fsr"

sweep "gridprune gridprune-literal ${methods:-$baselines}" "${keeps:-640 320 160}"
python -m gridprune.lmms.retention "$results/$recipe" --expected expected.json
