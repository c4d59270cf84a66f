"""The fixed words of the messages in docs/troubleshooting.md are those of the program."""

from __future__ import annotations

import ast
import re

from tests.architecture.source import ROOMS
from tests.docs.pages import docs_page
from tests.places import ROOT


def message_templates() -> list[str]:
    """Sentences of the errors that the program raises, with NUL for inserted values."""

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        return "".join(map(text, node.values)) if isinstance(node, ast.JoinedStr) else "\0"

    found = []
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Error", "Interrupted")):
                    found += [text(argument) for argument in node.args[:1]]
    return found


def matching(message: str, known: list[str]) -> list[str]:
    """Templates that contain the fixed words of a message, separated by …, in their order."""
    words = filter(None, (part.strip() for part in message.split("…")))
    pattern = re.compile(".*".join(map(re.escape, words)), re.DOTALL | re.IGNORECASE)
    return [one for one in known if pattern.search(one)]


def test_the_program_has_the_messages_that_are_explained() -> None:
    page = docs_page("troubleshooting").read_text(encoding="utf-8")
    explained = re.findall(r"^`(.+)`$", page, re.MULTILINE)
    assert len(explained) > 30
    known = message_templates()
    for message in explained:
        assert matching(message, known), f"no message has these words: {message}"
        assert len(matching(message, known)) <= 3, f"several messages have these words: {message}"
    assert not matching("… no message … has these words …", known)
