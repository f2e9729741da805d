"""What a value is, for errors about arguments of the wrong kind."""


def kind_of(value: object) -> str:
    """Name the kind of a value as its users know it: ``emcache.sync.Cache`` is not ``Cache``."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value)
    package, _, module = kind.__module__.partition(".")
    if package != "emcache":
        return kind.__name__
    if kind.__name__ == "_CreateClient":
        return "a create_client() that was not awaited"
    return f"{'emcache.sync' if module.startswith('sync') else 'emcache'}.{kind.__name__}"


def hint_for(value: object) -> str:
    """Return what to do with a value of the other world, or nothing."""
    kind = kind_of(value)
    if kind == "emcache.sync.Cache":
        return "; use emcache.sync.cached with it"
    if kind in ("emcache.Client", "emcache.sync.Client"):
        return f"; pass {kind.removesuffix('Client')}Cache(client)"
    return ""


def hint_for_client(value: object) -> str:
    """Do the same for a ``Cache``, which needs a client."""
    if kind_of(value) == "emcache.sync.Client":
        return "; use emcache.sync.Cache with it"
    return "; await create_client(...) first"
