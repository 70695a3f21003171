"""Every published parameter count, from abstract shapes (specification, section 4)."""

import math
import re
from dataclasses import replace

import jax
import pytest

from mtlora_jax.engine import tables
from mtlora_jax.engine.program import unread_leaves
from mtlora_jax.vision.model import DenseModel, HeadSpec
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import swin
from mtlora_jax.vision.trainable import NOTHING, Trainable, table

pytestmark = pytest.mark.slow

PASCAL = {"semseg": 21, "normals": 3, "saliency": 1, "human_parts": 7}
NYUD = {"semseg": 40, "normals": 3, "depth": 1}
FULL = Trainable(all=True)


def lora(rank: int, per_task: int | None = 4, tasks=PASCAL, **changes) -> Placement:
    """The published placements: `per_task` ranks, or None for the shared rank in every task."""
    task_rank = {} if per_task is None else dict.fromkeys(tasks, (per_task,))
    return Placement(shared_rank=(rank,), task_rank=task_rank, **changes)


def model(variant="tiny", placement=None, tasks=PASCAL, head="hrnet", **changes) -> DenseModel:
    heads = {t: HeadSpec(channels, head) for t, channels in tasks.items()}
    return DenseModel(swin(variant), heads, placement, **changes)


IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
VARIABLES: dict[str, dict] = {}


def variables(m: DenseModel) -> dict:
    """As shapes; one trace per model."""
    if repr(m) not in VARIABLES:
        rngs = {"params": jax.random.key(0), "lora": jax.random.key(0)}
        VARIABLES[repr(m)] = jax.eval_shape(m.init, rngs, IMAGE)
    return VARIABLES[repr(m)]


def shapes(m: DenseModel) -> dict[str, int]:
    """The size of every weight by path."""
    flat = tables.flatten(variables(m))
    return {p: math.prod(x.shape) for p, x in flat.items() if not p.startswith("batch_stats")}


def total(m: DenseModel, where: str = "") -> int:
    return sum(size for path, size in shapes(m).items() if re.search(where, path))


def trainable(m: DenseModel, what: Trainable | None = None, where: str = "") -> int:
    """What the table trains, leaves without a gradient included, as the reference counts."""
    rows = table(m.placement, what or Trainable())
    labels = tables.label_paths(rows, shapes(m))
    return sum(size for path, size in shapes(m).items() if labels[path] != "frozen" and re.search(where, path))


R64 = model(placement=lora(64))
BACKBONE, DECODERS, ADAPTERS = "/backbone/", "^params/(heads_|projections)", "^lora/"

TABLE_41 = [
    (lora(16), 30_871_418, 4_953_146, 28_924_794, 3_006_522, 1_406_976),
    (lora(32), 32_001_914, 6_083_642, 30_055_290, 4_137_018, 2_537_472),
    (lora(64), 34_262_906, 8_344_634, 32_316_282, 6_398_010, 4_798_464),
    (lora(16, reduction=True), 30_935_930, 3_469_370, 28_989_306, 1_522_746, 1_471_488),
    (lora(32, reduction=True), 32_130_938, 4_664_378, 30_184_314, 2_717_754, 2_666_496),
    (lora(64, reduction=True), 34_520_954, 7_054_394, 32_574_330, 5_107_770, 5_056_512),
    (lora(4, None, reduction=True), 30_039_674, 2_573_114, 28_093_050, 626_490, 575_232),
    (lora(8, None, reduction=True), 30_614_906, 3_148_346, 28_668_282, 1_201_722, 1_150_464),
    (lora(16, None, reduction=True), 31_765_370, 4_298_810, 29_818_746, 2_352_186, 2_300_928),
]


@pytest.mark.parametrize(("placement", "all_", "trained", "backbone", "backbone_trained", "adapters"), TABLE_41)
def test_published_configurations(placement, all_, trained, backbone, backbone_trained, adapters):
    m = model(placement=placement)
    assert total(m) == all_
    assert trainable(m) == trained
    assert total(m, BACKBONE) == backbone
    assert trainable(m, where=BACKBONE) == backbone_trained
    assert total(m, ADAPTERS) == adapters
    assert total(m, DECODERS) == trainable(m, where=DECODERS) == 1_946_624


def test_full_fine_tuning_and_decoders_only():
    assert total(model()) == trainable(model(), FULL) == 29_464_442
    assert total(model(), BACKBONE) == 27_517_818
    assert trainable(model(), NOTHING) == 1_946_624
    assert trainable(R64, FULL) == total(R64)


def test_single_tasks():
    singles = {t: trainable(model(tasks={t: channels}), FULL) for t, channels in PASCAL.items()}
    assert {t: round(count / 1e6, 3) for t, count in singles.items()} == {
        "semseg": 28.019,
        "normals": 27.999,
        "saliency": 27.997,
        "human_parts": 28.003,
    }
    assert round(sum(singles.values()) / 1e6, 3) == 112.018


