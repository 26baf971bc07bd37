"""From configuration to containers: what a backend, a door and the egress get, and what nobody gets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.runtime.docker.arguments import create_arguments, engine_info
from gateway.runtime.engine.base import ContainerPlan, ImageInfo, inside
from gateway.runtime.plan.plans import (
    CaBundle,
    Names,
    backend_plan,
    check_hardening,
    check_own_port,
    door_plan,
    egress_plan,
)
from gateway.runtime.plan.policy_ports import policy_ports
from gateway.runtime.sandbox.errors import PlanError
from registry.model.mounts import Mount
from registry.model.server import Server
from registry.model.sources import ImageSource, PackageSource
from registry.model.spec import plan_source

NAMES = Names(project="p")
INFO = ImageInfo(id="i", user="", entrypoint=(), command=(), labels={})
CA = CaBundle(path=Path("/run/x/ca.pem"), digest="d")


def plan_of(entry: dict[str, Any], info: ImageInfo = INFO, ca: CaBundle | None = None) -> ContainerPlan:
    server = Server.model_validate(entry)
    source = plan_source(server)
    assert isinstance(source, PackageSource | ImageSource)
    return backend_plan(
        NAMES,
        "clock",
        server,
        source,
        image="img",
        info=info,
        env=dict(source.env),
        ca=ca,
        door="D",
        nofile=65536,
        own="70001:70000",
    )


TIME: dict[str, Any] = {"command": "uvx", "args": ["mcp-server-time", "--local-timezone", "UTC"]}


def test_a_backend_has_no_capability_no_network_of_its_own_and_a_read_only_root() -> None:
    plan = plan_of(TIME)
    host = create_arguments(plan)["HostConfig"]
    assert plan.network == inside("D")
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] == []
    assert host["Privileged"] is False
    assert host["ReadonlyRootfs"] is True
    assert "no-new-privileges" in host["SecurityOpt"]
    assert any(option.startswith("seccomp={") for option in host["SecurityOpt"])
    assert host["PidsLimit"] == 256
    assert host["Memory"] == host["MemorySwap"] == 512 * 2**20
    assert host["RestartPolicy"] == {"Name": "no"}
    assert "Sysctls" not in host, "a namespace that is shared belongs to the door"
    assert plan.user == "70001:70000"
    assert host["Ulimits"][1] == {"Name": "core", "Soft": 1, "Hard": 1}, "not even the host's handler of core dumps"


def test_the_arguments_are_those_after_the_package() -> None:
    assert plan_of(TIME).command == ("--local-timezone", "UTC")


def test_proxy_variables_come_in_both_cases_and_leave_loopback_out() -> None:
    env = dict(plan_of(TIME).env)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        assert env[name] == env[name.lower()] == "http://127.0.0.1:3128"
    assert env["NO_PROXY"] == env["no_proxy"] == "localhost,127.0.0.1,::1"
    assert env["NODE_USE_ENV_PROXY"] == "1"


def test_the_entrys_own_variables_win() -> None:
    assert dict(plan_of({**TIME, "env": {"HTTPS_PROXY": ""}}).env)["HTTPS_PROXY"] == ""


OURS = "-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=3128 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=3128"
LOCAL = "-Dhttp.nonProxyHosts=localhost|127.0.0.1|[::1]"
JAVA: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "nothing else": ({}, {}, f"{OURS} {LOCAL}"),
    "the entry's own, which win": (
        {"JAVA_TOOL_OPTIONS": "-Xmx1g"}, {"JAVA_TOOL_OPTIONS": "-Xmx2g"}, f"{OURS} {LOCAL} -Xmx1g"
    ),
    "the image's": ({}, {"JAVA_TOOL_OPTIONS": "-Xmx2g"}, f"{OURS} {LOCAL} -Xmx2g"),
    "turned off": ({"JAVA_TOOL_OPTIONS": ""}, {"JAVA_TOOL_OPTIONS": "-Xmx2g"}, ""),
    "no proxy for one scheme": ({"https_proxy": ""}, {}, f"-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=3128 {LOCAL}"),
    "no proxy at all": ({"HTTP_PROXY": "", "HTTPS_PROXY": ""}, {}, ""),
    "around the proxy": ({"no_proxy": "*"}, {}, f"{OURS} -Dhttp.nonProxyHosts=*"),
    "names and ranges": (
        {"NO_PROXY": ".a.example, b.example,10.0.0.0/8,fd00::1"}, {},
        f"{OURS} -Dhttp.nonProxyHosts=*.a.example|b.example|[fd00::1]",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "image", "options"), JAVA.values(), ids=JAVA)
def test_java_gets_the_proxy_in_its_own_words(given: dict[str, str], image: dict[str, str], options: str) -> None:
    info = replace(INFO, env=tuple(image.items()))
    assert dict(plan_of({**TIME, "env": given}, info=info).env)["JAVA_TOOL_OPTIONS"] == options
    outside = plan_of({**TIME, "env": given, "network": {"isolated": False}}, info=info)
    assert dict(outside.env).get("JAVA_TOOL_OPTIONS") == given.get("JAVA_TOOL_OPTIONS")


PROGRAM = """
import java.net.*;
public class Ask {
    public static void main(String[] hosts) throws Exception {
        for (String host : hosts) System.out.println(ProxySelector.getDefault().select(new URI(host)));
    }
}
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="needs java")
def test_a_real_java_machine_takes_the_proxy(tmp_path: Path) -> None:
    (tmp_path / "Ask.java").write_text(PROGRAM)
    hosts = [
        "http://a.example/",
        "https://a.example/",
        "http://127.0.0.1:8000/",
        "https://localhost/",
        "http://[::1]:9/",
    ]
    env = {**os.environ, "JAVA_TOOL_OPTIONS": dict(plan_of(TIME).env)["JAVA_TOOL_OPTIONS"]}
    command = ["java", str(tmp_path / "Ask.java"), *hosts]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    if "jdk.compiler" in ran.stderr:
        pytest.skip("this Java compiles nothing")
    proxied = [line.startswith("[HTTP @ 127.0.0.1") and ":3128" in line for line in ran.stdout.splitlines()]
    assert proxied == [True, True, False, False, False], ran.stdout + ran.stderr


