"""The pytest plugin, as other projects meet it: in runs of pytest of their own."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest_plugins = ["pytester"]

# Its own runs do both drivers' work in the one test that says so.
independent = pytest.mark.driver_independent


@pytest.fixture
def project(pytester, monkeypatch):
    """A project in which emcache is installed, entry point and all."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    points = declared["project"]["entry-points"]["pytest11"]
    info = pytester.mkdir("emcache_of_tests-0.dist-info")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: emcache-of-tests\nVersion: 0\n")
    lines = "".join(f"{name} = {module}\n" for name, module in points.items())
    (info / "entry_points.txt").write_text(f"[pytest11]\n{lines}")
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    for variable in ("EMCACHE_TEST_MEMCACHED", "EMCACHE_TEST_MEMCACHED_REQUIRED", "PYTEST_ADDOPTS"):
        monkeypatch.delenv(variable, raising=False)
    return pytester


def run(project, *arguments, mode="auto"):
    ini = [f"asyncio_mode={mode}", "asyncio_default_fixture_loop_scope=function"]
    # Without what takes its time to import, and is not asked for here.
    options = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-W", "error", "-rsfE"]
    options += [word for line in ini for word in ("-o", line)]
    return project.runpytest_subprocess(*options, *arguments, timeout=50)


FIXTURES = """
    import emcache
    import pytest

    KINDS = ["server", "unix_server", "tls_server", "auth_server", "sasl_server"]

    @pytest.mark.parametrize("kind", KINDS)
    async def test_each_kind(kind, request):
        server = request.getfixturevalue(f"memcached_{kind}")
        async with emcache.create_client([server.address], **server.client_options) as client:
            await client.set(b"key", b"value")
            assert (await client.get(b"key")).value == b"value"
            assert (await client.stats(server.address))["pid"] == str(server.process.pid)

    async def test_the_client_of_an_empty_server(emcache_client, memcached_server):
        assert await emcache_client.get(b"key") is None
        assert emcache_client.node_for(b"key") == memcached_server.address
        await emcache_client.set(b"key", b"value")

    async def test_empty_again(emcache_client):
        assert await emcache_client.get(b"key") is None

    def test_leaves_it_killed(memcached_server):
        memcached_server.kill()

    async def test_runs_again(emcache_client, memcached_server):
        await emcache_client.set(b"key", b"value")
        memcached_server.pause()

    async def test_goes_on(emcache_client):
        assert await emcache_client.get(b"key") is None

    async def test_a_cluster(memcached_cluster):
        servers = memcached_cluster(3, "-c", "64") + memcached_cluster(1, unix=True)
        async with emcache.create_client([server.address for server in servers]) as client:
            for server in servers:
                stats = await client.stats(server.address)
                assert stats["pid"] == str(server.process.pid)
        assert servers[0].stats()["max_connections"] == "64"

    async def test_a_proxy(memcached_tls_server, fault_proxy):
        proxy = fault_proxy(memcached_tls_server)
        async with emcache.create_client([proxy.address], **proxy.client_options) as client:
            await client.set(b"key", b"value")
        assert proxy.accepted > 0

    class TestInAClass:
        async def test_too(self, emcache_client):
            assert await emcache_client.get(b"key") is None
"""


def test_every_fixture(project):
    project.makepyfile(FIXTURES)
    run(project).assert_outcomes(passed=13)


