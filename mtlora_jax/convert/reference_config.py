"""The MTLoRA reference's yaml configs: which keys there are, what they default to, and the model they describe."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mtlora_jax.errors import UserError
from mtlora_jax.vision.heads import HEADS
from mtlora_jax.vision.model import DenseModel, HeadSpec
from mtlora_jax.vision.placement import Placement
from mtlora_jax.vision.swin import SwinSpec

CHANNELS: dict[str, dict[str, int]] = {
    "PASCAL": {"semseg": 21, "human_parts": 7, "sal": 1, "normals": 3, "edge": 1},
    "NYUD": {"semseg": 40, "normals": 3, "depth": 1, "edge": 1},
}
"""Output channels by data set and task, in the reference's names. A data set's name begins with one of these."""

FALLBACK_HEAD = "aspp"
"""What the reference builds for any head name that it does not know."""

USED: dict[str, Any] = {
    "DATASET": None,
    "TASKS": None,
    "NUM_OUTPUTS": None,
    "TASKS_CONFIG": None,
    "DATA.IMG_SIZE": 224,
    "DATA.DBNAME": None,
    "MODEL.TYPE": "swin",
    "MODEL.DROP_RATE": 0.0,
    "MODEL.DROP_PATH_RATE": 0.1,
    "MODEL.SWIN.PATCH_SIZE": 4,
    "MODEL.SWIN.IN_CHANS": 3,
    "MODEL.SWIN.EMBED_DIM": 96,
    "MODEL.SWIN.DEPTHS": [2, 2, 6, 2],
    "MODEL.SWIN.NUM_HEADS": [3, 6, 12, 24],
    "MODEL.SWIN.WINDOW_SIZE": 7,
    "MODEL.SWIN.MLP_RATIO": 4.0,
    "MODEL.SWIN.QKV_BIAS": True,
    "MODEL.SWIN.QK_SCALE": None,
    "MODEL.SWIN.APE": False,
    "MODEL.SWIN.PATCH_NORM": True,
    "MODEL.DECODER_HEAD": "hrnet",
    "MODEL.DECODER_CHANNELS": [18, 36, 72, 144],
    "MODEL.SEGFORMER_CHANNELS": 256,
    "MODEL.DECODER_DOWNSAMPLER": True,
    "MODEL.PER_TASK_DOWNSAMPLER": True,
    "MODEL.MTLORA.ENABLED": False,
    "MODEL.MTLORA.R": 8,
    "MODEL.MTLORA.SHARED_SCALE": 2.0,
    "MODEL.MTLORA.DROPOUT": 0.05,
    "MODEL.MTLORA.TRAINABLE_SCALE_SHARED": False,
    "MODEL.MTLORA.TRAINABLE_SCALE_PER_TASK": False,
    "MODEL.MTLORA.INTERMEDIATE_SPECIALIZATION": False,
    "MODEL.MTLORA.R_PER_TASK": {},
    "MODEL.MTLORA.SCALE_PER_TASK": {},
    "MODEL.MTLORA.SHARED_MODE": "matrix",
    "MODEL.MTLORA.QKV_ENABLED": True,
    "MODEL.MTLORA.PROJ_ENABLED": True,
    "MODEL.MTLORA.FC1_ENABLED": True,
    "MODEL.MTLORA.FC2_ENABLED": True,
    "MODEL.MTLORA.DOWNSAMPLER_ENABLED": False,
}
"""Keys that decide the function, with the reference's defaults. A key set to null counts as absent."""

