"""The reference's yaml configs: defaults, normalisation, and one clear line for everything else."""

import pytest
from golden import Case
from small_config import SMALL, changed

from mtlora_jax.convert.reference_config import read_model, read_yaml
from mtlora_jax.errors import UserError
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import SwinSpec

MTLORA = "MODEL.MTLORA"


def model(**options):
    return read_model(changed(SMALL, {key.replace("__", "."): value for key, value in options.items()}))


def test_absent_keys_take_the_references_defaults():
    found = read_model({"TASKS": ["semseg"], "MODEL": {"MTLORA": {"ENABLED": True}}})
    assert found.backbone == SwinSpec(drop_path=0.1)
    assert found.decoder_channels == (18, 36, 72, 144)
    assert (found.head_width, found.shared_projection) == (256, False)
    assert found.heads["semseg"].kind == "hrnet"
    four = (1,) * 4
    assert found.placement == Placement(
        shared_rank=tuple(8 * i for i in four),
        shared_scale=tuple(2.0 * i for i in four),
        dropout=tuple(0.05 * i for i in four),
        mode="matrix",
    )


@pytest.mark.parametrize("mtlora", [None, {}, {"ENABLED": False}, {"ENABLED": False, "R": [4, 4]}])
def test_without_mtlora_the_backbone_is_plain(mtlora):
    assert model(MODEL__MTLORA=mtlora).placement is None


def test_scalars_and_lists_of_one_stand_for_all_stages():
    options = {"R_PER_TASK": {"semseg": 3, "sal": [1, 2, 3, 4], "shared": [5]}, "SHARED_SCALE": 4, "DROPOUT": [0.1]}
    placement = read_model(changed(SMALL, {f"{MTLORA}.{k}": v for k, v in options.items()})).placement
    assert placement.shared_rank == (5, 5, 5, 5)
    assert placement.task_rank == {"semseg": (3, 3, 3, 3), "sal": (1, 2, 3, 4)}
    assert placement.shared_scale == (4.0,) * 4
    assert placement.task_scale == {}
    assert placement.dropout == (0.1,) * 4


def test_task_scales_and_inactive_tasks():
    scales = {"semseg": 1.5, "sal": [2, 2, 2, 2], "normals": [9]}
    placement = read_model(changed(SMALL, {f"{MTLORA}.SCALE_PER_TASK": scales})).placement
    assert placement.task_scale == {"semseg": (1.5,) * 4, "sal": (2.0,) * 4}
    spec = placement.spec("fc1", 1, True, ("semseg", "sal"))
    assert (spec.task_scales, spec.task_ranks) == ((1.5, 2.0), (2, 2))


def test_keys_in_any_case_and_the_resolved_configs_own():
    lowered = {"data": {"img_size": 32}, "model": {"swin": SMALL["MODEL"]["SWIN"], "mtlora": None}, "tasks": ["sal"]}
    assert read_model(lowered).backbone.image_size == 32
    resolved = {
        "AMP_ENABLE": True,
        "BASE": [""],
        "TRAIN": {"BASE_LR": 5e-4, "LR_SCHEDULER": {"NAME": "cosine"}},
        "TASKS_CONFIG": {"ALL_TASKS": {"NUM_OUTPUT": {"semseg": 21}}},
        "DATA": {"DBNAME": "PASCALContext", "IMG_SIZE": 32, "DATASET": "nyud"},
    }
    assert read_model({**SMALL, **resolved}).backbone.image_size == 32


def test_split_qkv_changes_nothing():
    assert read_model(Case("split_qkv").config) == read_model(Case("matrix").config)


@pytest.mark.parametrize(
    ("dataset", "tasks", "channels"),
    [
        ("PASCALContext", "semseg,human_parts,sal,normals,edge", [21, 7, 1, 3, 1]),
        ("NYUD", "semseg, normals,depth ,edge", [40, 3, 1, 1]),
        ("nyudv2", "semseg", [40]),
        (None, "depth", [1]),
        (None, "sal,edge", [1, 1]),
    ],
)
def test_output_channels(dataset, tasks, channels):
    found = read_model({**SMALL, "DATASET": dataset, "TASKS": tasks})
    assert [head.channels for head in found.heads.values()] == channels


