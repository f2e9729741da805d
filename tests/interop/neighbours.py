"""The clients of other languages: how each is started, its rule, its preset, and its values."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emcache.cache import (
    Bmemcached,
    Dalli,
    MetaMemcache,
    PerlMemcached,
    PhpMemcache,
    PhpMemcached,
    Pylibmc,
    Pymemcache,
    Raw,
    Spymemcached,
    Utf8,
)

PROGRAMS = Path(__file__).with_name("programs")
BUILT = Path(__file__).parents[2] / "target" / "interop"
JAR = Path("/usr/share/java/spymemcached.jar")
GOPATH = Path("/usr/share/gocode")


DEBIAN = {
    "php-memcached": ["php-cli", "php-memcached"],
    "php-memcache": ["php-cli", "php-memcache"],
    "libcache-memcached-perl": ["libcache-memcached-perl"],
    "libcache-memcached-fast-perl": ["libcache-memcached-fast-perl"],
    "ruby-dalli": ["ruby", "ruby-dalli"],
    "libspymemcached-java": ["default-jdk-headless", "libspymemcached-java"],
    "golang-github-bradfitz-gomemcache-dev": [
        "golang-go",
        "golang-github-bradfitz-gomemcache-dev",
    ],
}
"""The packages that each client needs."""


@dataclass(frozen=True)
class Refused:
    """A value that the preset must not read, and the text of its error."""

    text: str


@dataclass(frozen=True)
class Neighbour:
    """One client with one set of options."""

    name: str
    language: str
    variant: str
    routing: str
    preset: Callable[[], Any]
    theirs: dict[str, Any] = field(default_factory=dict)
    """Names of values that the client stores, and what the preset reads."""
    ours: dict[str, Any] = field(default_factory=dict)
    """Values that the preset stores and the client reads."""
    package: str = ""
    """The Debian package, or the distribution of Python."""


LONG, HUGE = "abcdefghij" * 2000, "0123456789abcdef" * 10_000


def letters(count: int) -> str:
    """Return text with short repetitions, as PHP's program makes it."""
    seed, text = 1, ""
    while len(text) < count:
        seed = (seed * 1103515245 + 12345) % 2**31
        text += "abcde"[(seed >> 16) % 5]
    return text


DATE = datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)
# An empty string with flags 0 is a miss for a cache, because leases look like it.
TEXTS = {"text": "text", "unicode": "clé ключ", "empty": None, "long": LONG, "huge": HUGE}
DIGITS = {"int": "41", "zero": "0", "negative": "-5", "large": "1099511627776", "float": "1.5"}
INTS = {"int": 41, "zero": 0, "negative": -5, "large": 1 << 40}
BOOLS = {"true": True, "false": False}
FLOATS = {"float": 1.5, "third": 1 / 3, "infinite": float("inf")}
OUR_TEXTS = {**TEXTS, "empty": ""}
JSON = {"null": None, "list": [1, "x"], "object": {"a": [1.5, None, "é"]}}
NOT_UTF8 = {"bytes": Refused("not UTF-8; use .*binary=True")}

# More than a repetition, for FastLZ; from 64 KiB on it has another format.
PACKED = {"letters": letters(5000), "far": letters(9000) + "-" * 60_000 + letters(9000)}
PHP = {**TEXTS, **PACKED, **INTS, **FLOATS, **BOOLS, **NOT_UTF8}
OUR_PHP = {**OUR_TEXTS, **PACKED, **INTS, **FLOATS, **BOOLS, **JSON}
MARSHAL = Refused("written by dalli with Marshal")
JAVA = {
    **TEXTS, **INTS, **FLOATS, **BOOLS, "bytes": b"\xff\x00", "date": DATE,
    "negative-large": -(1 << 40), "single": 1.5, "byte": -7,
    "old-date": datetime(1969, 12, 31, 23, 59, 59, 995_000, tzinfo=UTC),
    "list": Refused("written by spymemcached with Java serialization"),
}  # fmt: skip
OUR_JAVA = {name: value for name, value in JAVA.items() if name != "list"} | {"empty": ""}
PICKLED = Refused("written by a Python client as a pickle|as a pickle")
PICKLES = dict.fromkeys(("float", "true", "false", "null", "list"), PICKLED)
PYTHON = {**TEXTS, "empty": "", **INTS, "bytes": b"\xff\x00", **PICKLES}
OUR_PYTHON = {**OUR_TEXTS, **INTS, "bytes": b"\xff\x00"}
PYLIBMC = {**PYTHON, "true": 1, "false": 0}


def php(serializer: str) -> dict[str, Any]:
    refused = Refused(rf"written by php-memcached with {serializer}")
    return {**PHP, "null": refused, "list": refused}


