"""The version of the package, as Cargo.toml has it."""

from ._emcache import __version__

__all__ = ["__version__"]
