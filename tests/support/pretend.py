"""`device="pretend"`: a second device in plain Python, with memory and kernels that tensors of the CPU do not mix with.

Its tensors are real ones of PyTorch's PrivateUse1 backend whose memory DLPack hands over, so the results are the CPU's.
`counts` counts what would be kernel launches on an accelerator and, as "wait ...", what would make the host wait.

Importing the module registers the backend and changes `Module.to` and `UntypedStorage.clone` for the whole process, so
only processes started for it import it (tests/test_other_device.py).
"""

import ctypes
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretend"
EXTERNAL, HOST = 12, 1  # DLPack's numbers of device types
CPU = DispatchKeySet(DispatchKey.CPU)
METADATA = (  # operations whose CPU kernel touches only sizes and strides
    "as_strided", "view", "_reshape_alias", "unfold", "view_as_complex", "view_as_real",
    "set_.source_Storage", "set_.source_Storage_storage_offset",
)  # fmt: skip
AUTOCAST = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention")
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")
WAITS = (  # the size of the result, or a Python value, depends on the data
    "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "equal", "is_nonzero",
)  # fmt: skip
aten = torch.ops.aten
counts: Counter[str] = Counter()

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def launches() -> int:
    """The number of kernel launches and copies so far."""
    return sum(n for name, n in counts.items() if not name.startswith("wait "))


def waits() -> int:
    """The number of times so far that the host would have waited for the device."""
    return sum(n for name, n in counts.items() if name.startswith("wait "))


def _relabelled(t: Tensor, device_type: int) -> Tensor:
    """A tensor of another device that shares the memory of `t`."""
    capsule = torch._C._to_dlpack(t.detach())
    ctypes.c_int32.from_address(_pointer(capsule, b"dltensor") + 8).value = device_type  # DLTensor.device.device_type
    return torch.utils.dlpack.from_dlpack(capsule)


def _on_host(t: Tensor) -> Tensor:
    return _relabelled(t, HOST) if t.device.type == NAME else t


def _here(t: Tensor) -> Tensor:
    return _relabelled(t, EXTERNAL) if t.device.type == "cpu" else t


def _fallback(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run the CPU kernel of an operation on the memory of its arguments."""
    name, found, kinds = op._schema.name.removeprefix("aten::"), [], set()
    counts[name] += 1
    counts[f"wait {name}"] += name in WAITS

    def move(x: Any) -> Any:
        if isinstance(x, Tensor):
            if x.device.type == NAME or x.dim():  # a number may be on any device
                kinds.add(x.device.type)
            if x.device.type != NAME:
                return x
            found.append((x, torch.empty(0, dtype=x.dtype) if x.shape == (0,) else _on_host(x)))
            return found[-1][1]
        if isinstance(x, torch.device):
            return torch.device("cpu")
        return type(x)(map(move, x)) if isinstance(x, list | tuple) else x

    def back(x: Any) -> Any:
        if isinstance(x, Tensor):
            mine = [whole for whole, seen in found if seen is x]
            return mine[0] if mine else _here(x)
        return type(x)(map(back, x)) if isinstance(x, list | tuple) else x

    numbers = (bool, int, float, complex)
    given = [
        torch.tensor(x) if isinstance(x, numbers) and a.type.kind() == "TensorType" else move(x)
        for x, a in zip(args, op._schema.arguments, strict=False)
    ]
    named = {key: move(x) for key, x in kwargs.items()}
    if len(kinds) > 1:
        if name not in INDEXED:
            raise RuntimeError(f"{op} was given tensors of two devices, {NAME} and cpu")
        counts["wait indices"] += 1  # places of the host are copied first
    out = op.redispatch(CPU, *given, **named)
    for whole, seen in found:  # an out= argument that was empty
        if seen.shape != whole.shape:
            t = _here(seen)
            storage = t.untyped_storage()
            aten.set_.source_Storage_storage_offset.redispatch(CPU, whole, storage, 0, t.shape, t.stride())
    return back(out)


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    kinds = source.device.type, target.device.type
    counts["copy_"] += 1
    if kinds[1] != NAME or (kinds[0] != NAME and not non_blocking):
        counts[f"wait {kinds[0]} to {kinds[1]}"] += 1
    _on_host(target).copy_(_on_host(source))
    return target


def _item(t: Tensor) -> Any:
    counts["wait item"] += 1
    return _on_host(t).item()


def _autocast(op: Any) -> Callable[..., Any]:
    def cast(x: Any) -> Any:
        floats = isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64
        return x.to(torch.get_autocast_dtype(NAME)) if floats else x

    def called(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(DispatchKeySet(DispatchKey.AutocastPrivateUse1)):
            return op(*map(cast, args), **{key: cast(value) for key, value in kwargs.items()})

    return called


class _Backend(_DummyBackendModule):  # type: ignore[misc]
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def is_bf16_supported(self) -> bool:
        return True

    def synchronize(self, device: Any = None) -> None:
        pass

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)  # torch.random.fork_rng asks every device

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass


def _set_up() -> tuple[torch.library.Library, torch.library.Library]:
    _setup_privateuseone_for_python_backend(NAME, _Backend())
    every, some = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(_fallback, "PrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in METADATA:
        base, _, overload = name.partition(".")
        op = getattr(getattr(aten, base), overload or "default")
        some.impl(name, lambda *a, op=op, **k: op.redispatch(CPU, *a, **k), "PrivateUse1")
    for name in AUTOCAST:
        some.impl(name, _autocast(getattr(aten, name).default), "AutocastPrivateUse1")

    def empty(size: Any, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
        memory_format = memory_format or torch.contiguous_format
        return _here(torch.empty(size, dtype=dtype, memory_format=memory_format, device="cpu"))

    def empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> Tensor:
        return _here(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))

    some.impl("empty.memory_format", empty, "PrivateUse1")
    some.impl("empty_strided", empty_strided, "PrivateUse1")
    some.impl("_copy_from", _copy_from, "PrivateUse1")
    some.impl("_local_scalar_dense", _item, "PrivateUse1")
    _patch_conversions()
    return every, some


def _patch_conversions() -> None:
    """Let `Module.to` keep weights tied, as on CUDA, and `copy.deepcopy` work without an allocator."""
    to, clone, swap = (
        torch.nn.Module.to,
        torch.UntypedStorage.clone,
        torch.__future__.set_swap_module_params_on_conversion,
    )

    def moved(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        swap(True)
        try:
            return to(module, *args, **kwargs)
        finally:
            swap(False)

    def cloned(storage: torch.UntypedStorage) -> torch.UntypedStorage:
        if storage.device.type != NAME:
            return clone(storage)
        whole = _here(torch.empty(0, dtype=torch.uint8)).set_(storage, 0, (storage.nbytes(),), (1,))
        return whole.clone().untyped_storage()

    torch.nn.Module.to, torch.UntypedStorage.clone = moved, cloned  # type: ignore[method-assign, assignment]


_registered = _set_up()  # the registrations last as long as these objects
