"""The image-text reference's outputs under `tests/data/vl`, and its models as ours."""

import json
from functools import cache
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import load_file

from mtlora_jax.convert import vl_bart_reference

DATA = Path(__file__).parent / "data" / "vl"
BASE = DATA / "tiny_bart_base"
TASKS = ("vqa", "gqa", "nlvr", "caption")
VISUAL = {"feat_dim": 16, "pos_dim": 4, "n_images": 2, "n_boxes": 36, "downsample": True}
VISUAL |= {"use_vis_layer_norm": True, "individual_vis_layer_norm": True, "use_vis_order_embedding": True}
CONFIG = {**json.loads((BASE / "config.json").read_text()), **VISUAL}
HYPER = {"r": 4, "lora_alpha": 8, "n_tasks": 4, "n_up": 2, "tau": 0.8, "diagonal": False}
PLAIN, ADAPTED, TRAINED = (np.load(DATA / f"vl_{name}.npz") for name in ("bart_forward", "mtl_lora", "train8"))
PROMPTS, METRICS = (json.loads((DATA / f"vl_{name}.json").read_text()) for name in ("prompts", "metrics"))
ORDER = ("caption", "gqa", "vqa", "nlvr", "gqa", "nlvr", "vqa", "caption")
"""Which task's batch each of the eight steps takes."""


@cache
def state(adapted: bool) -> dict:
    plain = load_file(DATA / "vl_bart_forward.safetensors")
    return plain | load_file(DATA / "vl_mtl_lora.safetensors") if adapted else plain


@cache
def model(adapted: bool):
    with jax.ensure_compile_time_eval():
        return vl_bart_reference(CONFIG, state(adapted), HYPER if adapted else None)


def inputs(task: str) -> tuple:
    """Ids, features, boxes and targets of a task's batch."""
    return tuple(PLAIN[f"{task}:{name}"] for name in ("input_ids", "vis_feats", "boxes", "target_ids"))


def task_id(task: str) -> np.ndarray:
    return np.full(len(PLAIN[f"{task}:input_ids"]), TASKS.index(task), np.int32)


def batch(task: str) -> dict:
    """A task's batch as the workload takes it."""
    ids, features, _, targets = inputs(task)
    features = features if features.ndim == 4 else features[:, None]
    B = len(ids)
    return {
        "tokens": ids,
        "targets": targets,
        "features": features,
        "visible": np.ones(features.shape[:2], bool),
        "score": PLAIN[f"{task}:scores"] if f"{task}:scores" in PLAIN.files else np.ones(B, np.float32),
        "task_id": task_id(task),
        "valid": {name: np.full(B, name == task) for name in TASKS},
    }
