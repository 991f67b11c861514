"""Read one ZIP file of an archive: its index, checked for hostile entries, and its members by their position.

What is read here is what `writer.py` writes: a member RUN/FILE for each file, one that ends with `/` for each folder,
those of a run next to each other, and ABOUT. Their modification times, in ns, are in an extra field; other tools find
whole seconds in the field that they know.

Opening a volume finds where the entries of each run begin and end in the index; those of a run are parsed and checked
when its files are first needed. Python's zipfile takes twenty times as long for the index of 10,000 runs.
"""
from __future__ import annotations

import errno
import functools
import io
import json
import os
import re
import stat
import struct
import weakref
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from src.errors import BatchError
from src.io import files

ABOUT = "archive.json"  # the member about the volume itself; keys: `About`
FORMAT = 1
STORED, DEFLATED = 0, 8
UNIX_TIME, TIME_NS = 0x5455, 0x5247  # extra fields: the modification time in seconds, and in ns
_TIMES = struct.Struct("<HHBlHHq")  # both extra fields
_MARK = _TIMES.pack(UNIX_TIME, 5, 1, 0, TIME_NS, 8, 0)[:5]
_END, _END_64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_ENTRY, _LOCAL = struct.Struct("<4s4xHH4xLLLHHH4xLL"), struct.Struct("<4s22xHH")
_LENGTHS = struct.Struct("<4s16xL4xHHH")  # of an entry: its signature, stored bytes, and lengths of its last parts
_MAX_INDEX = 2**30  # bytes
_MAX_PATH = 4096  # bytes of the target of a link
_MAX_RATIO = 1100  # of deflate: 1032
_BLOCK = 1 << 20
_AHEAD, _SEQUENTIAL = 1 << 18, 16  # bytes that are read at once, after so many reads near each other
_DAMAGE = (struct.error, UnicodeDecodeError, IndexError, StopIteration, RuntimeError, OSError)
# whether a path in a run folder has parts that are empty, `.` or `..`; the run folder itself and folders end with `/`
_LEADS_OUT = re.compile(r"[\\\0]|(?:^|/)\.{1,2}(?:/|\Z)|//|^/").search
_leads_out = functools.lru_cache(1024)(_LEADS_OUT)  # runs have files of the same names


class Member(NamedTuple):
    """A file or folder in a volume. mode: of the file system, with its type."""

    offset: int
    stored: int
    size: int
    crc: int
    method: int
    mode: int
    time_ns: int


