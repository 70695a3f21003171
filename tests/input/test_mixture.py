"""Mixtures: who is read when, as a function of (seed, step) alone; and labels that a source lacks."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlora_jax.errors import UserError
from mtlora_jax.input.loader import Loader, batches_of
from mtlora_jax.input.mixture import BLOCK, Mixture, deal, shares_of
from mtlora_jax.input.protocols import Examples
from mtlora_jax.testing.published_layouts import write_folder, write_nyud
from mtlora_jax.vision.config import FolderData, MixtureData, NyudData, ScenesData, TaskConfig, VisionConfig
from mtlora_jax.vision.swin import SwinSpec
from mtlora_jax.vision.tasks import VOID


@dataclass(frozen=True)
class Numbers(Examples):
    """A source that says which example was asked of it."""

    name: int
    length: int

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"id": np.int64(index), "name": self.name}


def mixture(lengths, shares=()):
    return Mixture(tuple(Numbers(k, n) for k, n in enumerate(lengths)), tuple(shares))


def order(mixed, steps, batch_size, seed=0):
    return np.concatenate([mixed.order(seed, step, batch_size) for step in range(steps)])


def owner(mixed, indices):
    return np.searchsorted(np.cumsum(list(map(len, mixed.sets))), indices, side="right")


lengths = st.lists(st.integers(1, 30), min_size=1, max_size=4)


@given(lengths, st.data(), st.integers(0, 2**31 - 1))
@settings(max_examples=25, deadline=None)
def test_order_depends_on_seed_and_position_alone(lengths, data, seed):
    shares = data.draw(st.sampled_from([(), tuple(range(1, len(lengths) + 1))]))
    mixed = mixture(lengths, shares)
    whole = order(mixed, 24, 2, seed)
    assert np.array_equal(whole, order(mixed, 8, 6, seed))
    assert np.array_equal(whole[10:12], mixed.order(seed, 5, 2))
    assert whole.min() >= 0
    assert whole.max() < len(mixed)


@pytest.mark.parametrize("shares", [(), (1, 1, 1), (5, 2, 1)])
def test_every_source_goes_through_all_it_has_before_any_comes_again(shares):
    mixed = mixture((7, 20, 3), shares)
    indices = order(mixed, 500, 4)
    starts = np.cumsum([0, 7, 20, 3])
    for k, source in enumerate(mixed.sets):
        own = indices[owner(mixed, indices) == k] - starts[k]
        epochs = len(own) // len(source)
        assert epochs > 2
        for epoch in own[: epochs * len(source)].reshape(epochs, -1):
            assert sorted(epoch) == list(range(len(source)))
        assert any(
            not np.array_equal(own[: len(source)], own[e * len(source) :][: len(source)]) for e in range(1, epochs)
        )


def test_sources_take_turns():
    mixed = mixture((4, 9, 2))
    assert owner(mixed, order(mixed, 5, 3)).tolist() == [0, 1, 2] * 5


def test_shares_are_kept_in_every_block():
    mixed = mixture((4, 9), (0.75, 0.25))
    owners = owner(mixed, order(mixed, 2, BLOCK)).reshape(2, BLOCK)
    assert np.bincount(owners[0]).tolist() == [768, 256]
    assert np.bincount(owners[1]).tolist() == [768, 256]
    assert not np.array_equal(owners[0], owners[1])


def test_another_seed_is_another_order():
    mixed = mixture((50, 50), (1, 1))
    assert not np.array_equal(order(mixed, 10, 4, 0), order(mixed, 10, 4, 1))


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=6))
def test_quotas_add_up_and_leave_nobody_out(raw):
    quotas = deal(tuple(raw), 64)
    assert sum(quotas) == 64
    assert min(quotas) >= 1


def test_temperature_goes_from_sizes_to_evenness():
    assert shares_of((300, 100), None, 1.0) == (0.75, 0.25)
    hot = shares_of((300, 100), None, 1e6)
    np.testing.assert_allclose(hot, 0.5, atol=1e-5)
    warm = shares_of((300, 100), None, 2.0)
    np.testing.assert_allclose(warm[0] / warm[1], 3**0.5)
    assert shares_of((1, 1), (3, 1), 5.0) == (0.75, 0.25)
    with pytest.raises(UserError, match="weight above 0"):
        shares_of((1, 1), (3, 0), 1.0)


def test_it_is_evaluated_one_source_after_the_other():
    mixed = mixture((2, 3))
    assert [(mixed[i]["name"], int(mixed[i]["id"])) for i in range(5)] == [(0, 0), (0, 1), (1, 2), (1, 3), (1, 4)]
    with pytest.raises(IndexError):
        _ = mixed[5]


# --- through the config, from disjoint data sets


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    own = write_folder(root / "own", ("saliency",), train=3, val=1)
    depths = write_nyud(root / "nyud", train=2, val=2)
    return VisionConfig(
        backbone=SwinSpec(image_size=32, window=4),
        tasks={"saliency": TaskConfig(), "depth": TaskConfig(), "human_parts": TaskConfig()},
        data=MixtureData(
            sources={
                "own": FolderData(root=str(own), tasks=("saliency",)),
                "nyud": NyudData(root=str(depths), preset="default"),
                "scenes": ScenesData(train_length=4, val_length=1),
            },
            order="turns",
        ),
    )


def opened(config, split):
    return config.data.open(split, config.make_tasks(), config.backbone.image_size)


def test_each_source_brings_its_own_labels(config):
    config.validate()
    examples = opened(config, "train")
    valid = {
        "own": [True, False, False],
        "nyud": [False, True, False],
        "scenes": [True, True, True],
    }
    for index, name in ((0, "own"), (3, "nyud"), (5, "scenes")):
        example = examples[index]
        assert list(example["valid"]) == list(config.tasks)
        assert [bool(v) for v in example["valid"].values()] == valid[name]
        for task, there in example["valid"].items():
            assert there or np.all(example["labels"][task] == VOID)
        assert example["id"] == index
    assert len(opened(config, "val")) == 4


def test_a_loader_reads_it_with_workers_and_resumes(config):
    config = replace(config, train=replace(config.train, batch_size=3, workers=0))
    batches = batches_of(opened(config, "train"), 3)

    def read(first, workers=0):
        train = replace(config.train, workers=workers, worker_kind="thread")
        with Loader(batches, replace(config, train=train), first) as loader:
            return list(loader.until(4))

    whole = read(0)
    for (_, a), (_, b) in zip(whole[2:], read(2, workers=2), strict=True):
        assert a["id"].tolist() == b["id"].tolist()
        np.testing.assert_array_equal(a["image"], b["image"])
    assert whole[0][1]["valid"]["depth"].tolist() == [False, True, True]


def test_what_does_not_fit_is_refused(config):
    data = config.data
    for wrong, words in (
        (replace(data, sources={}), "data.sources is empty"),
        (replace(data, weights={"own": 1.0}), "data.weights needs a weight above 0 for each of own, nyud, scenes"),
        (replace(data, temperature=0.0), "data.temperature must be positive"),
        (replace(data, sources={"nyud": data.sources["nyud"]}), "tasks.saliency: the data has no labels of it"),
    ):
        with pytest.raises(UserError, match=words):
            replace(config, data=wrong).validate()
    with pytest.raises(UserError, match="semseg has 21 classes, nyud has 40"):
        replace(config, tasks={**config.tasks, "semseg": TaskConfig()}).validate()
