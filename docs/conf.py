"""Sphinx: `sphinx-build -W --keep-going -b html docs docs/_build`."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import _docstrings

import icnn

project, author, release = "icnn", "The icnn developers", icnn.__version__
project_copyright = author

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"icnn {release}"
html_show_sourcelink = False

# Formulas and shapes are plain text.
smartquotes = False
highlight_language = "none"
default_role = "py:obj"

autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Source", "returns_style")]

myst_heading_anchors = 3
suppress_warnings = ["myst.header", "toc.no_title"]  # of results that start with a table or with a second heading


def to_google(_app: Any, what: str, _name: str, obj: Any, _options: Any, lines: list[str]) -> None:
    """For napoleon, which comes next. It takes words before a colon for the type of a property: hence a comment."""
    lines[:] = ["..", ""] * (what == "property") + _docstrings.google(lines, _docstrings.parameters(obj))


def skip(_app: Any, _what: str, _name: str, obj: Any, _skip: bool, _options: Any) -> bool | None:
    """The fields of a named tuple stand in its signature."""
    return (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") or None


def inside(_app: Any, _page: str, source: list[str]) -> None:
    """The results of the benchmarks lie beside the docs, but are pages of theirs through the link docs/benchmarks."""
    source[0] = re.sub(r"\[([^]]*)\]\(\.\./benchmarks/results/(\w+)\.md\)", r"{doc}`\1 </benchmarks/\2>`", source[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", to_google, priority=400)
    app.connect("autodoc-skip-member", skip)
    app.connect("source-read", inside)
