"""Memory limits of control groups: both versions, every level, wherever they are mounted."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from el_attention.robust.cgroup import left_by_groups

NAMES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
V1, V2 = "cgroup cgroup rw,memory", "cgroup2 cgroup rw"


class Tree:
    """Files of /proc and of control groups in a folder."""

    def __init__(self, root: Path, paths: str, *mounts: str) -> None:
        self.root = root
        (root / "proc").mkdir()
        (root / "proc/cgroup").write_text(paths)
        lines = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda rw", *mounts]
        (root / "proc/mountinfo").write_text("\n".join(lines) + "\n")

    def group(self, path: str, version: int, limit: object, used: int, cache: int = 0) -> None:
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in zip(NAMES[version], (limit, used), strict=False):
            (folder / name).write_text(f"{value}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{NAMES[version][2]} {cache}\n")

    def left(self) -> list[int]:
        return sorted(left_by_groups(self.root / "proc", self.root))


def mounted(point: str, kind: str, shown: str = "/") -> str:
    return f"31 22 0:28 {shown} {point} rw,nosuid shared:9 - {kind}"


def test_every_level_of_version_2(tmp_path) -> None:
    tree = Tree(tmp_path, "0::/user.slice/job.scope\n", mounted("/sys/fs/cgroup", V2))
    tree.group("sys/fs/cgroup/user.slice/job.scope", 2, 700, 100, 30)
    tree.group("sys/fs/cgroup/user.slice", 2, 900, 500)
    tree.group("sys/fs/cgroup/other", 2, 1, 0)
    assert tree.left() == [400, 630]


def test_every_level_of_version_1(tmp_path) -> None:
    paths = "5:cpu:/elsewhere\n4:cpuset,memory:/slurm/job\n1:name=systemd:/x\n0::/\n"
    cpu = mounted("/sys/fs/cgroup/cpu", "cgroup cgroup rw,cpu")
    tree = Tree(tmp_path, paths, cpu, mounted("/sys/fs/cgroup/memory", V1))
    tree.group("sys/fs/cgroup/memory/slurm/job", 1, 2**63 - 4096, 100)
    tree.group("sys/fs/cgroup/memory/slurm", 1, 800, 100, 10)
    tree.group("sys/fs/cgroup/cpu/elsewhere", 1, 1, 0)
    assert tree.left() == [710, 2**63 - 4096 - 100]


def test_a_mix_of_versions(tmp_path) -> None:
    mounts = mounted("/cg/memory", V1), mounted("/cg/unified", V2)
    tree = Tree(tmp_path, "4:memory:/a\n0::/b\n", *mounts)
    tree.group("cg/memory/a", 1, 50, 20)
    tree.group("cg/unified/b", 2, 60, 20)
    assert tree.left() == [30, 40]


@pytest.mark.parametrize(
    ("path", "shown"),
    [("/docker/x", "/docker/x"), ("/docker/x", "/other"), ("/", "/"), ("/../../x", "/")],
)
def test_a_container_sees_its_group_as_the_root(path, shown, tmp_path) -> None:
    mount = mounted(r"/control\040groups", V2, shown)
    tree = Tree(tmp_path, f"0::{path}\n", mount)
    tree.group("control groups", 2, 70, 20)
    tree.group("x", 2, 1, 0)
    assert tree.left() == [50]


@pytest.mark.parametrize("paths", ["", "0::/gone\n", "0::/a:b c\n"])
def test_no_limit(paths, tmp_path) -> None:
    tree = Tree(tmp_path, paths, mounted("/cg", V2))
    tree.group("cg/a:b c", 2, "max", 20)
    assert tree.left() == []


def test_a_system_without_control_groups(tmp_path) -> None:
    assert list(left_by_groups(tmp_path / "none", tmp_path)) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_least_of_a_random_tree_is_found(seed, tmp_path) -> None:
    draw = random.Random(seed)
    version = draw.choice([1, 2])
    names = [f"level{i}" for i in range(draw.randint(0, 5))]
    path = "/" + "/".join(names)
    line = f"0::{path}" if version == 2 else f"7:memory:{path}"
    tree = Tree(tmp_path, line + "\n", mounted("/cg", V2 if version == 2 else V1))
    expected = []
    for depth in range(len(names) + 1):
        limit, used, cache = (draw.randrange(1000) for _ in range(3))
        if draw.random() < 0.6:
            tree.group("/".join(["cg", *names[:depth]]), version, limit, used, cache)
            expected.append(limit - used + cache)
    assert tree.left() == sorted(expected)
