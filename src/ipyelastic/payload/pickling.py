"""cloudpickle, with the few things a notebook's call needs done differently.

    both          reductions.py: what cloudpickle cannot carry; tensors without device and graph
    CallPickler   owner -> rank: functions of the notebook share the rank's fresh `__main__`; a module that the rank
                  could not import goes by value; the files and classes that travelled are remembered
    ValuePickler  rank -> owner: classes that came with the call go home as references (payload/identity.py)

Runs in: owner (calls), ranks (values). Both load with plain `pickle.loads`.
Other end: payload/call.py and payload/values.py.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import sysconfig
import types
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cloudpickle
import cloudpickle.cloudpickle as machinery

from . import identity, measured, reductions
from .measured import Measured, Measuring, may_be_large

__all__ = ["CallPickler", "ValuePickler", "dumps"]

Buffers = list[pickle.PickleBuffer]


class _MainGlobals:
    """Stands in a call's stream for the namespace of the rank's own `__main__`."""

    def __reduce__(self) -> tuple[Callable[[], dict[str, Any]], tuple[()]]:
        return main_globals, ()


def main_globals() -> dict[str, Any]:
    """The namespace of this process's `__main__`."""
    return vars(sys.modules["__main__"])


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]  # cloudpickle has no type information
    def __init__(self, file: io.BytesIO, buffers: Buffers | None, shared_above: int) -> None:
        def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
            assert buffers is not None
            try:
                if buffer.raw().nbytes < shared_above:
                    return True
            except BufferError:  # not contiguous
                return True
            buffers.append(buffer)
            self.bytes_beside += buffer.raw().nbytes
            return False

        self.bytes_beside = 0  # of the buffers outside the stream
        super().__init__(file, protocol=5, buffer_callback=None if buffers is None else keep_in_band)
        self.tensor_notes: set[str] = set()
        self.filenames: set[str] = set()
        self.modules: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(obj, getattr(torch, "Tensor", ())):
            plain = self._plain_tensor(obj, torch)
            if plain is not None:
                return plain
        special = reductions.reduced(obj)
        if special is not None:
            return special
        by_cloudpickle = super().reducer_override(obj)
        return reductions.class_reduced(obj, by_cloudpickle) if isinstance(obj, type) else by_cloudpickle

    def _plain_tensor(self, tensor: Any, torch: Any) -> Any:
        """Another process can use neither this one's CUDA memory nor its autograd graph."""
        is_far = tensor.device.type not in ("cpu", "meta")
        stand_in = _STAND_INS.get(str(tensor.dtype).partition(".")[2].partition("_")[0])
        if not is_far and tensor.is_leaf and stand_in is None:
            return None
        if is_far:
            self.tensor_notes.add(f"{tensor.device.type.upper()} tensors travel as CPU tensors")
        if not tensor.is_leaf:
            self.tensor_notes.add("tensors with a gradient history travel without it (detached)")
        near = tensor.detach().cpu()
        if isinstance(tensor, torch.nn.Parameter):
            near = torch.nn.Parameter(near, requires_grad=tensor.requires_grad)
        elif tensor.is_leaf:
            near.requires_grad_(tensor.requires_grad)
        if (
            stand_in is not None
            and tensor.layout == torch.strided
            and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        ):
            as_bits = near.detach().view(getattr(torch, stand_in))
            return _of_bits, (as_bits, tensor.dtype, type(tensor), near.requires_grad)
        return _same, (near,)


# Torch's own pickling of these writes what it cannot read (seen with 2.13): their bits travel as another type's.
_STAND_INS = {"float8": "uint8", "float4": "uint8", "uint16": "int16", "uint32": "int32", "uint64": "int64"}


def _of_bits(bits: Any, dtype: Any, cls: type, requires_grad: bool) -> Any:
    tensor = bits.view(dtype)
    return tensor if cls is type(bits) else cls(tensor, requires_grad=requires_grad)


def _same(value: Any) -> Any:
    return value


_MACHINERYS = ("_builtin_type", "_class_setstate", "_function_setstate", "_make_function", "subimport")


