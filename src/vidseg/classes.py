"""Names and colours of the classes of the published data sets, in the order of their labels."""

from typing import NamedTuple


class ClassSet(NamedTuple):
    """Classes of a protocol.

    Attributes:
        names: by class index.
        palette: (R, G, B) of each, 0..255.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


CITYSCAPES = ClassSet(
    names=(
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ),
    palette=(
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ),
)
CAMVID = ClassSet(
    names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (0, 0, 192),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)
CAMVID_WITH_VOID = ClassSet(("void", *CAMVID.names), ((0, 0, 0), *CAMVID.palette))
"""The 12 classes of TMANet's authors: void is trained and scored."""

CITYSCAPES_WITH_VOID = ClassSet((*CITYSCAPES.names, "void"), (*CITYSCAPES.palette, (0, 0, 0)))
"""The 20 logits of ERFNet's and LMANet's authors: void, the last, is never right."""
