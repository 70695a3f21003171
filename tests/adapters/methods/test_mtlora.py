"""MTLoRA, LoRA and full updates against their published formulas, in plain loops and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import IN, KEY, OUT, Layer, parts, same

from mtlora_jax import adapters
from mtlora_jax.adapters import CannotMerge, Full, LoRA, MTLoRA, Streams

TWO = {"tasks": ("a", "b"), "task_ranks": (1, 2), "task_scales": (2.0, 0.5)}
CASES = {
    "lora": LoRA(rank=3),
    "lora, scaled": LoRA(rank=3, scale=0.5, dropout=0.5),
    "full": Full(("a", "b")),
    "no tasks": MTLoRA(rank=3, scale=3.0, dropout=0.5),
    "no tasks, trainable scale": MTLoRA(rank=3, mode="addition", trainable_scale=True),
    "lora_only": MTLoRA(rank=3, mode="lora_only", **TWO),
    **{
        f"{mode}, {base}{', trainable scales' * trainable}": MTLoRA(
            rank=3,
            scale=1.5,
            mode=mode,
            task_base=base,
            trainable_scale=trainable,
            trainable_task_scales=trainable,
            dropout=0.5 * trainable,
            **TWO,
        )
        for mode in ("matrix", "matrixv2", "addition")
        for base in ("shared", "per_task")
        for trainable in (False, True)
    },
    "a task of rank 0": MTLoRA(rank=3, tasks=("a", "b"), task_ranks=(0, 2), task_scales=(1.0, 1.0)),
}
every_case = pytest.mark.parametrize("spec", CASES.values(), ids=CASES)


def with_tasks(**options) -> Layer:
    spec = {"rank": 2, "tasks": ("a", "b"), "task_ranks": (1, 2), "task_scales": (2.0, 3.0)}
    return Layer(MTLoRA(**{**spec, **options}))


def formula(layer: Layer, x) -> dict[str, np.ndarray]:
    """The published formulas, task by task (see each method's docstring)."""
    spec = layer.spec
    kernel, bias = (np.asarray(m, np.float64) for m in layer.base)
    leaves = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), layer.leaves)
    streams = {name: np.asarray(part, np.float64) for name, part in parts(x, layer.tasks).items()}
    x = streams["shared"]
    if isinstance(spec, LoRA):
        return {t: u @ kernel + bias + spec.scale * (u @ leaves["A"] @ leaves["B"]) for t, u in streams.items()}
    if isinstance(spec, Full):
        own = {t: streams.get(t, x) @ (kernel + leaves["tasks"][t]["delta"]) + bias for t in spec.tasks}
        return {"shared": x @ kernel + bias, **own}

    def shared(u):
        return leaves.get("shared_scale", spec.scale) * (u @ leaves["shared_A"] @ leaves["shared_B"])

    if not spec.tasks:
        return {t: u @ kernel + bias + shared(u) for t, u in streams.items()}
    result = {}
    for t, scale in zip(spec.tasks, spec.task_scales, strict=True):
        u, own = streams.get(t, x), leaves["tasks"][t]
        base = x if spec.task_base == "shared" else u
        result[t] = base @ kernel + bias + own.get("scale", scale) * (u @ own["A"] @ own["B"])
        if spec.mode == "matrixv2":
            result[t] = result[t] + shared(base)
    y = x @ kernel + bias
    if spec.mode == "addition":
        total = sum(result.values())
        centred = total - total.mean(-1, keepdims=True)
        norm = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return {"shared": y + norm * leaves["norm_scale"] + leaves["norm_bias"], **result}
    return {"shared": y + shared(x), **result}


@every_case
def test_apply_is_the_formula(spec):
    layer = Layer(spec)
    for form, x in layer.inputs.items():
        y = layer.apply(layer.leaves, x)
        assert isinstance(y, Streams) == bool(layer.tasks or form == "streams")
        ours, expected = parts(y, layer.tasks), formula(layer, x)
        assert ours.keys() == expected.keys()
        for t in expected:
            np.testing.assert_allclose(ours[t], expected[t], rtol=1e-4, atol=1e-5, err_msg=str(t))


