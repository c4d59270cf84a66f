"""`cckt cache verify`, `pull` and `finish`."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

from tests.commands.front import Call, World, coco, index


def test_parts_make_a_column_and_finish_finishes_it(call: Call, world: World, tmp_path: Path) -> None:
    coco(tmp_path)
    call(*index(tmp_path, "held", "all"))
    for part in ("0/2", "1/2"):
        assert (
            call("cache", "images", tmp_path / "held", "--teacher", world.teacher, "--part", part).code == 0
        )
    outcome = call("cache", "finish", tmp_path / "held")
    assert outcome.code == 0
    assert "column images: finished, sha256:" in outcome.out


def test_verify_recomputes_a_sample_of_every_column(call: Call, world: World) -> None:
    for data, columns in ((world.seen, 2), (world.held, 3)):
        outcome = call("cache", "verify", data)
        assert outcome.code == 0, outcome.err
        assert outcome.out.count("everything is as it was made") == columns
        assert outcome.out.count("recomputed") == columns
        assert outcome.out.count("cosine median 1.000000") == columns
    assert "recomputed" not in call("cache", "verify", world.seen, "--sample", "0").out


def test_verify_finds_a_damaged_chunk_and_repair_marks_it(call: Call, world: World, tmp_path: Path) -> None:
    data = tmp_path / "held"
    shutil.copytree(world.held, data)
    (chunk,) = (data / "images" / "values").glob("c.*")
    chunk.write_bytes(bytes(reversed(chunk.read_bytes())))
    outcome = call("cache", "verify", data, "images", "--repair", "--json", tmp_path / "found.json")
    assert "found problems" in outcome.sentence()
    assert json.loads((tmp_path / "found.json").read_text())["images"]["ok"] is False
    outcome = call("cache", "images", data, "--teacher", world.teacher)
    assert "1 chunk made" in outcome.out
    assert call("cache", "verify", data, "images").code == 0


def test_pull_copies_finished_columns(call: Call, world: World, tmp_path: Path) -> None:
    outcome = call("cache", "pull", world.held, tmp_path / "copy", "text")
    assert (outcome.code, "text: 1 chunk file copied" in outcome.out) == (0, True)
    assert "1 already present" in call("cache", "pull", world.held, tmp_path / "copy", "text").out


def test_info_on_a_data_set_without_columns_names_a_command_that_makes_them(
    call: Call, tmp_path: Path
) -> None:
    data = tmp_path / "a world"
    assert call("data", "shapeworld", "--photos", "2", "--out", data).code == 0
    sentence = call("cache", "info", data).sentence()
    _, _, command = sentence.partition("make them with cckt ")
    assert call(*shlex.split(command)).code == 0
    assert "priors/clip: finished" in call("cache", "info", data).out


def test_verify_names_the_repair_command_as_it_runs(call: Call, world: World, tmp_path: Path) -> None:
    data = tmp_path / "held out"
    shutil.copytree(world.held, data)
    (chunk,) = (data / "images" / "values").glob("c.*")
    chunk.write_bytes(bytes(reversed(chunk.read_bytes())))
    sentence = call("cache", "verify", data, "images", "--sample", "0").sentence()
    _, _, command = sentence.rstrip("`.").partition("run `cckt ")
    assert shlex.split(command) == ["cache", "verify", str(data), "images", "--repair"]
    repaired = call(*shlex.split(command)).sentence()
    _, _, command = repaired.rstrip("`.").partition("run `cckt ")
    assert call(*shlex.split(command)).code == 0
    assert call("cache", "verify", data, "images").code == 0


def test_verify_covers_the_index_and_its_step_helps(call: Call, world: World, tmp_path: Path) -> None:
    data = tmp_path / "held"
    coco(tmp_path)
    shutil.copytree(world.held, data)
    tables = data / "index" / json.loads((data / "index" / "index.json").read_text())["tables"]
    concepts = bytearray((tables / "box_concepts.npy").read_bytes())
    concepts[-4] ^= 1
    (tables / "box_concepts.npy").write_bytes(concepts)
    outcome = call("cache", "verify", data, "text", "--sample", "0", "--json", tmp_path / "found.json")
    assert "in the index), expected none; build the index again with" in outcome.sentence()
    assert f"{tables.name}/box_concepts.npy is damaged" in outcome.out
    assert json.loads((tmp_path / "found.json").read_text())["index"]["ok"] is False
    assert call(*index(tmp_path, "held", "all")).code == 0
    assert call("cache", "verify", data, "--sample", "0").code == 0
    assert "--sample -1" in call("cache", "verify", data, "--sample", "-1").sentence()
