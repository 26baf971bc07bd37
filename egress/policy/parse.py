"""The `network:` block of a server, read into a `Policy`: every problem at once, each with what to write instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from egress.policy.nearest import nearest
from egress.policy.patterns import as_written, parse_pattern, split_port
from egress.policy.rules import (
    DEFAULT_PORTS,
    HOST_NAME,
    Limits,
    Mode,
    Path,
    Policy,
    PortRange,
    Problem,
    Protocol,
    Rule,
    RuleKind,
)

KEYS: Final = ("isolated", "allowed_hosts", "allowed_ports", "mode", "direct", "join", "limits")
RULE_KEYS: Final = ("host", "port", "ports", "private", "protocol")
WHOLE_LIMITS: Final = ("connections", "lookups")
LIMIT_KEYS: Final = ("connections", "rate", "dns_rate", "lookups", "head_timeout_s", "idle_timeout_s")
WIDE_V4, WIDE_V6 = 8, 16
MAX_SHOWN: Final = 80


class PolicyError(ValueError):
    """Raised when a network block cannot be read; has all problems, not the first only."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        """In the order of the block; each path goes from the block down."""
        super().__init__("\n".join(f"{path_text(p.path)}: {p.message}" for p in problems))


def path_text(path: Path) -> str:
    """`allowed_hosts[2].port`; `network` for the block itself."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".") or "network"


def parse_policy(block: Mapping[str, object]) -> Policy:
    """The policy of a server's `network:` block in plain JSON types. Raises PolicyError with all problems."""
    return _Reader().read(block)


def shown(value: object) -> str:
    """A value as it stands in a message, cut to a bearable length."""
    text = (
        {None: "nothing", True: "true", False: "false"}.get(value)
        if value is None or value in (True, False)
        else None
    )
    text = text or (repr(value) if isinstance(value, int | float | str) else f"a {kind_of(value)}")
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def kind_of(value: object) -> str:
    """A value's type in the words of a configuration."""
    if isinstance(value, Mapping):
        return "mapping"
    return "list" if isinstance(value, Sequence) else type(value).__name__