class About(NamedTuple):
    """The content of ABOUT. complete: earlier volumes do not count; removed: runs of earlier volumes that do not."""

    complete: bool = False
    removed: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the content of ABOUT."""
        return json.dumps({"format": FORMAT, "complete": self.complete, "removed": list(self.removed)}) + "\n"


Run = dict[str, Member]  # by the path in the run folder; folders end with `/`, and the run folder itself is ""


class Volume:
    """An open volume. BatchError for a file that `writer.py` cannot have written.

    runs: for each run by name, where its entries begin and end in the index;
    identity: inode, size and mtime_ns of the file, which never changes;
    about: its ABOUT.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = files.open_regular(path)
        self._ahead, self._near, self._last = (0, b""), 0, 0
        weakref.finalize(self, os.close, self._file)
        status = os.fstat(self._file)
        self._size = status.st_size
        self.identity = status.st_ino, status.st_size, status.st_mtime_ns
        try:
            self._index, count = self._read_index()
            self.runs, about = self._find_runs(count)
            self.about = self._read_about(about)
        except _DAMAGE as error:
            raise self._refused(f"it is damaged: {error}") from None

    def _refused(self, reason: str) -> BatchError:
        return BatchError(f"this archive is not read: {reason}", where=self.path,
                          hint="move it out of the folder, and restore it from a backup")

    def _read_index(self) -> tuple[bytes, int]:
        """Return the central directory and the number of its entries."""
        end_at = self._size - _END.size
        signature, *_, count, size, start, comment = _END.unpack(os.pread(self._file, _END.size, max(end_at, 0)))
        if signature != b"PK\5\6" or comment:
            raise self._refused("it is incomplete, or no ZIP file of this project")
        if count == 0xFFFF or 0xFFFFFFFF in (size, start):
            locator, _, end_at, _ = _LOCATOR.unpack(os.pread(self._file, _LOCATOR.size, end_at - _LOCATOR.size))
            signature, *_, count, size, start = _END_64.unpack(os.pread(self._file, _END_64.size, end_at))
            if (locator, signature) != (b"PK\6\7", b"PK\6\6"):
                raise self._refused("its index is damaged")
        if size > _MAX_INDEX or start + size != end_at:
            raise self._refused("its index is damaged")
        return os.pread(self._file, size, start), count

    def _find_runs(self, count: int) -> tuple[dict[str, tuple[int, int]], Member]:
        """Return where the entries of each run are in the index, and the entry of ABOUT. count: of all entries."""
        index, lengths, fixed = self._index, _LENGTHS.unpack_from, _ENTRY.size
        runs: dict[str, tuple[int, int]] = {}
        about, run, prefix = None, "", b"\0"
        position = start = number = total = 0
        while position < len(index):
            signature, stored, name_length, extra_length, comment_length = lengths(index, position)
            if not index.startswith(prefix, position + fixed):  # another run begins
                if run:
                    runs[run] = start, position
                name = index[position + fixed:position + fixed + name_length].decode()
                if name == ABOUT and about is None:
                    about, run = self._entry(position), ""
                elif (run := self._run_of(name)) in runs:
                    raise self._refused(f"the name {name!r} is there twice, or apart from others of its run")
                start, prefix = position, f"{run}/".encode() if run else b"\0"
            total += self._entry(position).stored if stored == 0xFFFFFFFF else stored
            number += signature == b"PK\1\2"
            position += fixed + name_length + extra_length + comment_length
        if run:
            runs[run] = start, position
        if number != count or position != len(index) or about is None or total > self._size - len(index):
            raise self._refused(f"its index is damaged, or it has no {ABOUT}")
        return runs, about

    def _run_of(self, name: str) -> str:
        folder, slash, _ = name.partition("/")
        if not slash or name[0] in "./" or "\\" in folder or "\0" in folder:
            raise self._refused(f"the name {name!r} is not that of a file in a run folder")
        return folder

    def members(self, name: str) -> Run:
        """Return the files and folders of a run; empty if it is not in this volume. BatchError as for the volume."""
        run, prefix, others = Run(), f"{name}/", list[str]()
        limit = self._size - len(self._index)
        try:
            for entry, member in self._entries(*self.runs.get(name, (0, 0))):
                path = entry[len(prefix):]
                if not entry.startswith(prefix) or path in run or _leads_out(path):
                    raise self._refused(f"the name {entry!r} is not that of a file in a run folder, or is there twice")
                if member[0] + member[1] > limit or not _is_plausible(member):
                    raise self._refused(f"the sizes of {entry!r} cannot be right")
                run[path] = member
                if member[5] & 0o170000 != stat.S_IFREG or path[-1:] in ("", "/"):
                    others.append(path)
            self._check_kinds(name, run, others)
        except _DAMAGE as error:
            raise self._refused(f"it is damaged: {error}") from None
        return run

    def _check_kinds(self, folder: str, run: Run, others: Iterable[str]) -> None:
        """Refuse a run with other kinds of files than a run folder may have, or with links that lead out of it.

        others: the paths of all that are not regular files, or whose name is that of a folder.
        """
        for path in others:
            member = run[path]
            kind = member[5] & 0o170000
            if kind == stat.S_IFDIR and path[-1:] in ("", "/"):
                continue
            if kind != stat.S_IFLNK:
                raise self._refused(f"'{folder}/{path}' is no regular file")
            target = self.read(f"{folder}/{path}", member, _MAX_PATH).decode()
            if link_leads_out(path, target) or any(other.startswith(f"{path}/") for other in run):
                raise self._refused(f"the link '{folder}/{path}' leads out of its run folder, or has files below it")

    def _entry(self, position: int) -> Member:
        return next(self._entries(position, position + 1))[1]

    def _entries(self, position: int, end: int) -> Iterator[tuple[str, Member]]:
        """Yield the entries that begin at these positions of the index, each with its name."""
        data, unpack, times, new = self._index, _ENTRY.unpack_from, _TIMES.unpack_from, tuple.__new__
        while position < end:
            (signature, flags, method, crc, stored, size, name_length, extra_length, comment_length, mode,
             offset) = unpack(data, position)
            if signature != b"PK\1\2" or flags & ~0x80E or method not in (STORED, DEFLATED):
                raise self._refused("an entry is damaged, encrypted, or packed by an unknown method")
            start = position + _ENTRY.size
            extra = start + name_length
            position = extra + extra_length + comment_length
            if extra_length == _TIMES.size and data.startswith(_MARK, extra):
                time_ns = times(data, extra)[6]
            else:
                time_ns, sizes = _parse_extra(data[extra:extra + extra_length])
                size, stored, offset = (next(sizes) if value == 0xFFFFFFFF else value
                                        for value in (size, stored, offset))
            # a quarter of the time that Member(…) takes
            yield data[start:extra].decode(), new(Member, (offset, stored, size, crc, method, mode >> 16, time_ns))

    def _read_about(self, member: Member) -> About:
        value = files.parse_json(self.read(ABOUT, member, 2**26).decode(errors="replace"))
        if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("removed"), list):
            raise self._refused(f"its {ABOUT} is damaged, or of a newer version of this project")
        return About(bool(value.get("complete")), tuple(map(str, value["removed"])))

    def read(self, name: str, member: Member, limit: int) -> bytes:
        """Return the content of a member. OSError if it has more than `limit` bytes, or is damaged.

        name: RUN/FILE.
        """
        if member.size > limit:
            raise OSError(errno.EFBIG, f"larger than {limit / 2**20:g} MiB", f"{self.path}/{name}")
        return b"".join(self.blocks(name, member)) if member.stored > _BLOCK else self._read_small(name, member)

    def _read_small(self, name: str, member: Member) -> bytes:
        # the extra field of the local header may be longer than the one in the index
        guess = self._read_ahead(member.offset, _LOCAL.size + len(name) + 64 + member.stored)
        start = self._data_start(name, guess)
        data = guess[start:start + member.stored]
        if len(data) < member.stored:
            data = os.pread(self._file, member.stored, member.offset + start)
        if member.method == DEFLATED:
            inflate = zlib.decompressobj(-15)
            try:
                data = inflate.decompress(data, member.size + 1)
            except zlib.error:
                data = b""
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise self._damaged(name)
        return data

    def _read_ahead(self, offset: int, length: int) -> bytes:
        """Return bytes at an offset. After several reads near each other, more is read at once, for the next ones."""
        start, data = self._ahead
        if start <= offset and offset + length <= start + len(data):
            return data[offset - start:offset - start + length]
        self._near = self._near + 1 if abs(offset - self._last) < _AHEAD else 0
        self._last = offset
        if self._near < _SEQUENTIAL or length > _AHEAD // 2:
            return os.pread(self._file, length, offset)
        start = max(0, offset - _AHEAD // 8)  # the files of a run are not read in their order
        data = os.pread(self._file, _AHEAD, start)
        self._ahead = start, data
        return data[offset - start:offset - start + length]

    def _data_start(self, name: str, header: bytes) -> int:
        """Return where the data of a member begins, relative to its local header."""
        signature, name_length, extra_length = _LOCAL.unpack_from(header) if len(header) >= _LOCAL.size else (b"", 0, 0)
        if signature != b"PK\3\4" or header[_LOCAL.size:_LOCAL.size + name_length] != name.encode():
            raise self._damaged(name)
        return _LOCAL.size + int(name_length) + int(extra_length)

    def _damaged(self, name: str) -> OSError:
        return OSError(errno.EIO, "damaged in the archive: its checksum is wrong", f"{self.path}/{name}")

    def blocks(self, name: str, member: Member) -> Iterator[bytes]:
        """Yield the content of a member in blocks. OSError at the end if it is damaged."""
        position = member.offset + self._data_start(name, os.pread(
            self._file, _LOCAL.size + len(name.encode()), member.offset))
        inflate = zlib.decompressobj(-15) if member.method == DEFLATED else None
        end, crc, size = position + member.stored, 0, 0
        while position < end:
            data = os.pread(self._file, min(_BLOCK, end - position), position)
            position += len(data)
            if not data:
                break
            while data:
                try:
                    block = inflate.decompress(data, _BLOCK) if inflate else data
                except zlib.error:
                    raise self._damaged(name) from None
                data = inflate.unconsumed_tail if inflate else b""
                crc, size = zlib.crc32(block, crc), size + len(block)
                if size > member.size:
                    raise self._damaged(name)
                yield block
        if inflate and (rest := inflate.flush()):
            crc, size = zlib.crc32(rest, crc), size + len(rest)
            yield rest
        if (size, crc) != (member.size, member.crc):
            raise self._damaged(name)

    def open(self, name: str, member: Member) -> BinaryIO:
        """Open a member for reading, once all of it was checked; a large one that is stored is not loaded. OSError if
        it is damaged.
        """
        if member.method == DEFLATED or member.size <= _BLOCK:
            return io.BytesIO(self.read(name, member, member.size))
        for _ in self.blocks(name, member):
            pass
        start = self._data_start(name, os.pread(self._file, _LOCAL.size + len(name.encode()), member.offset))
        return io.BufferedReader(_Range(self, self._file, member.offset + start, member.size), _BLOCK)


class _Range(io.RawIOBase):
    """A part of an open file. owner: keeps it open."""

    def __init__(self, owner: object, file: int, start: int, size: int) -> None:
        self._owner, self._file, self._start, self._size, self._position = owner, file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._file, max(0, min(len(buffer), self._size - self._position)),
                        self._start + self._position)
        buffer[:len(data)] = data
        self._position += len(data)
        return len(data)


def link_leads_out(path: str, target: str) -> bool:
    """Return whether a link at a path in a run folder leads out of it. `..` is allowed only at the start of its target,
    since other parts may be links.
    """
    parts = target.split("/")
    up = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    return not target or target[0] == "/" or "\0" in target or up > path.count("/") or ".." in parts[up:]


def _is_plausible(member: Member) -> bool:
    """Return whether a member can have its size: deflate does not compress more."""
    _, stored, size, _, method, _, _ = member
    return size == stored if method == STORED else size <= _MAX_RATIO * stored


def _parse_extra(extra: bytes) -> tuple[int, Iterator[int]]:
    """Return the modification time in ns, 0 without one, and the values of 64 bits, from a member's extra fields."""
    time_ns, sizes, position = 0, (), 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        value = extra[position + 4:position + 4 + length]
        if kind == 1:
            sizes = struct.unpack(f"<{len(value) // 8}Q", value[:len(value) // 8 * 8])
        elif kind == TIME_NS:
            time_ns, = struct.unpack("<q", value)
        elif kind == UNIX_TIME and not time_ns:
            time_ns = struct.unpack_from("<l", value, 1)[0] * 10**9
        position += 4 + length
    return time_ns, iter(sizes)
