"""The configuration that a hospital's IT edits: TOML in, frozen settings out, or one clear error.

Each default stands here and nowhere else. A wrong file never starts a node: the error names the file, the key (or the
line, where the file is no TOML), what stands there and what was expected.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from ai.contract import Asked
from dicom_node.config.retention import Retention
from dicom_node.config.values import (
    AETitle,
    Flag,
    Host,
    Language,
    Name,
    Output,
    Outputs,
    Patterns,
    Pictures,
    Port,
    Prevalence,
    Seconds,
    Table,
    Viewer,
    address_of,
    is_this_machine,
    once,
    to_folder,
)

_WILDCARDS = frozenset("*?[")

SERIES_OF_A_MODEL = 10
"""How many Series Numbers the results of each model have, from ``series_number_base`` on."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How results are made for a destination: every setting that changes their bytes, with its default.

    ``outputs`` are the kinds of objects; ``language`` is that of the texts that people read (codes have none);
    ``character_set`` "source" keeps the source's Specific Character Set wherever it can hold the texts, "utf-8" never
    does; ``sr_class`` is the report's SOP class; the first series of the first model is numbered
    ``series_number_base``. ``viewer`` names the one in which the results are read: see :attr:`made`. ``prevalence`` is
    the share of the route's patients that have a class, by the class's key. ``pictures`` is how the pixels of secondary
    captures are encoded: by JPEG baseline, which is lossy, or without loss; ``sc_rows`` is the most rows and columns of
    the image in one. ``seg`` is how outlines are stored: a bit for each segment, or the number of the segment.
    """

    outputs: tuple[Output, ...] = ("sr", "sc", "gsps", "seg", "kos")
    language: Language = "en"
    content_qualification: Literal["RESEARCH", "PRODUCT", "SERVICE"] = "RESEARCH"
    series_number_base: int = 9001
    character_set: Literal["source", "utf-8"] = "source"
    sr_class: Literal["comprehensive", "comprehensive3d"] = "comprehensive"
    viewer: Viewer = "any"
    prevalence: tuple[tuple[str, float], ...] = ()
    pictures: Pictures = "jpeg"
    sc_rows: int = 2048
    seg: Literal["binary", "labelmap"] = "binary"

    def __post_init__(self) -> None:
        # The order in a file says nothing: two that differ in it alone are one profile, with one set of UIDs.
        object.__setattr__(self, "outputs", tuple(each for each in get_args(Output) if each in self.outputs))
        object.__setattr__(self, "prevalence", tuple(sorted(self.prevalence)))

    @property
    def made(self) -> tuple[Output, ...]:
        """The kinds of objects that are made: ``outputs`` without those that the viewer shows as unsupported."""
        left_out = ("gsps", "kos") if self.viewer == "ohif" else ()
        return tuple(each for each in self.outputs if each not in left_out)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the settings; the order of ``outputs`` does not matter."""
        settings = {**asdict(self), "outputs": sorted(self.outputs)}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


class _Wishes(Table):
    """What a route or a destination may say of the results; what neither says has the default of :class:`Profile`."""

    outputs: Outputs | None = None
    """Which result objects are made; one of sr, sc and pdf must be among them."""
    language: Language | None = None
    """The language of the texts that people read."""
    content_qualification: Literal["RESEARCH", "PRODUCT", "SERVICE"] | None = None
    """PRODUCT only for a model that is cleared for clinical use: it removes the words 'not for diagnostic use'."""
    series_number_base: Annotated[int, Field(strict=True, ge=1, le=2147483000)] | None = None
    """The number of the first result series; the other kinds follow it, and each further model begins ten higher."""
    character_set: Literal["source", "utf-8"] | None = None
    """'source' keeps the images' character set where it can hold the texts; 'utf-8' always converts to Unicode."""
    sr_class: Literal["comprehensive", "comprehensive3d"] | None = None
    """The kind of structured report; 'comprehensive3d' is made where the destination is known to accept it."""
    viewer: Viewer | None = None
    """Where the results are read: 'ohif' leaves out what OHIF does not draw, and puts words where it shows them."""
    pictures: Pictures | None = None
    """Pixels of pictures: 'jpeg' (lossy), 'jpeg-ls' or 'uncompressed' (lossless); left out, the node chooses."""
    sc_rows: Annotated[int, Field(strict=True, ge=512, le=16384)] | None = None
    """The most rows and columns of the image in a picture; a larger one is reduced, in proportion."""
    seg: Literal["binary", "labelmap"] | None = None
    """The kind of segmentation; 'labelmap' (Supplement 243) is smaller, and few viewers open it yet."""

    def wishes(self) -> dict[str, Any]:
        """What is said, by the name of :class:`Profile`'s field."""
        return {name: getattr(self, name) for name in _Wishes.model_fields if getattr(self, name) is not None}


