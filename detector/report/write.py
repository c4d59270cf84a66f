"""Assemble a report: collect the data of every run and write one HTML file with style, script and data."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from cckt.cache_builder.base.atomic_files import is_stream, plain, write_bytes
from cckt.cache_builder.base.disk_faults import explained_faults, require_room
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.ownership import require_ours_or_absent, text_mark
from cckt.cache_builder.base.progress import Progress, Silent
from cckt.detector.evaluation.bootstrap import compare
from cckt.detector.report.gallery import gallery_images
from cckt.detector.report.gather import ReportOptions, RunAnalysis, collect
from cckt.detector.runs.json_fields import as_written
from cckt.detector.runs.run_folder import read_json

IS_REPORT = text_mark('<meta name="generator" content="cckt report">', "<title>cckt report: ")
"""Mark of a report; those of earlier versions have only the title."""
SCRIPTS = ("charts.js", "gallery.js", "matrix.js", "page.js")


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
    """Write one self-contained HTML file that explains one run or compares several; return its path.

    out: the file; default report.html in the first run's folder. data: data set of the evaluation; default
    that of the first run's newest evaluation. protocol, priors, classification: as in `evaluate_run`. sweep:
    include AP50 over a grid of rho and L, which takes one pass of the encoder and a dozen of the decoder.
    photos: most images in the gallery. resamples: bootstrap resamples of the intervals and of the comparison
    with the first run.

    Existing evaluations of the same weights, columns and options are used. Missing ones are computed, and
    kept in the run's folder unless `out` is given: then nothing but `out` is written. Only a report is
    replaced. Raises UserError if a run, data set or column is missing or does not fit the others, if another
    file is in the way, and if the file cannot be written.
    """
    progress = progress or Silent()
    if not runs:
        raise UserError("found no run, expected at least one run folder; name one.")
    if out is not None and out.is_dir():
        raise UserError(
            f"--out {out}: found a folder, expected a file; give one such as {out / 'report.html'}."
        )
    path = out or runs[0] / "report.html"
    require_ours_or_absent(path, IS_REPORT, "a report written by cckt report")
    if photos < 0:
        raise UserError(f"--photos {photos}: expected 0 or more.")
    resolved = [run.resolve() for run in runs]
    repeated = [run for run, path in zip(runs, resolved, strict=True) if resolved.count(path) > 1]
    if repeated:
        raise UserError(f"{repeated[0]}: found this run twice, expected each run once; remove one of them.")
    if not path.exists() or not is_stream(path):
        require_room(path.parent)
    data = data or _last_data(runs[0])
    options = ReportOptions(protocol, priors, classification, device, resamples, sweep)
    reports = _collect_all(runs, data, options, progress, keep=out is None)
    first = reports[0]
    pages = [report.page for report in reports]
    _number_equal_names(pages)
    page = {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "data": _data_card(data, first),
        "runs": pages,
        "comparisons": _comparisons(reports, resamples),
        "gallery": gallery_images(
            first.scene.index,
            first.measured.truth,
            [(report.measured.found, report.threshold) for report in reports],
            most=photos,
        ),
    }
    with explained_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, render(page).encode(errors="backslashreplace"))
    return path


def render(page: dict[str, Any]) -> str:
    """Return the text of the HTML file; its content security policy blocks all requests to the network."""
    folder = files("cckt.detector.report")
    title = "cckt report: " + ", ".join(run["name"] for run in page["runs"])
    # "<" could end the script element early, so it is escaped; JSON allows that.
    values = json.dumps(plain(page), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "{{title}}": title.replace("&", "&amp;").replace("<", "&lt;"),
        "{{style}}": folder.joinpath("page.css").read_text(encoding="utf-8"),
        "{{data}}": values,
        "{{script}}": "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    text = folder.joinpath("page.html").read_text(encoding="utf-8")
    pieces: list[str] = []
    for placeholder, value in parts.items():
        before, _, text = text.partition(placeholder)
        pieces += [before, value]
    return "".join([*pieces, text])


def _collect_all(
    runs: Sequence[Path], data: Path, options: ReportOptions, progress: Progress, *, keep: bool
) -> list[RunAnalysis]:
    """Return the analyses of all runs. keep: keep missing evaluations in the run folders."""
    if keep:
        return [collect(run, data, options, progress) for run in runs]
    analyses = []
    for run in runs:
        with tempfile.TemporaryDirectory(prefix="cckt-report-") as scratch:
            analyses.append(collect(run, data, options, progress, Path(scratch)))
    return analyses


def _last_data(run: Path) -> Path:
    """Return the data set of the newest evaluation of a run. Raises UserError if there is none."""
    cards = sorted(run.glob("eval-*/metrics.json"), key=lambda card: card.stat().st_mtime)
    if not cards:
        raise UserError(f"{run}: found no evaluation; give --data FOLDER, or run cckt eval first.")
    known = read_json(cards[-1], "figures written by cckt eval")
    with as_written(cards[-1], "restore the file, or give --data FOLDER"):
        data = Path(known["figures"]["data"])
    if not data.is_dir():
        raise UserError(
            f"{data}: no such folder, but {run} was last evaluated on it; give the data set by --data FOLDER."
        )
    return data


def _data_card(data: Path, first: RunAnalysis) -> dict[str, Any]:
    """Return the facts about the data set that the page shows."""
    truth, index = first.measured.truth, first.scene.index
    return {
        "name": data.resolve().name,
        "folder": str(data),
        "digest": index.digest,
        "protocol": first.scene.protocol.name,
        "meaning": first.scene.protocol.meaning,
        "photos": len(index),
        "boxes": int((~truth.crowd).sum()),
        "base": int(truth.in_split("base").sum()),
        "novel": int(truth.in_split("novel").sum()),
    }


def _comparisons(reports: list[RunAnalysis], resamples: int) -> list[dict[str, Any]]:
    """Compare every further run with the first one by a paired bootstrap of AP50."""
    first = reports[0].measured
    rows = []
    for number, other in enumerate(reports[1:], 1):
        drawn = compare(
            first.truth, first.headline_matches, other.measured.headline_matches, resamples=resamples
        )
        rows.append({"run": number, "figures": {name: one.as_dict() for name, one in drawn.items()}})
    return rows


def _number_equal_names(runs: list[dict[str, Any]]) -> None:
    """Add a number to names that occur more than once."""
    names = [run["name"] for run in runs]
    for number, run in enumerate(runs):
        if names.count(run["name"]) > 1:
            run["name"] = f"{run['name']} ({number + 1})"
