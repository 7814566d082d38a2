#!/usr/bin/env bash
# The embedded model on generated scenes, in the same three groups: needs no GPU and no network, and shows that the recipes run.
set -euo pipefail
cd "$(dirname "$0")"
recipe=scenes
source ./run.sh

common=pretrained=embedded
tasks=gridprune_vqa,gridprune_text,gridprune_grounding
extra+=(--include_path "$(python -m gridprune.lmms)" --device cpu)
keeps=${keeps:-64 32}

sweep "gridprune gridprune,positions=original ${methods:-downsample fastervlm random}" "$keeps"
speed --keep "${keeps// /,}" --batch 1 --rounds 1 --device cpu
tables
