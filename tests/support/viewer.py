"""A radiologist's place: OHIF or DWV over the DICOMweb of an Orthanc, driven in a headless Chromium.

The viewers are the released ones, installed by scripts/test; Chromium is the system's. Positions are in CSS pixels
of the page, which the screenshots share.
"""

from __future__ import annotations

import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Response, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from pydicom.dataset import Dataset

from tests.support.programs import ROOT, tool
from tests.support.waiting import scaled

VERSIONS = ("3.12.10", "3.13.2")
"""Those of OHIF; scripts/test names the same, and the folders."""

DWV = ROOT / ".cache" / "dwv-0.36.4" / "node_modules"  # tests/support/dwv/package.json pins it
DWV_PAGE = ROOT / "tests" / "support" / "dwv" / "index.html"
PATIENCE_MS = 120_000  # a machine that is busy with other things draws slowly; nothing here waits longer than it must
# On a busy machine OHIF now and then never draws what it has loaded, however long one waits; loaded again, it does.
LOADS, LOAD_MS = 3, 45_000

CONFIG = b"""window.config = {
  routerBasename: '/', extensions: [], modes: [], showStudyList: true, maxNumberOfWebWorkers: 1,
  investigationalUseDialog: {option: 'never'}, defaultDataSourceName: 'pacs',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'pacs',
    configuration: {
      friendlyName: 'pacs', name: 'pacs',
      qidoRoot: '/dicom-web', wadoRoot: '/dicom-web', wadoUriRoot: '/dicom-web',
      imageRendering: 'wadors', thumbnailRendering: 'wadors', enableStudyLazyLoad: true,
      qidoSupportsIncludeField: false, supportsFuzzyMatching: false, supportsWildcard: true,
      omitQuotationForMultipartRequest: true, singlepart: 'bulkdata',
      bulkDataURI: {enabled: true, relativeResolution: 'studies'},
    },
  }],
};"""

# There is no GPU to draw with, and root may not have Chromium's sandbox.
CHROMIUM = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]

# The guided tour lies over everything until it was seen.
SEEN = "localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))"

# The place of the one viewport: OHIF draws thumbnails in viewports as well, which stand elsewhere and come and go.
GRID = '[data-cy="viewport-grid"]'

# What the viewport shows, once it is drawn: the address of the image, which has its UIDs in it.
SHOWN = f"""() => {{
    const viewports = (window.cornerstone?.getEnabledElements() ?? []).map(one => one.viewport);
    const viewport = viewports.find(one => one.element.closest('{GRID}'));
    return viewport?.viewportStatus === 'rendered' && viewport.getCurrentImageId?.() || '';
}}"""

# SVG rectangles of the layer for annotations, as they stand on the page after every transformation.
RECTANGLES = f"""() => [...document.querySelectorAll('{GRID} svg.svg-layer rect')].map(rect => {{
    const box = rect.getBBox(), place = rect.getScreenCTM();
    const [a, b] = [[box.x, box.y], [box.x + box.width, box.y + box.height]]
        .map(([x, y]) => new DOMPoint(x, y).matrixTransform(place));
    return [a.x, a.y, b.x, b.y];
}})"""


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def distance(self, other: Box) -> float:
        """How far apart the corners are that are furthest apart."""
        corners = ((self.left, self.top), (self.right, self.bottom))
        others = ((other.left, other.top), (other.right, other.bottom))
        return max(math.dist(a, b) for a, b in zip(corners, others, strict=True))


