#!/bin/sh
# Builds and runs the tests of rtl/gemm: run.sh BUILD_FOLDER [gemm_test's arguments]; with STRUCTURAL=1 in the
# environment also with the structural twin.
set -eu
build=$1
shift
cd "$(dirname "$0")/../.."
sources="smolvla_pkg.sv fp/fp_pkg.sv fp/fp_encode_lane.sv fp/fp_add_lane.sv $(ls gemm/*.sv) sim/DSP48E2.sv"
make_one() { # folder, top, test, options
  mkdir -p "$build/$1"
  verilator --cc --exe --build -O3 --x-assign fast --x-initial fast -Wno-UNUSEDPARAM -CFLAGS "$optimise -std=c++17" \
    --Mdir "$build/$1" --top-module "$2" $4 $sources sim/gemm/dot8_pair.sv "$PWD/sim/gemm/$3" -o test >"$build/$1.log" 2>&1 ||
    { cat "$build/$1.log"; exit 1; }
}
optimise=-O2
make_one dot8 dot8_pair dot8_test.cpp ""
make_one plain gemm_engine gemm_test.cpp -DPLAIN_ARRAY
"$build/dot8/test"
"$build/plain/test" "$@"
if [ "${STRUCTURAL:-}" ]; then
  optimise=-O1
  make_one structural gemm_engine gemm_test.cpp ""
  "$build/structural/test" "${1:-quick}"
fi