class NodeSettings(Table):
    """``[node]``: who we are, where we listen, where we keep things."""

    ae_title: AETitle = "AINODE"
    """Our AE title: what modalities and the PACS call."""
    host: Host = "127.0.0.1"
    """The address to listen on; 0.0.0.0 is every IPv4 address of this machine, :: every one of both families."""
    port: Annotated[int, Field(strict=True, ge=0, le=65535)] = 11112
    """The TCP port to listen on; 0 takes any free one."""
    data_dir: Annotated[Path, BeforeValidator(to_folder)] = Path("var")
    """The folder of images, index and results, on a local disk; a relative path counts from this file's folder."""
    quiet_seconds: Seconds = 5.0
    """A study is complete after this long without a new image."""
    accept_unknown_callers: Flag = False
    """With true every station on the network may store images here."""
    read_timeout_seconds: Annotated[Seconds, Field(ge=1)] = 120.0
    """A reading that takes longer is stopped and tried again, three times in all."""
    device: Annotated[
        str,
        Field(
            pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$",
            json_schema_extra={"allowed": "auto, cpu, cuda, cuda:0 to cuda:99"},
        ),
    ] = "auto"
    """Where models run: auto takes a GPU where there is one, else the CPU."""
    keep_free_gb: Annotated[float, Field(strict=True, ge=0, le=1_000_000, allow_inf_nan=False)] = 1.0
    """Images are refused (A700) while fewer gigabytes are free where data_dir lies."""
    max_waiting_studies: Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)] = 10_000
    """Images of further studies are refused (A700) while so many studies wait to be read."""
    wait_seconds: Seconds = 30.0
    """How long a study waits at most for images that are known to be missing."""
    deliver_for_hours: Annotated[float, Field(strict=True, gt=0, le=8760, allow_inf_nan=False)] = 72.0
    """How long a result is offered to a PACS that does not take it."""


class Peer(_Wishes):
    """``[[peers]]``: an AE that we talk to.

    ``host`` is where we reach it and, unless ``any_host``, the only address that it may call from. What a destination
    says of results counts before what the route says. One with ``commitment`` has a result when it has committed to it.
    One with ``iocm`` hides results that are withdrawn (IHE RAD, Imaging Object Change Management).
    The release of an association by one that ``sends_whole_studies`` completes them.
    """

    name: Name
    """Your name for the peer, used in this file and in the log."""
    ae_title: AETitle
    """The peer's AE title."""
    host: Host | None = None
    """Where we reach it, and what it may call from (a name: each of its addresses); needed unless any_host is true."""
    port: Port | None = None
    """The TCP port where it listens; needed for a destination."""
    may_store: Flag = False
    """It may send images to us."""
    may_correct: Flag = False
    """An image that it sends changed takes the place of another peer's, as a PACS's does that corrects patients."""
    destination: Flag = False
    """It receives results."""
    any_host: Flag = False
    """It may call from every address; only its AE title is checked."""
    sends_whole_studies: Flag = False
    """It sends a whole study over one association: the release of the association completes the study."""
    commitment: Flag = False
    """A study is delivered only when this destination has committed to keep the results (storage commitment)."""
    iocm: Flag = False
    """Results that later ones replace are rejected at this destination by a key object (IHE RAD, IOCM)."""

    @model_validator(mode="after")
    def _complete(self) -> Peer:
        if self.destination and (self.host is None or self.port is None):
            raise ValueError(f"peer {self.name!r} is a destination: it needs host and port, where we reach it")
        if self.host is None and not self.any_host:
            raise ValueError(f"peer {self.name!r} needs a host, the address it calls from (or any_host = true)")
        for key in ("commitment", "iocm"):
            if getattr(self, key) and not self.destination:
                raise ValueError(f"peer {self.name!r} is no destination: {key} can only stand where destination = true")
        for key in ("may_correct", "sends_whole_studies"):
            if getattr(self, key) and not self.may_store:
                raise ValueError(f"peer {self.name!r} may not store: {key} needs may_store = true")
        if self.wishes() and not self.destination:
            keys = ", ".join(self.wishes())
            raise ValueError(f"peer {self.name!r} is no destination: {keys} can only stand where destination = true")
        once(f"peer {self.name!r}", "outputs", list(self.outputs or ()))
        return self