def test_given_output_channels_win():
    resolved = {"TASKS_CONFIG": {"ALL_TASKS": {"NUM_OUTPUT": {"semseg": 41}, "FLAGVALS": {}}}}
    assert read_model({**SMALL, **resolved}).heads["semseg"].channels == 41
    assert read_model({**SMALL, **resolved, "NUM_OUTPUTS": {"semseg": 60}}).heads["semseg"].channels == 60


def test_an_unknown_head_is_aspp_as_there():
    heads = {task: head.kind for task, head in model(MODEL__DECODER_HEAD={"sal": "deeplab"}).heads.items()}
    assert heads == {"semseg": "hrnet", "sal": "aspp"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"MODEL.MTLORA.RNAK": 4},
            r"^MODEL\.MTLORA\.RNAK is not a key of the reference's config; the nearest is MODEL\.MTLORA\.R",
        ),
        ({"MODEL.SWIN.WINDW_SIZE": 7}, r"the nearest is MODEL\.SWIN\.WINDOW_SIZE$"),
        ({"TRAIN.EPOCS": 7}, r"the nearest is TRAIN\.EPOCHS$"),
        ({"MODEL.SWIN": 7}, r"MODEL\.SWIN is not a key"),
        (
            {f"{MTLORA}.R_PER_TASK": {"semseg": [2], "shared": [2]}},
            r"R_PER_TASK lacks sal: it needs one entry for each of",
        ),
        ({f"{MTLORA}.R_PER_TASK": {"semseg": [2], "sal": [2]}}, r"R_PER_TASK lacks shared"),
        ({f"{MTLORA}.SCALE_PER_TASK": {"semseg": [2.0]}}, r"SCALE_PER_TASK lacks sal"),
        ({f"{MTLORA}.R": [4, 4, 4]}, r"R_PER_TASK\.shared has 3 entries: it needs 1 or 4"),
        ({f"{MTLORA}.R": "many"}, r"is 'many': it has to be a whole number"),
        ({f"{MTLORA}.R": 2.5}, r"is 2\.5: it has to be a whole number"),
        ({f"{MTLORA}.DROPOUT": 1.5}, r"MODEL\.MTLORA: adapter dropout must lie in \[0, 1\)"),
        ({f"{MTLORA}.SHARED_MODE": "sum"}, r"SHARED_MODE is 'sum': choose from matrix, matrixv2"),
        ({"DATA.IMG_SIZE": 36}, r"MODEL\.SWIN: image_size 36 is not a multiple of 32"),
        ({"DATA.IMG_SIZE": [32, 64]}, r"images have to be square"),
        ({"MODEL.SWIN.IN_CHANS": 4}, r"MODEL\.SWIN\.IN_CHANS is 4: only 3 is supported"),
        ({"MODEL.TYPE": "swinv2"}, r"MODEL\.TYPE is 'swinv2': only 'swin'"),
        ({"TASKS": ["semseg", "flow"]}, r"PASCALContext has no task 'flow'"),
        ({"TASKS": []}, r"TASKS is missing"),
        ({"DATASET": "COCO"}, r"DATASET is 'COCO': choose from PASCALContext, NYUD"),
    ],
)
def test_what_is_wrong_is_one_line(values, message):
    with pytest.raises(UserError, match=message) as raised:
        read_model(changed(SMALL, values))
    assert "\n" not in str(raised.value)


def test_yaml_with_a_base(tmp_path):
    (tmp_path / "base.yaml").write_text("MODEL:\n  SWIN:\n    EMBED_DIM: 96\n    WINDOW_SIZE: 7\n")
    (tmp_path / "x.yaml").write_text("BASE: ['base.yaml']\nMODEL:\n  SWIN:\n    EMBED_DIM: 128\n")
    assert read_yaml(tmp_path / "x.yaml")["MODEL"] == {"SWIN": {"EMBED_DIM": 128, "WINDOW_SIZE": 7}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- 1\n", "holds no mapping"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_yaml_that_is_none(text, message, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        read_yaml(tmp_path / "x.yaml")
    assert "\n" not in str(raised.value)
