"""The journal of `cckt predict`: what is found so far, so that a stopped command continues.

A file of JSON lines in the output folder: the settings, then a line per prediction, then a line {"done": K,
"file": [BYTES, NANOSECONDS]} for each photo or video K, with its size and time. The finds of a file that was
replaced or repaired since are forgotten, with all that follow. The journal is removed when the results are
written; a card keeps the settings of these. Results of two settings are never mixed in a folder, and never
replaced unasked (`require_same_settings`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.base.atomic_files import plain, write_json
from cckt.cache_builder.base.digests import digest_of, file_digest
from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.ownership import json_mark, json_object, require_ours_or_absent, text_mark
from cckt.cache_builder.base.untrusted.regular_files import read_regular_text
from cckt.cache_builder.base.untrusted.text import parse_json
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.config.config import Config
from cckt.detector.inference.photo_sources import CARD
from cckt.detector.inference.prediction import Prediction
from cckt.detector.runs.checkpoints import evaluation_weights

FILE = "predictions.partial"
_KEY = "cckt predict"
_OPTIONS = {"weights": "run", "config": "--set", "words": "--vocabulary", "paths": "photos"}
"""Settings whose name is not that of an option."""


class Journal:
    """Predictions of finished inputs, in order.

    settings: plain values on which the predictions depend. paths: the inputs; none if they need not be looked
    at again. batch: images per forward pass; photos of a batch that was not finished are predicted again, so
    that batches, and with them the last bits of scores, are those of an undisturbed command. Raises UserError
    if the file is not ours, or of other settings.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        vocabulary: Vocabulary,
        batch: int = 1,
        paths: Sequence[Path] = (),
    ) -> None:
        self.path = folder / FILE
        self._paths = paths
        require_same_settings(folder, settings)
        self._vocabulary = vocabulary
        header = json.dumps({_KEY: settings})
        kept = self._read()
        images = sum(not one["fault"] for lines in kept for one in lines)
        while images % batch and len(kept[-1]) <= 1:  # never a whole video
            images -= sum(not one["fault"] for one in kept.pop())
        self.found = [self._prediction(one) for lines in kept for one in lines]
        self.inputs = len(kept)
        """Number of inputs that are finished."""
        self._existed = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w", encoding="utf-8")
        for line in (header, *self._lines(kept)):
            self._file.write(line + "\n")
        self._file.flush()

    def add(self, prediction: Prediction) -> None:
        """Append a prediction of the current input."""
        record = {
            "source": prediction.source,
            "size": [int(side) for side in prediction.size],
            "fault": prediction.fault,
            "boxes": prediction.boxes_xyxy.tolist(),
            "scores": prediction.scores.tolist(),
            "concepts": prediction.concepts.tolist(),
        }
        self._file.write(json.dumps(record, separators=(",", ":")) + "\n")

    def done(self) -> None:
        """Mark the current input as finished; a command that is killed later continues behind it."""
        self._file.write(self._end(self.inputs) + "\n")
        self._file.flush()
        self.inputs += 1

    def forget(self) -> None:
        """Forget the finished inputs, because none could be read: the next command reads them again."""
        self.inputs = 0

    def close(self) -> None:
        """Close the file, which stays for the next command unless no input is finished."""
        self._file.close()
        if not self.inputs:
            self.path.unlink(missing_ok=True)
            if not self._existed:
                with contextlib.suppress(OSError):  # pictures are in it already
                    self.path.parent.rmdir()

    def remove(self) -> None:
        """Remove the file, because the results are complete."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _read(self) -> list[list[dict[str, Any]]]:
        """Return the records of each finished input, up to the first line that cannot be read."""
        try:
            lines = read_regular_text(self.path).split("\n")
        except (OSError, UnicodeDecodeError):
            return []
        inputs: list[list[dict[str, Any]]] = []
        current: list[dict[str, Any]] = []
        for line in lines[1:]:
            try:
                record = parse_json(line)
                if "done" in record:
                    if "file" in record and record["file"] != self._stamp(len(inputs)):
                        break
                    inputs.append(current)
                    current = []
                    continue
                self._prediction(record)
            except (ValueError, KeyError, TypeError, OverflowError):  # the last line of a killed command
                break
            current.append(record)
        return inputs

    def _stamp(self, number: int) -> list[int] | None:
        """Return size and time of an input; None for a file that is missing or that nobody named."""
        if number >= len(self._paths):
            return None
        try:
            found = self._paths[number].stat()
        except OSError:
            return None
        return [found.st_size, found.st_mtime_ns]

    def _end(self, number: int) -> str:
        return json.dumps({"done": number, "file": self._stamp(number)}, separators=(",", ":"))

    def _lines(self, inputs: list[list[dict[str, Any]]]) -> list[str]:
        lines = []
        for number, records in enumerate(inputs):
            lines += [json.dumps(record, separators=(",", ":")) for record in records]
            lines.append(self._end(number))
        return lines

    def _prediction(self, record: dict[str, Any]) -> Prediction:
        width, height = record["size"]
        return Prediction(
            np.array(record["boxes"], np.float32).reshape(-1, 4),
            np.array(record["scores"], np.float32),
            np.array(record["concepts"], np.int64),
            self._vocabulary,
            (width, height),
            record["source"],
            None,
            record["fault"],
        )


def require_same_settings(folder: Path, settings: dict[str, Any], format: str = "") -> None:
    """Raise UserError, which names what differs, if a folder holds results of other settings: unfinished
    ones, finished ones of the same format, or pictures, crops or videos where this command makes some too.

    Finished results may be made again for other photos. Also raises UserError if the files that say so are
    not ours. Results of earlier versions have no card and count as having these settings.
    """
    journal, card = folder / FILE, folder / CARD
    require_ours_or_absent(journal, text_mark(f'{{"{_KEY}"'), "a journal of cckt predict")
    require_ours_or_absent(card, json_mark(_KEY), "the settings of results of cckt predict")
    for path in (journal, card):
        if path.exists() and not path.is_file():
            raise UserError(
                f"--out: found {path}, which is no regular file; remove it or give another --out."
            )
    if _holds_results(journal):
        _refuse_others(_first_line(journal).get(_KEY), settings, journal, "unfinished results")
    for made, known in finished(folder).items():
        if made == format or _products(known) & _products(settings):
            _refuse_others(known, {**settings, "paths": None}, card, "results")


def write_settings(folder: Path, settings: dict[str, Any], format: str) -> None:
    """Write the card of finished results: the settings of each format."""
    write_json(folder / CARD, {_KEY: {**finished(folder), format: settings}})


def finished(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of the finished results in a folder, by format."""
    found = json_object(folder / CARD).get(_KEY)
    return (
        {key: one for key, one in found.items() if isinstance(one, dict)} if isinstance(found, dict) else {}
    )