def test_mode_addition_adds_a_normalised_sum_at_step_0():
    layer = with_tasks(mode="addition")
    x = layer.inputs["array"]
    kernel, bias = layer.base
    assert abs(layer.apply(layer.fresh, x).shared - (x @ kernel + bias.reshape(1, 1, -1))).max() > 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRA(rank=0), "rank of at least 1, not 0"),
        (lambda: LoRA(dropout=1.0), r"dropout must lie in \[0, 1\), not 1.0"),
        (lambda: MTLoRA(rank=0), "shared rank of at least 1, not 0"),
        (lambda: with_tasks(task_ranks=(1,)), "2 tasks, 1 ranks, 2 scales"),
        (lambda: with_tasks(task_ranks=(1, -1)), "task b, not -1"),
        (lambda: with_tasks(tasks=("a", "a")), "the task 'a' twice"),
        (lambda: Full(()), "one or more tasks"),
        (lambda: Full(("a", "a")), "each given once"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def mergeable(layer: Layer, t: str | None) -> bool:
    """What the docstrings say can be merged."""
    if not isinstance(layer.spec, MTLoRA) or not layer.tasks:
        return True
    return layer.spec.mode != "addition" if t is None else layer.spec.task_base == "per_task"


@every_case
def test_what_does_not_merge_is_refused_with_the_reason(spec):
    layer = Layer(spec)
    for t in (None, *layer.tasks):
        if mergeable(layer, t):
            assert layer.method.delta(spec, layer.leaves, layer.base[0], t).shape == (IN, OUT)
            continue
        reason = "LayerNorm of the tasks' sum" if t is None else f"task {t} adds W of the shared stream"
        with pytest.raises(CannotMerge, match=reason):
            layer.method.merge(spec, layer.leaves, *layer.base, t)


def test_down_projections_fill_the_interval_that_the_paper_draws_from():
    a = adapters.lora.init(LoRA(rank=64), jax.random.key(0), 16, 4)["A"]
    assert 0.24 < abs(a).max() <= 0.25
    assert abs(a.mean()) < 0.02


# --- dropout

DROPPING = {name: spec for name, spec in CASES.items() if spec.dropout}


def without_norm(leaves):
    """Past a LayerNorm no mean is kept: its gain and shift are put to zero."""
    return {n: jnp.zeros_like(a) if n.startswith("norm_") else a for n, a in leaves.items()}


@pytest.mark.parametrize("spec", DROPPING.values(), ids=DROPPING)
def test_dropout_keeps_the_mean(spec):
    layer = Layer(spec)
    leaves, x = without_norm(layer.leaves), layer.inputs["array"]
    keys = jax.random.split(KEY, 2000)
    drawn = jax.vmap(lambda key: layer.apply(leaves, x, dropout_key=key))(keys)

    def holds(samples, undropped):
        error = samples.std(0) / len(keys) ** 0.5
        assert (abs(samples.mean(0) - undropped) <= 6 * error + 1e-4).all()

    jax.tree.map(holds, drawn, layer.apply(leaves, x))


@pytest.mark.parametrize("mode", ["matrix", "addition"])
@pytest.mark.parametrize("base", ["shared", "per_task"])
def test_task_streams_handed_in_are_not_dropped(mode, base):
    layer = with_tasks(mode=mode, task_base=base, dropout=0.5)
    x = layer.inputs["streams"]
    dropped, plain = layer.apply(layer.leaves, x, dropout_key=KEY), layer.apply(layer.leaves, x)
    same(dropped.tasks, plain.tasks)
    assert (dropped.shared != plain.shared).any() == (mode == "matrix")


def test_every_stream_of_a_layer_without_tasks_has_its_own_mask():
    for name in ("lora, scaled", "no tasks"):
        layer = Layer(CASES[name])
        x = layer.inputs["array"]
        y = layer.apply(layer.leaves, Streams(x, jnp.stack([x, x])), dropout_key=KEY)
        assert abs(y.shared - y.tasks[0]).max() > 0.1
        assert abs(y.tasks[0] - y.tasks[1]).max() > 0.1


# --- tasks


@pytest.mark.parametrize("mode", ["matrix", "matrixv2", "addition"])
def test_the_shared_loss_reaches_task_leaves_in_mode_addition_alone(mode):
    layer = with_tasks(mode=mode)
    weights = jnp.arange(1.0, 1 + OUT).reshape(1, 1, OUT)
    gradient = jax.grad(lambda leaves: (layer.apply(leaves, layer.inputs["array"]).shared * weights).sum())(
        layer.leaves
    )
    assert any(g.any() for g in jax.tree.leaves(gradient["tasks"])) == (mode == "addition")


@pytest.mark.parametrize("spec", [s for s in CASES.values() if len(getattr(s, "tasks", ())) == 2], ids=str)
def test_a_task_reads_its_own_stream_and_no_other_s(spec):
    layer = Layer(spec)
    x = layer.inputs["streams"]
    y = layer.apply(layer.leaves, x).tasks
    for t in range(2):
        changed = layer.apply(layer.leaves, Streams(x.shared, x.tasks.at[t].add(1.0))).tasks
        assert (changed[t] != y[t]).any() or getattr(layer.spec, "task_ranks", (1, 1))[t] == 0
        same(changed[1 - t], y[1 - t])
