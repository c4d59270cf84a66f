"""Photos decoded in the training process: by a CPU decoder with the GPU decoder's interface, and by a GPU."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cckt.cache_builder.base.errors import UserError
from cckt.detector.data import dataset as data
from cckt.detector.data.dataset import Schedule, TrainingPhotos, batches, decoded
from cckt.detector.data.gpu_decode import decode_all, gpu_decoder, jpeg_bytes
from cckt.detector.data.transforms import View
from tests.cache_builder.index.photo_files.samples import save_photo
from tests.detector.tiny import make_data, tiny_config


def cpu_decoder(files: list[Tensor]) -> list[Tensor]:
    """Decode as torchvision does: all files, or RuntimeError if one is broken."""
    planes = []
    for file in files:
        try:
            with Image.open(io.BytesIO(file.numpy().tobytes())) as image:
                planes.append(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))
        except Exception as fault:
            raise RuntimeError("nvJPEG failed") from fault
    return planes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data set with JPEGs instead of all photos except the third, which stays PNG."""
    made = make_data(tmp_path_factory.mktemp("jpegs"), photos=7, sizes=((64, 64), (80, 48)))
    for k, path in enumerate(sorted((made / "photos").iterdir())):
        if k != 2:
            with Image.open(path) as image:
                image.save(
                    path, format="JPEG", quality=95
                )  # the file name stays .png: only the content counts
    return made


def photos_of(folder: Path, *assignments: str) -> TrainingPhotos:
    return TrainingPhotos(folder, tiny_config("data.cache_photos=0", *assignments))


def test_an_empty_list_of_files() -> None:
    assert decode_all([], cpu_decoder) == []
    assert decoded([], cpu_decoder) == []


def test_without_a_gpu_the_option_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"option data.decode: found 'cuda', but torch finds no CUDA device"):
        gpu_decoder()


def test_a_torchvision_without_nvjpeg_is_refused_before_the_first_photo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def raise_unsupported(files: list[Tensor], **options: object) -> list[Tensor]:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr("torchvision.io.decode_jpeg", raise_unsupported)
    with pytest.raises(UserError, match=r"torchvision \S+ cannot decode on it \(.*not compiled with nvJPEG"):
        gpu_decoder()
    seen: list[int] = []
    monkeypatch.setattr("torchvision.io.decode_jpeg", lambda files, **_: seen.append(len(files)) or files)
    gpu_decoder()
    assert seen == [1]
    monkeypatch.delattr("torchvision.io.decode_jpeg")
    with pytest.raises(UserError, match=r"cannot decode on it \(.*decode_jpeg"):
        gpu_decoder()


def test_out_of_memory_is_not_treated_as_a_broken_file() -> None:
    def full(files: list[Tensor]) -> list[Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        decode_all([torch.zeros(3, dtype=torch.uint8)], full)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_equal_those_of_decoding_workers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(data, "gpu_decoder", lambda: cpu_decoder)
    schedule = Schedule(7, 0, 3, last_step=4)
    usual = list(batches(photos_of(folder, "data.workers=0"), schedule))
    photos = photos_of(folder, "data.decode=cuda", f"data.workers={workers}")
    found = list(batches(photos, schedule))
    assert len(found) == len(usual) == 4
    for one, other in zip(found, usual, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.rows == other.rows
        assert torch.equal(one.targets.boxes, other.targets.boxes)
        assert torch.equal(one.targets.teacher["crop"].values, other.targets.teacher["crop"].values)
        assert torch.equal(one.present, other.present)
        assert (one.padding is None) == (other.padding is None)
        assert one.padding is None or torch.equal(one.padding, other.padding)


def test_only_plain_jpegs_of_the_annotated_size_go_to_the_gpu(folder: Path, tmp_path: Path) -> None:
    paths = sorted((folder / "photos").iterdir())
    file = jpeg_bytes(paths[0], (64, 64))
    assert file is not None
    assert (file.dtype, file.ndim, len(file)) == (torch.uint8, 1, paths[0].stat().st_size)
    assert jpeg_bytes(paths[0], (64, 65)) is None, "another size: the CPU decides whether it is rotated"
    assert jpeg_bytes(paths[2], (64, 64)) is None, "PNG"
    assert jpeg_bytes(tmp_path / "none.jpg", (64, 64)) is None
    save_photo(tmp_path / "turned.jpg", (64, 64), 3)
    assert jpeg_bytes(tmp_path / "turned.jpg", (64, 64)) is not None
    assert jpeg_bytes(tmp_path / "turned.jpg", (64, 64), exif="apply") is None, "a GPU does not turn it"
    (tmp_path / "text.jpg").write_text("no photo")
    assert jpeg_bytes(tmp_path / "text.jpg", (64, 64)) is None
    Image.new("CMYK", (64, 64)).save(tmp_path / "print.jpg")
    assert jpeg_bytes(tmp_path / "print.jpg", (64, 64)) is None


def test_photos_that_fit_in_memory_are_decoded_once_on_the_cpu(folder: Path) -> None:
    config = tiny_config("data.decode=cuda", "data.cache_photos=100")
    sample = TrainingPhotos(folder, config)[next(iter(Schedule(7, 0, 3, last_step=1)))[0]]
    assert sample.view is None
    assert sample.image.ndim == 3


def test_a_broken_file_becomes_a_black_image_without_objects(folder: Path) -> None:
    photos = photos_of(folder, "data.decode=cuda")
    samples = [photos[place] for place in next(iter(Schedule(7, 0, 7, last_step=1)))]
    whole = [k for k, sample in enumerate(samples) if isinstance(sample.view, View)]
    assert len(whole) == 6
    broken = whole[1]
    samples[broken] = data.replace(samples[broken], image=samples[broken].image[:40])
    done = decoded(samples, cpu_decoder)
    assert "cannot be decoded" in done[broken].fault
    assert len(done[broken].targets) == 0
    assert not bool(done[broken].image.any())
    assert [sample.fault for k, sample in enumerate(done) if k != broken] == [""] * 6
    assert all(sample.view is None for sample in done)


def test_a_file_that_fails_on_the_gpu_is_decoded_on_the_cpu(folder: Path) -> None:
    def fail_always(files: list[Tensor]) -> list[Tensor]:
        raise RuntimeError("nvJPEG failed")

    files = [jpeg_bytes(path, (64, 64)) for path in sorted((folder / "photos").iterdir())[:1]]
    (plane,) = decode_all([file for file in files if file is not None], fail_always)
    assert isinstance(plane, Tensor)
    assert torch.equal(plane, cpu_decoder([file for file in files if file is not None])[0])


def test_an_unknown_decoder_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.decode"):
        tiny_config("data.decode=gpu")


@pytest.mark.gpu
def test_pixels_of_a_gpu_are_close_to_those_of_the_cpu(folder: Path) -> None:
    schedule = Schedule(7, 0, 3, last_step=2)
    usual = list(batches(photos_of(folder, "data.workers=0"), schedule))
    found = list(batches(photos_of(folder, "data.workers=1", "data.decode=cuda"), schedule))
    for one, other in zip(found, usual, strict=True):
        assert one.images.is_cuda
        difference = (one.images.cpu().int() - other.images.int()).abs().float()
        assert float(difference.mean()) < 2, json.dumps(difference.mean().item())
