"""The reference's eight AdamW updates: losses, gradient norms, learning rates and the weights they end in."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import DATA, OUR_TASKS, arrays, compiled

from mtlora_jax.config import Optim
from mtlora_jax.convert import mtlora_reference, reference, to_mtlora_reference
from mtlora_jax.engine import tables
from mtlora_jax.engine.optim import make_optimizer, schedule
from mtlora_jax.engine.partition import join, split_variables
from mtlora_jax.engine.program import unread_leaves
from mtlora_jax.vision.heads import resize
from mtlora_jax.vision.tasks import task
from mtlora_jax.vision.trainable import Trainable, table
from mtlora_jax.weights import mapping

ABOUT = json.loads((DATA / "mtlora_train_steps.json").read_text())
TASKS = ABOUT["tasks"]
STEPS = ABOUT["epochs"] * ABOUT["iters_per_epoch"]
OPTIM = Optim(
    lr=ABOUT["base_lr"],
    lr_warmup=ABOUT["warmup_lr"],
    lr_min=ABOUT["min_lr"],
    warmup_steps=ABOUT["warmup_epochs"] * ABOUT["iters_per_epoch"],
    weight_decay=ABOUT["optimizer"]["weight_decay"],
    clip_norm=ABOUT["clip_grad"],
)
CONFIG = {
    "DATA": {"IMG_SIZE": 64},
    "MODEL": {
        "DROP_PATH_RATE": 0.0,
        "SWIN": {"WINDOW_SIZE": 4, "EMBED_DIM": 4, "DEPTHS": [2, 2, 2, 2], "NUM_HEADS": [1, 1, 2, 4]},
        "DECODER_CHANNELS": [6, 8, 10, 12],
        "MTLORA": {
            "ENABLED": True,
            "DROPOUT": [0.0],
            "SHARED_SCALE": [4.0],
            "R_PER_TASK": {**{t: [2] for t in TASKS}, "shared": [4]},
        },
    },
    "TASKS": TASKS,
    "DATASET": "PASCALContext",
}
NOISE = "last_layer.0.bias"
"""A bias before batch normalisation: its true gradient is 0, and Adam turns rounding into steps."""


def make_step(model, optimizer):
    tasks = {t: task(OUR_TASKS.get(t, t)) for t in TASKS}

    def loss(trainable, frozen, mutable, images, labels):
        variables, rngs = join(trainable, frozen, mutable), {"dropout": jax.random.key(0)}
        logits, mutable = model.apply(
            variables, images, train=True, method="logits", mutable=["batch_stats"], rngs=rngs
        )
        valid = jnp.ones(len(images), bool)
        losses = {
            t: tasks[t].finish(tasks[t].sums(resize(x, images.shape[1]), labels[t], valid)) for t, x in logits.items()
        }
        return sum(tasks[t].weight * losses[t] for t in TASKS), (losses, mutable)

    def step(trainable, frozen, mutable, state, images, labels):
        differentiate = jax.value_and_grad(loss, has_aux=True)
        (total, (losses, mutable)), gradients = differentiate(trainable, frozen, mutable, images, labels)
        present = dict.fromkeys(TASKS, True)
        updates, state = optimizer.update(gradients, state, trainable, present=present)
        logged = {"loss": total, **losses, "grad_norm_before_clip": optax.tree.norm(gradients)}
        return optax.apply_updates(trainable, updates), mutable, state, logged

    return step


def labels_of(model, variables) -> dict[str, str]:
    """Every weight's label, as `engine.state.weight_labels` gives it."""
    weights = {name: variables[name] for name in ("params", "lora")}
    labels = tables.label_paths(table(model.placement, Trainable()), tables.paths(weights))
    unread = unread_leaves(model.apply, variables, jax.ShapeDtypeStruct((1, 64, 64, 3), "float32"))
    return {path: "unused" if path in unread and label != "frozen" else label for path, label in labels.items()}


@pytest.mark.slow
def test_eight_updates():
    golden = arrays("mtlora_train_steps.npz")
    before = {key.removeprefix("sd:"): x for key, x in golden.items() if key.startswith("sd:")}
    model, variables = mtlora_reference(before, CONFIG)
    labels = labels_of(model, variables)
    trainable, frozen, mutable = split_variables(variables, labels)
    groups = jax.tree.unflatten(jax.tree.structure(trainable), [labels[p] for p in tables.paths(trainable)])
    optimizer = make_optimizer(OPTIM, schedule(OPTIM, STEPS), groups)

    state, mutated, run = optimizer.init(trainable), mutable, None
    for i, expected in enumerate(ABOUT["log"]):
        images = golden[f"step{i}:image"].transpose(0, 2, 3, 1)
        truth = {t: np.moveaxis(golden[f"step{i}:gt:{t}"], 1, -1) for t in TASKS}
        truth = {t: x if x.shape[-1] == 3 else x[..., 0] for t, x in truth.items()}
        args = trainable, frozen, mutated, state, images, truth
        run = run or compiled(make_step(model, optimizer), *args)
        trainable, mutated, state, logged = run(*args)
        assert float(schedule(OPTIM, STEPS)(i)) == pytest.approx(expected["lr_used"], rel=1e-6)
        for name in ("loss", *TASKS):
            assert float(logged[name]) == pytest.approx(expected[name], abs=1e-5), (i, name)
        # The normals' L1 loss has kinks: its gradient jumps where float32 and float64 fall on different sides.
        assert float(logged["grad_norm_before_clip"]) == pytest.approx(expected["grad_norm_before_clip"], rel=5e-3)

    after = to_mtlora_reference(model, join(trainable, frozen, mutated))
    for key, theirs in golden.items():
        name = key.removeprefix("final:")
        if key == name:
            continue
        difference = np.abs(after[name] - theirs)
        if name.endswith(NOISE):
            assert difference.max() < OPTIM.lr * STEPS
        else:
            # Adam divides by small gradients: single entries may part, where all moved by about 5e-3.
            assert difference.max() < 5e-4, name
            assert difference.mean() < (1e-4 if "running" in name else 2e-5), name
    weights_of = {name for name in before if not name.endswith(("tracked", "running_mean", "running_var", NOISE))}
    assert {name for name in weights_of if (after[name] != before[name]).any()} == set(ABOUT["changed"])


def test_decay_groups_are_the_references():
    golden = arrays("mtlora_train_steps.npz")
    before = {key.removeprefix("sd:"): x for key, x in golden.items() if key.startswith("sd:")}
    model, variables = mtlora_reference(before, CONFIG)
    labels = labels_of(model, variables)
    names = {path: mapping.lookup(path, reference.rows(model))[0][0] for path in labels}
    assert {names[p] for p, label in labels.items() if label != "frozen"} == set(ABOUT["trainable"])
    for label in ("decay", "no_decay"):
        ours = {names[p] for p, own in labels.items() if own == label}
        assert ours <= set(ABOUT[f"{label}_group"]), label
    unused = {names[p] for p, label in labels.items() if label == "unused"}
    assert unused == {f"backbone.layers.3.blocks.1.mlp.fc2.lora_shared_{x}" for x in "AB"}
