"""Prepares the scenes for TensorFlow Datasets, whose own command line would need TensorFlow."""

import argparse
import sys

import tensorflow_datasets as tfds

from mtlora_jax.vision.datasets.scenes_tfds.scenes_dataset_builder import Builder


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mtlora_jax.vision.datasets.scenes_tfds", description=__doc__)
    parser.add_argument("--data_dir", required=True, help="where prepared data sets live")
    parser.add_argument("--config", default="128", choices=tuple(Builder.builder_configs), help="size in pixels")
    parser.add_argument("--max_examples_per_split", type=int, help="stop early, for a trial")
    args = parser.parse_args(argv)
    builder = Builder(config=args.config, data_dir=args.data_dir)
    limit = tfds.download.DownloadConfig(max_examples_per_split=args.max_examples_per_split)
    try:
        builder.download_and_prepare(download_config=limit)
    except OSError as error:
        parser.exit(2, f"--data_dir {args.data_dir}: {error}; give a folder that can be written\n")
    counts = ", ".join(f"{name} {split.num_examples}" for name, split in builder.info.splits.items())
    print(f"scenes/{args.config}: {counts} in {builder.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
