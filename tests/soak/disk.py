"""What a run does on a full disk, at a limit of file size, and where it cannot write.

    python -m tests.soak.disk --results=disk.jsonl

Each is met again and again with more room: the command must end with a line and a
status that is not 0, never with half of a result, and with room enough as one that
never met it. A small file system in memory stands for the disk, which needs the right
to mount; without it that line says so.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.soak.kills import COMMANDS, finish, outcome, start

COMMAND = COMMANDS["fed_avg, log"]
KILOBYTES = (16, 64, 128, 256, 512, 1024)


def attempt(workdir: Path, cache: Path, limit: int | None = None) -> tuple[int, str]:
    """The command's exit status and last line, under a limit of file size in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        process = start(COMMAND, workdir, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    _, err = process.communicate()
    lines = err.strip().splitlines()
    return process.returncode, lines[-1] if lines else ""


def mount(folder: Path, kilobytes: int) -> bool:
    """Mounts memory of a size, or gives the one that is there another size."""
    how = "remount,rw," if folder.is_mount() else ""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"{how}size={kilobytes}k", "soak", str(folder)],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def until_it_ends(try_with: Callable[[int], tuple[int, str]]) -> dict[str, Any]:
    """Tries with more and more room; the statuses on the way and the last lines."""
    refused: list[str] = []
    for kilobytes in (*KILOBYTES, 65536):
        status, line = try_with(kilobytes)
        if status == 0:
            return {"refused": len(refused), "ended_with": kilobytes, "said": refused}
        refused.append(f"{status}: {line}")
    raise RuntimeError(f"never ended: {refused}")


def main() -> None:
    """Appends a line of JSON for each; exits with 1 where a result differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        cache, whole, disk = folder / "compiled", folder / "whole", folder / "disk"
        finish(COMMAND, whole, cache)
        expected = outcome(whole)

        limited = folder / "limited"
        row = until_it_ends(lambda size: attempt(limited, cache, size * 1024))
        same = outcome(limited) == expected
        rows.append({"what": "limit of file size", **row, "same": same})

        disk.mkdir()
        if mount(disk, KILOBYTES[0]):
            try:

                def with_room(kilobytes: int) -> tuple[int, str]:
                    mount(disk, kilobytes)
                    return attempt(disk / "run", cache)

                row = until_it_ends(with_room)
                same = outcome(disk / "run") == expected
                rows.append({"what": "full disk", **row, "same": same})
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
                again, new = (attempt(disk / name, cache) for name in ("run", "new"))
                told = {"finished": again[0], "new": f"{new[0]}: {new[1]}"}
                same = again[0] == 0 and new[0] == 2
                rows.append({"what": "read-only disk", **told, "same": same})
            finally:
                subprocess.run(["umount", str(disk)], check=True)
        else:
            rows.append({"what": "full disk", "said": "no right to mount; not run"})
    for row in rows:
        print(json.dumps(row), flush=True)
    with given.results.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    sys.exit(not all(row.get("same", True) for row in rows))


if __name__ == "__main__":
    main()
