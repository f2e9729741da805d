"""API pages: a list of members at the top, every parameter described, no `abstractmethod`."""

import inspect
import re
from importlib import import_module
from typing import Any, ClassVar

from docutils import nodes
from docutils.nodes import Element
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# Parameters that mean the same in all methods of a class; those with a section Args have their own.
OF_CLIENT = {
    "key": "bytes, 1 to 250 of them, without whitespace and control characters.",
    "keys": "the keys, as above; any iterable.",
    "value": "``bytes``, ``bytearray`` or ``memoryview``.",
    "items": "the values by key.",
    "flags": "a number of 32 bits, stored with the value.",
    "exptime": "the lifetime: see :class:`emcache.Exptime`; 0 for no limit.",
    "noreply": "do not wait for a reply; errors of the server are then not raised.",
    "return_flags": "return the flags in ``Item.flags`` too.",
    "on_error": "see :meth:`~emcache.Client.get_many`.",
    "initial": "see :meth:`~emcache.Client.increment`.",
    "memcached_host_address": "one of the client's nodes, as an address or its text.",
    "level": "the level.",
}
OF_CACHE = {
    "key": "a text, or bytes; see :class:`emcache.Cache`.",
    "keys": "the keys.",
    "value": "anything that the serializer accepts.",
    "default": "what is returned on a miss.",
    "delta": "the number to subtract, 0 to 2**64 - 1.",
    "initial": "see :meth:`~emcache.Cache.increment`.",
    "ttl": "the lifetime, in place of the default of the cache; see :class:`emcache.Cache`.",
    "cas": "the token of :meth:`~emcache.Cache.get_with_cas`.",
    "tag": "the tag: a text, or bytes.",
    "tags": "the tags.",
    "factory": "called without arguments; returns the value.",
    "info": "filled in with where the value came from.",
    "options": "see :class:`emcache.cache.Options`.",
}
OF_FUNCTION = {
    "args": "the arguments of a call of the function.",
    "kwargs": "see ``args``.",
    "element": "an element, as the function takes it.",
    "elements": "the elements, each as an argument.",
}
OF_VALUES = {
    "value": "the object to store.",
    "data": "the stored bytes.",
    "flags": "the flags that the bytes were stored with.",
    "limit": "the most bytes that may come out.",
}
OF_EVENTS = {
    "cluster_managment": "the cluster management of the client.",
    "host": "the node.",
    "old": "the nodes before the change.",
}
GLOSSARIES = {
    "Client": OF_CLIENT,
    "Cache": OF_CACHE,
    "CachedFunction": OF_FUNCTION,
    "CachedManyFunction": OF_FUNCTION,
    "ClusterEvents": OF_EVENTS,
    "Serializer": OF_VALUES,
    "Compression": OF_VALUES,
    "Migration": {"phase": "``prepare``, ``move`` or ``finish``."},
    "Topology": {"addresses": "the nodes, as addresses or their texts."},
    "FakeServer": {"seconds": "by how much the clock of the server goes forward."},
}
GLOSSARY_OF_COUNTERS = {"value": "the number, 0 to 2**64 - 1."}

_FIELD = re.compile(r":param (?:[^:]* )?\\?\*{0,2}(\w+):")


def missing_parameters(method: Any, text: str) -> list[str]:
    """Return the parameters that a docstring, as fields of docutils, does not describe."""
    described = set(_FIELD.findall(text))
    names = [name for name in inspect.signature(method).parameters if name not in ("self", "cls")]
    return [name for name in names if name not in described and f"``{name}``" not in text]


def add_parameters(
    _app: Sphinx, what: str, name: str, found: Any, _options: Any, lines: list[str]
) -> None:
    """Describe the parameters that mean the same in all methods of the class."""
    *_, owner, method = name.split(".")
    if what != "method" or owner not in GLOSSARIES or not callable(found):
        return
    glossary = dict(GLOSSARIES[owner])
    if owner == "Client" and method in ("increment", "decrement"):
        glossary |= GLOSSARY_OF_COUNTERS
    described = set(_FIELD.findall("\n".join(lines)))
    for parameter in inspect.signature(found).parameters:
        if parameter in glossary and parameter not in described:
            if lines and lines[-1] and not lines[-1].startswith(":"):
                lines.append("")
            lines.append(f":param {parameter}: {glossary[parameter]}")


class Members(SphinxDirective):
    """`.. members:: emcache.Client`: a table of the methods and what each of them does.

    With `:names:`, a table of the classes and functions themselves.
    """

    required_arguments = 1
    option_spec: ClassVar = {"names": directives.flag}
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        lines = [".. list-table::", "   :class: members", "   :widths: 30 70", ""]
        for name in self.arguments[0].split():
            module, _, attribute = name.rpartition(".")
            found = getattr(import_module(module), attribute)
            members = _members(name, found)
            for role, target, documented in members[:1] if "names" in self.options else members:
                lines += [f"   * - :{role}:`{target}`", f"     - {_summary(documented)}"]
        return self.parse_text_to_nodes("\n".join(lines))


def _members(name: str, found: Any) -> list[tuple[str, str, Any]]:
    if not inspect.isclass(found):
        return [("func", name.removeprefix("emcache."), found)]
    members = []
    for base in found.__mro__:
        for member, value in vars(base).items():
            plain = getattr(value, "__func__", value)
            if member.startswith("_") or not (
                inspect.isfunction(plain) or isinstance(value, property)
            ):
                continue
            if plain.__doc__ and member not in {known for known, *_ in members}:
                role = "attr" if isinstance(value, property) else "meth"
                members.append((member, role, plain))
    rows = [("class", f"{name.removeprefix('emcache.')} <{name}>", found)]
    for member, role, plain in members:
        shown = member if role == "attr" else f"{member}()"
        rows.append((role, f"{shown} <{name}.{member}>", plain))
    return rows


def _summary(documented: Any) -> str:
    """Return the first sentence of a docstring, without links that depend on its place."""
    text = " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())
    text = re.sub(r":(?:py:)?\w+:`~?(?:\w+\.)*(\w+)`", r"``\1``", text)
    return re.split(r"(?<=[.;:]) ", text + " ", maxsplit=1)[0].rstrip(";:. ") + "."


def hide_abstract(_app: Sphinx, tree: Element) -> None:
    """Say `async discover()`: that it is abstract is for those who read the source."""
    for node in list(tree.findall(addnodes.desc_annotation)):
        words = [word for word in node.astext().split() if word != "abstractmethod"]
        if len(words) < len(node.astext().split()):
            node.clear()
            if words:
                node += nodes.Text(" ".join(words) + " ")
            else:
                node.parent.remove(node)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect what is above."""
    app.add_directive("members", Members)
    # After napoleon (500), which makes fields of the section Args.
    app.connect("autodoc-process-docstring", add_parameters, priority=700)
    app.connect("doctree-read", hide_abstract)
    return {"parallel_read_safe": True}
