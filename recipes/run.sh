# Sourced by the recipes: one lmms-eval run per call of `run`, skipped if its results are there already.
#
#   results   where they go (default: results-lmms)
#   gpus      processes of accelerate, one per GPU (default: 1)
#   batch     questions in a batch (default: 1)
#   limit     documents of each task (default: all)
#   launch    other arguments of `accelerate launch`, such as --cpu
#
# Set by a recipe: common (model_args of every run), and extra (further arguments of lmms-eval). The tasks come in three
# groups, which are never averaged together. RefCOCO asks for fractions of the image, so that its size does not matter.

results=${results:-results-lmms}
gpus=${gpus:-1}
batch=${batch:-1}
tasks=gqa,mmbench_en_dev_static,mme,pope,scienceqa_img      # VQA
tasks+=,chartqa,docvqa_val,ocrbench,textvqa_val             # text-dense
tasks+=,refcoco_bbox_rec_val                                # grounding
extra=(${limit:+--limit "$limit"})
several=()
failed=0
if ((gpus > 1)); then several=(--multi_gpu); fi # without it accelerate may start one process alone, and says nothing

run() { # run NAME MODEL_ARGS
  local folder="$results/$recipe/${1//[,=]/-}" # lmms-eval reads commas and = in its output path as arguments
  if find "$folder" -name '*_results.json' 2>/dev/null | grep -q .; then
    echo "$1: done before"
    return
  fi
  # shellcheck disable=SC2086  # $launch holds several words
  python -m accelerate.commands.launch --num_processes "$gpus" --num_machines 1 --mixed_precision no \
    --dynamo_backend no "${several[@]}" ${launch:-} -m lmms_eval --model gridprune --model_args "$common,$2" --tasks "$tasks" \
    --batch_size "$batch" --output_path "$folder" --log_samples "${extra[@]}" || true
  # lmms-eval reports errors and may end with 0 all the same
  find "$folder" -name '*_results.json' 2>/dev/null | grep -q . || { echo "$1: no results were written" >&2; failed=1; }
}

sweep() { # sweep "METHODS" "BUDGETS": the unpruned model, then every method at every budget
  run all keep=all
  for keep in $2; do
    for method in $1; do
      run "$method-$keep" "method=$method,keep=$keep"
    done
  done
}

speed() { # speed ARGUMENTS OF gridprune bench: by a clock of its own, for lmms-eval's also counts reading and preparing
  local file="$results/$recipe/speed.txt"
  mkdir -p "${file%/*}"
  [ -s "$file" ] || { python -m gridprune bench "$@" > "$file.part" && mv "$file.part" "$file"; } || failed=1
}

tables() { # what was kept in each group, what was published, and the times; the status says whether a run failed
  python -m gridprune.lmms.retention "$results/$recipe" --expected expected.json
  cat "$results/$recipe/speed.txt"
  exit "$failed"
}
