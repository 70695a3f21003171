#!/usr/bin/env bash
# All rows of docs/speed.md that need a GPU, on one card, the most important first: three within eight minutes, all
# within a quarter of an hour.
#
#     benchmarks/accelerator.sh [FOLDER]
#
# Needs jax, flax, optax, numpy and torch; rows of transformers + PEFT need those too. Writes a JSON for each row, and
# what was printed, to FOLDER (benchmarks/results by default). A row that fails, or takes longer than its share, stops
# no other, and keeps the sides that it has timed.
set -u
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}
mkdir -p "$out"
: >"$out/accelerator.log"
export XLA_PYTHON_CLIENT_PREALLOCATE=false TF_CPP_MIN_LOG_LEVEL=2

row() { # name seconds command...
    local name=$1 seconds=$2
    shift 2
    local began=$SECONDS
    if timeout "$seconds" "$@" --json "$out/$name.json" >>"$out/accelerator.log" 2>&1; then
        echo "$name: $((SECONDS - began)) s, wrote $out/$name.json"
    else
        echo "$name: failed after $((SECONDS - began)) s, see $out/accelerator.log"
    fi
}

seven="benchmarks/language.py --shape llama2_7b --dtype bfloat16 --apart --rounds 3"
row gpu_llama2_7b_packed 140 python3 $seven --length 4096 --packed --rows 1
row gpu_pascal_mtlora_r64 280 python3 benchmarks/vision.py --dtype bfloat16 --apart --sides ours,eager,compiled
row gpu_llama2_7b_profile 45 python3 $seven --length 4096 --packed --rows 1 --profile
row gpu_llama2_7b_packed_4_rows 60 python3 $seven --length 4096 --packed --rows 4 --sides ours
row gpu_llama2_7b_packed_16_tasks 40 python3 $seven --length 4096 --packed --rows 1 --tasks 16 --sides ours
row gpu_pascal_full_fine_tuning 150 python3 benchmarks/vision.py --dtype bfloat16 --sides ours_plain
row gpu_llama2_7b_padded 90 python3 $seven --rows 16 --length 256
row gpu_attention 30 python3 benchmarks/attention.py
