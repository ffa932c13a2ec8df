"""The pictures of the page that the docs show: made from the demo's gallery, in chromium.

    python docs/screenshots.py

The demo's pictures are those of scikit-image. Altered views of them are enrolled, too, so that
there is something to measure.
"""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from siamese_search import Gallery
from siamese_search.evaluation.demonstration import demonstrate

expect.set_options(timeout=30_000)
PICTURES = Path(__file__).parent / "pictures"
QUALITY = 82  # of WebP
MOST = 150_000  # bytes
DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/png" }));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
}"""


def made(place: Path) -> tuple[Path, Path]:
    """A gallery with something to show, and the folder of views that were not enrolled."""
    folder, pictures = place / "demo", place / "demo-pictures"
    with Gallery.open(folder, "general-2") as gallery:
        demonstrate(gallery, pictures)
        views = sorted(path for path in (pictures / "probes").iterdir() if path.is_dir())
        names = {name for name, _ in gallery.identities()}
        for view in views[:4]:
            for path in sorted(view.glob("*.png")):
                if path.stem in names:
                    gallery.enroll([path], path.stem)
        gallery.calibrate(0.05)
        strange = [path for path in (pictures / "probes").rglob("*.png") if path.stem not in names]
        for _ in gallery.identify_each(sorted(strange), keep_unknown=True):
            pass
    return folder, views[-1]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of the page."""
    command = [sys.executable, "-m", "siamese_search", "serve", "-g", str(folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            yield next(line for line in server.stderr if line.startswith("serving on ")).split()[2]
        finally:
            server.terminate()


def opened(browser: Browser, address: str, view: str, width: int, height: int, scheme: str) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.goto(f"{address}#/demo/{view}")
    expect(page.locator("main h1")).to_be_visible()
    return page


def drop(page: Page, path: Path) -> None:
    page.evaluate(DROP, [path.name, base64.b64encode(path.read_bytes()).decode()])


def kept(page: Page, name: str) -> None:
    """Keep what is seen as a picture of the docs, once all pictures on it are there."""
    expect(page.locator(".frame:not(:has(img, .none))")).to_have_count(0)
    page.wait_for_timeout(300)  # until they are drawn
    path = PICTURES / f"page-{name}.webp"
    Image.open(io.BytesIO(page.screenshot())).save(path, quality=QUALITY, method=6)
    size = path.stat().st_size
    print(f"{path.name}: {size:,} bytes")
    if size > MOST:
        sys.exit(f"{path} has more than {MOST:,} bytes: show less")
    page.context.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        folder, views = made(Path(place))
        chromium = shutil.which("chromium")
        flags = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        with served(folder) as address:
            page = opened(browser, address, "identify", 1180, 810, "light")
            drop(page, views / "chelsea.png")
            expect(page.locator(".candidate").first).to_be_visible()
            kept(page, "identify")

            page = opened(browser, address, "verify", 900, 860, "dark")
            drop(page, views / "chelsea.png")
            drop(page, views.parent / "turned by 12°" / "chelsea.png")
            expect(page.locator(".verdict .score-line")).to_be_visible()
            kept(page, "verify")

            for view, width, height, scheme in (
                ("gallery", 390, 780, "light"),
                ("unknowns", 1000, 620, "dark"),
            ):
                page = opened(browser, address, view, width, height, scheme)
                expect(page.locator(".frame img").first).to_be_visible()
                kept(page, view)

            page = opened(browser, address, "quality", 1100, 1210, "light")
            page.get_by_role("button", name="Measure scores").click()
            expect(page.locator(".det")).to_be_visible()
            page.get_by_role("button", name="Close this message").click()
            kept(page, "quality")
        browser.close()


if __name__ == "__main__":
    main()