IGNORED: dict[str, str] = {
    "": "BASE MTL AMP_ENABLE AMP_OPT_LEVEL ENABLE_AMP OUTPUT TAG SAVE_FREQ PRINT_FREQ EVAL_FREQ EVAL_TRAINING SEED "
    "EVAL_MODE THROUGHPUT_MODE LOCAL_RANK FUSED_WINDOW_PROCESS FUSED_LAYERNORM SKIP_INITIAL_EVAL AUG TEST",
    "DATA.": "BATCH_SIZE DATA_PATH DATASET INTERPOLATION ZIP_MODE CACHE_MODE PIN_MEMORY NUM_WORKERS MASK_PATCH_SIZE "
    "MASK_RATIO NYUD PASCAL",
    "MODEL.": "NAME PRETRAINED RESUME RESUME_BACKBONE FREEZE_BACKBONE SAVE_SAMPLE NUM_CLASSES LABEL_SMOOTHING MTI "
    "UPDATE_RELATIVE_POSITION SWINV2 SWIN_MOE SWIN_MLP SIMMIM",
    # Derived from the used keys, read by nothing, or about training alone. SPLIT_QKV renames keys of a pretrained
    # checkpoint for a layer that the reference cannot build: its qkv stays fused.
    "MODEL.SWIN.": "DECODER_DIM DECODER_PATCH_RES",
    "MODEL.MTLORA.": "TASK_SCALE R_PER_TASK_LIST SCALE_PER_TASK_LIST SPLIT_QKV BIAS FREEZE_PRETRAINED",
    "TRAIN.": "START_EPOCH EPOCHS WARMUP_EPOCHS WEIGHT_DECAY BASE_LR WARMUP_LR MIN_LR CLIP_GRAD AUTO_RESUME "
    "ACCUMULATION_STEPS USE_CHECKPOINT LR_SCHEDULER SKIP_DECODER_CKPT FREEZE_PATCH_EMBED FREEZE_LAYER_NORM "
    "FREEZE_RELATIVE_POSITION_BIAS FREEZE_DOWNSAMPLE_REDUCTION OPTIMIZER LAYER_DECAY MOE",
}
"""Keys that change no output, by section; those that hold a section of their own are skipped whole."""

ONLY: dict[str, Any] = {"MODEL.TYPE": "swin", "MODEL.DROP_RATE": 0.0, "MODEL.SWIN.IN_CHANS": 3}
"""Keys of which one value is supported."""

MODES = {
    "matrix": "matrix",
    "matrixv2": "matrixv2",
    "addition": "addition",
    "add": "addition",
    "lora_only": "lora_only",
}


