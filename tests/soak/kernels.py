"""The kernels and the fuzzer, compiled without CMake: for another compiler, other options, or with a bug put in."""

from __future__ import annotations

import re
from pathlib import Path

from ledger import ROOT, call

FLAGS = {
    "avx512": "-mavx2 -mfma -mavx512f -mavx512dq -mavx512bw -mavx512vl -mprefer-vector-width=512",
    "avx2": "-mavx2 -mfma",
    "base": "",
}
ELEMENTS = {"f32": "float", "f64": "double", "i8": "int8_t", "u8": "uint8_t", "i16": "int16_t", "u16": "uint16_t",
            "i32": "int32_t", "u32": "uint32_t", "i64": "int64_t", "u64": "uint64_t"}  # fmt: skip


def sources():
    """Each object: its source and the options that CMake gives it."""
    found = {}
    for isa, flags in FLAGS.items():
        for kind in ("f32", "f64"):
            unit = f"vox_{isa}_{kind}"
            found[unit] = ("isa_unit.c", f"-DVOX_ISA_{isa} -DVOX_DOUBLE={int(kind == 'f64')} -DVOX_UNIT={unit} {flags}")
    for kind, element in ELEMENTS.items():
        unit = f"vox_elem_{kind}"
        found[unit] = ("elem_unit.c", f"-DVOX_ELEM={element} -DELEM_IS_FLOAT={int(kind[0] == 'f')} -DVOX_UNIT={unit}")
    for path in (*(ROOT / "csrc").glob("*.c"), *(ROOT / "csrc" / "drivers").glob("*.c")):
        if path.name not in ("isa_unit.c", "elem_unit.c"):
            have = "-DVOX_HAVE_avx512 -DVOX_HAVE_avx2" if path.name == "dispatch.c" else ""
            found[path.stem + "_"] = (path.relative_to(ROOT / "csrc").as_posix(), have)
    return found


def make(names, csrc, objects, how="-O3", compiler="cc"):
    """Compile these objects of a csrc into a folder."""
    for name in names:
        source, options = sources()[name]
        if "aarch64" in compiler:
            options = re.sub(r"-DVOX_HAVE_\S+", "", options)
        flags = f"-std=gnu11 {how} -fPIC -ffp-contract=off -fno-math-errno {options}".split()
        call([compiler, *flags, f"-I{csrc}", "-c", csrc / source, "-o", objects / f"{name}.o"])


def installed():
    """The library that the installed package uses; an editable installation keeps it elsewhere than sources."""
    import voxconv

    assert voxconv.runtime_info()["native"]
    maps = Path("/proc/self/maps").read_text().split()
    return next(Path(word) for word in maps if word.endswith("libvoxconv_kernels.so"))


def link(objects, program, compiler="cc", *options):
    """Make the fuzzer of objects, or of a library."""
    fuzz = ROOT / "tests" / "fuzz" / "fuzz.c"
    call([compiler, "-std=gnu11", "-O2", *options, "-o", program, fuzz, *objects, "-lm", "-lpthread"])
