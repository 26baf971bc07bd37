"""Container plans as the engine's API spells them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from gateway.runtime.engine.base import (
    ContainerInfo,
    ContainerPlan,
    EngineInfo,
    ImageInfo,
    Mount,
    NetworkInfo,
    NetworkPlan,
)

LOG_BOUNDED: Final = {"Type": "json-file", "Config": {"max-size": "5m", "max-file": "2"}}
LOG_NONE: Final[dict[str, Any]] = {"Type": "none", "Config": {}}


SOCKETS_LABEL: Final = "stockade.sockets"
"""The bytes that a container's sockets may buffer, for the code that starts it (`docker/cgroup.py`)."""
NO_HEALTH_CHECK: Final = {"Test": ["NONE"]}
"""An image's own would be one more program that keeps running, without the user having asked for it."""
MEMORY_OPTIONS: Final = "size=1m,nr_inodes=64,mode=0755,nosuid,nodev,noexec"
"""Of a tmpfs with secret files. Engines refuse a read-only volume without a name; its folder is root's."""
NO_CORE: Final = 1
"""Bytes. Not 0: that still starts the program that `kernel.core_pattern` may name, on the host and as root, for every
crash; 1 is the kernel's word for neither file nor program (fs/coredump.c)."""


def create_arguments(plan: ContainerPlan, engine: EngineInfo | None = None) -> dict[str, Any]:
    """The body of `POST /containers/create`; `engine` is None while it is not known."""
    body: dict[str, Any] = {
        "Image": plan.image,
        "Env": [f"{key}={value}" for key, value in plan.env],
        "User": plan.user,
        "Labels": dict(plan.labels),
        "OpenStdin": plan.stdin,
        "StdinOnce": False,
        "AttachStdin": plan.stdin,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "Healthcheck": NO_HEALTH_CHECK,
        "HostConfig": host_config(plan),
    }
    if engine is None or not engine.rootless:  # a rootless one cannot lift its own limit of 0 to 1
        body["HostConfig"]["Ulimits"].append({"Name": "core", "Soft": NO_CORE, "Hard": NO_CORE})
    if plan.socket_bytes:
        body["Labels"][SOCKETS_LABEL] = str(plan.socket_bytes)
        if engine is not None and engine.limits_sockets:
            body["HostConfig"]["KernelMemoryTCP"] = plan.socket_bytes
    if plan.working_dir:
        body["WorkingDir"] = plan.working_dir
    if plan.command is not None:
        body["Cmd"] = list(plan.command)
    if plan.entrypoint is not None:
        body["Entrypoint"] = list(plan.entrypoint)
    return body


def host_config(plan: ContainerPlan) -> dict[str, Any]:
    """The `HostConfig` of that body."""
    security = ["no-new-privileges"]
    if plan.seccomp:
        security.append(f"seccomp={plan.seccomp}")
    config: dict[str, Any] = {
        "NetworkMode": plan.network,
        "CapDrop": ["ALL"],
        "CapAdd": list(plan.capabilities),
        "SecurityOpt": security,
        "ReadonlyRootfs": plan.read_only,
        "Tmpfs": dict(plan.tmpfs),
        "Mounts": [mount_argument(m) for m in plan.mounts],
        "Memory": plan.memory_bytes,
        "MemorySwap": plan.memory_bytes,
        "NanoCpus": int(plan.cpus * 1_000_000_000),
        "PidsLimit": plan.pids,
        "Ulimits": [{"Name": "nofile", "Soft": plan.nofile, "Hard": plan.nofile}],
        "Init": plan.init,
        "LogConfig": LOG_BOUNDED if plan.keep_output else LOG_NONE,
        "RestartPolicy": {"Name": "no"},
        "IpcMode": "private",
        "Privileged": False,
    }
    if not plan.network.startswith("container:"):
        config["Sysctls"] = dict(plan.sysctls)
        config["Dns"] = list(plan.dns)
        config["DnsSearch"] = ["."] if plan.dns else []  # the host's search domains complete no name of ours
        config["ExtraHosts"] = [f"{name}:{address}" for name, address in plan.hosts]
    return config


