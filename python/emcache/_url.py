"""``from_url``: a client whose nodes, login and options are in one text."""

from typing import Any
from urllib.parse import parse_qsl, unquote

from ._address import Address, MemcachedUnixSocketPath
from ._client_options import CLIENT_OPTIONS, from_text
from ._create import _CreateClient, create_client
from ._memcached.addresses import parse_nodes

_SCHEMES: dict[str, dict[str, Any]] = {"memcached": {}, "memcacheds": {"ssl": True}}
_ALIASES = {"tls": "ssl"}
_LOGIN = ("username", "password")


class _Settings:
    """The nodes and options of a URL. It is not a dataclass, whose repr would show a password."""

    def __init__(self, nodes: list[Address], options: dict[str, Any]) -> None:
        self.nodes = nodes
        self.options = options


def from_url(url: str, **options: Any) -> _CreateClient:
    """Create a client from a URL; otherwise like :func:`create_client`.

    ``memcached://user:password@cache-1:11211,cache-2/?timeout=0.5`` is a URL with all parts. The
    scheme ``memcacheds`` connects with TLS, and so does ``?tls=true``. ``memcached:///run/m.sock``
    is a unix socket. Percent-encode special characters in the user, the password and the options.

    Args:
        url: the URL. Its query has options of :func:`create_client` by name: numbers, texts,
            ``true`` and ``false``. ``tls`` is another name for ``ssl``. ``weights`` and ``names``
            are texts such as ``a:11211=2,b:11211=1``.
        options: options of :func:`create_client`, which replace those of the URL.

    Raises:
        ValueError: not such a URL. The message never contains the user and the password.
        TypeError: an unknown option, or an argument of a wrong type.
    """
    found = _read(url, options)
    # Tracebacks show local variables, so the password must not be in any.
    del url, options
    if isinstance(found, Exception):
        raise found
    return create_client(found.nodes, **found.options)


def _read(url: str, options: dict[str, Any]) -> _Settings | Exception:
    """Return an exception instead of raising it, because its traceback would show the URL."""
    try:
        settings = _parse(url)
        settings.options |= options
        _check_names(options)
    except (ValueError, TypeError) as error:
        return error.with_traceback(None)
    return settings


def _parse(url: str) -> _Settings:
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a str, not {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise ValueError("a URL must begin with memcached:// or memcacheds://")
    rest, _, query = rest.partition("?")
    place, slash, path = rest.partition("/")
    if "@" in path + query or "#" in rest + query:
        raise ValueError(
            "the URL has an @ or a # in a wrong place; percent-encode / ? # @ in the user, the "
            "password and the options"
        )
    login, _, hosts = place.rpartition("@")
    found = dict(_SCHEMES[scheme.lower()])
    found |= _options(query, has_tls=bool(found))
    if login:
        user, separator, password = login.partition(":")
        given = (unquote(user), unquote(password) if separator else None)
        found |= {name: text for name, text in zip(_LOGIN, given, strict=True) if text is not None}
    if path and hosts:
        raise ValueError("a URL has hosts or the path of a unix socket, not both")
    if path:
        return _Settings(parse_nodes(MemcachedUnixSocketPath(slash + unquote(path))), found)
    return _Settings(parse_nodes(unquote(hosts)), found)


def _options(query: str, *, has_tls: bool) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError("the query of a URL must be like timeout=0.5&tls=true") from None
    names = [_ALIASES.get(name, name) for name, _ in pairs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"the URL has the option {min(twice)} twice")
    _check_names(names)
    options = from_text(dict(zip(names, (value for _, value in pairs), strict=True)))
    if has_tls and options.get("ssl", True) is not True:
        raise ValueError("memcacheds:// connects with TLS; write memcached:// for tls=false")
    return options


def _check_names(names: Any) -> None:
    if unknown := sorted(set(names) - CLIENT_OPTIONS.keys()):
        raise TypeError(f"unknown option {unknown[0]}; use the options of emcache.create_client")
