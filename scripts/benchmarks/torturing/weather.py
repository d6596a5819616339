"""The faults of the file system that `torture` produces, one at a time, and how the node survived them."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

from scripts.benchmarks.servers import listens
from scripts.benchmarks.torturing.faults import AREAS, ERRORS, Fault, Faults, choose
from scripts.benchmarks.torturing.victim import STEPS, Node, doing, wait_for

_SECONDS = (0.2, 4.0)  # how long one lasts
_CALM_SECONDS = 2.5  # how long one does that nobody is killed in or after


class Weather:
    """What the file system does to the node: faults, one at a time, and how the node bore them."""

    def __init__(self, node: Node, folder: Path, dice: random.Random) -> None:
        self.wrong: list[str] = []
        self._node, self._dice = node, dice
        self._faults = Faults(folder, node.data)
        self._done: Counter[tuple[str, str]] = Counter()
        self._struck: Counter[tuple[str, str, str]] = Counter()
        self._refused = 0
        self._next = 0
        node.environment = self._faults.environment

    def strike(self, step: str) -> Counter[tuple[str, str]]:
        """A fault while a step is done, which the node lives through, is killed in, or is to be started with.

        Returns:
            the kills that it took, by step and victim.
        """
        fault = choose(list(ERRORS)[self._next % len(ERRORS)], self._dice)
        self._next += 1
        self._begin(fault, wait_for(self._node, step, self._dice))
        time.sleep(self._dice.uniform(*_SECONDS))
        kills: Counter[tuple[str, str]] = Counter()
        if self._dice.random() < 0.4:
            step = doing(self._node, step)
            self._node.kill("node")
            kills[step, "node"] += 1
            if self._dice.random() < 0.5:
                self._start_amid(fault)
        self._end(fault)
        if kills and not listens(self._node.port):
            self._node.start()
        return kills

    def strike_each(self) -> None:
        """Every error once more, everywhere, in a node that nobody kills or starts anew afterwards."""
        for error, calls in ERRORS.items():
            fault = Fault(error, calls, AREAS)
            self._begin(fault, wait_for(self._node, self._dice.choice(STEPS), self._dice))
            time.sleep(_CALM_SECONDS)
            self._end(fault)

    def clear(self) -> None:
        """Nothing fails any more."""
        self._faults.end(self._node.reading_pids())

    def _begin(self, fault: Fault, doing: str) -> None:
        self._before = self._faults.struck()
        self._done[doing, fault.name] += 1
        self._faults.begin(fault, self._node.pid, self._dice)

    def _end(self, fault: Fault) -> None:
        self.clear()
        for (call, area), count in (self._faults.struck() - self._before).items():
            self._struck[fault.name, call, area] += count

    def _start_amid(self, fault: Fault) -> None:
        """Start it while its folder fails: it runs, or it says what is wrong with which folder."""
        if not self._node.try_to_start():
            self._refused += 1
            if str(self._node.data) not in self._node.last_words().rstrip().rpartition("\n")[2]:
                self.wrong.append(f"started amid {fault}, the node ended without a word on its folder")

    def figures(self) -> dict[str, object]:
        """How many faults there were, by step and error; how many calls failed, by error, call and place."""
        by_error: dict[str, dict[str, int]] = {}
        for (error, call, area), count in sorted(self._struck.items()):
            by_error.setdefault(error, {})[f"{call} {area}"] = count
        return {
            "faults": sum(self._done.values()),
            "faults while": by_step(self._done),
            "calls that failed": by_error,
            "starts refused amid a fault": self._refused,
        }


def by_step(counted: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """What was counted by step, in the order of the steps."""
    steps = {step: {what: n for (s, what), n in sorted(counted.items()) if s == step} for step in (*STEPS, "idle")}
    return {step: by for step, by in steps.items() if by}
