"""Inside the sandbox: a process that imports everything once, and forks one kernel for each submission.

It is started by `rnn2rag.execute.sandbox` and speaks over a Unix socket that it inherits. A request is one packet of
JSON with two sockets attached: the supervisor's, and the one over which the kernel is given its cells. Between the
zygote and a kernel stands a supervisor, which the kernel cannot see: it keeps the limits of time and memory, and
reports how the kernel ended.

Everything here runs before the kernel runs anything of a student. One thread, until a kernel runs its cells.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import gc
import importlib
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rnn2rag.execute.kernel import Kernel

KERNELS = Path("/run/kernels")  # the folders of all kernels, seen by the zygote alone
OWN = Path("/run/kernel")  # a kernel's own folder
BOX, SCRATCH, HOME = Path("/run/box"), Path("/run/scratch"), Path("/run/home")  # where no course lies
WATCH = 0.25  # seconds between two looks at the memory of a submission's processes

# Of Linux: sched.h, sys/mount.h, sys/prctl.h, linux/capability.h
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
CAPABILITY_VERSION_3 = 0x20080522
NAME_SPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP
# linux/bpf_common.h, linux/seccomp.h, linux/audit.h; each machine with its name there and its numbers of four calls
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 1, 1
BPF_LOAD, BPF_IF_EQUAL, BPF_IF_FROM, BPF_IF_ANY, BPF_RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
SECCOMP_KILL, SECCOMP_ERROR, SECCOMP_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
MACHINES = {  # socket, seccomp, clone, unshare
    "x86_64": (0xC000003E, 41, 317, 56, 272),
    "aarch64": (0xC00000B7, 198, 277, 220, 97),
}
IO_URING_SETUP, CLONE3, X32 = 425, 435, 0x40000000

# What a kernel would import one by one after it starts.
WARM = (
    *("torch", "torch._subclasses.schema_check_mode", "numpy", "numpy.random", "xml.etree.ElementTree"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg"),
    *("rnn2rag.checks", "rnn2rag.machine", "rnn2rag.show"),
    *("IPython.core.completer", "IPython.core.ultratb", "IPython.core.pylabtools"),
    *("IPython.core.completerlib", "IPython.core.debugger", "IPython.core.oinspect", "IPython.extensions.storemagic"),
    *("tornado.platform.asyncio", "faulthandler", "stringprep", "encodings.idna", "unittest.mock"),
)

libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Warm up, tell the host, and fork a supervisor for each request until the control socket is closed."""
    settings = json.loads(sys.argv[1])
    control = socket.socket(fileno=settings["control"])
    control.set_inheritable(False)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if settings["mode"] == "bubblewrap" and os.getuid() == 0:
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)  # whole: else no kernel may mount its own
        _become(settings["uid"], settings["gid"])
    for name in WARM:
        with contextlib.suppress(ImportError):  # what this version of Jupyter does not have
            importlib.import_module(name)
    if settings["optimizers"]:
        importlib.import_module("torch._dynamo")  # the first step of an optimizer imports it
    from rnn2rag.execute.kernel import Kernel  # it imports all of Jupyter

    warm = Kernel()
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    while True:
        packet, ancillary, _, _ = control.recvmsg(1 << 16, socket.CMSG_SPACE(8))
        if not packet:
            os._exit(0)
        descriptors = array.array("i", ancillary[0][2])
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _supervise({**settings, **json.loads(packet)}, warm, *(socket.socket(fileno=each) for each in descriptors))
        for descriptor in descriptors:
            os.close(descriptor)


def try_out(settings: Mapping[str, Any]) -> None:
    """Make the name spaces and file systems of a kernel once, and nothing more. Raises OSError where that fails."""
    if os.getuid() == 0:
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        _become(settings["uid"], settings["gid"])
    _own_namespaces()
    inside = os.fork()
    if inside:
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(inside, 0)[1]))
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", str(BOX), "tmpfs", MS_NOSUID | MS_NODEV, "size=4k")
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os._exit(0)


