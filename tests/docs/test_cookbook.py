"""The programs of examples/cookbook do what docs/cookbook says, on real servers."""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import emcache
from support.memcached import free_port, memcached

pytestmark = pytest.mark.driver_independent

COOKBOOK = Path(__file__).parents[2] / "examples/cookbook"
PACKAGES = str(Path(emcache.__file__).parents[1])


@pytest.fixture
def server():
    with memcached() as server:
        yield server


@pytest.fixture
def environment(server, monkeypatch, tmp_path):
    """The variables that a deployment sets."""
    monkeypatch.setenv("EMCACHE_SERVERS", f"127.0.0.1:{server.port}")
    monkeypatch.setenv("PRODUCTS_DB", str(tmp_path / "products.db"))
    return server


def load(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, COOKBOOK / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@contextlib.asynccontextmanager
async def serving(app):
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
    async with app.router.lifespan_context(app), http:
        yield http


TEA = {"name": "Tea", "category": "drinks", "price": 4}
CAKE = {"name": "Cake", "category": "food", "price": 5}


async def test_products_are_read_from_the_cache(environment, monkeypatch):
    module = load("fastapi_products", monkeypatch)
    async with serving(module.app) as http:
        assert (await http.get("/products/1")).status_code == 404
        for number, product in ((1, TEA), (2, CAKE), (3, TEA)):
            assert (await http.put(f"/products/{number}", json=product)).status_code == 200
        assert (await http.get("/products?ids=1&ids=2")).json() == {"1": TEA, "2": CAKE}
        queries = module.database.queries
        for _ in range(3):
            assert (await http.get("/products/1")).json() == TEA
            assert list((await http.get("/products?category=drinks")).json()) == ["1", "3"]
        # The category, and the third product, which nobody had read yet.
        assert module.database.queries == queries + 2


async def test_a_changed_product_is_seen_at_once(environment, monkeypatch):
    module = load("fastapi_products", monkeypatch)
    async with serving(module.app) as http:
        await http.put("/products/1", json=TEA)
        assert list((await http.get("/products?category=drinks")).json()) == ["1"]
        await http.put("/products/1", json=TEA | {"category": "food", "price": 6})
        assert (await http.get("/products/1")).json()["price"] == 6
        assert (await http.get("/products?category=drinks")).json() == {}
        assert list((await http.get("/products?category=food")).json()) == ["1"]


async def test_categories_may_be_any_text(environment, monkeypatch):
    module = load("fastapi_products", monkeypatch)
    async with serving(module.app) as http:
        for category in ("hot drinks", "x" * 300, "Getränke\n"):
            stored = await http.put("/products/1", json=TEA | {"category": category})
            assert stored.status_code == 200
            found = await http.get("/products", params={"category": category})
            assert list(found.json()) == ["1"]


async def test_products_without_a_cache(environment, monkeypatch):
    module = load("fastapi_products", monkeypatch)
    async with serving(module.app) as http:
        await http.put("/products/1", json=TEA)
        environment.close()
        assert (await http.get("/products/1")).json() == TEA
        assert (await http.get("/healthz")).status_code == 200
        ready = await http.get("/readyz")
        assert ready.status_code == 200
        changed = await http.put("/products/1", json=CAKE)
        assert (changed.status_code, changed.headers["retry-after"]) == (503, "1")


async def test_a_graphql_query_reads_its_authors_at_once(environment, monkeypatch):
    pytest.importorskip("strawberry")
    module = load("graphql_library", monkeypatch)
    async with serving(module.app) as http:
        for _ in range(2):
            answer = await http.post("/graphql", json={"query": "{ books { title author } }"})
            books = answer.json()["data"]["books"]
            assert books[0] == {"title": "Notes", "author": "Ada Lovelace"}
            assert len(books) == 4
    assert module.queries == [[1, 2]]


async def test_requests_of_one_api_key_are_limited(environment, monkeypatch):
    module = load("rate_limited_api", monkeypatch)
    async with serving(module.app) as http:

        async def search(key):
            return await http.get("/search?words=tea", headers={"x-api-key": key})

        answers = await asyncio.gather(*(search("Ada Löwe".encode()) for _ in range(8)))
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [200] * 5 + [429] * 3
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        other = await search(b"grace")
        assert other.headers["x-ratelimit-remaining"] == "4"
        environment.close()
        assert (await search(b"grace")).status_code == 200


def program(*command, cwd=COOKBOOK, **environment):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": PACKAGES, "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextlib.contextmanager
def running(*command, **options):
    process = program(*command, **options)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            out, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
        sys.stdout.write(out)


def test_one_process_refreshes(environment):
    workers = [program("background_refresh.py", REFRESH_EVERY="30") for _ in range(2)]
    lines = [[worker.stdout.readline() for _ in range(3)] for worker in workers]
    for worker in workers:
        worker.terminate()
    outputs = [worker.communicate(timeout=20)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    texts = ["".join(begin) + end for begin, end in zip(lines, outputs, strict=True)]
    assert all("served 1.08 tea coffee" in text for text in texts)
    assert sum(text.count("computed by") for text in texts) <= 2


STEPS = [  # what the blue and the green deployment have, side by side, in each step
    (("old", None, None), ("new", "old", "prepare")),
    (("new", "old", "prepare"), ("new", "old", "move")),
    (("new", "old", "move"), ("new", "old", "finish")),
    (("new", "old", "finish"), ("new", None, None)),
]


@pytest.mark.parametrize("step", STEPS, ids=["prepare", "move", "finish", "end"])
async def test_blue_and_green_agree_in_each_step(step, monkeypatch):
    module = load("blue_green", monkeypatch)
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(memcached()).port for _ in range(5)]
        nodes = {
            "old": ",".join(f"127.0.0.1:{port}" for port in ports[:2]),
            "new": ",".join(f"127.0.0.1:{port}" for port in ports[2:]),
        }

        def variables(current, former, phase):
            found = {"EMCACHE_SERVERS": nodes[current]}
            if former:
                found |= {"EMCACHE_OLD_SERVERS": nodes[former], "EMCACHE_PHASE": phase}
            return found

        names = [f"cart{number}" for number in range(20)]
        apps = [module.create_app(variables(*side)) for side in step]
        async with serving(apps[0]) as blue, serving(apps[1]) as green:
            for writer, reader, items in ((blue, green, ["tea"]), (green, blue, ["cake"])):
                for name in names:
                    await writer.put(f"/carts/{name}", json=items)
                for name in names:
                    assert (await reader.get(f"/carts/{name}")).json() == items
            for name in names:
                await green.delete(f"/carts/{name}")
                assert (await blue.get(f"/carts/{name}")).status_code == 404
            metrics = (await green.get("/migration")).json()
            assert (metrics or {}).get("phase") == step[1][2]


def wait_until(is_true, seconds=30):
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.1)


