"""GLUE prepared by TensorFlow Datasets: the rows of the same records in files, no TensorFlow."""

import json
import sys

import numpy as np
import tensorflow_datasets as tfds

from mtlora_jax.testing.text_layouts import glue_record
from mtlora_jax.text.datasets.glue import GlueData

RECORDS = [{**glue_record("cola", np.random.default_rng(i)), "idx": i} for i in range(3)]
RECORDS[0]["sentence"] = "naïve café — 東京"


def read_glue(root, split, tasks):
    return GlueData(root=str(root)).rows(split, tasks)


class Glue(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The published builder's features for one task, without its download."""

    name = "glue"
    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="cola", description="made up"),)

    def _info(self):
        features = {
            "sentence": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["unacceptable", "acceptable"]),
            "idx": tfds.features.Scalar(np.int32),
        }
        return tfds.core.DatasetInfo(
            builder=self, description="made up", features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"validation": self._generate_examples()}

    def _generate_examples(self):
        yield from enumerate(RECORDS)


def test_prepared_records_are_the_rows_of_files(tmp_path):
    Glue(data_dir=tmp_path / "tfds", config="cola", file_format="array_record").download_and_prepare()
    (tmp_path / "cola").mkdir()
    (tmp_path / "cola" / "validation.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    prepared = read_glue(tmp_path / "tfds", "val", ("cola",))
    assert prepared == read_glue(tmp_path, "val", ("cola",))
    assert "東京" in prepared[0].instruction
    assert "tensorflow" not in sys.modules