def _supervise(request: Mapping[str, Any], warm: Kernel, control: socket.socket, cells: socket.socket) -> NoReturn:
    """Fork the kernel, hold it to its limits, and report {"status", "why", "cpu_seconds", "peak_memory"} at its end."""
    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        control.send(json.dumps(_watch(request, warm, control, cells)).encode())
    except BaseException as error:
        with contextlib.suppress(OSError):
            control.send(json.dumps({"failed": repr(error)}).encode())
    finally:
        os._exit(0)


def _watch(request: Mapping[str, Any], warm: Kernel, control: socket.socket, cells: socket.socket) -> dict[str, Any]:
    limits = request["limits"]
    if request["mode"] == "bubblewrap":
        _own_namespaces()
        has_own_processes = True
    else:  # as much as the container allows
        has_own_processes = [libc.unshare(flag) == 0 for flag in (CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWPID)][-1]
    kernel = os.fork()
    if kernel == 0:
        _kernel(request, warm, cells)
    cells.close()
    ended = os.pidfd_open(kernel)
    end = time.monotonic() + limits["seconds"]
    why = "exit"
    while True:
        readable, _, _ = select.select([ended, control], [], [], WATCH)
        if ended in readable:
            break
        if control in readable:
            command = control.recv(64)
            if command == b"interrupt":
                os.kill(kernel, signal.SIGINT)
                continue
            why = "ended"
        elif time.monotonic() > end:
            why = "time"
        elif _memory(_processes(request, kernel)) > limits["memory"]:
            why = "memory"
        else:
            continue
        break
    with contextlib.suppress(ProcessLookupError):
        os.kill(kernel, signal.SIGKILL)
    _, status, usage = os.wait4(kernel, 0)
    if not has_own_processes:
        _kill_all(request["uid"])
    return {
        "status": os.waitstatus_to_exitcode(status),
        "why": why,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_memory": usage.ru_maxrss << 10,
    }


def _kernel(request: Mapping[str, Any], warm: Kernel, cells: socket.socket) -> NoReturn:
    """Become the kernel of one submission."""
    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        if request["mode"] == "bubblewrap":
            _own_files(request)
        else:
            files = str(Path(request["folder"], "files"))
            os.chdir(files)
            os.environ.update(HOME=files, TMPDIR=files, PWD=files)
            Path("/proc/self/oom_score_adj").write_text("1000")  # where memory ends, it ends before the grader
        os.environ.update(request["environment"])
        _limit(request["limits"])
        if request["mode"] == "user":
            _become(request["uid"], request["gid"])
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        kept = socket.socket(fileno=os.dup2(cells.detach(), 3))
        os.closerange(4, 4096)
        if request["mode"] == "bubblewrap":
            _lock()  # as long as there is one thread: each has capabilities of its own
        else:
            _filter_calls()
        random.seed()  # every kernel is a copy of the zygote, but draws of its own
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        warm.serve(kept)
        os._exit(0)
    finally:
        os._exit(70)


def _own_namespaces() -> None:
    """A user, mount, process, IPC, network and host name space of its own for what is forked from here."""
    user, group = os.getuid(), os.getgid()
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path("/proc/self", name).write_text(text)


def _own_files(request: Mapping[str, Any]) -> None:
    """What a kernel sees: the read-only system, its own small file systems, nothing of other kernels."""
    size = request["limits"]["disk"]
    flags = MS_NOSUID | MS_NODEV
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount(str(KERNELS / request["name"]), str(OWN), None, MS_BIND)
    _mount(None, str(OWN), None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags)
    _mount("tmpfs", str(KERNELS), "tmpfs", flags | MS_RDONLY, "size=4k,mode=000")
    for folder in (BOX, SCRATCH, Path("/dev/shm")):
        _mount("tmpfs", str(folder), "tmpfs", flags, f"size={size},nr_inodes=16384,mode=755")
    _mount("tmpfs", str(HOME), "tmpfs", flags, "size=1m,nr_inodes=256,mode=755")
    _mount("proc", "/proc", "proc", flags | MS_NOEXEC)
    for path in request["hidden"]:
        _mount(str(OWN / "empty"), path, None, MS_BIND)
    shutil.copytree(OWN / "files", BOX, dirs_exist_ok=True)
    os.chdir(BOX)
    os.environ.update(HOME=str(HOME), TMPDIR=str(SCRATCH), PWD=str(BOX))


