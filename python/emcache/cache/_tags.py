"""Tags: a value is current while the generation of each of its tags is the one it was made under.

The generation of a tag is 8 random bytes under a key of its own, without expiry. Invalidating a tag
replaces it. A generation that is missing, because it was never read, was evicted or lost with its
node, is created anew. No generation is used twice, so older values can never become current again.
"""

import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from .._client import Client
from .._errors import CommandError, InvalidKeyError
from .._failures import copy_exception
from .._item import Item
from .._results import PartialResult
from ._envelope import GENERATION_SIZE, MOST_TAGS, NEVER, Envelope
from ._keys import Key, Keys, encode
from ._values import seal

_ROUNDS = 8

Tags = Iterable[Key]
"""Tags as users name them."""

TagNames = tuple[bytes, ...]
"""Keys of tags on the wire, without duplicates."""

Found = Mapping[bytes, bytes]
"""Generations by the key of their tag; those that do not exist are absent."""

UNREADABLE = b""
"""In place of a generation that cannot be read."""

Generations = tuple[tuple[bytes, bytes], ...]
"""The same of all tags of a value, as its envelope has it."""


@dataclass(frozen=True, slots=True)
class TagSnapshot:
    """The generations of tags at one moment; see :meth:`emcache.Cache.read_tags`."""

    generations: Generations


def tag_names(keys: Keys, tags: Tags, more: TagNames = ()) -> TagNames:
    """Return the keys of tags, after those in ``more``.

    Raises:
        TypeError: ``tags`` is a single tag.
        ValueError: there are more than 255.
    """
    if type(tags) is not list and (isinstance(tags, str | bytes) or not isinstance(tags, Iterable)):
        raise TypeError(f"tags must be a list of tags, not one {type(tags).__name__}")
    names = (*more, *[tag_name(keys, tag) for tag in tags])
    if len(names) > 1:
        names = tuple(dict.fromkeys(names))
    if len(names) > MOST_TAGS:
        raise ValueError(f"a value can have at most {MOST_TAGS} tags, not {len(names)}")
    return names


def tag_name(keys: Keys, tag: Key) -> bytes:
    """Return the key of a tag."""
    if tag and type(tag) is str:
        return keys.wire("#tag:" + tag)
    if not tag and isinstance(tag, str | bytes):
        raise InvalidKeyError("a tag must not be empty")
    return keys.wire(b"#tag:" + encode("tag", tag))


def new_generation() -> bytes:
    """Return a generation that was never used."""
    return secrets.token_bytes(GENERATION_SIZE)


def generations_in(items: PartialResult[bytes, Item], names: Iterable[bytes]) -> Found:
    """Return the generations among items that were read."""
    found = {name: items[name].value for name in names if name in items}
    if items.errors:
        found |= {name: UNREADABLE for name in names if name in items.errors}
    return found


async def find_generations(client: Client, names: Collection[bytes]) -> Found:
    """Return the generations that exist; an error of a node is not raised."""
    return generations_in(await client.get_many(names, on_error="partial"), names)


async def make_generations(client: Client, names: TagNames, found: Found) -> Generations:
    """Return the generations of all tags; create those that were not found.

    A value that is computed or read after this call may be stored with them.

    Raises:
        EmcacheError: a generation cannot be read or created.
    """
    known = {name: found[name] for name in names if _is_valid(found.get(name))}
    for _ in range(_ROUNDS):
        missing = [name for name in names if name not in known]
        if not missing:
            return tuple((name, known[name]) for name in names)
        new = {name: new_generation() for name in missing}
        added = await client.add_many(new)
        for error in added.errors.values():
            raise copy_exception(error)
        known |= {name: new[name] for name in added.done}
        if not added.missed:
            continue
        for name, item in (await client.get_many(added.missed)).items():
            if _is_valid(item.value):
                known[name] = item.value
            else:
                # Something else is under the key. No value can have it as its generation.
                await client.set(name, new[name])
    raise CommandError(f"other clients created and deleted a tag {_ROUNDS} times during this call")


def _is_valid(generation: bytes | None) -> bool:
    return generation is not None and len(generation) == GENERATION_SIZE


async def is_current(
    client: Client, envelope: Envelope | None, required: TagNames, found: Found
) -> bool:
    """Return whether the value of an envelope has the required tags, and none was invalidated.

    Args:
        client: reads the generations that were not read with the value.
        envelope: the envelope of the value; None if it has none.
        required: tags that the reader expects the value to have.
        found: the generations that were read with the value.
    """
    generations = () if envelope is None else envelope.tags
    if not generations:
        return not required
    names = {name for name, _ in generations}
    if not names.issuperset(required):
        return False
    if unknown := names.difference(found):
        # Read after the value, so they are at least as new.
        found = {**found, **await find_generations(client, unknown)}
    return all(found.get(name) == generation for name, generation in generations)


def seal_with_tags(
    data: bytes, flags: int, envelope: Envelope | None, generations: Generations
) -> tuple[bytes, int]:
    """Put packed bytes into an envelope if they need one; return the bytes and flags to store."""
    if generations:
        envelope = (envelope or Envelope(NEVER, NEVER))._replace(tags=generations)
    return seal(data, flags, envelope)


def seal_many(
    packed: Mapping[int, Mapping[bytes, bytes]], generations: Generations
) -> dict[int, dict[bytes, bytes]]:
    """Do the same for many values, by their flags and keys."""
    sealed: dict[int, dict[bytes, bytes]] = {}
    for flags, values in packed.items():
        for name, data in values.items():
            stored, bits = seal_with_tags(data, flags, None, generations)
            sealed.setdefault(bits, {})[name] = stored
    return sealed
