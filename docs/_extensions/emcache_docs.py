"""What the site needs beyond Sphinx: links out of docs/, and names where users import them from."""

import re
from pathlib import Path
from typing import Any

from docutils.nodes import Element, TextElement
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

import emcache
import emcache.cache
import emcache.testing

ROOT = Path(__file__).parents[2]
PACKAGES = (emcache, emcache.cache, emcache.testing)

_OUTSIDE = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<path>(?:\.\./)+[^)#\s]+)\)")


def link_outside(app: Sphinx, docname: str, source: list[str]) -> None:
    """Files of the repository: links on a forge; here a link to it, a download, or plain text."""
    folder = Path(app.srcdir, docname).parent

    def link(match: re.Match[str]) -> str:
        path = (folder / match["path"]).resolve()
        if path.is_relative_to(app.srcdir):
            return match[0]
        if app.config.repository:
            return f"[{match['text']}]({app.config.repository}/{path.relative_to(ROOT)})"
        return match[0] if path.is_file() and path.suffix != ".md" else match["text"]

    source[0] = _OUTSIDE.sub(link, source[0])


def resolve_public(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: TextElement
) -> Element | None:
    """Find what docstrings call by a private module, or by no module at all."""
    if node.get("refdomain") != "py":
        return None
    for target in _public_names(node["reftarget"]):
        found = env.get_domain("py").resolve_xref(
            env, node["refdoc"], app.builder, "obj", target, node, content
        )
        if found is not None:
            return found
    return None


def _public_names(target: str) -> list[str]:
    parts = target.split(".")
    ends = [".".join(parts[i:]) for i in range(len(parts))]
    return [f"{package.__name__}.{end}" for end in ends for package in PACKAGES]


def shown_signature(
    _app: Sphinx, _what: str, name: str, _object: Any, _options: Any, arguments: str, _returns: str
) -> tuple[str, str] | None:
    """Say what `await create_client()` gives, not the helper that can be entered too."""
    return (arguments, "~emcache.Client") if name == "emcache.create_client" else None


def own_public_names(_app: Sphinx, _config: Any) -> None:
    """Document public names under the name that users import."""
    for package in PACKAGES:
        analyzer = ModuleAnalyzer.for_module(package.__name__)
        analyzer.analyze()
        for found in (getattr(package, name) for name in package.__all__):
            module = getattr(found, "__module__", None) or ""
            if module.startswith(("emcache._", f"{package.__name__}.")):
                # Else what is written below attributes, and their order, would not be found.
                _learn(analyzer, ModuleAnalyzer.for_module(module))
                found.__module__ = package.__name__


def _learn(analyzer: ModuleAnalyzer, other: ModuleAnalyzer) -> None:
    other.analyze()
    for known in ("annotations", "attr_docs", "tagorder"):
        getattr(analyzer, known).update(getattr(other, known))


_written: dict[str, list[str]] = {}


def keep_attribute(_app: Sphinx, what: str, name: str, _o: Any, _p: Any, lines: list[str]) -> None:
    """Remember it as written: napoleon takes the words before a colon for a type."""
    if what == "attribute":
        _written[name] = list(lines)


def restore_attribute(
    _app: Sphinx, _what: str, name: str, _o: Any, _p: Any, lines: list[str]
) -> None:
    """Give it back as it was."""
    if name in _written:
        lines[:] = _written.pop(name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect what is above."""
    app.add_config_value("repository", "", "env", [str])
    app.connect("config-inited", own_public_names)
    app.connect("source-read", link_outside)
    app.connect("missing-reference", resolve_public)
    app.connect("autodoc-process-signature", shown_signature)
    app.connect("autodoc-process-docstring", keep_attribute, priority=400)
    app.connect("autodoc-process-docstring", restore_attribute, priority=600)
    return {"parallel_read_safe": True}
