import io
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from support.data import read_all

from prune_realloc.data.images import open_images
from prune_realloc.data.pictures import Unreadable, eight_bits, formats, is_picture, open_picture, suffixes
from prune_realloc.data.spans import spans_of_items

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def saved(image, form):
    file = io.BytesIO()
    image.save(file, form)
    return io.BytesIO(file.getvalue())


def gray(image, spans=None):
    return np.asarray(eight_bits(image, "L", spans)[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", [name for name in formats() if name in Image.SAVE])
def test_every_format_that_pillow_writes_is_read(form):
    image = Image.fromarray(RAMP).resize((32, 32))
    for mode in ("RGB", "L", "1", "RGBA", "P"):
        try:
            file = saved(image.convert(mode), form)
        except (OSError, ValueError, KeyError):  # Pillow writes no such mode there
            continue
        found, _ = eight_bits(open_picture(file), "RGB")
        assert found.mode == "RGB"
        return
    pytest.skip(f"Pillow writes no plain picture as {form}")


def test_suffixes_are_those_of_safe_formats():
    assert {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".tga", ".jp2"} <= suffixes()
    assert not {".eps", ".ps", ".pdf", ".wmf", ".emf", ".h5", ".hdf", ".grib", ".mpg"} & suffixes()
    assert is_picture("A.PNG")
    assert not is_picture("png")


def test_programs_are_not_called_whatever_the_name_says(tmp_path, monkeypatch):
    """Pillow gives PostScript to Ghostscript."""
    monkeypatch.setattr("subprocess.check_call", lambda *args, **more: pytest.fail("a program was called"))
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(Unreadable):
        eight_bits(open_picture(tmp_path / "a.png"), "RGB")


@given(arrays(np.uint8, (4, 5)))
def test_sixteen_bits_of_257_times_the_value_are_the_value(pixels):
    wide = Image.fromarray(pixels.astype(np.uint16) * 257)
    for form in ("PNG", "TIFF"):
        assert np.array_equal(gray(open_picture(saved(wide, form))), pixels)


@given(arrays(np.float32, (4, 5), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_nothing_is_clipped(pixels):
    """The order of the values stays, and the least and the largest stay apart."""
    found = gray(Image.fromarray(pixels))
    order = np.argsort(pixels, axis=None, kind="stable")
    assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()
    if pixels.max() > 65535 and pixels.min() < pixels.max():
        assert (found.min(), found.max()) == (0, 255)


def test_ranges_by_hand():
    for values, expected, whose in (
        ([0.0, 0.5, 1.0], [0, 128, 255], "0 .. 1"),
        ([0.0, 51.0, 255.0], [0, 51, 255], "0 .. 255"),
        ([0.0, 257.0, 65535.0], [0, 1, 255], "0 .. 65535"),
        ([-1.0, 0.0, 1.0], [0, 128, 255], "the least and the largest value"),
        ([-7.0, -7.0, -7.0], [0, 0, 0], "the least and the largest value"),
    ):
        image, remarks = eight_bits(Image.fromarray(np.array([values], np.float32)), "L")
        assert np.asarray(image).tolist() == [expected]
        assert whose in remarks[0]
    with pytest.raises(Unreadable, match="not finite"):
        eight_bits(Image.fromarray(np.array([[np.nan, 1]], np.float32)), "L")


def write_floats(folder, **values):
    folder.mkdir(parents=True)
    for name, value in values.items():
        Image.fromarray(np.array([[0, value]], np.float32)).save(folder / f"{name}.tif")


def read_pixels(source):
    """The largest of each picture in 8 bits, by its name."""
    spans = pickle.loads(pickle.dumps(source)).spans  # as a worker gets it
    return {source.describe(i): int(gray(source.load(i)[0], spans).max()) for i in range(source.count)}


def test_one_data_set_has_one_range(tmp_path):
    """A dark picture of a set from 0 to 255 stays dark, also where it is alone in its part."""
    write_floats(tmp_path / "d" / "train" / "a", dark=0.9, bright=255)
    write_floats(tmp_path / "d" / "val" / "a", dim=1)
    (tmp_path / "d" / "val" / "a" / "broken.tif").write_bytes(b"II*")
    assert read_pixels(open_images(str(tmp_path / "d"))) == {"a/bright.tif": 255, "a/dark.tif": 1}
    (tmp_path / "d" / "val" / "a" / "broken.tif").unlink()
    assert read_pixels(open_images(str(tmp_path / "d"), split="val")) == {"a/dim.tif": 1}
    write_floats(tmp_path / "more", low=-3, high=1)
    remarks: list[str] = []
    read_all(open_images(str(tmp_path / "more")), remarks=remarks)
    assert remarks == ["floating point, scaled to 8 bits from -3 .. 1, the least and the largest value"] * 2


def test_a_range_that_is_not_the_data_sets_is_no_picture(tmp_path):
    """Under a name that tells another type it is not looked at before, and would have a scale of its own."""
    write_floats(tmp_path / "d", a=1, b=0.5)
    (tmp_path / "d" / "a.tif").rename(tmp_path / "d" / "a.png")
    for name in ("b", "c"):
        Image.fromarray(RAMP).save(tmp_path / "d" / f"{name}.png")
    unreadable: list[str] = []
    read_all(open_images(str(tmp_path / "d")), unreadable=unreadable)
    assert unreadable == []
    write_floats(tmp_path / "e", a=200)
    (tmp_path / "e" / "a.tif").rename(tmp_path / "d" / "a.png")
    read_all(open_images(str(tmp_path / "d")), unreadable=unreadable)
    assert unreadable == ["a.png (has values 0 .. 200, and the range of the data set is 0 .. 1)"]


def test_images_without_files_have_one_range_too():
    images = [Image.fromarray(np.array([[0, 1 + place]], np.float32)) for place in range(300)]
    spans = spans_of_items(300, lambda place: (images[place], 0))
    assert spans["F"].whose == "0 .. 65535"
    assert spans_of_items(3, lambda place: (Image.fromarray(RAMP), 0)) == {}


def test_twelve_bits_are_scaled_by_theirs():
    """A TIFF file written by hand: one row of 0, 2048 and 4095 in a 12-bit grey."""
    tags = [
        (256, 4, 3),
        (257, 4, 1),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, 1),
        (279, 4, 5),
    ]
    pixels = b"\x00\x08\x00\xff\xf0"
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    content = b"II*\0" + struct.pack("<I", 14) + pixels + b"\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    image, remarks = eight_bits(open_picture(io.BytesIO(content)), "L")
    assert np.asarray(image).tolist() == [[0, 128, 255]]
    assert remarks == ("16 bits, scaled to 8 bits from 0 .. 4095",)


def test_the_orientation_is_left_as_torchvision_leaves_it_and_said_once(tmp_path):
    from torchvision.datasets.folder import pil_loader

    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(3):
        image = Image.fromarray(np.repeat(RAMP, 2, 1)).convert("RGB")
        image.save(tmp_path / f"{i}.jpg", exif=exif if i else Image.Exif())
    remarks: list[str] = []
    read_all(open_images(str(tmp_path)), remarks=remarks)
    assert remarks == ["an EXIF orientation, not applied, as in torchvision"] * 2
    ours, _ = eight_bits(open_picture(tmp_path / "1.jpg"), "RGB")
    assert np.array_equal(np.asarray(ours), np.asarray(pil_loader(str(tmp_path / "1.jpg"))))


def test_the_first_frame_of_several_is_taken(tmp_path):
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200)]
    for suffix in ("gif", "tif", "webp", "png"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        image, remarks = eight_bits(open_picture(tmp_path / f"a.{suffix}"), "L")
        assert abs(np.asarray(image).astype(int) - 10).max() <= 2
        assert remarks == ("several frames, of which the first is taken",)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@given(st.data())
def test_damaged_files_are_pictures_or_unreadable(data):
    form = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "JPEG2000", "ICO"]))
    content = bytearray(saved(Image.fromarray(RAMP).convert("RGB"), form).getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    try:
        image, _ = eight_bits(open_picture(io.BytesIO(content)), "RGB")
        assert image.mode == "RGB"
    except Unreadable as error:
        assert "\n" not in str(error)  # noqa: PT017
