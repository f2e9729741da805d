"""Checks of `doctor` based on a node's statistics and settings."""

from ._doctor_queries import NodeAnswers
from ._finding import Finding, fail, ok, warn
from ._load_checks import (
    Stats,
    check_cpu,
    check_hit_ratio,
    check_latency,
    check_memory,
    whole,
)
from ._output import printable
from ._settings import Settings
from ._units import duration, number, size

CLOCK_DOUBT = 3.0
CLOCK_FAULT = 60.0
MORE_CONNECTIONS = "look for programs that create a client for each request, or raise -c"


def check_login(server: Stats, settings: Settings) -> list[Finding]:
    """Check how clients log in."""
    wants = [how for how in ("ascii", "sasl") if server.get(f"auth_enabled_{how}") == "yes"]
    findings = []
    if settings.username:
        who = printable(settings.username)
        findings.append(ok("login", f"logged in as {who}"))
        if not settings.uses_tls:
            findings.append(
                warn(
                    "login", "the password is sent in clear text", "use TLS, or a network you trust"
                )
            )
    elif wants:
        findings.append(ok("login", "accepted without a login, although the server has users"))
    elif not server:
        findings.append(ok("login", "not needed"))
    elif _is_open(server) and not _wants_certificate(server):
        findings.append(
            warn(
                "login",
                "the server listens on all interfaces and does not require a login",
                "bind it to an internal address (-l), or use a firewall; see docs/security.md",
            )
        )
    else:
        findings.append(ok("login", "not required"))
    return findings


def _is_open(server: Stats) -> bool:
    """Return whether the server listens on all interfaces."""
    is_socket = server.get("domain_socket", "NULL") != "NULL"
    return not is_socket and server.get("inter") in ("NULL", "0.0.0.0", "::")


def _wants_certificate(server: Stats) -> bool:
    return server.get("ssl_enabled") == "yes" and server.get("ssl_verify_mode") in ("2", "3")


def check_item_limit(server: Stats) -> list[Finding]:
    """Report the item limit."""
    limit = whole(server, "item_size_max")
    if limit is None:
        return [ok("item limit", "the server does not report it")]
    return [ok("item limit", f"{size(limit)} with key and header (-I)")]


def check_refused(stats: Stats) -> list[Finding]:
    """Report refused values."""
    findings = []
    if large := whole(stats, "store_too_large"):
        findings.append(
            warn(
                "refused",
                f"{number(large)} values were too large, and deleted the old value of their key",
                "store less under one key, compress, or start the server with a larger -I; "
                "'emcache watch mutations' shows the keys (too_large)",
            )
        )
    if memory := whole(stats, "store_no_memory"):
        findings.append(
            warn("refused", f"{number(memory)} values did not fit into memory", "raise -m")
        )
    return findings


def check_connections(stats: Stats) -> list[Finding]:
    """Compare the connections with their limit."""
    used, limit = whole(stats, "curr_connections"), whole(stats, "max_connections")
    if used is None or limit is None:
        return [ok("connections", "the server does not report it")]
    text = f"{used} of {limit} are used"
    findings = []
    if stats.get("accepting_conns") == "0" or used >= limit:
        findings.append(fail("connections", f"{text}: no more are accepted", MORE_CONNECTIONS))
    elif used > 0.8 * limit:
        findings.append(warn("connections", text, MORE_CONNECTIONS))
    else:
        findings.append(ok("connections", text))
    times = (whole(stats, "listen_disabled_num") or 0) + (whole(stats, "rejected_connections") or 0)
    if times:
        uptime = duration(whole(stats, "uptime"))
        text = f"the limit was reached {number(times)} times in {uptime}"
        findings.append(warn("connections", text, MORE_CONNECTIONS))
    return findings


def check_clock(stats: Stats, local_time: float) -> list[Finding]:
    """Compare the server's clock, which counts whole seconds, with the local clock."""
    server_time = whole(stats, "time")
    if server_time is None:
        return []
    apart = server_time + 0.5 - local_time
    text = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the local clock"
    advice = "set both by NTP; expiry times that are dates are wrong by this difference"
    if abs(apart) >= CLOCK_FAULT:
        return [fail("clock", text, advice)]
    if abs(apart) >= CLOCK_DOUBT:
        return [warn("clock", text, advice)]
    return [ok("clock", "agrees with the local clock")]


def check_features(server: Stats) -> list[Finding]:
    """Report features that are switched off."""
    findings = []
    if (whole(server, "udpport") or 0) > 0:
        findings.append(
            warn("udp", "UDP is enabled, which is abused for floods", "disable it: -U 0")
        )
    off = {
        "cas_enabled": ("cas", "gets returns no tokens, so cas does not protect (-C)"),
        "flush_enabled": ("flush", "flush_all is refused (-F)"),
        "dump_enabled": ("keys", "keys cannot be listed (-X)"),
        "lru_crawler": ("keys", "the LRU crawler is off: expired items stay, keys is refused"),
    }
    for name, (check, text) in off.items():
        if server.get(name) == "no":
            finding = warn(check, text, "start the server without this option, if you need it")
            findings.append(finding if name == "cas_enabled" else ok(check, text))
    return findings


def check_all(stats: Stats, server: Stats, settings: Settings, local_time: float) -> list[Finding]:
    """Run all checks of one node's answers."""
    return [
        *check_login(server, settings),
        *check_item_limit(server),
        *check_refused(stats),
        *check_connections(stats),
        *check_clock(stats, local_time),
        *check_features(server),
    ]


def check_load(found: NodeAnswers) -> list[Finding]:
    """Run all checks of what was measured at one node."""
    if found.samples is None:
        return []
    return [
        *check_latency(found.pings),
        *check_hit_ratio(found.samples),
        *check_memory(found.samples, found.items),
        *check_cpu(found.samples, found.settings),
    ]
