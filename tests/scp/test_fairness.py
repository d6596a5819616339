"""What is limited is shared: units by what is left, the interpreter's time by what came back of it."""

from __future__ import annotations

from dicom_node.scp import fairness
from dicom_node.scp.fairness import Allowance, Shares


def test_each_newcomer_finds_a_unit_until_all_are_taken() -> None:
    shares, got = Shares(), []
    for newcomer in range(500):
        holders, count = ((newcomer, 4),), 0
        while not shares.take(holders, of=500):
            count += 1
        got.append(count)
    assert got[:5] == [401, 80, 16, 3, 0]
    assert shares.take((("last", 4),), of=500) == "all"


def test_units_are_given_back_and_nothing_is_remembered_of_who_has_none() -> None:
    shares, holders = Shares(), (("peer", 4), ("address", 8))
    assert shares.take(holders, 60, of=64) == "share"
    assert shares.take(holders, 50, of=64) == ""
    shares.give_back(holders, 50)
    assert not shares._taken
    assert shares.take(holders, 50, of=64) == ""


def test_time_comes_back_and_a_debt_has_an_end() -> None:
    now = [100.0]
    allowance = Allowance(rate=0.5, burst=10.0, clock=lambda: now[0])
    assert allowance.has("a")
    allowance.charge("a", 1000.0)
    assert not allowance.has("a")
    assert allowance.has("b")
    now[0] += 19.0
    assert not allowance.has("a")
    now[0] += 2.0
    assert allowance.has("a")


def test_it_remembers_so_many_callers_and_no_more() -> None:
    allowance = Allowance(rate=0.5, burst=10.0)
    for number in range(fairness._MOST_CALLERS + 50):
        allowance.charge(number, 1.0)
    assert len(allowance._left) == fairness._MOST_CALLERS
