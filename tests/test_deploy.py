"""What is deployed: the chart is rendered for real and its configuration loaded, the image's content is built."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from bridge import settings

ROOT = Path(__file__).parent.parent
CHART = ROOT / "deploy/helm/ejoin-bridge"
CI_VALUES = yaml.safe_load((CHART / "ci/default-values.yaml").read_text())
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
SECRETS = "/etc/ejoin-bridge-secrets"


# --- the chart ------------------------------------------------------------------------------------------------------


def changed(**values: Any) -> dict[str, Any]:
    """The values of ci/default-values.yaml with other entries on top; mappings are merged, all else replaced."""

    def merge(below: Any, above: Any) -> Any:
        if isinstance(below, dict) and isinstance(above, dict):
            return {key: merge(below.get(key), above.get(key, below.get(key))) for key in below | above}
        return above

    return merge(CI_VALUES, values)


def render(values: dict[str, Any] = CI_VALUES, release: str = "demo") -> dict[str, list[dict[str, Any]]]:
    """The rendered objects by kind."""
    files = helm_python.Chart.load(str(CHART)).render(values, name=release, namespace="sms")
    objects: dict[str, list[dict[str, Any]]] = {}
    for name, text in files.items():
        for document in yaml.safe_load_all(text) if name.endswith(".yaml") else ():
            objects.setdefault(document["kind"], []).append(document)
    return objects


def pod_of(objects: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    (stateful_set,) = objects["StatefulSet"]
    return stateful_set["spec"]["template"]["spec"]


def config_of(objects: dict[str, list[dict[str, Any]]], secrets: Path) -> settings.Settings:
    """The rendered configuration, read by the bridge itself, with the Secrets mounted at `secrets`."""
    (config_map,) = objects["ConfigMap"]
    for file, content in {
        "amqp/url": "amqp://bridge:pw@rabbitmq:5672/",
        "gateways/gw1.password": "one",
        "gateways/gw1.callback-tokens": "new-token-of-gw1\nold-token-of-gw1\n",
        "gateways/gw2.password": "two",
        "gateways/gw2.callback-tokens": "token-of-gw2",
    }.items():
        (secrets / file).parent.mkdir(parents=True, exist_ok=True)
        (secrets / file).write_text(content)
    path = secrets / "config.yaml"
    path.write_text(config_map["data"]["config.yaml"].replace(SECRETS, str(secrets)))
    return settings.load(path)


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("EJOIN_")]:
        monkeypatch.delenv(name)


def test_strict_lint_finds_nothing_but_the_missing_icon():
    found = helm_python.lint(str(CHART), CI_VALUES, strict=True, kube_version="v1.30.0")
    assert found["errors"] == []
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("kubernetes", [f"1.{minor}" for minor in range(25, 38)])
@pytest.mark.parametrize("kind", ["ConfigMap", "Service", "ServiceAccount", "StatefulSet"])
def test_each_object_fits_the_schema_of_each_kubernetes_version(kubernetes, kind):
    for document in render()[kind]:
        assert kubernetes_validate.validate(document, kubernetes, strict=True) == kubernetes


def test_the_chart_makes_these_objects_and_no_others():
    assert {kind: len(objects) for kind, objects in render().items()} == {
        "ConfigMap": 1,
        "Service": 2,
        "ServiceAccount": 1,
        "StatefulSet": 1,
    }


def test_the_bridge_reads_the_rendered_configuration(tmp_path):
    loaded = config_of(render(), tmp_path)
    assert loaded.amqp.urls == ("amqp://bridge:pw@rabbitmq:5672/",)
    assert [gateway.name for gateway in loaded.gateways] == ["gw1", "gw2"]
    assert loaded.gateway("gw1").password.get_secret_value() == "one"
    assert loaded.gateway("gw1").tokens == ("new-token-of-gw1", "old-token-of-gw1")
    assert loaded.callback_url("gw2") == "http://sms.example.org:30080/callback/gw2/token-of-gw2"
    assert loaded.policy_of("otp").max_age_s == 300


def test_a_null_reaches_the_bridge_as_unlimited(tmp_path):
    loaded = config_of(render(changed(config={"limits": {"segments_per_min": None}})), tmp_path)
    assert loaded.gateway("gw2").posts_per_s is None
    assert loaded.limits.segments_per_min is None


def test_every_file_that_the_configuration_names_is_mounted(tmp_path):
    objects = render()
    mounts = {mount["mountPath"]: mount["name"] for mount in pod_of(objects)["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_of(objects)["volumes"]}
    (config_map,) = objects["ConfigMap"]
    config = yaml.safe_load(config_map["data"]["config.yaml"])
    assert mounts[str(Path(config["store"]["path"]).parent)] == "ledger"
    assert objects["StatefulSet"][0]["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "ledger"
    assert volumes[mounts[str(Path(config["amqp"]["url_file"]).parent)]]["secret"]["secretName"] == "ejoin-bridge-amqp"
    for gateway in config["gateways"]:
        for name in ("password_file", "callback_tokens_file"):
            volume = volumes[mounts[str(Path(gateway[name]).parent)]]
            assert volume["secret"]["secretName"] == "ejoin-bridge-gateways"
    (variable,) = pod_of(objects)["containers"][0]["env"]
    assert variable["name"] == settings.ENV_CONFIG
    mount, file = variable["value"].rsplit("/", 1)
    assert volumes[mounts[mount]]["configMap"]["name"] == config_map["metadata"]["name"]
    assert list(config_map["data"]) == [file]


@pytest.mark.parametrize("timing", [{}, {"post_timeout_s": 90}, {"submit_within_s": 0.5, "post_timeout_s": 7.25}])
def test_kubernetes_waits_longer_than_the_sum_of_the_graces(tmp_path, timing):
    objects = render(changed(config={"timing": timing}))
    grace_s = config_of(objects, tmp_path).grace_s()
    assert grace_s + 15 <= pod_of(objects)["terminationGracePeriodSeconds"] <= grace_s + 16


def test_it_waits_for_a_gateway_that_answers_when_the_sms_has_left(tmp_path):
    first, *others = CI_VALUES["config"]["gateways"]
    objects = render(changed(config={"gateways": [{**first, "api_version": "1.0"}, *others]}))
    assert config_of(objects, tmp_path).grace_s() == 5 + (5 + 45) + 10 + 5 + 5
    assert pod_of(objects)["terminationGracePeriodSeconds"] == 75 + 15


def test_a_second_replica_is_refused_with_the_reason():
    with pytest.raises(helm_python.HelmValuesError, match="one SQLite file with one owner"):
        render(changed(replicaCount=2))


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"amqp": {"url": "amqp://a:b@c/"}}, "/config/amqp/url"),
        ({"gateways": [{**CI_VALUES["config"]["gateways"][0], "password": "x"}]}, "/config/gateways/0/password"),
        ({"gateways": [{**CI_VALUES["config"]["gateways"][0], "callback_tokens": ["x"]}]}, "callback_tokens"),
        ({"web": {"listen": "0.0.0.0:9"}}, "/config/web/listen"),
        ({"web": {"public_url": ""}}, "/config/web/public_url"),
        ({"store": {"path": "/elsewhere"}}, "/config/store/path"),
        ({"gateways": []}, "/config/gateways"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_secrets_and_what_is_the_charts_own_are_refused_in_the_values(config, field):
    with pytest.raises(helm_python.HelmValuesError, match=field):
        render(changed(config=config))


@pytest.mark.parametrize("secret", ["amqp", "gateways"])
def test_a_secret_that_is_not_named_is_asked_for(secret):
    with pytest.raises(helm_python.HelmRenderError, match=rf"secrets\.{secret}\.existingSecret: name the Secret"):
        render(changed(secrets={secret: {"existingSecret": ""}}))


def test_devices_reach_the_bridge_before_it_is_ready_and_metrics_have_their_own_service():
    objects = render()
    labels = objects["StatefulSet"][0]["spec"]["template"]["metadata"]["labels"]
    callbacks, metrics = objects["Service"]
    assert callbacks["metadata"]["name"].endswith("-callbacks")
    assert callbacks["spec"]["publishNotReadyAddresses"] is True
    assert callbacks["spec"]["externalTrafficPolicy"] == "Local"
    assert metrics["metadata"]["name"] == objects["StatefulSet"][0]["spec"]["serviceName"]
    ports = {port["name"]: port["containerPort"] for port in pod_of(objects)["containers"][0]["ports"]}
    for service in (callbacks, metrics):
        assert service["spec"]["selector"].items() <= labels.items()
        assert [ports[port["targetPort"]] for port in service["spec"]["ports"]] == [8080]


@pytest.mark.parametrize("kind", ["ClusterIP", "LoadBalancer"])
def test_another_kind_of_callbacks_service_carries_no_node_port(kind):
    callbacks, _ = render(changed(callbacks={"service": {"type": kind}}))["Service"]
    assert kubernetes_validate.validate(callbacks, "1.30", strict=True)
    assert "nodePort" not in callbacks["spec"]["ports"][0]
    assert ("externalTrafficPolicy" in callbacks["spec"]) is (kind == "LoadBalancer")


def test_the_pod_has_no_more_rights_than_it_needs():
    pod = pod_of(render())
    assert pod["automountServiceAccountToken"] is False
    assert render()["ServiceAccount"][0]["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_services_of_that_name_do_not_become_variables_beside_the_settings():
    assert pod_of(render(release="ejoin-bridge"))["enableServiceLinks"] is False


def test_probes_ask_for_life_and_for_readiness_apart():
    container = pod_of(render())["containers"][0]
    paths = {probe: container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")}
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}


def test_the_start_may_take_the_wait_for_the_ledgers_lock(tmp_path):
    objects = render()
    probe = pod_of(objects)["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > 2 * config_of(objects, tmp_path).store.lock_wait_s


def test_a_changed_configuration_restarts_the_pod():
    def checksum(values: dict[str, Any]) -> str:
        return render(values)["StatefulSet"][0]["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    assert checksum(CI_VALUES) == checksum(changed(podAnnotations={"a": "b"}))
    assert checksum(CI_VALUES) != checksum(changed(config={"logs": {"level": "debug"}}))


def test_the_charts_page_lists_each_value():
    def paths(values: dict[str, Any], above: str = "") -> list[str]:
        nested = {"image", "secrets", "callbacks", "metrics", "persistence", "service", "amqp", "gateways"}
        found = []
        for key, value in values.items():
            deeper = isinstance(value, dict) and value and key in nested
            found += paths(value, f"{above}{key}.") if deeper else [f"{above}{key}"]
        return found

    listed = re.findall(r"^\| `([^`]+)` \|", (CHART / "README.md").read_text(), flags=re.MULTILINE)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    config = [path for path in listed if path.startswith("config.")]
    assert [path for path in listed if path not in config] == [path for path in paths(values) if path != "config"]
    assert config


def test_the_chart_can_be_packaged(tmp_path):
    helm_python.package(str(CHART), destination=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [f"ejoin-bridge-{VERSION}.tgz"]


# --- the image ------------------------------------------------------------------------------------------------------

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def copied_into_the_image() -> list[str]:
    """What the Dockerfile copies from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, flags=re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_hadolint_has_nothing_to_say():
    ran = subprocess.run(
        [Path(sys.executable).parent / "hadolint", ROOT / "Dockerfile"], capture_output=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, b"")


