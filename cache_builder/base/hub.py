"""Loading through libraries of the Hugging Face hub: without output, without prompts, without long waits."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

from huggingface_hub import constants as hub


def first_line(fault: BaseException) -> str:
    """Return the first line of an exception's message, to be quoted inside a sentence."""
    line = (str(fault).strip() or type(fault).__name__).splitlines()[0]
    return line.split(". Last error:")[0].rstrip(".")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep log messages of open_clip and of the hub off the terminal; callers report faults themselves."""
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers  # logging.error() on a bare root logger installs one


@contextlib.contextmanager
def no_prompts() -> Iterator[None]:
    """Answer every prompt of a library with end of file.

    transformers asks on the terminal whether to execute a repository's code; here the answer is always no.
    """
    before = sys.stdin
    sys.stdin = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where the question would be printed
            yield
    finally:
        sys.stdin = before


def hub_is_offline() -> bool:
    """Return whether the hub cannot be reached: offline mode is on, or its host name cannot be resolved.

    Behind a proxy the proxy resolves names, so the hub counts as reachable.
    """
    if hub.HF_HUB_OFFLINE:
        return True
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    try:
        socket.getaddrinfo(urlsplit(hub.ENDPOINT).hostname, 443)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def no_waiting_offline() -> Iterator[None]:
    """Switch the hub's client to offline mode if the hub cannot be reached.

    Without a network the client retries each file for 23 seconds; one look-up of the host name is enough.
    """
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = hub_is_offline()
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before
