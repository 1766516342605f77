"""What the hospital's table says of every item, as digests: a changed row costs its items alone.

A table may speak of a recording by its path, or by the patient id that the recording itself gives.
The journal keeps a key of that id and a digest of what the table gave; a later run asks the table
as it is then, without opening the recording.
"""

from __future__ import annotations

from dataclasses import astuple
from functools import cached_property

from cardionets_core.preparation.convert import Converted
from cardionets_core.preparation.identity import Salt
from cardionets_core.preparation.neutral import Neutraliser
from cardionets_core.sources.recording import Facts, SourceItem

_NOTHING = ""


class TableStates:
    """Digests of what a table says.

    Args:
        salt: makes them.
        neutraliser: asks the table.
    """

    def __init__(self, salt: Salt, neutraliser: Neutraliser) -> None:
        self._salt, self._neutraliser = salt, neutraliser

    @property
    def digest(self) -> str:
        """Digest of the whole table and of how it is asked."""
        table = self._neutraliser.table
        if table is None:
            return _NOTHING
        folders = sorted(self._neutraliser.folders.items())
        return self._salt.state_key(f"table {table.sha256} {folders}")

    def of(self, done: Converted, source: SourceItem) -> tuple[str, str]:
        """Return the key of the patient id that a recording gives, and the digest for it."""
        patient = self._neutraliser.own(done.facts, source).person.patient_id
        return self._salt.named_key(patient), self._of(done.modality, source, patient)

    def now(self, modality: str, source: SourceItem, named: str) -> str:
        """Return the digest for an item whose recording gave the patient id of this key.

        An id that the table does not have is as good as none.
        """
        return self._of(modality, source, self._patients.get(named, ""))

    def _of(self, modality: str, source: SourceItem, patient: str) -> str:
        if self._neutraliser.table is None:
            return _NOTHING
        listed = self._neutraliser.listed(source, modality, patient)
        if listed == Facts():
            return _NOTHING
        return self._salt.state_key(f"facts {_words(listed)}")

    @cached_property
    def _patients(self) -> dict[str, str]:
        table = self._neutraliser.table
        ids = table.patient_ids() if table is not None else ()
        return {self._salt.named_key(patient): patient for patient in ids}


def _words(facts: Facts) -> str:
    codes = sorted(repr(astuple(code)) for code in facts.codes)
    values = sorted(facts.values.items())
    return repr((astuple(facts.person), facts.recorded, codes, values))