def test_not_isolated_means_an_ordinary_network_of_its_own_and_no_proxy() -> None:
    plan = plan_of({**TIME, "network": {"isolated": False}})
    assert plan.network == "stockade-p-b-clock-net"
    assert not [name for name, _ in plan.env if "proxy" in name.lower()]


def test_extra_ca_is_mounted_read_only_and_named_to_every_client() -> None:
    plan = plan_of(TIME, ca=CA)
    assert [(m.source, m.read_only) for m in plan.mounts] == [("/run/x/ca.pem", True)]
    names = {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"}
    assert {name for name, value in plan.env if value == plan.mounts[0].target} == names
    assert plan.fingerprint() != plan_of(TIME, ca=replace(CA, digest="other")).fingerprint()


@pytest.mark.parametrize(
    ("entry", "image_user", "user", "home"),
    [
        pytest.param({"image": "x"}, "", "70001:70000", True, id="an image that runs as root gets a user of its own"),
        pytest.param({"image": "x"}, "root:root", "70001:70000", True, id="root by name too"),
        pytest.param({"image": "x"}, "node", "node", True, id="an image's own user is kept"),
        pytest.param({"image": "x", "user": 1000}, "node", "1000", True, id="the entry's user wins"),
        pytest.param(TIME, "65532:65532", "70001:70000", True, id="a package gets a user of its own"),
    ],
)
def test_who_a_backend_runs_as(entry: dict[str, Any], image_user: str, user: str, home: bool) -> None:
    plan = plan_of(entry, replace(INFO, user=image_user))
    assert plan.user == user
    assert ("HOME" in dict(plan.env)) is home
    assert len(plan.tmpfs) == (2 if home else 1)


def test_a_server_without_a_user_owns_its_home_alone() -> None:
    assert dict(plan_of(TIME).tmpfs)["/home/stockade"].endswith("mode=0700,uid=70001,gid=70000")


@pytest.mark.parametrize(
    ("image_user", "owner"),
    [
        pytest.param("", "mode=0700,uid=70001,gid=70000", id="for a server with a user of its own"),
        pytest.param("1000:100", "mode=0700,uid=1000,gid=100", id="for an image's user in numbers"),
        pytest.param("node", "mode=1777", id="for an image's user by name, whose number is not known"),
        pytest.param("1000:node", "mode=0700,uid=1000,gid=1000", id="for a group by name"),
    ],
)
def test_declared_volumes_are_memory_of_a_size(image_user: str, owner: str) -> None:
    info = replace(INFO, user=image_user, volumes=("/data", "/kept", "/tmp", "/odd/../other/"))
    plan = plan_of({"image": "x", "mounts": ["vol:/kept"]}, info)
    tmpfs = dict(plan.tmpfs)
    assert {"/data", "/other", "/tmp"} <= tmpfs.keys()
    assert "/kept" not in tmpfs
    for path in ("/data", "/other"):
        assert "size=256m" in tmpfs[path]
        assert tmpfs[path].endswith(owner)
    assert tmpfs["/tmp"].endswith("mode=1777")
    assert create_arguments(plan)["HostConfig"]["Tmpfs"] == tmpfs


def test_buffers_of_sockets_are_limited_like_memory_where_the_engine_takes_it() -> None:
    plan = plan_of({**TIME, "resources": {"memory": "64m"}})
    taking = engine_info({"KernelMemoryTCP": True}, {})
    assert create_arguments(plan, taking)["HostConfig"]["KernelMemoryTCP"] == 64 * 2**20
    assert "KernelMemoryTCP" not in create_arguments(plan, engine_info({}, {}))["HostConfig"], "it may not know that"
    assert create_arguments(plan)["Labels"]["stockade.sockets"] == str(64 * 2**20)
    egress = egress_plan(NAMES, "e", Path("/c"), Path("/d"), 65536, 70003)
    assert "stockade.sockets" not in create_arguments(egress, taking)["Labels"], "all backends share those"


def test_a_rootless_engine_is_asked_for_no_limit_that_it_cannot_lift() -> None:
    rootless = engine_info({"SecurityOptions": ["name=rootless"]}, {})
    assert [limit["Name"] for limit in create_arguments(plan_of(TIME), rootless)["HostConfig"]["Ulimits"]] == [
        "nofile"
    ]


@pytest.mark.parametrize(
    ("info", "cgroup", "limits", "maps"),
    [
        pytest.param({"CgroupVersion": "2", "KernelMemoryTCP": False}, 2, False, False, id="v2"),
        pytest.param({"CgroupVersion": "1", "KernelMemoryTCP": True}, 1, True, False, id="v1"),
        pytest.param({"KernelMemoryTCP": True}, 1, True, False, id="an engine from before v2"),
        pytest.param({"SecurityOptions": ["name=seccomp", "name=userns"]}, 1, False, True, id="userns-remap"),
        pytest.param({"SecurityOptions": ["name=rootless"]}, 1, False, True, id="rootless"),
    ],
)
def test_what_an_engine_says_of_users_and_memory(info: dict[str, Any], cgroup: int, limits: bool, maps: bool) -> None:
    found = engine_info(info, {})
    assert (found.cgroup, found.limits_sockets, found.maps_users) == (cgroup, limits, maps)


@pytest.mark.parametrize("path", ["/var/run/docker.sock", "/run/containerd/containerd.sock", "/x/podman.sock"])
def test_an_engines_socket_is_never_mounted(path: str) -> None:
    server = Server.model_validate({"image": "x"})
    source = ImageSource(image="x", mounts=(Mount(source=path, target="/s"),))
    with pytest.raises(PlanError, match="escape its isolation"):
        backend_plan(
            NAMES, "b", server, source, image="x", info=INFO, env={}, ca=None, door="D", nofile=65536, own="1"
        )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"capabilities": ("NET_ADMIN",)}, id="NET_ADMIN"),
        pytest.param({"capabilities": ("NET_RAW",)}, id="NET_RAW"),
        pytest.param({"network": "host"}, id="the host's network"),
        pytest.param({"network": "bridge"}, id="the engine's default network"),
        pytest.param({"seccomp": ""}, id="no seccomp profile"),
    ],
)
def test_a_plan_that_asks_for_more_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        check_hardening(replace(plan_of(TIME), **change))


