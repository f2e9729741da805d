"""doctor: looks for what is wrong, and says what to do."""

import asyncio
import dataclasses
import os
import time

import click
from rich.table import Table
from rich.text import Text

from .._address import Address, MemcachedHostAddress, MemcachedUnixSocketPath
from .._errors import AuthenticationError, EmcacheError
from .._lookups import addresses as lookup
from ..connection_pool import ConnectionPool
from ..discovery import ConfigDiscovery, NoDiscoveryError
from ._commands import Command, runs
from ._exits import NEGATIVE, WANTS_LOGIN, text_of
from ._finding import Finding, doubt, fault, found
from ._output import Output, printable
from ._proxies import answers, if_known, knows_gat
from ._server_checks import MORE_CONNECTIONS, check_all
from ._settings import Settings, node_name
from ._tls_check import check_tls
from ._versions import parse, version_findings

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command("doctor", cls=Command)
@runs
async def doctor(settings: Settings, output: Output) -> int:
    """Look for what is wrong, and say what to do.

    It checks names, connections, TLS, login, limits, memory, clock and version of every node.
    Each line is ok, warn or fail. The exit code is 1 if one failed.
    """
    addresses = settings.addresses()
    # Files and options that no client takes are told before anything is asked.
    async with await settings.client_of(addresses, min_connections=0):
        pass
    findings = []
    if settings.discovery is not None:
        about, addresses = await _discovered(settings, addresses)
        findings.append(about)
    results = await asyncio.gather(*(_node(settings, address) for address in addresses))
    for address, of_node in zip(addresses, results, strict=True):
        name = node_name(address)
        findings += [dataclasses.replace(finding, node=name) for finding in of_node]
    findings += _differences(findings)
    if output.as_json:
        _document(output, findings)
    elif output.is_terminal:
        _for_people(output, findings)
    else:
        _for_pipes(findings)
    return NEGATIVE if _count(findings)["fail"] else 0


async def _discovered(
    settings: Settings, endpoints: list[Address]
) -> tuple[Finding, list[Address]]:
    """Ask the configuration endpoint; the nodes are it alone where it has no list."""

    def pool(address: Address) -> ConnectionPool:
        return ConnectionPool(
            address,
            max_connections=1,
            min_connections=0,
            connection_timeout=settings.timeout * 0.9,
            timeout=settings.timeout,
            **settings.security(),
        )

    try:
        topology = await ConfigDiscovery(endpoints, pool, settings.timeout).discover()
    except NoDiscoveryError:
        text = "the endpoint keeps no list of nodes; it is checked as a node"
        return doubt("discovery", text, "use --servers with its address"), endpoints
    except (EmcacheError, OSError, ValueError) as error:
        text = printable(str(error)) or type(error).__name__
        return fault("discovery", text, "see what is said of the endpoint below"), endpoints
    nodes = [node.address for node in topology.nodes]
    names = ", ".join(map(node_name, nodes))
    return found("discovery", f"version {topology.version}, {len(nodes)} nodes: {names}"), nodes


async def _node(settings: Settings, address: Address) -> list[Finding]:
    """Go on as long as the next check can tell anything."""
    findings = await _reachable(settings, address)
    if any(finding.state == "fail" for finding in findings):
        return findings
    if settings.uses_tls:
        findings += await check_tls(settings, address)
        if any(finding.state == "fail" for finding in findings):
            return findings
    return findings + await _asked(settings, address)


async def _reachable(settings: Settings, address: Address) -> list[Finding]:
    match address:
        case MemcachedUnixSocketPath(path):
            return [await _connect(settings, node_name(address), path)]
        case MemcachedHostAddress(host, port):
            try:
                async with asyncio.timeout(settings.timeout):
                    ips = await lookup(host, port)
            except (OSError, UnicodeError) as error:
                text = f"{host}: {getattr(error, 'strerror', None) or 'no answer in time'}"
                return [fault("names", text, "is the name right? Does its DNS server answer?")]
            names = []
            if ips != [host]:
                names = [found("names", f"{host} is {', '.join(ips)}")]
            tried = [await _connect(settings, f"{ip}", (ip, port)) for ip in ips]
            return names + _any_of(tried)


def _any_of(tried: list[Finding]) -> list[Finding]:
    """One address of a name that can be connected will do."""
    if all(finding.state == "fail" for finding in tried):
        return tried
    return [
        doubt("connects", finding.text, "clients try the name's other addresses; or fix its DNS")
        if finding.state == "fail"
        else finding
        for finding in tried
    ]


async def _connect(settings: Settings, name: str, where: str | tuple[str, int]) -> Finding:
    begin = time.perf_counter()
    try:
        async with asyncio.timeout(settings.timeout):
            if isinstance(where, str):
                _, writer = await asyncio.open_unix_connection(where)
            else:
                _, writer = await asyncio.open_connection(*where)
    except TimeoutError:
        text = f"{name}: no answer within {settings.timeout:g} s"
        return fault("connects", text, "a firewall, or a route; is the address right?")
    except OSError as error:
        text = f"{name}: {_os_text(error)}"
        return fault("connects", text, "is it running, and listening there (-l, -p, -s)?")
    milliseconds = (time.perf_counter() - begin) * 1000
    writer.transport.abort()
    return found("connects", f"{name} in {milliseconds:.1f} ms")