def test_the_image_gets_what_it_copies_and_nothing_else():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(copied_into_the_image())
    for name in copied_into_the_image():
        assert (ROOT / name).exists()


def test_image_chart_and_project_have_one_version_and_one_user():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == VERSION
    assert f"ARG VERSION={VERSION}\n" in DOCKERFILE
    assert f"EJOIN_CONFIG={pod_of(render())['containers'][0]['env'][0]['value']}" in DOCKERFILE
    user = pod_of(render())["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}\n" in DOCKERFILE
    assert user["fsGroup"] == user["runAsGroup"]


def test_the_image_starts_the_bridge_without_a_shell():
    last = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert json.loads(re.search(r"^ENTRYPOINT (.*)$", last, flags=re.MULTILINE)[1]) == ["ejoin-bridge"]
    assert json.loads(re.search(r"^CMD (.*)$", last, flags=re.MULTILINE)[1]) == ["run"]
    assert "/healthz" in json.loads(re.search(r"^    CMD (.*)$", last, flags=re.MULTILINE)[1])[-1]
    assert not re.search(r"\b(pip|apt-get|requirements)\b", last)


def test_what_the_image_copies_builds_the_whole_package(tmp_path):
    """The wheel built from the copied files alone holds every module, the migrations and the command."""
    source = tmp_path / "src"
    source.mkdir()
    for name in copied_into_the_image():
        (source / name).symlink_to(ROOT / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        "wheel",
        "--no-deps",
        "--no-index",
    ]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, timeout=100)
    with zipfile.ZipFile(tmp_path / f"ejoin_bridge-{VERSION}-py3-none-any.whl") as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("bridge/")}
        scripts = wheel.read(f"ejoin_bridge-{VERSION}.dist-info/entry_points.txt").decode()
    tracked = subprocess.run(["git", "ls-files", "bridge"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(tracked.stdout.split()) <= packed
    assert not [name for name in packed if fnmatch.fnmatch(name, "*.pyc")]
    assert "ejoin-bridge = bridge.cli:main" in scripts


# --- the set-up -----------------------------------------------------------------------------------------------------

SETUP = ROOT / "dev/setup.sh"


@pytest.fixture
def checkout(tmp_path):
    """A checkout of its own, so that the set-up touches nothing of this one."""
    place = tmp_path / "check out"
    (place / "dev").mkdir(parents=True)
    (place / "dev/setup.sh").write_text(SETUP.read_text())
    for name in ("pyproject.toml", "requirements.lock", "requirements-dev.lock", "requirements-build.lock"):
        (place / name).write_text((ROOT / name).read_text())
    return place


def set_up(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(checkout / "dev/setup.sh"), *arguments]
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHON", "AMQP_URL"}} | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


def python_that_says(version: str, folder: Path) -> str:
    """An interpreter of another age."""
    path = folder / "python-of-old"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit 1\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("found", ["Python 3.9.2", "no /nowhere/python"])
def test_the_set_up_says_which_python_it_needs_and_what_it_found(checkout, tmp_path, found):
    python = python_that_says("3.9.2", tmp_path) if "3.9" in found else "/nowhere/python"
    ran = set_up(checkout, "--no-broker", PYTHON=python)
    assert ran.returncode == 1
    assert f"Python 3.11 or newer is needed; found here: {found}." in ran.stderr
    assert not (checkout / ".venv").exists()


def test_the_second_set_up_finds_everything_in_place(checkout):
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").symlink_to(sys.executable)
    locked = "cat pyproject.toml requirements*.lock | sha256sum | cut -c 1-64"
    state = subprocess.run(locked, shell=True, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()
    (checkout / ".venv/setup.stamp").write_text(f"dev {state} {checkout}\n")
    for arguments in (["--dev", "--no-broker"], ["--no-broker"]):
        ran = set_up(checkout, *arguments)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_an_unknown_argument_is_refused(checkout):
    ran = set_up(checkout, "--fast")
    assert ran.returncode == 1
    assert "unknown argument --fast" in ran.stderr