@independent
def test_strict_mode_loops_of_any_scope_and_anyio(project):
    project.makepyfile("""
        import asyncio
        import pytest

        used = set()

        @pytest.mark.asyncio
        async def test_strict(emcache_client):
            used.add(asyncio.get_running_loop())
            await emcache_client.set(b"key", b"value")

        @pytest.mark.parametrize("again", range(2))
        @pytest.mark.asyncio(loop_scope="module")
        async def test_a_loop_of_the_module(emcache_client, again):
            used.add(asyncio.get_running_loop())
            assert await emcache_client.get(b"key") is None

        @pytest.mark.asyncio(loop_scope="session")
        async def test_a_loop_of_the_session(emcache_client):
            used.add(asyncio.get_running_loop())
            assert await emcache_client.get(b"key") is None

        def test_loops():
            assert len(used) == 3

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
        async def test_anyio(emcache_client):
            await emcache_client.set(b"key", b"value")

        @pytest.fixture
        async def of_the_client(emcache_client):
            await emcache_client.set(b"key", b"1")
            yield emcache_client
            assert (await emcache_client.get(b"key")).value == b"2"

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_a_fixture_of_the_client(of_the_client):
            await of_the_client.increment(b"key", 1)
    """)
    result = run(project, mode="strict")
    result.assert_outcomes(passed=7, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*emcache supports only asyncio"])


@independent
def test_overridden(project):
    """And the plugin named in three ways at once."""
    project.makeini("[pytest]\nmemcached_flush = false")
    project.makeconftest("""
        import pytest

        pytest_plugins = ["emcache.testing.plugin"]

        @pytest.fixture(scope="session")
        def memcached_args():
            return ("-c", "77")

        @pytest.fixture(scope="session")
        def memcached_server(memcached_auth_server):
            return memcached_auth_server

        @pytest.fixture
        def emcache_client_options():
            return {"max_connections": 1}
    """)
    project.makepyfile("""
        async def test_first(emcache_client, memcached_server):
            assert memcached_server.login
            assert memcached_server.stats()["max_connections"] == "77"
            await emcache_client.set(b"key", b"value")

        async def test_second(emcache_client):
            assert (await emcache_client.get(b"key")).value == b"value"
    """)
    run(project, "-p", "emcache.testing.plugin").assert_outcomes(passed=2)


# -- how it is loaded ----------------------------------------------------------------------------


LOADED = "async def test_loaded(emcache_client): assert await emcache_client.get(b'key') is None"


@independent
def test_it_costs_other_projects_nothing(project):
    project.makepyfile("""
        import sys

        def test_nothing_of_emcache_is_imported(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("emcache")
            assert not [name for name in sys.modules if name.split(".")[0] == "emcache"]

        def test_that_nobody_runs_in_a_loop(emcache_client):
            pass
    """)
    result = run(project)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*emcache_client needs pytest-asyncio or anyio*"])


@independent
def test_without_entry_points(project, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    project.makepyfile(LOADED)
    result = run(project, "-p", "pytest_asyncio.plugin", "-p", "emcache.testing.plugin")
    result.assert_outcomes(passed=1)


@independent
def test_turned_off(project):
    project.makepyfile(LOADED)
    result = run(project, "-p", "no:emcache")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'emcache_client' not found*"])


@independent
def test_with_xdist_each_worker_has_its_own(project):
    project.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(4))
        async def test_alone(emcache_client, memcached_server, number, worker_id, tmp_path_factory):
            await emcache_client.add(b"key", worker_id.encode())
            seen = tmp_path_factory.getbasetemp().parent / f"port-{memcached_server.port}"
            assert not seen.exists() or seen.read_text() == worker_id
            seen.write_text(worker_id)
    """)
    run(project, "-n", "2").assert_outcomes(passed=4)


# -- what is missing -----------------------------------------------------------------------------

SERVERS = """
    def test_server(memcached_server): assert memcached_server.running
    async def test_client(emcache_client): await emcache_client.set(b"key", b"value")
    def test_tls(memcached_tls_server): assert memcached_tls_server.running
    def test_cluster(memcached_cluster): assert memcached_cluster(1)[0].running
    def test_none_needed(): pass
"""


@independent
def test_no_memcached(project, monkeypatch):
    monkeypatch.setenv("PATH", "")
    project.makepyfile(SERVERS)
    result = run(project)
    result.assert_outcomes(passed=4, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "emcache: memcached is not installed: fixtures use emcache.testing.FakeServer*",
            "SKIPPED*memcached is not installed, or not on PATH *; --memcached-required makes*",
        ]
    )


FAKES = """
    import emcache
    import pytest
    from emcache.testing import FakeServer

    @pytest.fixture(scope="session")
    def memcached_args():
        return ("-m", "8", "-I", "2k", "-t", "1", "-v")

    def test_limits(memcached_server):
        assert isinstance(memcached_server, FakeServer)
        stats = memcached_server.command(b"stats settings\\r\\n")
        assert b"maxbytes 8388608" in stats and b"item_size_max 2048" in stats

    async def test_a_kill(emcache_client, memcached_server):
        await emcache_client.set(b"key", b"value", exptime=60)
        memcached_server.advance(60)
        assert await emcache_client.get(b"key") is None
        memcached_server.kill()

    async def test_a_pause(emcache_client, memcached_server):
        await emcache_client.set(b"key", b"value")
        memcached_server.pause()

    async def test_goes_on(emcache_client, memcached_unix_server):
        assert await emcache_client.get(b"key") is None
        async with emcache.create_client(memcached_unix_server.address) as client:
            await client.set(b"key", b"value")

    async def test_a_proxy(memcached_server, fault_proxy):
        async with emcache.create_client(fault_proxy(memcached_server).address) as client:
            await client.set(b"key", b"value")

    def test_other_options(memcached_cluster):
        assert len(memcached_cluster(2)) == 2
        memcached_cluster(1, "-c", "5")

    def test_users(memcached_cluster):
        memcached_cluster(1, users={"name": "password"})

    def test_tls(memcached_tls_server):
        pass
"""


@independent
def test_fakes_by_choice(project):
    project.makepyfile(FAKES)
    result = run(project, "--memcached=fake")
    result.assert_outcomes(passed=5, skipped=3)
    result.stdout.fnmatch_lines(
        [
            "emcache: as chosen: fixtures use emcache.testing.FakeServer*",
            "SKIPPED*FakeServer does not have the option -c of memcached*",
            "SKIPPED*FakeServer does not have the option users*",
            "SKIPPED*FakeServer has no TLS and no login*",
        ]
    )


@independent
@pytest.mark.parametrize("how", ["option", "variable", "ini"])
def test_no_memcached_though_it_is_required(project, monkeypatch, how):
    monkeypatch.setenv("PATH", "")
    if how == "option":
        monkeypatch.setenv("EMCACHE_TEST_MEMCACHED_REQUIRED", "0")
    if how == "variable":
        monkeypatch.setenv("EMCACHE_TEST_MEMCACHED_REQUIRED", "1")
    if how == "ini":
        project.makeini("[pytest]\nmemcached_required = true")
    project.makepyfile(SERVERS)
    result = run(project, *(["--memcached-required"] if how == "option" else []))
    result.assert_outcomes(passed=1, errors=3, failed=1)
    result.stdout.fnmatch_lines(["*memcached is not installed, or not on PATH*"])


@independent
def test_named(project, monkeypatch):
    """In the environment rather than in the ini file. What is named and not there is an error."""
    project.makepyfile(LOADED)
    binary = shutil.which("memcached")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("EMCACHE_TEST_MEMCACHED", binary)
    # Programs name their nodes so, the examples of other clients among them.
    monkeypatch.setenv("MEMCACHED", "10.0.0.1:11211")
    run(project, "-o", "memcached=/nowhere/memcached").assert_outcomes(passed=1)
    monkeypatch.delenv("EMCACHE_TEST_MEMCACHED")
    result = run(project, "-o", "memcached=/nowhere/memcached")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*/nowhere/memcached is not an executable program*"])


@independent
def test_what_servers_need_besides(project, monkeypatch):
    """A memcached without options, no `cryptography`, and no programs of SASL."""
    binary = shutil.which("memcached")
    (project.mkdir("cryptography") / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'cryptography'\", name='cryptography')"
    )
    poor = project.path / "poor-memcached"
    poor.write_text(
        f'#!/bin/sh\n[ "$1" = -h ] || exec {binary} "$@"\n{binary} -h | /bin/grep -v -e -Y,\n'
    )
    poor.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    project.makepyfile("""
        def test_poor(memcached_auth_server): pass
        def test_tls(memcached_tls_server): pass
        def test_plain(memcached_server): assert memcached_server.running
    """)
    result = run(project, f"--memcached={poor}")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "SKIPPED*poor-memcached was built without logins by a file (-Y); --memcached-required*",
            "SKIPPED*certificates for tests need cryptography: pip install cryptography;*",
        ]
    )


# -- the docs ------------------------------------------------------------------------------------


@independent
def test_the_examples_of_the_docs(project):
    """Each block is a file of a project; a conftest.py has a folder to itself."""
    text = (ROOT / "docs" / "testing.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    tests = 0
    for number, block in enumerate(blocks):
        tests += len(re.findall(r"^(?:async )?def test_", block, re.MULTILINE))
        project.path.joinpath(f"test_docs_{number}.py").write_text(block)
        if block.startswith("# conftest.py"):
            project.path.joinpath(f"test_docs_{number}.py").unlink()
            folder = project.mkdir(f"overridden_{number}")
            folder.joinpath("conftest.py").write_text(block)
            folder.joinpath("test_overridden.py").write_text(blocks[0])
            tests += 1
    assert tests >= 8
    run(project).assert_outcomes(passed=tests)


@independent
def test_the_user_code_of_the_type_checkers(project):
    code = ROOT / "tests" / "typing" / "user_code" / "with_fixtures.py"
    project.makepyfile(code.read_text())
    run(project).assert_outcomes(passed=7)
