"""How fast is the page? In chromium, against ``siasearch serve``.

    python benchmarks/page.py --encoder general-2 [--pictures 30] [--identities 100000]

*Answer*: from the drop of a photo on a page that was just opened until its answer is drawn, in a
gallery of 40 kinds of groceries, five photos each; the server has answered before. *Beside
pictures*: until the candidates' pictures are drawn, too. *Frames*: how far apart they are while a
gallery of so many identities without pictures is scrolled, by 300 pixels a frame. *Jump* and
*search*: from the scroll to the end, or the last key, until what was asked for is drawn.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import grocery_split, parser, percentiles, table, write_results
from playwright.sync_api import Browser, sync_playwright

from siamese_search import Encoder, Gallery

KINDS, SHOTS = 40, 5
BLOCK = 20_000
FRAMES = 400
SLOW = 0.05  # seconds between frames that are seen as a jerk
# Each gives milliseconds, as the page itself sees them.
WATCHED = """const until = (found) => new Promise((done) => {
  const look = () => {
    if (found()) requestAnimationFrame(() => done(performance.now()));
    else requestAnimationFrame(look);
  };
  look();
});"""
DROP = f"""async ([name, content]) => {{
  {WATCHED}
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, {{ type: "image/jpeg" }}));
  const begun = performance.now();
  document.body.dispatchEvent(new DragEvent("drop", {{ dataTransfer: data, bubbles: true }}));
  const answered = await until(() => document.querySelector(".candidate"));
  const all = () => [...document.querySelectorAll(".candidate .frame")];
  const drawn = await until(() => all().every((one) => one.querySelector("img")?.complete));
  return [answered - begun, drawn - begun];
}}"""
SCROLL = """async (frames) => {
  const times = [];
  for (let frame = 0; frame <= frames; frame++) {
    times.push(await new Promise(requestAnimationFrame));
    scrollBy(0, 300);
  }
  return times.slice(1).map((time, index) => time - times[index]);
}"""
JUMP = f"""async (last) => {{
  {WATCHED}
  const begun = performance.now();
  scrollTo(0, document.documentElement.scrollHeight);
  const shown = () => [...document.querySelectorAll(".card .name")];
  return await until(() => shown().some((one) => one.textContent === last)) - begun;
}}"""
SEARCH = f"""async ([words, count]) => {{
  {WATCHED}
  const field = document.querySelector("input[type=search]");
  field.value = words;
  const begun = performance.now();
  field.dispatchEvent(new Event("input"));
  return await until(() => document.querySelector(".count").textContent.startsWith(count)) - begun;
}}"""


@contextlib.contextmanager
def served(*folders: Path) -> Iterator[str]:
    """The address at which galleries are served by a process of their own."""
    command = [sys.executable, "-m", "siamese_search", "serve", "--port", "0"]
    for folder in folders:
        command += ["-g", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                if line.startswith("serving on "):
                    yield line.split()[2]
                    break
            else:
                sys.exit("the server did not start")
        finally:
            server.terminate()


def answers(browser: Browser, address: str, photos: list[Path]) -> tuple[list[float], list[float]]:
    """Seconds from each drop until the answer, and until all pictures, are drawn."""
    told, drawn = [], []
    for number, photo in enumerate(photos):
        page = browser.new_page()
        page.goto(f"{address}#/shop/identify")
        page.wait_for_selector(".drop")
        content = base64.b64encode(photo.read_bytes()).decode()
        answered, whole = page.evaluate(DROP, [photo.name, content])
        if number:  # the first one opens the encoder
            told.append(answered / 1000)
            drawn.append(whole / 1000)
        page.close()
    return told, drawn


def scrolled(browser: Browser, address: str, count: int) -> dict[str, float]:
    """What it is like to look through many identities."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}#/many/gallery")
    page.wait_for_selector(".card .name")
    frames = [time / 1000 for time in page.evaluate(SCROLL, FRAMES)]
    median, slower = percentiles(frames)
    jump = page.evaluate(JUMP, f"thing {count - 1:06d}")
    found = sum("77" in f"thing {number:06d}" for number in range(count))
    search = page.evaluate(SEARCH, ["77", f"{found:,} "])
    return {
        "frames, ms apart, median": median,
        "frames, ms apart, 95 %": slower,
        "frames, ms apart, most": 1000 * max(frames),
        f"frames over {1000 * SLOW:g} ms apart, share": statistics.fmean(f > SLOW for f in frames),
        "jump to the end, ms": jump,
        "search, ms": search,
    }


def main() -> None:
    arguments = parser(__doc__, repeats=1)
    arguments.add_argument("--pictures", type=int, default=30)
    arguments.add_argument("--identities", type=int, default=100_000)
    options = arguments.parse_args()
    by_kind: dict[str, list[Path]] = defaultdict(list)
    for photo in grocery_split("train"):
        by_kind[photo.fine].append(Path(photo.path))
    kinds = dict(sorted(by_kind.items())[:KINDS])
    asked = [Path(p.path) for p in grocery_split("test") if p.fine in kinds]
    asked = asked[:: max(1, len(asked) // (options.pictures + 1))][: options.pictures + 1]
    encoder, random = Encoder.open(options.encoder), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        shop, many = Path(place, "shop"), Path(place, "many")
        with Gallery.open(shop, encoder) as gallery:
            for kind, photos in kinds.items():
                gallery.enroll(photos[:SHOTS], kind)
            gallery.calibrate()
        with Gallery.open(many, encoder) as gallery:
            for start in range(0, options.identities, BLOCK):
                names = [f"thing {n:06d}" for n in range(options.identities)[start : start + BLOCK]]
                vectors = random.standard_normal((len(names), encoder.dimension)).astype(np.float32)
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                gallery.enroll_embeddings(vectors, names)
            gallery.compact()
        with served(shop, many) as address, sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
            chromium = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=flags)
            told, drawn = answers(browser, address, asked)
            looks = scrolled(browser, address, options.identities)
            browser.close()
    found = {
        "answer, ms, median": percentiles(told)[0],
        "answer, ms, 95 %": percentiles(told)[1],
        "answer, ms, most": 1000 * max(told),
        "beside pictures, ms, median": percentiles(drawn)[0],
        **looks,
    }
    rows = [(name, f"{value:.3g}") for name, value in found.items()]
    table("The page, in chromium", ("what", "figure"), rows)
    write_results("page", options.encoder, {"pictures": len(told), **found})


if __name__ == "__main__":
    main()
