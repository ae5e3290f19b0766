"""Free memory: what the system reports, and the limits of control groups."""

from pathlib import Path

import pytest

from circuitkit.engine import memory

MB = 2**20


def system(root: Path, files: dict[str, str]) -> Path:
    """Write files as they are under `/`."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": f"MemTotal: {900 * 1024} kB\nMemAvailable: {500 * 1024} kB\n"}
V2 = {"proc/self/cgroup": "0::/a/b\n"}
V1 = {"proc/self/cgroup": "5:cpu:/x\n4:memory:/a/b\n0::/\n"}


def v2(group: str, limit: object, current: int, inactive: int = 0) -> dict[str, str]:
    folder = f"sys/fs/cgroup{group}"
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{current}\n",
        f"{folder}/memory.stat": f"anon 1\ninactive_file {inactive}\n",
    }


def v1(group: str, limit: object, current: int, inactive: int = 0) -> dict[str, str]:
    folder = f"sys/fs/cgroup/memory{group}"
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{current}\n",
        f"{folder}/memory.stat": f"total_inactive_file {inactive}\n",
    }


CASES = {
    "no control group": ({}, 500),
    "version 2, no limit": ({**V2, **v2("/a/b", "max", 7)}, 500),
    "version 2": ({**V2, **v2("/a/b", 300 * MB, 100 * MB)}, 200),
    "version 2, the limit of a parent": ({**V2, **v2("/a/b", "max", MB), **v2("/a", 200 * MB, 150 * MB)}, 50),
    "version 2, the lower of two": ({**V2, **v2("/a/b", 90 * MB, 0), **v2("/a", 200 * MB, 150 * MB)}, 50),
    "version 2, in a container": ({"proc/self/cgroup": "0::/\n", **v2("", 64 * MB, 4 * MB)}, 60),
    "version 2, a group of the host that the container does not show": ({**V2, **v2("", 64 * MB, 4 * MB)}, 60),
    "version 2, cached files can be dropped": ({**V2, **v2("/a/b", 300 * MB, 300 * MB, 120 * MB)}, 120),
    "version 2, above the limit": ({**V2, **v2("/a/b", 300 * MB, 301 * MB)}, 0),
    "version 2, more than the machine has": ({**V2, **v2("/a/b", 10**15, 0)}, 500),
    "version 1": ({**V1, **v1("/a/b", 300 * MB, 100 * MB, 10 * MB)}, 210),
    "version 1, the limit of a parent": ({**V1, **v1("/a/b", 2**63 - 4096, 0), **v1("/a", 80 * MB, 20 * MB)}, 60),
    "version 1, in a container": ({**V1, **v1("", 64 * MB, 4 * MB)}, 60),
    "files that cannot be read as numbers": ({**V2, "sys/fs/cgroup/a/b/memory.max": "what\n"}, 500),
}


@pytest.mark.parametrize("case", CASES)
def test_free_memory_is_the_least_that_any_limit_leaves(case, tmp_path):
    files, expected = CASES[case]
    assert memory.free_bytes(system(tmp_path, {**MEMINFO, **files})) == expected * MB


def test_a_system_without_these_files(tmp_path):
    assert memory.free_bytes(tmp_path) is None
    limited = system(tmp_path, {**V2, **v2("/a/b", 300 * MB, 100 * MB)})
    assert memory.free_bytes(limited) == 200 * MB
