"""CPU quotas of control groups, on trees of files as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.runtime.cgroup import cpu_groups, cpu_quota, held_back_microseconds

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:5 - cgroup cgroup rw,cpu,cpuacct\n"
DOCKER_V1_MOUNT = "31 30 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
MEMORY_MOUNT = "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
HYBRID_MOUNT = "33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
SPACE_MOUNT = "30 23 0:26 / /mnt/the\\040groups rw - cgroup2 cgroup2 rw\n"


def tree(system: Path, member: str, mounts: str, files: dict[str, str]) -> Path:
    (system / "proc/self").mkdir(parents=True)
    (system / "proc/self/cgroup").write_text(member)
    if mounts:
        (system / "proc/self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)
    for name, content in files.items():
        path = system / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return system


def v1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    group = f"sys/fs/cgroup/cpu,cpuacct/{folder}".rstrip("/")
    return {f"{group}/cpu.cfs_quota_us": f"{quota}\n", f"{group}/cpu.cfs_period_us": f"{period}\n"}


def v2(folder: str, limit: object) -> dict[str, str]:
    return {f"sys/fs/cgroup/{folder}/cpu.max": f"{limit} 100000\n"}


@pytest.mark.parametrize(
    ("member", "mounts", "files", "quota"),
    [
        pytest.param("0::/\n", V2_MOUNT, v2("", 150_000), 1.5, id="v2, a container's own root"),
        pytest.param("0::/\n", V2_MOUNT, v2("", "max"), None, id="v2, no limit"),
        pytest.param("0::/\n", V2_MOUNT, {"sys/fs/cgroup/cgroup.procs": ""}, None, id="v2, the root of a host"),
        pytest.param("0::/a/b\n", V2_MOUNT, v2("a/b", 50_000), 0.5, id="v2, nested"),
        pytest.param("0::/a/b\n", V2_MOUNT, v2("a/b", "max") | v2("a", 250_000), 2.5, id="v2, a limit above"),
        pytest.param("0::/a/b\n", V2_MOUNT, v2("a/b", 400_000) | v2("a", 200_000), 2.0, id="v2, a smaller one above"),
        pytest.param("0::/a/b\n", V2_MOUNT, v2("a/b", 100_000) | v2("a", 200_000), 1.0, id="v2, a smaller one below"),
        pytest.param("0::/a\n", V2_MOUNT, v2("a", "max") | v2("other", 100_000), None, id="v2, another's limit"),
        pytest.param("0::/a/b\n", V2_MOUNT, v2("", 300_000), 3.0, id="v2, a group that isn't to be seen"),
        pytest.param("0::/../../x\n", V2_MOUNT, v2("", 300_000), 3.0, id="v2, outside its own root"),
        pytest.param("0::/a\n", "", v2("a", 150_000), 1.5, id="v2, no mountinfo"),
        pytest.param("0::/a\n", SPACE_MOUNT, {"mnt/the groups/a/cpu.max": "50000 100000"}, 0.5, id="v2, elsewhere"),
        pytest.param("4:cpu,cpuacct:/\n", V1_MOUNT, v1("", 150_000), 1.5, id="v1"),
        pytest.param("4:cpu,cpuacct:/\n", V1_MOUNT, v1("", -1), None, id="v1, no limit"),
        pytest.param("4:cpuacct,cpu:/a/b\n", V1_MOUNT, v1("a/b", -1) | v1("a", 50_000, 20_000), 2.5, id="v1, nested"),
        pytest.param("4:cpu,cpuacct:/docker/abc\n", DOCKER_V1_MOUNT, v1("", 150_000), 1.5, id="v1, host's names"),
        pytest.param("4:cpu,cpuacct:/docker/abc/x\n", DOCKER_V1_MOUNT, v1("x", 50_000), 0.5, id="v1, below those"),
        pytest.param("4:cpu,cpuacct:/a\n", "", v1("a", 150_000), 1.5, id="v1, no mountinfo"),
        pytest.param(
            "9:memory:/m\n4:cpu,cpuacct:/a\n0::/u\n",
            MEMORY_MOUNT + V1_MOUNT + HYBRID_MOUNT,
            v1("a", 150_000) | {"sys/fs/cgroup/unified/u/cgroup.procs": ""},
            1.5,
            id="both versions",
        ),
        pytest.param("9:memory:/m\n", MEMORY_MOUNT, {}, None, id="v1, memory alone"),
        pytest.param("0::/\n", V2_MOUNT, {"sys/fs/cgroup/cpu.max": ""}, None, id="an empty file"),
        pytest.param("0::/\n", V2_MOUNT, {"sys/fs/cgroup/cpu.max": "100000 0"}, None, id="no period"),
        pytest.param("nonsense\n\n0\n", "nonsense\n", {}, None, id="nonsense"),
    ],
)
def test_the_smallest_quota_of_a_process_and_all_above_it_holds(
    member: str, mounts: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    assert cpu_quota(tree(tmp_path, member, mounts, files)) == quota


def test_a_system_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert cpu_groups(tmp_path) == []
    assert cpu_quota(tmp_path) is None
    assert held_back_microseconds(tmp_path) is None


def test_the_time_held_back_is_that_of_all_groups_in_microseconds(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/a/b/cpu.stat": "nr_periods 9\nthrottled_usec 1500\n",
        "sys/fs/cgroup/a/cpu.stat": "throttled_usec 500\n",
        "sys/fs/cgroup/cpu,cpuacct/c/cpu.stat": "nr_throttled 1\nthrottled_time 3000000\n",
    }
    system = tree(tmp_path, "0::/a/b\n3:cpu,cpuacct:/c\n", V2_MOUNT + V1_MOUNT, files)
    assert held_back_microseconds(system) == 1500 + 500 + 3000


def test_this_machine_is_read() -> None:
    quota = cpu_quota()
    assert quota is None or quota > 0
