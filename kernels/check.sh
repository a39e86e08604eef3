#!/usr/bin/env bash
# The kernels' own tests under everything that finds what tests alone do not. Needs a C++ compiler; no Python.
#
#   kernels/check.sh [plain] [memory] [threads] [arm] [valgrind]      default: the first four
#
#   plain     -O3 as installed (or the library named by CROSSMAMBA_KERNELS), all cases, 1, 2 and 3 threads of libgomp
#   memory    AddressSanitizer and UndefinedBehaviorSanitizer, every 4th case. Buffers have exactly the size they need.
#   threads   ThreadSanitizer, every 12th case, 2 and 3 threads. It cannot see inside libgomp and would call every task a
#             race, so the same objects run on tests/openmp_threads.cpp: libgomp's functions on std::thread.
#   arm       compiled for AArch64 (NEON) and run under qemu-aarch64, every 12th case
#   valgrind  -O3, every 40th case. Valgrind knows no AVX-512, so that is left out.
#
# Every check ends as "passed", "FAILED" or "not run: reason"; exit code 1 if one failed. About 2 minutes on 2 cores.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

CXX="${CXX:-g++}"
ARM_CXX="${ARM_CXX:-aarch64-linux-gnu-g++}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
results=()
export OMP_WAIT_POLICY=passive  # threads that spin while they wait slow everything down on a busy machine

FLAGS="-std=c++17 -fopenmp -fno-exceptions -fno-rtti -ffp-contract=off -fno-math-errno -fno-trapping-math -Wall -Wextra"
FLAGS+=" -Werror -Wno-maybe-uninitialized -Wno-uninitialized"
case "$("$CXX" -dumpmachine 2>/dev/null)" in x86_64*) X86=1 ;; *) X86= ;; esac

say() { printf '%-9s %s (%d s)\n' "$1" "$2" "$((SECONDS - started))"; results+=("$2"); }

# objects FOLDER COMPILER X86 FLAGS...: the kernels and their tests, two compilers at a time.
objects() {
    local folder="$work/$1" compiler="$2" x86="$3" sets=(baseline) failed=0 set extra jobs=()
    shift 3
    mkdir -p "$folder"
    if [ -n "$x86" ]; then
        sets=(avx512 avx2 baseline)
        set -- "$@" -march=x86-64 -DCM_HAVE_X86
    fi
    for set in "${sets[@]}"; do
        case "$set" in
            avx512) extra="-mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mf16c" ;;
            avx2) extra="-mavx2 -mfma -mf16c" ;;
            *) extra="" ;;
        esac
        # shellcheck disable=SC2086
        "$compiler" $FLAGS "$@" $extra -DCM_NAMESPACE="cm_$set" -DCM_TABLE="${set}_kernels" \
            -c src/kernels.cpp -o "$folder/$set.o" & jobs+=($!)
        [ "${#jobs[@]}" -lt 2 ] || { wait "${jobs[0]}" || failed=1; jobs=("${jobs[@]:1}"); }
    done
    # shellcheck disable=SC2086
    "$compiler" $FLAGS "$@" -c src/dispatch.cpp -o "$folder/dispatch.o" || failed=1
    # shellcheck disable=SC2086
    "$compiler" $FLAGS "$@" -fexceptions -c tests/test_scan.cpp -o "$folder/test_scan.o" || failed=1
    for set in "${jobs[@]}"; do wait "$set" || failed=1; done
    return "$failed"
}

verdict() { if [ "$2" = 0 ]; then say "$1" passed; else say "$1" FAILED; fi; }

plain() {
    if [ -n "${CROSSMAMBA_KERNELS:-}" ]; then
        "$CXX" -std=c++17 -O2 tests/test_scan.cpp "$CROSSMAMBA_KERNELS" -lgomp -o "$work/test_plain"
    else
        objects plain "$CXX" "$X86" -O3 && "$CXX" -fopenmp "$work"/plain/*.o -o "$work/test_plain"
    fi && timeout 600 "$work/test_plain" 1 1 2 3
    verdict plain $?
}

memory() {  # memset(NULL, 0, 0) of an empty array is allowed here, as in the next C standard
    local sanitize="-fsanitize=address,undefined -fno-sanitize=nonnull-attribute -fno-sanitize-recover=all"
    # shellcheck disable=SC2086
    objects memory "$CXX" "$X86" -O1 -g1 $sanitize &&
        "$CXX" $sanitize -fopenmp "$work"/memory/*.o -o "$work/test_memory" && timeout 600 "$work/test_memory" 4 1 2
    verdict memory $?
}

threads() {
    objects threads "$CXX" "$X86" -O1 -g1 -fsanitize=thread &&
        "$CXX" -std=c++17 -O1 -g1 -fsanitize=thread "$work"/threads/*.o tests/openmp_threads.cpp -o "$work/test_threads" &&
        TSAN_OPTIONS=halt_on_error=1 timeout 600 "$work/test_threads" 12 2 3
    verdict threads $?
}

arm() {
    if ! command -v "$ARM_CXX" >/dev/null; then
        say arm "not run: no aarch64 toolchain (on Debian: apt install g++-aarch64-linux-gnu qemu-user)"
    elif ! command -v qemu-aarch64 >/dev/null; then
        say arm "not run: no qemu-aarch64 (on Debian: apt install qemu-user)"
    else
        objects arm "$ARM_CXX" "" -O2 && "$ARM_CXX" -static "$work"/arm/*.o -fopenmp -o "$work/test_arm" 2>"$work/arm.txt" &&
            timeout 600 qemu-aarch64 "$work/test_arm" 12 1 2 || { cat "$work/arm.txt"; false; }
        verdict arm $?
    fi
}

valgrind_() {
    command -v valgrind >/dev/null || { say valgrind "not run: no valgrind (on Debian: apt install valgrind)"; return; }
    objects valgrind "$CXX" "$X86" -O3 -g1 && "$CXX" -fopenmp "$work"/valgrind/*.o -o "$work/test_valgrind" &&
        valgrind -q --error-exitcode=1 "$work/test_valgrind" 40 1 2
    verdict valgrind $?
}

[ $# -gt 0 ] || set -- plain memory threads arm
command -v "$CXX" >/dev/null || { echo "not run: no C++ compiler ($CXX)"; exit 0; }
for check in "$@"; do
    started=$SECONDS
    case "$check" in
        plain | memory | threads | arm) "$check" ;;
        valgrind) valgrind_ ;;
        *) echo "check.sh: unknown check $check (plain, memory, threads, arm, valgrind)" >&2; exit 2 ;;
    esac
done
for result in "${results[@]}"; do [ "$result" != FAILED ] || exit 1; done
