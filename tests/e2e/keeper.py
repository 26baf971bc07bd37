"""The demo's rogue with secrets: says whether it has them by their digest, never by themselves. Runs in its image."""

import hashlib
import os
import stat

import rogue  # type: ignore[import-not-found]  # /rogue.py of the image

FOLDER = "/run/secrets"


def digest(data):
    return hashlib.sha256(data).hexdigest()


def look():
    """The digests of its variables and of its files, with what the files are."""
    files = {}
    for name in sorted(os.listdir(FOLDER)):
        path = f"{FOLDER}/{name}"
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            own = (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
            files[name] = [digest(file.read()), oct(stat.S_IMODE(found.st_mode)), own]
    with open("/proc/mounts") as mounts:
        kinds = [line.split()[2:4] for line in mounts if line.split()[1] == FOLDER]
    variables = {name: digest(text.encode()) for name, text in os.environ.items() if name.startswith("MY_")}
    return rogue.outcome("seen", files=files, mounts=kinds, variables=variables, writable=os.access(FOLDER, os.W_OK))


def crash():
    os._exit(7)


rogue.TOOLS.update(look=look, crash=crash)
if __name__ == "__main__":
    rogue.main()
