"""Samples that could not be read in mid-run: left out of their batches, counted, listed, and never too many."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from parsit.data.dataset import DataSet
from parsit.data.faults import Finding
from parsit.train.metrics import Record, cut_back
from parsit.types import InputError

LEFT_OUT_FILE = "left_out.jsonl"


class LeftOut:
    """The run's list of samples that were left out: `left_out.jsonl`, an object for each sample and step.

    Args:
        output_dir: the run's folder.
        data: what is trained on; what it set aside before the run counts towards the limit.
        max_bad_fraction: share of bad records above which the run stops.
    """

    def __init__(self, output_dir: Path, data: DataSet, max_bad_fraction: float) -> None:
        self.path = output_dir / LEFT_OUT_FILE
        self._before, self._num_records = data.num_bad, data.num_records
        self._max_bad_fraction = max_bad_fraction
        self._places: set[str] = set()
        self._say: Callable[[str], object] = print
        self._record = Record(None)

    def __len__(self) -> int:
        """Different samples that were left out so far."""
        return len(self._places)

    def begin(self, step: int, say: Callable[[str], object], writes: bool = True) -> None:
        """Go on after `step`: what the file says of later steps is dropped, as those are done again.

        Of several processes all keep count, and one `writes`.
        """
        self._say = say
        if writes and (damage := cut_back(self.path, step)):
            say(damage)
        if self.path.exists():
            # Processes that do not write may look before the file is cut back.
            self._places = set(_places(self.path.read_bytes(), step))
        if writes:
            self._record = Record(self.path)

    def add(self, step: int, findings: Sequence[Finding]) -> None:
        """Note what was left out of a step.

        Raises:
            InputError: more is bad than the limit allows.
        """
        if not findings:
            return
        errors = [self._record.add({"step": step, **finding.as_json()}) for finding in findings]
        if error := next(filter(None, errors), None):
            self._say(f"step {step}: {self.path}: cannot be written: {error.strerror or error}; tried again later")
        for finding in findings:
            if finding.place not in self._places:
                self._say(f"step {step}: left out {finding.place}: {finding.detail} [{finding.code}]")
        self._places |= {finding.place for finding in findings}
        bad = self._before + len(self._places)
        if bad > self._max_bad_fraction * self._num_records:
            first = findings[0]
            raise InputError(
                f"step {step}: {len(self._places)} samples could not be read, more than --max_bad_fraction "
                f"{self._max_bad_fraction:g} of {self._num_records} allows; the last: {first.place}: {first.detail}; "
                f"all are listed in {self.path}: mend them and resume, or raise the limit"
            )

    def require_none(self, findings: Sequence[Finding]) -> None:
        """Validation data must be whole, or two losses would not be of the same samples.

        Raises:
            InputError: the first sample that could not be read.
        """
        for finding in findings:
            raise InputError(f"validation sample {finding.place}: {finding.detail} [{finding.code}]")


def _places(content: bytes, step: int) -> Iterator[str]:
    """The places of the samples that were left out up to a step; lines that are no entries are passed over."""
    for line in content.split(b"\n")[:-1]:
        with suppress(ValueError, LookupError, TypeError):
            entry = json.loads(line)
            if entry["step"] <= step:
                yield str(entry["place"])
