"""Coverage-guided fuzzing with atheris: `python -m tests.egress.fuzz.run TARGET [FOLDER] [libFuzzer's options]`.

For a minute and a half, keeping what was found in a folder: `… run sni /tmp/sni -max_total_time=90`. A find ends it with
a traceback and status 77, and leaves its input as `crash-…` in the folder that it runs in.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["egress"]):
    from tests.egress.fuzz.targets import TARGETS, seeds


def main() -> None:
    name, *options = sys.argv[1:]
    target = TARGETS[name]

    def once(data: bytes) -> None:
        target(data)

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds(name)):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        atheris.Setup([sys.argv[0], "-max_len=4096", "-len_control=0", *options, folder], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
