"""Names and colours of the classes of the published data sets, in the order of their labels."""

from typing import NamedTuple

MAX_CLASSES = 65535
"""Label maps have 8 or 16 bits."""

IGNORE = 255
"""The label of void: a pixel that no loss and no metric counts."""


class ClassSet(NamedTuple):
    """Classes of a protocol.

    Attributes:
        names: by class index.
        palette: (R, G, B) of each, 0..255.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]


def _colours(text: str) -> tuple[tuple[int, int, int], ...]:
    """Colours written as rrggbb."""
    values = (bytes.fromhex(word) for word in text.split())
    return tuple((red, green, blue) for red, green, blue in values)


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

_VSPW_NAMES = """
wall ceiling door stair ladder escalator Playground_slide handrail_or_fence window rail goal pillar
pole floor ground grass sand athletic_field road path crosswalk building house bridge tower windmill
well_or_well_lid other_construction sky mountain stone wood ice snowfield grandstand sea river lake
waterfall water billboard_or_Bulletin_Board sculpture pipeline flag parasol_or_umbrella
cushion_or_carpet tent roadblock car bus truck bicycle motorcycle wheeled_machine ship_or_boat raft
airplane tyre traffic_light lamp person cat dog horse cattle other_animal tree flower other_plant
toy ball_net backboard skateboard bat ball cupboard_or_showcase_or_storage_rack box
traveling_case_or_trolley_case basket bag_or_package trash_can cage plate tub_or_bowl_or_pot
bottle_or_cup barrel fishbowl bed pillow table_or_desk chair_or_seat bench sofa shelf bathtub gun
commode roaster other_machine refrigerator washing_machine Microwave_oven fan curtain textiles
clothes painting_or_poster mirror flower_pot_or_vase clock book tool blackboard tissue
screen_or_television computer printer Mobile_phone keyboard other_electronic_product fruit food
instrument train
"""
_VSPW_COLOURS = """
787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846
08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc
ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14
ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff
ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00
008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014
ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900
00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070
5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00
"""
VSPW = ClassSet(tuple(_VSPW_NAMES.split()), _colours(_VSPW_COLOURS))
"""VSPW's 124 classes as label_num_dic_final.json names them, without 'others' (its 0).

VSPW's authors colour them with the first of ADE20K's 150 colours, which gives Playground_slide and
car one.
"""