class Match(Table):
    """``[routes.match]``: all given keys must match; a list is any-of; patterns are fnmatch, case-blind."""

    modality: Patterns = ("*",)
    """Modality of the series."""
    body_part: Patterns = ("*",)
    """Body Part Examined of the series."""
    description: Patterns = ("*",)
    """Description of the study or of the series."""
    from_: Annotated[Patterns, Field(alias="from")] = ("*",)
    """AE titles that the series was received from."""


class Route(_Wishes):
    """``[[routes]]``: which studies are read by which models and where the results go."""

    name: Name
    """Your name for the route, used in the log and in `dicom-node studies`."""
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Models that read the study; their results are sent."""
    shadow: tuple[Name, ...] = ()
    """Models on trial: they read the study too, and nothing of it is sent."""
    to: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Names of the peers that receive the results; each has destination = true."""
    findings: Patterns = ("*",)
    """Which classes of the models are looked for, by their keys; '*' is those that a model looks for by default."""
    operating_point: Literal["low_alarm", "balanced", "screening"] | None = None
    """The model's operating point: how readily it calls a finding; where it is left out, the model's default."""
    prevalence: Prevalence = {}  # noqa: RUF012 - pydantic copies it
    """The share of this route's patients that have a class, by its key; without it no probability is stated."""
    report_failures: Flag = True
    """A study that cannot be read gets a report that says so."""
    report_not_read: Flag = False
    """A study with no image of the kind that a model reads gets a report that says so."""
    quiet_seconds: Seconds | None = None
    """Used instead of the node's quiet_seconds."""
    count_at: Name | None = None
    """The peer that is asked how many images it has of a study (C-FIND)."""
    match: Match = Match()
    """Which studies take the route."""


