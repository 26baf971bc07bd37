"""The configuration: what is read, and the exact words for everything that can be wrong with it."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

import pytest

from registry.config import Config, project_name
from registry.load import load_config, load_text
from registry.model.errors import ConfigError
from registry.model.fields import Transport
from registry.model.server import OWN_USERS

HEAD = "version: 1\nmcpServers:\n"
FETCH = "  fetch:\n    command: uvx\n    args: [mcp-server-fetch]\n"


def problems(text: str, name: str = "stockade.yaml") -> str:
    with pytest.raises(ConfigError) as caught:
        load_text(textwrap.dedent(text), Path(name))
    return str(caught.value)


def servers(text: str) -> str:
    return HEAD + textwrap.indent(textwrap.dedent(text).strip("\n"), "  ") + "\n"


GOOD = """
version: 1
mcpServers:
  fetch:
    command: uvx
    args: [mcp-server-fetch]
    network:
      isolated: true
      allowed_hosts: [api.github.com, .githubusercontent.com]
      allowed_ports: [443]
      mode: enforce
    tools: {allow: ["fetch"], rename: {fetch: web_fetch}, describe: {fetch: "…"}}
    env: {TOKEN: "${secret:token}", PORT: 8080}
    mounts: ["./data:/data:ro"]
    resources: {memory: 512m, cpus: 1, pids: 256}
    sessions: shared
  everything:
    command: npx
    args: [-y, "@modelcontextprotocol/server-everything", streamableHttp]
    type: streamable-http
    port: 3001
  remote:
    url: https://mcp.example.com/mcp
    headers: {X-Key: "${secret:key}"}
    auth: {client_credentials: {token_url: https://id.example.com/token, client_id: a, client_secret: "${secret:s}"}}
clients:
  cursor:
    token_sha256: 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8
    servers: [fetch]
    tools: {allow: ["github__search_*"], deny: ["*delete*"]}
"""


def test_the_documented_example_loads(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "stockade.yaml"
    path.write_text(GOOD, "utf-8")
    config = load_config(path)
    fetch, everything, remote = config.servers.values()
    assert fetch.transport is Transport.STDIO
    assert fetch.isolated
    assert fetch.env == {"TOKEN": "${secret:token}", "PORT": "8080"}
    assert fetch.mounts[0].source == str(tmp_path / "data")
    assert fetch.resources.memory == 512 * 2**20
    assert fetch.network.block == {
        "isolated": True,
        "allowed_hosts": ["api.github.com", ".githubusercontent.com"],
        "allowed_ports": [443],
        "mode": "enforce",
    }
    assert (everything.transport, everything.port, everything.path) == (Transport.HTTP, 3001, "/mcp")
    assert remote.transport is Transport.HTTP
    assert not remote.isolated
    assert config.visible_servers("cursor") == ("fetch",)
    assert config.visible_servers("nobody") == ("fetch", "everything", "remote")
    assert [warning.key_path for warning in config.warnings] == ["mcpServers.remote.url"]


def test_a_server_without_a_network_block_reaches_nothing() -> None:
    config = load_text(HEAD + FETCH, Path("stockade.yaml"))
    assert config.servers["fetch"].network.block == {}
    assert config.servers["fetch"].isolated


BAD = {
    "an unknown key": (
        servers("fetch: {command: uvx, args: [x], netwrok: {}}"),
        "stockade.yaml:3:36: mcpServers.fetch.netwrok: unknown key 'netwrok'. Did you mean 'network'?",
    ),
    "an unknown section": (
        "version: 1\ngatway: {}\n",
        "stockade.yaml:2:1: gatway: unknown key 'gatway'. Did you mean 'gateway'?",
    ),
    "an unknown key with nothing near it": (
        "version: 1\negress: {zzz: 1}\n",
        "stockade.yaml:2:10: egress.zzz: unknown key 'zzz'. Known here: resolve, resolvers, "
        "upstream_proxy, no_proxy.",
    ),
    "text for a number": (
        "version: 1\ngateway: {call_timeout_s: '30'}\n",
        "stockade.yaml:2:27: gateway.call_timeout_s: must be a number, not the text '30'. Write 30, without quotes.",
    ),
    "text for a list": (
        servers("fetch: {command: uvx, args: mcp-server-fetch}"),
        "stockade.yaml:3:31: mcpServers.fetch.args: must be a list, not text. Write [mcp-server-fetch].",
    ),
    "a list for a mapping": (
        "version: 1\nmcpServers: [fetch]\n",
        "stockade.yaml:2:1: mcpServers: must be a mapping (key: value), not a list.",
    ),
    "a word for true": (
        servers("fetch: {command: uvx, args: [x], disabled: yes}"),
        "stockade.yaml:3:46: mcpServers.fetch.disabled: must be true or false, not the text 'yes'. "
        "Write true, without quotes.",
    ),
    "true in a variable": (
        servers("fetch: {command: uvx, args: [x], env: {A: true}}"),
        'stockade.yaml:3:45: mcpServers.fetch.env.A: must be text, not true. Put it in quotes: "true".',
    ),
    "a word of a closed list": (
        servers("fetch: {command: uvx, args: [x], sessions: per_client}"),
        "stockade.yaml:3:46: mcpServers.fetch.sessions: 'per_client' is not one of auto, shared, per-client. "
        "Did you mean per-client?",
    ),
    "duplicate keys": (
        "version: 1\nmcpServers:\n  a: {command: uvx, args: [x]}\n  a: {command: uvx, args: [x]}\n",
        "stockade.yaml:4:3: mcpServers.a: is written twice; the first is on line 3. Keep one.",
    ),
    "a YAML syntax error": (
        "version: 1\nmcpServers: [a,\n",
        "stockade.yaml:3:1: is not YAML: expected the node content, but found '<stream end>' "
        "(while parsing a flow node that starts on line 3).",
    ),
    "an unquoted colon": (
        "version: 1\nproject: a: b\n",
        "stockade.yaml:2:11: is not YAML: mapping values are not allowed here. "
        'A value that contains ": " needs quotes; otherwise look at the indentation of this line.',
    ),
    "a tab": (
        "version: 1\nmcpServers:\n\tfetch: {}\n",
        "stockade.yaml:3:1: a tab indents this line; YAML takes only spaces. Replace the tab with spaces.",
    ),
    "two documents": (
        "version: 1\n---\nversion: 1\n",
        "stockade.yaml:2:1: holds more than one YAML document. Keep one: remove the line `---`.",
    ),
    "a name with capitals": (
        servers("GitHub: {command: uvx, args: [x]}"),
        "stockade.yaml:3:3: mcpServers.GitHub: 'GitHub' cannot be a name: lower-case letters, "
        "digits and single inner "
        "hyphens, at most 31. Call it 'github'.",
    ),
    "a name with __": (
        servers("my__server: {command: uvx, args: [x]}"),
        "stockade.yaml:3:3: mcpServers.my__server: 'my__server' cannot be a name: lower-case "
        "letters, digits and single "
        "inner hyphens, at most 31. Call it 'my-server'.",
    ),
    "an unknown server in a client": (
        HEAD + FETCH + f"clients:\n  cursor: {{servers: [fetch, fetsch], token_sha256: {'a' * 64}}}\n",
        "stockade.yaml:7:29: clients.cursor.servers[1]: there is no server 'fetsch'. Did you mean 'fetch'?",
    ),
    "nothing to run": (
        servers("fetch: {env: {A: b}}"),
        "stockade.yaml:3:3: mcpServers.fetch: has none of command, image and url. Say how to run "
        "it: `command: uvx` with "
        "args, `image: …`, or `url: https://…` for a remote one.",
    ),
    "two things to run": (
        servers("fetch: {command: uvx, image: x}"),
        "stockade.yaml:3:32: mcpServers.fetch.image: stands beside `command`, and a server has only one of command, "
        "image, url. Keep `command` or `image`.",
    ),
    "http without a port": (
        servers("fetch: {command: uvx, args: [x], type: http}"),
        "stockade.yaml:3:42: mcpServers.fetch.type: http needs the port that the server listens on. Add port: 8000.",
    ),
    "the SSE transport": (
        servers("a: {url: https://a.example/sse, type: sse}"),
        "stockade.yaml:3:41: mcpServers.a.type: the SSE transport is gone from MCP since 2025-03-26. "
        "Most servers have `http` (streamable HTTP) too: write type: http.",
    ),
    "a network for a remote server": (
        servers("a: {url: https://a.example/mcp, network: {allowed_hosts: [b.example]}}"),
        "stockade.yaml:3:35: mcpServers.a.network: has no meaning for a server that runs "
        "elsewhere: Stockade can neither "
        "isolate nor start it. Remove it.",
    ),
    "a port that is none": (
        servers("a: {image: x, type: http, port: 70000}"),
        "stockade.yaml:3:35: mcpServers.a.port: 70000 is not a port. Ports go from 1 to 65535.",
    ),
    "the proxy's port": (
        servers("a: {image: x, type: http, port: 3128}"),
        "stockade.yaml:3:35: mcpServers.a.port: 3128 is one of the ports that Stockade itself uses beside a server "
        "(53, 3128). Let the server listen on another port, such as 8000.",
    ),
    "a port that the policy carries directly": (
        servers("a: {image: x, type: http, port: 80, network: {allowed_hosts: [b.example], direct: allow}}"),
        "stockade.yaml:3:35: mcpServers.a.port: 80 is also a port that `network` lets it reach without the proxy; it "
        "cannot be both. Let the server listen on another port, or take `direct: allow` or the `protocol: tcp` rule out "
        "of `network`.",
    ),
    "a port of a tcp rule": (
        servers(
            "a: {image: x, type: http, port: 5432,"
            " network: {allowed_hosts: [{host: db.example, port: 5432, protocol: tcp}]}}"
        ),
        "stockade.yaml:3:35: mcpServers.a.port: 5432 is also a port that `network` lets it reach without the proxy; it "
        "cannot be both. Let the server listen on another port, or take `direct: allow` or the `protocol: tcp` rule out "
        "of `network`.",
    ),
    "a mount that is not there": (
        servers("a: {image: x, mounts: ['/nonexistent/here:/data']}"),
        "stockade.yaml:3:26: mcpServers.a.mounts[0]: /nonexistent/here does not exist. "
        "Make it (mkdir -p /nonexistent/here) or correct the path.",
    ),
    "the engine's socket": (
        servers("a: {image: x, mounts: ['/var/run/docker.sock:/s']}"),
        "stockade.yaml:3:26: mcpServers.a.mounts[0]: /var/run/docker.sock is the container engine's socket, which no "
        "server gets. A program that reaches it controls this machine; a server that needs it cannot be isolated.",
    ),
    "a privileged container": (
        servers("a: {command: docker, args: [run, -i, --rm, --privileged, x]}"),
        "stockade.yaml:3:46: mcpServers.a.args[3]: docker run --privileged is refused: it would "
        "open the wall around the "
        "server. Remove --privileged.",
    ),
    "the host's network": (
        servers("a: {command: docker, args: [run, --network=host, x]}"),
        "stockade.yaml:3:36: mcpServers.a.args[1]: docker run --network is refused: Stockade is "
        "the server's network. Remove --network; for a service of this machine write network: "
        '{allowed_hosts: ["host.docker.internal:PORT"]}.',
    ),
    "a program of the host": (
        servers("a: {command: python, args: [-m, my_server]}"),
        "stockade.yaml:3:35: mcpServers.a.args[1]: the module my_server is looked for in a project, and no folder is given. "
        "Add cwd: FOLDER, the project's ('.' is this file's folder); if it is a package of PyPI, write command: uvx, "
        "args: [my-server].",
    ),
    "a reference that is none": (
        servers("a: {image: x, env: {T: '${TOKEN}'}}"),
        "stockade.yaml:3:26: mcpServers.a.env.T: ${TOKEN} is not a reference. "
        "Write ${secret:token} or ${env:TOKEN}; for a literal ${ write $${.",
    ),
    "one prefix for two": (
        servers("a: {image: x}\nb: {image: x, prefix: a}"),
        "stockade.yaml:4:25: mcpServers.b.prefix: the prefix 'a' is already that of the server 'a'. "
        "Give each server a prefix of its own.",
    ),
    "an allow list that lost its items": (
        servers("a: {image: x, tools: {allow: }}"),
        "stockade.yaml:3:31: mcpServers.a.tools.allow: has no value. Write [] for none, or remove the key.",
    ),
    "two tools of one name": (
        servers("a: {image: x, tools: {rename: {b: d, c: d}}}"),
        "stockade.yaml:3:43: mcpServers.a.tools.rename.c: 'd' is already the new name of 'b'. "
        "Give each tool a name of its own.",
    ),
    "a default that is fixed": (
        servers("a: {image: x, tools: {defaults: {t: {q: 1}}, fixed: {t: {q: 2}}}}"),
        "stockade.yaml:3:63: mcpServers.a.tools.fixed.t.q: 'q' is both a default and fixed. "
        "Keep it in fixed (calls cannot change it) or in defaults (they can).",
    ),
    "a listen address without a port": (
        "version: 1\ngateway: {listen: localhost}\n",
        "stockade.yaml:2:19: gateway.listen: 'localhost' is not an address to listen on. "
        "Write HOST:PORT, such as 127.0.0.1:8420.",
    ),
    "a listen address by name": (
        "version: 1\ngateway: {listen: 'gateway.example:8420'}\n",
        "stockade.yaml:2:19: gateway.listen: 'gateway.example' is not an IP address. "
        "Write an address of this machine: 127.0.0.1 (only this machine) or 0.0.0.0 (everybody).",
    ),
    "one address for both": (
        "version: 1\ngateway: {listen: '127.0.0.1:9000', admin: '127.0.0.1:9000'}\n",
        "stockade.yaml:2:44: gateway.admin: 127.0.0.1:9000 is also where the MCP endpoint listens. "
        "Give it another port, such as 8421.",
    ),
    "an override without an address": (
        "version: 1\negress: {resolve: ['a.example:443:b.example']}\n",
        "stockade.yaml:2:20: egress.resolve[0]: 'b.example' is not an IP address. "
        "Write HOST:PORT:ADDRESS, such as api.example.com:443:203.0.113.7.",
    ),
    "a token in place of its hash": (
        "version: 1\nclients: {cursor: {token_sha256: st_very_secret_token}}\n",
        "stockade.yaml:2:34: clients.cursor.token_sha256: is not a SHA-256 (the token itself must "
        "never be in the file). "
        "It is the SHA-256 of the token, in 64 hex digits; `stockade client add NAME` makes both.",
    ),
    "a certificate that is not there": (
        "version: 1\nextra_ca: /nonexistent/ca.pem\n",
        "stockade.yaml:2:11: extra_ca: /nonexistent/ca.pem cannot be read: No such file or "
        "directory. Correct the path.",
    ),
    "a host with a space": (
        servers("a: {image: x, network: {allowed_hosts: ['api github.com']}}"),
        "stockade.yaml:3:43: mcpServers.a.network.allowed_hosts[0]: 'api github.com' has a "
        "space in it; write one host an entry, such as api.github.com.",
    ),
    "a URL for a host": (
        servers("a: {image: x, network: {allowed_hosts: ['https://api.github.com/']}}"),
        "stockade.yaml:3:43: mcpServers.a.network.allowed_hosts[0]: 'https://api.github.com/' "
        "is a URL; keep only the host: api.github.com.",
    ),
    "an allowed port that is none": (
        servers("a: {image: x, network: {allowed_hosts: [b.example], allowed_ports: [443, 70000]}}"),
        "stockade.yaml:3:76: mcpServers.a.network.allowed_ports[1]: 70000 is not a port: ports go from 1 to 65535.",
    ),
    "an unknown key of the network": (
        servers("a: {image: x, network: {allow_hosts: [b.example]}}"),
        "stockade.yaml:3:27: mcpServers.a.network.allow_hosts: unknown key; did you mean allowed_hosts?",
    ),
    "an empty file": (
        "# nothing yet\n",
        "stockade.yaml:1: is empty. Add a server with `stockade run NAME` (see `stockade search`).",
    ),
    "a list": (
        "- a\n",
        "stockade.yaml:1: holds no mapping (key: value). It starts with `version: 1`, then `mcpServers:`.",
    ),
    "a newer version": (
        "version: 2\n",
        "stockade.yaml:1:10: version: 2 is not a version this Stockade knows. Write version: 1, or "
        "install a newer one.",
    ),
    "a Debian package that is none": (
        servers("a: {command: uvx, args: [x], packages: ['git; rm']}"),
        "stockade.yaml:3:43: mcpServers.a.packages[0]: 'git; rm' is not the name of a Debian package. "
        "Write one such as git or ffmpeg.",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_said_with_its_place_and_the_next_step(text: str, message: str) -> None:
    assert problems(text) == message


def test_everything_wrong_is_said_at_once_in_file_order() -> None:
    text = servers(
        """
        Bad: {comand: uvx}
        b: {command: /usr/bin/foo, args: [x]}
        c: {image: x, port: 53, type: http}
        """
    )
    said = problems(
        text + "clients: {cursor: {servers: [zzz], token_sha256: x}, other: {servers: [d]}}\n"
    ).splitlines()
    assert [line.split(": ")[1] for line in said] == [
        "mcpServers.Bad",
        "mcpServers.Bad.comand",
        "mcpServers.b.command",
        "mcpServers.c.port",
        "clients.cursor.servers[0]",
        "clients.cursor.token_sha256",
        "clients.other.servers[0]",
    ]


def test_a_client_may_name_a_server_whose_own_entry_is_wrong() -> None:
    said = problems(servers("a: {comand: x}") + "clients: {c: {servers: [a]}}\n")
    assert "there is no server" not in said


def test_a_file_that_is_not_there_is_said_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "none.yaml")
    message = "there is no such file. Make one with `stockade run NAME` (see `stockade search`), or name another"
    assert str(caught.value) == f"{tmp_path}/none.yaml: {message} with --file."


def test_a_folder_and_binary_data_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory, not a file"):
        load_config(tmp_path)
    (tmp_path / "a.yaml").write_bytes(b"version: 1\n\xff\xfe")
    with pytest.raises(ConfigError, match=r"a\.yaml:2: is not UTF-8 text"):
        load_config(tmp_path / "a.yaml")


def test_a_server_cannot_be_given_write_access_to_its_own_policy(tmp_path: Path) -> None:
    path = tmp_path / "stockade.yaml"
    path.write_text(servers("a: {image: x, mounts: ['.:/work']}"))
    with pytest.raises(ConfigError, match=r"the server could rewrite stockade\.yaml, its own policy"):
        load_config(path)
    path.write_text(servers("a: {image: x, mounts: ['.:/work:ro']}"))
    assert [warning.message for warning in load_config(path).warnings] == ["shows stockade.yaml to the server"]


def test_a_server_cannot_see_stockades_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKADE_SECRETS_DIR", str(tmp_path / "deep" / "secrets"))
    (tmp_path / "deep" / "secrets").mkdir(parents=True)
    said = problems(servers(f"a: {{image: x, mounts: ['{tmp_path}/deep:/d:ro']}}"))
    assert "contains Stockade's secrets" in said


def test_an_extra_ca_must_hold_certificates_and_no_key(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("nothing")
    assert "holds no certificate" in problems(f"version: 1\nextra_ca: {ca}\n")
    ca.write_text("-----BEGIN CERTIFICATE-----\n-----BEGIN RSA PRIVATE KEY-----\n")
    assert "holds a private key" in problems(f"version: 1\nextra_ca: {ca}\n")
    ca.write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    assert load_text(f"version: 1\nextra_ca: {ca}\n", Path("stockade.yaml")).extra_ca == ca


@pytest.mark.parametrize(
    ("mode", "keys", "said"),
    [
        (0o755, "command: uvx, args: [x], mounts: ['./data:/d']", "runs as a user of its own, who may not write in"),
        (0o755, "command: npx, args: [x], user: '4711:4711', mounts: ['./data:/d']", "runs as user 4711"),
        (
            0o755,
            "command: npx, args: [x], user: 'ME', mounts: [{source: ./data, target: /d, accept: [root-writes]}]",
            "",
        ),
        (0o755, "command: npx, args: [x], mounts: ['./data:/d:ro']", ""),
        (0o777, "command: uvx, args: [x], mounts: ['./data:/d']", ""),
        (0o755, "image: x, mounts: ['./data:/d']", ""),
    ],
)
def test_a_folder_that_the_server_cannot_write_in_is_warned_about(
    tmp_path: Path, mode: int, keys: str, said: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(mode)
    text = servers(f"a: {{{keys.replace('ME', f'{os.getuid()}:{os.getgid()}')}}}")
    warned = " ".join(map(str, load_text(text, tmp_path / "stockade.yaml").warnings))
    assert said in warned
    assert ("may not write" in warned) is bool(said)


WARNINGS = {
    "not isolated": (
        "network: {isolated: false}",
        "mcpServers.a.network.isolated: is not isolated: it reaches every",
    ),
    "ports without hosts": ("network: {allowed_ports: [443]}", "allows nothing alone: name hosts in allowed_hosts"),
    "every host": ("network: {allowed_hosts: ['*']}", "'*' is every public host on the allowed ports"),
    "a whole top-level domain": ("network: {allowed_hosts: [.com]}", ".com is every host below a top-level domain"),
    "a public suffix": ("network: {allowed_hosts: ['*.github.io']}", "*.github.io allows every host below github.io"),
    "a metadata service": (
        "network: {allowed_hosts: ['169.254.169.254:80']}",
        "where clouds hand out the machine's credentials",
    ),
    "a metadata name": (
        "network: {allowed_hosts: [metadata.google.internal]}",
        "where clouds hand out the machine's credentials",
    ),
    "its own machine": ("network: {allowed_hosts: ['127.0.0.1:3000']}", "127.0.0.1 is the server's own container"),
    "a huge range": ("network: {allowed_hosts: [8.0.0.0/5]}", "is a very large range"),
    "learning": ("network: {mode: learn}", "learn lets through what enforce would deny"),
    "a secret in the open": ("env: {API_TOKEN: abcdefghij}", "Keep it as a secret: ${secret:api-token}"),
    "root": ("user: 0", "runs as root in its container"),
}


@pytest.mark.parametrize(("keys", "message"), WARNINGS.values(), ids=WARNINGS)
def test_what_opens_more_than_it_seems_is_warned_about(keys: str, message: str) -> None:
    config = load_text(f"{HEAD}  a:\n    image: x\n    {keys}\n", Path("stockade.yaml"))
    assert any(message in str(warning) for warning in config.warnings)
    assert "abcdefghij" not in str(config.warnings)


QUIET = (
    "api.github.com",
    ".github.com",
    "*.example.com",
    "10.0.0.0/24",
    "db.internal:5432",
    "host.docker.internal:3000",
)


@pytest.mark.parametrize("host", QUIET)
def test_a_rule_for_what_one_may_own_is_no_warning(host: str) -> None:
    config = load_text(
        f"{HEAD}  a:\n    image: x\n    network: {{allowed_hosts: ['{host}']}}\n", Path("stockade.yaml")
    )
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("", False),
        ("clients: {}\n", True),
        ("clients: {}\ngateway: {anonymous: never}\n", False),
        ("clients: {}\ngateway: {auth: {oauth: {issuer: https://a.example, audience: https://b.example}}}\n", False),
        (f"clients: {{a: {{token_sha256: {'a' * 64}}}}}\n", False),
    ],
)
def test_clients_that_are_all_gone_are_warned_about_since_nobody_needs_a_token_then(text: str, warned: bool) -> None:
    said = [str(warning) for warning in load_text(f"version: 1\n{text}", Path("stockade.yaml")).warnings]
    assert ["every program on this machine may connect without a token" in one for one in said] == [True] * warned


def test_gateway_open_to_the_network_is_warned_about() -> None:
    text = "version: 1\ngateway: {listen: '0.0.0.0:8420', admin: '0.0.0.0:8421', anonymous: always}\n"
    warned = [warning.key_path for warning in load_text(text, Path("stockade.yaml")).warnings]
    assert warned == ["gateway.admin", "gateway.anonymous"]


def test_servers_without_a_prefix_are_warned_about_from_the_second_on() -> None:
    config = load_text(servers('a: {image: x, prefix: ""}\nb: {image: x, prefix: ""}'), Path("stockade.yaml"))
    assert [warning.key_path for warning in config.warnings] == ["mcpServers.b.prefix"]


def test_servers_that_the_file_makes_one_user_are_warned_about() -> None:
    entries = {
        "a": "{image: x, user: '1000:1000'}",
        "b": "{image: x, user: 1001}",
        "c": "{command: docker, args: [run, -u, '1000', x]}",
        "d": "{image: x, user: 1000, disabled: true}",
        "e": "{image: x}",
    }
    config = load_text(servers("\n".join(f"{name}: {entry}" for name, entry in entries.items())), Path("s.yaml"))
    assert [warning.key_path for warning in config.warnings] == ["mcpServers.c.user"]
    assert "is 1000, the same as a: each can exhaust the other's per-user limits" in str(config.warnings[0])


def test_a_folder_of_roots_is_given_to_a_user_that_no_other_server_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    honest = os.stat
    root = os.stat_result((0o40755, 1, 1, 1, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(os, "stat", lambda path, **more: root if path == str(folder) else honest(path, **more))
    text = servers("a: {command: uvx, args: [x], mounts: ['./data:/d']}")
    (warning,) = load_text(text, tmp_path / "stockade.yaml").warnings
    user = re.search(r'chown -R (\d+):\1 \S+, and user: "\1:\1"', str(warning))
    assert user is not None
    assert int(user[1]) in OWN_USERS


def test_a_key_with_nothing_after_it_counts_as_left_out() -> None:
    config = load_text(servers("a: {image: x, env: , network: , tools: }"), Path("stockade.yaml"))
    assert config.servers["a"].network.block == {}


def test_the_project_is_named_after_the_files_path_unless_it_says_otherwise(tmp_path: Path) -> None:
    one, two = (load_text("version: 1\n", tmp_path / name) for name in ("a.yaml", "b.yaml"))
    assert project_name(one) != project_name(two)
    assert len(project_name(one)) == 8
    assert project_name(load_text("version: 1\nproject: mine\n", tmp_path / "a.yaml")) == "mine"
    assert project_name(Config()) == "default"


def test_a_problem_found_later_still_has_its_line() -> None:
    config = load_text(HEAD + FETCH, Path("stockade.yaml"))
    problem = config.problem(("mcpServers", "fetch", "args", 0), "does not build", "See `stockade logs fetch`")
    assert str(problem) == (
        "stockade.yaml:5:12: mcpServers.fetch.args[0]: does not build. See `stockade logs fetch`."
    )


@pytest.mark.parametrize(
    ("resolver", "said"),
    [
        ("9.9.9.9:53", "without a port"),
        ("dns.example", "not a DNS server's address"),
        ("127.0.0.1", "egress container"),
    ],
)
def test_a_resolver_is_an_address_that_the_egress_can_reach(resolver: str, said: str) -> None:
    assert said in problems(f"version: 1\negress: {{resolvers: ['{resolver}']}}\n")
