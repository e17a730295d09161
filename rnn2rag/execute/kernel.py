"""Inside the sandbox: ipykernel's shell without its sockets and threads.

A cell comes as one packet over a Unix socket, and goes back as one: its outputs and its execution count. That is all
that a submission needs, and a fraction of what messages of Jupyter cost. The shell, what it shows and how it shows
errors are ipykernel's own; it is made in the zygote, once for all kernels.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import signal
import socket
import sys
import threading
from types import SimpleNamespace
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.zmqshell import ZMQInteractiveShell
from jupyter_client.session import Session
from traitlets.config import Config

from rnn2rag.execute.sandbox import MOST, SIZE

LONGEST = 1 << 20  # characters of text that a cell may print; the rest is dropped
LARGEST = 32 << 20  # bytes of all that a notebook may show
SHOWN = ("display_data", "execute_result", "error")


class Shell(ZMQInteractiveShell):
    """The shell; there is no event loop of a window system to be chosen."""

    def enable_gui(self, gui: Any = None) -> None:
        """Leave all as it is."""


class Outputs(Session):
    """The outputs of a cell in the form of a notebook's, from the messages that would be sent."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._left = LARGEST
        self.begin()

    def begin(self) -> None:
        """Start a new cell."""
        self._shown: list[dict[str, Any]] = []
        self._room = LONGEST
        self._places: dict[str, list[int]] = {}
        self._clear = False

    def taken(self) -> list[dict[str, Any]]:
        """Return what the cell has shown."""
        for output in self._shown:
            if output["output_type"] == "stream":
                output["text"] = "".join(output["text"])
        return self._shown

    def send(self, stream: Any, message: Any, content: Any = None, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Keep what a message shows."""
        if isinstance(message, str):
            message = self.msg(message, content)
        kind, content = message["msg_type"], message["content"]
        if kind == "clear_output":
            self._clear = bool(content.get("wait"))
            if not self._clear:
                self._remove()
        elif kind == "update_display_data":
            for place in self._places.get(content["transient"].get("display_id"), ()):
                self._shown[place] |= {"data": content["data"], "metadata": content["metadata"]}
        elif kind in SHOWN:
            display = content.pop("transient", {}).get("display_id")
            if self._can_show(len(json.dumps(content))):
                self._places.setdefault(display, []).append(len(self._shown))
                self._shown.append({"output_type": kind, **content})
        return message

    def write(self, name: str, text: str) -> None:
        """Keep what a cell prints to "stdout" or "stderr"."""
        text = text[: self._room]
        if not text or not self._can_show(len(text) if text.isascii() else 6 * len(text)):
            return
        self._room -= len(text)
        last = self._shown[-1] if self._shown else {}
        if last.get("name") == name:
            last["text"].append(text)
        else:
            self._shown.append({"output_type": "stream", "name": name, "text": [text]})

    def _can_show(self, size: int) -> bool:
        """Whether so many bytes more may be shown; if so, they will be."""
        if self._clear:
            self._remove()
        if size > self._left or len(self._shown) == MOST:
            return False
        self._left -= size
        return True

    def _remove(self) -> None:
        self._shown, self._places, self._clear = [], {}, False


class Stream(io.TextIOBase):
    """What `sys.stdout` or `sys.stderr` is in a cell.

    Programs that a cell starts, and libraries in C, write to the descriptor, which is a file in memory.
    """

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, name: str, descriptor: int, outputs: Outputs) -> None:
        self.name = name
        self._descriptor = descriptor
        self._outputs = outputs

    def open(self) -> None:
        """Let the descriptor be a new file in memory."""
        file = os.memfd_create(self.name)
        os.dup2(file, self._descriptor)
        os.close(file)

    def write(self, text: str) -> int:
        """Show text."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text)}")
        self.collect()
        self._outputs.write(self.name, text)
        return len(text)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def writable(self) -> bool:
        """Say yes."""
        return True

    def collect(self) -> None:
        """Show what was written to the descriptor."""
        if os.fstat(self._descriptor).st_size:
            written = os.pread(self._descriptor, 4 * LONGEST, 0)
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self._outputs.write(self.name, written.decode(errors="replace"))


class Kernel(IPythonKernel):
    """An ipykernel that is given its cells over one socket. It is made once, warm, then forked and told to serve."""

    shell_class = Shell

    def __init__(self) -> None:
        config = Config()
        config.HistoryManager.enabled = False  # it would start a thread
        super().__init__(session=Outputs(), config=config, log=logging.Logger("kernel", logging.CRITICAL))
        self.shell.extension_manager.load_extension("storemagic")
        self.streams = [Stream("stdout", 1, self.session), Stream("stderr", 2, self.session)]

    def serve(self, cells: socket.socket) -> None:
        """Run the cells that come, until there are no more."""
        sys.argv = ["ipykernel_launcher"]
        sys.stdout, sys.stderr = self.streams
        for stream in self.streams:
            stream.open()
        os.makedirs(self.shell.profile_dir.location, exist_ok=True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        cells.setblocking(False)
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(self._serve(cells))

    async def _serve(self, cells: socket.socket) -> None:
        # What `do_execute` asks for: a callback of an interrupt must wake the loop
        loop = asyncio.get_running_loop()
        self.io_loop = SimpleNamespace(
            add_callback=loop.call_soon_threadsafe, call_later=loop.call_later, stop=loop.stop
        )
        self.shell_channel_thread = SimpleNamespace(parent_thread=threading.main_thread())
        await _send(cells, "ready")
        while True:
            size = await _received(cells, SIZE.size)
            source = await _received(cells, *SIZE.unpack(size)) if size else None
            if source is None:
                return
            await _send(cells, await self._run(source.decode()))
            if self.shell.exit_now:
                return

    async def _run(self, source: str) -> dict[str, Any]:
        """Run one cell and return what it shows."""
        count = self.shell.execution_count
        self.session.begin()
        # An interrupt in the cell is shown by it; the time is over, wherever else it comes.
        with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                await self.do_execute(source, silent=False)
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
        for stream in self.streams:
            stream.collect()
        return {"outputs": self.session.taken(), "count": count}


async def _received(cells: socket.socket, size: int) -> bytes | None:
    """Bytes from a socket; None at its end."""
    parts = []
    while size:
        part = await asyncio.get_running_loop().sock_recv(cells, size)
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


async def _send(cells: socket.socket, data: Any) -> None:
    packet = json.dumps(data).encode()
    await asyncio.get_running_loop().sock_sendall(cells, SIZE.pack(len(packet)) + packet)
