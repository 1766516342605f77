"""A hospital's folders -> the recordings in them, each with the state that its files are in.

Files are recognised by their beginnings. What was done before in the same state is not opened
again. Links are not followed, hidden files and folders are left out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cardionets_core.data.refusal import RecordRefused
from cardionets_core.errors import ConfigError
from cardionets_core.preparation.convert import Modality, Work
from cardionets_core.preparation.identity import Salt
from cardionets_core.preparation.journal import Journal
from cardionets_core.preparation.recognise import HEAD_BYTES, kind_of, parts_of
from cardionets_core.sources.cmr_layouts import CmrItem, find_cmr
from cardionets_core.sources.recording import SourceItem
from cardionets_core.sources.wfdb_records import KIND as WFDB
from cardionets_core.sources.wfdb_records import segments_of

_SIGNAL_FILES = (".dat", ".mat", ".xyz", ".atr")
"""Files beside a header of the same stem: parts of its record, not opened here."""

SEGMENT = "part of a recording"
CLOSED = "cannot be opened"
CMR_CLOSED = "cmr_closed"
"""What `find_cmr` calls a folder that it cannot open."""

LINK = "link, not followed"
_KNOWN_EXTENSIONS = frozenset(
    (
        "bmp csv dcm doc docx docm edf gif gz h5 hdf5 htm html ima jpeg jpg json log mat md mha "
        "mhd mp4 nii npy npz nrrd parquet pdf pkl png pt rar rtf scp svg tar tif tiff tsv txt "
        "xls xlsx xml zip"
    ).split()
)
"""Extensions that may be counted by name; any other may be a patient's."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a folder: its name, size, and time of the last change in ns."""

    name: str
    size: int
    changed: int


@dataclass(frozen=True, slots=True)
class Found:
    """An item, the state of its files, their bytes, and whether there is nothing to do for it."""

    work: Work
    state: str
    size: int
    is_done: bool


@dataclass
class Sighting:
    """What a walk saw besides items.

    Attributes:
        others: class of file -> how many of them no reader is for.
        closed: folders that could not be opened.
        opened: files that were opened to recognise them.
    """

    others: Counter[str] = field(default_factory=Counter)
    closed: int = 0
    opened: int = 0


@dataclass(frozen=True)
class Scan:
    """Where to look, and what is known already.

    Args:
        salt: makes the keys.
        settings: digest of all that an outcome depends on besides its files.
        journal: what was done before; None looks at everything.
        leave_out: files and folders that hold no recordings (tables, the folder of the CMRs).
    """

    salt: Salt = field(repr=False)
    settings: str
    journal: Journal | None = field(repr=False)
    leave_out: frozenset[Path] = field(default=frozenset(), repr=False)

    def ecgs(self, root: Path, sighting: Sighting) -> Iterator[Found]:
        """Yield every ECG recording below `root`, folder by folder, sorted by name."""
        for folder, files in walk(root, sighting, leave_out=self.leave_out):
            yield from self._folder(root, folder, files, sighting)

    def cmrs(self, root: Path, sighting: Sighting) -> Iterator[Found]:
        """Yield every CMR study below `root`."""
        for item in find_cmr(root):
            sighting.closed += item.kind == CMR_CLOSED
            yield self.found("cmr", item, _members(root, item))

    def state_of(self, files: list[Listed]) -> str:
        """Return the digest of the state that these files are in."""
        return self.salt.state_key(f"{self.settings}\n{sorted(map(repr, files))}")

    def found(self, modality: Modality, source: SourceItem, files: list[Listed]) -> Found:
        """Return an item that consists of these files."""
        item = self.salt.item_key(f"{modality}/{source.path}", source.part)
        state = self.state_of(files)
        is_done = self.journal is not None and self.journal.holds(item, state)
        return Found(Work(item, modality, source), state, sum(f.size for f in files), is_done)

    def _folder(
        self, root: Path, folder: Path, files: list[Listed], sighting: Sighting
    ) -> Iterator[Found]:
        below = folder.relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        stems: dict[str, list[Listed]] = {}
        for file in files:
            stems.setdefault(_stem(file.name), []).append(file)
        schemas = {f.name: f for f in files if f.name.endswith("schema.json")}
        new: list[tuple[Listed, list[Listed], str]] = []
        for file in files:
            group = stems[_stem(file.name)]
            if _is_beside_header(file, group):
                continue
            own_schema = (f"{file.name}.schema.json", "schema.json")
            group = group + [schemas[name] for name in own_schema if name in schemas]
            done = self.found("ecg", SourceItem("", prefix + file.name), group)
            if done.is_done:
                yield done
                continue
            label = self._label(prefix + file.name, file)
            if label == SEGMENT:
                continue
            if label is not None:
                sighting.others[label] += 1
                continue
            sighting.opened += 1
            head = _head(folder / file.name)
            kind = kind_of(file.name, head or b"")
            if kind is not None:
                new.append((file, group, kind))
            elif head is None:
                sighting.others[CLOSED] += 1
            else:
                label = _class_of(file.name)
                sighting.others[label] += 1
                self._put_label(prefix + file.name, file, label)
        yield from self._new(folder, prefix, files, new)

    def _new(
        self,
        folder: Path,
        prefix: str,
        files: list[Listed],
        new: list[tuple[Listed, list[Listed], str]],
    ) -> Iterator[Found]:
        segments = _segments(folder, files) if any(kind == WFDB for _, _, kind in new) else set()
        for file, group, kind in new:
            if kind == WFDB and _stem(file.name) in segments:
                self._put_label(prefix + file.name, file, SEGMENT)
                continue
            for part in _parts(kind, folder / file.name):
                yield self.found("ecg", SourceItem(kind, prefix + file.name, part), group)

    def _label(self, path: str, file: Listed) -> str | None:
        if self.journal is None:
            return None
        key = self.salt.item_key(f"other/{path}")
        return self.journal.label_of_other(key, self.state_of([file]))

    def _put_label(self, path: str, file: Listed, label: str) -> None:
        if self.journal is not None:
            key = self.salt.item_key(f"other/{path}")
            self.journal.put_other(key, self.state_of([file]), label)


