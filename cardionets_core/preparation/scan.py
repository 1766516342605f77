"""A hospital's folders -> the recordings in them, each with the state that its files are in.

Files are recognised by their beginnings. What was done before in the same state is not opened
again. Links are not followed, hidden files and folders are left out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cardionets_core.data.refusal import RecordRefused
from cardionets_core.errors import ConfigError
from cardionets_core.preparation.convert import Modality, Work
from cardionets_core.preparation.identity import Salt
from cardionets_core.preparation.journal import Journal
from cardionets_core.preparation.neutral_files import NeutralFiles
from cardionets_core.preparation.recognise import (
    EMPTY,
    HEAD_BYTES,
    claims_cmr,
    claims_ecg,
    kind_of,
    parts_of,
)
from cardionets_core.preparation.table_states import TableStates
from cardionets_core.sources.cmr_layouts import CmrItem, find_cmr
from cardionets_core.sources.recording import SourceItem
from cardionets_core.sources.wfdb_records import KIND as WFDB
from cardionets_core.sources.wfdb_records import segments_of

_SIGNAL_FILES = (".dat", ".mat", ".xyz", ".atr")
"""Files beside a header of the same stem: parts of its record, not opened here."""

SEGMENT = "part of a recording"
CLOSED = "cannot be opened"
SPECIAL = "special"
"""A pipe, socket or device: never opened, as that could wait for ever."""

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
        unread: files that cannot be read now; what they gave before is kept.
        told: called with the number of image headers that were read so far.
    """

    others: Counter[str] = field(default_factory=Counter)
    closed: int = 0
    opened: int = 0
    unread: int = 0
    told: Callable[[int], None] = field(default=lambda read: None, repr=False)


@dataclass(frozen=True)
class Scan:
    """Where to look, and what is known already.

    Args:
        salt: makes the keys.
        settings: digest of all that an outcome depends on besides its files.
        journal: what was done before; None looks at everything.
        leave_out: files and folders that hold no recordings (tables, the folder of the CMRs).
        neutral: files of what was done before; None believes the journal.
        tables: what the hospital's table says now; None where it is the one of before.
    """

    salt: Salt = field(repr=False)
    settings: str
    journal: Journal | None = field(repr=False)
    leave_out: frozenset[Path] = field(default=frozenset(), repr=False)
    neutral: NeutralFiles | None = field(default=None, repr=False)
    tables: Mapping[str, TableStates] = field(default_factory=dict, repr=False)

    def ecgs(self, root: Path, sighting: Sighting) -> Iterator[Found]:
        """Yield every ECG recording below `root`, folder by folder, sorted by name."""
        for folder, files in walk(root, sighting, leave_out=self.leave_out):
            yield from self._folder(root, folder, files, sighting)

    def cmrs(self, root: Path, sighting: Sighting) -> Iterator[Found]:
        """Yield every CMR study below `root`."""
        members: set[str] = set()
        for item in find_cmr(root, sighting.told):
            sighting.closed += item.kind == CMR_CLOSED
            members.update(item.members)
            files = _members(root, item)
            if files and not any(f.size for f in files):
                item = replace(item, kind=EMPTY)
            yield self.found("cmr", item, files)
        for path, file in _empty_cmrs(root):
            if path not in members:
                yield self.found("cmr", CmrItem(EMPTY, path, members=(path,)), [file])

    def state_of(self, files: list[Listed]) -> str:
        """Return the digest of the state that these files are in."""
        return self.salt.state_key(f"{self.settings}\n{sorted(map(repr, files))}")

    def found(self, modality: Modality, source: SourceItem, files: list[Listed]) -> Found:
        """Return an item that consists of these files."""
        item = self.salt.item_key(f"{modality}/{source.path}", source.part)
        state = self.state_of(files)
        is_done = self._is_done(Work(item, modality, source), state)
        return Found(Work(item, modality, source), state, sum(f.size for f in files), is_done)

    def _is_done(self, work: Work, state: str) -> bool:
        """Whether an item was read in this state, its files are there, and its table says that."""
        kept = self.journal.kept(work.item) if self.journal is not None else None
        if kept is None or kept.state != state:
            return False
        if self.neutral is not None and not self.neutral.hold(kept.files):
            return False
        table = self.tables.get(work.modality)
        if table is None:
            return True
        return table.now(work.modality, work.source, kept.trace.named) == kept.trace.listed

    def _earlier(self, path: str, sighting: Sighting) -> list[Found]:
        """Return what a file that cannot be read now gave before: it stays as it was."""
        if self.journal is None:
            return []
        items = self.journal.used_of_file(self.salt.file_key(f"ecg/{path}"))
        sighting.unread += len(items) > 0
        return [Found(Work(i, "ecg", SourceItem("", path)), "", 0, True) for i in items]

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
            if file.size == 0 and claims_ecg(file.name):
                new.append((file, group, EMPTY))
                continue
            sighting.opened += 1
            head = _head(folder / file.name)
            kind = kind_of(file.name, head or b"")
            if head is None and (earlier := self._earlier(prefix + file.name, sighting)):
                yield from earlier
            elif kind is not None:
                new.append((file, group, kind))
            elif head is None:
                sighting.others[CLOSED] += 1
            else:
                label = _class_of(file.name)
                sighting.others[label] += 1
                self._put_label(prefix + file.name, file, label)
        yield from self._new(folder, prefix, files, new, sighting)

    def _new(
        self,
        folder: Path,
        prefix: str,
        files: list[Listed],
        new: list[tuple[Listed, list[Listed], str]],
        sighting: Sighting,
    ) -> Iterator[Found]:
        segments = _segments(folder, files) if any(kind == WFDB for _, _, kind in new) else set()
        for file, group, kind in new:
            if kind == WFDB and _stem(file.name) in segments:
                self._put_label(prefix + file.name, file, SEGMENT)
                continue
            path = prefix + file.name
            try:
                parts = list(parts_of(kind, folder / file.name))
            except (RecordRefused, OSError):
                if earlier := self._earlier(path, sighting):
                    yield from earlier
                    continue
                parts = [""]  # its reader will say what is wrong
            for part in parts:
                yield self.found("ecg", SourceItem(kind, path, part), group)

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
    root: Path,
    sighting: Sighting,
    *,
    leave_out: frozenset[Path] = frozenset(),
    is_deep: bool = True,
) -> Iterator[tuple[Path, list[Listed]]]:
    """Yield `root` and every folder below it with its files, both sorted by name.

    Without recursion, as folders can lie deeper in each other than Python calls itself.

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
        waiting += reversed(folders) if is_deep else ()
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
        else:
            sighting.others[SPECIAL] += 1
    return files, folders


def _members(root: Path, item: CmrItem) -> list[Listed]:
    """Return the files of a study as they are now; names are paths below `root`."""
    listed: list[Listed] = []
    for member in item.members:
        place = root if member == "." else root / member
        if not place.is_dir():
            listed += _listed(place, member)
            continue
        try:
            for folder, files in walk(place, Sighting(), is_deep=item.layout == "ukb"):
                below = folder.relative_to(root).as_posix()
                listed += [replace(f, name=f"{below}/{f.name}") for f in files]
        except ConfigError:
            continue  # its reader will say so
    return listed


def _empty_cmrs(root: Path) -> Iterator[tuple[str, Listed]]:
    """Yield the path and state of every file of no bytes that has the name of an image."""
    for folder, files in walk(root, Sighting()):
        for file in files:
            if file.size == 0 and claims_cmr(file.name):
                yield (folder / file.name).relative_to(root).as_posix(), file


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
