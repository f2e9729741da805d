"""How the documentation site is built: `make docs`, into target/docs."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "python"), str(HERE / "_extensions")]

import emcache  # noqa: E402 - the one of this repository

project = "emcache"
author = "the emcache authors"
project_copyright = author
release = version = emcache.__version__

repository = ""
"""Where a forge shows the files of this repository, once there is one: links lead there then."""

site = ""
"""Where this site is published, once it is, with a slash at the end: for social cards."""

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "emcache_api",
    "emcache_docs",
    "emcache_search",
]
exclude_patterns = ["_extensions"]

nitpicky = True
# Nothing is fetched while it is built, so names of other packages are not links.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(asyncio|collections|datetime|logging|os|pathlib|random|ssl|socket|subprocess|types|typing)\..*",
    ),
    ("py:.*", r"(aiocache|django|opentelemetry|prometheus_client|starlette)\..*"),
    ("py:class", r"emcache\.testing\._wire\.Reachable"),
    ("py:.*", r"timedelta|datetime|(emcache\..*\.)?([A-Z]|_\w+)"),  # type variables, private
]

myst_heading_anchors = 3
myst_enable_extensions = ["tasklist"]

autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
add_module_names = False
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90

html_theme = "furo"
html_title = f"emcache {release}"
html_static_path = ["_static"]
html_css_files = ["emcache.css"]
html_js_files = ["tables.js", "figures.js"]
html_favicon = "_static/favicon.svg"
html_search_scorer = str(HERE / "_static/scorer.js")
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
copybutton_selector = "div:not(.highlight-text) > div.highlight pre"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