@dataclass(frozen=True)
class Placement:
    """Where an image of square pixels stands if it is fitted into a frame and centred: what a viewer does at first."""

    left: float
    top: float
    scale: float
    """Screen pixels for each image pixel."""

    @classmethod
    def fitted(cls, frame: Box, rows: int, columns: int) -> Placement:
        width, height = frame.right - frame.left, frame.bottom - frame.top
        scale = min(width / columns, height / rows)
        return cls(frame.left + (width - columns * scale) / 2, frame.top + (height - rows * scale) / 2, scale)

    def box(self, region: Box) -> Box:
        """A region of the image (PS3.3 C.18.6.1.1: the corner of the first pixel is 0, 0) on the page."""
        x, y = self.left, self.top
        return Box(
            x + region.left * self.scale,
            y + region.top * self.scale,
            x + region.right * self.scale,
            y + region.bottom * self.scale,
        )

    def laid(self, image: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An image of one channel as it should be on a page of this shape."""
        affine = (1 / self.scale, 0, -self.left / self.scale, 0, 1 / self.scale, -self.top / self.scale)
        size, source = (shape[1], shape[0]), Image.fromarray(image.astype(np.float32))
        return np.asarray(source.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR))

    def offset(self, image: NDArray[Any], page: NDArray[Any]) -> float:
        """How far the page shows the image from here, in screen pixels: the worst of its four quarters.

        Each quarter is moved about on the page until it fits best, so a wrong scale is seen as well.
        """
        rows, columns = image.shape
        laid, reach = self.laid(image, page.shape), 3
        moves = [(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]
        offsets = []
        for row, column in ((0, 0), (0, columns / 2), (rows / 2, 0), (rows / 2, columns / 2)):
            box = self.box(Box(column, row, column + columns / 2, row + rows / 2))
            top, bottom = int(box.top) + reach, int(box.bottom) - reach
            left, right = int(box.left) + reach, int(box.right) - reach
            wanted = laid[top:bottom, left:right].ravel()
            seen = (page[top + y : bottom + y, left + x : right + x].ravel() for y, x in moves)
            fits = [float(np.corrcoef(wanted, one)[0, 1]) for one in seen]
            assert max(fits) > 0.9, f"the page does not show the image: correlation {max(fits):.2f}"
            offsets.append(math.hypot(*moves[fits.index(max(fits))]))
        return max(offsets)


@dataclass
class Opened:
    """A page of a viewer."""

    page: Page
    canvas: str
    """The CSS selector of the image's canvas."""

    errors: list[str] = field(default_factory=list)
    """What the page complained of: console errors, exceptions, and HTTP answers that say no."""

    asked: list[str] = field(default_factory=list)
    """The addresses that the page asked for."""

    def frame(self) -> Box:
        """The viewport on the page."""
        box = self.page.locator(self.canvas).bounding_box()
        assert box is not None
        return Box(box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])

    def drawn(self, path: Path) -> Image.Image:
        """The page once something is to be seen in the viewport, and stands still: OHIF says so a moment before."""
        frame, before, deadline = self.frame(), None, time.monotonic() + scaled(30)
        while time.monotonic() < deadline:
            page = self.screenshot(path)
            now = page.crop((int(frame.left), int(frame.top), int(frame.right), int(frame.bottom))).tobytes()
            if now == before and len(np.unique(np.frombuffer(now, np.uint8))) > 32:
                return page
            before = now
            self.page.wait_for_timeout(250)
        raise AssertionError("the viewer draws nothing, or does not stand still")

    def screenshot(self, path: Path) -> Image.Image:
        """The page as it is seen, kept for people as well."""
        content = self.page.screenshot(path=path)
        return Image.open(BytesIO(content))


class Study(Opened):
    """A study that is open in OHIF, in a page of its own."""

    def series(self, one: Dataset) -> Locator:
        """The entry of an object's series in the list, whether it has a thumbnail or not."""
        entry = f'[data-cy^="study-browser-thumbnail"][data-series="{one.SeriesNumber}"]'
        return self.page.locator(entry)

    def open(self, one: Dataset) -> None:
        """Open an object's series in the viewport."""
        self.series(one).dblclick()

    def wait_for_thumbnail(self, one: Dataset) -> None:
        """Wait until the list has a picture of this object's series."""
        thumbnail = self.series(one).locator("img")
        self.page.wait_for_function("img => img.naturalWidth > 0", arg=thumbnail.element_handle())

    def wait_for_image(self, image: Dataset) -> None:
        """Wait until the viewport has drawn this image."""
        self.page.wait_for_function(f"uid => ({SHOWN})().includes(uid)", arg=f"/{image.SOPInstanceUID}/")

    def answer(self, button: str) -> None:
        """Answer what OHIF asks."""
        self.page.get_by_role("button", name=button, exact=True).click()

    def rectangles(self, count: int) -> list[Box]:
        """The rectangles that are drawn over the image, from the top down, once so many of them stand still."""
        self.page.wait_for_function(f"count => ({RECTANGLES})().length === count", arg=count)
        before = None
        while before != (now := self.page.evaluate(RECTANGLES)):
            before = now
            self.page.wait_for_timeout(250)
        return sorted((Box(*one) for one in now), key=lambda one: one.top)

    def open_measurements(self) -> Locator:
        """Open the list of measurements beside the image."""
        self.page.locator('[data-cy="trackedMeasurements-btn"]').click()
        return self.page.locator('[data-cy="data-row"]')