BREAKDOWN = {
    r"patch_embed/proj/": 4_704,
    r"patch_embed/norm/": 192,
    r"blocks_\d+/norm\d/": 17_664,
    r"relative_position_bias_table": 23_322,
    r"downsample/norm/": 5_376,
    r"downsample/reduction/": 1_548_288,
    r"qkv/shared_[AB]": 1_130_496,
    r"proj/shared_[AB]": 565_248,
    r"fc1/shared_[AB]": 1_413_120,
    r"fc2/shared_[AB]": 1_413_120,
    r"proj/tasks/\w+/[AB]$": 46_080,
    r"fc1/tasks/\w+/[AB]$": 115_200,
    r"fc2/tasks/\w+/[AB]$": 115_200,
    r"^params/projections/": 732_672,
    r"^params/projections/normals/": 183_168,
    r"^params/heads_": 1_213_952,
    r"^params/heads_semseg/": 317_541,
    r"^params/heads_normals/": 298_083,
    r"^params/heads_saliency/": 295_921,
    r"^params/heads_human_parts/": 302_407,
}
FROZEN = {
    "attn/qkv/(kernel|bias)": 6_482_880,
    "attn/proj/(kernel|bias)": 2_160_960,
    "fc1/(kernel|bias)": 8_643_840,
    "fc2/(kernel|bias)": 8_630_592,
}


def test_breakdown_of_rank_64():
    for where, count in BREAKDOWN.items():
        assert total(R64, where) == trainable(R64, where=where) == count, where
    for where, count in FROZEN.items():
        assert (total(R64, where), trainable(R64, where=where)) == (count, 0), where
    plus = model(placement=lora(64, reduction=True))
    assert trainable(plus, where="downsample/reduction/") == total(plus, "^lora/.*/reduction/") == 258_048
    unread = unread_leaves(R64.apply, variables(R64), IMAGE)
    assert sum(shapes(R64)[path] for path in unread if path.startswith("lora/")) == 245_760


FLAGS = {
    8_339_930: Trainable(patch_embed=False),
    8_321_594: Trainable(norms=False),
    8_321_312: Trainable(bias_tables=False),
    6_796_346: Trainable(reduction=False),
    6_745_088: NOTHING,
    8_384_378: Trainable(biases="all"),
}


def test_freezing_flags():
    assert {trainable(R64, what): what for what in FLAGS.values()} == FLAGS


PLACEMENTS = {
    8_068_154: {"mode": "lora_only"},
    7_255_994: {"mode": "addition"},
    8_344_634: {"mode": "matrixv2"},
    8_916_026: {"every_block": True},
    7_214_138: {"qkv": False},
    7_733_306: {"proj": False},
    6_816_314: {"fc1": False},
}


@pytest.mark.parametrize(("count", "changes"), [*PLACEMENTS.items(), (6_816_314, {"fc2": False})])
def test_placements(count, changes):
    assert trainable(model(placement=replace(R64.placement, **changes))) == count


def test_shared_projection():
    assert trainable(model(placement=lora(64), shared_projection=True)) == 7_795_130


def test_taps_without_projection():
    """The reference's decoders have 71.7 M parameters then."""
    assert round(total(model(placement=lora(64), decoder_channels=None), DECODERS) / 1e6, 1) == 71.7


@pytest.mark.parametrize(
    ("head", "trained", "decoders"),
    [
        ("segformer", 8_478_330, 2_080_320),
        ("aspp", 18_841_178, 12_443_168),
        ("updecoder", 7_311_770, 913_760),
    ],
)
def test_heads(head, trained, decoders):
    m = model(placement=lora(64), head=head)
    assert trainable(m) == trained
    assert total(m, DECODERS) == decoders


LARGER = [
    ("small", lora(16), 6_175_562, 53_368_970),
    ("small", lora(32), 8_485_706, None),
    ("small", lora(64), 13_105_994, 60_299_402),
    ("small", lora(64, reduction=True), 11_815_754, None),
    ("small", None, 50_782_346, 50_782_346),
    ("base", lora(16), 8_517_560, 92_380_856),
    ("base", lora(32), 11_597_752, None),
    ("base", lora(64), 17_758_136, 101_621_432),
    ("base", lora(64, reduction=True), 15_349_688, None),
    ("base", None, 88_932_024, 88_932_024),
    ("large", lora(64), 28_094_612, 216_705_812),
    ("large", None, 197_671_700, 197_671_700),
]


@pytest.mark.parametrize(("variant", "placement", "trained", "all_"), LARGER)
def test_larger_backbones(variant, placement, trained, all_):
    m = model(variant, placement)
    assert trainable(m, Trainable() if placement else FULL) == trained
    assert all_ is None or total(m) == all_


@pytest.mark.parametrize(
    ("tasks", "adapted", "full"),
    [(NYUD, 7_810_478, 28_999_406), (NYUD | {"edges": 1}, 8_358_687, 29_478_495)],
)
def test_nyud(tasks, adapted, full):
    assert trainable(model(placement=lora(64, tasks=tasks), tasks=tasks)) == adapted
    assert trainable(model(tasks=tasks), FULL) == full
    if tasks is NYUD:
        assert total(model(tasks=tasks), DECODERS) == 1_481_588
