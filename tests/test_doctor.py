"""The doctor: what it reports, when the course counts as working, and that a probe which dies takes none with it."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from rnn2rag import doctor, machine
from rnn2rag.doctor import Check
from rnn2rag.execute import sandbox

NEEDED = {"packages", "runtime", "matmul float32", "LSTM", "attention", "models and data", "model", "data"}
OPTIONAL = {"packages for teaching", "packages for authors", "sandbox", "browser"}


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    """`rnn2rag doctor --json`, told to use the CPU, in an empty folder, with nothing on PATH."""
    folder = tmp_path_factory.mktemp("empty")
    environment = {"PATH": str(folder), "HOME": str(Path.home()), "RNN2RAG_DEVICE": "cpu", "LANG": "C.UTF-8"}
    command = [Path(sys.executable).with_name("rnn2rag"), "doctor", "--json"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def checks(examined):
    return {check["name"]: check for check in json.loads(examined.stdout)["checks"]}


def test_the_json_report(examined, checks):
    report = json.loads(examined.stdout)
    assert set(report) == {"rnn2rag", "python", "platform", "ready", "versions", "checks"}
    assert report["versions"]["torch"] == torch.__version__
    assert len(checks) == len(report["checks"])
    for check in report["checks"]:
        assert set(check) == {"name", "status", "detail", "remedy", "seconds"}
        assert check["status"] in ("ok", "warn", "fail") and check["detail"]
        assert bool(check["remedy"]) == (check["status"] != "ok")
        assert 0 <= check["seconds"] < doctor._PATIENCE


def test_everything_that_the_course_needs_works_here(examined, checks):
    assert NEEDED | OPTIONAL | {"Python", "notebook kernel", "matmul bfloat16", "matmul float16"} == set(checks)
    assert examined.returncode == 0, examined.stdout
    assert json.loads(examined.stdout)["ready"] is True
    assert "relative error" in checks["matmul float32"]["detail"]


def test_a_missing_browser_is_a_warning(checks):
    if doctor.browser_program() and sys.platform == "darwin":  # found without PATH there
        assert checks["browser"]["status"] == "ok"
    else:
        assert checks["browser"]["status"] == "warn"
        assert "no Chromium" in checks["browser"]["detail"] and "install" in checks["browser"]["remedy"]


def test_progress_is_seen_while_it_runs(examined, checks):
    assert [line[6:32].strip() for line in examined.stderr.splitlines()] == list(checks)


def test_only_a_failure_makes_the_course_unready():
    fine, lacking = Check("one", "ok", "measured"), Check("two", "warn", "absent", "install it")
    broken = Check("three", "fail", "wrong", "mend it")
    assert doctor.ready([fine, lacking])
    assert not doctor.ready([fine, lacking, broken])
    text = doctor.report([fine, lacking, broken])
    assert "- three: mend it" in text and "- two: install it" in text and text.index("mend") < text.index("install")
    assert text.endswith("1 of 3 checks failed.")
    assert doctor.report([fine]).endswith("can be read, run and checked here.")


def test_one_remedy_for_two_failures_is_said_once():
    text = doctor.advice([Check("one", "fail", "absent", "fetch"), Check("two", "fail", "absent", "fetch")])
    assert "- one, two: fetch" in text


def test_an_empty_cache_fails_and_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("RNN2RAG_CACHE", str(tmp_path))
    for name in ("models and data", "model", "data"):
        check = doctor._try(name)
        assert (check.status, check.remedy) == ("fail", "`rnn2rag fetch`")
    assert "minilm" in doctor._try("model").detail


def test_a_wrong_setting_is_named_by_all_that_it_breaks(monkeypatch):
    monkeypatch.setenv("RNN2RAG_DEVICE", "tpu")
    doctor._runtime.cache_clear()
    for name in ("runtime", "LSTM", "model"):
        check = doctor._try(name)
        assert "'tpu' (from RNN2RAG_DEVICE)" in check.detail
        assert check.remedy == "correct that setting, or unset it"


def test_a_probe_that_ends_its_process_is_one_failure(monkeypatch):
    monkeypatch.setattr(doctor, "PROBES", {name: doctor.PROBES[name] for name in ("model", "data", "sandbox")})

    def kill_at_the_model(name, check):
        if name == "model" and check is None:
            for child in psutil.Process().children():
                child.send_signal(signal.SIGILL)

    python, model, *others = doctor.diagnose(kill_at_the_model)
    assert (python.status, model.name, model.status) == ("ok", "model", "fail")
    assert "SIGILL" in model.detail and model.remedy
    assert [check.name for check in others] == ["data", "sandbox"]
    assert others[0].status == "ok"


def test_a_probe_that_does_not_answer_is_ended(monkeypatch):
    chosen = ("matmul float32", "matmul bfloat16")
    monkeypatch.setattr(doctor, "PROBES", {name: doctor.PROBES[name] for name in chosen})
    monkeypatch.setattr(doctor, "_PATIENCE", 0.01)
    _, single, half = doctor.diagnose()
    assert (single.status, half.status) == ("fail", "warn")  # a precision that the course does not compute in here
    assert "no answer" in single.detail and "no answer" in half.detail
    assert not [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def test_a_process_that_does_not_start_says_why():
    process = doctor._Process(["no such probe"])
    with pytest.raises(doctor.Trouble, match="KeyError: 'no such probe'"):
        process.answer()
    process.close()


def jetson(monkeypatch, linux, chip="Orin"):
    board = machine.Board("NVIDIA Jetson Orin Nano Developer Kit", chip, chip and "8.7", linux)
    monkeypatch.setattr(machine, "jetson", lambda: board)
    monkeypatch.setattr(doctor, "_runtime", lambda: SimpleNamespace(device=torch.device("cpu")))
    if sys.platform != "linux":  # as every Jetson is
        monkeypatch.setattr(doctor, "_free_memory", lambda: psutil.virtual_memory().available)


def test_a_board_is_named_with_its_shared_memory(monkeypatch):
    assert doctor._try("board") is None
    jetson(monkeypatch, "39.2.1")
    check = doctor._try("board")
    assert check.status == "ok" and check.detail.startswith(
        "NVIDIA Jetson Orin Nano Developer Kit; Orin, compute capability 8.7; Jetson Linux 39.2.1 (JetPack 7); "
    )
    total, free = map(float, re.findall(r"([\d.]+) GB", check.detail))
    assert total == round(psutil.virtual_memory().total / 1e9, 1) and 0 < free < total


def test_a_board_in_a_container_tells_what_it_can(monkeypatch):
    jetson(monkeypatch, None, chip=None)
    assert re.match(r"NVIDIA Jetson Orin Nano Developer Kit; [\d.]+ GB for", doctor._try("board").detail)


def test_a_jetpack_that_is_too_old_is_trouble(monkeypatch):
    jetson(monkeypatch, "35.4.1")
    check = doctor._try("board")
    assert check.status == "fail" and "(JetPack 5)" in check.detail and "JetPack 7.2" in check.remedy
    assert doctor.PROBES["board"].optional  # so it is a warning: the CPU computes


@pytest.mark.parametrize(
    ("linux", "cuda", "remedy"),
    [
        ("39.2.1", None, "without CUDA"),
        ("36.4.7", "13.0", "JetPack 6 has CUDA 12"),
        ("36.4.7", "12.6", "LD_LIBRARY_PATH"),
        ("39.2.1", "13.0", "LD_LIBRARY_PATH"),
        (None, "13.0", "LD_LIBRARY_PATH"),
    ],
)
def test_a_board_whose_gpu_torch_cannot_use_says_why(linux, cuda, remedy, monkeypatch):
    monkeypatch.delenv("RNN2RAG_DEVICE", raising=False)
    monkeypatch.setattr(doctor, "_GPU_FILES", (__file__,))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    jetson(monkeypatch, linux)
    check = doctor._try("accelerator")
    assert check.status == "fail" and "cannot use it" in check.detail and remedy in check.remedy


def test_a_torch_that_was_not_built_for_the_gpu_is_told_by_a_kernel(monkeypatch):
    def no_image(device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(doctor, "_runtime", lambda: SimpleNamespace(device=torch.device("cuda")))
    monkeypatch.setattr(machine, "hardware", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 7))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_110"])
    monkeypatch.setattr(doctor, "_first_kernel", no_image)
    check = doctor._try("accelerator")
    assert "kernels for sm_80, sm_110, this GPU needs sm_87: CUDA error: no kernel image" in check.detail
    assert check.status == "fail" and "more" not in check.detail and "built for this GPU" in check.remedy

    monkeypatch.setattr(doctor, "_first_kernel", lambda device: None)
    assert doctor._try("accelerator").detail == "cuda: a GPU; torch has no kernels made for sm_87, but others run"
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_87"])
    assert doctor._try("accelerator").detail == "cuda: a GPU"


@pytest.mark.parametrize("wrong", [torch.zeros(4), torch.full((4,), torch.nan), torch.ones(4) * 1.01])
def test_wrong_numbers_are_trouble(wrong):
    right = torch.ones(4, dtype=torch.float64)
    assert "relative error 0e+00" in doctor._error(torch.ones(4), right, "float32")
    with pytest.raises(doctor.Trouble, match="wrong numbers"):
        doctor._error(wrong, right, "float32")


def test_a_sandbox_that_does_not_start_says_what_to_do(monkeypatch):
    monkeypatch.setattr(sandbox, "program", lambda: "false")
    sandbox.obstacle.cache_clear()
    check = doctor._try("sandbox")
    sandbox.obstacle.cache_clear()
    assert check.status == "fail" and check.remedy
    assert doctor.PROBES["sandbox"].optional


def test_an_old_python_is_told_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_OLDEST_PYTHON", (99, 0))
    assert doctor.main() == 1
    shown = capsys.readouterr()
    [line] = shown.err.splitlines()
    assert not shown.out and "too old" in line and "Python 99.0 or later" in line

    assert doctor.main(as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ready"] is False
    assert [(check["name"], check["status"]) for check in report["checks"]] == [("Python", "fail")]


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch):
    real = doctor.metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.1.0" if name == "torch" else real(name))
    with pytest.raises(doctor.Trouble, match="torch is 2.1.0") as trouble:
        doctor._packages()
    assert "-m pip install 'torch>=2.9'" in trouble.value.remedy


def test_bench_times_every_kind_of_kernel_in_one_line(examined):
    command = [Path(sys.executable).with_name("rnn2rag"), "doctor", "--bench"]
    done = subprocess.run(command, capture_output=True, text=True)
    chosen, line = done.stdout.splitlines()
    assert done.returncode == 0 and chosen.startswith("rnn2rag ") and line.startswith("bench: ")
    found = dict(re.findall(r"[:,] ([A-Za-z][\w ]*?) ([\d.]+) (?:GFLOP/s|GB/s|us|ms)", line))
    kinds = {"matmul float32", "memory", "small kernel", "embedding", "LSTM step", "attention"}
    assert kinds <= found.keys() and all(float(value) > 0 for value in found.values())
