#!/bin/bash
# All hosts of a Cloud TPU VM slice: bash docs/launch/tpu_vm.sh NAME ZONE
# The workers have this repository in ~/mtlora_jax, its requirements and "jax[tpu]", and a directory /shared in common.
set -euo pipefail
gcloud compute tpus tpu-vm ssh "$1" --zone="$2" --worker=all --command="
  cd mtlora_jax && nohup python train.py \
    --config configs/pascal_mtlora_r64.py \
    --workdir /shared/runs/pascal_mtlora_r64 \
    --data.root=/shared/PASCAL_MT \
    --dtype=bfloat16 --train.batch_size=128 > train.log 2>&1 &"