def _limit(limits: Mapping[str, float]) -> None:
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits["disk"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_CPU, limits["seconds"]),
        (resource.RLIMIT_DATA, limits["memory"]),
        (resource.RLIMIT_NOFILE, 1024),
    ):
        hard = resource.getrlimit(what)[1]
        value = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
        resource.setrlimit(what, (value, value))


def _lock() -> None:
    """Give away for good what was needed to set up: capabilities, and the making of further name spaces."""
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def _become(user: int, group: int) -> None:
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 1)  # else its own /proc/self belongs to root
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # lost with the change of user


def _filter_calls() -> None:
    """Deny all threads, for good, all sockets but Unix's, as a container's network may be on, and new name spaces."""
    architecture, socket_number, seccomp_number, clone_number, unshare_number = MACHINES[os.uname().machine]
    program = [
        (BPF_LOAD, 0, 0, 4),  # the machine whose calls these are
        (BPF_IF_EQUAL, 1, 0, architecture),
        (BPF_RETURN, 0, 0, SECCOMP_KILL),
        (BPF_LOAD, 0, 0, 0),  # the number of the call
        (BPF_IF_FROM, 9, 0, X32),
        (BPF_IF_EQUAL, 8, 0, IO_URING_SETUP),  # it makes sockets, too
        (BPF_IF_EQUAL, 7, 0, unshare_number),
        (BPF_IF_EQUAL, 7, 0, CLONE3),  # its flags cannot be seen; libraries then use clone
        (BPF_IF_EQUAL, 3, 0, clone_number),
        (BPF_IF_EQUAL, 0, 6, socket_number),
        (BPF_LOAD, 0, 0, 16),  # its first argument: the family
        (BPF_IF_EQUAL, 4, 2, socket.AF_UNIX),
        (BPF_LOAD, 0, 0, 16),  # its first argument: flags
        (BPF_IF_ANY, 0, 2, NAME_SPACES),
        (BPF_RETURN, 0, 0, SECCOMP_ERROR | errno.EACCES),
        (BPF_RETURN, 0, 0, SECCOMP_ERROR | errno.ENOSYS),
        (BPF_RETURN, 0, 0, SECCOMP_ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter_ = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    if libc.syscall(seccomp_number, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, filter_):
        raise OSError(ctypes.get_errno(), "seccomp")


def _kill_all(user: int) -> None:
    """End every process of a user who runs nothing else here, even while they fork and kill."""
    for _ in range(1000):
        left = _of_user(user)
        if not left:
            return
        killer = os.fork()
        if killer == 0:  # at one blow, but they can kill it, too
            os.setresuid(user, user, user)
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            os._exit(0)
        os.waitpid(killer, 0)
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
    raise OSError("processes of the submission cannot be ended")


def _memory(processes: list[str]) -> int:
    """Bytes that the processes of a submission hold together.

    What they share with the zygote counts once for each, so a large sum is counted again by proportional shares.
    """
    rough = sum(_field(Path(f"/proc/{process}/statm")) for process in processes)
    if rough < 1 << 30:
        return rough
    return sum(_proportional(process) for process in processes)


def _processes(request: Mapping[str, Any], kernel: int) -> list[str]:
    """The processes of a submission: those of its user, or those in the kernel's process name space."""
    if request["mode"] == "user":
        return _of_user(request["uid"])
    try:
        space = os.stat(f"/proc/{kernel}/ns/pid").st_ino
    except OSError:
        return []
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}/ns/pid").st_ino == space:
                    found.append(name)
    return found


def _of_user(user: int) -> list[str]:
    """The processes of a user that still run. (The owner of a folder in /proc may be root all the same.)"""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                status = Path("/proc", name, "status").read_text(errors="replace")
                if re.search(rf"^Uid:\t{user}\t", status, re.M) and not re.search(r"^State:\t[ZX]", status, re.M):
                    found.append(name)
    return found


def _field(statm: Path) -> int:
    """Resident bytes of a process."""
    try:
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _proportional(process: str) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    arguments = [None if text is None else text.encode() for text in (source, target, kind)]
    if libc.mount(*arguments, flags, None if options is None else options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {target}")


def _prctl(option: int, value: int) -> None:
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


if __name__ == "__main__":
    main()