class Settings(Table):
    """The whole file. ``data_dir`` is absolute once loaded: a relative one is taken from the file's own folder."""

    node: NodeSettings = NodeSettings()
    """Who we are, where we listen, where we keep things."""
    retention: Retention = Retention()
    """What is removed and when."""
    peers: tuple[Peer, ...] = ()
    """Every AE that we talk to."""
    routes: tuple[Route, ...] = ()
    """Which studies are read by which models, and where the results go."""

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        self._room_before_refusing()
        once("peers", "name", [p.name for p in self.peers])
        once("routes", "name", [r.name for r in self.routes])
        self._no_loop()
        self._no_ambiguous_callers()
        destinations = {p.name for p in self.peers if p.destination}
        for route in self.routes:
            for name in route.to:
                if name not in destinations:
                    known = ", ".join(sorted(destinations)) or "none"
                    raise ValueError(
                        f"route {route.name!r}: to names {name!r}, which is no peer with destination = true "
                        f"(those are: {known})"
                    )
            if route.count_at is not None and not any(
                p.name == route.count_at and p.host is not None and p.port is not None for p in self.peers
            ):
                raise ValueError(
                    f"route {route.name!r}: count_at names {route.count_at!r}, which is no peer with host and port"
                )
            for key in ("models", "shadow", "outputs", "to"):
                once(f"route {route.name!r}", key, list(getattr(route, key) or ()))
            for name in route.shadow:
                if name in route.models:
                    raise ValueError(
                        f"route {route.name!r}: {name!r} stands in models and in shadow; expected it in one of them: "
                        "results of models are sent, those of shadow are not"
                    )
            self._callers_exist(route)
        self._no_shared_series_numbers()
        return self

    def _no_shared_series_numbers(self) -> None:
        """No two models have the same Series Numbers at one destination, whatever ``series_number_base`` they have."""
        places = {name: place for place, name in enumerate(self.reading_models())}
        begins: dict[tuple[str, str], set[int]] = {}
        for route in self.routes:
            for peer in route.to:
                base = self.profile(route, peer).series_number_base
                for model in route.models:
                    begins.setdefault((peer, model), set()).add(base + SERIES_OF_A_MODEL * places[model])
        for (peer, model), ours in begins.items():
            for (other_peer, other), theirs in begins.items():
                near = [a for a in ours for b in theirs if abs(a - b) < SERIES_OF_A_MODEL]
                if other_peer == peer and other != model and near:
                    raise ValueError(
                        f"peer {peer!r}: results of {model!r} and {other!r} would both have series number {near[0]}: "
                        "expected values of series_number_base that are equal, or further apart"
                    )

    def _room_before_refusing(self) -> None:
        free, kept = self.retention.free_gb, self.node.keep_free_gb
        if free is None:
            return
        if free <= kept:
            raise ValueError(
                f"retention.free_gb is {free:g}: expected more than node.keep_free_gb ({kept:g}), or images would be "
                "refused before room is made for them"
            )

    def _no_loop(self) -> None:
        node = self.node
        for peer in self.destinations():
            if (peer.ae_title, peer.port) == (node.ae_title, node.port) and is_this_machine(str(peer.host), node.host):
                raise ValueError(
                    f"peer {peer.name!r} is a destination, but {peer.ae_title} at {peer.host}:{peer.port} is this node "
                    f"itself: its results would come back to it; expected another AE title, host or port"
                )

    def _no_ambiguous_callers(self) -> None:
        for number, one in enumerate(self.peers):
            for other in self.peers[:number]:
                hosts = (one.host, other.host)
                same_host = None not in hosts and address_of(str(one.host)) == address_of(str(other.host))
                if one.ae_title != other.ae_title or not (same_host or (one.any_host and other.any_host)):
                    continue
                where = f"from {one.host}" if same_host else "from any host"
                for key in ("may_store", "may_correct"):
                    if getattr(one, key) != getattr(other, key):
                        raise ValueError(
                            f"peers {other.name!r} and {one.name!r} both call as {one.ae_title} {where}, but only one "
                            f"of them has {key} = true; expected the same {key} on both"
                        )

    def _callers_exist(self, route: Route) -> None:
        if self.node.accept_unknown_callers:
            return
        titles = {p.ae_title for p in self.peers}
        known = {title.lower() for title in titles}
        for pattern in route.match.from_:
            if not _WILDCARDS & set(pattern) and pattern.lower() not in known:
                raise ValueError(
                    f"route {route.name!r}: match.from names {pattern!r}, which is the AE title of no peer: it could "
                    f"never match (those are: {', '.join(sorted(titles))})"
                )

    def asked(self, route: Route) -> Asked:
        """What the models of a route are asked to look for; the order in the file says nothing."""
        return Asked(tuple(sorted({each.lower() for each in route.findings})), route.operating_point or "")

    def quiet_seconds(self, route: Route) -> float:
        """How long a study of this route must be quiet before it counts as complete."""
        return self.node.quiet_seconds if route.quiet_seconds is None else route.quiet_seconds

    def profile(self, route: Route, destination: str) -> Profile:
        """How results of a route are made for a destination: its own wishes first, then the route's."""
        return Profile(**self.wishes(route, destination), prevalence=tuple(route.prevalence.items()))

    def wishes(self, route: Route, destination: str) -> dict[str, Any]:
        """What the configuration says of a destination's results, by the name of :class:`Profile`'s field."""
        return {**route.wishes(), **self.peer(destination).wishes()}

    def peer(self, name: str) -> Peer:
        """The peer of that name; the configuration guarantees that the names used by routes exist."""
        return next(p for p in self.peers if p.name == name)

    def destinations(self) -> tuple[Peer, ...]:
        """Every peer that receives results."""
        return tuple(p for p in self.peers if p.destination)

    def callable(self) -> tuple[Peer, ...]:
        """Every peer that may ask us for storage commitment and can be called back."""
        return tuple(p for p in self.peers if p.may_store and p.host is not None and p.port is not None)

    def models(self) -> tuple[str, ...]:
        """Every model that a route names, in shadow or not, each once, in the file's order."""
        return tuple(dict.fromkeys(name for route in self.routes for name in (*route.models, *route.shadow)))

    def reading_models(self) -> tuple[str, ...]:
        """Every model whose results a route sends."""
        return tuple(dict.fromkeys(name for route in self.routes for name in route.models))

    def shadow_models(self) -> tuple[str, ...]:
        """Every model that a route has in shadow; one may be a reading model of another route, too."""
        return tuple(dict.fromkeys(name for route in self.routes for name in route.shadow))
