"""The journal of `cckt predict`: what is found so far, so that a stopped command continues.

A file of JSON lines in the output folder: the settings, then a line per prediction, then {"done": K} for each
photo or video K. It is removed when the results are written.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cckt.cache_builder.base.atomic_files import plain
from cckt.cache_builder.base.digests import digest_of, file_digest
from cckt.cache_builder.base.ownership import require_ours_or_absent, text_mark
from cckt.cache_builder.vocabulary import Vocabulary
from cckt.detector.config.config import Config
from cckt.detector.inference.prediction import Prediction
from cckt.detector.runs.run_folder import evaluation_weights

FILE = "predictions.partial"
_KEY = "cckt predict"


class Journal:
    """Predictions of finished inputs, in order. A journal of other settings is discarded.

    settings: plain values on which the predictions depend. Raises UserError if the file is not ours.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], vocabulary: Vocabulary) -> None:
        self.path = folder / FILE
        require_ours_or_absent(self.path, text_mark(f'{{"{_KEY}"'), "a journal of cckt predict")
        self._vocabulary = vocabulary
        header = json.dumps({_KEY: settings})
        kept = self._read(header)
        self.found = [self._prediction(one) for lines in kept for one in lines]
        self.inputs = len(kept)
        """Number of inputs that are finished."""
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
        self._file.write(json.dumps({"done": self.inputs}) + "\n")
        self._file.flush()
        self.inputs += 1

    def close(self) -> None:
        """Close the file, which stays for the next command."""
        self._file.close()

    def remove(self) -> None:
        """Remove the file, because the results are complete."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _read(self, header: str) -> list[list[dict[str, Any]]]:
        """Return the records of each finished input; [] without a journal of these settings."""
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError):
            return []
        if lines[0] != header:
            return []
        inputs: list[list[dict[str, Any]]] = []
        current: list[dict[str, Any]] = []
        for line in lines[1:]:
            try:
                record = json.loads(line)
            except ValueError:  # the last line of a killed command
                break
            if "done" in record:
                inputs.append(current)
                current = []
            else:
                current.append(record)
        return inputs

    @staticmethod
    def _lines(inputs: list[list[dict[str, Any]]]) -> list[str]:
        lines = []
        for number, records in enumerate(inputs):
            lines += [json.dumps(record, separators=(",", ":")) for record in records]
            lines.append(json.dumps({"done": number}))
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


def settings_of(
    run: Path,
    config: Config,
    words: Vocabulary,
    paths: Sequence[Path],
    every: float,
    options: dict[str, Any],
    text: npt.NDArray[np.float32] | None,
    products: object,
) -> dict[str, Any]:
    """Return the settings of a journal: digests of the weights, words and paths, and all options."""
    return {
        "weights": file_digest(evaluation_weights(run)),
        "config": plain(
            {"prior": dataclasses.asdict(config.prior), "inference": dataclasses.asdict(config.inference)}
        ),
        "words": words.digest,
        "paths": digest_of("\n".join(map(str, paths)).encode()),
        "every": every,
        "options": options,
        "text": None if text is None else digest_of(text.tobytes()),
        "products": str(products),
    }
