"""PASCAL-Context and NYUDv2 as TensorFlow Datasets builders: importing this package registers both with tfds.

Prepare with `python -m mtlora_jax.data prepare pascal --manual_dir PASCAL_MT --data_dir DIR`, without TensorFlow.
A config then reads the records with `--data.prepared=DIR`; so does anyone, TensorFlow or not:

    import tensorflow_datasets as tfds
    import mtlora_jax.vision.datasets.published_tfds

    source = tfds.data_source("pascal_context_mt", split="train", data_dir=DIR)
"""

from mtlora_jax.vision.datasets.published_tfds.builder import ALL, Subset
from mtlora_jax.vision.datasets.published_tfds.nyud_mt_dataset_builder import Builder as NyudMt
from mtlora_jax.vision.datasets.published_tfds.pascal_context_mt_dataset_builder import Builder as PascalContextMt

__all__ = ["ALL", "BUILDERS", "NyudMt", "PascalContextMt", "Subset"]

BUILDERS = {"pascal": PascalContextMt, "nyud": NyudMt}
