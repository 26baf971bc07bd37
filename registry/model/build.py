"""The `build:` block of a server: what the installation of its image may do."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from registry.model.fields import to_tuple
from registry.model.network import HostEntry, check_block

BUILD: Final = "build:"
"""Before a server's name: the installation of its image, which is a backend of its own at the egress."""


class Build(BaseModel):
    """How a server's image is built."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allowed_hosts: Annotated[tuple[HostEntry, ...], BeforeValidator(to_tuple)] = ()
    """Hosts that its installation may reach besides this machine's package registries, written as in `network`."""

    @model_validator(mode="after")
    def check_hosts(self) -> Build:
        check_block({"allowed_hosts": list(self.allowed_hosts)})
        return self
