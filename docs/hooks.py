"""Hooks for MkDocs: files outside docs/ that belong to the site.

Pages link to them by their places in the repository, so that links also work where the Markdown is
read without the site.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# Where a link leads in the repository, and in the site, from a page that lies directly in docs/.
PLACES = {
    "../benchmarks/results/": "measured/",
    "../indexes/README.md": "gallery-format.md",
    "../dev/experiments.md": "experiments.md",
}


def on_files(files: Files, config: Any) -> None:
    """Add the plots and raw figures of the measurements, and the specification of a gallery."""
    outside = {
        "gallery-format.md": ROOT / "indexes" / "README.md",
        "experiments.md": ROOT / "dev" / "experiments.md",
    }
    for path in sorted((ROOT / "benchmarks" / "results").iterdir()):
        if path.suffix in (".json", ".md", ".png"):
            outside[f"measured/{path.name}"] = path
    for place, path in outside.items():
        files.append(File.generated(config, place, abs_src_path=str(path)))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links to places in the repository into links to places in the site."""
    for there, here in PLACES.items():
        markdown = markdown.replace(f"]({there}", f"]({here}")
    return markdown
