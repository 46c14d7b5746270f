"""Memory that the control groups (cgroups) of this process leave it, on Linux."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class _Version(NamedTuple):
    """Files of a version of control groups, and the statistic of what makes room if needed."""

    limit: str
    usage: str
    cache: str


_VERSIONS = {
    "cgroup2": _Version("memory.max", "memory.current", "inactive_file"),
    "cgroup": _Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def left_by_groups(proc: Path = Path("/proc/self"), root: Path = Path("/")) -> Iterator[int]:
    """Yields the bytes left by every limited group from that of the process up to the root.

    Both versions count, since a system may mount both; on it memory belongs to one of them.

    Args:
        proc: folder with the files `cgroup` and `mountinfo` of the process.
        root: folder that mount points are relative to.
    """
    paths = _paths(_text(proc / "cgroup"))
    for kind, shown, mount in _mounts(_text(proc / "mountinfo")):
        if kind not in paths:
            continue
        # A mount shows a part of the tree: in a container, its own group as the root. A path that
        # is outside of that part (it begins with ".." in a namespace) has only the root to read.
        own = PurePosixPath(paths[kind])
        inside = own.relative_to(shown) if own.is_relative_to(shown) else PurePosixPath()
        inside = PurePosixPath() if ".." in inside.parts else inside
        for level in (inside, *inside.parents):
            left = _left(root / mount.lstrip("/") / level, _VERSIONS[kind])
            if left is not None:
                yield left


def _paths(text: str) -> dict[str, str]:
    """The group of the process in each version, from lines `number:controllers:path`."""
    paths = {}
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            paths["cgroup2"] = path
        elif "memory" in controllers.split(","):
            paths["cgroup"] = path
    return paths


def _mounts(text: str) -> Iterator[tuple[str, str, str]]:
    """Yields version, group that is shown and mount point of every tree that may limit memory."""
    for line in text.splitlines():
        mount, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            shown, point = (_unescaped(field) for field in mount.split()[3:5])
            yield kind, shown, point


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _left(group: Path, files: _Version) -> int | None:
    try:
        limit, used = (int((group / name).read_text()) for name in (files.limit, files.usage))
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return None
    counts = dict(line.split(" ", 1) for line in _text(group / "memory.stat").splitlines())
    # Files that were read count as used, but make room.
    return limit - used + int(counts.get(files.cache, 0))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