def neighbours() -> list[Neighbour]:
    """Return all of them."""
    memcached, memcache = ("php-memcached", "php-memcache")
    compressing = lambda: PhpMemcached(compress_from=2000)  # noqa: E731
    perl, fast = "libcache-memcached-perl", "libcache-memcached-fast-perl"
    perl_texts = {**TEXTS, **DIGITS, **NOT_UTF8}
    perl_texts["list"] = Refused("written by a Perl client with Storable")
    ruby = "ruby-dalli"
    raw = {**TEXTS, **DIGITS, "true": "true", "third": "0.3333333333333333", **NOT_UTF8}
    marshal = dict.fromkeys([*TEXTS, *INTS, "float", "true", "null", "bytes", "list"], MARSHAL)
    typed = {**OUR_TEXTS, **INTS, **BOOLS, "float": 1.5, "third": 1 / 3}
    typed |= {"null": None, "list": [1, "x"]}
    java = "libspymemcached-java"
    go = "golang-github-bradfitz-gomemcache-dev"
    serialized = {"null": Refused(r"with serialize\(\)"), "list": Refused(r"with serialize\(\)")}
    older = {name: value for name, value in PHP.items() if name not in ("third", "infinite")}
    our_older = {**OUR_TEXTS, **INTS, **BOOLS, "float": 1.5, "third": 1 / 3}
    plain = lambda: Utf8(flags=0)  # noqa: E731
    strings = {**TEXTS, "bytes": Refused("UnicodeDecodeError")}
    return [
        Neighbour("php-memcached", "php", "memcached", "libmemcached", PhpMemcached,
                  php(r"serialize\(\)"), OUR_PHP, memcached),
        Neighbour("php-memcached ketama", "php", "memcached:ketama", "ketama", compressing,
                  php(r"serialize\(\)"), OUR_PHP, memcached),
        Neighbour("php-memcached consistent, zlib", "php", "memcached:consistent",
                  "libmemcached:consistent", PhpMemcached, php(r"serialize\(\)"), OUR_PHP,
                  memcached),
        Neighbour("php-memcached consistent md5", "php", "memcached:consistent-md5", "libmc",
                  PhpMemcached, php(r"serialize\(\)"), OUR_PHP, memcached),
        Neighbour("php-memcached JSON", "php", "memcached:json", "libmemcached", PhpMemcached,
                  {**PHP, "null": None, "list": [1, "x"]}, OUR_PHP, memcached),
        Neighbour("php-memcached igbinary", "php", "memcached:igbinary", "libmemcached",
                  PhpMemcached, php("igbinary"), OUR_PHP, memcached),
        Neighbour("php-memcached msgpack", "php", "memcached:msgpack", "libmemcached",
                  PhpMemcached, php("msgpack"), OUR_PHP, memcached),
        Neighbour("php-memcached user flags", "php", "memcached:user-flags", "libmemcached",
                  PhpMemcached, {"text": "text", "empty": "", "long": LONG, "int": 41, "true": True,
                                 "list": Refused(r"with serialize\(\)")}, OUR_PHP, memcached),
        Neighbour("php-memcached binary", "php", "memcached", "libmemcached",
                  lambda: PhpMemcached(binary=True),
                  {**INTS, "text": b"text", "bytes": b"\xff\x00", "long": LONG.encode()},
                  {**INTS, "text": b"text", "bytes": b"\xff\x00"}, memcached),
        Neighbour("php-memcache", "php", "memcache:", "pecl-memcache", PhpMemcache,
                  {**older, **serialized}, our_older, memcache),
        Neighbour("php-memcache compressed", "php", "memcache:", "pecl-memcache",
                  lambda: PhpMemcache(compress_from=1000), {**older, **serialized}, our_older,
                  memcache),
        Neighbour("Cache::Memcached", "perl", "memcached", "crc",
                  lambda: PerlMemcached(compress_from=1000), perl_texts, OUR_TEXTS, perl),
        Neighbour("Cache::Memcached::Fast", "perl", "fast", "crc", PerlMemcached, perl_texts,
                  OUR_TEXTS, fast),
        Neighbour("Cache::Memcached::Fast ketama", "perl", "fast:ketama", "nginx-consistent:150",
                  lambda: PerlMemcached(binary=True), {"bytes": b"\xff\x00", "text": b"text"},
                  {"bytes": b"\xff\x00", "text": b"text"}, fast),
        Neighbour("Cache::Memcached::Fast utf8", "perl", "fast:utf8", "crc",
                  lambda: PerlMemcached(utf8=True), {**TEXTS, **DIGITS}, OUR_TEXTS, fast),
        Neighbour("dalli Marshal", "ruby", "marshal", "dalli", Dalli, marshal, OUR_TEXTS, ruby),
        Neighbour("dalli raw", "ruby", "raw", "dalli", lambda: Dalli(compress_from=4096), raw,
                  OUR_TEXTS, ruby),
        Neighbour("dalli JSON", "ruby", "json", "dalli",
                  lambda: Dalli(json=True, compress_from=4096), typed,
                  {**typed, "object": JSON["object"]}, ruby),
        Neighbour("spymemcached ketama", "java", "ketama", "spymemcached", Spymemcached, JAVA,
                  OUR_JAVA, java),
        Neighbour("spymemcached", "java", "native", "spymemcached:native",
                  lambda: Spymemcached(longs=True, compress_from=16385), JAVA, OUR_JAVA, java),
        Neighbour("gomemcache", "go", "", "gomemcache", plain, strings, OUR_TEXTS, go),
        Neighbour("pymemcache", "python", "pymemcache", "pymemcache", Pymemcache,
                  {**PYTHON, "bytes": b"\xff\x00"}, OUR_PYTHON, "pymemcache"),
        Neighbour("pymemcache compressed", "python", "pymemcache:compressed", "pymemcache",
                  lambda: Pymemcache(compress_from=401), PYTHON, OUR_PYTHON, "pymemcache"),
        Neighbour("python-memcached", "python", "python-memcached", "crc:python-memcached",
                  Pymemcache, PYTHON, OUR_PYTHON, "python-memcached"),
        Neighbour("pylibmc", "python", "pylibmc", "libmemcached", Pylibmc, PYLIBMC, OUR_PYTHON,
                  "pylibmc"),
        Neighbour("pylibmc ketama", "python", "pylibmc:ketama", "ketama",
                  lambda: Pylibmc(compress_from=1000), PYLIBMC, OUR_PYTHON, "pylibmc"),
        Neighbour("bmemcached", "python", "bmemcached", "bmemcached",
                  lambda: Bmemcached(compress_from=129), {**PYTHON, "empty": None}, OUR_PYTHON,
                  "python-binary-memcached"),
        Neighbour("Django", "python", "django", "pymemcache", Pymemcache, PYTHON, OUR_PYTHON,
                  "django"),
        Neighbour("libmc", "python", "libmc", "libmc", Raw,
                  {"bytes": b"\xff\x00", "text": Refused("flags 0x20 are not those of Raw")},
                  {"bytes": b"\xff\x00"}, "libmc"),
        Neighbour("memcachio", "python", "memcachio", "memcachio", Raw,
                  {"bytes": b"\xff\x00", "text": b"text", "int": b"41"},
                  {"bytes": b"\xff\x00"}, "memcachio"),
        Neighbour("meta-memcache", "python", "meta-memcache", "meta-memcache", MetaMemcache,
                  {**PYTHON, "empty": None},
                  {name: value for name, value in OUR_PYTHON.items() if name != "empty"},
                  "meta-memcache"),
    ]  # fmt: skip