def _products(settings: dict[str, Any]) -> set[str]:
    """Return what a command with these settings makes whatever the format is."""
    made = {name for name in ("crops", "video") if settings.get(name)}
    return made if settings.get("no_pictures") else {*made, "pictures"}


def _holds_results(journal: Path) -> bool:
    """Return whether an input is finished; the journal of a command that was killed before holds nothing."""
    try:
        with journal.open("rb") as file:
            return any(line.startswith(b'{"done"') for line in file)
    except OSError:
        return False


def _first_line(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = parse_json(file.readline(1 << 20))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _refuse_others(known: Any, settings: dict[str, Any], path: Path, what: str) -> None:
    if not isinstance(known, dict):
        return
    # As in JSON, where a tuple is a list; a value None is not compared.
    wanted = parse_json(json.dumps(settings))
    flat = [{**one, **dict(one.get("options") or {})} for one in (known, wanted)]
    differing = [
        _OPTIONS.get(name, f"--{name.replace('_', '-')}")
        for name in flat[1]
        if name != "options" and not (name == "paths" and flat[1][name] is None)
        if flat[0].get(name) != flat[1][name]
    ]
    if differing:
        raise UserError(
            f"--out {path.parent}: holds {what} of cckt predict that differ in {', '.join(differing)}, as "
            f"{path} says; give another --out, or remove these results."
        )


def settings_of(
    run: Path,
    config: Config,
    words: Vocabulary,
    paths: Sequence[Path],
    every: float,
    options: dict[str, Any],
    text: npt.NDArray[np.float32] | None,
    products: Mapping[str, bool],
) -> dict[str, Any]:
    """Return the settings of results: digests of the weights, words and paths, and all options.

    Left out is the number of photos in a batch, which one lowers after running out of memory.
    """
    return {
        "weights": file_digest(evaluation_weights(run)),
        "config": plain(
            {"prior": dataclasses.asdict(config.prior), "inference": dataclasses.asdict(config.inference)}
        ),
        "words": words.digest,
        "paths": digest_of(b"\n".join(map(os.fsencode, paths))),
        "every": every,
        "options": {name: value for name, value in plain(options).items() if name != "batch"},
        "text": None if text is None else digest_of(text.tobytes()),
        **products,
    }
