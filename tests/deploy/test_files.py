"""The image, the compose file, the manifests and the job script: their parts fit together, and their commands exist."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.cli.main import build_parser
from broker.demo import child
from tests.deploy.kubernetes_schema import KINDS, SCHEMA, problems

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
IMAGE = (ROOT / "deploy" / "Containerfile").read_text()
MANIFESTS: list[dict[str, Any]] = [
    document
    for path in sorted(KUBERNETES.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]
#: The settings that docs/operations.md asks for.
SETTINGS = ("appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction")

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
PROBE_TIMES = {"failureThreshold", "periodSeconds", "timeoutSeconds"}
WORKLOADS = [found for found in MANIFESTS if "template" in found.get("spec", {})]


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for found in MANIFESTS if found["kind"] == kind}


def containers() -> Iterator[dict[str, Any]]:
    for workload in WORKLOADS:
        yield from workload["spec"]["template"]["spec"]["containers"]


def commands() -> Iterator[list[str]]:
    """The commands of all files."""
    for service in COMPOSE["services"].values():
        if isinstance(service.get("command"), list):
            yield service["command"]
        if "healthcheck" in service:
            how, *words = service["healthcheck"]["test"]
            yield words if how == "CMD" else ["sh", "-c", *words]
    for container in containers():
        yield container["command"]
        for probe in PROBES:
            if "exec" in container.get(probe, {}):
                yield container[probe]["exec"]["command"]
    script = (ROOT / "deploy" / "slurm" / "workers.sbatch").read_text()
    default, rest = re.findall(r"^\$\{WORKER:-([^}]*)\} (.*) &$", script, re.MULTILINE)[0]
    yield shlex.split(f"{default} {rest}")


def program_of(command: list[str]) -> list[str]:
    """The words of a command, without the shell that calls it."""
    if command[:2] == ["sh", "-c"]:
        return [word for word in shlex.split(command[2].replace("$$", "$")) if word != "exec"]
    return command


def test_every_command_is_one_that_there_is() -> None:
    seen = [program_of(command) for command in commands()]
    of_the_broker = [words for words in seen if words[0] == "broker"]
    assert {words[1] for words in of_the_broker} == {"gateway", "health", "metrics"}
    for words in of_the_broker:
        build_parser(words[1:]).parse_args(words[1:])  # exits if they are wrong
    programs = [words for words in seen if words[:2] == ["python", "-m"]]
    assert {words[2] for words in programs} == {"broker.demo.trainer", "broker.demo.worker"}
    for words in programs:
        spec = importlib.util.find_spec(words[2])
        assert spec is not None
        source = Path(str(spec.origin)).read_text() + inspect.getsource(child)
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in source, words


def test_the_image_installs_extras_that_there_are_as_a_user_who_is_not_root() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = [re.findall(r"^ARG EXTRAS=(.*)$", IMAGE, re.MULTILINE)[0], COMPOSE["x-broker"]["build"]["args"]["EXTRAS"]]
    assert {name for names in asked for name in names.split(",")} <= set(extras)
    assert COMPOSE["x-broker"]["build"]["dockerfile"] == "deploy/Containerfile"
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", IMAGE, re.MULTILINE) for word in line.split()]
    assert all((ROOT / path).exists() for path in copied)
    assert re.search(r"^USER 65534$", IMAGE, re.MULTILINE)


def test_the_image_has_a_directory_of_its_user_for_each_volume() -> None:
    build, _, _ = IMAGE.partition("USER 65534")
    services = [one for one in COMPOSE["services"].values() if one["image"] == COMPOSE["x-broker"]["image"]]
    places = {place.partition(":")[2] for service in services for place in service.get("volumes", ())}
    places |= {
        mount["mountPath"]
        for container in containers()
        if container["image"] == "rollout-broker-demo"
        for mount in container.get("volumeMounts", ())
    }
    assert places == {"/checkpoints"}
    for place in places:
        assert f"mkdir {place} && chown 65534 {place}" in build, "a new volume takes its owner from the image"


def test_servers_have_the_settings_of_the_operations_page() -> None:
    redis = " ".join(COMPOSE["services"]["redis"]["command"])
    assert all(f"--{setting}" in redis for setting in SETTINGS)
    valkey = named("ConfigMap")["valkey"]["data"]["valkey.conf"].splitlines()
    assert set(SETTINGS) <= set(valkey)


def test_the_compose_file_starts_clients_after_the_server_and_watches_their_health() -> None:
    services = COMPOSE["services"]
    for name in ("redis", "trainer", "worker", "metrics"):
        assert services[name]["healthcheck"]["test"], name
        assert "container_name" not in services[name], "a fixed name cannot be scaled"
        if name != "redis":
            assert services[name]["depends_on"]["redis"]["condition"] == "service_healthy"
    monitoring = {name for name, service in services.items() if service.get("profiles") == ["monitoring"]}
    assert monitoring == {"metrics", "prometheus", "grafana"}
    target = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    assert target["static_configs"][0]["targets"] == ["metrics:9464"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_grafana_finds_its_prometheus_and_its_board() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "rollout-broker.yml").read_text())["providers"]
    mounts = [volume.split(":")[:2] for volume in COMPOSE["services"]["grafana"]["volumes"]]
    assert ["./deploy/grafana/dashboards", provider["options"]["path"]] in mounts


DEFINITIONS: dict[str, Any] = json.loads(SCHEMA.read_text())


def test_manifests_are_what_the_schemas_of_kubernetes_say() -> None:
    assert {found["kind"] for found in MANIFESTS} == set(KINDS), "the schema holds the kinds that are used"
    assert [problem for found in MANIFESTS for problem in problems(found, DEFINITIONS)] == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("replicas: 4", "replica: 4", "Deployment.spec: there is no field replica"),
        ("replicas: 4", "replicas: four", "Deployment.spec.replicas: 'four' is not of type integer"),
        ("apiVersion: apps/v1", "apiVersion: v1", "Deployment.apiVersion: 'v1' is not one of ['apps/v1']"),
        ('cpu: "1"', "cpu: []", "is none of what is possible"),
        ("  selector:\n    matchLabels:", "  others:\n    matchLabels:", "Deployment.spec: selector is missing"),
        ("kind: Deployment", "kind: Deploy", "Deploy: no definition"),
    ],
)
def test_a_manifest_that_is_wrong_is_found(before: str, after: str, told: str) -> None:
    text = (KUBERNETES / "workers.yaml").read_text()
    assert before in text
    found = [
        problem
        for document in yaml.safe_load_all(text.replace(before, after))
        for problem in problems(document, DEFINITIONS)
    ]
    assert any(told in problem for problem in found), found


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not there")
def test_what_kubectl_makes_of_the_folder_is_what_the_schemas_say() -> None:
    made = subprocess.run(["kubectl", "kustomize", KUBERNETES], capture_output=True, text=True, timeout=60, check=True)
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(made.stdout))
    assert len(documents) == len(MANIFESTS)
    assert [problem for found in documents for problem in problems(found, DEFINITIONS)] == []
    assert {found["metadata"].get("namespace", "") for found in documents if found["kind"] != "Namespace"} == {
        "rollouts"
    }


def test_the_folder_and_its_list_agree() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert {path.name for path in KUBERNETES.glob("*.yaml")} == {*kustomization["resources"], "kustomization.yaml"}
    used = {container["image"] for container in containers()}
    assert {image["name"] for image in kustomization["images"]} <= used
    assert len({(found["kind"], found["metadata"]["name"]) for found in MANIFESTS}) == len(MANIFESTS)


def test_pods_and_containers_name_what_there_is() -> None:
    for workload in WORKLOADS:
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
            ports = {port["name"] for port in container.get("ports", ())}
            assert "livenessProbe" in container
            for name in PROBES:
                check_probe(container.get(name, {}), ports)


def check_probe(probe: dict[str, Any], ports: set[str]) -> None:
    actions = set(probe) - PROBE_TIMES
    assert len(actions) == bool(probe)
    for action in actions:
        assert action in {"exec", "httpGet", "tcpSocket"}
        assert action == "exec" or probe[action]["port"] in ports


def test_selectors_secrets_and_claims_name_what_there_is() -> None:
    pods = [workload["spec"]["template"] for workload in WORKLOADS]
    labels = [pod["metadata"]["labels"] for pod in pods]
    for workload in WORKLOADS:
        if workload["kind"] != "Job":
            assert workload["spec"]["selector"]["matchLabels"] == workload["spec"]["template"]["metadata"]["labels"]
    for budget in named("PodDisruptionBudget").values():
        assert budget["spec"]["selector"]["matchLabels"] in labels
    for service in named("Service").values():
        (pod,) = [pod for pod in pods if pod["metadata"]["labels"] == service["spec"]["selector"]]
        ports = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    secrets = {name: set(secret["stringData"]) for name, secret in named("Secret").items()}
    for pod in pods:
        for volume in pod["spec"].get("volumes", ()):
            assert volume.get("configMap", {}).get("name") in named("ConfigMap") or volume.get(
                "persistentVolumeClaim", {}
            ).get("claimName") in named("PersistentVolumeClaim")
        for container in pod["spec"]["containers"]:
            assert all(source["secretRef"]["name"] in secrets for source in container.get("envFrom", ()))
            for variable in container.get("env", ()):
                if (key := variable.get("valueFrom", {}).get("secretKeyRef")) is not None:
                    assert key["key"] in secrets[key["name"]]


def test_what_serves_requests_is_told_of_its_end_late_and_a_worker_has_time_to_finish() -> None:
    gateway = named("Deployment")["gateway"]["spec"]["template"]["spec"]
    (container,) = gateway["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    waits_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert 0 < waits_s < gateway["terminationGracePeriodSeconds"]
    assert named("Deployment")["worker"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 60
    assert set(named("PodDisruptionBudget")) == {"worker", "gateway", "valkey"}


WORKER = """
import signal, sys, time
def told(number, frame):
    time.sleep(0.3)
    print("finished", *sys.argv[1:], flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, told)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.mark.processes
def test_the_job_script_hands_sigterm_to_its_worker_and_waits_for_its_end(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    script = ROOT / "deploy" / "slurm" / "workers.sbatch"
    environment = {
        **os.environ,
        "BROKER_URL": "redis://127.0.0.1:1/0",
        "RUN": "math-7b",
        "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "3",
        "WORKER": f"{sys.executable} {tmp_path / 'worker.py'}",
    }
    with subprocess.Popen(["bash", str(script)], env=environment, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        job.send_signal(signal.SIGTERM)
        assert job.stdout.read() == "finished --run math-7b --name slurm-12-3\n"
        assert job.wait(30) == 7
    refused = subprocess.run(
        ["bash", str(script)], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=30, check=False
    )
    assert refused.returncode == 1
    assert "the URL of the server" in refused.stderr
