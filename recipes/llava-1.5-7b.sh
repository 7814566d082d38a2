#!/usr/bin/env bash
# LLaVA-1.5-7B at 192, 128 and 64 of 576 visual tokens.
#
# Resolution: the checkpoint's own, 336 x 336 after a centre crop or padding as its processor does it; N = 576 always.
# Budget: a count; 33.3 %, 22.2 %, 11.1 %.
# Method settings: defaults of `gridprune methods`; gridprune-literal has the paper's formulas as printed.
set -euo pipefail
cd "$(dirname "$0")"
recipe=llava-1.5-7b
source ./run.sh

common=pretrained=llava-hf/llava-1.5-7b-hf,clip=openai/clip-vit-large-patch14-336
tasks=gqa,mmbench_en_dev_static,mme,pope,scienceqa_img,textvqa_val,vizwiz_vqa_val,vqav2_val
baselines="random uniform pooling fastervlm vispruner visionzip divprune cdpruner,reading=minus holov scope eadp,reading=minus mmtok fsr"

sweep "gridprune gridprune-literal ${methods:-$baselines}" "${keeps:-192 128 64}"
python -m gridprune.lmms.retention "$results/$recipe" --expected expected.json
