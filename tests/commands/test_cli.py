"""The command line from end to end, on a world of six photos; mistakes are in test_cli_mistakes.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cckt import cli
from cckt.cache_builder.runner import Interrupted
from cckt.commands import detector as cli_detector
from tests.cache_builder.samples import write_teacher
from tests.commands.front import Said, World, cckt, coco, index, options, write

Say = Callable[..., Said]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    return lambda *words: cckt(capsys, *words)


def test_nothing_asked_for_shows_help_and_help_is_no_mistake(say: Say) -> None:
    for words in ([], ["--help"], ["data", "--help"], ["cache", "--help"], ["train", "--help"]):
        said = say(*words)
        assert "Usage: cckt" in said.out + said.err
        assert said.code == (0 if words else 2)


def test_help_lists_the_verbs_in_the_order_of_use(say: Say) -> None:
    out = say("--help").out
    places = [out.index(f"│ {verb} ") for verb in ("quickstart", "data", "cache", "train", "eval", "predict")]
    assert places == sorted(places)


def test_what_the_parser_refuses_is_a_mistake_too(say: Say) -> None:
    for words in (["nothing"], ["predict"], ["train", "--max-steps", "many"], ["cache", "crops", "x"]):
        said = say(*words)
        assert said.code == 2
        assert "Traceback" not in said.err
        assert "Usage" in said.err


def test_an_index_says_what_it_dropped_and_why(say: Say, tmp_path: Path) -> None:
    coco(tmp_path)
    said = say(*index(tmp_path, "seen", "base"), "--json", tmp_path / "report.json")
    assert said.code == 0
    assert "6 boxes of 12 annotations: 6 base, 0 novel" in said.out
    assert "6 dropped: novel concept (keep base)" in said.out
    assert json.loads((tmp_path / "report.json").read_text())["dropped"]["novel"] == 6


def test_json_on_stdout_is_alone_there(say: Say, tmp_path: Path) -> None:
    coco(tmp_path)
    said = say(*index(tmp_path, "held", "all"), "--json", "-")
    assert json.loads(said.out)["boxes"] == 12
    assert "12 boxes of 12 annotations" in said.err


def test_a_finished_cache_is_found_and_told(say: Say, world: World) -> None:
    said = say("cache", "crops", world.seen, "--teacher", world.teacher)
    assert "0 chunks made, 1 found" in said.out
    said = say("cache", "info", world.seen, "--json", "-")
    assert set(json.loads(said.out)) == {"text", "crops"}
    assert "finished" in say("cache", "info", world.seen, "crops").out
    assert "crops" not in say("cache", "info", world.seen, "text").out


def test_all_columns_at_once_are_those_made_one_by_one(say: Say, world: World, tmp_path: Path) -> None:
    coco(tmp_path)
    say(*index(tmp_path, "held", "all"))
    said = say("cache", "all", tmp_path / "held", "--teacher", world.teacher, "--json", "-")
    assert set(json.loads(said.out)) == {"text", "crops", "images", "priors/clip"}
    said = say("cache", "diff", tmp_path / "held", world.held)
    assert said.code == 0
    assert said.out.count("the rows are the same, byte for byte") == 3


def test_views_of_crops_and_columns_of_a_second_teacher(say: Say, world: World, tmp_path: Path) -> None:
    coco(tmp_path)
    say(*index(tmp_path, "held", "all"))
    data, other = tmp_path / "held", write_teacher(tmp_path / "other", seed=1)
    said = say(
        "cache", "crops", data, "--teacher", world.teacher, "--flipped", "--jitter", "1", "--json", "-"
    )
    assert set(json.loads(said.out)) == {"crops", "crops-flipped", "crops-jitter-1"}
    for verb in ("text", "crops", "images"):
        words = ["--fast"] if verb != "text" else []
        said = say("cache", verb, data, "--teacher", other, "--name", "b", *words)
        assert said.code == 0, said.err
    assert say("cache", "priors", data, "--name", "b").code == 0
    said = say("cache", "info", data, "--json", "-")
    assert set(json.loads(said.out)) >= {"text-b", "crops-b", "images-b", "priors/clip-b"}


def test_two_runs_are_compared_and_one_with_itself_does_not_differ(
    say: Say, world: World, tmp_path: Path
) -> None:
    say("eval", world.run, "--data", world.held, "--out", tmp_path)
    words = ["--against", tmp_path / "detections.json", "--data", world.held, "--resamples", "20"]
    said = say("eval", world.run, *words, "--json", tmp_path / "duel.json")
    assert said.code == 0, said.err
    assert "no difference shown" in said.out or "nothing to compare" in said.out
    duel = json.loads((tmp_path / "duel.json").read_text())
    assert duel["a"]["ap50_base"] == duel["b"]["ap50_base"]


def test_parts_make_a_column_together_and_finish_closes_it(say: Say, world: World, tmp_path: Path) -> None:
    coco(tmp_path)
    say(*index(tmp_path, "held", "all"))
    for part in ("0/2", "1/2"):
        assert say("cache", "images", tmp_path / "held", "--teacher", world.teacher, "--part", part).code == 0
    said = say("cache", "finish", tmp_path / "held")
    assert said.code == 0
    assert "column images: finished, sha256:" in said.out


def test_verify_makes_a_sample_of_every_column_again(say: Say, world: World) -> None:
    for data, columns in ((world.seen, 2), (world.held, 3)):
        said = say("cache", "verify", data)
        assert said.code == 0, said.err
        assert said.out.count("everything is as it was made") == columns
        assert said.out.count("recomputed") == columns
        assert said.out.count("cosine median 1.000000") == columns
    assert "recomputed" not in say("cache", "verify", world.seen, "--sample", "0").out


def test_verify_finds_a_damaged_chunk_and_repair_leads_back(say: Say, world: World, tmp_path: Path) -> None:
    data = tmp_path / "held"
    shutil.copytree(world.held, data)
    (chunk,) = (data / "images" / "values").glob("c.*")
    chunk.write_bytes(bytes(reversed(chunk.read_bytes())))
    said = say("cache", "verify", data, "images", "--repair", "--json", tmp_path / "found.json")
    assert "found problems" in said.sentence()
    assert json.loads((tmp_path / "found.json").read_text())["images"]["ok"] is False
    said = say("cache", "images", data, "--teacher", world.teacher)
    assert "1 chunks made" in said.out
    assert say("cache", "verify", data, "images").code == 0


def test_pull_copies_finished_columns(say: Say, world: World, tmp_path: Path) -> None:
    said = say("cache", "pull", world.held, tmp_path / "copy", "text")
    assert (said.code, "text: 1 chunk files copied" in said.out) == (0, True)
    assert "1 were there" in say("cache", "pull", world.held, tmp_path / "copy", "text").out


def test_a_run_can_be_resumed_without_saying_its_recipe_again(say: Say, world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert say(*world.train(out)).code == 0
    folders = ["--train", world.seen, "--val", world.held, "--out", out]
    said = say("train", *folders, "--resume", "--max-steps", "2", "--json", "-")
    assert said.code == 0, said.err
    assert json.loads(said.out)["step"] == 2


def test_plain_and_config_and_set_lie_over_the_recipe_in_this_order(
    say: Say, world: World, tmp_path: Path
) -> None:
    from cckt.detector.runs.run_folder import run_config

    config = write(tmp_path / "more.toml", "[train]\nlr = 0.001\nlog_every = 7\n")
    out = tmp_path / "run"
    said = say(*world.train(out, "--plain", "--config", str(config), "--set", "train.log_every=9"))
    assert said.code == 0, said.err
    found = run_config(out)
    assert (found.model.guidance, found.inference.classification) == (False, "head")
    assert (found.train.lr, found.train.log_every) == (0.001, 9)


def test_eval_scores_a_run_and_its_own_detections_alike(say: Say, world: World, tmp_path: Path) -> None:
    words = ["eval", world.run, "--data", world.held, "--out", tmp_path / "e", "--json", tmp_path / "a.json"]
    said = say(*words, "--concepts")
    assert said.code == 0, said.err
    assert "AP50 novel" in said.out
    assert "cat" in said.out
    detections = tmp_path / "e" / "detections.json"
    again = say("eval", "--detections", detections, "--data", world.held, "--json", tmp_path / "b.json")
    assert again.code == 0, again.err
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    for name in ("ap50_base", "ap50_novel", "ap50_all", "ap"):
        assert first[name] == pytest.approx(second[name])


def test_a_results_file_is_scored_without_a_photo(say: Say, world: World, tmp_path: Path) -> None:
    evaluated = say("eval", world.run, "--data", world.held, "--out", tmp_path / "own", "--json", "-")
    found = tmp_path / "own" / "detections.json"
    split = ["--split", world.folder / "split.json"]
    made = say("data", "index", "--annotations", world.folder / "coco.json", *split, "--out", tmp_path / "d")
    assert "boxes alone" in made.out
    found = found.rename(tmp_path / "results.json")
    again = say("eval", "--detections", found, "--data", tmp_path / "d", "--json", "-")
    for name in ("ap", "ap50_base", "ap50_novel"):
        assert json.loads(again.out)[name] == json.loads(evaluated.out)[name]
    images = say("cache", "images", tmp_path / "d", "--teacher", world.teacher)
    assert "none of the 6 photos of" in images.sentence()


def test_eval_with_every_source_of_priors_and_of_scores(say: Say, world: World, tmp_path: Path) -> None:
    for priors in ("clip", "oracle", "none"):
        for way in ("similarity", "head", "product"):
            words = ["--priors", priors, "--classification", way, "--out", tmp_path / f"{priors}-{way}"]
            assert say("eval", world.run, "--data", world.held, *words).code == 0
    assert len(list(tmp_path.glob("*/metrics.json"))) == 9


def test_predict_finds_typed_in_words_with_the_teacher_of_the_run(
    say: Say, world: World, tmp_path: Path
) -> None:
    broken = world.folder / "mixed"
    shutil.copytree(world.folder / "photos", broken, dirs_exist_ok=True)
    write(broken / "broken.jpg", "not a photo")
    out = tmp_path / "finds"
    words = ["--vocabulary", "cup, cat|kitten", "--out", out, "--min-score", "0", "--json", "-"]
    said = say("predict", world.run, broken, *words)
    assert said.code == 0, said.err
    assert json.loads(said.out)["photos"] == 7
    assert "broken.jpg" in said.err
    results = json.loads((out / "predictions.json").read_text())
    known = json.loads((out / "images.json").read_text())
    assert {one["image_id"] for one in results} <= {one["id"] for one in known["images"]}
    assert {one["category_id"] for one in results} == {1, 2}
    assert [one["name"] for one in known["categories"]] == ["cup", "cat"]
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == 6
    assert Image.open(pictures[0]).width >= 512


def test_predict_without_priors_or_pictures(say: Say, world: World, tmp_path: Path) -> None:
    photo = world.folder / "photos" / "0.png"
    words = ["--vocabulary", "cup", "--out", tmp_path, "--priors", "none", "--no-pictures"]
    assert say("predict", world.run, photo, *words).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.json", "predictions.json"]


def test_doctor_proves_the_leak_guard_and_that_all_fits(say: Say, world: World) -> None:
    said = say("doctor", "--recipe", "shapeworld", *options(), "--data", world.seen, "--val", world.held)
    assert said.code == 0, said.out
    assert "✗" not in said.out
    assert "each of 6 boxes was read and is of a base concept, none of the 2 others" in said.out
    assert "none of the 2 novel concepts" in said.out
    said = say("doctor", "--run", world.run, "--val", world.held, "--json", "-")
    assert said.code == 0, said.out
    assert {finding["level"] for finding in json.loads(said.out)["findings"]} <= {"good", "warn"}


def test_a_fault_of_ours_is_a_line_and_debug_shows_where(
    say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(paths: list[Path]) -> list[Path]:
        raise RuntimeError("a wheel came off\nand rolled away")

    monkeypatch.setattr(cli_detector, "photos_of", broken)
    words = ["predict", "run", "photo.jpg", "--vocabulary", "cup", "--out", str(tmp_path)]
    said = say(*words)
    assert said.code == 1
    assert "a fault of ours: RuntimeError: a wheel came off" in said.err
    assert "--debug" in said.err
    assert said.err.count("\n") == 1
    for place in (0, len(words)):
        with pytest.raises(RuntimeError, match="a wheel came off"):
            cli.run([*words[:place], "--debug", *words[place:]])


@pytest.mark.parametrize(
    ("stop", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (Interrupted("Stopped by Ctrl-C after 3 chunks.", 2), 130, "after 3 chunks"),
        (Interrupted("Stopped by SIGTERM after 3 chunks.", 15), 143, "SIGTERM"),
    ],
)
def test_a_signal_ends_with_a_sentence_and_its_code(
    say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: BaseException, code: int, sentence: str
) -> None:
    def stopped(paths: list[Path]) -> list[Path]:
        raise stop

    monkeypatch.setattr(cli_detector, "photos_of", stopped)
    said = say("predict", "run", "photo.jpg", "--vocabulary", "cup", "--out", tmp_path)
    assert said.code == code
    assert sentence in said.err
    assert "Traceback" not in said.err