def mount_argument(mount: Mount) -> dict[str, Any]:
    """One mount; what is mounted below it on the host later does not spread into the container."""
    if mount.memory:
        driver = {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs", "o": MEMORY_OPTIONS}}
        return {"Type": "volume", "Target": mount.target, "VolumeOptions": {"NoCopy": True, "DriverConfig": driver}}
    argument: dict[str, Any] = {
        "Type": "volume" if mount.volume else "bind",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    }
    if not mount.volume:
        argument["BindOptions"] = {"Propagation": "rprivate"}
    elif mount.labels:
        argument["VolumeOptions"] = {"Labels": dict(mount.labels)}
    return argument


def network_arguments(plan: NetworkPlan) -> dict[str, Any]:
    """Keyword arguments of the SDK's `create_network`."""
    return {
        "name": plan.name,
        "driver": "bridge",
        "check_duplicate": True,
        "internal": plan.internal,
        "labels": dict(plan.labels),
        "enable_ipv6": False,
    }


def engine_info(info: Mapping[str, Any], version: Mapping[str, Any]) -> EngineInfo:
    """From `GET /info` and `GET /version`."""
    options = " ".join(info.get("SecurityOptions") or ())
    rootless = "name=rootless" in options
    return EngineInfo(
        id=str(info.get("ID", "")),
        version=str(version.get("Version", "")),
        api_version=str(version.get("ApiVersion", "")),
        kernel=str(info.get("KernelVersion", "")),
        architecture=str(info.get("Architecture", "")),
        seccomp="name=seccomp" in options,
        root_directory=str(info.get("DockerRootDir", "")),
        rootless=rootless,
        maps_users=rootless or "name=userns" in options,
        cgroup=2 if str(info.get("CgroupVersion")) == "2" else 1,
        cgroupfs=info.get("CgroupDriver") == "cgroupfs",
        limits_sockets=bool(info.get("KernelMemoryTCP")),
    )


def image_info(found: Mapping[str, Any]) -> ImageInfo:
    """From `GET /images/NAME/json`."""
    config = found.get("Config") or {}
    pairs = (item.partition("=") for item in config.get("Env") or ())
    return ImageInfo(
        id=found["Id"],
        user=config.get("User") or "",
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        env=tuple((key, value) for key, _, value in pairs),
        labels=config.get("Labels") or {},
        size_bytes=int(found.get("Size") or 0),
        volumes=tuple(sorted(config.get("Volumes") or ())),
        working_dir=config.get("WorkingDir") or "",
    )


def container_info(found: Mapping[str, Any]) -> ContainerInfo:
    """From `GET /containers/ID/json`."""
    state = found["State"]
    networks = (found.get("NetworkSettings") or {}).get("Networks") or {}
    addresses = (net.get(key) for net in networks.values() for key in ("IPAddress", "GlobalIPv6Address"))
    return ContainerInfo(
        id=found["Id"],
        name=found["Name"].lstrip("/"),
        image_id=found["Image"],
        running=bool(state["Running"]),
        finished=state.get("Status") in ("exited", "dead", "removing"),
        exit_code=int(state["ExitCode"]),
        error=state.get("Error") or "",
        labels=found["Config"].get("Labels") or {},
        addresses=tuple(address for address in addresses if address),
        pid=int(state.get("Pid") or 0),
        out_of_memory=bool(state.get("OOMKilled")),
        started_at=state.get("StartedAt") or "",
        volumes=tuple(
            (mount.get("Destination") or "", mount["Name"])
            for mount in found.get("Mounts") or ()
            if mount.get("Name")
        ),
    )


def network_info(found: Mapping[str, Any]) -> NetworkInfo:
    """From `GET /networks/ID`."""
    pools = (found.get("IPAM") or {}).get("Config") or ()
    return NetworkInfo(
        id=found["Id"],
        name=found["Name"],
        gateway=next((pool["Gateway"] for pool in pools if pool.get("Gateway")), ""),
        subnets=tuple(pool["Subnet"] for pool in pools if pool.get("Subnet")),
        labels=found.get("Labels") or {},
    )


def error_sentence(explanation: object) -> str:
    """What the engine said, out of its JSON wrapping."""
    if isinstance(explanation, bytes):
        explanation = explanation.decode(errors="replace")
    text = str(explanation)
    try:
        decoded = json.loads(text)
    except ValueError:
        return text.strip()
    message = decoded.get("message") if isinstance(decoded, dict) else None
    return str(message or text).strip()
