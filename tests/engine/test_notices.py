"""What a run says that cannot go on."""

import math

import numpy as np
import pytest

from mtlora_jax.engine.notices import NotFinite, report
from mtlora_jax.input.protocols import Batches


class Numbered(Batches):
    """What it holds is nobody's concern here, what its examples are called is."""


def test_packed_rows_name_their_examples_and_no_padding():
    batch = {"id": np.array([[4, 7], [9, -1]])}
    with pytest.raises(NotFinite) as refusal:
        report(None, 3, {"loss": math.nan, "loss/a": math.nan, "loss/b": 1.0}, batch, Numbered())
    words = "step 3: the loss of a is not finite: the predictions are not, examples [4, 7, 9], "
    assert str(refusal.value) == words + "example 4, example 7, example 9"


def test_a_norm_alone_may_be_what_is_not_finite():
    batch = {"id": np.array([1]), "labels": {"a": np.array([math.inf])}}
    with pytest.raises(NotFinite, match=r"step 3: grad_norm is not finite: the predictions are not, examples \[1\]"):
        report(None, 3, {"loss": 1.0, "loss/a": 1.0, "grad_norm": math.inf}, batch, Numbered())
