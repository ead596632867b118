"""The manifests of deploy/kubernetes and compose.yaml name what exists: flags, ports, paths, metrics."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from fakes import FakeEngine, serve
from prometheus_client import generate_latest

from cli import serve as serve_command
from cli import translate as translate_command
from cli.descriptors import MAX_DESCRIPTORS
from cli.keys import API_KEY_FILE
from pagewire.health import LIVE
from server.app import ENGINE_GRACE_S
from translator.app import ROUTES
from translator.gate import HEALTH_PATHS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
COMMANDS = {"server": serve_command, "translator": translate_command}


def load(path: Path) -> list[dict[str, Any]]:
    """The documents of a file."""
    parts = path.read_text(encoding="utf-8").split("\n---\n")
    return [document for part in parts if (document := msgspec.yaml.decode(part)) is not None]


BASE = {
    (document["kind"], document["metadata"]["name"]): document
    for file in sorted((FOLDER / "base").glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for document in load(file)
}
POD = BASE["StatefulSet", "pagewire"]["spec"]["template"]["spec"]
CONTAINERS = {container["name"]: container for container in POD["containers"]}
SETTINGS = BASE["ConfigMap", "pagewire"]["data"]
(OVERLAY,) = load(FOLDER / "gpu" / "house.yaml")
(COMPOSE,) = load(ROOT / "compose.yaml")


def flags(command: str) -> Iterator[Any]:
    for group in COMMANDS[command].GROUPS:
        yield from group.flags


def flag(command: str, name: str) -> Any:
    return next(each for each in flags(command) if each.name == name)


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}


def test_every_file_is_in_the_kustomization() -> None:
    for name in ("base", "gpu"):
        (kustomization,) = load(FOLDER / name / "kustomization.yaml")
        named = {*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", ()))}
        there = {file.name for file in (FOLDER / name).glob("*.yaml")} - {"kustomization.yaml"}
        assert there == named - {"../base"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_variable_is_a_flags_and_has_a_value_that_it_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {each.variable for command in COMMANDS for each in flags(command)}
    own = variables(CONTAINERS[name])
    if name == "server":
        own |= {
            each["name"]: each["value"]
            for container in OVERLAY["spec"]["template"]["spec"]["containers"]
            for each in container["env"]
        }
    assert own.keys() <= {each.variable for each in flags(name)}
    assert SETTINGS.keys() <= both
    keys = tmp_path / "keys"
    keys.write_text("tenant:key\n")
    given = SETTINGS | own | {API_KEY_FILE.variable: str(keys)}
    nothing = argparse.Namespace(
        **{key: None for each in flags(name) for key in (each.key, f"{each.key}_positional")}
    )
    for each in flags(name):
        each.read(nothing, given)


def test_composes_variables_are_flags() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["environment"].keys() <= {each.variable for each in flags(name)}
        assert service["image"] == CONTAINERS[name]["image"]


def test_compose_allows_as_many_descriptors_as_the_commands_want() -> None:
    for service in COMPOSE["services"].values():
        assert service["ulimits"]["nofile"] == {"soft": MAX_DESCRIPTORS, "hard": MAX_DESCRIPTORS}


def test_the_ports_are_those_that_the_commands_listen_on() -> None:
    assert {port["name"]: port["containerPort"] for port in CONTAINERS["server"]["ports"]} == {
        "grpc": int(flag("server", "port").default),
        "metrics": int(flag("server", "metrics-port").default),
    }
    (http,) = CONTAINERS["translator"]["ports"]
    assert http == {"name": "http", "containerPort": int(flag("translator", "port").default)}
    own = variables(CONTAINERS["translator"])
    assert own["PAGEWIRE_GRPC_TARGET"] == f"127.0.0.1:{flag('server', 'port').default}"
    assert own["PAGEWIRE_STATS_TARGET"] == f"127.0.0.1:{flag('server', 'admin-port').default}"
    names = {port["name"]: port["containerPort"] for each in CONTAINERS.values() for port in each["ports"]}
    for service in ("pagewire", "pagewire-grpc"):
        for port in BASE["Service", service]["spec"]["ports"]:
            assert port["port"] == names[port["targetPort"]]
    assert BASE["StatefulSet", "pagewire"]["spec"]["serviceName"] == "pagewire-grpc"
    assert BASE["Service", "pagewire-grpc"]["spec"]["clusterIP"] == "None"


def test_nobody_reaches_the_admin_port_and_only_prometheus_the_metrics() -> None:
    assert "PAGEWIRE_ADMIN_HOST" not in SETTINGS | variables(CONTAINERS["server"])
    everybody, monitoring = BASE["NetworkPolicy", "pagewire"]["spec"]["ingress"]
    assert [port["port"] for port in everybody["ports"]] == ["http", "grpc"]
    assert [port["port"] for port in monitoring["ports"]] == ["metrics"]
    assert monitoring["from"][0]["namespaceSelector"]["matchLabels"]


def test_the_probes_ask_what_is_answered_without_a_key() -> None:
    paths = {getattr(route, "path", "") for route in ROUTES} & HEALTH_PATHS
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINERS["translator"][name]["httpGet"]["path"] in paths
        probe = CONTAINERS["server"][name]["grpc"]
        assert probe["port"] == int(flag("server", "port").default)
        assert probe.get("service", "") == (LIVE if name == "livenessProbe" else "")
    assert CONTAINERS["translator"]["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert CONTAINERS["translator"]["livenessProbe"]["httpGet"]["path"] == "/health/live"


def test_a_pod_has_time_to_drain() -> None:
    drain_s = float(SETTINGS["PAGEWIRE_DRAIN_TIMEOUT"])
    for container in CONTAINERS.values():
        linger_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert POD["terminationGracePeriodSeconds"] >= linger_s + drain_s + ENGINE_GRACE_S
    assert POD["enableServiceLinks"] is False, "PAGEWIRE_PORT would be the Service's"


def test_the_pod_has_no_privileges() -> None:
    assert POD["automountServiceAccountToken"] is False
    assert POD["securityContext"]["runAsNonRoot"] is True
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"--uid {POD['securityContext']['runAsUser']} " in recipe
    for container in CONTAINERS.values():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    claims = [
        each["metadata"]["name"] for each in BASE["StatefulSet", "pagewire"]["spec"]["volumeClaimTemplates"]
    ]
    volumes = {*claims, *(volume["name"] for volume in POD["volumes"])}
    mounts = {each["mountPath"]: each["name"] for each in CONTAINERS["server"]["volumeMounts"]}
    assert set(mounts.values()) == volumes
    assert mounts["/var/cache/pagewire"] in claims
    assert "VOLUME /var/cache/pagewire" in recipe
    assert Path(SETTINGS["PAGEWIRE_API_KEY_FILE"]).parent.as_posix() in mounts


def test_the_gpus_patch_changes_what_is_there() -> None:
    spec = OVERLAY["spec"]
    assert {each["name"] for each in spec["template"]["spec"]["containers"]} <= CONTAINERS.keys()
    base = BASE["StatefulSet", "pagewire"]["spec"]["volumeClaimTemplates"]
    assert [each["metadata"] for each in spec["volumeClaimTemplates"]] == [each["metadata"] for each in base]


async def test_the_scaler_asks_for_a_metric_that_exists() -> None:
    async with serve(FakeEngine()) as server:
        exposed = generate_latest(server.services.metrics.registry).decode()
    (adapter,) = load(FOLDER / "prometheus-adapter.yaml")
    (rule,) = adapter["rules"]["custom"]
    series = re.match(r"[a-z:_]+", rule["seriesQuery"])
    assert series is not None
    assert f"\n{series[0]}{{" in exposed
    (metric,) = BASE["HorizontalPodAutoscaler", "pagewire"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
