"""Features that versions of memcached lack, and known bugs of versions."""

import re

from ._finding import Finding, fail, ok, warn

Version = tuple[int, int, int]

NEEDED: list[tuple[Version, str]] = [
    ((1, 4, 31), "lru_crawler metadump (emcache keys)"),
    ((1, 5, 3), "gat and gats"),
]
"""Features that emcache uses, with the first version that supports them."""

LACKED: list[tuple[Version, str]] = [
    ((1, 5, 13), "TLS"),
    ((1, 5, 15), "logins by -Y"),
    ((1, 6, 10), "base64 keys in meta commands"),
    ((1, 6, 20), "ms s and ms MA N (ignored without an error)"),
    ((1, 6, 27), "meta E and md x"),
    ((1, 6, 40), "mg C (ignored without an error)"),
]

BAD: list[tuple[Version, Version, bool, str]] = [
    ((0, 0, 0), (1, 4, 33), True, "anyone who connects may run code on it (CVE-2016-8704 to 8706)"),
    ((1, 4, 33), (1, 4, 37), False, "a counter overflow corrupts items (CVE-2018-1000127)"),
    ((1, 5, 0), (1, 5, 17), False, "'stats conns' reads past a buffer (CVE-2019-15026)"),
    ((1, 6, 0), (1, 6, 2), True, "a bad header crashes it (CVE-2020-10931)"),
    ((1, 6, 0), (1, 6, 3), True, "a bad meta command crashes it (CVE-2020-22570)"),
    ((1, 6, 12), (1, 6, 13), False, "long get lines are answered with an error"),
]
"""First version, first fixed version, whether it is a failure (or a warning), the bug."""

PROXY_FIXED = (1, 6, 22)


def parse(text: str | None) -> Version | None:
    """Parse a version, such as ``1.6.18`` or ``1.6.6-elasticache``."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})", text or "")
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def dotted(version: Version) -> str:
    """Format a version."""
    return ".".join(map(str, version))


def version_findings(text: str | None, settings: dict[str, str]) -> list[Finding]:
    """Check the version of one node."""
    version = parse(text)
    if version is None:
        return [
            warn(
                "version",
                f"{text or 'none'} is not a version of memcached",
                "is it a proxy or another server? Some commands may not work",
            )
        ]
    return [_what_it_lacks(version), *_known_bad(version, settings)]


def _what_it_lacks(version: Version) -> Finding:
    name = f"memcached {dotted(version)}"
    if version < (1, 6, 0):
        name += " (no meta commands)"
    if needed := [what for since, what in NEEDED if version < since]:
        return warn("version", f"{name} lacks {'; '.join(needed)}", "update the server")
    lacked = [f"{what}, of {dotted(since)}" for since, what in LACKED if version < since]
    if not lacked:
        return ok("version", name)
    return ok("version", f"{name} lacks {'; '.join(lacked)}")


def _known_bad(version: Version, settings: dict[str, str]) -> list[Finding]:
    findings = [
        (fail if is_certain else warn)("bugs", what, f"update it to {dotted(until)} or later")
        for since, until, is_certain, what in BAD
        if since <= version < until
    ]
    if settings.get("proxy_enabled") == "yes" and version < PROXY_FIXED:
        what = "its proxy writes past a buffer (CVE-2023-46852, 46853)"
        findings.append(fail("bugs", what, f"update it to {dotted(PROXY_FIXED)} or later"))
    return findings
