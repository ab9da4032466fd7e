"""How many videos and items each split is published to have, and who says so."""

from typing import NamedTuple

PAGE = "the data set's page or paper"
RECALLED = "recalled from the literature, not read off a page"


class Count(NamedTuple):
    """Published numbers of one split; several where releases differ.

    Attributes:
        videos: videos (or pictures).
        items: expressions, sentences or objects; empty = not published.
        source: who says so.
        references: referred objects of the refer API, each with several sentences; empty = not published.
    """

    videos: tuple[int, ...]
    items: tuple[int, ...]
    source: str
    references: tuple[int, ...] = ()


COUNTS: dict[tuple[str, str], Count] = {
    ("mevis", "train"): Count((1662,), (23051, 27502), f"{PAGE}, v1 and v2"),
    ("mevis", "valid_u"): Count((50,), (793, 907), f"{PAGE}, v1 and v2"),
    ("mevis", "valid"): Count((140,), (2236, 2523), f"{PAGE}, v1 and v2"),
    ("mevis", "test"): Count((154,), (2490,), PAGE),
    ("ref_youtube_vos", "train"): Count((3471,), (12913,), PAGE),
    ("ref_youtube_vos", "valid"): Count((202,), (834,), PAGE),
    ("ref_youtube_vos", "test"): Count((305,), (), PAGE),
    ("ref_davis", "train"): Count((60,), (), PAGE),
    ("ref_davis", "valid"): Count((30,), (244,), "61 objects of the shipped DAVIS results, four expressions each"),
    ("revos", "train"): Count((626,), (), PAGE),
    ("revos", "valid"): Count((416,), (), PAGE),
    ("a2d_sentences", "train"): Count((3017,), (), "the split that published codes prepare"),
    ("a2d_sentences", "test"): Count((737,), (), "the split that published codes prepare"),
    ("jhmdb_sentences", "test"): Count((928,), (2784,), "the shared metadata: 3 frames of each clip"),
    ("sav", "train"): Count((50583, 48436), (190316, 451720), f"{PAGE}, manual and automatic masklets"),
    ("sav", "val"): Count((155,), (293,), PAGE),
    ("sav", "test"): Count((150,), (278,), PAGE),
    ("davis", "train"): Count((60,), (), PAGE),
    ("davis", "val"): Count((30,), (61,), PAGE),
    ("davis", "test-dev"): Count((30,), (), PAGE),
    ("davis", "test-challenge"): Count((30,), (), PAGE),
    ("youtube_vos", "train"): Count((3471,), (), PAGE),
    ("youtube_vos", "valid"): Count((474, 507), (), f"{PAGE}, 2018 and 2019"),
    ("youtube_vos", "test"): Count((508, 541), (), f"{PAGE}, 2018 and 2019"),
    ("mose", "train"): Count((1507,), (), f"v1, {RECALLED}"),
    ("mose", "valid"): Count((311,), (), f"v1, {RECALLED}"),
    ("pumavos", "all"): Count((24,), (26,), f"{PAGE}; SAM 2 counts 26 masklets"),
    ("lvvis", "train"): Count((3083,), (), PAGE),
    ("lvvis", "val"): Count((837,), (), PAGE),
    ("lvvis", "test"): Count((908,), (), PAGE),
    ("refcoco_unc", "train"): Count((16994,), (120624,), PAGE, (42404,)),
    ("refcoco_unc", "val"): Count((1500,), (10834,), PAGE, (3811,)),
    ("refcoco_unc", "testA"): Count((750,), (5657,), PAGE, (1975,)),
    ("refcoco_unc", "testB"): Count((750,), (5095,), PAGE, (1810,)),
    ("refcoco_unc", "test"): Count((1500,), (10752,), PAGE, (3785,)),
    ("refcoco_google", "train"): Count((19213,), (), PAGE, (40000,)),
    ("refcoco_google", "val"): Count((4559,), (), PAGE, (5000,)),
    ("refcoco_google", "test"): Count((4527,), (), PAGE, (5000,)),
    ("refcoco+_unc", "train"): Count((16992,), (120191,), PAGE, (42278,)),
    ("refcoco+_unc", "val"): Count((1500,), (10758,), PAGE, (3805,)),
    ("refcoco+_unc", "testA"): Count((750,), (5726,), PAGE, (1975,)),
    ("refcoco+_unc", "testB"): Count((750,), (4889,), PAGE, (1798,)),
    ("refcoco+_unc", "test"): Count((1500,), (10615,), PAGE, (3773,)),
    ("refcocog_umd", "train"): Count((21899,), (80512,), PAGE, (42226,)),
    ("refcocog_umd", "val"): Count((1300,), (4896,), PAGE, (2573,)),
    ("refcocog_umd", "test"): Count((2600,), (9602,), PAGE, (5023,)),
    ("refcocog_google", "train"): Count((24698,), (85474,), PAGE, (44822,)),
    ("refcocog_google", "val"): Count((4650,), (9536,), PAGE, (5000,)),
    ("grefcoco", "train"): Count((), (209344,), RECALLED),
    ("grefcoco", "val"): Count((1500,), (16870,), f"{RECALLED}; pictures as in RefCOCO"),
    ("grefcoco", "testA"): Count((750,), (18712,), f"{RECALLED}; pictures as in RefCOCO"),
    ("grefcoco", "testB"): Count((750,), (14933,), f"{RECALLED}; pictures as in RefCOCO"),
    ("ref_zom", "train"): Count((43749,), (), RECALLED),
    ("ref_zom", "test"): Count((11329,), (), RECALLED),
}
"""By the reader's name and split."""

MASK_HASHES = {"train": "f9d9b01a", "valid_u": "6e711a3f"}
"""How the SHA-256 of MeViS v1's mask_dict.json begins, by split, as its README gives it."""
