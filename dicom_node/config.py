"""The configuration that a hospital's IT edits: TOML in, frozen settings out, or one clear error.

Each default stands here and nowhere else. A wrong file never starts a node: the error names the file, the key (or the
line, where the file is no TOML), what stands there and what was expected.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dicom_node.errors import ConfigError


def _ae_title(value: str) -> str:
    """PS3.5 6.2, VR AE: 1 to 16 characters, no backslash, no control; spaces at the ends are not significant."""
    title = value.strip(" ")
    if not 1 <= len(title) <= 16 or "\\" in title or not all(" " <= c <= "~" for c in title):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def _host(value: str) -> str:
    text = value.strip()
    if not text or any(c.isspace() or not c.isprintable() or c in "/\\@" for c in text):
        raise ValueError("expected an IP address or a host name")
    return text


def _any_of(value: Any) -> Any:
    """One pattern may stand without the brackets of a list."""
    return (value,) if isinstance(value, str) else value


Patterns = Annotated[tuple[str, ...], BeforeValidator(_any_of), Field(min_length=1)]
AETitle = Annotated[str, AfterValidator(_ae_title)]
Host = Annotated[str, AfterValidator(_host)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)]
Output = Literal["sr", "sc"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeSettings(_Strict):
    """``[node]``: who we are, where we listen, where we keep things."""

    ae_title: AETitle = "AINODE"
    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 11112
    data_dir: Path = Path("var")
    quiet_seconds: Seconds = 5.0
    accept_unknown_callers: bool = False
    read_timeout_seconds: Annotated[float, Field(gt=0, le=86400)] = 120.0
    deliver_for_hours: Annotated[float, Field(gt=0, le=8760)] = 72.0


class Peer(_Strict):
    """``[[peers]]``: an AE that we talk to.

    ``host`` is where we reach it and, unless ``any_host``, the only address that it may call from.
    """

    name: Name
    ae_title: AETitle
    host: Host | None = None
    port: Port | None = None
    may_store: bool = False
    destination: bool = False
    any_host: bool = False

    @model_validator(mode="after")
    def _complete(self) -> Peer:
        if self.destination and (self.host is None or self.port is None):
            raise ValueError(f"peer {self.name!r} is a destination: it needs host and port, where we reach it")
        if self.host is None and not self.any_host:
            raise ValueError(f"peer {self.name!r} needs a host, the address it calls from (or any_host = true)")
        return self


class Match(_Strict):
    """``[routes.match]``: all given keys must match; a list is any-of; patterns are fnmatch, case-blind."""

    modality: Patterns = ("*",)
    body_part: Patterns = ("*",)
    description: Patterns = ("*",)
    from_: Annotated[Patterns, Field(alias="from")] = ("*",)


class Route(_Strict):
    """``[[routes]]``: which studies are read by which models and where the results go."""

    name: Name
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    outputs: Annotated[tuple[Output, ...], Field(min_length=1)] = ("sr", "sc")
    to: Annotated[tuple[Name, ...], Field(min_length=1)]
    quiet_seconds: Seconds | None = None
    match: Match = Match()


class Settings(_Strict):
    """The whole file. ``data_dir`` is absolute once loaded: a relative one is taken from the file's own folder."""

    node: NodeSettings = NodeSettings()
    peers: tuple[Peer, ...] = ()
    routes: tuple[Route, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        _once("peers", "name", [p.name for p in self.peers])
        _once("routes", "name", [r.name for r in self.routes])
        destinations = {p.name for p in self.peers if p.destination}
        for route in self.routes:
            for name in route.to:
                if name not in destinations:
                    known = ", ".join(sorted(destinations)) or "none"
                    raise ValueError(
                        f"route {route.name!r}: to names {name!r}, which is no peer with destination = true "
                        f"(those are: {known})"
                    )
            for key in ("models", "outputs", "to"):
                _once(f"route {route.name!r}", key, list(getattr(route, key)))
        return self

    def quiet_seconds(self, route: Route) -> float:
        """How long a study of this route must be quiet before it counts as complete."""
        return self.node.quiet_seconds if route.quiet_seconds is None else route.quiet_seconds

    def peer(self, name: str) -> Peer:
        """The peer of that name; the configuration guarantees that the names used by routes exist."""
        return next(p for p in self.peers if p.name == name)

    def destinations(self) -> tuple[Peer, ...]:
        """Every peer that receives results."""
        return tuple(p for p in self.peers if p.destination)

    def models(self) -> tuple[str, ...]:
        """Every model that a route names, each once, in the file's order."""
        return tuple(dict.fromkeys(name for route in self.routes for name in route.models))


def _once(where: str, key: str, values: Sequence[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{where}: each {key} may stand once, {', '.join(map(repr, twice))} stands more often")


def load(path: Path) -> Settings:
    """Read and check a configuration file.

    Raises:
        ConfigError: with one line for each fault: file, key or line, what stands there, what was expected.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_fault(path, e) for e in error.errors(include_url=False))) from error
    data_dir = settings.node.data_dir.expanduser()
    if not data_dir.is_absolute():
        data_dir = path.resolve().parent / data_dir
    return settings.model_copy(update={"node": settings.node.model_copy(update={"data_dir": data_dir})})


def _fault(path: Path, error: Any) -> str:
    key = ""
    for part in error["loc"]:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{path}: {key}: there is no such key; see config/hospital.toml for every key"
    if error["type"] == "missing":
        return f"{path}: {key}: is missing"
    shown = repr(error["input"])
    found = f"found {shown}; " if len(shown) <= 80 and not isinstance(error["input"], dict) else ""
    return f"{path}: {key or 'file'}: {found}{message[0].lower()}{message[1:]}"


def is_loopback(host: str) -> bool:
    """Whether an address or host name stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
