"""Every combination of switches against the model as the specification tells it."""

import numpy as np
import pytest
from golden import Case, compiled
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from oracle import Oracle
from small_config import SMALL, changed, random_state_dict

from mtlora_jax.convert import mtlora_reference


@pytest.mark.slow
@pytest.mark.parametrize("name", ["matrixv2", "addition", "no_proj", "plus"])
def test_the_oracle_is_the_reference(name):
    case = Case(name)
    outputs = Oracle(case.state_dict, case.config)(case.images)
    step = case.about["out_stride"]
    for task, x in outputs.items():
        theirs = case.expected[f"out:{task}"]
        np.testing.assert_allclose(x[:, ::step, ::step].transpose(0, 3, 1, 2), theirs, atol=2e-5)


SITES = ("QKV", "PROJ", "FC1", "FC2", "DOWNSAMPLER")
RANKS = st.sampled_from([[2], [1, 2, 3, 1], [2, 0, 1, 2], [0, 2, 0, 1]])
SCALES = st.sampled_from([4.0, [0.5, 1.0, 2.0, 3.0]])
OPTIONS = st.fixed_dictionaries(
    {
        "MODEL.MTLORA.SHARED_MODE": st.sampled_from(["matrix", "matrixv2", "add", "lora_only"]),
        "MODEL.MTLORA.R": RANKS,
        "MODEL.MTLORA.SHARED_SCALE": SCALES,
        "MODEL.MTLORA.SCALE_PER_TASK": st.one_of(st.just({}), st.fixed_dictionaries({"semseg": SCALES, "sal": SCALES})),
        "MODEL.MTLORA.R_PER_TASK": st.one_of(
            st.just({}),
            st.fixed_dictionaries({"semseg": RANKS, "sal": st.sampled_from([3, [1, 2, 1, 4]]), "shared": RANKS}),
        ),
        "MODEL.MTLORA.TRAINABLE_SCALE_SHARED": st.booleans(),
        "MODEL.MTLORA.TRAINABLE_SCALE_PER_TASK": st.booleans(),
        "MODEL.MTLORA.INTERMEDIATE_SPECIALIZATION": st.booleans(),
        "MODEL.PER_TASK_DOWNSAMPLER": st.booleans(),
        "MODEL.DECODER_DOWNSAMPLER": st.booleans(),
        "MODEL.SWIN.APE": st.booleans(),
        "MODEL.SWIN.QKV_BIAS": st.booleans(),
        "MODEL.SWIN.PATCH_NORM": st.booleans(),
        "MODEL.SWIN.QK_SCALE": st.sampled_from([None, 0.3]),
        **{f"MODEL.MTLORA.{site}_ENABLED": st.booleans() for site in SITES},
    }
)
EVERYWHERE = {f"MODEL.MTLORA.{site}_ENABLED": True for site in SITES}


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@example(EVERYWHERE | {"MODEL.MTLORA.SHARED_MODE": "add", "MODEL.MTLORA.INTERMEDIATE_SPECIALIZATION": True})
@example({"DATA.IMG_SIZE": 224, "MODEL.SWIN.WINDOW_SIZE": 7, "MODEL.SWIN.DEPTHS": [1, 1, 2, 2]})
@example({"MODEL.MTLORA.ENABLED": False, "MODEL.PER_TASK_DOWNSAMPLER": False, "TASKS": ["depth"], "DATASET": "NYUD"})
@given(OPTIONS)
def test_every_combination_of_switches(options):
    config = changed(SMALL, options)
    state_dict = random_state_dict(config)
    model, variables = mtlora_reference(state_dict, config)
    images = np.random.default_rng(1).normal(size=(1, *2 * [config["DATA"]["IMG_SIZE"]], 3)).astype(np.float32)
    ours = compiled(model.apply, variables, images)(variables, images)
    theirs = Oracle(state_dict, config)(images)
    assert ours.keys() == theirs.keys()
    for task, x in theirs.items():
        np.testing.assert_allclose(ours[task], x, rtol=1e-4, atol=1e-4 * np.abs(x).max(), err_msg=task)
