"""How Sphinx makes the site: guides as they stand in ``docs/``, and a reference from docstrings.

Some things are not Sphinx's own. Guides link to files that no page is made of (sources, examples,
results), so that they work where one reads the repository: `link_to_repository` turns these into
links to the repository where ``REPOSITORY_URL`` names it (``https://HOST/OWNER/NAME/blob/TAG``),
and into plain text where it does not. Docstrings are prose: see `show_formulas_as_written`. What
the program can say of itself, `generated` puts into pages. Formulas are MathML, which browsers show
by themselves, so that no page fetches anything from elsewhere: see `formula`. And where
``DOCS_PUBLISHED`` is set, each page links to the other versions, one folder above.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.util.logging import getLogger

from weathermixer import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

sys.path.append(str(Path(__file__).parent))

logger = getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY_URL = os.environ.get("REPOSITORY_URL", "")
# Files of the repository that have a page of another name.
PAGES = {
    "README.md": "index",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
}
NUMBERS = re.compile(r"(?<=\d) [/–×] (?=\d)|(?<=\d) (?=(?:[kMGT]?B|GB/s|m?s|h)\b)")

project = "WeatherMixer"
author = "The WeatherMixer authors"
release = __version__
version = __version__

language = "en"

extensions = [
    "generated",
    "myst_nb",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
]
# Of blocks that name no language, most show what the program prints.
highlight_language = "none"
html_math_renderer = "mathml"
exclude_patterns = ["images", "api/modules.rst"]
templates_path = ["_templates"]

# What notebooks show is kept in them: `make notebooks` runs them.
nb_execution_mode = "off"
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 4

apidoc_modules = [
    {
        "path": "../src/weathermixer",
        "destination": "api",
        "separate_modules": True,
        # A package lists what is directly in it.
        "max_depth": 1,
        "module_first": True,
    }
]
# What a package passes on is described once, in the module that makes it.
autodoc_default_options = {"ignore-module-all": True}
# Nor is there a page of the source of what Python and others made.
viewcode_follow_imported_members = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"WeatherMixer {release}"
html_favicon = "images/icon.svg"
html_logo = "images/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        *(["versions.html"] if os.environ.get("DOCS_PUBLISHED") else []),
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}


def link_to_repository(app: Sphinx, document: nodes.document) -> None:
    """Turns links to what is no page into links to the repository, or to the page made of it.

    What the repository does not have is left as it is, for Sphinx to warn of.
    """
    for link in list(document.findall(addnodes.pending_xref)):
        target, _, anchor = str(link["reftarget"]).partition("#")
        if link.get("reftype") != "myst":
            continue
        if link.get("refdomain"):
            # A document outside docs/ stands here by its path, without its ending.
            target, anchor = f"{target}.md", str(link["reftargetid"] or "")
            if not Path(target).is_absolute():
                continue
        page = Path(app.env.doc2path(link["refdoc"])).parent
        paths = [path for path in (page / target, ROOT / target) if target and path.exists()]
        if not paths:
            continue
        name = paths[0].resolve().relative_to(ROOT).as_posix()
        if name in PAGES:
            link["refdomain"], link["reftarget"], link["reftargetid"] = "doc", PAGES[name], anchor
        elif REPOSITORY_URL:
            address = f"{REPOSITORY_URL}/{name}"
            link.replace_self(nodes.reference("", "", *link.children, refuri=address))
        else:
            link.replace_self(link.children)


def keep_numbers_together(app: Sphinx, document: nodes.document) -> None:
    """Lets no line of a table end within a range, a grid, or between a number and its unit."""
    for cell in document.findall(nodes.entry):
        for text in list(cell.findall(nodes.Text)):
            kept = NUMBERS.sub(lambda match: match[0].replace(" ", "\u00a0"), text)
            # Behind a dash a line may end even before a space that lets none end.
            kept = kept.replace("–\u00a0", "–\u2060\u00a0")
            text.parent.replace(text, nodes.Text(kept))


def shorten_sidebar(app: Sphinx, page: str, template: str, context: dict[str, Any], _: Any) -> None:
    """Lists packages beside a page, and not the hundreds of modules in them, which these list."""
    whole = context["toctree"]
    context["toctree"] = lambda **options: whole(**options | {"maxdepth": 2})


def formula(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Writes a formula as MathML."""
    # To TeX 12 behind a fraction is 1 over 2, to docutils the number twelve.
    text = re.sub(r"(frac)(\d)(\d)", r"\1{\2}{\3}", node.astext())
    is_block = isinstance(node, nodes.math_block)
    try:
        mathml = tex2mathml(text, as_block=is_block)
    except MathError as error:
        logger.warning("%s: %s", text, error, location=node)
    else:
        # A box of its own scrolls where the formula is wider than a phone.
        translator.body.append(f'<div class="formula">{mathml}</div>' if is_block else mathml)
    raise nodes.SkipNode


def show_formulas_as_written(*arguments: Any) -> None:
    """Makes indented blocks of a docstring literal, which else are quotations, lines run together.

    Docstrings are written to be read as they stand, in an editor too: a formula or an example is
    indented below its sentence, without the two colons that reST asks for. Docstrings that nobody
    wrote are left out.
    """
    lines: list[str] = arguments[-1]
    # What Python says of each field of a named tuple.
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()
    for index in reversed(range(2, len(lines))):
        before, blank, line = lines[index - 2 : index + 1]
        begins = line.startswith("    ") and not blank and before and not before.startswith(" ")
        if begins and not before.startswith((".. ", ":")) and not before.endswith("::"):
            lines[index - 1 : index] = ["", "::", ""]


def setup(app: Sphinx) -> None:
    """What Sphinx calls before it begins."""
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
    app.connect("autodoc-process-docstring", show_formulas_as_written)
    app.connect("doctree-read", link_to_repository)
    # Before the theme asks for it.
    app.connect("html-page-context", shorten_sidebar, priority=400)
    app.connect("doctree-read", keep_numbers_together)
