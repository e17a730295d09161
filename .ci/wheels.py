"""Prove that every pin of requirements.txt has a wheel wherever the course is promised to install.

For each platform and Python below, pip's dry run resolves the pins to wheels (metadata alone is fetched, no wheel), and
the metadata of those wheels is read as that machine would read it: pip evaluates environment markers for the
interpreter it runs on, so the markers are evaluated here instead. Three things are proven for each combination: every
pin has a wheel; every requirement of every wheel is met by a pin; every pin is required by something.

Run it as ``python .ci/wheels.py [requirements.txt]``. It prints a table, and exits with 1 and the reasons when
something is missing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PIP = "pip==26.3"  # from 23.3 on a dry run fetches metadata instead of wheels
PYTHONS = ("3.11", "3.12", "3.13")
GLIBC = 28  # glibc 2.28 and later: Debian 10, Ubuntu 20.04, Colab, JetPack
MACOS = 14
# On Linux torch requires CUDA libraries whose versions it chooses itself; they are looked up, never pinned.
TORCH_BRINGS = re.compile(r"nvidia-|cuda-|triton$")


@dataclass(frozen=True)
class Machine:
    """A platform: its name, what markers see there (sys_platform, platform_system, platform_machine), wheel tags."""

    name: str
    sys_platform: str
    system: str
    arch: str
    tags: tuple[str, ...]

    def environment(self, python: str) -> dict[str, str]:
        """Return the marker environment of the first release of a Python version on this platform."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{python}.0",
            "os_name": "posix",
            "platform_machine": self.arch,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": self.system,
            "platform_version": "",
            "python_full_version": f"{python}.0",
            "python_version": python,
            "sys_platform": self.sys_platform,
        }


def _manylinux(arch: str, oldest: int) -> tuple[str, ...]:
    legacy = {"x86_64": ("manylinux1", "manylinux2010", "manylinux2014"), "aarch64": ("manylinux2014",)}[arch]
    return (*(f"manylinux_2_{n}_{arch}" for n in range(oldest, GLIBC + 1)), *(f"{name}_{arch}" for name in legacy))


MACHINES = (
    Machine("Linux x86-64", "linux", "Linux", "x86_64", _manylinux("x86_64", oldest=5)),
    Machine("Linux aarch64", "linux", "Linux", "aarch64", _manylinux("aarch64", oldest=17)),
    Machine("macOS arm64", "darwin", "Darwin", "arm64", (f"macosx_{MACOS}_0_arm64",)),
)


@dataclass
class Wheel:
    """A wheel that pip chose: its version, its file name, and the requirements in its metadata."""

    version: str
    file: str
    requires: list[Requirement]


@dataclass
class Result:
    """What was found for one machine and Python; `problems` is empty when everything holds."""

    machine: Machine
    python: str
    wheels: dict[NormalizedName, Wheel] = field(default_factory=dict)
    torch_brings: set[NormalizedName] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def pins(path: Path) -> list[Requirement]:
    """Read a requirements file in which each line is one exact pin, with a marker or without.

    Raises ValueError for a line that pins nothing, or a name that is pinned twice.
    """
    found: dict[NormalizedName, Requirement] = {}
    for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), start=1):
        text = line.partition(" #")[0].strip()
        if not text or text.startswith("#"):
            continue
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if not re.fullmatch(r"==[^*,]+", str(requirement.specifier)):
            raise ValueError(f"{path.name}:{number}: {text!r} is not one exact version (NAME==VERSION)")
        if name in found:
            raise ValueError(f"{path.name}:{number}: {name} is pinned twice")
        found[name] = requirement
    return list(found.values())


def direct(pyproject: Path) -> list[Requirement]:
    """Return what pyproject.toml asks for: dependencies, those of every extra, and what building the package takes."""
    content = tomllib.loads(pyproject.read_text(encoding="utf8"))
    project = content["project"]
    extras = project["optional-dependencies"].values()
    building = [*content["build-system"]["requires"], "editables"]  # what hatchling asks for in an editable install
    lines = [*project["dependencies"], *(line for extra in extras for line in extra), *building]
    own = canonicalize_name(project["name"])
    return [item for item in map(Requirement, lines) if canonicalize_name(item.name) != own]


def applies(requirement: Requirement, environment: dict[str, str], extras: Iterable[str] = ()) -> bool:
    """Say whether a requirement's marker holds in an environment, with none or any of the extras asked for."""
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras))


def reach(
    roots: Iterable[Requirement], wheels: dict[NormalizedName, Wheel], environment: dict[str, str]
) -> Iterator[tuple[str, Requirement]]:
    """Yield each requirement that holds in an environment, with who asks for it, from the roots down through wheels."""
    waiting = [("pyproject.toml", root) for root in roots]
    seen: dict[NormalizedName, set[str]] = {}
    while waiting:
        parent, requirement = waiting.pop()
        if not applies(requirement, environment):
            continue
        yield parent, requirement
        name = canonicalize_name(requirement.name)
        extras = seen.get(name, set()) | requirement.extras
        if name not in wheels or (name in seen and extras == seen[name]):
            continue
        seen[name] = extras
        for child in wheels[name].requires:
            if applies(child, environment, extras):
                child = Requirement(str(child))
                child.marker = None  # it holds: an extra was part of the marker
                waiting.append((name, child))