MODULES = {
    "python-memcached": "memcache",
    "python-binary-memcached": "bmemcached",
    "meta-memcache": "meta_memcache",
}


def is_installed(neighbour: Neighbour) -> bool:
    """Return whether the client can be started here."""
    package = neighbour.package
    match neighbour.language:
        case "php":
            return succeeds("php", "-r", f"exit((int)!extension_loaded('{package[4:]}'));")
        case "perl":
            module = "Cache::Memcached::Fast" if "fast" in package else "Cache::Memcached"
            return succeeds("perl", f"-M{module}", "-e1")
        case "ruby":
            return succeeds("ruby", "-rdalli", "-e1")
        case "java":
            return shutil.which("java") is not None and JAR.exists()
        case "go":
            sources = GOPATH / "src/github.com/bradfitz/gomemcache"
            return shutil.which("go") is not None and sources.exists()
    return importlib.util.find_spec(MODULES.get(package, package)) is not None


def succeeds(program: str, *arguments: str) -> bool:
    if shutil.which(program) is None:
        return False
    return subprocess.run([program, *arguments], capture_output=True).returncode == 0


def command(neighbour: Neighbour) -> list[str]:
    """Return how to start the client's program; Go's is built first."""
    match neighbour.language:
        case "php":
            start = ["php", str(PROGRAMS / "memcached.php")]
        case "perl":
            start = ["perl", str(PROGRAMS / "memcached.pl")]
        case "ruby":
            start = ["ruby", str(PROGRAMS / "dalli.rb")]
        case "java":
            start = ["java", "-cp", str(JAR), str(PROGRAMS / "Spymemcached.java")]
        case "go":
            start = [str(built_go_program())]
        case _:
            start = [sys.executable, str(PROGRAMS / "clients.py")]
    return [*start, neighbour.variant]


def built_go_program() -> Path:
    BUILT.mkdir(parents=True, exist_ok=True)
    program, source = BUILT / "gomemcache", PROGRAMS / "gomemcache.go"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        settings = ["GO111MODULE=off", f"GOPATH={GOPATH}", f"GOCACHE={BUILT}"]
        build = ["env", *settings, "go", "build", "-o", str(program), str(source)]
        subprocess.run(build, check=True)
    return program
