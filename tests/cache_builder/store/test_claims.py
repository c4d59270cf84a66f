"""Claims: one holder, signs of life, leases, torn and abandoned claims, in folders and object stores."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid

import pytest

from cckt.cache_builder.base.errors import UserError
from cckt.cache_builder.store import Claims, open_writer, verify_column
from cckt.cache_builder.store.places.files import LocalFiles, open_files
from cckt.cache_builder.store.places.remote import RemoteFiles
from tests.cache_builder.column_samples import crops_spec, make, tree


@pytest.fixture(params=["folder", "memory"])
def place(request, tmp_path):
    return tmp_path if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


def begun(place, lease=60.0, units=7):
    """Claims on a column that has begun."""
    open_writer(place, crops_spec())
    return Claims(open_files(place, "crops"), units, lease)


def names(place):
    return sorted(name for name in open_files(place, "crops").sizes() if "claim" in name or "maker" in name)


def test_one_maker_holds_a_unit_until_it_gives_it_up(place):
    with begun(place) as one, begun(place) as two:
        assert one.take(3)
        assert not two.take(3)
        assert two.take(4)
        assert set(two.look()) == {3}
        assert not two.dead(two.others[3])
        one.release(3)
        assert two.look() == {}
        assert two.take(3)
        assert set(one.look()) == {3, 4}
    assert names(place) == []


def test_makers_with_another_division_do_not_see_the_claim(place):
    with begun(place) as one, begun(place, units=9) as other:
        assert one.take(3)
        assert other.look() == {}
        assert other.take(3)


def elsewhere(monkeypatch):
    """Makers seem to be on another machine, so that only signs of life tell."""
    monkeypatch.setattr(Claims, "ended", lambda self, claim: False)


def test_a_claim_without_signs_of_life_is_dead_after_the_lease(place, monkeypatch):
    elsewhere(monkeypatch)
    gone = begun(place)
    gone._files.put(f"ledger/maker-{gone._maker}", b"0")  # and then it dies
    assert gone.take(3)
    with begun(place, lease=0.2) as two, begun(place) as three:
        claim = two.look()[3]
        assert not two.dead(claim)
        time.sleep(0.3)
        assert two.dead(claim)
        assert two.take(3)
        three.look()
        assert three.others[3].generation == 1
        assert not three.take(2) or three.others[3].maker == two._maker


def test_signs_of_life_keep_a_claim(place, monkeypatch):
    elsewhere(monkeypatch)
    with begun(place, lease=0.8) as one, begun(place, lease=0.8) as two:
        one.take(3)
        claim = two.look()[3]
        for _ in range(6):
            time.sleep(0.3)
            assert not two.dead(claim)


def test_two_makers_cannot_both_take_over(place, monkeypatch):
    elsewhere(monkeypatch)
    gone = begun(place)
    gone.take(3)
    with begun(place) as two, begun(place) as three:
        assert set(two.look()) == set(three.look()) == {3}
        assert [two.take(3), three.take(3)] == [True, False]


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"maker": 3}', b'{"maker": "../x", "home": [1]}'])
def test_a_torn_claim_is_of_a_maker_without_signs_of_life(place, content):
    with begun(place, lease=0.2) as one:
        open_files(place, "crops").put("ledger/claim-7-3-0", content, new=True)
        claim = one.look()[3]
        assert not one.dead(claim)
        time.sleep(0.3)
        assert one.dead(one.look()[3])
        assert one.take(3)


def test_a_process_of_this_machine_that_ended_is_dead_at_once(tmp_path):
    claims = begun(tmp_path)
    code = (
        "import os, sys\nfrom cckt.cache_builder.store import Claims\n"
        "from cckt.cache_builder.store.places.files import open_files\n"
        "Claims(open_files(sys.argv[1], 'crops'), 7).take(3)\nos.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == -9
    with claims:
        assert claims.ended(claims.look()[3])


def test_a_run_of_this_process_that_ended_is_dead_at_once(tmp_path):
    abandoned = begun(tmp_path)
    abandoned.take(3)
    with begun(tmp_path) as one:
        assert one.ended(one.look()[3])
        with begun(tmp_path) as two:
            two.take(4)
            assert not one.ended(one.look()[4])


def test_a_reused_process_id_is_not_the_maker(tmp_path):
    with begun(tmp_path) as one:
        home = json.loads(one._document)["home"]
        document = {"maker": "0" * 32, "home": [home[0], 1, 12345]}
        open_files(tmp_path, "crops").put("ledger/claim-7-3-0", json.dumps(document).encode(), new=True)
        assert one.ended(one.look()[3])


def test_a_store_without_conditional_put_has_one_holder(monkeypatch):
    """The last writer wins; the other one reads that it lost."""
    place = f"memory://{uuid.uuid4().hex}"
    with begun(place) as one, begun(place) as two:
        real = RemoteFiles.put

        def overwriting(self, name, data, *, new=False):
            if new and data == one._document:
                real(self, name, data)
                real(self, name, two._document)  # the other maker is a moment later
            return real(self, name, data) if not new else True

        monkeypatch.setattr(RemoteFiles, "put", overwriting)
        assert not one.take(3)


def test_a_full_disk_is_one_sentence_and_leaves_no_claim(tmp_path, monkeypatch):
    def full(self, name, data, **options):
        raise UserError("the disk is full")

    with begun(tmp_path) as one:
        one.take(2)
        with monkeypatch.context() as patch:
            patch.setattr(LocalFiles, "put", full)
            with pytest.raises(UserError, match="disk is full"):
                one.take(3)
    assert names(tmp_path) == []


def test_claims_left_behind_do_not_hold_a_column_up_and_are_swept(tmp_path):
    make(tmp_path / "whole", crops_spec())
    abandoned = begun(tmp_path / "data")
    abandoned._files.put(f"ledger/maker-{abandoned._maker}", b"0")
    assert all(abandoned.take(unit) for unit in range(7))
    problems = verify_column(tmp_path / "data", "crops").problems
    assert {problem.kind for problem in problems} == {"unfinished"}
    report = make(tmp_path / "data", crops_spec())
    assert (report.made, report.again) == (7, 7)
    assert tree(tmp_path / "data") == tree(tmp_path / "whole")
