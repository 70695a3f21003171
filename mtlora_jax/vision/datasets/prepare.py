"""Preparing a published data set: its files read once, checked, and written as random-access records."""

from collections.abc import Sequence
from pathlib import Path

from mtlora_jax.errors import UserError


def prepare(
    data_set: str, manual_dir: str | Path, data_dir: str | Path, tasks: Sequence[str] = (), workers: int = 2
) -> str:
    """Writes `data_dir/<builder>/<tasks>/<version>`; a set that is already there is kept.

    Args:
      data_set: `pascal` or `nyud`.
      manual_dir: the unpacked archive; only read.
      data_dir: where prepared sets live.
      tasks: whose labels are prepared; all by default.
      workers: processes that decode.

    Returns:
      What was prepared and where, in a line.

    Raises:
      UserError: an unknown data set or task, damaged or missing files, a folder that cannot be written, a full disk.
    """
    import tensorflow_datasets as tfds

    from mtlora_jax.vision.datasets.published_tfds import BUILDERS

    if data_set not in BUILDERS:
        raise UserError(f"no published data set {data_set}: there are {', '.join(BUILDERS)}")
    layout = BUILDERS[data_set].LAYOUT
    for task in tasks:
        if task not in layout.labels:
            raise UserError(f"{layout.name} has no labels of {task}, only of {', '.join(layout.labels)}")
    if not Path(manual_dir).is_dir() or not any(Path(manual_dir).iterdir()):
        raise UserError(f"--manual_dir {manual_dir}: no such folder, or nothing in it; it is that of {layout.name}")
    tfds.disable_progress_bar()  # the builder has its own, which counts decoded images
    try:
        builder = BUILDERS[data_set](tasks=tuple(tasks), workers=workers, data_dir=data_dir)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "write() failed" not in str(error):  # ArrayRecord's word for a full disk
            raise
        raise UserError(f"--data_dir {data_dir}: cannot be written ({error}); nothing of it is kept") from None
    counts = ", ".join(f"{name} {split.num_examples}" for name, split in builder.info.splits.items())
    return f"{builder.name}: {counts} in {builder.data_dir}"
