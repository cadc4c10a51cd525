"""Sphinx configuration: MyST pages and notebooks, docstrings by autodoc, the furo theme, maths without a CDN."""

import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.pycode.parser import VariableCommentPicker

import jacfunc

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

# Overloads are for type checkers; a page shows the one signature that help() shows.
VariableCommentPicker.add_overload_entry = lambda self, function: None

project = "jacfunc"
author = "the jacfunc developers"
copyright = "the jacfunc developers"
version = release = jacfunc.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx-mathjax-offline",  # its files are part of the site, so maths is there without a network
    "site_notebooks",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3  # so that pages can link to each other's sections
nb_execution_mode = "off"  # notebooks are committed with the outputs of a full run; tests run them
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autosummary_generate = False
python_maximum_signature_line_length = 80
copybutton_exclude = ".linenos, .gp, .go"  # a copy has neither prompts nor what was printed

# Where a network is, names lead to the newest pages; without one the few that are used here do as well.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", (None, "inventories/python.txt")),
    "torch": ("https://docs.pytorch.org/docs/stable", (None, "inventories/torch.txt")),
}
intersphinx_timeout = 5

html_theme = "furo"
html_title = f"jacfunc {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]


def link_back(_: Sphinx, document: nodes.document) -> None:
    """Give ``jacfunc.explain.Explanation`` and its members the anchors that the page of their source links to.

    That page takes the module of the first name of a file for all of them.  In ``explain.py`` this is the function
    ``jacfunc.explain``, so it links to ``jacfunc.Explanation``.
    """
    for signature in document.findall(addnodes.desc_signature):
        if signature.get("module") == "jacfunc.explain":
            signature["ids"].append(f"jacfunc.{signature['fullname']}")


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", link_back)