class CallPickler(_Pickler):
    """Pickle a call for its ranks.

    After `dump`, `classes` holds the classes that travelled by value (hold them while the run lives), `filenames` the
    files their code came from, `modules` the top-level names of modules that the ranks will import; `measuring.loads`
    says how much each name added.
    """

    def __init__(self, file: io.BytesIO, buffers: Buffers | None = None, shared_above: int = 1 << 20) -> None:
        super().__init__(file, buffers, shared_above)
        self.classes: dict[str, type] = {}
        self.measuring = Measuring(lambda: file.tell() + self.bytes_beside)
        self._by_value: list[types.ModuleType] = []
        # Functions of the notebook, or of a script, meet in the rank's `__main__`, as they do here.
        self.globals_ref[id(main_globals())] = _MainGlobals()

    def dump(self, obj: Any) -> None:
        try:
            super().dump(obj)
        finally:
            for module in self._by_value:
                cloudpickle.unregister_pickle_by_value(module)

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if (kind is types.FunctionType or kind is type) and obj in _BY_NAME:
            return NotImplemented
        by_measuring = self.measuring.reduced(obj)
        if by_measuring is not None:
            return by_measuring
        of_shell = reductions.shell_reduced(obj)
        if of_shell is not None:
            return of_shell
        if isinstance(obj, (type, types.FunctionType)):
            self._check_module(getattr(obj, "__module__", None))
        elif isinstance(obj, types.ModuleType):
            self.modules.add(obj.__name__)
        reduced = super().reducer_override(obj)
        if isinstance(obj, types.FunctionType):
            if isinstance(reduced, tuple):
                self.filenames.add(obj.__code__.co_filename)
                _measure_globals(obj, reduced)
        elif isinstance(obj, type):
            class_id = identity.tracked_id(obj)
            if class_id is not None:
                self.classes[class_id] = obj
        elif not isinstance(obj, types.ModuleType):
            self.modules.add(type(obj).__module__)
        return reduced

    def _check_module(self, name: str | None) -> None:
        module = sys.modules.get(name) if name else None
        if module is None or name == "__main__":
            return
        if is_importable(module):
            self.modules.add(module.__name__)
        elif module.__name__ not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(module)
            self._by_value.append(module)


_BY_NAME = frozenset(
    [
        *(bool, bytes, dict, float, int, list, object, set, str, tuple, type),
        *(getattr(machinery, name) for name in _MACHINERYS if hasattr(machinery, name)),
        *(main_globals, measured.opened, reductions.new_class),
    ]
)
"""What streams are full of and any Python finds under its name: half of what a small call is asked about."""


def _measure_globals(function: types.FunctionType, reduced: tuple[Any, ...]) -> None:
    """Name the globals that a function by value takes along, in the dict that cloudpickle made for this pickling."""
    state = reduced[2] if len(reduced) > 2 else None
    slots = state[1] if isinstance(state, tuple) and len(state) == 2 else None
    names = slots.get("__globals__") if isinstance(slots, dict) else None
    if not isinstance(names, dict) or names is function.__globals__:
        return
    for name, value in names.items():
        if may_be_large(value):
            names[name] = Measured(name, value, f"used in {function.__qualname__}()")


class ValuePickler(_Pickler):
    """Pickle one rank's value for the owner.

    Args:
        known: Ids of the classes that came with the call.
        run_mark: The run's mark; classes born in the rank get an identity from it.
    """

    def __init__(
        self,
        file: io.BytesIO,
        buffers: Buffers | None,
        known: frozenset[str],
        run_mark: str,
        shared_above: int = 1 << 20,
    ) -> None:
        super().__init__(file, buffers, shared_above)
        self._known, self._run_mark = known, run_mark

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, type):
            return super().reducer_override(obj)
        class_id = identity.tracked_id(obj)
        if class_id is not None and class_id in self._known:
            return identity.class_of, (class_id,)
        if not machinery._should_pickle_by_reference(obj):
            identity.name_body_class(obj, self._run_mark)
        reduced = super().reducer_override(obj)
        if isinstance(reduced, tuple) and len(reduced) == 6:  # built from parts: (make, args, state, -, -, set state)
            return (*reduced[:5], identity.set_class_state_once)
        return reduced


def dumps(obj: object) -> bytes:
    """Pickle one object as a call's part would be, everything in band. Raises what pickling it raises."""
    file = io.BytesIO()
    CallPickler(file).dump(obj)
    return file.getvalue()


def is_installed(path: str) -> bool:
    """Whether a file belongs to an installed distribution or to Python itself (editable installs do not)."""
    return _is_installed(path, tuple(sys.path))


@lru_cache(maxsize=4096)
def _is_installed(path: str, sys_path: tuple[str, ...]) -> bool:
    return os.path.realpath(path).startswith(_installed_folders(sys_path))


@lru_cache(maxsize=8)
def _installed_folders(sys_path: tuple[str, ...]) -> tuple[str, ...]:
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {entry for entry in sys_path if os.path.basename(entry) in ("site-packages", "dist-packages")}
    return tuple(os.path.realpath(folder) + os.sep for folder in folders if folder)


def is_importable(module: types.ModuleType) -> bool:
    """Whether a rank with our `sys.path` would find this very module under its name."""
    name, path = module.__name__, getattr(module, "__file__", None)
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == __name__.partition(".")[0]:
        return True
    if path is None:
        spec = getattr(module, "__spec__", None)  # built in, frozen, a namespace package; or made by hand
        return bool(spec is not None and (spec.origin is not None or spec.submodule_search_locations is not None))
    if is_installed(path):
        return True
    spec = _find_spec(name)
    if spec is None or spec.origin is None:
        return False
    return bool(os.path.realpath(spec.origin) == os.path.realpath(path))


def _find_spec(name: str) -> Any:
    """What the import system would find under this name if it were not loaded yet."""
    search = None
    parent, _, _ = name.rpartition(".")
    if parent:
        if parent not in sys.modules or not is_importable(sys.modules[parent]):
            return None
        search = getattr(sys.modules[parent], "__path__", None)
        if search is None:
            return None
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find(name, search) if find is not None else None
        if spec is not None:
            return spec
    return None
