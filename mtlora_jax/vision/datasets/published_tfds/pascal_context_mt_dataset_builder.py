"""The builder `pascal_context_mt`."""

from mtlora_jax.vision.datasets import pascal_context
from mtlora_jax.vision.datasets.published_tfds import builder


class Builder(builder.PublishedBuilder):
    """PASCAL-Context with labels of five dense tasks."""

    VERSION = "1.0.0"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""\
    Fetch PASCAL_MT.tgz from https://data.vision.ee.ethz.ch/kmaninis/share/MTL/ and unpack it; manual_dir is the folder
    PASCAL_MT, the one that holds JPEGImages. For some of the tasks only their files are needed.

    {pascal_context.__doc__}
    """
    LAYOUT = pascal_context.LAYOUT
    DATA = pascal_context.PascalData
    TEXT = (
        "PASCAL-Context for multi-task learning: images of VOC 2010 with semantic segmentation, human parts, saliency "
        "and normals (both distilled), and edges. 255 is void; normals of length 0 are unknown."
    )
    BUILDER_CONFIGS = [builder.subset(LAYOUT)]  # noqa: RUF012  (tfds reads it as a class attribute)
