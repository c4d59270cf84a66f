"""Detect the death of a rank and end the others.

A collective waits for a dead rank until its time limit, which is 30 minutes. Therefore every rank keeps a TCP
connection to rank 0. The kernel closes a connection when its process ends, for any reason. A machine that
disappears fails TCP keep-alive probes within 15 s. A slow or suspended rank keeps its connection, so it is
never reported as dead.

Rank 0 forwards the loss of a rank to all others. A rank whose collective fails raises `UserError`. A rank
that still hangs in a collective after `GRACE_S` seconds is ended from here, with the same message.
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
"""Seconds between the report of a death and the forced end of a process that has not left by itself."""
CONNECT_S = 60.0
"""Seconds that a rank tries to reach rank 0, and that rank 0 waits for each connection."""
EXIT_CODE = 2
"""Exit code of a forced end; the same as that of `UserError`."""

Address = tuple[str, int, str]
"""Host and port of rank 0, and the token that a rank of the same job sends first."""


class RankMonitor:
    """Connections of one rank: rank 0 has one to every other rank, each other rank has one to rank 0.

    Used as a context manager. Leaving it without an exception tells the others that this rank has finished.

    share: returns rank 0's argument on every rank. host: host name of rank 0. Raises
    UserError if the ranks cannot connect to each other.
    """

    def __init__(self, rank: int, size: int, host: str, share: Callable[[Address], Address]) -> None:
        self.rank, self.size = rank, size
        self.lost = ""
        """Message about the rank that died; "" while all ranks live."""
        self._lost_event, self._left_event = threading.Event(), threading.Event()
        self._connections: dict[int, socket.socket] = {}
        self._hosts: dict[int, str] = {0: host}
        if rank == 0:
            with _listen(host) as listener:
                token = secrets.token_hex(8)
                share((host, listener.getsockname()[1], token))
                self._accept(listener, token)
        else:
            self._connect(share((host, 0, "")))
        _close_in_children(self)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._watch, name="rank monitor", daemon=True)
        self._thread.start()

    def raise_if_lost(self, error: BaseException, wait_s: float = 3.0) -> None:
        """Raise UserError from `error` if a rank has died or is reported dead within `wait_s` seconds."""
        if self._lost_event.wait(wait_s):
            raise UserError(self.lost) from error

    def __enter__(self) -> RankMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left_event.set()
        self._wake.send(b".")
        self._thread.join()
        for connection in self._connections.values():
            if kind is None:
                _send(connection, "done")
            connection.close()
        self._wake.close()
        self._woken.close()

    def _accept(self, listener: socket.socket, token: str) -> None:
        """Accept the connections of all other ranks; close those that do not send the token."""
        while len(self._connections) < self.size - 1:
            try:
                connection, _ = listener.accept()
                connection.settimeout(CONNECT_S)
                words = connection.makefile("r", encoding="utf-8").readline().split()
            except OSError:
                missing = sorted(set(range(1, self.size)) - self._connections.keys())
                raise UserError(
                    f"rank 0 received no connection from ranks {missing} within {CONNECT_S:.0f} s, expected "
                    f"{self.size} ranks; read the output of these ranks, and check that the network lets the "
                    "machines connect to each other."
                ) from None
            if len(words) != 3 or words[0] != token:
                connection.close()
                continue
            self._connections[int(words[1])], self._hosts[int(words[1])] = connection, words[2]

    def _connect(self, address: Address) -> None:
        """Connect to rank 0 and identify this rank."""
        host, port, token = address
        try:
            connection = socket.create_connection((host, port), CONNECT_S)
        except OSError as error:
            raise UserError(
                f"rank {self.rank} could not connect to rank 0 at {host}:{port} ({error.strerror or error}); "
                "allow the machines of a run to connect to each other at any port."
            ) from None
        _send(connection, f"{token} {self.rank} {socket.gethostname()}")
        self._connections[0] = connection

    def _watch(self) -> None:
        """Wait until a rank is lost or this rank leaves; rank 0 then notifies the others."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            for rank, connection in self._connections.items():
                connection.settimeout(0)
                _enable_keepalive(connection)
                selector.register(connection, selectors.EVENT_READ, rank)
            while not self.lost:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    words = _receive(self._connections[key.data])
                    if words[0] == "done":
                        selector.unregister(self._connections[key.data])
                    elif not self.lost:
                        dead = words[1:] if words[0] == "lost" else [str(key.data), self._hosts[key.data]]
                        self._report_loss(*dead)
        if not self._left_event.wait(GRACE_S):
            logging.getLogger("cckt").critical("cckt: %s", self.lost)
            os._exit(EXIT_CODE)

    def _report_loss(self, rank: str, host: str) -> None:
        """Record the loss of a rank and, on rank 0, forward it to the others."""
        self.lost = (
            f"rank {rank} of {self.size} (on {host}) ended before the run did, so every rank ends; read the "
            "last output of that rank, then start all ranks again (with --resume, training continues from "
            "the newest checkpoint)."
        )
        if self.rank == 0:
            for connection in self._connections.values():
                _send(connection, f"lost {rank} {host}")
        self._lost_event.set()


def _listen(host: str) -> socket.socket:
    """Open a listening socket at a free port: on the loopback interface only if `host` is local."""
    local = host in ("localhost", "127.0.0.1", "::1")
    both = socket.has_dualstack_ipv6() and not local
    family = socket.AF_INET6 if both or host == "::1" else socket.AF_INET
    listener = socket.create_server(
        (host if local else "", 0), family=family, backlog=1024, dualstack_ipv6=both
    )
    listener.settimeout(CONNECT_S)
    return listener


def _send(connection: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):  # a dead peer is detected by reading from its connection
        connection.sendall(f"{line}\n".encode())


def _receive(connection: socket.socket) -> list[str]:
    """Return the words of the first received line; [""] if the connection is closed."""
    try:
        return connection.recv(4096).decode().split("\n")[0].split(" ")
    except OSError:
        return [""]


def _enable_keepalive(connection: socket.socket) -> None:
    """Let the kernel probe an idle connection every few seconds, so that a lost machine is detected."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 6), ("TCP_KEEPALIVE", 6), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _close_in_children(monitor: RankMonitor) -> None:
    """Close the connections in forked processes (data workers), because these may outlive a killed rank."""
    reference = weakref.ref(monitor)

    def close() -> None:
        found = reference()
        for connection in found._connections.values() if found is not None else ():
            connection.close()

    os.register_at_fork(after_in_child=close)
