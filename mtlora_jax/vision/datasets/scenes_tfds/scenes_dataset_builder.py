"""The tfds builder: `Scenes` written to ArrayRecord, read back as the same examples to the bit."""

import io
from dataclasses import dataclass

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from mtlora_jax.vision.datasets.scenes import SPLITS, TASKS, Scenes
from mtlora_jax.vision.tasks import task


@dataclass
class ScenesConfig(tfds.core.BuilderConfig):
    """Scenes of `size` by `size` pixels, `train` and `val` of them, from `seed`."""

    size: int = 128
    train: int = 2000
    val: int = 200
    seed: int = 0


class Builder(tfds.core.GeneratorBasedBuilder):
    """Ray-cast scenes with dense labels of six tasks."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012  (tfds reads it as a class attribute)
        ScenesConfig(name=str(size), description=f"{size} by {size} pixels", size=size) for size in (128, 64, 192, 256)
    ]

    def __init__(self, *, file_format: str | None = None, **kwargs):
        # The file formats that tfds would take by itself need TensorFlow.
        super().__init__(file_format=file_format or "array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size

        def label(name):
            of = task(name)
            shape = (size, size, *of.label_shape)
            return tfds.features.Tensor(shape=shape, dtype=of.label_dtype, encoding="zlib")

        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Ray-cast scenes of boxes, spheres, cylinders, cones and articulated people, with labels "
                "from the geometry for semantic segmentation, human parts, saliency, surface normals, depth "
                "and edges. 255 is void in every label."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
                    "labels": {name: label(name) for name in TASKS},
                    "valid": {name: tfds.features.Scalar(np.bool_) for name in TASKS},
                    "id": tfds.features.Scalar(np.int64),
                }
            ),
            disable_shuffling=True,  # record i is picture i
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        config = self.builder_config
        source = Scenes(config.size, length=getattr(config, split), split=split, seed=config.seed)
        for index in range(len(source)):
            example = source[index]
            yield index, {**example, "image": _png(example["image"])}


def _png(image: np.ndarray) -> io.BytesIO:
    # An array would need TensorFlow to be encoded; a file object is stored as it is.
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    file.seek(0)
    return file
