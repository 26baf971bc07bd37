"""Sets the stage for the demo and the story's test: a CA, a small internet in a container, the rogue's image.

The internet's container sits on a bridge network of its own; its ports are published on that bridge's gateway
address only, which the egress container can reach and no backend can.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors
import docker.types
import trustme

from gateway.runtime.docker.engine import DockerEngine
from gateway.runtime.images.build_settings import gather
from gateway.runtime.images.images import Images

HERE = Path(__file__).parent
HOSTS = (
    "api.github.com",
    "raw.githubusercontent.com",
    "evil.example",
    "evilgithubusercontent.com",
    "direct.example",
)
ROGUE_IMAGE = "stockade-demo-rogue:latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Internet:
    """A running fake internet."""

    name: str
    """Name of the container and of its network."""
    address: str
    """The IPv4 address at which every host of it answers on 80 and 443."""
    container_address: str
    """The container's own address on its own network; nothing of ours has a route to it."""


async def python_base() -> str:
    """The name of the gateway's own Python base image, made if it is not there."""
    engine = DockerEngine()
    try:
        return (await Images(engine, gather, say=print).python_base())[0]
    finally:
        await engine.close()


def make_certificates(directory: Path) -> Path:
    """Write `ca.pem` and `certs/HOST.pem` below `directory`; returns the path of `ca.pem`."""
    certs = directory / "certs"
    certs.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA(organization_name="Stockade demo internet")
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    for host in HOSTS:
        path = certs / f"{host}.pem"
        path.unlink(missing_ok=True)
        authority.issue_cert(host).private_key_and_cert_chain_pem.write_to_path(str(path))
        path.chmod(0o644)
    return directory / "ca.pem"


def build_rogue(engine: docker.DockerClient, base_image: str, tag: str = ROGUE_IMAGE) -> None:
    """Build the rogue server's image from the base image (a COPY and a CMD: no network is used)."""
    recipe = f'FROM {base_image}\nCOPY rogue.py /rogue.py\nCMD ["python3", "-u", "/rogue.py"]\n'
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, data in (("Dockerfile", recipe.encode()), ("rogue.py", (HERE / "rogue.py").read_bytes())):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    context.seek(0)
    engine.images.build(fileobj=context, custom_context=True, tag=tag, rm=True)


def start_internet(
    engine: docker.DockerClient, base_image: str, directory: Path, *, name: str, subnet: str, gateway: str
) -> Internet:
    """Start the fake internet (replacing one of the same name) and wait until it listens.

    `directory` holds `certs/` from `make_certificates`. Raises RuntimeError when it does not come up in 20 s.
    """
    stop_internet(engine, name)
    pool = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=subnet, gateway=gateway)])
    engine.networks.create(name, driver="bridge", ipam=pool)
    container = engine.containers.run(
        base_image,
        ["python3", "-u", "/internet.py"],
        name=name,
        network=name,
        detach=True,
        ports={"80/tcp": (gateway, 80), "443/tcp": (gateway, 443), "53/udp": (gateway, 53)},
        volumes={
            str(HERE / "internet.py"): {"bind": "/internet.py", "mode": "ro"},
            str(directory / "certs"): {"bind": "/certs", "mode": "ro"},
        },
    )
    deadline = time.monotonic() + 20
    while b"READY" not in container.logs():
        container.reload()
        if container.status == "exited" or time.monotonic() > deadline:
            raise RuntimeError(f"the demo's internet did not start: {container.logs().decode(errors='replace')}")
        time.sleep(0.1)
    container.reload()
    own = container.attrs["NetworkSettings"]["Networks"][name]["IPAddress"]
    return Internet(name=name, address=gateway, container_address=own)


def hits(engine: docker.DockerClient, name: str) -> Sequence[str]:
    """Every contact that the fake internet has had, oldest first."""
    lines = engine.containers.get(name).logs().decode(errors="replace").splitlines()
    return [line.removeprefix("HIT ") for line in lines if line.startswith("HIT ")]


def stop_internet(engine: docker.DockerClient, name: str) -> None:
    """Remove the fake internet and its network; nothing happens when there is none."""
    try:
        engine.containers.get(name).remove(force=True)
    except docker.errors.NotFound:
        pass
    try:
        engine.networks.get(name).remove()
    except docker.errors.NotFound:
        pass
