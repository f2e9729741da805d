"""The manifests of the cookbook: fields that Kubernetes has, and references that lead somewhere."""

import re
from pathlib import Path

import pytest

import emcache

yaml = pytest.importorskip("yaml")
models = pytest.importorskip("kubernetes.client.models")

pytestmark = pytest.mark.driver_independent

FOLDER = Path(__file__).parents[2] / "examples/cookbook/kubernetes"


def manifests():
    return [
        document
        for file in sorted(FOLDER.glob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
    ]


def named(kind, name):
    [found] = (m for m in manifests() if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return found


def model_of(manifest):
    *_, version = manifest["apiVersion"].split("/")
    return f"{version.capitalize()}{manifest['kind']}"


def check(value, type_name, place):
    """Compare a value with the model that the client of Kubernetes has for it."""
    if match := re.fullmatch(r"[Ll]ist\[(.+)\]", type_name):
        assert isinstance(value, list), place
        for i, element in enumerate(value):
            check(element, match[1], f"{place}[{i}]")
    elif match := re.fullmatch(r"[Dd]ict[\[(](\w+), (\w+)[\])]", type_name):
        for key, element in value.items():
            check(element, match[2], f"{place}.{key}")
    elif type_name in ("str", "int", "bool", "float"):
        assert type(value).__name__ == type_name, f"{place}: {value!r} is not a {type_name}"
    elif type_name == "object":  # an int or a str, such as a port
        assert isinstance(value, int | str), place
    else:
        model = getattr(models, type_name)
        types = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
        for name, element in value.items():
            assert name in types, f"{place}: no field {name}"
            check(element, types[name], f"{place}.{name}")


@pytest.mark.parametrize(
    "manifest", manifests(), ids=lambda m: f"{m['kind']}-{m['metadata']['name']}"
)
def test_fields_exist(manifest):
    check(manifest, model_of(manifest), manifest["kind"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"replica": 1}, "no field replica"),
        ({"replicas": "3"}, "not a int"),
        ({"template": {"spec": {"containers": [{"livenesProbe": {}}]}}}, "no field livenesProbe"),
    ],
)
def test_mistakes_are_noticed(change, says):
    wrong = named("StatefulSet", "memcached")
    wrong["spec"] |= change
    with pytest.raises(AssertionError, match=says):
        check(wrong, model_of(wrong), "StatefulSet")


def test_clients_have_the_names_of_the_pods():
    pods, service = named("StatefulSet", "memcached"), named("Service", "memcached")
    assert service["spec"]["clusterIP"] == "None"
    assert pods["spec"]["serviceName"] == service["metadata"]["name"]
    [port] = service["spec"]["ports"]
    expected = [
        f"memcached-{i}.{service['metadata']['name']}:{port['port']}"
        for i in range(pods["spec"]["replicas"])
    ]
    nodes = emcache.parse_nodes(named("ConfigMap", "cache")["data"]["EMCACHE_SERVERS"])
    assert [str(node) for node in nodes] == expected


@pytest.mark.parametrize(
    ("workload", "service"),
    [
        (("StatefulSet", "memcached"), "memcached"),
        (("Deployment", "products"), "products"),
    ],
)
def test_selectors_and_ports_match(workload, service):
    found, service = named(*workload)["spec"], named("Service", service)["spec"]
    labels = found["template"]["metadata"]["labels"]
    assert found["selector"]["matchLabels"] == labels == service["selector"]
    [container] = found["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    probes = [container["livenessProbe"], container["readinessProbe"]]
    actions = [probe.get("tcpSocket") or probe["httpGet"] for probe in probes]
    assert {action["port"] for action in actions} <= ports
    assert {port["targetPort"] for port in service["ports"]} <= ports


def test_items_leave_memory_for_connections():
    [container] = named("StatefulSet", "memcached")["spec"]["template"]["spec"]["containers"]
    for_items = int(container["args"][container["args"].index("-m") + 1])
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi"))
    assert limit >= 1.2 * for_items


def test_probes_ask_what_the_application_answers():
    [container] = named("Deployment", "products")["spec"]["template"]["spec"]["containers"]
    program = (FOLDER.parent / "fastapi_products.py").read_text()
    for probe in ("livenessProbe", "readinessProbe"):
        assert f'@app.get("{container[probe]["httpGet"]["path"]}")' in program
