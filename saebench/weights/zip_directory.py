"""The members of a zip archive and where their bytes lie, checked before any is read."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from saebench.errors import CheckpointError, UnsafeFileError
from saebench.weights.kinds import lying, unreadable

MAX_DIRECTORY_BYTES = 8 * 2**20  # some 100,000 members; more would fill memory with their names
MAX_GROWTH = 20  # floating-point numbers shrink by a tenth when packed, not by this
FREE_BYTES = 16 * 2**20  # zeros pack without limit: a small file may grow to this all the same
PART_BYTES = 2**20
PACKED_BYTES = 2**16  # read at a time: what is left of them is copied for each part that comes out
LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True)
class Member:
    """A member: its ``length`` bytes begin at ``start``; ``size`` once unpacked if ``packed``."""

    name: str
    start: int
    size: int
    packed: bool
    length: int
    checksum: int


class _Bounded(io.BufferedReader):
    """A file that does not let the archive's own figures decide how much is read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        most = MAX_DIRECTORY_BYTES + 1
        data = super().read(most if size is None or not 0 <= size < most else size)
        if len(data) > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a directory of more than {MAX_DIRECTORY_BYTES:,} bytes")
        return data


def read_directory(path: Path) -> dict[str, Member]:
    """The members by name.

    Raises :class:`UnsafeFileError` for members that overlap, lie outside of the file, come twice,
    are encrypted, have a name that leads out of the archive, or unpack to far more than they are;
    :class:`CheckpointError` where there is no directory, as in a truncated file.
    """
    length = path.stat().st_size
    try:
        raw = io.FileIO(path)
    except OSError as error:
        raise unreadable(path.name, error) from error
    try:
        with _Bounded(raw) as file, zipfile.ZipFile(file) as archive:
            members = [_member(path.name, file, entry) for entry in archive.infolist()]
    except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OSError) as error:
        raise CheckpointError(
            f"weights {path.name} ({length:,} bytes)",
            f"not readable as an archive ({str(error).rstrip('.')})",
            "The file is damaged or truncated; fetch it again.",
        ) from error
    end = 0
    for member in sorted(members, key=lambda member: member.start):
        if member.start < end or member.start + member.length > length:
            raise lying(
                path.name,
                f"member {member.name!r} inside the file ({length:,} bytes) and clear of others",
                f"bytes {member.start:,} to {member.start + member.length:,}",
            )
        end = member.start + member.length
    found = {member.name: member for member in members}
    if len(found) < len(members):
        raise lying(path.name, "each member once", f"{len(members) - len(found)} names again")
    return found


def unpack(path: Path, member: Member, length: int | None = None) -> bytearray:
    """The bytes of a packed member, or the first ``length`` of them.

    Raises :class:`UnsafeFileError` if there are not as many as declared, or others.
    """
    wanted = member.size if length is None else length
    data, count = bytearray(wanted), 0
    try:
        for part in _unpacked(path, member, min(wanted + 1, PART_BYTES)):
            used = part[: wanted - count]
            data[count : count + len(used)] = used
            count += len(used)
            if length is None and len(used) < len(part):
                raise ValueError("more than declared")
            if length is not None and count == wanted:
                break
    except (zlib.error, ValueError) as error:
        raise lying(path.name, f"member {member.name!r:.200} that unpacks", str(error)) from error
    except OSError as error:
        raise unreadable(path.name, error) from error
    if count < wanted or (length is None and zlib.crc32(data) != member.checksum):
        raise lying(path.name, f"member {member.name!r:.200} of {member.size:,} bytes", "others")
    return data


def _unpacked(path: Path, member: Member, most: int) -> Iterator[bytes]:
    """The member in parts of at most ``most`` bytes, without reading the directory again."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    left = member.length
    with path.open("rb") as file:
        file.seek(member.start)
        while not stream.eof:
            packed = stream.unconsumed_tail
            if not packed:
                packed = file.read(min(left, PACKED_BYTES))
                left -= len(packed)
            part = stream.decompress(packed, most)
            if part:
                yield part
            elif not packed:
                return


def _member(file_name: str, file: io.BufferedReader, entry: zipfile.ZipInfo) -> Member:
    name = entry.filename
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable():
        raise UnsafeFileError(
            f"a member of {file_name} with a name inside the archive",
            f"{name!r:.200}",
            "Save the arrays under plain names.",
        )
    packed = entry.compress_type != zipfile.ZIP_STORED
    if packed and entry.compress_type != zipfile.ZIP_DEFLATED:
        raise UnsafeFileError(
            f"member {name!r:.200} of {file_name} stored or deflated, as numpy and torch save",
            f"compression method {entry.compress_type}",
            "Save the arrays with numpy.savez.",
        )
    if entry.flag_bits & 1 or (not packed and entry.compress_size != entry.file_size):
        raise lying(
            file_name,
            f"member {name!r:.200} readable and of one size",
            f"encrypted, or {entry.compress_size:,} bytes that are {entry.file_size:,}",
        )
    allowed = FREE_BYTES + MAX_GROWTH * entry.compress_size
    if entry.file_size > allowed:
        raise UnsafeFileError(
            f"member {name!r:.200} of {file_name} of at most {allowed:,} bytes "
            f"({entry.compress_size:,} packed)",
            f"{entry.file_size:,} bytes once unpacked",
            "Archives that grow this much are refused; save the arrays without compression.",
        )
    file.seek(entry.header_offset)
    signature, name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise lying(file_name, f"member {name!r:.200} where the directory says", "other bytes")
    start = entry.header_offset + LOCAL_HEADER.size + name_length + extra_length
    return Member(name, start, entry.file_size, packed, entry.compress_size, entry.CRC)
