"""Bring a bundle into the store: from a directory, a zip file, or the https address of a zip file.

Start here for: limits of size (:class:`Limits`), which files are left out (:func:`_is_left_out`), which addresses are
allowed (:func:`_check_address`).

Everything in a source is hostile until it is checked. Only plain files are copied, under names that stay inside the
folder, up to a limit that is counted while writing (a header can lie). Links and encrypted files are refused. Hidden
files and compiled Python are left out: compiled Python could be other code than the source that a person sees.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import stat
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final, Literal

from ai.bundle.code import printable
from dicom_node.config.values import is_loopback
from dicom_node.errors import ModelError

Kind = Literal["directory", "zip", "url"]
Progress = Callable[[int, int | None], None]

_MIB: Final = 1024**2
_METADATA: Final = "configs/metadata.json"
_FORBIDDEN: Final = frozenset('\\:*?"<>|')


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be brought: bytes of an archive; bytes and number of its unpacked files."""

    archive: int = 4 * 1024**3
    unpacked: int = 8 * 1024**3
    files: int = 10_000


@dataclass(frozen=True, slots=True)
class Brought:
    """Where a bundle came from: ``place`` without secrets, the archive's SHA-256, and the files that were left out."""

    kind: Kind
    place: str
    sha256: str
    left_out: tuple[str, ...]


def is_address(source: str) -> bool:
    """Whether a source is an address on the network, not a path."""
    return "://" in source


def bring(source: str, into: Path, *, sha256: str, limits: Limits, progress: Progress) -> Brought:
    """Put the files of a bundle into ``into``, a folder that does not exist yet, and fsync them.

    Args:
        source: the path of a directory or a zip file, or the https address of a zip file.
        into: the new folder; its parent exists.
        sha256: the expected SHA-256 (hex) of the zip file; empty for any.
        limits: how much may be brought.
        progress: called with the bytes so far and the total, None if it is unknown.

    Raises:
        ModelError: the source does not exist, is too large, is not what was expected, or holds what a bundle may not
            hold.
    """
    kind: Kind
    if is_address(source):
        archive = into.parent / "archive.zip"
        place = _download(source, archive, limits.archive, progress)
        kind = "url"
    else:
        archive, place = Path(source), printable(str(Path(source).absolute()))
        kind = "zip"
        if archive.is_dir():
            if sha256:
                raise ModelError("--sha256 pins a zip file; a directory has no SHA-256 of its own")
            return Brought("directory", place, "", _copy(archive, into, limits))
        if archive.exists() and not archive.is_file():
            raise ModelError(f"{place}: is neither a folder nor a file; a bundle or a zip file of it was expected")
    try:
        with archive.open("rb") as file:
            if os.fstat(file.fileno()).st_size > limits.archive:
                raise ModelError(
                    f"{place}: is larger than {limits.archive // _MIB} MiB, the most that an archive may have"
                )
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 and found != sha256.lower():
                raise ModelError(f"{place}: has the SHA-256 {found}; {sha256.lower()} was expected: it is another file")
            left_out = _unpack(file, place, into, limits)
    except OSError as error:
        raise ModelError(f"{place}: cannot be read or unpacked: {error.strerror or error}") from error
    finally:
        if kind == "url":
            archive.unlink(missing_ok=True)
    return Brought(kind, place, found, left_out)


# --- a directory ------------------------------------------------------------------------------------------------------


def _copy(source: Path, into: Path, limits: Limits) -> tuple[str, ...]:
    if not (source / _METADATA).is_file():  # checked before a whole disk is copied
        raise ModelError(f"{printable(str(source))}: holds no {_METADATA}; the folder of a MONAI bundle was expected")
    left_out: list[str] = []
    budget = _Budget(limits)
    for folder, folders, files in os.walk(source, onerror=_raise):
        for name in sorted(folders + files):
            file = Path(folder) / name
            inside = file.relative_to(source).as_posix()
            mode = file.lstat().st_mode
            if _is_left_out(PurePosixPath(inside)):
                left_out.append(printable(inside))
                if name in folders:
                    folders.remove(name)
            elif stat.S_ISREG(mode):
                _check_name(inside, str(source))
                handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
                with os.fdopen(handle, "rb") as content:
                    _write(into / inside, _chunks(content), budget)
            elif not stat.S_ISDIR(mode):
                raise ModelError(f"{printable(str(file))}: is a link or a device; a bundle holds plain files only")
    return tuple(left_out)


def _raise(error: OSError) -> None:
    raise ModelError(f"{error.filename}: cannot be read: {error.strerror}") from error


# --- a zip file -------------------------------------------------------------------------------------------------------


def _unpack(file: IO[bytes], place: str, into: Path, limits: Limits) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > limits.files:
                raise ModelError(f"{place}: holds {len(members)} files; {limits.files} at most were expected")
            for member in members:
                _check_member(member, place)
            files = [m for m in members if not m.is_dir()]
            left_out = [printable(m.filename) for m in files if _is_left_out(PurePosixPath(m.filename))]
            kept = [m for m in files if not _is_left_out(PurePosixPath(m.filename))]
            root = _root([m.filename for m in kept], place)
            budget, seen = _Budget(limits), set[str]()
            for member in kept:
                inside = member.filename.removeprefix(root)
                if inside.casefold() in seen:
                    raise ModelError(f"{place}: holds {printable(inside)} twice")
                seen.add(inside.casefold())
                with archive.open(member) as content:
                    _write(into / inside, _chunks(content), budget)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise ModelError(f"{place}: is no sound zip file: {printable(str(error))[:200]}") from error
    return tuple(left_out)