@dataclass
class Ohif:
    browser: Browser
    address: str
    version: str

    @contextmanager
    def study(self, study_uid: str) -> Iterator[Study]:
        with _page(self.browser) as page:
            page.add_init_script(SEEN)
            study = Study(page, f"{GRID} canvas.cornerstone-canvas")
            _listen(study)
            for left in range(LOADS - 1, -1, -1):
                study.errors.clear()
                page.goto(f"{self.address}/viewer?StudyInstanceUIDs={study_uid}")
                try:
                    page.wait_for_function(SHOWN, timeout=scaled(LOAD_MS))
                except PlaywrightTimeoutError:
                    if not left:
                        raise
                else:
                    break
            yield study


@dataclass
class Dwv:
    browser: Browser
    address: str

    @contextmanager
    def object(self, one: Dataset) -> Iterator[Opened]:
        """An object as DWV gets it by WADO-URI (PS3.18 9) and draws it."""
        uids = f"studyUID={one.StudyInstanceUID}&seriesUID={one.SeriesInstanceUID}&objectUID={one.SOPInstanceUID}"
        wado = quote(f"/wado?requestType=WADO&contentType=application/dicom&{uids}", safe="")
        with _page(self.browser) as page:
            opened = Opened(page, ".viewLayer canvas")
            _listen(opened)
            page.goto(f"{self.address}/?of={wado}")
            page.wait_for_function("window.drawn || window.problems?.length")
            problems = page.evaluate("window.problems")
            assert not problems, (problems, opened.errors, opened.asked[-3:])
            yield opened


@contextmanager
def _page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1500, "height": 950})
    page.set_default_timeout(scaled(PATIENCE_MS))
    try:
        yield page
    finally:
        page.close()


def _listen(opened: Opened) -> None:
    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            opened.errors.append(message.text)

    def on_response(response: Response) -> None:
        opened.asked.append(response.url)
        if response.status >= 400:
            opened.errors.append(f"{response.status} {response.url}")

    opened.page.on("console", on_console)
    opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.page.on("response", on_response)


class _Handler(SimpleHTTPRequestHandler):
    """A viewer's files, and Orthanc's DICOMweb from the same origin, since Orthanc grants other origins nothing."""

    def __init__(self, *args: Any, orthanc: str, index: Path, **kwargs: Any) -> None:
        self._orthanc, self._index = orthanc, index
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/dicom-web/") or path == "/wado":
            self._answer(*self._ask())
        elif path == "/app-config.js":
            self._answer(200, "text/javascript", CONFIG)
        else:
            super().do_GET()

    def translate_path(self, path: str) -> str:
        """Every path that is no file is a place inside the application."""
        file = super().translate_path(path)
        return file if Path(file).is_file() else str(self._index)

    def _ask(self) -> tuple[int, str, bytes]:
        headers = {"Accept": self.headers.get("Accept", "*/*")}
        request = urllib.request.Request(self._orthanc + self.path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=scaled(60)) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["Content-Type"], error.read()

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_args: Any) -> None:
        """A browser that is closed leaves requests unanswered: no fault."""


@contextmanager
def serving(orthanc_http: int, folder: Path, index: Path) -> Iterator[str]:
    """Serve a viewer's folder over an Orthanc that has the DICOMweb plugin, from one address."""
    if not (folder.is_dir() and index.is_file()):
        pytest.skip(f"{folder.relative_to(ROOT)} is missing (scripts/test fetches it by npm)")
    handler = partial(_Handler, directory=str(folder), index=index, orthanc=f"http://127.0.0.1:{orthanc_http}")
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def browsing() -> Iterator[Browser]:
    chromium = tool("chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=CHROMIUM, timeout=scaled(PATIENCE_MS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def viewing(browser: Browser, orthanc_http: int, version: str) -> Iterator[Ohif]:
    """OHIF in a browser, over an Orthanc that has the DICOMweb plugin."""
    folder = ROOT / ".cache" / f"ohif-{version}"
    with serving(orthanc_http, folder, folder / "index.html") as address:
        yield Ohif(browser, address, version)


@contextmanager
def viewing_by_dwv(browser: Browser, orthanc_http: int) -> Iterator[Dwv]:
    """DWV in a browser, over the same."""
    with serving(orthanc_http, DWV, DWV_PAGE) as address:
        yield Dwv(browser, address)
