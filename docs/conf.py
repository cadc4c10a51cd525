"""Sphinx configuration: MyST pages, docstrings by autodoc and napoleon, the furo theme."""

from sphinx.pycode.parser import VariableCommentPicker

import jacfunc

# Overloads are for type checkers; a page shows the one signature that help() shows.
VariableCommentPicker.add_overload_entry = lambda self, function: None

project = "jacfunc"
author = "the jacfunc authors"
version = release = jacfunc.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # so that pages can link to each other's sections

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"jacfunc {version}"