def count_others(root: Path, sighting: Sighting) -> None:
    """Count the files below `root` by class: what a folder without recordings holds."""
    for _, files in walk(root, sighting):
        sighting.others.update(_class_of(file.name) for file in files)


def walk(
    root: Path, sighting: Sighting, *, leave_out: frozenset[Path] = frozenset()
) -> Iterator[tuple[Path, list[Listed]]]:
    """Yield every folder below `root` with its files, both sorted by name.

    Raises:
        ConfigError: `root` itself cannot be opened.
    """
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda e: e.name)
                files, folders = _sorted_out(listed, leave_out, sighting)
        except OSError as error:
            if folder == root:
                raise ConfigError(
                    f"The folder {root} cannot be opened ({error.strerror}); "
                    "correct the path or its permissions."
                ) from None
            sighting.closed += 1
            continue
        waiting += reversed(folders)
        yield folder, files


def _sorted_out(
    entries: list[os.DirEntry[str]], leave_out: frozenset[Path], sighting: Sighting
) -> tuple[list[Listed], list[Path]]:
    files, folders = [], []
    for entry in entries:
        if entry.name.startswith(".") or Path(entry.path) in leave_out:
            continue
        if entry.is_symlink():
            sighting.others[LINK] += 1
        elif entry.is_dir(follow_symlinks=False):
            folders.append(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            facts = entry.stat(follow_symlinks=False)
            files.append(Listed(entry.name, facts.st_size, facts.st_mtime_ns))
    return files, folders


def _members(root: Path, item: CmrItem) -> list[Listed]:
    """Return the files of a study as they are now; names are paths below `root`."""
    listed: list[Listed] = []
    for member in item.members:
        place = root if member == "." else root / member
        if not place.is_dir():
            listed += _listed(place, member)
            continue
        for folder, _, files in os.walk(place):
            below = Path(folder).relative_to(root).as_posix()
            for name in files:
                listed += _listed(Path(folder) / name, f"{below}/{name}")
            if item.layout != "ukb":
                break  # folders below are studies of their own
    return listed


def _listed(path: Path, name: str) -> list[Listed]:
    try:
        facts = path.stat()
    except OSError:  # its reader will say so
        return []
    return [Listed(name, facts.st_size, facts.st_mtime_ns)]


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _is_beside_header(file: Listed, group: list[Listed]) -> bool:
    stem = _stem(file.name)
    is_signal = file.name.lower().endswith(_SIGNAL_FILES)
    return is_signal and any(f.name in (f"{stem}.hea", f"{stem}.HEA") for f in group)


def _head(path: Path) -> bytes | None:
    """Return how a file begins, None where it cannot be opened."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return None


def _segments(folder: Path, files: list[Listed]) -> set[str]:
    """Return the stems of headers that are parts of another record of the folder."""
    found: set[str] = set()
    for file in files:
        if file.name.lower().endswith(".hea"):
            try:
                found |= segments_of(folder / file.name)
            except OSError:
                continue  # its own reader will say so
    return found


def _parts(kind: str, path: Path) -> Iterator[str]:
    """Yield the recordings of a file; one that cannot be listed is an item that is refused."""
    try:
        yield from parts_of(kind, path)
    except (RecordRefused, OSError):
        yield ""


def _class_of(name: str) -> str:
    """Return what kind of file a name claims, in words that hold nothing of the name."""
    lower = name.lower()
    if lower.endswith(".nii.gz"):
        return "nii.gz"
    extension = lower.rpartition(".")[2] if "." in lower else ""
    if not extension:
        return "no extension"
    if extension in _KNOWN_EXTENSIONS:
        return extension
    return "other"
