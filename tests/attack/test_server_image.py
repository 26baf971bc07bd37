"""A hostile image: what its own settings could take from the machine. Volumes, a health check, a stop signal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.runtime.engine.base import BuildContext
from gateway.runtime.images.recipes import python_base_tag
from gateway.runtime.inventory.users import EGRESS, candidates
from gateway.runtime.plan.plans import Names
from gateway.runtime.sandbox.errors import BackendUnavailable
from registry.model.server import OWN_USERS
from tests.gateway.runtime.real import ROGUE, Yard, yard

pytestmark = pytest.mark.docker

SELFISH = "stockade-test-selfish:latest"
DOCKERFILE = f"""\
FROM {python_base_tag()}
RUN mkdir -p /data /kept && chmod 777 /data && touch /kept/shipped
VOLUME ["/data", "/kept", "/made/deep/../here"]
HEALTHCHECK --interval=1s CMD touch /data/checked
STOPSIGNAL SIGWINCH
"""


def others(egress: int) -> dict[str, str]:
    """Images with users of their own by name; the number of one is the egress's, and that of one is root's."""
    users = {"owner": 4711, "insider": egress, "toor": 0}
    return {name: f"FROM {SELFISH}\nRUN useradd -o -u {uid} {name}\nUSER {name}\n" for name, uid in users.items()}


MIB = 1024 * 1024


@pytest.fixture(scope="module")
def site() -> Iterator[Yard]:
    """One backend of such an image, and one whose image has a user of its own by name."""
    with yard() as found:
        egress = next(iter(candidates(found.project, EGRESS, OWN_USERS)))
        texts = {SELFISH: DOCKERFILE, **{f"{SELFISH}-{name}": text for name, text in others(egress).items()}}
        for tag, text in texts.items():
            found.portal.call(found.engine.build, BuildContext(dockerfile=text, files={}, build_args={}), tag, print)
        entry: dict[str, Any] = {"entrypoint": ["python3"], "args": ["-u", "-c", ROGUE]}
        volume = f"stktest-{found.project}"
        try:
            found.up(
                {
                    "selfish": {**entry, "image": SELFISH, "mounts": [f"{volume}:/kept", f"{volume}-new:/new"]},
                    "owner": {**entry, "image": f"{SELFISH}-owner"},
                    **{
                        name: {**entry, "image": f"{SELFISH}-{name}", "start": "lazy"} for name in ("insider", "toor")
                    },
                }
            )
            yield found
        finally:
            found.down()
            for name in kept(found):
                found.portal.call(
                    found.engine.call, "remove", lambda api, name=name: api.remove_volume(name, force=True)
                )
            for tag in reversed(texts):
                found.portal.call(found.engine.remove_image, tag)


def inspected(site: Yard, backend: str) -> dict[str, Any]:
    """What the engine says of a backend's container."""
    container = site.pair(backend).container
    found: dict[str, Any] = site.portal.call(
        site.engine.call, "inspect", lambda api: api.inspect_container(container)
    )
    return found


FILL = """
import os
answer = 0
try:
    with open("{}/filling", "wb") as file:
        while answer < 1024 * 1024 * 1024:
            answer += file.write(bytes(1024 * 1024))
            file.flush()
except OSError as error:
    os.unlink("{}/filling")
"""


@pytest.mark.parametrize("backend", ["selfish", "owner"])
def test_a_declared_volume_is_no_disk_of_the_hosts(site: Yard, backend: str) -> None:
    assert site.ask(FILL.format("/data", "/data"), backend) <= 256 * MIB
    types = {mount["Type"] for mount in inspected(site, backend)["Mounts"] if mount.get("Name", "") not in kept(site)}
    assert "volume" not in types


def kept(site: Yard) -> set[str]:
    """The volumes that the entry mounts: the project's own of these names."""
    names = Names(project=site.project)
    return {names.volume(f"stktest-{site.project}{end}") for end in ("", "-new")}


def test_whom_an_image_names_is_looked_up_where_it_runs(site: Yard) -> None:
    assert site.pair("owner").uid == 4711


@pytest.mark.parametrize(
    ("backend", "whose"), [("insider", "user [0-9]+, from the numbers"), ("toor", "root by another")]
)
def test_an_image_cannot_become_the_egress_or_root_by_name(site: Yard, backend: str, whose: str) -> None:
    """As whom it would share, and use up, what the kernel counts per user."""
    with pytest.raises(BackendUnavailable, match=f"Its image would run as {whose}"):
        site.pair(backend)
    assert [name for name in site.containers() if backend in name] == []


def test_only_the_server_can_look_into_it(site: Yard) -> None:
    code = "import os; found = os.stat('/made/here'); answer = [found.st_uid == os.getuid(), oct(found.st_mode)]"
    assert site.ask(code, "selfish") == [True, "0o40700"]


def test_what_the_entry_mounts_there_stays(site: Yard) -> None:
    """And the server may write in it, whoever it runs as, before and after its container is made again."""
    for text in ("here", "there"):
        site.ask(f"for path in ('/kept/note', '/new/note'): open(path, 'a').write({text!r})", "selfish")
        site.portal.call(site.supervisor.restart, "selfish")
    read = "answer = [open(path).read() for path in ('/kept/note', '/new/note', '/kept/shipped')]"
    assert site.ask(read, "selfish") == ["herethere", "herethere", ""]


def test_an_images_health_check_does_not_run(site: Yard) -> None:
    assert inspected(site, "selfish")["Config"]["Healthcheck"]["Test"] == ["NONE"]
    assert "Health" not in inspected(site, "selfish")["State"]


def test_a_stop_signal_that_stops_nothing_does_not_hold_up_the_stop(site: Yard) -> None:
    site.ask("import signal; signal.signal(signal.SIGWINCH, signal.SIG_IGN)", "owner")
    before = site.pair("owner").container
    site.portal.call(site.supervisor.restart, "owner")
    assert site.pair("owner").container != before