class _Reader:
    """Reads one block; collects problems and warnings on the way."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def read(self, block: Mapping[str, object]) -> Policy:
        if not isinstance(block, Mapping):
            raise PolicyError(
                [Problem((), f"must be a mapping such as {{allowed_hosts: [api.github.com]}}, not {shown(block)}")]
            )
        self.unknown(block, KEYS, ())
        ports = self.ports(block.get("allowed_ports", ()), ("allowed_ports",))
        rules = self.rules(block.get("allowed_hosts", ()), bool(ports))
        policy = Policy(
            rules=rules,
            ports=ports,
            isolated=self.boolean(block, "isolated", (), default=True),
            mode=Mode(self.choice(block, "mode", tuple(Mode), Mode.ENFORCE)),
            direct=self.choice(block, "direct", ("deny", "allow"), "deny") == "allow",
            join=self.networks(block.get("join", ())),
            limits=self.limits(block.get("limits", {})),
            warnings=tuple(self.warnings),
        )
        if self.problems:
            raise PolicyError(self.problems)
        return policy

    def fault(self, path: Path, message: str, *, at_key: bool = False) -> None:
        self.problems.append(Problem(path, message, at_key))

    def warn(self, path: Path, message: str) -> None:
        self.warnings.append(Problem(path, message))

    def unknown(self, block: Mapping[Any, object], known: Sequence[str], path: Path) -> None:
        for key in block:
            if key in known:
                continue
            near = nearest(str(key), known)
            advice = f"did you mean {near}?" if near else f"known keys: {', '.join(known)}"
            self.fault((*path, str(key)[:MAX_SHOWN]), f"unknown key; {advice}", at_key=True)

    def boolean(self, block: Mapping[str, object], key: str, path: Path, *, default: bool) -> bool:
        value = block.get(key, default)
        if not isinstance(value, bool):
            self.fault((*path, key), f"must be true or false, not {shown(value)}")
            return default
        return value

    def choice(self, block: Mapping[str, object], key: str, words: Sequence[str], default: str) -> str:
        value = block.get(key, default)
        if isinstance(value, str) and value in words:
            return value
        near = nearest(str(value), words)
        advice = f"; did you mean {near}?" if near else ""
        self.fault((key,), f"must be one of {', '.join(words)}, not {shown(value)}{advice}")
        return default

    def sequence(self, value: object, path: Path, example: str) -> Sequence[object]:
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return value
        single = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else example
        self.fault(path, f"must be a list, not {shown(value)}: write [{single[:MAX_SHOWN]}]")
        return ()

    def networks(self, value: object) -> tuple[str, ...]:
        found: list[str] = []
        for index, name in enumerate(self.sequence(value, ("join",), "myapp_default")):
            if isinstance(name, str) and name and not any(map(str.isspace, name)):
                found.append(name)
            else:
                self.fault(("join", index), f"must be the name of a network such as myapp_default, not {shown(name)}")
        return tuple(dict.fromkeys(found))

    # ports

    def ports(self, value: object, path: Path) -> tuple[PortRange, ...]:
        found: list[PortRange] = []
        for index, entry in enumerate(self.sequence(value, path, "443")):
            if (one := self.port(entry, (*path, index))) is None:
                continue
            if one in found:
                self.warn((*path, index), f"{one} is there twice")
            else:
                found.append(one)
        return tuple(found)

    def port(self, entry: object, path: Path) -> PortRange | None:
        text = str(entry) if isinstance(entry, int | str) and not isinstance(entry, bool) else ""
        first, dash, last = (part.strip() for part in text.partition("-"))
        if text.startswith("-") or not is_number(first) or not is_number(last if dash else first):
            self.fault(path, f"must be a port such as 443 or a range such as 8000-8010, not {shown(entry)}")
            return None
        low, high = int(first), int(last if dash else first)
        if not 1 <= low <= 65535 or not 1 <= high <= 65535:
            self.fault(path, f"{text[:MAX_SHOWN]} is not a port: ports go from 1 to 65535")
            return None
        if low > high:
            self.fault(path, f"the range {text} is the wrong way round: write {high}-{low}")
            return None
        return PortRange(low, high)

    # rules

    def rules(self, value: object, ports_named: bool) -> tuple[Rule, ...]:
        found: list[Rule] = []
        for index, entry in enumerate(self.sequence(value, ("allowed_hosts",), "api.github.com")):
            path: Path = ("allowed_hosts", index)
            if (rule := self.rule(entry, path, ports_named)) is None:
                continue
            if rule in found:
                self.warn(path, f"{rule.text} is there twice")
            else:
                found.append(rule)
        if ports_named and not found and not self.problems:
            self.warn(
                ("allowed_ports",), "allows nothing alone: name hosts in allowed_hosts, or '*' for any public host"
            )
        return tuple(found)

    def rule(self, entry: object, path: Path, ports_named: bool) -> Rule | None:
        before = len(self.problems)
        if isinstance(entry, str):
            found = self.written(entry, path)
        elif isinstance(entry, Mapping):
            found = self.mapped(entry, path)
        else:
            self.fault(path, f"must be a host such as api.github.com, not {shown(entry)}{advice_for(entry)}")
            return None
        if found is not None:
            self.check(found, path, ports_named)
        return found if len(self.problems) == before else None

    def mapped(self, entry: Mapping[Any, object], path: Path) -> Rule | None:
        if len(entry) == 1 and "host" not in entry:
            ((name, value),) = entry.items()
            if name not in RULE_KEYS and isinstance(value, int | None) and not isinstance(value, bool):
                joined = f"{name}:{value}" if value is not None else str(name)
                self.fault(path, f"reads as a mapping; write {joined} in one piece, without a space after the colon")
                return None
        self.unknown(entry, RULE_KEYS, path)
        private = self.boolean(entry, "private", path, default=False)
        ports = self.ports(entry.get("ports", ()), (*path, "ports"))
        if "port" in entry and (one := self.port(entry["port"], (*path, "port"))) is not None:
            ports = (*ports, *({one} - set(ports)))
        protocol = entry.get("protocol", "http")
        if protocol not in tuple(Protocol):
            self.fault((*path, "protocol"), f"must be tcp (opaque bytes) or left out, not {shown(protocol)}")
            protocol = "http"
        host = entry.get("host")
        if not isinstance(host, str):
            wrong = (
                "is missing: name the host that this rule is for"
                if host is None
                else f"must be text, not {shown(host)}"
            )
            self.fault((*path, "host"), wrong)
            return None
        return self.written(host, (*path, "host"), ports=ports, private=private, protocol=Protocol(str(protocol)))

    def written(
        self,
        text: str,
        path: Path,
        *,
        ports: tuple[PortRange, ...] = (),
        private: bool = False,
        protocol: Protocol = Protocol.HTTP,
    ) -> Rule | None:
        """The rule of an entry's text; `ports` are those that stand beside it."""
        host, own = split_port(text)
        try:
            kind, name, network = parse_pattern(host)
        except ValueError as error:
            self.fault(path, str(error))
            return None
        if own is not None:
            if (one := self.port(own, path)) is None:
                return None
            ports = (*ports, *({one} - set(ports)))
        return Rule(
            text=as_written(text, ports if own is None else ()),
            kind=kind,
            host=name,
            network=network,
            ports=ports,
            private=private,
            protocol=protocol,
        )

    def check(self, rule: Rule, path: Path, ports_named: bool) -> None:
        """What concerns more than one key of a rule."""
        if rule.protocol is Protocol.TCP:
            if rule.kind not in (RuleKind.EXACT, RuleKind.ADDRESS, RuleKind.HOST):
                self.fault(path, "protocol: tcp is for one host, not a pattern, since nothing inside can be checked")
            elif not rule.ports:
                self.fault(path, f"protocol: tcp needs its own port: write host: {rule.pattern}:5432")
        if rule.private and rule.kind is RuleKind.ANY:
            self.fault(path, "private: true is for hosts that you name, not for '*'")
        self.lint(rule, path, ports_named)

    def lint(self, rule: Rule, path: Path, ports_named: bool) -> None:
        """Warn of rules that are likely to open more, or less, than was meant."""
        network = rule.network
        if rule.kind in (RuleKind.SUFFIX, RuleKind.SUBDOMAIN) and "." not in rule.host:
            self.warn(path, f"{rule.text} is every host below a top-level domain; name the domain you mean")
        elif rule.kind is RuleKind.ANY:
            self.warn(path, "'*' is every public host on the allowed ports")
        elif rule.kind is RuleKind.HOST and not rule.ports and not ports_named:
            self.warn(path, f"opens no port of the host: the host is never opened as a whole; write {HOST_NAME}:3000")
        elif rule.host == "localhost" or rule.host.endswith(".localhost"):
            self.warn(path, f"{rule.host} is the server's own container; the machine it runs on is {HOST_NAME}")
        if network is not None and network.prefixlen < (WIDE_V4 if network.version == 4 else WIDE_V6):
            self.warn(path, f"{rule.text} is a very large range, and opens no private address by its size")

    # limits

    def limits(self, value: object) -> Limits:
        if not isinstance(value, Mapping):
            self.fault(("limits",), f"must be a mapping such as {{connections: 256}}, not {shown(value)}")
            return Limits()
        self.unknown(value, LIMIT_KEYS, ("limits",))
        found: dict[str, Any] = {}
        for key in LIMIT_KEYS:
            if (number := value.get(key)) is None:
                continue
            whole = key in WHOLE_LIMITS
            if (
                isinstance(number, bool)
                or not isinstance(number, int if whole else int | float)
                or not 0 < number < 1e9
            ):
                self.fault(
                    ("limits", key), f"must be a {'whole ' if whole else ''}number above 0, not {shown(number)}"
                )
            else:
                found[key] = number
        return Limits(**found)


def is_number(text: str) -> bool:
    """ASCII digits, few enough to be a port."""
    return text.isascii() and text.isdecimal() and len(text) <= 10


def advice_for(entry: object) -> str:
    """More words about an entry that is no text."""
    if isinstance(entry, bool) or not isinstance(entry, int | float):
        return ""
    if entry in DEFAULT_PORTS or (isinstance(entry, int) and 1 <= entry <= 65535):
        return "; ports go into allowed_ports"
    return "; put it in quotes if it is a host"
