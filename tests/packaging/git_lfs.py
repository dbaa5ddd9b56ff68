"""A small git-lfs for machines without one: pointers, objects, and fetching from a file:// remote, as git-lfs does it.

git lfs install | track | ls-files | pull | checkout | fsck | version; clean and smudge are called by git itself
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "version https://git-lfs.github.com/spec/v1"


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], check=True, capture_output=True).stdout


def place(oid: str, git_folder: Path | None = None) -> Path:
    """Where an object lies."""
    folder = git_folder or Path(git("rev-parse", "--absolute-git-dir").decode().strip())
    return folder / "lfs" / "objects" / oid[:2] / oid[2:4] / oid


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pointed_at(content: bytes) -> str | None:
    """The object that a pointer names; None: this is no pointer."""
    if len(content) > 1024 or not content.startswith(VERSION.encode()):
        return None
    return content.decode().split("oid sha256:")[1].split()[0]


def fetch(oid: str) -> None:
    """Copy an object from the remote, if it is not here."""
    if not place(oid).exists():
        remote = git("config", "remote.origin.url").decode().strip().removeprefix("file://")
        place(oid).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place(oid, Path(remote) / ".git"), place(oid))


def pointers() -> dict[Path, str]:
    """The large files of HEAD and their objects."""
    attributes = Path(".gitattributes").read_text().splitlines()
    patterns = [line.split()[0] for line in attributes if "filter=lfs" in line]
    names = git("ls-tree", "-r", "-z", "--name-only", "HEAD").decode().split("\0")
    large = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    return {Path(name): str(pointed_at(git("cat-file", "blob", f"HEAD:{name}"))) for name in large}


def write_out(path: Path, oid: str) -> None:
    """Put an object where it is used, unless something else stands there."""
    if not path.exists() or pointed_at(path.read_bytes()):
        shutil.copyfile(place(oid), path)


def install(*flags: str) -> None:
    skip = " --skip" if "--skip-smudge" in flags else ""
    git("config", "--local", "filter.lfs.clean", "git-lfs clean -- %f")
    git("config", "--local", "filter.lfs.smudge", f"git-lfs smudge{skip} -- %f")
    git("config", "--local", "filter.lfs.required", "true")


def clean() -> None:
    content = sys.stdin.buffer.read()
    if not pointed_at(content):
        oid = digest(content)
        place(oid).parent.mkdir(parents=True, exist_ok=True)
        place(oid).write_bytes(content)
        content = f"{VERSION}\noid sha256:{oid}\nsize {len(content)}\n".encode()
    sys.stdout.buffer.write(content)


def smudge(skip: bool) -> None:
    content = sys.stdin.buffer.read()
    oid = pointed_at(content)
    if oid and not skip:
        fetch(oid)
        content = place(oid).read_bytes()
    sys.stdout.buffer.write(content)


def fsck() -> int:
    """Put aside the objects that are not what their names say; 1 where there are any."""
    damaged = [oid for oid in pointers().values() if digest(place(oid).read_bytes()) != oid]
    for oid in damaged:
        place(oid).unlink()
    return 1 if damaged else 0


def main(verb: str, *arguments: str) -> int:
    if verb == "install":
        install(*arguments)
    elif verb == "track":
        with Path(".gitattributes").open("a") as file:
            file.writelines(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in arguments)
    elif verb == "clean":
        clean()
    elif verb == "smudge":
        smudge(arguments[0] == "--skip" or os.environ.get("GIT_LFS_SKIP_SMUDGE") == "1")
    elif verb == "ls-files":
        print("\n".join(map(str, pointers())))
    elif verb == "pull":
        for path, oid in pointers().items():
            fetch(oid)
            write_out(path, oid)
    elif verb == "checkout":
        write_out(Path(arguments[-1]), pointers()[Path(arguments[-1])])
    elif verb == "fsck":
        return fsck()
    elif verb != "version":
        sys.exit(f"git-lfs stand-in: unknown command {verb}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
