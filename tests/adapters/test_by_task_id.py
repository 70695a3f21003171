"""Adapters of examples that each belong to one task: the reference's numbers, and what every method keeps."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BY_TASK_ID
from flax import linen as nn

from mtlora_jax.adapters import (
    CannotMerge,
    Dense,
    DoRA,
    HydraLoRA,
    LoRA,
    MoELoRA,
    MTLLoRA,
    MTLLoRAFused,
    MultiLoRA,
    dora,
    export,
    merge,
    method_of,
    mtl_lora,
    sites,
)
from mtlora_jax.convert.adapter_states import STATES

DATA = Path(__file__).parents[1] / "data"
B, L, IN, OUT = 4, 3, 5, 6
IDS = jnp.array([2, 0, 1, 2])
every_case = pytest.mark.parametrize("name", BY_TASK_ID)
ROUTED = [name for name, spec in BY_TASK_ID.items() if hasattr(spec, "tasks")]
MERGEABLE = [name for name in BY_TASK_ID if name != "hydralora"]


# --- the reference (I8)


def names_of(count):
    return tuple(f"task{i}" for i in range(count))


def mtl_lora_case(z, tau, **options):
    state = {key: z[f"param_{key}"] for key in ("lora_A", "lora_lambdas", "lora_B", "lora_B_w")}
    T, R = state["lora_lambdas"].shape[:2]
    diagonal = state["lora_lambdas"].ndim == 2
    spec = MTLLoRA(names_of(T), R, 2.0, len(state["lora_B"]), tau, diagonal, **options)
    return spec, STATES["mtl_lora"].load(spec, state)


def fused_case(z, tau, pooled=("q", "k", "v")):
    lambdas = z["param_lora_lambdas"]
    spec = MTLLoRAFused(names_of(len(lambdas)), 4, 2.0, 3, tau, lambdas.ndim == 2, pooled=pooled)
    leaves = {"A": z["param_lora_A"][0].T}
    for slot in "qkv":
        leaves[f"{slot}_B"] = np.swapaxes(z[f"param_lora_B_{slot}"], -1, -2)
        if slot not in pooled:
            leaves[f"{slot}_B"] = leaves[f"{slot}_B"][0]
    for t, task in enumerate(spec.tasks):
        leaves[f"{task}_transform"] = lambdas[t].T
        leaves |= {f"{task}_mix_{slot}": z[f"param_lora_B_{slot}_w"][t] for slot in pooled}
    return spec, leaves


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
    rows = dict(zip((*spec.tasks, "spare"), z["param_lora_task_embedding__weight"], strict=True))
    return spec, {
        "A": A,
        "B": B_,
        "gate": z["param_lora_gate__GateL__weight"].T,
        **{f"{task}_embedding": row for task, row in rows.items()},
    }


def hydralora_case(z):
    B_ = np.swapaxes(z["param_lora_B"], 1, 2)
    return HydraLoRA(4, 3, 2.0), {"A": z["param_lora_A"].T, "B": B_, "route": z["param_lora_route"].T}


def adapterhub_case(z):
    spec = MTLLoRA(names_of(3), 4, 2.0, 3, 0.05, diagonal=True)
    own = {}
    for task, values, weights in zip(spec.tasks, z["values"], z["weights"], strict=True):
        own |= {f"{task}_transform": values, f"{task}_mix": weights}
    return spec, {"A": z["lora_A"].T, "B": np.swapaxes(z["lora_B"], 1, 2), **own}


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
        kept = {key: np.zeros_like(z[key]) if key == "param_weight" else z[key] for key in ("param_weight",)}
        expected = case({**kept, **theirs})[1]
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
        leaves = (leaf for name in names for leaf in method_of(spec).leaves(spec, *shapes[name]).values())
        return 32 * sum(int(np.prod(leaf.shape)) for leaf in leaves)

    assert [count(LLAMA2, names) for names in (QKVO, ALL, UPDOWN)] == [qkvo, every, updown]
    assert count(LLAMA3, QKVO) == llama3


# --- the contract


@cache
def setup(name):
    """Leaves away from where they start, kernel, bias and input."""
    spec = BY_TASK_ID[name]
    with jax.ensure_compile_time_eval():
        fresh = method_of(spec).init(spec, jax.random.key(0), IN, OUT)
        rng = np.random.default_rng(1)
        moved = {leaf: value + 0.5 * rng.normal(size=value.shape).astype(np.float32) for leaf, value in fresh.items()}
        kernel, bias, x = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((IN, OUT), (OUT,), (B, L, IN)))
    return spec, fresh, moved, kernel, bias, x


def run(name, leaves, x, ids=IDS, **more):
    spec, _, _, kernel, bias, _ = setup(name)
    return method_of(spec).apply(spec, leaves, kernel, bias, x, task_id=ids, **more)


@every_case
def test_a_fresh_adapter_changes_nothing(name):
    _, fresh, _, kernel, bias, x = setup(name)
    plain = x @ kernel + bias.reshape(1, 1, -1)
    np.testing.assert_allclose(run(name, fresh, x), plain, atol=1e-6)


@every_case
def test_leaves_are_drawn_as_declared(name):
    spec, fresh, *_ = setup(name)
    declared = method_of(spec).leaves(spec, IN, OUT)
    assert {leaf: value.shape for leaf, value in fresh.items()} == {leaf: d.shape for leaf, d in declared.items()}


@pytest.mark.parametrize("name", ROUTED)
def test_ids_of_tokens_and_of_examples_agree_and_examples_may_be_mixed(name):
    _, _, leaves, _, _, x = setup(name)
    together = run(name, leaves, x)
    np.testing.assert_allclose(run(name, leaves, x, jnp.repeat(IDS[:, None], L, 1)), together, atol=1e-5)
    for row in range(B):
        np.testing.assert_allclose(run(name, leaves, x[row : row + 1], IDS[row : row + 1])[0], together[row], atol=1e-5)
    mixed = jnp.array([[0, 1, 2]] * B)
    for place in range(L):
        alone = run(name, leaves, x[:, place : place + 1], mixed[:, place])
        np.testing.assert_allclose(run(name, leaves, x, mixed)[:, place], alone[:, 0], atol=1e-5)


@pytest.mark.parametrize("name", ROUTED)
@pytest.mark.parametrize("bad", [3, -1, 99])
def test_an_id_out_of_range_is_nobody_s(name, bad):
    _, _, leaves, _, _, x = setup(name)
    y = run(name, leaves, x, IDS.at[1].set(bad))
    assert np.isnan(y[1]).any(-1).all()
    assert np.isfinite(y[0]).all()
    per_token = run(name, leaves, x, jnp.zeros((B, L), int).at[1, 2].set(bad))
    assert np.isnan(per_token[1, 2]).any()
    assert np.isfinite(per_token[1, :2]).all()


@pytest.mark.parametrize("name", ROUTED)
@pytest.mark.parametrize("ids", [None, jnp.zeros(B + 1, int), jnp.zeros((B, L + 1), int), jnp.zeros((), int)])
def test_ids_that_are_not_one_an_example_are_an_error(name, ids):
    _, _, leaves, _, _, x = setup(name)
    with pytest.raises(ValueError, match="task_id"):
        run(name, leaves, x, ids)


@pytest.mark.parametrize("name", ROUTED)
def test_one_task_s_loss_does_not_reach_another_s_leaves(name):
    spec, _, leaves, _, _, x = setup(name)
    gradient = jax.grad(lambda leaves: (run(name, leaves, x, jnp.zeros(B, int)) ** 2).sum())(leaves)
    for leaf, value in gradient.items():
        others = leaf.startswith(("b_", "c_", "spare_"))
        # One up-projection leaves nothing to mix.
        fixed = leaf.startswith("a_mix") and getattr(spec, "up_projections", 2) == 1
        assert bool(np.any(value)) != (others or fixed), leaf


@pytest.mark.parametrize("name", MERGEABLE)
def test_merging_a_task_is_exact(name):
    spec, _, leaves, kernel, bias, x = setup(name)
    method = method_of(spec)
    for t, task in enumerate(getattr(spec, "tasks", (None,))):
        merged, same_bias = method.merge(spec, leaves, kernel, bias, task)
        y = run(name, leaves, x, jnp.full(B, t))
        np.testing.assert_allclose(x @ merged + same_bias.reshape(1, 1, -1), y, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(kernel + method.delta(spec, leaves, kernel, task), merged, rtol=1e-6, atol=1e-6)
        if not isinstance(spec, DoRA):
            A, B_ = method.export(spec, leaves, kernel, task)
            np.testing.assert_allclose(A @ B_, merged - kernel, rtol=1e-5, atol=1e-5)


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
    spec, _, leaves, kernel, bias, _ = setup(name)
    method = method_of(spec)
    with pytest.raises(CannotMerge, match=reason):
        method.merge(spec, leaves, kernel, bias) if what == "merge" else method.export(spec, leaves, kernel)


@every_case
def test_all_of_jax_s_transformations(name):
    spec, _, leaves, kernel, bias, x = setup(name)
    method = method_of(spec)

    def loss(leaves, x=x):
        return (method.apply(spec, leaves, kernel, bias, x, task_id=IDS) ** 2).sum()

    np.testing.assert_allclose(jax.jit(loss)(leaves), loss(leaves), rtol=1e-5)
    tangent = jax.tree.map(jnp.ones_like, leaves)
    gradient = jax.grad(loss)(leaves)
    along = sum(jnp.vdot(g, t) for g, t in zip(jax.tree.leaves(gradient), jax.tree.leaves(tangent), strict=True))
    if not getattr(spec, "simple", False):  # a norm held constant is a derivative of its own kind
        np.testing.assert_allclose(jax.jvp(loss, (leaves,), (tangent,))[1], along, rtol=1e-4)
        eps = 1e-2
        moved = (jax.tree.map(lambda v, t, s=s: v + s * eps * t, leaves, tangent) for s in (1, -1))
        above, below = map(loss, moved)
        np.testing.assert_allclose((above - below) / (2 * eps), along, rtol=0.05)
    curvature = jax.jvp(jax.grad(loss), (leaves,), (tangent,))[1]
    assert all(np.isfinite(value).all() for value in jax.tree.leaves(curvature))
    stacked = jax.tree.map(lambda value: jnp.stack([value, 2 * value]), leaves)
    np.testing.assert_allclose(jax.vmap(loss)(stacked)[0], loss(leaves), rtol=1e-5)


@pytest.mark.parametrize("name", [name for name, spec in BY_TASK_ID.items() if spec.dropout])
def test_dropout_is_a_function_of_its_key_and_leaves_the_base_alone(name):
    _, fresh, leaves, _, _, x = setup(name)
    one, again, other = (run(name, leaves, x, dropout_key=jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    np.testing.assert_allclose(run(name, fresh, x, dropout_key=jax.random.key(1)), run(name, fresh, x), atol=1e-5)


def test_the_product_gathers_no_up_projections_and_costs_less_than_one_that_does():
    spec = MTLLoRA(names_of(8), rank=8)
    leaves = mtl_lora.init(spec, jax.random.key(0), 256, 256)
    leaves = {name: leaf + 0.1 for name, leaf in leaves.items()}
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
        (lambda: MoELoRA(("a", "spare")), "keeps the name 'spare'"),
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


# --- scanned layers


class Block(nn.Module):
    """One layer, in the form that `nn.scan` wants."""

    adapter: object

    @nn.compact
    def __call__(self, x, task_id):
        return Dense(IN, adapter=self.adapter, name="layer")(x, task_id=task_id), None


class Stack(nn.Module):
    """Three equal layers, one after the other."""

    adapter: object = None

    @nn.compact
    def __call__(self, x, task_id):
        rngs = {"params": True, "lora": True}
        scan = nn.scan(Block, {"params": 0, "lora": 0}, split_rngs=rngs, in_axes=nn.broadcast, length=3)
        return scan(self.adapter, name="blocks")(x, task_id)[0]


def test_layers_of_a_scan_are_drawn_merged_and_exported_each_for_itself():
    spec = MTLLoRA(("a", "b", "c"), rank=2)
    model, x = Stack(spec), jax.random.normal(jax.random.key(3), (B, L, IN))
    keys = {"params": jax.random.key(0), "lora": jax.random.key(1)}
    variables = model.init(keys, x, IDS)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], Stack().init(keys, x, IDS)["params"])
    assert (variables["lora"]["blocks"]["layer"]["A"][0] != variables["lora"]["blocks"]["layer"]["A"][1]).any()
    variables["lora"] = jax.tree.map(lambda leaf: leaf + 0.3, variables["lora"])
    found = sites(model, x, IDS)
    assert list(found) == [("blocks", "layer")]
    plain = merge(variables, found, "b")
    expected = model.apply(variables, x, jnp.full(B, 1))
    np.testing.assert_allclose(Stack().apply(plain, x, IDS), expected, rtol=1e-4, atol=1e-4)
    A, B_ = export(variables, found, "b")[("blocks", "layer")]
    np.testing.assert_allclose(
        A @ B_,
        plain["params"]["blocks"]["layer"]["kernel"] - variables["params"]["blocks"]["layer"]["kernel"],
        atol=1e-5,
    )
    with pytest.raises(CannotMerge, match=r"blocks/layer cannot be exported: .* name one of a, b, c"):
        export(variables, found)
    with pytest.raises(CannotMerge, match=r"blocks/layer cannot be merged: .* name one of a, b, c"):
        merge(variables, found)
    with pytest.raises(ValueError, match="lora/blocks/layer/A has shape"):
        merge({**variables, "lora": jax.tree.map(lambda leaf: leaf[:2], variables["lora"])}, found, "b")
