"""Compiles the kernels while hatchling makes the wheel.

A wheel holds `__init__.py` and the shared library; its tag is py3-none-<platform>, because the library needs no Python.
On x86-64 `kernels.cpp` is compiled three times, for AVX-512, AVX2 and the baseline, and the processor is asked when the
library runs; elsewhere the baseline is what the compiler makes of vectors of four floats. CXXFLAGS is not read: a
-march in it would put instructions into the baseline that some processors lack.

OpenMP is compiled in but not linked: at run time the kernels share the threads of torch's own OpenMP. torch brings
GNU's, so with a compiler that calls another one's functions (clang) the kernels are built for one thread.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE, LIBRARY = "crossmamba_kernels", "libcrossmamba_kernels.so"
COMPILERS = ("g++", "c++", "clang++")  # GNU's first: its OpenMP is the one that torch brings
FLAGS = (
    "-std=c++17 -O3 -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti "
    "-ffp-contract=off -fno-math-errno -fno-trapping-math -w"
)
X86_SETS = {  # what each instruction set adds to -march=x86-64; the slowest to compile comes first
    "avx512": "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mf16c",
    "avx2": "-mavx2 -mfma -mf16c",
    "baseline": "",
}
PROBE = """
#if !defined(__GNUC__) || (!defined(__clang__) && __GNUC__ < 11)
#error "the kernels need GCC 11 or newer, or clang"
#endif
void probe(float *p) {
#pragma omp parallel for
    for (int i = 0; i < 4; i++) p[i] = 0.0f;
}
"""


class BuildError(Exception):
    """Why the kernels cannot be built here, and what would help."""


class CustomBuildHook(BuildHookInterface):
    """Called by hatchling before it packs a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds the library and adds it; in place for an editable installation ("editable"), else out of sight."""
        root = Path(self.root)
        self._folder = tempfile.TemporaryDirectory(prefix="crossmamba-kernels-")
        target = root / PACKAGE / LIBRARY if version == "editable" else Path(self._folder.name, LIBRARY)
        try:
            build(root / "src", target, self.app.display_info, self.app.display_warning)
        except BuildError as error:
            self.app.abort(f"crossmamba-kernels was not built: {error}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag()}"
        build_data["force_include"][str(target)] = f"{PACKAGE}/{LIBRARY}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes the intermediate files."""
        self._folder.cleanup()


def build(source: Path, target: Path, say: Any, warn: Any) -> None:
    """Compiles and links `target`.

    Args:
        source: folder of kernels.cpp and dispatch.cpp. say, warn: called with a line for the user.

    Raises:
        BuildError: no compiler, one that will not do, or an error while compiling.
    """
    compiler = find_compiler()
    with tempfile.TemporaryDirectory(prefix="crossmamba-kernels-") as folder:
        machine, openmp, reason = probe(compiler, Path(folder))
        if not openmp:
            warn(f"crossmamba-kernels: built for a single thread, because {reason}")
        x86 = machine.startswith(("x86_64", "amd64"))
        common = [*FLAGS.split(), *openmp, *(["-march=x86-64", "-DCM_HAVE_X86"] if x86 else [])]
        jobs = [
            (
                f"{isa}.o",
                [*extra.split(), f"-DCM_NAMESPACE=cm_{isa}", f"-DCM_TABLE={isa}_kernels", str(source / "kernels.cpp")],
            )
            for isa, extra in X86_SETS.items()
            if x86 or isa == "baseline"
        ]
        jobs.append(("dispatch.o", [str(source / "dispatch.cpp")]))
        say(f"crossmamba-kernels: {len(jobs)} objects for {machine} with {shlex.join(compiler)}")

        def compile_one(job: tuple[str, list[str]]) -> str:
            name, arguments = job
            made = str(Path(folder, name))
            run([*compiler, *common, *arguments, "-c", "-o", made])
            return made

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, jobs))
        link(compiler, objects, target)


def find_compiler() -> list[str]:
    """The C++ compiler's command: $CXX, or the first of `COMPILERS` on the path."""
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        if shutil.which(named[0]) is None:
            raise BuildError(f"CXX={os.environ['CXX']!r} is not a program that can be run")
        found = named
    else:
        found = next(([name] for name in COMPILERS if shutil.which(name)), [])
    if not found and shutil.which("cl"):
        found = ["cl"]
    if not found:
        raise BuildError(
            f"no C++ compiler found (looked for $CXX, {', '.join(COMPILERS)}). On Debian and Ubuntu: apt install g++; "
            "on Fedora: dnf install gcc-c++; on macOS: xcode-select --install"
        )
    if Path(found[-1]).stem.lower() == "cl":
        raise BuildError("Microsoft's compiler has no vector extensions: install clang and set CXX=clang++")
    return found


def probe(compiler: list[str], folder: Path) -> tuple[str, list[str], str]:
    """What the compiler compiles for, its flags for OpenMP if they work (else none), and why they do not."""
    machine = run([*compiler, "-dumpmachine"]).strip()
    source, made = folder / "probe.cpp", folder / "probe.o"
    source.write_text(PROBE)
    command = [*compiler, "-w", "-c", str(source), "-o", str(made)]
    run(command)
    try:
        run([*command, "-fopenmp"])
    except BuildError:
        return machine, [], "the compiler does not know -fopenmp"
    if b"GOMP_" not in made.read_bytes():
        return machine, [], "the compiler's OpenMP is not GNU's, which torch brings: build with CXX=g++ for threads"
    return machine, ["-fopenmp"], ""


def link(compiler: list[str], objects: list[str], target: Path) -> None:
    """Links nothing but the C library, with nothing to be seen from outside but the C interface."""
    command = [*compiler, "-shared", *objects, "-o", str(target)]
    if sys.platform == "darwin":
        run([*command, "-undefined", "dynamic_lookup"])
        return
    command.append("-Wl,--exclude-libs,ALL")
    try:
        run([*command, "-static-libgcc", "-static-libstdc++"])
    except BuildError:  # Fedora keeps the static C++ library in a package of its own
        run(command)


def run(command: list[str]) -> str:
    """The output of a command. Raises BuildError with what it said if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        raise BuildError(f"the compiler says\n{done.stdout[:4000]}\nto this command:\n{shlex.join(command)}")
    return done.stdout


def platform_tag() -> str:
    """linux_x86_64 and the like: the library is for the machine on which it is made."""
    if sys.platform == "darwin":
        release = platform.mac_ver()[0].split(".")
        return f"macosx_{release[0]}_0_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
