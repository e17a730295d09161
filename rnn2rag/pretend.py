"""A device that is not there: run cells as they would run on a GPU, on a machine without one.

Tensors that are put on the pretended device stay on the CPU (`Device()`), or are shapes without memory
(`Device(shapes_only=True)`). Two of torch's modes stand between the cells and torch: one above autograd hides the
device's name from a torch that cannot do with it, one below autograd sees every operation, also those of the backward
pass. They note what would fail or wait on a GPU, and what memory each tensor takes from when until when.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from rnn2rag import machine

NAME = "cuda"
_aten = torch.ops.aten
# They read both devices, or an index from the host.
_CROSSING = {_aten._to_copy, _aten.copy_, _aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
# The size of their result depends on values: the host has to wait for it.
_WAITING = {_aten._local_scalar_dense, _aten.nonzero, _aten.masked_select, _aten._unique2, _aten.equal}
# torch's recurrent layers compute what the gates get from the inputs for all steps at once, on the CPU and in cuDNN
# (J. Appleyard, Optimizing Recurrent Neural Networks in cuDNN 5, NVIDIA, 2016). So many numbers for each of the state.
_RECURRENT = {torch.lstm: 4, torch.gru: 3, torch.rnn_tanh: 1, torch.rnn_relu: 1}
_CLOCKS = ("perf_counter", "perf_counter_ns", "process_time", "process_time_ns", "monotonic", "monotonic_ns", "time")


@dataclass
class Allocation:
    """A tensor's memory on the pretended device: bytes, the number of the operation that made it, and of the one before
    which it went (None while it is there), and what it is for.
    """

    bytes: int
    born: int
    died: int | None = None
    use: str = "activations"


@dataclass
class Trace:
    """What happened on the pretended device.

    allocations: in their order; operations: their number; work: (floating-point operations, bytes read and written) of
    each operation that computes; mixed: operations whose tensors were on both sides, and where; waits: places where
    the host waited for the device between two readings of a clock; early: places that read a clock while the device had
    work to finish.
    """

    allocations: list[Allocation] = field(default_factory=list)
    operations: int = 0
    work: list[tuple[int, int]] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)

    def peak(self) -> dict[str, int]:
        """Return the bytes of each use at the moment when all together were most."""
        change: dict[int, int] = {}
        for one in self.allocations:
            change[one.born] = change.get(one.born, 0) + one.bytes
            if one.died is not None:
                change[one.died] = change.get(one.died, 0) - one.bytes
        held, most, moment = 0, -1, 0
        for at in sorted(change):
            held += change[at]
            if held > most:
                most, moment = held, at
        uses = dict.fromkeys(("weights", "gradients", "optimizer", "activations", "cache"), 0)
        for one in self.allocations:
            if one.born <= moment and (one.died is None or one.died > moment):
                uses[one.use] += one.bytes
        return uses


class Device:
    """The pretended device, as a context: inside, `rnn2rag.runtime(device="cuda")` chooses it.

    shapes_only: keep no values; whatever asks for one gets 1. An operation whose result has a shape that depends on
    values raises NotImplementedError there.
    """

    def __init__(self, shapes_only: bool = False) -> None:
        self.real = torch.device("meta" if shapes_only else "cpu")
        self.pretended = torch.device(NAME)
        self.shapes_only = shapes_only
        self.trace = Trace()
        self._here: dict[int, Allocation] = {}  # by the address of the storage
        self._wanted: list[torch.device | None] = []  # where the calls in progress make tensors
        self._unfinished = False
        self._timing: set[Any] = set()  # the code that has read a clock once and not yet again
        self._exits = ExitStack()

    def held(self) -> list[Allocation]:
        """Return what is on the device now."""
        return list(self._here.values())

    def start(self) -> None:
        """Begin a new trace; what is on the device by now does not count in it."""
        self.trace = Trace()

    def device_of(self, tensor: torch.Tensor) -> torch.device:
        """Return the device where a tensor is, or pretends to be."""
        return self.pretended if self._is_there(tensor) else tensor.device

    def __enter__(self) -> Device:
        stack = self._exits
        stack.enter_context(mock.patch.object(machine, "_is_available", lambda name: name == NAME))
        stack.enter_context(mock.patch.object(machine, "hardware", lambda device: "a pretended GPU"))
        module = SimpleNamespace(**vars(torch.get_device_module(NAME)) | {"synchronize": self._synchronize})
        stack.enter_context(mock.patch.object(torch, "get_device_module", lambda device=None: module))
        stack.enter_context(mock.patch.object(torch.cuda, "synchronize", self._synchronize))
        stack.enter_context(mock.patch.object(torch.backends.cudnn, "is_acceptable", lambda tensor: False))
        # A parameter that two modules share stays one when it moves, as it does on its way to a real GPU.
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, False)
        torch.__future__.set_swap_module_params_on_conversion(self.shapes_only)
        for clock in _CLOCKS:
            stack.enter_context(mock.patch.object(time, clock, self._watched(getattr(time, clock))))
        hooks = (
            torch.nn.modules.module.register_module_forward_pre_hook(self._entered),
            torch.nn.modules.module.register_module_forward_hook(self._left),
            register_optimizer_step_post_hook(self._stepped),
        )
        for hook in hooks:
            stack.callback(hook.remove)
        stack.enter_context(_Operations(self))
        stack.enter_context(_Functions(self))
        return self

    def __exit__(self, *exception: object) -> None:
        self._exits.close()

    # What the modes call

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function of torch, with the real device in place of the pretended one."""
        if function in (torch.device, torch._C._nn._parse_to):  # they speak of a device and put nothing there
            return function(*args, **kwargs)
        if getattr(function, "__name__", "") == "__get__":
            if function == torch.Tensor.device.__get__:
                return self.device_of(args[0])
            if function == torch.Tensor.is_cuda.__get__:
                return self.device_of(args[0]) == self.pretended
            return function(*args, **kwargs)
        if function in (torch.Tensor.cpu, torch.Tensor.cuda):
            args = (args[0], torch.device("cpu") if function is torch.Tensor.cpu else self.pretended)
            function = torch.Tensor.to
        told = [_device(value) for value in (*args, *kwargs.values())]
        wanted = next((device for device in told if device is not None), None)
        if function is torch.Tensor.to and wanted is None and len(args) > 1 and isinstance(args[1], torch.Tensor):
            wanted = self.device_of(args[1])
            args = (args[0], wanted, args[1].dtype, *args[2:])
        if self.shapes_only and function in _RECURRENT and self._is_there(args[0]):
            numbers = _gates(args) * _RECURRENT[function]
            workspace = self.call(torch.empty, (numbers,), {"dtype": args[0].dtype, "device": self.pretended})
            try:
                return self._within(self.pretended, function, args, kwargs)
            finally:
                del workspace
        if wanted is None:  # what it makes inside lies where its tensors lie
            wanted = self.pretended if any(map(self._is_there, _tensors(args, kwargs))) else None
            return self._within(wanted, function, args, kwargs)
        if wanted == self.real != self.pretended and isinstance(args[0], torch.Tensor) and _by_torch():
            wanted = self.device_of(args[0])  # torch has looked at where its memory is
        if function is torch.Tensor.to and not self.shapes_only and self.device_of(args[0]) != wanted:
            kwargs = kwargs | {"copy": True}  # both are on the CPU: it would be the same tensor
        args = tuple(self._to_real(value) for value in args)
        kwargs = {name: self._to_real(value) for name, value in kwargs.items()}
        return self._within(wanted, function, args, kwargs)

    def run(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation below autograd and note what it does."""
        packet = operation.overloadpacket
        given = list(_tensors(args, kwargs))
        on = [self._is_there(tensor) for tensor in given]
        there = any(on)
        self.trace.operations += 1
        if not there and not kwargs:
            return operation(*args)
        if there:
            self._unfinished = True
            off = [tensor for tensor, here in zip(given, on, strict=True) if not here and tensor.dim()]
            if off and packet not in _CROSSING:
                self.trace.mixed.append(f"{operation} with tensors of {NAME} and of cpu, {_place()}")
            to_host = packet is _aten._to_copy and kwargs.get("device") is not None and self._told(kwargs).type == "cpu"
            to_host |= packet is _aten.copy_ and not on[0]
            if (to_host or packet in _WAITING) and self._timing:
                self.trace.waits.append(f"{operation}, {_place()}")
            if self.shapes_only and (to_host or packet in _WAITING):
                return _valueless(packet, args)
        result = operation(*args, **kwargs)
        asked = "device" in kwargs and kwargs["device"] is not None
        lands = self._told(kwargs) == self.pretended if asked else there
        if lands:
            made = _tensors((result,), {})
            known = {self._address(tensor) for tensor in given}
            new = {self._address(tensor): tensor for tensor in made if self._address(tensor) not in known}
            for address, tensor in new.items():
                self._allocate(address, tensor)
            if new or operation._schema.is_mutable:
                moved = sum(tensor.numel() * tensor.element_size() for tensor in (*given, *new.values()))
                count = flop_registry.get(packet)
                self.trace.work.append((count(*args, **kwargs, out_val=result) if count else 0, moved))
        return result

    # Memory

    @staticmethod
    def _address(tensor: torch.Tensor) -> int:
        while torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # as torch.func.vmap makes them
            tensor = torch._C._functorch.get_unwrapped(tensor)
        return tensor.untyped_storage()._cdata

    def _allocate(self, address: int, tensor: torch.Tensor) -> None:
        storage, trace = tensor.untyped_storage(), self.trace
        record = self._here[address] = Allocation(storage.nbytes(), trace.operations)
        trace.allocations.append(record)

        def free() -> None:
            record.died = trace.operations + 1
            if self._here.get(address) is record:
                del self._here[address]

        weakref.finalize(storage, free).atexit = False

    def _use(self, tensors: Any, use: str) -> None:
        for tensor in tensors:
            record = self._here.get(self._address(tensor)) if isinstance(tensor, torch.Tensor) else None
            if record:
                record.use = use

    def _entered(self, module: torch.nn.Module, args: Any) -> None:
        self._use([*module.parameters(recurse=False), *module.buffers(recurse=False)], "weights")

    def _left(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        cache = getattr(output, "past_key_values", None)
        for layer in getattr(cache, "layers", ()):
            self._use([layer.keys, layer.values], "cache")

    def _stepped(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self._use(weights, "weights")
        self._use([weight.grad for weight in weights], "gradients")
        self._use(tree_iter([optimizer.state[weight] for weight in weights]), "optimizer")

    # Devices and clocks

    def _is_there(self, tensor: torch.Tensor) -> bool:
        return tensor.is_meta if self.shapes_only else self._address(tensor) in self._here

    def _within(
        self, wanted: torch.device | None, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call a function whose operations make tensors on a device."""
        self._wanted.append(wanted)
        try:
            return function(*args, **kwargs)
        finally:
            self._wanted.pop()

    def _to_real(self, value: Any) -> Any:
        return self.real if _device(value) == self.pretended else value

    def _told(self, kwargs: dict[str, Any]) -> torch.device:
        """The device that an operation was told, before it was hidden."""
        if self.shapes_only:
            return self.pretended if torch.device(kwargs["device"]).type == "meta" else torch.device(kwargs["device"])
        told = next((device for device in reversed(self._wanted) if device), None)
        return told or torch.device(kwargs["device"])

    def _synchronize(self, device: Any = None) -> None:
        self._unfinished = False

    def _watched(self, clock: Callable[[], float]) -> Callable[[], float]:
        def read() -> float:
            caller = sys._getframe(1)
            ours = caller.f_code.co_filename.startswith("<") or caller.f_globals.get("__name__") == machine.__name__
            if ours:
                self._timing ^= {caller.f_code}
                if self._unfinished and caller.f_code not in self._timing:
                    self.trace.early.append(f"{clock.__name__}, {_place()}")
                self._unfinished = False
            return clock()

        return read


class _Functions(TorchFunctionMode):
    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.device.call(function, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.device.run(operation, args, kwargs or {})


def _gates(args: tuple[Any, ...]) -> int:
    """How many numbers of the state a recurrent layer of torch computes, over all steps and both directions."""
    packed = isinstance(args[1], torch.Tensor) and args[1].dim() == 1  # steps of all sequences, how many at each step
    state = args[2] if packed else args[1]
    hidden = state if isinstance(state, torch.Tensor) else state[0]
    steps = args[0].shape[:-1].numel()
    return steps * hidden.shape[-1] * (1 + bool(args[7 if not packed else -1]))


def _tensors(args: Iterable[Any], kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    """The tensors among the arguments of an operation, also those in lists."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value, {})


def _device(value: Any) -> torch.device | None:
    """The device that an argument names, if it names one."""
    if isinstance(value, torch.device):
        return torch.device(value.type)
    if isinstance(value, str) and value.partition(":")[0] in machine.DEVICES:
        return torch.device(value.partition(":")[0])
    return None


def _valueless(packet: Any, args: tuple[Any, ...]) -> Any:
    """What the host gets of a tensor that has a shape and no values."""
    tensor = args[0]
    if packet is _aten._local_scalar_dense:
        return tensor.dtype.is_floating_point and 1.0 or 1
    if packet is _aten._to_copy:
        return torch.ones(tensor.shape, dtype=tensor.dtype, device="cpu")
    if packet is _aten.copy_:
        return tensor
    if packet is _aten.equal:
        return True
    raise NotImplementedError(f"{packet} has as many results as the values say: it cannot be planned from shapes")


def _by_torch() -> bool:
    """Whether a function of torch was called by torch itself."""
    return sys._getframe(3).f_globals.get("__name__", "").startswith("torch.")


def _place() -> str:
    """The line of a cell that runs now."""
    frames: Iterator[Any] = _frames()
    for frame in frames:
        if frame.f_code.co_filename.startswith("<"):
            return f"{frame.f_code.co_filename.strip('<>')}, line {frame.f_lineno}"
    return "outside the cells"


def _frames() -> Iterator[Any]:
    frame = sys._getframe(2)
    while frame:
        yield frame
        frame = frame.f_back
