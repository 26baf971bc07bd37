"""The demo's rogue with one more tool: it runs the Python that it is sent, and remembers. Runs in the rogue's image."""

import contextlib
import io

import rogue  # type: ignore[import-not-found]  # /rogue.py of the image

ENVIRONMENT = {"rogue": rogue}


def run(code):
    """Run Python; the answer is what it left in `answer`."""
    ENVIRONMENT["answer"] = None
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, ENVIRONMENT)
    return rogue.outcome("ran", answer=ENVIRONMENT["answer"])


rogue.TOOLS["run"] = run

if __name__ == "__main__":
    rogue.main()
