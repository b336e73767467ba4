"""Compiles kernels as C functions of addresses, and keeps their machine code on disk.

Numba's own cache looks at the file of the function that it loads and at no other, so an edited intrinsic
would be served stale, and it believes what it reads.  Here a file's name is a hash of everything that its
code depends on, and its content is believed only if it has the hash that stands before it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from voxconv.errors import MissingExtra

try:
    from numba import config, from_dtype, types
    from numba.core.ccallback import CFunc
    from numba.core.compiler import CompileResult
except ImportError:
    raise MissingExtra("numba", "numba", "The numba backend") from None

if config.DISABLE_JIT:
    raise RuntimeError("The numba backend cannot run uncompiled: unset NUMBA_DISABLE_JIT, or choose another backend")

DIGEST = hashlib.sha256().digest_size


@cache
def _sources() -> bytes:
    """Hash of every file that machine code is made from, and of the compilers' versions."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("_numba_*.py")):
        found.update(path.read_bytes())
    for compiler in (sys.version, version("numba"), version("llvmlite")):
        found.update(compiler.encode())
    return found.digest()


def _folders() -> list[Path]:
    """Where machine code may be kept, best first."""
    asked = config.CACHE_DIR
    if asked:
        return [Path(asked) / "voxconv"]
    folders = [Path(__file__).parent / "__pycache__"]
    with contextlib.suppress(RuntimeError):  # a user without a home
        folders.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "voxconv")
    return folders


class KernelCache:
    """One kernel's place on disk, with the methods that Numba calls."""

    warned = False

    def __init__(self, name: str) -> None:
        self.name = name

    def _path(self, folder: Path, signature: object, target: Any) -> Path:
        # The processor's name and features are part of it: another machine makes its own.
        key = (_sources(), self.name, str(signature), target.codegen().magic_tuple(), int(config.OPT))
        return folder / f"{self.name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.vox"

    def load_overload(self, signature: object, target: Any) -> Any:
        """Machine code that was saved, or None."""
        for folder in _folders():
            try:
                content = self._path(folder, signature, target).read_bytes()
                if hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST]:
                    target.refresh()  # it makes known the symbols of Numba's runtime
                    return CompileResult._rebuild(target, *pickle.loads(content[DIGEST:]))
            except Exception:  # whatever stands there, it can be compiled anew
                continue
        return None

    def save_overload(self, signature: object, result: Any) -> None:
        """Keep machine code; the file appears as a whole or not at all."""
        content = pickle.dumps(result._reduce(), protocol=4)
        reasons = []
        for folder in _folders():
            path = self._path(folder, signature, result.target_context)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                handle, temporary = tempfile.mkstemp(dir=folder, prefix=self.name)
                try:
                    with os.fdopen(handle, "wb") as file:
                        file.write(hashlib.sha256(content).digest() + content)
                    os.replace(temporary, path)
                except OSError:
                    os.unlink(temporary)
                    raise
                return
            except OSError as error:
                reasons.append(str(error))
        if not KernelCache.warned:
            KernelCache.warned = True
            told = "; ".join(reasons)
            warnings.warn(f"voxconv's Numba kernels are compiled anew in each process: {told}", stacklevel=2)


def compiled(name: str, make: Callable[[Any], Callable[..., None]], dtype: Any, record: Any) -> CFunc:
    """The kernel (job, item, slot) that ``make`` makes for an element type, as C code from disk or compiled now."""
    function = make(from_dtype(dtype))
    # Symbols are made from the function's name, and two kernels that come from disk must not have the same.
    function.__name__ = function.__qualname__ = name.replace("-", "_")
    signature = ((types.CPointer(from_dtype(record)), types.int64, types.int64), types.void)
    kernel = CFunc(function, signature, {}, {"error_model": "numpy"})
    kernel._cache = KernelCache(name)
    kernel.compile()
    return kernel