def _os_text(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


async def _asked(settings: Settings, address: Address) -> list[Finding]:
    """Ask the node about itself, through the client itself."""
    async with await settings.client_of([address]) as client:
        try:
            await answers(client, address)
            version = await if_known(client.version(address), patient=True)
            stats, here = await if_known(client.stats(address)) or {}, time.time()
            server = await if_known(client.stats(address, "settings")) or {}
            has_gat = await knows_gat(client)
        except AuthenticationError as error:
            text = text_of(error)
            return [fault("login", text, "username, password, --auth, the server's users?")]
        except EmcacheError as error:
            return [_no_answer(settings, error)]
    is_proxy, of_proxy = _proxy(version, stats, has_gat)
    of_version = version_findings(version, server) if stats or not is_proxy else []
    return [
        *of_proxy,
        *of_version,
        *check_all(stats, server, settings, here),
        *([] if is_proxy and not stats else _not_told(stats, server)),
    ]


def _proxy(version: str | None, stats: dict[str, str], has_gat: bool) -> tuple[bool, list[Finding]]:
    """Say that it is a proxy, and what it does not answer."""
    if any(name.startswith("proxy_") for name in stats):
        text = "memcached's own proxy: what is said here is of itself, not of its servers"
        return True, [doubt("proxy", text, "ask its servers too: --servers with their addresses")]
    told = {"gat": has_gat, "stats": bool(stats), "version": version is not None}
    missing = [name for name, is_told in told.items() if not is_told]
    if not missing or (parse(version) is not None and has_gat):
        return False, []
    text = f"a proxy: it answers get, but not {', '.join(missing)}"
    advice = "all that emcache needs works, see docs/clusters.md; ask its servers for their stats"
    return True, [doubt("proxy", text, advice)]


def _not_told(stats: dict[str, str], server: dict[str, str]) -> list[Finding]:
    missing = [name for name, told in (("stats", stats), ("stats settings", server)) if not told]
    if not missing:
        return []
    text = f"the server does not answer {' and '.join(missing)}, so not all was checked"
    return [doubt("limits", text, "a proxy, or a hosted service? Then see its own console")]


def _no_answer(settings: Settings, error: EmcacheError) -> Finding:
    text = text_of(error)
    match error._reason:
        case "unauthenticated":
            return fault("login", text.removesuffix(f": {WANTS_LOGIN}"), WANTS_LOGIN)
        case "tls":
            return fault("tls", text, "see docs/security.md")
        case "too_many_connections":
            return fault("connections", text, MORE_CONNECTIONS)
    if settings.uses_tls:
        advice = "does it want a login (--username)? Is it memcached?"
    else:
        advice = "does it want TLS (--tls)? A login (--username, --auth sasl)? Is it memcached?"
    if error._reason == "timeout":
        advice = f"does it hang (stopped, swapping, overloaded)? If it never worked: {advice}"
    return fault("answers", text, advice)


def _differences(findings: list[Finding]) -> list[Finding]:
    """Say where nodes of one cluster are not alike."""
    different = []
    for check in ("version", "item limit"):
        texts = {finding.text.split(" lacks ")[0] for finding in findings if finding.check == check}
        if len(texts) > 1:
            text = f"nodes differ: {', '.join(sorted(texts))}"
            different.append(doubt(check, text, "make them alike"))
    return different


def _count(findings: list[Finding]) -> dict[str, int]:
    return {state: sum(f.state == state for f in findings) for state in ("ok", "warn", "fail")}


def _document(output: Output, findings: list[Finding]) -> None:
    listed = [finding.fields() for finding in findings]
    output.document({"findings": listed, "counts": _count(findings)})


def _for_pipes(findings: list[Finding]) -> None:
    for finding in findings:
        text = finding.text if finding.advice is None else f"{finding.text} -> {finding.advice}"
        click.echo("\t".join((finding.state, finding.node or "all", finding.check, text)))


def _for_people(output: Output, findings: list[Finding]) -> None:
    for node in dict.fromkeys(finding.node for finding in findings):
        output.line(node or "all nodes", "bold")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=4)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for finding in findings:
            if finding.node == node:
                text = Text(finding.text)
                if finding.advice is not None:
                    text.append(f"\n-> {finding.advice}", "dim")
                state = Text(finding.state, _STYLES[finding.state])
                table.add_row(state, finding.check, text)
        output.table(table)
        output.line("")
    counts = _count(findings)
    output.line(", ".join(f"{number} {state}" for state, number in counts.items()))


COMMANDS = [doctor]
