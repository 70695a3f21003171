"""Scenes as a TensorFlow Datasets builder: importing this package registers `scenes/<size>` with tfds.

Prepare with `python -m mtlora_jax.vision.datasets.scenes_tfds --data_dir DIR`, then read without TensorFlow:

    import tensorflow_datasets as tfds
    import mtlora_jax.vision.datasets.scenes_tfds

    source = tfds.data_source("scenes/128", split="train", data_dir=DIR)
"""

from mtlora_jax.vision.datasets.scenes_tfds.scenes_dataset_builder import Builder, ScenesConfig

__all__ = ["Builder", "ScenesConfig"]
