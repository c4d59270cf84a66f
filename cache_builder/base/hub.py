"""Manners for libraries that fetch from the Hugging Face hub: quiet, and quick to see that it is away."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from huggingface_hub import constants as hub


def first_line(fault: BaseException) -> str:
    """The first line of what an exception says, to stand inside a sentence."""
    line = (str(fault).strip() or type(fault).__name__).splitlines()[0]
    return line.split(". Last error:")[0].rstrip(".")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep open_clip's and the hub's logging off the terminal: faults are told in one sentence instead."""
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers  # logging.error() on a bare root logger installs one


@contextlib.contextmanager
def no_waiting_offline() -> Iterator[None]:
    """Without a network the hub's client tries each file for 23 seconds; ask the resolver once instead."""
    before = hub.HF_HUB_OFFLINE
    behind_proxy = any(
        os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    )
    if not before and not behind_proxy:
        try:
            socket.getaddrinfo(urlsplit(hub.ENDPOINT).hostname, 443)
        except OSError:
            hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before