def read_model(config: Mapping[str, Any], tasks: tuple[str, ...] = ()) -> DenseModel:
    """The model that a reference config describes.

    Args:
      config: nested dict with the yaml's keys, plus `TASKS` and `DATASET`, which the reference takes from its command
        line. `NUM_OUTPUTS` (`{task: channels}`) overrules the data set's.
      tasks: stands for `TASKS` where the config has none.

    Raises:
      UserError: a key is unknown (the nearest known one is named), a value does not fit, a task lacks a rank.
    """
    c = {**USED, **flatten(config)}
    for key, value in ONLY.items():
        if c[key] != value:
            raise UserError(f"{key} is {c[key]!r}: only {value!r} is supported")
    tasks = tuple(c["TASKS"].replace(" ", "").split(",") if isinstance(c["TASKS"], str) else c["TASKS"] or tasks)
    if not tasks:
        raise UserError("TASKS is missing: name the tasks of the checkpoint, for instance [semseg, normals]")
    spec = _backbone(c)
    per_task, projected = bool(c["MODEL.PER_TASK_DOWNSAMPLER"]), bool(c["MODEL.DECODER_DOWNSAMPLER"])
    channels = tuple(_per_stage(c, "MODEL.DECODER_CHANNELS", int, spec.stages))
    if not projected:
        # The reference keeps a shared projection even then, from every width to itself.
        channels = None if per_task else tuple(spec.feature_map(i)[1] for i in range(spec.stages))
    heads = c["MODEL.DECODER_HEAD"]
    outputs = _outputs(c, tasks)
    kinds = {t: heads if isinstance(heads, str) else heads.get(t, USED["MODEL.DECODER_HEAD"]) for t in tasks}
    return DenseModel(
        backbone=spec,
        heads={t: HeadSpec(outputs[t], k if k in HEADS else FALLBACK_HEAD) for t, k in kinds.items()},
        placement=_placement(c, tasks, spec.stages) if c["MODEL.MTLORA.ENABLED"] else None,
        decoder_channels=channels,
        shared_projection=not per_task,
        head_width=_number(c, "MODEL.SEGFORMER_CHANNELS", int),
    )


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A reference yaml with the files it names under `BASE` below it, as nested dicts.

    Raises:
      UserError: no such file, no YAML, or no mapping.
    """
    # Imported where needed: a state dict and a dict make a model without it.
    import yaml

    path = Path(path)
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no mapping of config keys")
    merged: dict[str, Any] = {}
    for base in filter(None, config.get("BASE") or ()):
        merged = _merged(merged, read_yaml(path.parent / base))
    return _merged(merged, config)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        k: _merged(base[k], v) for k, v in over.items() if isinstance(v, Mapping) and isinstance(base.get(k), Mapping)
    }
    return {**base, **over, **both}


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """The used keys of a config as `A.B.C: value`; keys in any case.

    Raises:
      UserError: a key is in neither table.
    """
    ignored = {section + name for section, names in IGNORED.items() for name in names.split()}
    sections = {key[: i + 1] for key in (*USED, *ignored) for i, char in enumerate(key) if char == "."}
    found: dict[str, Any] = {}

    def visit(node: Mapping[str, Any], section: str) -> None:
        for name, value in node.items():
            key = section + str(name).upper()
            if key in USED:
                if value is not None:
                    found[key] = value
            elif f"{key}." in sections and (value is None or isinstance(value, Mapping)):
                visit(value or {}, f"{key}.")
            elif key not in ignored:
                near = get_close_matches(key, (*USED, *ignored, *(s[:-1] for s in sections)), n=1, cutoff=0.0)
                raise UserError(f"{key} is not a key of the reference's config; the nearest is {near[0]}")

    visit(config, "")
    return found


def _backbone(c: Mapping[str, Any]) -> SwinSpec:
    size = c["DATA.IMG_SIZE"]
    if isinstance(size, list | tuple):
        if len(set(size)) != 1:
            raise UserError(f"DATA.IMG_SIZE is {size}: images have to be square")
        c = {**c, "DATA.IMG_SIZE": size[0]}
    depths = tuple(c["MODEL.SWIN.DEPTHS"])
    spec = SwinSpec(
        image_size=_number(c, "DATA.IMG_SIZE", int),
        window=_number(c, "MODEL.SWIN.WINDOW_SIZE", int),
        dim=_number(c, "MODEL.SWIN.EMBED_DIM", int),
        depths=tuple(_per_stage(c, "MODEL.SWIN.DEPTHS", int, len(depths))),
        heads=tuple(_per_stage(c, "MODEL.SWIN.NUM_HEADS", int, len(depths))),
        patch=_number(c, "MODEL.SWIN.PATCH_SIZE", int),
        mlp_ratio=_number(c, "MODEL.SWIN.MLP_RATIO", float),
        qkv_bias=bool(c["MODEL.SWIN.QKV_BIAS"]),
        qk_scale=c["MODEL.SWIN.QK_SCALE"],
        absolute_position=bool(c["MODEL.SWIN.APE"]),
        patch_norm=bool(c["MODEL.SWIN.PATCH_NORM"]),
        drop_path=_number(c, "MODEL.DROP_PATH_RATE", float),
    )
    if problem := spec.problems():
        raise UserError(f"MODEL.SWIN: {problem}")
    return spec


def _placement(c: Mapping[str, Any], tasks: tuple[str, ...], stages: int) -> Placement:
    mtlora = "MODEL.MTLORA"
    if (mode := c[f"{mtlora}.SHARED_MODE"]) not in MODES:
        raise UserError(f"{mtlora}.SHARED_MODE is {mode!r}: choose from {', '.join(MODES)}")
    ranks = {**c, f"{mtlora}.R_PER_TASK.shared": c[f"{mtlora}.R"]}
    if c[f"{mtlora}.R_PER_TASK"]:
        ranks = _named(c, f"{mtlora}.R_PER_TASK", (*tasks, "shared"))
    scales = _named(c, f"{mtlora}.SCALE_PER_TASK", tasks) if c[f"{mtlora}.SCALE_PER_TASK"] else {}

    def per_task(section: str, values: Mapping[str, Any], kind: type) -> dict[str, tuple]:
        return {
            t: _per_stage(values, f"{mtlora}.{section}.{t}", kind, stages)
            for t in tasks
            if f"{mtlora}.{section}.{t}" in values
        }

    try:
        placement = Placement(
            shared_rank=_per_stage(ranks, f"{mtlora}.R_PER_TASK.shared", int, stages),
            task_rank=per_task("R_PER_TASK", ranks, int),
            shared_scale=_per_stage(c, f"{mtlora}.SHARED_SCALE", float, stages),
            task_scale=per_task("SCALE_PER_TASK", scales, float),
            dropout=_per_stage(c, f"{mtlora}.DROPOUT", float, stages),
            mode=MODES[mode],
            trainable_scale=bool(c[f"{mtlora}.TRAINABLE_SCALE_SHARED"]),
            trainable_task_scales=bool(c[f"{mtlora}.TRAINABLE_SCALE_PER_TASK"]),
            qkv=bool(c[f"{mtlora}.QKV_ENABLED"]),
            proj=bool(c[f"{mtlora}.PROJ_ENABLED"]),
            fc1=bool(c[f"{mtlora}.FC1_ENABLED"]),
            fc2=bool(c[f"{mtlora}.FC2_ENABLED"]),
            reduction=bool(c[f"{mtlora}.DOWNSAMPLER_ENABLED"]),
            every_block=bool(c[f"{mtlora}.INTERMEDIATE_SPECIALIZATION"]),
        )
        for stage in range(stages):
            placement.spec("fc1", stage, True, tasks)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{mtlora}: {error}") from None
    return placement


def _named(c: Mapping[str, Any], key: str, names: tuple[str, ...]) -> dict[str, Any]:
    """A section with one entry per name, as `key.name: value`."""
    if lacking := [name for name in names if name not in c[key]]:
        raise UserError(f"{key} lacks {', '.join(lacking)}: it needs one entry for each of {', '.join(names)}")
    return {f"{key}.{name}": value for name, value in c[key].items()}


def _outputs(c: Mapping[str, Any], tasks: tuple[str, ...]) -> dict[str, int]:
    """Output channels of every task."""
    resolved = (c["TASKS_CONFIG"] or {}).get("ALL_TASKS", {}).get("NUM_OUTPUT", {})
    fitting = [d for d, known in CHANNELS.items() if not set(tasks) - set(known)]
    name = str(c["DATASET"] or c["DATA.DBNAME"] or next(iter(fitting), next(iter(CHANNELS))))
    matching = [d for d in CHANNELS if name.upper().startswith(d)]
    if not matching:
        raise UserError(f"DATASET is {name!r}: choose from PASCALContext, NYUD")
    known = {**CHANNELS[matching[0]], **resolved, **(c["NUM_OUTPUTS"] or {})}
    for task in tasks:
        if task not in known:
            raise UserError(f"TASKS: {name} has no task {task!r}; it has {', '.join(known)}")
    return {task: int(known[task]) for task in tasks}


def _number(c: Mapping[str, Any], key: str, kind: type):
    value = c[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or kind(value) != value:
        raise UserError(f"{key} is {value!r}: it has to be {'a whole number' if kind is int else 'a number'}")
    return kind(value)


def _per_stage(c: Mapping[str, Any], key: str, kind: type, stages: int) -> tuple:
    """One value per stage; a scalar, or a list of one, stands for all stages."""
    values = list(c[key]) if isinstance(c[key], list | tuple) else [c[key]]
    if len(values) not in (1, stages):
        raise UserError(f"{key} has {len(values)} entries: it needs 1 or {stages}, one per stage")
    return tuple(_number({key: value}, key, kind) for value in values) * (stages if len(values) == 1 else 1)
