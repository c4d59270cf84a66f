"""Put a report together: look into every run, then one HTML file with its style, its script and its data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import plain, write_bytes
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.detector.evaluation.bootstrap import compare
from cckt.detector.report.gallery import tiles
from cckt.detector.report.gather import Answers, Choices, answers_of
from cckt.detector.runs.run_folder import read_json


def write_report(
    runs: Sequence[Path],
    out: Path | None = None,
    *,
    data: Path | None = None,
    protocol: str = "auto",
    priors: str | None = None,
    classification: str | None = None,
    sweep: bool = True,
    photos: int = 30,
    resamples: int = 300,
    device: str = "auto",
    progress: Progress | None = None,
) -> Path:
    """Write one self-contained HTML file about one run, or several side by side; returns its path.

    out: the file; None: report.html in the first run's folder. data: the data set to look at them on; None:
    the one of the first run's newest evaluation. protocol, priors, classification: as for `evaluate_run`.
    sweep: also ask for all combinations of some rho and L (one pass of the encoder, a dozen of the decoder).
    photos: most in the gallery. resamples: of the intervals, and of the comparison with the first run.

    Evaluations that are there and newer than the weights are taken up; what is missing is computed and kept
    in the run's folder. Raises UserError where a run, data set or column is missing or does not fit.
    """
    progress = progress or Silent()
    if not runs:
        raise UserError("no run is named; give at least one run's folder.")
    if out is not None and out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file, such as {out / 'report.html'}.")
    if photos < 0:
        raise UserError(f"--photos {photos}: expected 0 or more.")
    known = [run.resolve() for run in runs]
    if len(set(known)) != len(known):
        raise UserError("a run is named twice; name each once.")
    place = data or _last_data(runs[0])
    choices = Choices(protocol, priors, classification, device, resamples, sweep)
    answers = [answers_of(run, place, choices, progress) for run in runs]
    first = answers[0]
    pages = [one.page for one in answers]
    _tell_names_apart(pages)
    page = {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "data": _data_card(place, first),
        "runs": pages,
        "comparisons": _comparisons(answers, resamples),
        "gallery": tiles(
            first.scene.index,
            first.measured.truth,
            [(one.measured.found, one.threshold) for one in answers],
            most=photos,
        ),
    }
    path = out or runs[0] / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, render(page).encode())
    return path


def render(page: dict[str, Any]) -> str:
    """The file's text: a page that asks the network for nothing, and is told not to."""
    room = files("cckt.detector.report")
    title = "cckt report: " + ", ".join(run["name"] for run in page["runs"])
    # Only "<" could end the script element early; JSON may write it as an escape.
    values = json.dumps(plain(page), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "{{title}}": title.replace("&", "&amp;").replace("<", "&lt;"),
        "{{style}}": room.joinpath("page.css").read_text(encoding="utf-8"),
        "{{data}}": values,
        "{{script}}": room.joinpath("charts.js").read_text(encoding="utf-8")
        + room.joinpath("page.js").read_text(encoding="utf-8"),
    }
    text = room.joinpath("page.html").read_text(encoding="utf-8")
    before: list[str] = []
    for mark, value in parts.items():
        head, _, text = text.partition(mark)
        before += [head, value]
    return "".join([*before, text])


def _last_data(run: Path) -> Path:
    cards = sorted(run.glob("eval-*/metrics.json"), key=lambda card: card.stat().st_mtime)
    if not cards:
        raise UserError(
            f"{run} was not scored on a data set yet; give --data FOLDER, or score it first with cckt eval."
        )
    place = Path(read_json(cards[-1], "figures written by cckt eval")["figures"]["data"])
    if not place.is_dir():
        raise UserError(
            f"{place}, which {run} was last scored on, is not there any more; give --data FOLDER."
        )
    return place


def _data_card(place: Path, first: Answers) -> dict[str, Any]:
    truth, index = first.measured.truth, first.scene.index
    return {
        "name": place.resolve().name,
        "folder": str(place),
        "digest": index.digest,
        "protocol": first.scene.protocol.name,
        "meaning": first.scene.protocol.meaning,
        "photos": len(index),
        "boxes": int((~truth.crowd).sum()),
        "base": int(truth.in_split("base").sum()),
        "novel": int(truth.in_split("novel").sum()),
    }


def _comparisons(answers: list[Answers], resamples: int) -> list[dict[str, Any]]:
    """Every further run against the first: paired bootstrap of AP50."""
    first = answers[0].measured
    rows = []
    for number, other in enumerate(answers[1:], 1):
        drawn = compare(first.truth, first.finer, other.measured.finer, resamples=resamples)
        rows.append({"run": number, "figures": {name: one.as_dict() for name, one in drawn.items()}})
    return rows


def _tell_names_apart(runs: list[dict[str, Any]]) -> None:
    names = [run["name"] for run in runs]
    for number, run in enumerate(runs):
        if names.count(run["name"]) > 1:
            run["name"] = f"{run['name']} ({number + 1})"