def resolve(requirements: Iterable[str], machine: Machine, python: str, pip: Path) -> tuple[dict, list[str]]:
    """Ask pip for one wheel for each requirement, without dependencies; return the wheels and what has none."""
    wanted, missing = list(requirements), []
    tags = [part for tag in machine.tags for part in ("--platform", tag)]
    options = ["--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", "--quiet", "--report=-"]
    options += ["--implementation=cp", f"--python-version={python}"]
    variables = surroundings(pip)
    while wanted:
        command = [sys.executable, "-m", "pip", "install", *options, *tags, *wanted]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            items = json.loads(done.stdout)["install"]
            return {canonicalize_name(item["metadata"]["name"]): _wheel(item) for item in items}, missing
        lacking = re.search(r"No matching distribution found for (\S+)", done.stderr)
        if not lacking or lacking.group(1) not in wanted:
            return {}, [*missing, f"pip failed: {' '.join(done.stderr.split())[-300:]}"]
        missing.append(f"no wheel of {lacking.group(1)}")
        wanted.remove(lacking.group(1))
    return {}, missing


def surroundings(pip: Path) -> dict[str, str]:
    """Return the environment in which the pip of a folder sees the package index alone."""
    variables = {key: value for key, value in os.environ.items() if key not in _LOCAL_SOURCES}
    return variables | {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONPATH": str(pip)}


_LOCAL_SOURCES = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_NO_INDEX", "PIP_REQUIREMENT")


def _wheel(item: dict) -> Wheel:
    metadata = item["metadata"]
    file = item["download_info"]["url"].rpartition("/")[2]
    return Wheel(metadata["version"], file, [Requirement(line) for line in metadata.get("requires_dist", [])])


def examine(machine: Machine, python: str, pinned: list[Requirement], roots: list[Requirement], pip: Path) -> Result:
    """Prove one combination."""
    started = time.monotonic()
    result = Result(machine, python)
    environment = machine.environment(python)
    here = {canonicalize_name(item.name): item for item in pinned if applies(item, environment)}
    result.wheels, result.problems = resolve(
        (f"{item.name}{item.specifier}" for item in here.values()), machine, python, pip
    )

    lookup: dict[str, None] | None = None
    while lookup is None or lookup:  # torch's own libraries require one another: ask until nothing new comes
        lookup = {}
        for _, requirement in reach(roots, result.wheels, environment):
            name = canonicalize_name(requirement.name)
            if name not in here and name not in result.wheels and TORCH_BRINGS.match(name):
                extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
                lookup[f"{requirement.name}{extras}{requirement.specifier}"] = None
        brought, missing = resolve(lookup, machine, python, pip)
        result.wheels |= brought
        result.torch_brings |= set(brought)
        result.problems += missing
        if missing:
            break

    reached: set[NormalizedName] = set()
    unmet: dict[str, None] = {}
    for parent, requirement in reach(roots, result.wheels, environment):
        name = canonicalize_name(requirement.name)
        reached.add(name)
        wheel = result.wheels.get(name)
        if wheel is None and name not in here:
            unmet[f"{parent} requires {requirement}, which is not pinned"] = None
        elif wheel is not None and not requirement.specifier.contains(wheel.version, prereleases=True):
            unmet[f"{parent} requires {requirement}, but {wheel.version} is pinned"] = None
    result.problems += unmet
    result.problems += [f"nothing requires {name}" for name in sorted(here.keys() - reached)]
    result.seconds = time.monotonic() - started
    return result


def row(result: Result) -> str:
    """Format one line of the table."""
    own = len(result.torch_brings)
    binary = sum(not wheel.file.endswith("-none-any.whl") for wheel in result.wheels.values())
    verdict = "ok" if not result.problems else f"{len(result.problems)} wrong"
    return (
        f"{result.machine.name:<14} {result.python:<6} {len(result.wheels) - own:>6} {binary:>8} {own:>12} "
        f"{result.seconds:>6.0f} s  {verdict}"
    )


def main(argv: list[str]) -> int:
    """Examine all combinations, print the table; return 0 when all hold, else 1."""
    path = Path(argv[0]) if argv else ROOT / "requirements.txt"
    try:
        pinned = pins(path)
    except (OSError, ValueError) as error:
        print(f"wheels: {error}", file=sys.stderr)
        return 1
    roots = direct(ROOT / "pyproject.toml")
    header = ("platform", "Python", "wheels", "compiled", "torch brings", "time")
    with tempfile.TemporaryDirectory() as folder:
        pip = Path(folder)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", pip, PIP], check=True)
        print("{:<14} {:<6} {:>6} {:>8} {:>12} {:>8}".format(*header), flush=True)
        with ThreadPoolExecutor(max_workers=3) as pool:
            combinations = [(machine, python) for machine in MACHINES for python in PYTHONS]
            results = []
            for result in pool.map(lambda pair: examine(*pair, pinned, roots, pip), combinations):
                print(row(result), flush=True)
                results.append(result)
    wrong: dict[str, list[str]] = {}
    for result in results:
        for problem in result.problems:
            wrong.setdefault(problem, []).append(f"{result.machine.name}, Python {result.python}")
    for problem, where in wrong.items():
        everywhere = len(where) == len(results)
        print(f"{problem} ({'everywhere' if everywhere else '; '.join(where)})", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
