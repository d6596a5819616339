"""Whether the models of a route have what the route asks for: classes, an operating point, classes with a prevalence.

Only a model's ``reading.json`` knows that, so the configuration file alone cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ai.bundle.files import READING
from ai.bundle.manifest import ReadingSpec, load_reading_spec
from ai.bundle.pins import Pinned
from dicom_node.config.settings import Route, Settings
from dicom_node.errors import ConfigError


def faults(settings: Settings, specs: Mapping[str, ReadingSpec]) -> list[str]:
    """A line for each thing that a route asks for and a model does not have: route, key, value, what the model has.

    Models that ``specs`` lacks are passed over: why they cannot be used is told elsewhere.
    """
    return [line for route in settings.routes for line in _of_route(settings, route, specs)]


def check(settings: Settings, bundles: Mapping[str, Pinned]) -> None:
    """Compare the routes with the bundles that a node would read with; nothing is hashed or loaded.

    Raises:
        ConfigError: a route asks for what a model does not have. The message has a line for each fault.
    """
    specs = {}
    for name, pinned in bundles.items():
        try:
            specs[name] = load_reading_spec(pinned.path / READING)
        except ValueError:  # a damaged bundle: its readings fail, and the node says so when it loads it
            continue
    if found := faults(settings, specs):
        raise ConfigError("\n".join(found))


def _of_route(settings: Settings, route: Route, specs: Mapping[str, ReadingSpec]) -> list[str]:
    asked, lines = settings.asked(route), []
    names = (*route.models, *route.shadow)
    for name in (each for each in names if each in specs):
        for ask in (partial(specs[name].looked_for, asked.findings), partial(specs[name].at, asked.operating_point)):
            try:
                ask()
            except ValueError as error:
                lines.append(f"route {route.name!r}: {error}")
    if all(name in specs for name in names):
        classes = {name: [output.key for output in specs[name].outputs if output.finding] for name in names}
        have = "; ".join(f"{name} has {', '.join(keys) or 'none'}" for name, keys in classes.items())
        lines += [
            f"route {route.name!r}: prevalence: {key!r} is no class of its models; {have}"
            for key in route.prevalence
            if not any(key in keys for keys in classes.values())
        ]
    return lines
