"""A Sphinx extension: the notebooks as pages of the site, and a gallery of their pictures.

The notebooks lie beside ``docs/``, where people look for them, and Sphinx reads what is below ``docs/`` only.  So each
build copies them to ``docs/notebooks/`` (git ignores it), with the largest picture of each, and a text that shows all
pictures, for pages to include.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

HERE = Path(__file__).parent
SOURCE, COPIES = HERE.parent / "notebooks", HERE / "notebooks"
CARD = """
:::{{grid-item-card}} {title}
:img-top: /notebooks/{name}.png
:img-alt: {title}
:link: /notebooks/{name}
:link-type: doc
:::
"""


def copy_notebooks(_: Sphinx, __: Config) -> None:
    """Fill ``docs/notebooks/``: the notebooks, their pictures, the gallery."""
    shutil.rmtree(COPIES, ignore_errors=True)
    COPIES.mkdir()
    cards = []
    for file in sorted(SOURCE.glob("*.ipynb")):
        shutil.copy(file, COPIES)
        notebook = json.loads(file.read_text(encoding="utf-8"))
        picture = max(pictures(notebook), key=len, default=None)
        if picture is None:
            raise ValueError(f"{file.name} has no picture: run it from top to bottom before it is committed")
        (COPIES / f"{file.stem}.png").write_bytes(base64.b64decode(picture))
        cards.append(CARD.format(title=title(notebook), name=file.stem))
    (COPIES / "gallery.txt").write_text(f"::::{{grid}} 1 2 3 3\n:gutter: 3\n{''.join(cards)}\n::::\n", encoding="utf-8")


def pictures(notebook: dict[str, Any]) -> Iterator[str]:
    """Every PNG in a notebook's outputs, in base 64."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            picture = output.get("data", {}).get("image/png")
            if picture is not None:
                yield "".join(picture)


def title(notebook: dict[str, Any]) -> str:
    """The first heading of a notebook."""
    text = "".join(notebook["cells"][0]["source"])
    heading = re.match(r"# (.+)", text)
    if heading is None:
        raise ValueError(f"a notebook begins with {text[:40]!r}, not with a title")
    return heading[1]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect it to the build."""
    app.connect("config-inited", copy_notebooks)
    return {"parallel_read_safe": True}
