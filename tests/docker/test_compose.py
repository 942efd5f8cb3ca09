"""The compose files, and the files of Prometheus and Grafana that they mount, fit each other and the server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile import DOCKER, stages
from typer.testing import CliRunner

from toolkit.cli.main import app

FILES = [DOCKER / "compose.yaml", DOCKER / "compose.cuda.yaml"]
PROVISIONING = DOCKER / "grafana" / "provisioning"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


SERVICES = load(FILES[0])["services"]
IMAGE = stages(DOCKER / "serve.Dockerfile")


def check_compose(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_follows_the_compose_specification(path: Path) -> None:
    found = check_compose(path)
    assert found.returncode == 0, found.stdout


def test_the_specification_refuses_a_misspelt_key(tmp_path: Path) -> None:
    bad = tmp_path / "compose.yaml"
    bad.write_text(FILES[0].read_text().replace("cap_drop:", "cap_dorp:"))
    assert "cap_dorp" in check_compose(bad).stdout


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Sources by target, of either form."""
    found = {}
    for each in service.get("volumes", []):
        if isinstance(each, str):
            source, target, *_ = each.split(":")
            found[target] = source
        else:
            found[each["target"]] = each["source"]
    return found


def test_every_mounted_file_is_there_and_every_volume_declared() -> None:
    sources = {source for service in SERVICES.values() for source in mounts(service).values()}
    here = {source for source in sources if source.startswith(".")}
    assert [source for source in here if not (DOCKER / source).exists()] == []
    assert sources - here - {"${BUNDLES:-../bundles}"} == set(load(FILES[0])["volumes"])


def test_no_port_is_open_to_the_network_and_no_service_has_more_rights_than_it_needs() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_bundles_are_mounted_read_only_into_a_read_only_root() -> None:
    server = SERVICES["serve"]
    assert server["read_only"] is True
    assert [each["read_only"] for each in server["volumes"]] == [True]


def test_images_have_a_version() -> None:
    tags = {name: service["image"].partition(":")[2] for name, service in SERVICES.items() if "build" not in service}
    assert all(re.fullmatch(r"v?\d+\.\d+\.\d+", tag) for tag in tags.values()), tags


@pytest.mark.parametrize(("path", "device"), list(zip(FILES, ["cpu", "cuda"], strict=True)), ids=["cpu", "cuda"])
def test_the_server_is_built_and_started_as_the_dockerfile_and_the_command_line_have_it(
    path: Path, device: str
) -> None:
    server = load(path)["services"]["serve"]
    declared = {each.value.partition("=")[0] for stage in IMAGE for each in stage.instructions if each.name == "ARG"}
    assert server["build"]["args"] == {"DEVICE": device}
    assert declared == {"DEVICE"}
    verb, *words = server["command"]
    said = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output
    assert all(word in said for word in words if word.startswith("--"))
    assert words[-1].startswith(mounted := next(iter(mounts(SERVICES["serve"])))), mounted
    assert ("--provider" in words) == (device == "cuda")


def test_prometheus_scrapes_the_server() -> None:
    config = load(DOCKER / "prometheus.yaml")
    (job,) = config["scrape_configs"]
    assert set(config) == {"global", "scrape_configs"}
    assert set(config["global"]) == {"scrape_interval", "evaluation_interval"}
    assert set(job) == {"job_name", "metrics_path", "static_configs"}
    ports = IMAGE[-1].last("EXPOSE").value.split()
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"] == [{"targets": [f"serve:{ports[0]}"]}]
    assert mounts(SERVICES["prometheus"])["/etc/prometheus/prometheus.yml"] == "./prometheus.yaml"
    assert "serve" in SERVICES


def test_grafana_is_given_prometheus_and_the_dashboards() -> None:
    sources, providers = (
        load(PROVISIONING / "datasources/prometheus.yaml"),
        load(PROVISIONING / "dashboards/dashboards.yaml"),
    )
    (source,), (provider,) = sources["datasources"], providers["providers"]
    assert sources["apiVersion"] == providers["apiVersion"] == 1
    assert set(source) == {"name", "uid", "type", "access", "url", "isDefault", "editable", "jsonData"}
    assert set(provider) == {"name", "type", "disableDeletion", "allowUiUpdates", "options"}
    assert source["url"] == "http://prometheus:9090"
    assert "127.0.0.1:9090:9090" in SERVICES["prometheus"]["ports"]
    assert source["jsonData"]["timeInterval"] == load(DOCKER / "prometheus.yaml")["global"]["scrape_interval"]
    mounted = mounts(SERVICES["grafana"])
    assert mounted["/etc/grafana/provisioning"] == "./grafana/provisioning"
    assert mounted[provider["options"]["path"]] == "./grafana/dashboards"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DOCKER / "grafana/dashboards" / Path(home).name).is_file()
    assert home.startswith(provider["options"]["path"])
