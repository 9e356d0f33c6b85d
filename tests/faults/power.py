"""A machine that loses its power, in a folder: what was not forced to the disk is lost.

`record` writes down, in a process, what it forces: the bytes of files, the names in folders. `cut`
then does to a folder the worst that a file system may do: a file whose bytes were not forced is
empty, and a name that was not forced in its folder is gone, if `names` says so.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

File = tuple[int, int, int]  # inode, size, time of the last change in ns


def record(journal: Path) -> None:
    """Let this process write down each fsync, after it was done."""
    real = os.fsync

    def forcing(file: int) -> None:
        real(file)
        state = os.fstat(file)
        if stat.S_ISDIR(state.st_mode):
            names = {entry.name: entry.inode() for entry in os.scandir(f"/proc/self/fd/{file}")}
            line: object = {"folder": state.st_ino, "names": names}
        else:
            line = {"file": _file(state)}
        with journal.open("a") as lines:
            lines.write(json.dumps(line) + "\n")

    os.fsync = forcing


@dataclass
class Disk:
    """What a disk has for sure: files with their bytes, and names by the folder's inode."""

    files: set[File]
    names: dict[int, dict[str, int]]

    @classmethod
    def of(cls, folder: Path) -> Disk:
        """All that is there now, as after a `sync`; `folder` itself need not be there yet."""
        disk = cls(set(), {})
        for place, _, files in os.walk(folder):
            disk.files |= {_file((Path(place) / name).stat()) for name in files}
            disk._name(place)
        for above in folder.parents:
            disk._name(str(above))
        return disk

    def _name(self, place: str) -> None:
        self.names[Path(place).stat().st_ino] = {
            entry.name: entry.inode() for entry in os.scandir(place)
        }

    def add(self, journal: Path) -> None:
        for line in journal.read_text().splitlines() if journal.exists() else ():
            forced = json.loads(line)
            if "file" in forced:
                self.files.add(tuple(forced["file"]))
            else:
                self.names[forced["folder"]] = forced["names"]

    def cut(self, folder: Path, *, names: bool) -> int:
        """Lose what is not for sure below `folder`; how many files."""
        lost = 0
        for place, folders, files in os.walk(folder):
            known = self.names.get(Path(place).stat().st_ino, {})
            for name in files:
                path = Path(place) / name
                state = path.stat()
                if names and known.get(name) != state.st_ino:
                    path.unlink()
                    lost += 1
                elif _file(state) not in self.files and state.st_size:
                    os.truncate(path, 0)
                    lost += 1
            for name in list(folders) if names else ():
                path = Path(place) / name
                if known.get(name) != path.stat().st_ino:
                    lost += sum(1 for each in path.rglob("*") if each.is_file())
                    shutil.rmtree(path)
                    folders.remove(name)
        return lost


def _file(state: os.stat_result) -> File:
    return (state.st_ino, state.st_size, state.st_mtime_ns)
