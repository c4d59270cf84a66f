"""The death of a rank, known to the others at once.

A collective waits for a rank that is gone: NCCL's until its time limit. So every rank holds a line (a TCP
connection) to rank 0. The kernel closes a line the moment its process dies, however it dies, and a machine
that vanishes fails to answer keep-alive probes within 15 s. Nothing is concluded from silence: a rank that
is slow, or stopped for a while, keeps its line.

Rank 0 passes on who was lost. A survivor whose collective fails says so as a `UserError`; one that is stuck
in a collective for `GRACE_S` more seconds is ended from here, with the same sentence.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import selectors
import socket
import threading
import weakref
from collections.abc import Callable
from types import TracebackType

from cckt.cache_builder.base.errors import UserError

GRACE_S = 10.0
"""From the news of a death to the end of a process that has not left by itself."""
CONNECT_S = 60.0
"""How long a rank tries to reach rank 0, and rank 0 waits for all."""
EXIT = 2
"""As for any mistake or mishap that the user can mend."""

Address = tuple[str, int, str]
"""Rank 0's host and port, and the word that those who belong to the run say first."""


class Lifeline:
    """The lines of one rank: to every other one from rank 0, to rank 0 from the others.

    share: gives rank 0's value to every rank (`World.share`). host: where rank 0 listens. Use it as a
    context; leaving it without an exception tells the others that this rank is done, not dead.
    Raises UserError where the ranks cannot reach each other.
    """

    def __init__(self, rank: int, size: int, host: str, share: Callable[[Address], Address]) -> None:
        self.rank, self.size = rank, size
        self.lost = ""
        """Who died, as a sentence; "" while nobody has."""
        self._known, self._left = threading.Event(), threading.Event()
        self._lines: dict[int, socket.socket] = {}
        self._hosts: dict[int, str] = {0: host}
        if rank == 0:
            with _listen(host) as listener:
                word = secrets.token_hex(8)
                share((host, listener.getsockname()[1], word))
                self._accept(listener, word)
        else:
            self._connect(share((host, 0, "")))
        _keep_from_children(self)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._watch, name="lifeline", daemon=True)
        self._thread.start()

    def explain(self, error: BaseException, wait_s: float = 3.0) -> None:
        """Raise UserError if a rank's death, known by now or within `wait_s`, lies behind an error."""
        if self._known.wait(wait_s):
            raise UserError(self.lost) from error

    def __enter__(self) -> Lifeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._wake.send(b".")
        self._thread.join()
        for line in self._lines.values():
            if kind is None:
                _say(line, "done")
            line.close()
        self._wake.close()
        self._woken.close()

    def _accept(self, listener: socket.socket, word: str) -> None:
        while len(self._lines) < self.size - 1:
            try:
                line, _ = listener.accept()
                line.settimeout(CONNECT_S)
                said = line.makefile("r", encoding="utf-8").readline().split()
            except OSError:
                missing = sorted(set(range(1, self.size)) - self._lines.keys())
                raise UserError(
                    f"rank 0 heard nothing from ranks {missing} for {CONNECT_S:.0f} s, expected {self.size} "
                    "ranks; see what they said last, and whether the network lets the machines connect."
                ) from None
            if len(said) != 3 or said[0] != word:
                line.close()  # a stranger
                continue
            self._lines[int(said[1])], self._hosts[int(said[1])] = line, said[2]

    def _connect(self, address: Address) -> None:
        host, port, word = address
        try:
            line = socket.create_connection((host, port), CONNECT_S)
        except OSError as error:
            raise UserError(
                f"rank {self.rank} could not reach rank 0 at {host}:{port} ({error.strerror or error}); let "
                "the machines of a run connect to each other at any port."
            ) from None
        _say(line, f"{word} {self.rank} {socket.gethostname()}")
        self._lines[0] = line

    def _watch(self) -> None:
        """Until a rank is lost or this one leaves; rank 0 tells the others."""
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._woken, selectors.EVENT_READ)
            for rank, line in self._lines.items():
                line.settimeout(0)
                _probe(line)
                waiting.register(line, selectors.EVENT_READ, rank)
            while not self.lost:
                for key, _ in waiting.select():
                    if key.data is None:
                        return
                    words = _hear(self._lines[key.data])
                    if words[0] == "done":
                        waiting.unregister(self._lines[key.data])
                    elif not self.lost:
                        who = words[1:] if words[0] == "lost" else [str(key.data), self._hosts[key.data]]
                        self._mourn(*who)
        if not self._left.wait(GRACE_S):
            logging.getLogger("cckt").critical("cckt: %s", self.lost)
            os._exit(EXIT)

    def _mourn(self, rank: str, host: str) -> None:
        self.lost = (
            f"rank {rank} of {self.size} (on {host}) ended before the run did, so every rank ends; see what "
            "it said last, then start all ranks again (training goes on from its newest checkpoint with "
            "--resume)."
        )
        if self.rank == 0:
            for line in self._lines.values():
                _say(line, f"lost {rank} {host}")
        self._known.set()


def _listen(host: str) -> socket.socket:
    near = host in ("localhost", "127.0.0.1", "::1")
    both = socket.has_dualstack_ipv6() and not near
    family = socket.AF_INET6 if both or host == "::1" else socket.AF_INET
    listener = socket.create_server(
        (host if near else "", 0), family=family, backlog=1024, dualstack_ipv6=both
    )
    listener.settimeout(CONNECT_S)
    return listener


def _say(line: socket.socket, words: str) -> None:
    with contextlib.suppress(OSError):  # whoever is gone is heard of on its own line
        line.sendall(f"{words}\n".encode())


def _hear(line: socket.socket) -> list[str]:
    """The first line of what was said; nothing but "" from a line that is closed."""
    try:
        return line.recv(4096).decode().split("\n")[0].split(" ")
    except OSError:
        return [""]


def _probe(line: socket.socket) -> None:
    """Ask a silent line every few seconds whether its machine is still there."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 6), ("TCP_KEEPALIVE", 6), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _keep_from_children(lifeline: Lifeline) -> None:
    """Close the lines in forked processes (workers that read photos), which may outlive a killed rank."""
    own = weakref.ref(lifeline)

    def close() -> None:
        found = own()
        for line in found._lines.values() if found is not None else ():
            line.close()

    os.register_at_fork(after_in_child=close)