def test_stdio_keeps_its_conversation_out_of_the_engines_log() -> None:
    assert create_arguments(plan_of(TIME))["HostConfig"]["LogConfig"]["Type"] == "none"
    http = create_arguments(plan_of({**TIME, "port": 8000}))
    assert http["HostConfig"]["LogConfig"]["Config"]["max-size"] == "5m"
    assert http["OpenStdin"] is False


def test_a_door_owns_an_empty_namespace_and_has_no_engine_restart() -> None:
    plan = door_plan(
        NAMES,
        "clock",
        "e",
        Path("/d"),
        nonce="n",
        generation=7,
        ports=frozenset({80, 443, 5432}),
        nofile=65536,
        uid=70002,
    )
    host = create_arguments(plan)["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] == ["NET_ADMIN", "SETGID", "SETPCAP", "SETUID"]
    assert host["Sysctls"]["net.ipv4.icmp_echo_ignore_all"] == "1"
    assert host["Sysctls"]["net.ipv6.conf.all.disable_ipv6"] == "1"
    assert host["Sysctls"]["net.ipv4.ip_unprivileged_port_start"] == "0"
    assert host["RestartPolicy"] == {"Name": "no"}
    assert [m["Target"] for m in host["Mounts"]] == ["/run/stockade/doors"], "never the control directory"
    assert host["Mounts"][0]["ReadOnly"], "the egress alone makes sockets there"
    assert dict(plan.env)["STOCKADE_PORTS"] == "80,443,5432"
    assert dict(plan.env)["STOCKADE_USER"] == dict(plan.labels)["stockade.uid"] == "70002"


def test_the_egress_has_no_capability_and_forwards_nothing() -> None:
    plan = egress_plan(NAMES, "e", Path("/c"), Path("/d"), 65536, 70003)
    host = create_arguments(plan)["HostConfig"]
    assert plan.user == "70003:70003"
    assert host["CapAdd"] == []
    assert host["Sysctls"]["net.ipv4.ip_forward"] == "0"
    assert host["Sysctls"]["net.ipv4.ip_local_port_range"] == "1024 65535", "backends share them for one host"
    assert host["ReadonlyRootfs"] is True
    assert {"Name": "nofile", "Soft": 65536, "Hard": 65536} in host["Ulimits"]


def test_the_fingerprint_is_about_what_runs_not_about_names_or_the_door() -> None:
    plan = plan_of(TIME)
    assert plan.fingerprint() == replace(plan, name="other", labels=(), network=inside("E")).fingerprint()
    assert plan.fingerprint() != replace(plan, env=(("A", "b"),)).fingerprint()
    assert plan.fingerprint() != replace(plan, network="open").fingerprint()


FILLED = st.integers(1, 31).map(lambda length: "a" * (length - 1) + "z")
NETWORK = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}", fullmatch=True)
ENGINE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


