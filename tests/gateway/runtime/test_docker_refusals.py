"""Kinds of refusal, on sentences as engines and their runtimes wrote them."""

from __future__ import annotations

import pytest

from gateway.runtime.docker.refusals import kind_of
from gateway.runtime.engine.errors import CapabilityRefused, LimitRefused, NameTaken
from gateway.runtime.sandbox.errors import EngineError

CREATE = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
)
DENIED = "operation not permitted: unknown"
OLD = "OCI runtime create failed: container_linux.go:380: starting container process caused: "


@pytest.mark.parametrize(
    ("status", "sentence", "kind"),
    [
        pytest.param(
            409,
            'Conflict. The container name "/x" is already in use by container "14727671b321". You have to remove (or '
            "rename) that container to be able to reuse that name.",
            NameTaken,
            id="a container's name",
        ),
        pytest.param(409, "network with name stockade-p-net already exists", NameTaken, id="a network's name"),
        pytest.param(409, "Container 14727671b321 is not running", EngineError, id="another conflict"),
        pytest.param(409, "removal of container 1 is already in progress", EngineError, id="a removal under way"),
        pytest.param(500, f"{CREATE}unable to apply caps: {DENIED}", CapabilityRefused, id="runc 1.1"),
        pytest.param(500, f"{OLD}apply caps: operation not permitted: unknown", CapabilityRefused, id="runc 1.0"),
        pytest.param(
            500,
            f"{CREATE}unable to apply caps: can't apply capabilities: operation not permitted: unknown",
            CapabilityRefused,
            id="runc 1.2",
        ),
        pytest.param(
            500,
            "OCI runtime create failed: crun: capset: Operation not permitted: unknown",
            CapabilityRefused,
            id="crun",
        ),
        pytest.param(
            400, 'invalid CapAdd: unknown capability: "CAP_X"', CapabilityRefused, id="an engine that lacks it"
        ),
        pytest.param(
            500,
            f"{CREATE}error during container init: error setting rlimits for ready process: error setting rlimit type 7: "
            "operation not permitted: unknown",
            LimitRefused,
            id="runc's rlimit",
        ),
        pytest.param(
            500,
            f"{OLD}process_linux.go:545: container init caused: process_linux.go:446: setting rlimits for ready process "
            "caused: error setting rlimit type 7: operation not permitted: unknown",
            LimitRefused,
            id="an older runc's rlimit",
        ),
        pytest.param(
            500,
            "OCI runtime create failed: crun: setrlimit `RLIMIT_NOFILE`: Operation not permitted: unknown",
            LimitRefused,
            id="crun's rlimit",
        ),
        pytest.param(404, "No such container: 14727671b321", EngineError, id="anything else"),
    ],
)
def test_the_kind_of_a_refusal(status: int, sentence: str, kind: type[EngineError]) -> None:
    assert kind_of(status, sentence) is kind