def ask(port, path, method="GET", **options):
    return httpx.request(method, f"http://127.0.0.1:{port}{path}", timeout=10, **options)


def answers(port, path):
    with contextlib.suppress(httpx.TransportError):
        return ask(port, path).status_code < 500
    return False


def test_django_site(environment, tmp_path):
    site, variables = COOKBOOK / "django_site", {"SITE_DB": str(tmp_path / "site.db")}
    migrate = program("manage.py", "migrate", "--run-syncdb", cwd=site, **variables)
    out, _ = migrate.communicate(timeout=30)
    assert migrate.returncode == 0, out
    port = free_port()
    serve = ("manage.py", "runserver", "--noreload", str(port))
    with running(*serve, cwd=site, **variables):
        wait_until(lambda: answers(port, "/"))
        assert "No" not in ask(port, "/").text
        created = ask(port, "/articles/", "POST", data={"title": "Tea", "text": "is hot"}).json()
        path = f"/articles/{created['id']}"
        assert ask(port, "/").text == "<ul></ul>"  # the page of before, for 30 seconds
        first = ask(port, path)
        assert first.json() == {"title": "Tea", "text": "is hot", "read": 1}
        assert ask(port, path, cookies=first.cookies).json()["read"] == 2
        ask(port, f"{path}/edit", "POST", data={"title": "Tea", "text": "is cold"})
        assert ask(port, path).json()["text"] == "is cold"
        assert ask(port, f"{path}/async").json()["text"] == "is cold"
        assert ask(port, "/articles/99/async").status_code == 404
        environment.close()
        assert ask(port, path, cookies=first.cookies).json()["text"] == "is cold"


def test_flask_and_celery_share_the_cache(environment, tmp_path):
    pytest.importorskip("celery")
    pytest.importorskip("flask")
    folders = dict.fromkeys(("data_folder_in", "data_folder_out"), str(tmp_path))
    options = folders | {"control_folder": str(tmp_path / "control"), "polling_interval": 0.1}
    variables = {
        "CELERY_BROKER": "filesystem://",
        "CELERY_BROKER_OPTIONS": json.dumps(options),
    }
    folder, port = COOKBOOK / "flask_celery", free_port()
    web = ("-m", "flask", "--app", "web", "run", "--port", str(port))
    worker = (
        "-m",
        "celery",
        "-A",
        "tasks",
        "worker",
        "--concurrency",
        "2",
        "--without-mingle",
        "-l",
        "info",
    )
    with (
        running(*web, cwd=folder, **variables),
        running(*worker, cwd=folder, **variables) as workers,
    ):
        wait_until(lambda: answers(port, "/reports/2026-11"))
        first, second = (ask(port, "/reports/2026-11").json() for _ in range(2))
        assert first == second
        ordered = ask(port, "/reports/2026-11/rebuild", "POST")
        assert ordered.status_code == 202, ordered.text
        assert ask(port, "/reports/2026-11/rebuild", "POST").status_code == 429
        assert ask(port, "/reports/any text").json()["month"] == "any text"
        assert ask(port, "/reports/any text/rebuild", "POST").status_code == 202
        wait_until(lambda: ask(port, "/reports/2026-11").json() != first)
        rebuilt = ask(port, "/reports/2026-11").json()
        # A child of the worker computed it, with the client that its parent had made.
        assert rebuilt["computed_by"] not in (first["computed_by"], workers.pid)
