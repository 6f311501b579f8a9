"""What a target names: files, folders, globs; and the sources of ticks that are in them."""

from __future__ import annotations

import glob
import logging
from pathlib import Path

from feeds.replay.readers import FORMATS, RecordedFile, Settings, Source
from feeds.replay.readers.recording import Part, joined
from marketfeed.feed import FeedError

log = logging.getLogger("feeds.replay")


def sources_of(target: str, settings: Settings) -> list[Source]:
    """The sources of a target: a file, a folder (every file below it), a glob, or several of these with commas between.

    Files in a folder or behind a glob are taken in the order of their names; one that is no recording is logged and
    passed over.

    Raises:
        FeedError: nothing there, a file that cannot be read, a file named as such that is no recording, a folder or
            glob without any.
    """
    if not target:
        raise FeedError("replay needs a file, a folder or a glob: replay:TARGET")
    parts = [target] if Path(target).exists() else [part.strip() for part in target.split(",") if part.strip()]
    found: list[Source] = []
    seen: set[Path] = set()
    for part in parts:
        path = Path(part).expanduser()
        if path.is_file():
            files, named = [path], True
        elif path.is_dir():
            files, named = _below(path), False
        elif path.exists():
            raise FeedError(f"{part} is neither a file nor a folder")
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
            if not matches:
                raise FeedError(f"no such file, folder or glob: {part}")
            files, named = [file for match in matches for file in (_below(match) if match.is_dir() else [match])], False
        # A file that two parts name is played once.
        new = [file for file in files if file.resolve() not in seen]
        seen.update(file.resolve() for file in new)
        here = [source for file in new for source in _sources_of_file(file, settings, named)]
        if not here and (new or not files):
            raise FeedError(f"no recorded ticks in {part}")
        found += here
    return _recordings_joined(found, settings)


def _recordings_joined(found: list[Source], settings: Settings) -> list[Source]:
    """The same, with the parts of a recording of ours as one, in the place of the first."""
    parts = [source for source in found if isinstance(source, Part)]
    others = [source for source in found if not isinstance(source, Part)]
    if others:
        for name, value, default in (("feed", settings.feed, None), ("clock", settings.clock, Settings.clock)):
            if value != default:
                raise FeedError(f"{name} is of recordings that marketfeed made; {others[0].name} is none")
    if not parts:
        return others
    place = found.index(parts[0])
    return [*others[:place], joined(parts, settings), *others[place:]]


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise FeedError(f"cannot read {folder}: {error.strerror}") from None


def _sources_of_file(path: Path, settings: Settings, named: bool) -> list[Source]:
    file = RecordedFile.look(path)
    for sources in FORMATS:
        found = sources(file, settings)
        if found:
            return found
    if file.compression == "zstd" and not file.head:
        raise FeedError(f"{path} is compressed with zstd: pip install marketfeed[parquet], or [dbn] if it is DBN")
    if named:
        raise FeedError(
            f"{path} is no recording that is known: CSV with named columns, Parquet, Lean zip, Binance, DBN"
        )
    log.warning("%s is no recording that is known: passed over", path)
    return []
