"""Pretraining on texts: batches are a function of their number, and no text is cut."""

import numpy as np
import pytest

from mtlora_jax.cli import load_config
from mtlora_jax.errors import UserError
from mtlora_jax.image_text.pretrain import Texts, make_workload
from mtlora_jax.image_text.tokenizer import BartTokenizer
from mtlora_jax.language.packing import IGNORE
from mtlora_jax.weights.hub import shipped

CONFIG = load_config("configs/image_text_pretrain.py")


def texts(lengths=CONFIG.lengths, size=8):
    return Texts(BartTokenizer(shipped("scenes_bart"), CONFIG.model), lengths, "train", size)


def test_every_process_makes_its_own_rows_of_the_same_batch():
    found = texts()
    for step in (0, 3, 11):
        whole = found.batch(0, step, range(8))
        parts = [found.batch(0, step, range(first, first + 4)) for first in (0, 4)]
        for name in ("tokens", "targets", "id"):
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])
        assert whole["tokens"].shape[1] in {pair[0] for pair in CONFIG.lengths}
    assert not np.array_equal(found.batch(0, 1, range(8))["targets"], found.batch(1, 1, range(8))["targets"])


def test_a_text_that_no_pair_of_lengths_holds_is_named():
    with pytest.raises(UserError, match=r"lengths: no pair holds a batch whose longest texts have \[\d+, \d+\] tokens"):
        texts(((8, 4),)).batch(0, 1, range(8))


def test_held_out_batches_are_none_of_training():
    held_out = make_workload(CONFIG).held_out(8)
    assert len(held_out) == CONFIG.val_batches
    train = texts().batch(CONFIG.seed, 0, range(8))
    assert not np.array_equal(held_out[0]["targets"], train["targets"])
    assert (held_out[0]["targets"] != IGNORE).any(1).all()