@given(project=FILLED, server=FILLED, session=st.text(min_size=1, max_size=200), network=NETWORK)
@example(project="p" * 31, server="s" * 31, session="one", network="n" * 64)
@example(project="p", server="s", session="one", network="n")
def test_no_name_on_the_engine_is_longer_than_64_characters(
    project: str, server: str, session: str, network: str
) -> None:
    names = Names(project=project)
    instances = (server, f"{server}/{session}")
    made = [name(one) for one in instances for name in (names.backend, names.door, names.owner, names.network)]
    made += [names.egress, names.egress_network, names.connector(network)]
    assert max(map(len, made)) <= 64
    assert len(set(made)) == len(made)
    assert all(ENGINE_NAME.fullmatch(name) for name in made)


def test_long_names_that_begin_and_end_alike_stay_apart() -> None:
    names = Names(project="p" * 31)
    servers = [f"{'s' * 29}-{end}" for end in "ab"]
    for name in (names.backend, names.door, names.network):
        assert len({name(one) for server in servers for one in (server, f"{server}/one", f"{server}/two")}) == 6
    assert names.connector("n" * 80 + "1") != names.connector("n" * 80 + "2")


def test_a_volume_is_never_renamed_however_long_it_is_called() -> None:
    assert Names(project="p" * 31).volume("v" * 100) == f"stockade-{'p' * 31}-v-{'v' * 100}"


def test_sessions_get_names_of_their_own_that_the_engine_takes() -> None:
    assert NAMES.backend("clock/ünïcode session") != NAMES.backend("clock/other")
    assert NAMES.backend("clock/ünïcode session").isascii()


@pytest.mark.parametrize("port", [53, 3128])
def test_a_port_where_the_door_must_listen_is_refused_with_the_way_out(port: int) -> None:
    with pytest.raises(PlanError, match=rf"It listens on port {port} .*another port"):
        check_own_port(port)


@pytest.mark.parametrize("port", [8000, 80, 443, None])
def test_another_port_or_none_is_fine(port: int | None) -> None:
    check_own_port(port)


def test_a_backends_own_port_is_left_to_it() -> None:
    assert policy_ports({}, 80) == {443}
    assert policy_ports(RANGE, 8001) == {80, 443, 8000, 8002}


RANGE: dict[str, object] = {"allowed_hosts": ["a.example"], "allowed_ports": [53, 3128, "8000-8002"]}


@pytest.mark.parametrize(
    ("block", "ports"),
    [
        pytest.param({}, {80, 443}, id="nothing named"),
        pytest.param({"allowed_hosts": ["a.example:5432"]}, {80, 443, 5432}, id="a rule's port"),
        pytest.param(RANGE, {80, 443, 8000, 8001, 8002}, id="a range, and never our own ports"),
    ],
)
def test_a_door_listens_on_the_ports_that_the_policy_names(block: dict[str, object], ports: set[int]) -> None:
    assert policy_ports(block) == ports


def test_a_wide_range_is_listened_on_in_part() -> None:
    assert len(policy_ports({"allowed_hosts": ["*"], "allowed_ports": ["1000-9000", 22]})) == 64 + 3


def test_the_egress_asks_the_resolvers_of_the_file() -> None:
    plain = egress_plan(NAMES, "e", Path("/c"), Path("/d"), 65536, 70003)
    named = egress_plan(NAMES, "e", Path("/c"), Path("/d"), 65536, 70003, ("9.9.9.9",))
    assert (plain.dns, named.dns) == ((), ("9.9.9.9",))
    assert plain.fingerprint() != named.fingerprint()