def _check_member(member: zipfile.ZipInfo, place: str) -> None:
    shown = printable(member.filename)[:200]
    # The name as the archive has it: zipfile itself cuts at a NUL and turns the separators of this system into "/".
    if member.orig_filename != member.filename:
        raise ModelError(f"{place}: holds {printable(member.orig_filename)[:200]!r}, which is no name of a file")
    _check_name(member.filename.removesuffix("/"), place)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ModelError(f"{place}: {shown} is a link or a device; a bundle holds plain files only")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ModelError(f"{place}: {shown} is compressed in an unusual way; deflate was expected")
    if member.flag_bits & 0x1:
        raise ModelError(f"{place}: {shown} is encrypted; a zip file without a password was expected")


def _root(names: list[str], place: str) -> str:
    """The folder of the archive that is the bundle: ``ModelName/`` as in MONAI's archive format, or the top."""
    roots = [name.removesuffix(_METADATA) for name in names if f"/{name}".endswith(f"/{_METADATA}")]
    if len(roots) != 1 or roots[0].count("/") > 1:
        found = "more than one, or one too deep" if roots else "none"
        raise ModelError(
            f"{place}: a zip file with one {_METADATA} was expected, at its top or in one folder; it holds {found}"
        )
    beside = next((name for name in names if not name.startswith(roots[0])), None)
    if beside is not None:
        raise ModelError(f"{place}: holds {printable(beside)} beside the bundle {printable(roots[0])}")
    return roots[0]


# --- an address -------------------------------------------------------------------------------------------------------


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a redirect only to an address that would be allowed itself."""

    def redirect_request(  # noqa: PLR0917 - as the base class has it
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme != urllib.parse.urlsplit(req.full_url).scheme:
            raise ModelError(f"{_shown(req.full_url)}: redirects to another kind of address, {_shown(newurl)}; refused")
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(address: str, into: Path, most: int, progress: Progress) -> str:
    _check_address(address)
    place = _shown(address)
    # An address on this machine is asked without the hospital's proxy.
    direct = [urllib.request.ProxyHandler({})] if address.startswith("http:") else []
    opener = urllib.request.build_opener(_Redirects, *direct)
    try:
        with opener.open(address, timeout=30) as answer, into.open("xb") as file:
            length = answer.headers.get("Content-Length", "")
            whole = int(length) if length.isdecimal() else None
            if whole is not None and whole > most:
                raise ModelError(f"{place}: has {whole // _MIB} MiB; {most // _MIB} MiB at most were expected")
            done = 0
            for chunk in _chunks(answer):
                done += len(chunk)
                if done > most:
                    raise ModelError(f"{place}: sends more than {most // _MIB} MiB, the most that an archive may have")
                file.write(chunk)
                progress(done, whole)
            if whole is not None and done != whole:
                raise ModelError(f"{place}: ended after {done} of {whole} bytes; try again")
    except urllib.error.HTTPError as error:
        raise ModelError(f"{place}: the server answered {error.code} {printable(str(error.reason))[:100]}") from None
    except urllib.error.URLError as error:
        raise ModelError(f"{place}: cannot be reached: {printable(str(error.reason))[:200]}") from None
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise ModelError(f"{place}: cannot be downloaded: {type(error).__name__}") from None
    return place


def _check_address(address: str) -> None:
    try:
        parts = urllib.parse.urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        raise ModelError("the address of the zip file is no sound https address") from None
    if parts.scheme == "https" and host:
        return
    if parts.scheme == "http" and host and is_loopback(host):
        return
    raise ModelError(f"{_shown(address)}: an https address was expected (http only on this machine itself)")


def _shown(address: str) -> str:
    """An address without its possible secrets: user, password, query."""
    try:
        parts = urllib.parse.urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
        return printable(f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}")[:300]
    except ValueError:
        return "the address"


# --- files ------------------------------------------------------------------------------------------------------------


class _Budget:
    """How many bytes and files may still be written."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes, self._files = limits.unpacked, limits.files

    def file(self) -> None:
        self._files -= 1
        if self._files < 0:
            raise ModelError(f"the bundle has more than {self._limits.files} files")

    def take(self, size: int) -> None:
        self._bytes -= size
        if self._bytes < 0:
            raise ModelError(f"the bundle unpacks to more than {self._limits.unpacked // _MIB} MiB")


def _write(path: Path, chunks: Iterator[bytes], budget: _Budget) -> None:
    budget.file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        for chunk in chunks:
            budget.take(len(chunk))
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    while chunk := content.read(_MIB):
        yield chunk


def _check_name(name: str, place: str) -> None:
    """Refuse a path that is not a plain relative one, on this system or on the one where it is looked at."""
    parts = name.split("/")
    shown = printable(name)[:200]
    for part in parts:
        if part in ("", ".", "..") or not part.isprintable() or _FORBIDDEN & set(part) or len(part.encode()) > 200:
            raise ModelError(f"{place}: holds {shown!r}, which is no plain path inside a bundle")
    if len(parts) > 16 or len(name) > 500:
        raise ModelError(f"{place}: holds {shown!r}, which is too deep or too long")


def _is_left_out(path: PurePosixPath) -> bool:
    """Whether a file is left out: hidden, a system's own, or compiled Python, which runs in place of its source."""
    return path.suffix in (".pyc", ".pyo") or any(
        part.startswith(".") or part in ("__pycache__", "__MACOSX") for part in path.parts
    )


def remove_tree(path: Path) -> None:
    """Delete a folder of the store with its read-only folders.

    Raises:
        OSError: the file system refuses.
    """
    for folder, _, _ in os.walk(path):
        Path(folder).chmod(0o700)
    shutil.rmtree(path)
