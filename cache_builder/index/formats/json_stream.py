"""Read the lists of a large JSON file record by record, without holding the whole file in memory."""

from __future__ import annotations

import codecs
import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.base.progress import Progress
from cckt.cache_builder.base.untrusted.regular_files import require_regular

BLOCK_BYTES = 1 << 22
TAIL_CHARS = 64
"""An error of the decoder this close to the end of the text may only mean that the next block is needed."""
_WHITESPACE = " \t\n\r"


def require_file(path: Path) -> None:
    """Raise UserError unless `path` is a regular file that can be read."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            require_regular(path).open("rb").close()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give the path of a COCO-format JSON file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    if stat.S_ISDIR(mode):
        raise UserError(f"{path} is a folder: give the COCO-format JSON file itself")
    if not stat.S_ISREG(mode):  # opening a pipe would block; it could not be read twice either
        raise UserError(f"{path} is a pipe or device: save the annotations to a file and give that file")


class JsonLists:
    """A stream of the records in the top-level lists of one JSON object.

    `records()` yields `(key, record)` for every element of every top-level list named in `keys`. The rest of
    the file is parsed and dropped. Memory holds one block of text and one record. After the last record,
    `digest` is "sha256:..." of the file's bytes and `found` lists the top-level keys.
    """

    def __init__(self, path: Path, keys: tuple[str, ...], progress: Progress) -> None:
        self.path = path
        self.keys = keys
        self.found: list[str] = []
        self.digest = ""
        self._progress = progress
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._line, self._column = 1, 1  # of self._text[0]
        self._ended = False

    def records(self) -> Iterator[tuple[str, Any]]:
        """Yield (key, record). Raises UserError for a missing file, and for broken JSON with its position."""
        require_file(self.path)
        self._file: IO[bytes] = self.path.open("rb")
        self._hash = hashlib.sha256()
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        with self._file:
            self._progress.start(f"read {self.path.name}", self.path.stat().st_size, "B")
            yield from self._object()
            if self._peek():
                raise self._broken("more text after the closing '}'")
            self._progress.finish()
        self.digest = "sha256:" + self._hash.hexdigest()

    def _object(self) -> Iterator[tuple[str, Any]]:
        first = self._peek()
        if first == "[":
            raise UserError(
                f"{self.path} holds a list, not COCO annotations (perhaps a results file?): "
                "expected an object with the keys 'images', 'annotations' and 'categories'"
            )
        self._expect("{", "an object with the keys 'images', 'annotations' and 'categories'")
        if self._peek() == "}":
            self._at += 1
            return
        while True:
            if self._peek() != '"':
                raise self._broken("expected a key in double quotes")
            key = self._value()
            if key in self.found:
                raise UserError(f"{self.path} has the key {key!r} twice: merge them into one list")
            self.found.append(key)
            self._expect(":", f"':' after the key {key!r}")
            if self._peek() == "[":
                for record in self._list():
                    if key in self.keys:
                        yield key, record
            else:
                self._value()
                if key in self.keys:
                    raise UserError(
                        f"{self.path} is not COCO: {key!r} is not a list; expected a list of records"
                    )
            if not self._comma("}"):
                return

    def _list(self) -> Iterator[Any]:
        self._expect("[", "a list")
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            yield self._value()
            if not self._comma("]"):
                return

    def _value(self) -> Any:
        """Decode the value at the cursor. Read another block while the end of the text cuts it off."""
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - TAIL_CHARS
                if cut and self._more():
                    continue
                raise self._broken(error.msg, error.pos) from None
            except RecursionError:
                raise self._broken("nested too deeply") from None
            except ValueError:  # Python converts no more than 4,300 digits
                raise self._broken("found a number of thousands of digits") from None
            open_ended = self._text[end - 1] not in '}]"' and end >= len(self._text) - TAIL_CHARS
            if open_ended and self._more():
                continue  # a number that is cut off at "1." or "1e" decodes as 1
            self._at = end
            return value

    def _peek(self) -> str:
        """Return the next character that is not white space, "" at the end of the file."""
        while True:
            while self._at < len(self._text):
                character = self._text[self._at]
                if character not in _WHITESPACE:
                    return character
                self._at += 1
            if not self._more():
                return ""

    def _expect(self, character: str, what: str) -> None:
        if self._peek() != character:
            raise self._broken(f"expected {what}")
        self._at += 1

    def _comma(self, closing: str) -> bool:
        found = self._peek()
        if found not in (",", closing) or not found:
            raise self._broken(f"expected ',' or '{closing}'")
        self._at += 1
        return found == ","

    def _more(self) -> bool:
        """Drop the consumed text and append a block. Return False at the end of the file.

        The block is at least as long as the pending text, so that a value of n characters costs O(n).
        """
        if self._ended:
            return False
        data = self._file.read(max(BLOCK_BYTES, len(self._text) - self._at))
        self._hash.update(data)
        self._ended = not data
        try:
            new = self._utf8.decode(data, final=not data)
        except UnicodeDecodeError as error:
            byte = self._file.tell() - len(error.object) + error.start
            raise UserError(
                f"{self.path} is not UTF-8 text (byte {byte}): expected a COCO-format JSON file"
            ) from None
        self._line, self._column = self._position(self._at)
        self._text = self._text[self._at :] + new
        self._at = 0
        self._progress.advance(len(data))
        return True

    def _position(self, at: int) -> tuple[int, int]:
        newlines = self._text.count("\n", 0, at)
        if not newlines:
            return self._line, self._column + at
        return self._line + newlines, at - self._text.rfind("\n", 0, at)

    def _broken(self, message: str, at: int | None = None) -> UserError:
        line, column = self._position(self._at if at is None else at)
        message = message[:1].lower() + message[1:]
        ended = self._ended and (self._at if at is None else at) >= len(self._text)
        where = "where the file ends" if ended else f"at line {line}, column {column}"
        if ended:
            where += f" (line {line}, column {column})"
        return UserError(
            f"{self.path} is not valid JSON {where}: {message}; repair the file or download it again"
        )


class JsonRecords(JsonLists):
    """A stream of the records of COCO results: a file that is one list, with the key "", or a data set whose
    annotations have scores, as `cckt predict` writes it, with the keys "images" and "annotations".

    `JsonLists` describes memory, errors and `digest`.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__(path, ("images", "annotations"), progress)

    def _object(self) -> Iterator[tuple[str, Any]]:
        if self._peek() == "[":
            for record in self._list():
                yield "", record
            return
        if self._peek() == "{":
            yield from super()._object()
        if "annotations" not in self.found:
            raise UserError(
                f"{self.path} holds no list of detections: expected COCO results, a list of records with "
                "image_id, bbox and score, or a data set whose annotations have scores"
            )
