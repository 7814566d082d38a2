# Sourced by the recipes: one lmms-eval run per call of `run`, skipped if its results are there already.
#
#   results   where they go (default: results-lmms)
#   gpus      processes of accelerate, one per GPU (default: 1)
#   batch     questions in a batch (default: 1)
#   launch    other arguments of `accelerate launch`, such as --cpu
#
# Set by a recipe: common (model_args of every run), tasks, and extra (further arguments of lmms-eval).

results=${results:-results-lmms}
gpus=${gpus:-1}
batch=${batch:-1}
extra=()
several=()
if ((gpus > 1)); then several=(--multi_gpu); fi # without it accelerate may start one process alone, and says nothing

run() { # run NAME MODEL_ARGS
  local folder="$results/$recipe/$1"
  if find "$folder" -name '*_results.json' 2>/dev/null | grep -q .; then
    echo "$1: done before"
    return
  fi
  # shellcheck disable=SC2086  # $launch holds several words
  python -m accelerate.commands.launch --num_processes "$gpus" --num_machines 1 --mixed_precision no \
    --dynamo_backend no "${several[@]}" ${launch:-} -m lmms_eval --model gridprune --model_args "$common,$2" --tasks "$tasks" \
    --batch_size "$batch" --output_path "$folder" --log_samples "${extra[@]}"
  # lmms-eval reports errors and ends with 0 all the same
  find "$folder" -name '*_results.json' 2>/dev/null | grep -q . || { echo "$1: no results were written" >&2; exit 1; }
}

sweep() { # sweep "METHODS" "BUDGETS": the unpruned model, then every method at every budget
  run all keep=all
  for keep in $2; do
    for method in $1; do
      run "$method-$keep" "method=$method,keep=$keep"
    done
  done
}
