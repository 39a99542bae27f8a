"""What is found in folders: parts, classes, what is left out; and what is refused, by the names of the folders."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.data import read_all

from prune_realloc.core.errors import InputError
from prune_realloc.data.images import open_images
from prune_realloc.data.labels import Naming
from prune_realloc.data.levels import DATE
from prune_realloc.data.stream import check_classes

PIXEL = Image.new("RGB", (2, 2))


def make(root, *paths):
    """Pictures, folders where a path ends in a slash, and other files."""
    for path in paths:
        if path.endswith("/"):
            (root / path).mkdir(parents=True)
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith((".png", ".gif")):
            PIXEL.save(root / path)
        else:
            (root / path).write_text("x")
    return str(root)


def found(source):
    """Relative path -> name of its class, by what load says."""
    return {source.describe(i): source.class_names[source.load(i)[1]] for i in range(source.count)}


def test_the_parts_of_a_data_set(tmp_path):
    """By any of their words, in any case, in a folder around them, with others beside them."""
    data = make(
        tmp_path, "set/Train/a/1.png", "set/Train/b/1.png", "set/Valid/a/2.png", "set/notes/read.md", "README.md"
    )
    for split, picture in (("train", "1.png"), ("validation", "2.png"), ("val", "2.png")):
        source = open_images(data, split=split)
        assert (source.class_names, source.describe(0)) == (("a", "b"), f"a/{picture}")
    with pytest.raises(InputError, match="has no part 'test'; choose one of Train, Valid"):
        open_images(data, split="test")


def test_a_class_may_be_called_like_a_part(tmp_path):
    source = open_images(make(tmp_path, "bus/1.png", "car/1.png", "train/1.png"), split="validation")
    assert (source.class_names, source.part) == (("bus", "car", "train"), "")


def test_a_part_may_have_any_name_that_is_asked_for(tmp_path):
    data = make(tmp_path, "fold1/a/1.png", "fold1/b/1.png", "fold2/a/2.png", "fold2/b/2.png")
    assert found(open_images(data, split="fold2")) == {"a/2.png": "a", "b/2.png": "b"}


def test_parts_have_the_classes_of_all_of_them_but_not_of_unlabelled_ones(tmp_path):
    data = make(
        tmp_path, "train/a/1.png", "train/b/1.png", "train/c/1.png", "val/a/1.png", "val/c/1.png", "test/unknown/1.png"
    )
    source = open_images(data, split="val")
    assert (source.class_names, source.empty) == (("a", "b", "c"), ("b",))
    assert found(source) == {"a/1.png": "a", "c/1.png": "c"}
    assert "no images of b" in str(source.taken["classes"])


def test_parts_below_the_classes_are_refused(tmp_path):
    data = make(tmp_path, "a/train/1.png", "a/test/2.png", "b/train/3.png", "b/test/4.png")
    with pytest.raises(InputError, match="has the folders test, train below others; put the parts above"):
        open_images(data)


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        (
            ["ill/s1/1.png", "ill/s2/2.png", "well/s1/3.png", "well/s2/4.png"],
            r"nested folders \(ill/s1, ill/s2, well/s1",
        ),
        (["photo/cat/1.png", "photo/dog/1.png", "sketch/cat/1.png", "sketch/dog/1.png"], "cat, dog .the last, as in"),
        (["hospital1/malign/1.png", "hospital2/normal/1.png"], "hospital1, hospital2 .the first.* or malign, normal"),
        (["a/x1/1.png", "b/x2/1.png"], "a, b .the first.* or x1, x2"),
        (["a/1.png", "b/1.png", "b/more/1.png"], r"nested folders \(a, b, b/more\)"),
        (["a/1.png", "b/1.png", "1.png", "2.png"], "2 pictures in 'itself' beside its folders a, b"),
        ([*(f"{i}.png" for i in range(30)), "rejected/1.png"], "30 pictures in 'itself' beside its folders rejected"),
        (["2021/01/05/1.png", "2021/01/06/1.png"], "named like dates"),
        (["20210105/1.png", "20210106/1.png"], "named like dates"),
        (["photos/2021/01/05/1.png", "photos/2021/01/06/1.png"], r"named like dates .2021/01/05"),
        (["2021/01/05/1.png", "2021/01/06/2.png", "2021/02/05/3.png"], r"named like dates .2021/01, 2021/02"),
        (["2020-01-05/cam/1.png", "2020-01-06/cam/1.png"], "named like dates"),
        (["2020/1.png", "2021/1.png"], "named like dates"),
        (["5 Jan 2021/1.png", "6 Jan 2021/1.png"], "named like dates"),
        (["2021-01-05_morning/1.png", "2021-01-05_evening/1.png"], "named like dates"),
        (["monday/1.png", "tuesday/1.png"], "named like dates"),
        (["a/1.txt", "b/"], "no picture is in .*; 1 in no picture format .a/1.txt."),
    ],
)
def test_what_cannot_be_told_is_refused_and_used_without_labels(tmp_path, paths, complaint):
    data = make(tmp_path / "d", *paths)
    with pytest.raises(InputError, match=complaint) as error:
        open_images(data)
    assert "\n" not in str(error.value)
    if "no picture" not in complaint:
        assert "--no-labels" in str(error.value)
        source = open_images(data, naming=Naming(wanted=False))
        assert (source.count, source.num_classes) == (len(paths), 0)


@pytest.mark.parametrize(
    "paths",
    [
        ["a/1.png", "b/1.png"],
        ["a/images/1.png", "b/images/1.png"],
        ["around/a/1.png", "around/b/1.png"],
        ["a/1.png", "b/1.png", "stray.png"],
        ["around/a/1.png", "around/b/1.png", "around/stray.gif"],
        ["a/1.png", "b/1.png", "a/.ipynb_checkpoints/1-checkpoint.png", ".cache/x/1.png", "__MACOSX/a/1.png"],
        ["a/1.png", "b/1.png", "annotations/a.xml"],
        ["images/a/1.png", "images/b/1.png", "labels/a/1.txt", "labels/b/1.txt"],
        ["a/2021-01-05/1.png", "b/2021-01-06/1.png"],
        ["around/deep/a/x/y/1.png", "around/deep/b/x/y/1.png"],
    ],
)
def test_layouts_that_mean_one_thing(tmp_path, paths):
    source = open_images(make(tmp_path / "d", *paths))
    assert sorted(found(source).values()) == ["a", "b"]
    assert source.num_classes == 2


def test_an_order_and_a_map_are_not_both_given():
    with pytest.raises(InputError, match="class_order 'timm' says nothing beside class_map 'x'"):
        Naming(class_map="x", class_order="timm")
    with pytest.raises(InputError, match="class_order 'mine' is unknown; choose torchvision or timm"):
        Naming(class_order="mine")


def test_what_is_left_out_is_counted_by_reason_and_named(tmp_path):
    data = make(tmp_path / "d", "a/1.png", "b/1.png", "stray.png", "a/x.txt", "a/y.csv", "b/.DS_Store", "Thumbs.db")
    assert open_images(data).taken["left out"].value == [
        "2 hidden (Thumbs.db, b/.DS_Store)",
        "2 in no picture format (a/x.txt, a/y.csv)",
        "1 beside the class folders (stray.png)",
    ]


def test_the_layout_is_said(tmp_path):
    for paths, said in (
        (["a/1.png", "b/1.png"], "class folders"),
        (["train/a/1.png", "train/b/1.png"], "class folders of train"),
        (["in/a/raw/1.png", "in/b/raw/1.png"], "class folders, each with raw/ inside"),
        (["a/day1/1.png", "b/day2/1.png"], "class folders, nested"),
        (["1.png", "2.png"], "images without labels"),
    ):
        source = open_images(make(tmp_path / said.replace("/", ""), *paths))
        assert source.taken["layout"].value == said


def test_a_folder_is_taken_once_and_not_by_a_link_to_it(tmp_path):
    data = make(tmp_path / "d", "a/1.png", "b/2.png")
    make(tmp_path, "elsewhere/3.png", "elsewhere/more/4.png")
    for link, target in (("a/l", "d/b"), ("b/l", "d/a"), ("a/up", "d"), ("a/above", ""), ("b/b", "d/b")):
        (tmp_path / "d" / link).symlink_to(tmp_path / target)
    source = open_images(data, naming=Naming(wanted=False))
    assert [source.describe(i) for i in range(source.count)] == ["a/1.png", "b/2.png"]
    assert found(open_images(data)) == {"a/1.png": "a", "b/2.png": "b"}
    assert open_images(data).taken["left out"].value == [
        "5 links to folders that are there too (a/above, a/l, a/up, ...)"
    ]
    for link in "cd":
        (tmp_path / "d" / link).symlink_to(tmp_path / "elsewhere")
    source = open_images(data, naming=Naming(wanted=False))
    assert [source.describe(i) for i in range(source.count)] == ["a/1.png", "b/2.png", "c/3.png", "c/more/4.png"]


def test_known_names_decide_which_folder_is_the_class(tmp_path):
    data = make(tmp_path / "d", "site1/cat/1.png", "site1/dog/x/2.png", "dog/3.png", "2021-01-05/cat/4.png")
    names = ("dog", "bird", "cat")
    source = open_images(data, naming=Naming(names=names, classes=3))
    classes = ["cat", "dog", "dog", "cat"]
    assert found(source) == dict(
        zip(("site1/cat/1.png", "site1/dog/x/2.png", "dog/3.png", "2021-01-05/cat/4.png"), classes, strict=True)
    )
    make(tmp_path / "d", "site1/wolf/1.png")
    with pytest.raises(InputError, match="site1/wolf is none of the 3 classes of names in the checkpoint"):
        open_images(data, naming=Naming(names=names, classes=3))


def test_names_in_the_checkpoint_of_which_none_is_there(tmp_path):
    """Labels by the alphabet would be swapped; an order that is given decides, and is said."""
    data = make(tmp_path / "d", "Hund/1.png", "Katze/2.png")
    naming = Naming(names=("cat", "dog"), classes=2)
    with pytest.raises(
        InputError, match=r"folders \(Hund, Katze\) is called .* 2 classes of the checkpoint \(cat, dog\)"
    ) as error:
        open_images(data, naming=naming)
    assert "--class-map FILE" in str(error.value)
    assert "--class-order" in str(error.value)
    assert "\n" not in str(error.value)
    (tmp_path / "map").write_text("Katze,0\nHund,1")
    source = open_images(data, naming=replace(naming, class_map=str(tmp_path / "map")))
    assert [source.load(i)[1] for i in range(2)] == [1, 0]
    source = open_images(data, naming=replace(naming, class_order="timm"))
    assert source.class_names == ("Hund", "Katze")
    assert source.taken["classes"].origin == "--class-order timm; the checkpoint has other names, 2, cat .. dog"


def test_a_name_that_two_classes_have_hides_no_others(tmp_path):
    """ImageNet has two classes called crane."""
    data = make(tmp_path / "d", "stork/1.png", "owl/2.png")
    naming = Naming(names=("owl", "crane", "stork", "crane"), classes=4)
    source = open_images(data, naming=naming)
    assert {source.describe(i): source.load(i)[1] for i in range(2)} == {"stork/1.png": 2, "owl/2.png": 0}
    make(tmp_path / "d", "crane/3.png")
    with pytest.raises(InputError, match="crane is none of the 2 classes"):
        open_images(data, naming=naming)


def test_a_map_may_have_some_of_the_classes(tmp_path):
    data = make(tmp_path / "d", "cat/1.png", "dog/2.png")
    for text, least in (("cat 0\ndog 1", 2), ("cat,3\ndog,7", 8)):
        (tmp_path / "map").write_text(text)
        source = open_images(data, naming=Naming(classes=10, class_map=str(tmp_path / "map")))
        check_classes(source, 10, "the model", "")
        with pytest.raises(InputError, match=f"labels up to {least - 1}, the model {least - 1} classes"):
            check_classes(source, least - 1, "the model", "")


folder_names = st.lists(
    st.text("abAB01 _-", min_size=1, max_size=4).map(str.strip).filter(bool), min_size=2, max_size=6
)


@settings(max_examples=40, deadline=None)
@given(
    folder_names.filter(lambda names: len({n.lower() for n in names}) == len(names)), st.randoms(use_true_random=False)
)
def test_labels_are_those_of_the_names_or_the_data_is_refused(tmp_path_factory, names, random):
    """Law: by name where names are known; by order where torchvision and timm agree; never silently otherwise."""
    root = tmp_path_factory.mktemp("d")
    data = make(root, *(f"{name}/1.png" for name in names))
    known = [*names, "another"]
    random.shuffle(known)
    try:
        source = open_images(data, naming=Naming(names=tuple(known), classes=len(known)))
    except InputError as error:  # two names that differ in `_` or spaces only
        assert "one class" in str(error)  # noqa: PT017
        return
    assert {source.describe(i): source.load(i)[1] for i in range(source.count)} == {
        f"{name}/1.png": known.index(name) for name in names
    }
    try:
        by_order = open_images(data)
    except InputError as error:
        assert "order of the classes" in str(error) or "dates" in str(error)  # noqa: PT017
    else:
        assert by_order.class_names == tuple(sorted(names))


def test_the_same_folder_gives_the_same_images_in_the_same_order(tmp_path):
    data = make(tmp_path / "d", "a/10.png", "a/9.png", "B/1.png", "B/A.png", "B/a.png")
    orders = [
        [source.describe(i) for i in range(5)]
        for source in (open_images(data, naming=Naming(class_order=o)) for o in ("timm", "torchvision"))
    ]
    assert orders[0] == orders[1] == ["a/9.png", "a/10.png", "B/1.png", "B/A.png", "B/a.png"]
    assert len(read_all(open_images(data, naming=Naming(wanted=False)))) == 2


def test_names_that_are_dates_and_names_that_are_none():
    dates = (
        "2021-01-05 20210105 2021_1_5 05-01-2021 5.1.2021 2021-01-05T10 2021-01-05_a Jan_05_2021 2021-01 2021 day1 Tue"
    )
    others = "sun_bear 2019_civic 200001 1112001 n01440764 0 12 may march sunflower 2021a 20211305 daylily 123456 monk"
    assert [name for name in dates.split() if not DATE.fullmatch(name)] == []
    assert [name for name in others.split() if DATE.fullmatch(name)] == []
