"""`emcache.contrib.celery` with a real Celery: a prefork worker, groups and chords."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap

import pytest
from celery import Celery, chord, group
from celery.exceptions import ImproperlyConfigured

import emcache
from emcache.contrib.celery import EmcacheBackend
from support.memcached import memcached

pytestmark = pytest.mark.driver_independent

TASKS = """
import os
from celery import Celery

port, folder = os.environ["TASKS_PORT"], os.environ["TASKS_FOLDER"]
app = Celery("tasks", broker="filesystem://", backend=f"emcache://127.0.0.1:{port}")
app.conf.update(
    broker_transport_options={
        "data_folder_in": folder, "data_folder_out": folder, "control_folder": folder
    },
    cache_backend_options={"timeout": 30.0},
    result_expires=300,
    worker_hijack_root_logger=False,
)
# The parent of the pool has a connection before it forks.
app.backend.client.set(b"parent", str(os.getpid()).encode())

@app.task
def add(x, y):
    return x + y

@app.task
def total(numbers):
    return {"sum": sum(numbers), "pid": os.getpid()}

@app.task
def fail():
    raise ValueError("no")

@app.task(soft_time_limit=1)
def read_for_ever():
    while True:
        app.backend.get(b"nothing")
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The module of tasks, with a prefork worker behind it."""
    folder = tmp_path_factory.mktemp("celery")
    (folder / "messages").mkdir()
    (folder / "tasks.py").write_text(textwrap.dedent(TASKS))
    with memcached() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TASKS_PORT", str(server.port))
        patch.setenv("TASKS_FOLDER", str(folder / "messages"))
        command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", "prefork"]
        command += ["-c", "2", "-l", "WARNING", "--without-gossip", "--without-mingle"]
        log = (folder / "log").open("w")
        environment = os.environ | {"C_FORCE_ROOT": "1"}
        worker = subprocess.Popen(
            command, cwd=folder, stderr=log, stdout=log, env=environment, start_new_session=True
        )
        patch.syspath_prepend(folder)
        import tasks

        yield tasks
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        log.close()
        tasks.app.close()


def test_a_prefork_worker(tasks):
    assert tasks.add.delay(2, 3).get(timeout=30, interval=0.02) == 5
    failed = tasks.fail.delay()
    with pytest.raises(ValueError, match="no"):
        failed.get(timeout=30, interval=0.02)
    numbers = group(tasks.add.s(n, n) for n in range(10)).delay()
    assert numbers.get(timeout=30, interval=0.02) == [2 * n for n in range(10)]
    result = chord(tasks.add.s(n, 1) for n in range(10))(tasks.total.s())
    made = result.get(timeout=30, interval=0.02)
    parent = tasks.app.backend.client.get(b"parent").value
    assert made["sum"] == 55
    assert made["pid"] != int(parent)
    key = tasks.app.backend.get_key_for_task(result.id)
    assert 200 < tasks.app.backend.client.ttl(key) <= 300
    result.forget()
    assert tasks.app.backend.client.get(key) is None


def test_a_soft_time_limit_in_the_middle_of_calls(tasks):
    from celery.exceptions import SoftTimeLimitExceeded

    limited = [tasks.read_for_ever.delay() for _ in range(2)]
    for result in limited:
        with pytest.raises(SoftTimeLimitExceeded):
            result.get(timeout=30, interval=0.02)
    # The same processes go on.
    numbers = group(tasks.add.s(n, n) for n in range(10)).delay()
    assert numbers.get(timeout=30, interval=0.02) == [2 * n for n in range(10)]


@pytest.fixture
def app(server):
    with Celery("eager", backend=f"emcache://127.0.0.1:{server.port}") as made:
        made.conf.update(task_always_eager=True, task_store_eager_result=True)
        yield made


def test_eager_tasks(app):
    @app.task
    def double(x):
        return 2 * x

    result = double.delay(4)
    stored = app.AsyncResult(result.id)
    assert (stored.state, stored.result) == ("SUCCESS", 8)
    assert app.AsyncResult("never made").state == "PENDING"


def test_ids_with_spaces(app):
    @app.task
    def double(x):
        return 2 * x

    ids = ["order 1", "é" * 200]
    for name in ids:
        double.apply_async((1,), task_id=name)
    assert {key for key, _ in app.backend.get_many(ids)} == set(ids)


async def test_a_coroutine_may_ask(app):
    assert app.AsyncResult("never made").state == "PENDING"


def test_the_client_is_shared_by_apps_and_threads(app):
    other = Celery("other", backend=app.backend.as_uri())
    assert other.backend is not app.backend
    assert other.backend.client is app.backend.client
    app.backend.client.close()
    assert app.AsyncResult("never made").state == "PENDING"


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("emcache://10.0.0.1:11211;10.0.0.2/", "10.0.0.1:11211,10.0.0.2"),
        ("emcache://[::1]:11211,b", "[::1]:11211,b"),
        ("emcache:///run/memcached.sock", "unix:/run/memcached.sock"),
    ],
)
def test_urls(url, nodes):
    backend = Celery("urls", backend=url).backend
    assert type(backend) is EmcacheBackend
    assert (backend._nodes, backend.as_uri()) == (nodes, url)


def test_the_class_as_the_backend(server):
    url = f"emcache.contrib.celery:EmcacheBackend+emcache://127.0.0.1:{server.port}"
    assert Celery("urls", backend=url).AsyncResult("never made").state == "PENDING"


def test_wrong_settings():
    app = Celery("wrong", backend="emcache://127.0.0.1")
    app.conf.cache_backend_options = {"behaviors": {}}
    with pytest.raises(ImproperlyConfigured, match="unknown cache_backend_options: behaviors"):
        app.backend  # noqa: B018
    with pytest.raises(ImproperlyConfigured, match="at least one node"):
        Celery("wrong", backend="emcache://").backend  # noqa: B018


def test_a_password_in_the_url_is_not_logged():
    with pytest.raises(ImproperlyConfigured, match="cache_backend_options") as caught:
        Celery("wrong", backend="emcache://user:secret@127.0.0.1").backend  # noqa: B018
    assert "secret" not in str(caught.value)


def test_a_backend_survives_pickle(app):
    app.set_current()
    app.backend.store_result("pickled", 1, "SUCCESS")
    again = pickle.loads(pickle.dumps(app.backend))
    assert again.get_task_meta("pickled")["result"] == 1
    assert again.client is app.backend.client


def test_a_result_is_stored_after_an_outage():
    with memcached() as server:
        app = Celery("retry", backend=f"emcache://127.0.0.1:{server.port}")
        app.conf.update(result_backend_always_retry=True, cache_backend_options={"timeout": 1.0})
        app.backend.store_result("before", 1, "SUCCESS")
        server.kill()
        with pytest.raises(emcache.EmcacheError):
            app.backend.get(b"a")
        server.restart()
        app.backend.store_result("after", 2, "SUCCESS")
        assert app.AsyncResult("after").result == 2


def test_celerys_own_backend_finds_the_same_results(server, app):
    theirs = Celery("theirs", backend=f"cache+memcached://127.0.0.1:{server.port}/")
    theirs.backend.store_result("shared-1", {"a": 1}, "SUCCESS")
    assert app.AsyncResult("shared-1").result == {"a": 1}
    app.backend.store_result("shared-2", [2], "SUCCESS")
    assert theirs.AsyncResult("shared-2").result == [2]
    getattr(theirs.backend.client, "close", lambda: None)()
