"""Killed at any moment and started again: the set of records is as if it had never been killed."""

import pytest
from kill_runs import killed_runs, run
from pile_support import records_of, write_pile


def check(engine, tmp_path, reading_set, files: int, kills: int, part_records: int, within: int) -> str:
    pile = write_pile(tmp_path / "pile", files)
    run(engine, pile, tmp_path / "whole", reading_set, part_records)
    whole = records_of(tmp_path / "whole")
    assert len({record["key"] for record in whole}) == len(whole) == files + 2

    def work() -> None:
        run(engine, pile, tmp_path / "killed", reading_set, part_records)

    finished = killed_runs(work, kills, seed=7, within=within)
    kept = len(records_of(tmp_path / "killed"))
    assert finished < kills
    assert kept > 0
    work()
    assert facts(records_of(tmp_path / "killed")) == facts(whole)
    return f"pile: {kills} runs, {finished} of which ended by themselves; {kept} of {len(whole)} records kept of them"


def facts(records: list[dict]) -> list[dict]:
    """Records without probabilities: what else is in a batch may round them otherwise in the last bit."""
    left_out = ("confidence", "retries")
    return [{name: value for name, value in record.items() if name not in left_out} for record in records]


@pytest.mark.slow
@pytest.mark.dist
def test_a_pile_that_is_killed_goes_on(engine, tmp_path, reading_set):
    check(engine, tmp_path, reading_set, files=20, kills=4, part_records=2, within=120)


@pytest.mark.sweep
def test_twenty_kills_over_two_hundred_files(engine, tmp_path, reading_set, measured):
    measured(check(engine, tmp_path, reading_set, files=200, kills=20, part_records=5, within=120))
