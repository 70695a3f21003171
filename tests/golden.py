"""The MTLoRA reference's outputs under `tests/data`, and where a model departs from them."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn

from mtlora_jax.adapters import Streams
from mtlora_jax.convert import mtlora_reference
from mtlora_jax.vision.heads import Head
from mtlora_jax.vision.swin import Block, PatchEmbed, Stage, SwinSpec

DATA = Path(__file__).parent / "data"
OUTPUT_TOLERANCE = 1e-4
SWIN = SwinSpec(image_size=128, window=4, dim=4, depths=(1, 2, 1, 1), heads=(1, 1, 2, 4))
"""The shape of the `swin_*` checkpoints."""
OUR_TASKS = {"sal": "saliency", "edge": "edges"}
"""The reference's task names where ours differ."""


def arrays(name: str) -> dict[str, np.ndarray]:
    """An npz file, its float16 weights and inputs as the float32 they stand for."""
    with np.load(DATA / name) as file:
        return {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in file.items()}


@dataclass(frozen=True)
class Case:
    """One whole-model case.

    Attributes:
      name: as in `tests/data/mtlora_<name>_w4.npz`, without the `_w4`.
    """

    name: str

    @cached_property
    def about(self) -> dict:
        stem, _, mode = self.name.partition(":")
        suffix = f"_{mode}" if mode else ""
        return json.loads((DATA / f"mtlora_{stem}_w4{suffix}.json").read_text())

    @cached_property
    def expected(self) -> dict[str, np.ndarray]:
        return arrays(f"mtlora_{self.about['name']}.npz")

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        """Weights, image and labels, which some cases share."""
        shared = self.about["weights_and_inputs_from"]
        return arrays(shared) if shared else self.expected

    @property
    def state_dict(self) -> dict[str, np.ndarray]:
        return {k.removeprefix("sd:"): v for k, v in self.inputs.items() if k.startswith("sd:")}

    @property
    def tasks(self) -> list[str]:
        return self.about["tasks"]

    @property
    def train(self) -> bool:
        return self.about["mode"] == "train"

    @property
    def images(self) -> np.ndarray:
        """`[B, S, S, 3]`."""
        return self.inputs["in:image"].transpose(0, 2, 3, 1)

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """`{task: [B, S, S, ...]}`."""
        found = {t: np.moveaxis(self.inputs[f"gt:{t}"], 1, -1) for t in self.tasks}
        return {t: x if x.shape[-1] == 3 else x[..., 0] for t, x in found.items()}

    @property
    def config(self) -> dict:
        return nested(self.about)

    def convert(self):
        return mtlora_reference(self.state_dict, self.config)


def nested(about: dict) -> dict:
    """The reference's config out of a case's description."""
    return {
        "DATA": {"IMG_SIZE": about["img_size"]},
        "MODEL": {
            "DROP_PATH_RATE": 0.0,
            "SWIN": about["swin"],
            "MTLORA": about["mtlora"],
            "DECODER_HEAD": about["decoder_head"],
            "DECODER_CHANNELS": about["decoder_channels"],
            "SEGFORMER_CHANNELS": about["segformer_channels"],
            "PER_TASK_DOWNSAMPLER": about["per_task_downsampler"],
        },
        "TASKS": about["tasks"],
        "DATASET": about["dataset"],
    }


def compiled(fn, *args):
    """`fn` compiled for such arguments, without the optimisations that take most of a whole model's compile time."""
    return jax.jit(fn).lower(*args).compile(compiler_options={"xla_backend_optimization_level": 0})


class Recorder:
    """A model that tells what every part of it returns, under the golden names and in the order of computation."""

    def __init__(self, case: Case, model, variables):
        self.case, self.model = case, model
        self.order: list[str] = []
        self.run = compiled(self.trace, variables, case.images)

    def trace(self, variables, images):
        seen = {}

        def record(call, args, kwargs, context):
            out = call(*args, **kwargs)
            if context.method_name == "__call__":
                seen.update(self.outputs(context.module, args, out))
            return out

        with nn.intercept_methods(record):
            rngs = {"dropout": jax.random.key(0)}
            self.model.apply(variables, images, train=self.case.train, rngs=rngs, mutable=["batch_stats"])
        self.order = list(seen)
        return seen

    def outputs(self, module, args, out) -> dict:
        shared = out.shared if isinstance(out, Streams) else out
        if isinstance(module, PatchEmbed):
            return {"patch_embed": out}
        if isinstance(module, Block):
            name = f"block:{module.stage}.{module.index}"
            own = enumerate(self.case.tasks if isinstance(out, Streams) else ())
            return {f"{name}:shared": shared} | {f"{name}:task:{task}": out.tasks[t] for t, task in own}
        if isinstance(module, Stage):
            return {f"stage{module.index}:shared": shared}
        if isinstance(module, Head):
            task = module.path[-1].removeprefix("heads_")
            features = {f"feat:{task}:{level}": _channels_first(x) for level, x in enumerate(args[0])}
            step = self.case.about["head_stride"]
            return features | {f"head:{task}": _channels_first(out)[:, :, ::step, ::step]}
        return {}

    def first_departure(self, variables) -> str | None:
        """The first layer whose output is not the reference's, and by how much; None where all agree."""
        ours = self.run(variables, self.case.images)
        for name in self.order:
            if (theirs := self.case.expected.get(name)) is not None:
                difference = np.abs(np.asarray(ours[name]).reshape(theirs.shape) - theirs).max()
                if not difference < OUTPUT_TOLERANCE:
                    return f"{name} departs by {difference:.2g} of at most {np.abs(theirs).max():.2g}"
        return None


def _channels_first(x):
    return x.transpose(0, 3, 1, 2)
