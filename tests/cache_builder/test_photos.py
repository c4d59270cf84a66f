"""Photos: all kinds that data sets hold, broken ones, and ones of other sizes than annotated."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cckt.cache_builder.base.untrusted.image_files import known_formats
from cckt.cache_builder.index.photo_files.headers import read_header
from cckt.cache_builder.photos import (
    BadPhoto,
    load_photo,
)
from tests.cache_builder.conftest import HEIGHT, WIDTH
from tests.places import SHARED

REAL = SHARED / "coco_photos"


def save(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def reason(path: Path, **options: object) -> str:
    with pytest.raises(BadPhoto) as caught:
        load_photo(path, **options)
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    return caught.value.reason


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    assert reason(tmp_path / "a.jpg") == "is empty (0 bytes)"


def test_a_missing_file(tmp_path: Path) -> None:
    assert reason(tmp_path / "a.jpg") == "does not exist"


def test_a_folder_for_a_file(tmp_path: Path) -> None:
    assert reason(tmp_path) == "is not a file"
    (tmp_path / "file").write_text("x")
    assert "cannot be opened" in reason(tmp_path / "file" / "a.jpg")


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    assert reason(tmp_path / "a.jpg") == "is not an image in a supported format"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_truncated_file(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path = save(tmp_path, f"a.{suffix}", noisy)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be decoded" in reason(path) or "not an image" in reason(path)


def test_rgb_comes_back_as_it_was(tmp_path: Path, pixels: np.ndarray) -> None:
    image = load_photo(save(tmp_path, "a.png", Image.fromarray(pixels)), (WIDTH, HEIGHT))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path: Path, pixels: np.ndarray, mode: str) -> None:
    source = Image.fromarray(pixels).convert(mode)
    path = save(tmp_path, "a.tiff" if mode in ("CMYK", "YCbCr") else "a.png", source)
    image = load_photo(path, (WIDTH, HEIGHT))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(source.convert("RGB")))


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (250, 10, 10))
    image = load_photo(save(tmp_path, "a.jpg", red.convert("CMYK"), quality=95), (16, 16))
    assert np.abs(np.asarray(image).astype(int) - np.asarray(red)).max() < 12


@pytest.mark.parametrize("suffix", ["png", "tiff", "ppm"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 65535, 64 * 4).round().astype(np.uint16).reshape(4, 64)
    image = load_photo(save(tmp_path, f"a.{suffix}", Image.fromarray(ramp)), (64, 4))
    expected = np.round(ramp / 257.0)
    np.testing.assert_array_equal(np.asarray(image)[..., 0], expected)
    np.testing.assert_array_equal(np.asarray(image)[..., 1], expected)


def test_sixteen_bit_colour_is_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 5 * 7 * 3).astype(np.uint16).reshape(5, 7, 3)
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)

    def part(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 7, 5, 16, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(raw)) + part(b"IEND", b"")
    )
    image = np.asarray(load_photo(path, (7, 5))).astype(float)
    assert np.abs(image - deep / 257.0).max() <= 1.0


def test_grey_without_an_agreed_range_is_bad(tmp_path: Path) -> None:
    path = save(tmp_path, "a.tiff", Image.fromarray(np.full((4, 4), 0.5, np.float32)))
    assert "no agreed range" in reason(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (4, 4), (0,) * len(mode))
    assert np.asarray(load_photo(save(tmp_path, "a.png", image))).min() == 255


def test_a_transparent_palette_colour_lies_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 1), 1)
    loaded = load_photo(save(tmp_path, "a.png", image, transparency=0))
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.getpixel((1, 1)) == (200, 100, 50)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    path = save(tmp_path, f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    red, green, blue = load_photo(path, (8, 8)).getpixel((4, 4))
    assert red > 200
    assert max(green, blue) < 40


def rotated(folder: Path, pixels: np.ndarray, orientation: int, suffix: str = "png") -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(folder, f"a.{suffix}", Image.fromarray(pixels), exif=exif)


BY_FORMAT = pytest.mark.parametrize("suffix", ["png", "tiff"])  # Pillow turns a TIFF by itself
BY_ORIENTATION = pytest.mark.parametrize("orientation", range(1, 9))


@BY_FORMAT
@BY_ORIENTATION
def test_stored_layout_wins_where_it_has_the_size_of_the_annotations(
    tmp_path: Path, pixels: np.ndarray, orientation: int, suffix: str
) -> None:
    image = load_photo(rotated(tmp_path, pixels, orientation, suffix), (WIDTH, HEIGHT))
    np.testing.assert_array_equal(np.asarray(image), pixels)


@BY_FORMAT
@BY_ORIENTATION
def test_a_header_has_the_stored_size_and_the_orientation(
    tmp_path: Path, pixels: np.ndarray, orientation: int, suffix: str
) -> None:
    path = rotated(tmp_path, pixels, orientation, suffix)
    assert read_header(path) == (WIDTH, HEIGHT, orientation)


@BY_FORMAT
@BY_ORIENTATION
def test_the_turned_layout_is_taken_where_only_it_has_the_size(
    tmp_path: Path, pixels: np.ndarray, orientation: int, suffix: str
) -> None:
    path = rotated(tmp_path, pixels, orientation, suffix)
    if orientation < 5:
        assert reason(path, size=(HEIGHT, WIDTH)) == "is 23 x 17 where the annotations say 17 x 23"
        return
    turns = {
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90(pixels),
    }
    np.testing.assert_array_equal(np.asarray(load_photo(path, (HEIGHT, WIDTH))), turns[orientation])


@BY_FORMAT
def test_without_annotations_the_orientation_is_followed(
    tmp_path: Path, pixels: np.ndarray, suffix: str
) -> None:
    for orientation, turns in ((6, -1), (3, 2)):
        image = load_photo(rotated(tmp_path, pixels, orientation, suffix))
        np.testing.assert_array_equal(np.asarray(image), np.rot90(pixels, turns))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_no_orientation(tmp_path: Path, pixels: np.ndarray) -> None:
    path = save(tmp_path, "a.jpg", Image.fromarray(pixels), exif=b"Exif\0\0MM\0*\0\0\0\xff garbage")
    assert load_photo(path, (WIDTH, HEIGHT)).size == (WIDTH, HEIGHT)


def test_another_size_than_the_annotations(tmp_path: Path, pixels: np.ndarray) -> None:
    path = save(tmp_path, "a.png", Image.fromarray(pixels))
    assert reason(path, size=(640, 480)) == "is 23 x 17 where the annotations say 640 x 480"


def test_a_huge_photo_meets_our_own_limit_before_it_is_decoded(tmp_path: Path) -> None:
    path = save(tmp_path, "a.png", Image.new("1", (5000, 4000)))
    assert reason(path, max_pixels=10_000_000) == "is 5000 x 4000 (20 megapixels), over the limit of 10"
    assert load_photo(path, (5000, 4000)).size == (5000, 4000)


@pytest.mark.parametrize("side", [10_000, 14_000])  # over our limit; over Pillow's own, which raises first
def test_a_decompression_bomb_is_a_bad_photo(tmp_path: Path, side: int) -> None:
    path = save(tmp_path, "a.png", Image.new("1", (side, side)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known_formats.cache_clear()  # its filter went with an earlier test
        assert "limit" in reason(path)


def test_a_bad_photo_crosses_process_borders(tmp_path: Path) -> None:
    bad = pickle.loads(pickle.dumps(BadPhoto(tmp_path / "a.jpg", "is empty (0 bytes)")))  # noqa: S301
    assert (bad.path, bad.reason) == (tmp_path / "a.jpg", "is empty (0 bytes)")


def test_the_image_outlives_its_file(tmp_path: Path, pixels: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue())
    image = load_photo(path)
    path.unlink()
    assert image.crop((0, 0, 2, 2)).size == (2, 2)


def test_real_photos_load_as_annotated() -> None:
    if not REAL.is_dir():
        pytest.skip("the shared COCO photos are absent")
    paths = sorted((REAL / "val2017").glob("*.jpg"))[:8]
    assert all(load_photo(path).mode == "RGB" for path in paths)
