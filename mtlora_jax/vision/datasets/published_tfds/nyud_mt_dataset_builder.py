"""The builder `nyud_mt`."""

from mtlora_jax.vision.datasets import nyud
from mtlora_jax.vision.datasets.published_tfds import builder


class Builder(builder.PublishedBuilder):
    """NYUDv2 with labels of four dense tasks."""

    VERSION = "1.0.0"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""\
    Fetch NYUD_MT.tgz, whose address the multi-task literature's code gives, and unpack it; manual_dir is the folder
    NYUD_MT, the one that holds gt_sets. For some of the tasks only their files are needed.

    {nyud.__doc__}
    """
    LAYOUT = nyud.LAYOUT
    DATA = nyud.NyudData
    TEXT = (
        "NYUDv2 for multi-task learning: indoor images with semantic segmentation in 40 classes, normals, depth in "
        "metres, and edges. 255 is void; normals of length 0 and depths of 0 are unknown."
    )
    BUILDER_CONFIGS = [builder.subset(LAYOUT)]  # noqa: RUF012  (tfds reads it as a class attribute)
