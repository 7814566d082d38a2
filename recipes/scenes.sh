#!/usr/bin/env bash
# The embedded model on generated scenes: needs no GPU and no network, and shows that the recipes run.
set -euo pipefail
cd "$(dirname "$0")"
recipe=scenes
source ./run.sh

common=pretrained=embedded
tasks=gridprune_scenes
extra=(--include_path "$(python -m gridprune.lmms)" --limit "${limit:-600}" --device cpu)

sweep "gridprune fastervlm random" "${keeps:-64 32}"
python -m gridprune.lmms.retention "$results/$recipe"
