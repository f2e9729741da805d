"""The version of the package, as in Cargo.toml."""

from ._emcache import __version__

__all__ = ["__version__"]
