"""The configuration: what is read from where, what is computed from it, and the sentence for every mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge import settings as settings_module
from bridge.errors import SettingsInvalid
from bridge.settings import Settings, broker_at, derived, effective, find_config, load

EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in list(settings_module.os.environ):
        if name.startswith("EJOIN_"):
            monkeypatch.delenv(name)


def config(**sections: Any) -> dict[str, Any]:
    """A small configuration that is right; a section given replaces it."""
    good: dict[str, Any] = {"gateways": [gateway()], "routes": [{"name": "default", "ports": ["gw1"]}]}
    return {key: value for key, value in (good | sections).items() if value is not ...}


def gateway(**fields: Any) -> dict[str, Any]:
    good = {"name": "gw1", "url": "http://10.0.0.1", "password": "hush", "callback_tokens": ["t-1"], "ports": "1-8"}
    return {key: value for key, value in (good | fields).items() if value is not ...}


def said(tmp_path: Path, data: dict[str, Any] | str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(SettingsInvalid) as caught:
        load(path)
    return str(caught.value).replace(f"{tmp_path}/", "")


def read(tmp_path: Path, data: dict[str, Any]) -> Settings:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return load(path)


# --- one bad configuration per rule, and the sentence the operator reads ---------------------------------------------

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no gateways": (
        config(gateways=...),
        "gateways: is missing (add it: The devices.)",
    ),
    "gateways left empty": (
        config(gateways=[], routes=[]),
        "gateways: is empty (give at least one: The devices)",
    ),
    "gateways is one section instead of a list": (
        config(gateways=gateway()),
        'gateways: is no list (begin each entry with "- "; in the environment a list is one JSON text)',
    ),
    "a key with nothing below it": (
        config(routes=None),
        "routes: is empty (give a value, or leave the key out)",
    ),
    "a section that is a word": (
        config(web="8080"),
        "web: is no section (write its keys below it, indented)",
    ),
    "unknown section, nearly right": (
        config(gateway=[]),
        "gateway: unknown key (did you mean gateways?)",
    ),
    "unknown key, nearly right": (
        config(amqp={"ulr": "amqp://h/"}),
        "amqp.ulr: unknown key (did you mean url?)",
    ),
    "unknown key of a gateway's port limits, nearly right": (
        config(gateways=[gateway(port_limits={"1-4": {"bursts": 1}})]),
        "gateways[0].port_limits.1-4.bursts: unknown key (did you mean burst?)",
    ),
    "a key in the wrong section": (
        config(max_age_s=5),
        "max_age_s: unknown key (it belongs under policy)",
    ),
    "a guard that names nobody": (
        config(policy={"only_to": ["49 15*"]}),
        (
            "policy.only_to[0]: '49 15*' is no number and no prefix "
            '(write "+491511234567", or "+4915*" for all that begin so)'
        ),
    ),
    "unknown key, unlike any": (
        config(logs={"zebra": 1}),
        "logs.zebra: unknown key (the keys here are level, format)",
    ),
    "an argument of the library": (
        config(_env_file="x"),
        (
            "_env_file: unknown key "
            "(the keys here are amqp, web, store, logs, limits, policy, timing, commands, gateways, routes)"
        ),
    ),
    "password missing": (
        config(gateways=[gateway(password=...)]),
        "gateways[0].password: is missing (add it, or password_file: Password of that user.)",
    ),
    "a name with capitals": (
        config(gateways=[gateway(name="GW 1")]),
        "gateways[0].name: 'GW 1' is no name (write 1 to 40 of a-z, 0-9 and -: it stands in routing keys)",
    ),
    "a name that YAML reads as a number": (
        config(gateways=[gateway(name=1)]),
        "gateways[0].name: 1 is not text (put quotes around it)",
    ),
    "a password that YAML reads as a number, not repeated": (
        config(gateways=[gateway(password=123456)]),
        "gateways[0].password: it is not text (put quotes around it)",
    ),
    "duplicate gateway": (
        config(gateways=[gateway(), gateway(url="http://10.0.0.2")]),
        "gateways[1].name: gw1 is gateways[0]'s already (give each gateway its own name)",
    ),
    "one device twice": (
        config(gateways=[gateway(), gateway(name="gw2", url="http://10.0.0.1/")]),
        "gateways[1].url: http://10.0.0.1 is gateways[0]'s already (give each gateway its own url)",
    ),
    "duplicate route": (
        config(routes=[{"name": "otp", "ports": ["gw1:1"]}, {"name": "otp", "ports": ["gw1:2"]}]),
        "routes[1].name: otp is routes[0]'s already (give each route its own name)",
    ),
    "a route names an unknown gateway, nearly right": (
        config(routes=[{"name": "default", "ports": ["gw2:1-4"]}]),
        "routes[0].ports[0]: there is no gateway 'gw2' (did you mean gw1?)",
    ),
    "a route names an unknown gateway": (
        config(routes=[{"name": "default", "ports": ["gw1", "office"]}]),
        "routes[0].ports[1]: there is no gateway 'office' (the gateways are gw1)",
    ),
    "a route names a port the gateway does not have": (
        config(routes=[{"name": "default", "ports": ["gw1:7-16"]}]),
        (
            "routes[0].ports[0]: gw1 has no port 9, 10, 11, 12, 13, ... "
            "(its ports are 1-8: name some of those, or add to the gateway's ports)"
        ),
    ),
    "a route's ports with a space after the colon": (
        config(routes=[{"name": "default", "ports": [{"gw1": "1-8"}]}]),
        'routes[0].ports[0]: has a space after the colon (write "gw1:1-8", in quotes)',
    ),
    "a route's ports as a number": (
        config(routes=[{"name": "default", "ports": [1]}]),
        'routes[0].ports[0]: is not text (write "gw1:1-8", or "gw1" for all of its ports)',
    ),
    "a route's ports unreadable": (
        config(routes=[{"name": "default", "ports": ["gw1:a-b"]}]),
        (
            "routes[0].ports[0]: not a port: 'a-b' (write 4, 1A, 1.01 or 1.sp128.016); "
            'a list of ports is written "1-4,7"'
        ),
    ),
    "a route without ports": (
        config(routes=[{"name": "default", "ports": []}]),
        'routes[0].ports: is empty (give at least one: What may send: "gw1:1-8", or "gw1" for all of its ports)',
    ),
    "a range that runs backwards": (
        config(gateways=[gateway(ports="8-1")]),
        (
            "gateways[0].ports: not a port range: '8-1' (write the smaller number first, from 1 to 1024); "
            'a list of ports is written "1-4,7"'
        ),
    ),
    "ports that YAML reads as a number": (
        config(gateways=[gateway(ports=1.10)]),
        'gateways[0].ports: YAML reads 1.1 as a number (put quotes around it: "1-8" is eight ports, "8" is port 8)',
    ),
    "ports as a list": (
        config(gateways=[gateway(ports=[1, 2])]),
        'gateways[0].ports: is a list (write one text in quotes: "1-4,7")',
    ),
    "a slot among the ports": (
        config(gateways=[gateway(ports="1.02")]),
        "gateways[0].ports: '1.02' names a slot (write whole ports: \"1-4,7\"; a limit goes with the active SIM)",
    ),
    "a port limit for a port that is not there": (
        config(gateways=[gateway(port_limits={9: {"burst": 1}})]),
        (
            "gateways[0].port_limits.9: gw1 has no port 9 "
            "(its ports are 1-8: name some of those, or add to the gateway's ports)"
        ),
    ),
    "a port limit whose key YAML reads as a number": (
        config(gateways=[gateway(port_limits={1.10: {"burst": 1}})]),
        'gateways[0].port_limits: YAML reads the key 1.1 as a number (put quotes around it: "1-4,7")',
    ),
    "port limits that are no section": (
        config(gateways=[gateway(port_limits=[])]),
        "gateways[0].port_limits: is no section (write its keys below it, indented)",
    ),
    "more than two callback tokens": (
        config(gateways=[gateway(callback_tokens=["a", "b", "c"])]),
        "gateways[0].callback_tokens: has 3 tokens (give at most two: the new one and the one being replaced)",
    ),
    "an empty list of callback tokens": (
        config(gateways=[gateway(callback_tokens=[])]),
        (
            "gateways[0].callback_tokens: has no token "
            "(give one: without it nobody's callbacks can be told from the device's)"
        ),
    ),
    "no callback tokens at all": (
        config(gateways=[gateway(callback_tokens=...)]),
        (
            "gateways[0].callback_tokens: is missing (add it, or callback_tokens_file: "
            "Secrets in the callback URL: one, or two while exchanging them. The first is told to the device.)"
        ),
    ),
    "a callback token that cannot stand in a URL": (
        config(gateways=[gateway(callback_tokens=["a/b"])]),
        "gateways[0].callback_tokens[0]: is no token (use letters, digits and . _ ~ - only: it stands in a URL)",
    ),
    "a device URL without scheme": (
        config(gateways=[gateway(url="10.0.0.1:8080")]),
        "gateways[0].url: is no http or https URL (write http://host:port)",
    ),
    "a device URL without host": (
        config(gateways=[gateway(url="http://")]),
        "gateways[0].url: names no host (write http://host:port)",
    ),
    "a device URL with a port that is none": (
        config(gateways=[gateway(url="http://10.0.0.1:80800")]),
        (
            "gateways[0].url: is no URL: its host or port cannot be read (write http://host:port; "
            "percent-encode :, /, #, ? and @ in a password)"
        ),
    ),
    "a device URL with credentials": (
        config(gateways=[gateway(url="http://root:hush@10.0.0.1")]),
        "gateways[0].url: holds credentials (leave them out of the URL: they have fields of their own)",
    ),
    "a device URL with a query": (
        config(gateways=[gateway(url="http://10.0.0.1/?a=b")]),
        "gateways[0].url: has a query (write scheme, host, port and at most a path)",
    ),
    "an address that no device can call": (
        config(web={"public_url": "http://0.0.0.0:8080"}),
        "web.public_url: is an address that nobody can call (write the address at which devices reach this bridge)",
    ),
    "a broker URL of another protocol, not repeated": (
        config(amqp={"url": "http://user:hush@mq/"}),
        "amqp.url: is no amqp or amqps URL (write amqp://host:port)",
    ),
    "a broker URL with a # in its password, not repeated": (
        config(amqp={"url": "amqp://mq#hush"}),
        "amqp.url: has a # in it (percent-encode :, /, #, ? and @ in a password: # is %23)",
    ),
    "a broker URL with a query": (
        config(amqp={"url": "amqp://mq/?heartbeat=1"}),
        "amqp.url: has a query (the bridge's own settings decide; percent-encode a ? in a password as %3F)",
    ),
    "a list of no broker URLs": (
        config(amqp={"url": []}),
        "amqp.url: is neither a URL nor a list of URLs (write amqp://user:password@host:5672/)",
    ),
    "a prefix with a blank": (
        config(amqp={"prefix": "my sms"}),
        (
            'amqp.prefix: "my sms" does not fit '
            "(First word of all exchanges and queues: letters, digits, . _ -, at most 40)"
        ),
    ),
    "an address without a port": (
        config(web={"listen": "localhost"}),
        "web.listen: 'localhost' is no address (write host:port, 0.0.0.0:8080 or [::]:8080)",
    ),
    "an address with a port that is none": (
        config(web={"listen": "localhost:99999"}),
        "web.listen: 'localhost:99999' has no port from 0 to 65535 (write host:port; 0 takes any free one)",
    ),
    "a number that is text": (
        config(timing={"doubt_s": "15m"}),
        'timing.doubt_s: "15m" is not a number (How long evidence is looked for when an answer was lost)',
    ),
    "a whole number with a fraction": (
        config(policy={"max_segments": 2.5}),
        "policy.max_segments: 2.5 is not a whole number (A longer text is refused)",
    ),
    "a negative duration": (
        config(timing={"doubt_s": -1}),
        (
            "timing.doubt_s: -1 is out of range "
            "(it must be more than 0: How long evidence is looked for when an answer was lost)"
        ),
    ),
    "a rate of nothing": (
        config(limits={"segments_per_min": 0}),
        (
            "limits.segments_per_min: 0 is out of range "
            "(it must be more than 0: Segments a minute per SIM; null is unlimited)"
        ),
    ),
    "an infinite rate": (
        config(limits={"segments_per_min": float("inf")}),
        "limits.segments_per_min: inf is out of range (it must be finite; null is unlimited where that is possible)",
    ),
    "an age beyond 30 days": (
        config(routes=[{"name": "default", "ports": ["gw1"], "max_age_s": 1e7}]),
        "routes[0].max_age_s: 10000000.0 is out of range (it must be at most 2592000: See policy)",
    ),
    "a device timeout of a second": (
        config(policy={"timeout_s": 1}),
        (
            "policy.timeout_s: 1 is out of range "
            "(it must be at least 5: How long the device waits for the network, 5 to 600 s)"
        ),
    ),
    "a switch that is text": (
        config(amqp={"declare": "maybe"}),
        'amqp.declare: "maybe" is not a switch (write true or false)',
    ),
    "a word that is not among the known": (
        config(logs={"format": "xml"}),
        "logs.format: \"xml\" is not known (write 'console' or 'json')",
    ),
    "an empty user name": (
        config(gateways=[gateway(username="")]),
        "gateways[0].username: is empty (give at least one: User of the device's HTTP API)",
    ),
    "an answer to doubts that nobody knows": (
        config(policy={"on_doubt": "guess"}),
        "policy.on_doubt: \"guess\" is not known (write 'unknown' or 'resend')",
    ),
    "texts kept": (
        config(store={"text_ttl_h": 24}),
        "store.text_ttl_h: keeping texts is not in this version, only 0 (the text is blanked at the final state)",
    ),
    "no time left after connecting": (
        config(timing={"connect_timeout_s": 5, "post_timeout_s": 5}),
        (
            "timing.post_timeout_s: 5 leaves no time after connecting "
            "(make it longer than timing.connect_timeout_s, 5: it includes connecting)"
        ),
    ),
    "the same task id at the old interface": (
        config(gateways=[gateway(api_version="1.0", resubmit_within_s=60)]),
        (
            "gateways[0].resubmit_within_s: the old interface has no task ids to ask about "
            '(leave it out, or make api_version "1.1")'
        ),
    ),
    "an outbox that never resumes": (
        config(store={"outbox_pause": 100, "outbox_resume": 100}),
        "store.outbox_resume: 100 is not below outbox_pause (make it smaller than 100, or nothing ever resumes)",
    ),
}


@pytest.mark.parametrize("label", MISTAKES)
def test_a_mistake_is_answered_by_its_sentence(label, tmp_path):
    data, sentence = MISTAKES[label]
    assert said(tmp_path, data) == sentence


def test_a_text_that_is_not_kept_may_be_said_so(tmp_path):
    assert read(tmp_path, config(store={"text_ttl_h": 0})).store.text_ttl_h == 0


def test_all_mistakes_are_said_at_once(tmp_path):
    data = config(web={"listen": "x"}, logs={"level": "loud"}, gateways=[gateway(ports="9-1")])
    assert [line.partition(":")[0] for line in said(tmp_path, data).splitlines()] == [
        "web.listen",
        "logs.level",
        "gateways[0].ports",
    ]


def test_all_contradictions_are_said_at_once(tmp_path):
    data = config(store={"outbox_pause": 1, "outbox_resume": 1}, routes=[{"name": "a", "ports": ["x", "gw1:9"]}])
    assert [line.partition(":")[0] for line in said(tmp_path, data).splitlines()] == [
        "store.outbox_resume",
        "routes[0].ports[0]",
        "routes[0].ports[1]",
    ]


# --- the file --------------------------------------------------------------------------------------------------------

FILES = {
    "a syntax error": (
        "amqp:\n  url: a: b\n",
        (
            "config.yaml: is not YAML at line 2, column 9: mapping values are not allowed here "
            '(check indentation and tabs; put quotes around texts with ": " or " #")'
        ),
    ),
    "a key that stands twice": (
        "logs: {level: info}\nlogs: {level: debug}\n",
        (
            "config.yaml: is not YAML at line 2, column 1: the key 'logs' stands here a second time "
            '(check indentation and tabs; put quotes around texts with ": " or " #")'
        ),
    ),
    "a control character": (
        "logs: \x07\n",
        "config.yaml: is not YAML: it holds characters that YAML does not allow (save it as plain UTF-8 text)",
    ),
    "a list": (
        "- gw1\n",
        "config.yaml: holds no settings (write sections: amqp, gateways, routes, ...)",
    ),
    "nothing": (
        "# later\n",
        "gateways: is missing (add it: The devices.)",
    ),
}


@pytest.mark.parametrize("label", FILES)
def test_a_file_that_cannot_be_used_is_answered_by_its_sentence(label, tmp_path):
    text, sentence = FILES[label]
    assert said(tmp_path, text) == sentence


def test_a_file_that_does_not_exist_says_where_to_get_one(tmp_path):
    with pytest.raises(SettingsInvalid) as caught:
        load(tmp_path / "none.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/none.yaml: no such file (copy config.example.yaml, or name yours with --config or EJOIN_CONFIG)"
    )


def test_a_folder_is_no_configuration(tmp_path):
    with pytest.raises(SettingsInvalid) as caught:
        load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read: Is a directory (check its path and permissions)"


def test_a_file_in_another_encoding_says_so(tmp_path):
    (tmp_path / "c.yaml").write_bytes("gateways: [ä]".encode("latin-1"))
    with pytest.raises(SettingsInvalid) as caught:
        load(tmp_path / "c.yaml")
    assert str(caught.value) == f"{tmp_path}/c.yaml: is not text in UTF-8 (save it as UTF-8)"


def test_the_example_is_right_and_shows_the_defaults(tmp_path):
    settings = load(EXAMPLE)
    assert settings == Settings(
        gateways=[gateway(url="http://127.0.0.1:9001", password="root", callback_tokens=["change-me"])],
        routes=[{"name": "default", "ports": ["gw1:1-8"]}],
    )


def test_the_example_mentions_every_key():
    text = EXAMPLE.read_text(encoding="utf-8")
    missing = [
        name
        for model in settings_module.SECTIONS.values()
        for name in model.model_fields
        if f"{name}:" not in text and f"or {name}" not in text
    ]
    assert not missing


def test_what_is_commented_out_in_the_example_is_the_default():
    shown = re.findall(r"^ *# +(\w+): ([\d.]+)(?: |$)", EXAMPLE.read_text(encoding="utf-8"), re.MULTILINE)
    defaults = {
        name: field.default
        for model in settings_module.SECTIONS.values()
        if model is not settings_module.RouteSettings
        for name, field in model.model_fields.items()
    }
    assert len(shown) > 20
    wrong = [(name, value) for name, value in shown if float(value) != defaults[name]]
    assert wrong == [("max_age_s", "300")]  # a route's example


# --- secret files ----------------------------------------------------------------------------------------------------


def test_secrets_come_from_files(tmp_path):
    for name, text in (("url", "amqp://u:p@mq/\n"), ("password", "hush\n"), ("tokens", "new\nold\n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    settings = read(
        tmp_path,
        config(
            amqp={"url_file": f"{tmp_path}/url"},
            gateways=[
                gateway(
                    password=...,
                    password_file=f"{tmp_path}/password",
                    callback_tokens=...,
                    callback_tokens_file=f"{tmp_path}/tokens",
                )
            ],
        ),
    )
    assert settings.amqp.urls == ("amqp://u:p@mq/",)
    assert settings.gateway("gw1").password.get_secret_value() == "hush"
    assert settings.gateway("gw1").tokens == ("new", "old")


def test_a_cluster_of_brokers_comes_from_a_file(tmp_path):
    (tmp_path / "urls").write_text("amqp://a/\namqp://b/\n", encoding="utf-8")
    settings = read(tmp_path, config(amqp={"url_file": f"{tmp_path}/urls"}))
    assert settings.amqp.urls == ("amqp://a/", "amqp://b/")


def test_three_tokens_in_a_file_are_refused_like_three_in_the_list(tmp_path):
    (tmp_path / "tokens").write_text("a\nb\nc\n", encoding="utf-8")
    data = config(gateways=[gateway(callback_tokens=..., callback_tokens_file=f"{tmp_path}/tokens")])
    assert said(tmp_path, data).startswith("gateways[0].callback_tokens: has 3 tokens (")


def test_a_secret_file_that_is_not_there_is_named(tmp_path):
    data = config(gateways=[gateway(password=..., password_file=f"{tmp_path}/none")])
    assert said(tmp_path, data) == (
        "gateways[0].password_file: none cannot be read: No such file or directory (check its path and permissions)"
    )


def test_a_secret_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "key").write_bytes(b"\xff\xfe\x00")
    data = config(amqp={"url_file": f"{tmp_path}/key"})
    assert said(tmp_path, data) == (
        "amqp.url_file: key cannot be read: it is not text in UTF-8 (check its path and permissions)"
    )


def test_an_empty_secret_file_is_named(tmp_path):
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    data = config(gateways=[gateway(callback_tokens=..., callback_tokens_file=f"{tmp_path}/empty")])
    assert said(tmp_path, data) == "gateways[0].callback_tokens_file: empty is empty (write the secret into it)"


def test_a_secret_in_both_places_is_refused(tmp_path):
    (tmp_path / "p").write_text("x", encoding="utf-8")
    data = config(gateways=[gateway(password_file=f"{tmp_path}/p")])
    assert said(tmp_path, data) == "gateways[0].password_file: is given beside password (keep one of the two)"


# --- the environment -------------------------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("EJOIN_AMQP__URL", "amqp://env/")
    monkeypatch.setenv("EJOIN_AMQP__HEARTBEAT_S", "30")
    monkeypatch.setenv("EJOIN_AMQP__DECLARE", "false")
    monkeypatch.setenv("EJOIN_LIMITS__SEGMENTS_PER_MIN", "null")
    monkeypatch.setenv("EJOIN_STORE__PATH", "/data/l.db")
    settings = read(tmp_path, config(amqp={"url": "amqp://file/", "prefix": "p"}, store={"path": "./x.db"}))
    assert settings.amqp.urls == ("amqp://env/",)
    assert (settings.amqp.prefix, settings.amqp.heartbeat_s, settings.amqp.declare) == ("p", 30, False)
    assert settings.limits.segments_per_min is None
    assert settings.store.path == Path("/data/l.db")


def test_lists_in_the_environment_are_json(tmp_path, monkeypatch):
    monkeypatch.setenv("EJOIN_AMQP__URL", '["amqp://a/", "amqp://b/"]')
    monkeypatch.setenv("EJOIN_GATEWAYS", json.dumps([gateway(name="env", ports="1-2")]))
    monkeypatch.setenv("EJOIN_ROUTES", json.dumps([{"name": "r", "ports": ["env"]}]))
    settings = load(None)
    assert settings.amqp.urls == ("amqp://a/", "amqp://b/")
    assert settings.route_ports("r") == [("env", 1), ("env", 2)]


def test_a_url_from_the_environment_overrules_the_files_url_file(tmp_path, monkeypatch):
    monkeypatch.setenv("EJOIN_AMQP__URL", "amqp://env/")
    settings = read(tmp_path, config(amqp={"url_file": "/nowhere"}))
    assert settings.amqp.urls == ("amqp://env/",)


def test_a_tool_may_know_only_the_url():
    amqp = broker_at("amqp://u:p@mq/", "other")
    assert (amqp.urls, amqp.prefix) == (("amqp://u:p@mq/",), "other")


def test_a_tools_url_is_checked_like_the_files():
    with pytest.raises(SettingsInvalid) as caught:
        broker_at("mq:5672", "a b")
    assert str(caught.value).splitlines() == [
        "amqp.url: is no amqp or amqps URL (write amqp://host:port)",
        'amqp.prefix: "a b" does not fit (First word of all exchanges and queues: letters, digits, . _ -, at most 40)',
    ]


def test_a_url_file_from_the_environment_overrules_the_files_url(tmp_path, monkeypatch):
    (tmp_path / "u").write_text("amqp://secret/", encoding="utf-8")
    monkeypatch.setenv("EJOIN_AMQP__URL_FILE", f"{tmp_path}/u")
    assert read(tmp_path, config(amqp={"url": "amqp://file/"})).amqp.urls == ("amqp://secret/",)


VARIABLES = {
    "one underscore too few": (
        "EJOIN_AMQP_URL",
        "amqp://h/",
        "EJOIN_AMQP_URL: unknown variable (write two underscores: EJOIN_AMQP__URL)",
    ),
    "a section that does not exist": (
        "EJOIN_AMPQ__URL",
        "amqp://h/",
        "EJOIN_AMPQ__URL: unknown variable (did you mean amqp?)",
    ),
    "a section that nearly exists": (
        "EJOIN_GATEWAY",
        "[]",
        "EJOIN_GATEWAY: unknown variable (did you mean gateways?)",
    ),
    "a field that does not exist": (
        "EJOIN_AMQP__ULR",
        "amqp://h/",
        "amqp.ulr: unknown key (did you mean url?)",
    ),
    "a list that is not JSON": (
        "EJOIN_ROUTES",
        "default",
        (
            "EJOIN_ROUTES: is not JSON: Expecting value: line 1 column 1 (char 0) "
            "(lists and sections are one JSON text in the environment)"
        ),
    ),
    "an entry of a list": (
        "EJOIN_GATEWAYS__0__PASSWORD",
        "x",
        'gateways: is no list (begin each entry with "- "; in the environment a list is one JSON text)',
    ),
    "a number that is none": (
        "EJOIN_TIMING__DOUBT_S",
        "long",
        (
            'timing.doubt_s: "long" is not a number (How long evidence is looked for when an answer was lost) '
            "[from EJOIN_TIMING__DOUBT_S]"
        ),
    ),
}


@pytest.mark.parametrize("label", VARIABLES)
def test_a_variable_that_is_wrong_is_answered_by_its_sentence(label, tmp_path, monkeypatch):
    name, value, sentence = VARIABLES[label]
    monkeypatch.setenv(name, value)
    assert said(tmp_path, config()) == sentence


def test_the_variables_that_kubernetes_sets_for_services_do_not_disturb(tmp_path, monkeypatch):
    for name in ("EJOIN_BRIDGE_PORT", "EJOIN_BRIDGE_SERVICE_HOST", "EJOIN_RABBITMQ_PORT", "EJOIN_WEB_PORT_80_TCP"):
        monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    assert read(tmp_path, config()).amqp.prefix == "sms"


def test_the_file_is_found_where_the_operator_named_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(None) == Path("config.yaml")
    monkeypatch.setenv("EJOIN_GATEWAYS", "[]")
    assert find_config(None) is None
    monkeypatch.setenv("EJOIN_CONFIG", "/etc/ejoin.yaml")
    assert find_config(None) == Path("/etc/ejoin.yaml")
    assert find_config(Path("mine.yaml")) == Path("mine.yaml")


# --- what follows from it --------------------------------------------------------------------------------------------


def several() -> Settings:
    return Settings(
        limits={"segments_per_min": 30, "burst": 5},
        gateways=[
            gateway(limits={"burst": 3}, port_limits={"2-3": {"segments_per_min": None}, 3: {"burst": 1}}),
            gateway(name="gw2", url="http://10.0.0.2", ports="1-64", public_url="https://sms.example.org/x/"),
        ],
        routes=[
            {"name": "mixed", "ports": ["gw1:1,2", "gw1:2", "gw2:7"], "max_segments": 2},
            {"name": "slow", "ports": ["gw1:1"]},
            {"name": "wide", "ports": ["gw2"]},
        ],
        policy={"max_segments": 4, "allow_short_codes": True},
    )


def test_a_route_inherits_what_it_does_not_say():
    settings = several()
    mixed = settings.policy_of("mixed")
    assert (mixed.max_segments, mixed.allow_short_codes, mixed.max_attempts) == (2, True, 3)
    assert settings.policy_of("slow") == settings.policy


def test_pinned_requests_and_those_of_removed_routes_get_the_general_policy():
    settings = several()
    assert settings.policy_of(None) == settings.policy_of("removed") == settings.policy


def test_limits_are_the_ports_own_over_the_gateways_over_the_general_ones():
    settings = several()
    limits = {port: settings.limits_of("gw1", port) for port in (1, 2, 3)}
    assert (limits[1].segments_per_min, limits[1].burst) == (30, 3)
    assert (limits[2].segments_per_min, limits[2].burst) == (None, 3)
    assert (limits[3].segments_per_min, limits[3].burst) == (None, 1)
    assert settings.limits_of("gw2", 1) == settings.limits


def test_the_ports_of_a_route_are_each_there_once():
    assert several().route_ports("mixed") == [("gw1", 1), ("gw1", 2), ("gw2", 7)]


def test_an_unknown_name_is_a_key_error():
    with pytest.raises(KeyError):
        several().gateway("gw9")
    with pytest.raises(KeyError):
        several().route_ports("none")


def test_prefetch_is_twice_what_may_be_sent_in_six_seconds_within_bounds():
    settings = several()
    assert settings.prefetch_of("slow") == 50
    assert settings.prefetch_of("wide") == 2 * 64 * 3
    assert settings.prefetch_of("mixed") == 1_000
    assert settings.prefetch_pinned("gw2") == 2 * 64 * 3
    assert settings.prefetch_pinned("gw1") == 1_000


def test_a_device_is_told_its_own_address_and_its_first_token():
    settings = several()
    assert settings.callback_url("gw1") == "http://127.0.0.1:8080/callback/gw1/t-1"
    assert settings.callback_url("gw2", "t-2") == "https://sms.example.org/x/callback/gw2/t-2"


def test_the_stop_takes_the_sum_of_its_graces():
    assert Settings(**config()).grace_s() == 5 + (5 + 15) + 10 + 5 + 5
    longer = config(timing={"submit_within_s": 7, "post_timeout_s": 30})
    assert Settings(**longer).grace_s() == 5 + (7 + 30) + 10 + 5 + 5


def test_a_device_that_answers_when_the_sms_has_left_is_waited_for():
    old = Settings(**config(gateways=[gateway(api_version="1.0")]))
    assert old.post_timeout_of("gw1") == 15 + 30
    assert old.grace_s() == 5 + (5 + 45) + 10 + 5 + 5


def test_settings_cannot_be_changed():
    settings = several()
    with pytest.raises(ValueError, match="frozen"):
        settings.amqp.prefix = "x"


# --- what check shows ------------------------------------------------------------------------------------------------


def test_the_effective_configuration_masks_every_secret(tmp_path):
    settings = Settings(
        **config(amqp={"url": ["amqp://u:hush@a/v", "amqps://only@b/", "amqp://c/"]}),
    )
    told = effective(settings)
    assert told["amqp"]["url"] == ["amqp://u:***@a/v", "amqps://only@b/", "amqp://c/"]
    assert told["gateways"][0]["password"] == "**********"
    assert "hush" not in json.dumps(told)
    assert "t-1" not in json.dumps([told, derived(settings)])


def test_the_effective_configuration_shows_what_a_route_inherits():
    told = effective(several())
    assert [(route["max_segments"], route["hold_s"]) for route in told["routes"]] == [(2, 60), (4, 60), (4, 60)]
    assert told["amqp"]["url"] == "amqp://guest:***@127.0.0.1:5672/"


def test_the_derived_numbers_are_those_of_the_design():
    numbers = derived(Settings(**config(gateways=[gateway(ports="1-10")], limits={"segments_per_min": 60})))
    assert numbers["ports"] == 10
    assert numbers["segments_per_min"] == 600
    assert numbers["routes"] == {"default": {"ports": 10, "segments_per_min": 600, "prefetch": 120}}
    assert numbers["gateways"]["gw1"] == {
        "ports": 10,
        "segments_per_min": 600,
        "prefetch_pinned": 120,
        "callback_url": "http://127.0.0.1:8080/callback/gw1/***",
    }
    assert numbers["grace_s"] == 45
    full, slim = 72 * 3600 * 10 * 1_000, 0
    assert numbers["ledger_bytes"] == full + slim + 100_000 * 1_500


def test_keys_that_outlive_the_full_rows_need_disk_too():
    longer = config(limits={"segments_per_min": 7.5}, policy={"max_age_s": 2 * 86_400})
    rows = 72 * 3600 * 1_000 + 24 * 3600 * 500
    assert derived(Settings(**longer))["ledger_bytes"] == rows + 100_000 * 1_500


def test_without_a_limit_there_are_no_numbers_to_promise():
    numbers = derived(several())
    assert numbers["segments_per_min"] is None
    assert numbers["ledger_bytes"] is None
    assert numbers["routes"]["wide"]["segments_per_min"] == 64 * 30
