"""One layer of every method against the references' numbers: outputs, gradients, merged weights, counts."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import flat, layer_of
from flax import traverse_util

from mtlora_jax.adapters import (
    CannotMerge,
    DoRA,
    HydraLoRA,
    LoRA,
    MoELoRA,
    MTLLoRA,
    MTLLoRAFused,
    MultiLoRA,
    dora,
    method_of,
    mtl_lora,
)
from mtlora_jax.convert import adapter_rows
from mtlora_jax.weights import mapping

DATA = Path(__file__).parents[2] / "data"
L, IN, OUT = 3, 5, 6


# --- the reference (I8)


def names_of(count):
    return tuple(f"task{i}" for i in range(count))


def mtl_lora_case(z, tau, **options):
    state = {key: z[f"param_{key}"] for key in ("lora_A", "lora_lambdas", "lora_B", "lora_B_w")}
    T, R = state["lora_lambdas"].shape[:2]
    diagonal = state["lora_lambdas"].ndim == 2
    spec = MTLLoRA(names_of(T), R, 2.0, len(state["lora_B"]), tau, diagonal, **options)
    return spec, loaded(spec, state)


def loaded(spec, state):
    """A layer's leaves from the reference's names, by the table that whole files go through."""
    d_in, d_out = state["lora_A"].shape[-1], state["lora_B"].shape[1]
    declared = {f"layer/{path}": leaf for path, leaf in flat(mtl_lora.declare(spec, d_in, d_out)).items()}
    targets = {path: np.empty(leaf.shape, np.float32) for path, leaf in declared.items()}
    rows = tuple(row._replace(path=f"layer/{row.path}") for row in adapter_rows.mtl_lora(spec))
    leaves = mapping.load(state, targets, rows)
    return traverse_util.unflatten_dict(leaves, sep="/")["layer"]


def fused_case(z, tau, pooled=("q", "k", "v")):
    lambdas = z["param_lora_lambdas"]
    spec = MTLLoRAFused(names_of(len(lambdas)), 4, 2.0, 3, tau, lambdas.ndim == 2, pooled=pooled)
    leaves = {"A": z["param_lora_A"][0].T}
    for slot in "qkv":
        leaves[f"{slot}_B"] = np.swapaxes(z[f"param_lora_B_{slot}"], -1, -2)
        if slot not in pooled:
            leaves[f"{slot}_B"] = leaves[f"{slot}_B"][0]
    own = {
        task: {"transform": lambdas[t].T} | {f"mix_{slot}": z[f"param_lora_B_{slot}_w"][t] for slot in pooled}
        for t, task in enumerate(spec.tasks)
    }
    return spec, {**leaves, "tasks": own}


def lora_case(z, scale=2.0):
    A, B_ = z["param_lora_A__weight"].T, z["param_lora_B__weight"].T
    return LoRA(A.shape[1], scale), {"A": A, "B": B_}


def dora_case(z, simple, low_rank=True):
    m = z["param_lora_weight_m_wdecomp__weight"][:, 0] - np.linalg.norm(z["param_weight"], axis=1)
    pair = lora_case(z)[1] if low_rank else {}
    return DoRA(4 if low_rank else 0, 2.0, simple), {**pair, "magnitude": m}


def multilora_case(z):
    A, B_ = (np.swapaxes(z[f"param_lora_{name}"], 1, 2) for name in "AB")
    return MultiLoRA(4, 2.0, 3), {"A": A, "B": B_, "scaling": z["param_lora_scaling"]}


def moelora_case(z):
    spec = MoELoRA(names_of(5), 8, 4, 6, 2.0)
    A, B_ = (np.swapaxes(z[f"param_lora_{name}"], 1, 2) for name in "AB")
    *rows, spare = z["param_lora_task_embedding__weight"]
    return spec, {
        "A": A,
        "B": B_,
        "gate": z["param_lora_gate__GateL__weight"].T,
        "spare_embedding": spare,
        "tasks": {task: {"embedding": row} for task, row in zip(spec.tasks, rows, strict=True)},
    }


def hydralora_case(z):
    B_ = np.swapaxes(z["param_lora_B"], 1, 2)
    return HydraLoRA(4, 3, 2.0), {"A": z["param_lora_A"].T, "B": B_, "route": z["param_lora_route"].T}


def adapterhub_case(z):
    spec = MTLLoRA(names_of(3), 4, 2.0, 3, 0.05, diagonal=True)
    own = {}
    for task, values, weights in zip(spec.tasks, z["values"], z["weights"], strict=True):
        own[task] = {"transform": values, "mix": weights}
    return spec, {"A": z["lora_A"].T, "B": np.swapaxes(z["lora_B"], 1, 2), "tasks": own}


GOLDEN = {
    "mtl_lora_linear_full_tau0p1": partial(mtl_lora_case, tau=0.1),
    "mtl_lora_linear_full_tau0p5": partial(mtl_lora_case, tau=0.5),
    "mtl_lora_linear_full_tau1": partial(mtl_lora_case, tau=1.0),
    "mtl_lora_linear_full_n1": partial(mtl_lora_case, tau=0.1),
    "mtl_lora_linear_full_single_task_batch": partial(mtl_lora_case, tau=0.1),
    "mtl_lora_linear_full_seq1": partial(mtl_lora_case, tau=0.1),
    "mtl_lora_linear_full_big": partial(mtl_lora_case, tau=0.1),
    "mtl_lora_linear_diag_tau0p1": partial(mtl_lora_case, tau=0.1),
    "mtl_lora_linear_diag_tau0p8": partial(mtl_lora_case, tau=0.8),
    "mtl_lora_fused_qkv_full": partial(fused_case, tau=0.1),
    "mtl_lora_fused_qkv_diag": partial(fused_case, tau=0.5),
    "mtl_lora_fused_qkv_sharedK": partial(fused_case, tau=0.5, pooled=("q", "v")),
    "lora_linear_bias": lora_case,
    "lora_linear_nobias": lora_case,
    "dora_linear_simple_bias": partial(dora_case, simple=True),
    "dora_linear_simple_nobias": partial(dora_case, simple=True),
    "dora_linear_exact": partial(dora_case, simple=False),
    "dora_linear_magnitude_only": partial(dora_case, simple=True, low_rank=False),
    "multilora_linear_n3": multilora_case,
    "moelora_linear_e4": moelora_case,
    "hydralora_linear": hydralora_case,
    "adapterhub_mtl_lora_linear": adapterhub_case,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_gradients_and_merged_weights_are_the_reference_s(name):
    z = np.load(DATA / f"{name}.npz")
    case = GOLDEN[name]
    spec, leaves = case(z)
    method = method_of(spec)
    kernel, bias, ids = z["param_weight"].T, z.get("param_bias"), z.get("task_ids")

    def loss(leaves, x):
        y = method.apply(spec, leaves, kernel, bias, x, task_id=ids)
        return (y * z["R"]).sum(), y

    gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, y), (grads, grad_x) = gradient(jax.tree.map(jnp.asarray, leaves), jnp.asarray(z["x"]))
    np.testing.assert_allclose(y, z["out"], rtol=1e-5, atol=1e-5)
    if "grad_x" in z:
        near(grad_x, z["grad_x"], np.abs(z["grad_x"]).max())
        # Their gradients, named as their parameters are, go through the same conversion.
        theirs = {key.replace("grad_", "param_", 1): z[key] for key in z.files if key.startswith("grad_lora")}
        kept = {"param_weight": np.zeros_like(z["param_weight"])}
        grads, expected = flat(grads), flat(case({**kept, **theirs})[1])
        assert set(grads) == set(expected)
        for leaf, value in expected.items():
            alike = (other for other in expected.values() if other.shape == value.shape)
            near(grads[leaf], value, max(np.abs(other).max() for other in alike))
    for t, merged in enumerate(z["merged_weight"] if "merged_weight" in z and z["merged_weight"].ndim == 3 else ()):
        found, _ = method.merge(spec, leaves, kernel, bias, spec.tasks[t])
        np.testing.assert_allclose(found.T, merged, rtol=1e-5, atol=1e-5)
    if "merged_weight" in z and z["merged_weight"].ndim == 2:
        np.testing.assert_allclose(
            method.merge(spec, leaves, kernel, bias)[0].T, z["merged_weight"], rtol=1e-5, atol=1e-5
        )
    if "mix_probs" in z:
        np.testing.assert_allclose(mtl_lora.mixture(spec, leaves), z["mix_probs"], rtol=1e-5, atol=1e-6)


def near(found, expected, scale):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * scale)


def test_half_precision_is_within_its_rounding():
    z = np.load(DATA / "mtl_lora_linear_full_tau0p1_bf16.npz")
    spec, leaves = mtl_lora_case(z, 0.1)
    y = mtl_lora.apply(
        spec, leaves, z["param_weight"].T, None, jnp.asarray(z["x"], jnp.bfloat16), task_id=z["task_ids"]
    )
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), np.asarray(z["out"], np.float32), atol=0.05)


# --- counts (section 1.4 of the method's description)

LLAMA2 = {"q": (4096, 4096), "k": (4096, 4096), "v": (4096, 4096), "o": (4096, 4096)} | {
    "gate": (4096, 11008),
    "up": (4096, 11008),
    "down": (11008, 4096),
}
LLAMA3 = {"q": (4096, 4096), "k": (4096, 1024), "v": (4096, 1024), "o": (4096, 4096)}
QKVO, ALL, UPDOWN = tuple("qkvo"), tuple(LLAMA2), ("q", "k", "v", "up", "down")
EIGHT = names_of(8)
COUNTS = [
    (LoRA(8), 8388608, 19988480, 14024704, 6815744),
    (LoRA(16), 16777216, 39976960, 28049408, 13631488),
    (LoRA(32), 33554432, 79953920, 56098816, 27262976),
    (DoRA(16), 17301504, 41336832, 28925952, 13959168),
    (MTLLoRA(EIGHT), 16845824, 41866496, 28135168, 12127232),
    (MTLLoRA(EIGHT, diagonal=True), 16788480, 41766144, 28063488, 12069888),
    (MultiLoRA(8), 26738688, 64045056, 44703744, 21430272),
    (MoELoRA(EIGHT), 16916480, 40220672, 28223488, 13770752),
    (HydraLoRA(8, 3), 18350080, 45162496, 30679040, 13631488),
]


@pytest.mark.parametrize(("spec", "qkvo", "every", "updown", "llama3"), COUNTS, ids=lambda v: str(v)[:40])
def test_trainable_counts_are_the_published_ones(spec, qkvo, every, updown, llama3):
    def count(shapes, names):
        leaves = (leaf for name in names for leaf in flat(method_of(spec).declare(spec, *shapes[name])).values())
        return 32 * sum(int(np.prod(leaf.shape)) for leaf in leaves)

    assert [count(LLAMA2, names) for names in (QKVO, ALL, UPDOWN)] == [qkvo, every, updown]
    assert count(LLAMA3, QKVO) == llama3


# --- what is refused, and why


@pytest.mark.parametrize(
    ("name", "what", "reason"),
    [
        ("hydralora", "merge", "routes every token"),
        ("hydralora", "export", "routes every token"),
        ("dora", "export", "rescales whole columns"),
        ("mtl_lora", "merge", "name one of a, b, c, not None"),
        ("mtl_lora_fused", "merge", "name one of a, b, c, not None"),
        ("moelora", "merge", "name one of a, b, c, not None"),
    ],
)
def test_what_would_not_be_exact_is_refused_with_the_reason(name, what, reason):
    layer = layer_of(name)
    kernel, bias = layer.base
    arguments = (kernel, bias) if what == "merge" else (kernel,)
    with pytest.raises(CannotMerge, match=reason):
        getattr(layer.method, what)(layer.spec, layer.leaves, *arguments)


def test_the_product_gathers_no_up_projections():
    spec = MTLLoRA(names_of(8), rank=8)
    leaves = mtl_lora.init(spec, jax.random.key(0), 256, 256)
    leaves = jax.tree.map(lambda leaf: leaf + 0.1, leaves)
    x, ids = jax.random.normal(jax.random.key(1), (16, 32, 256)), jnp.arange(16) % 8

    def published(leaves, x):
        p = mtl_lora.mixture(spec, leaves)
        Bs = jnp.einsum("tu,uro->tro", p, leaves["B"])[ids]
        return mtl_lora.transformed(spec, leaves, x, ids) @ Bs

    def ours(leaves, x):
        return mtl_lora.update(spec, leaves, x, ids)

    np.testing.assert_allclose(ours(leaves, x), published(leaves, x), rtol=1e-4, atol=1e-4)
    shapes = [v.aval.shape for eqn in jax.make_jaxpr(ours)(leaves, x).eqns for v in eqn.outvars]
    assert (16, 8, 256) not in shapes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MTLLoRA(()), "one or more tasks"),
        (lambda: MTLLoRA(("a", "a")), "each given once"),
        (lambda: MTLLoRA(("a",), temperature=0.0), "temperature must be above 0, not 0.0"),
        (lambda: MTLLoRA(("a",), rank=0), "at least 1"),
        (lambda: MTLLoRA(("a",), dropout=1.0), "dropout"),
        (lambda: MTLLoRAFused(("a",), adapted=("x",)), "adapts some of its slots"),
        (lambda: MTLLoRAFused(("a",), temperature=-1.0), "temperature above 0"),
        (lambda: MTLLoRAFused(("a",), slots=("q", "q", "v")), "slots that are each named once"),
        (lambda: DoRA(-1), "rank of at least 0"),
        (lambda: MultiLoRA(updates=0), "at least 1"),
        (lambda: MoELoRA(("a",), rank=6, experts=4), "4 experts do not divide rank 6"),
        (lambda: MoELoRA(("a",), rank=0), "at least 1"),
        (lambda: HydraLoRA(experts=0), "at least 1"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("simple", [True, False])
def test_dora_leaves_a_column_of_zeros_as_it_is(simple):
    spec = DoRA(rank=2, simple=simple)
    kernel = jax.random.normal(jax.random.key(0), (IN, OUT)).at[:, 1].set(0.0)
    x = jax.random.normal(jax.random.key(1), (L, IN))
    leaves = dora.init(spec, jax.random.key(2), IN, OUT)

    def output(leaves):
        return dora.apply(spec, leaves, kernel, None, x)

    np.testing.assert_array_equal(output(leaves)[:, 1], 0.0)
    for gradient in jax.tree.leaves(jax.grad(lambda leaves: output(leaves).sum())(leaves)):
        assert np.isfinite(gradient).all()
