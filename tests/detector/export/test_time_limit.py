"""The time limit of an export."""

from __future__ import annotations

import threading
import time

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.detector.export.time_limit import time_limit


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_work_in_time_is_not_interrupted() -> None:
    with time_limit(1, "wait"):
        spin(0.01)
    spin(0.05)


def test_late_work_is_stopped_and_says_what_to_do() -> None:
    began = time.monotonic()
    late = pytest.raises(UserError, match=r"not finished after 0\.002 minutes, and stopped; give --size\.")
    with late, time_limit(0.002, "give --size"):
        spin(60)
    assert time.monotonic() - began < 30


def test_an_interrupt_of_the_user_and_other_faults_pass() -> None:
    for fault in (KeyboardInterrupt, ValueError):
        with pytest.raises(fault), time_limit(1, "wait"):
            raise fault


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_a_limit_that_is_not_above_zero_is_refused(minutes: float) -> None:
    refused = pytest.raises(UserError, match=r"--time-limit .*: expected a number of minutes above 0")
    with refused, time_limit(minutes, "wait"):
        pass


def test_outside_the_main_thread_there_is_no_limit() -> None:
    done = []

    def work() -> None:
        with time_limit(0.0001, "wait"):
            spin(0.1)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
