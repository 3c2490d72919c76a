//! `cargo xtask rtl`: the FPGA's design, simulated, against the definition of its arithmetic.
//!
//! Without arguments: Verilator's lints, every unit's cases, then whole layers. With `--mutants` it asks the other way round whether the
//! cases would see a bug: it plants one in each file of a copy of the design, and each must make a test fail.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use crate::command::{self, cargo, run_watched};
use crate::{Result, setup};

const PACKAGE: &str = "smolvla-backend-fpga";
const FEATURES: [&str; 2] = ["--features", "rtl-sim"];

/// Names the folder with the design, for the crate's build script.
const FOLDER: &str = "SMOLVLA_RTL_DIR";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only tests with this in their names, such as a unit: gemm, quantise, norm, softmax, activate, rope, combine,
    /// copy, stream
    #[arg(long, value_name = "UNIT")]
    filter: Option<String>,
    /// Write a waveform (VCD) of that unit's cases there; the simulation is built anew, and slower
    #[arg(long, value_name = "FILE", requires = "filter")]
    trace: Option<PathBuf>,
    /// Plant a bug in each file of a copy of the design, and ask that a test fails (with `--filter`: in files with this
    /// in their paths); takes half an hour
    #[arg(long, conflicts_with = "trace")]
    mutants: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !setup::verilator_is_there() {
        return Err("no verilator: run `cargo xtask setup`, or `apt-get install verilator g++`".to_owned());
    }
    if arguments.mutants {
        return mutants(arguments.filter.as_deref());
    }
    lint()?;
    if arguments.trace.is_none() && arguments.filter.as_deref().is_none_or(|unit| unit == "gemm") {
        structural()?;
    }
    let mut command = cargo(["test", "--release", "--locked", "--package", PACKAGE]);
    command.args(FEATURES).args(["--test", "rtl"]);
    if arguments.trace.is_none() {
        command.args(["--test", "rtl_layers"]);
    }
    command.args(&arguments.filter).args(["--", "--nocapture", "--include-ignored"]);
    if let Some(file) = &arguments.trace {
        let file = std::path::absolute(file).map_err(|error| format!("{}: {error}", file.display()))?;
        command.env("SMOLVLA_RTL_TRACE", "1").env("SMOLVLA_RTL_TRACE_FILE", file);
    }
    let status = run_watched(&mut command, |_| ())?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every warning that Verilator has is an error; what is let pass says why where it is.
pub(crate) fn lint() -> Result {
    let design = design();
    let mut command = Command::new("verilator");
    command.current_dir(&design).args(["--lint-only", "-Wall", "--top-module", "smolvla_cu"]);
    let mut packages = vec!["smolvla_pkg.sv".to_owned()];
    let mut folders = BTreeSet::new();
    for file in files(&design) {
        let Some((folder, name)) = file.split_once('/') else { continue };
        folders.insert(folder.to_owned());
        if name.ends_with("_pkg.sv") {
            packages.push(file);
        }
    }
    // The model of the primitive is there.
    folders.insert("sim".to_owned());
    command.args(folders.iter().flat_map(|folder| ["-y", folder]));
    command.args(packages).arg("top/smolvla_cu.sv");
    // With the array that is synthesised.
    command::run(&mut command)?;
    command::run(command.arg("+define+PLAIN_ARRAY"))
}

/// The array as it is synthesised, of DSP48E2 slices (our own model of that primitive), which is too slow for whole
/// streams: its dot products beside plain ones, then the engine with either array beside the definition.
fn structural() -> Result {
    let script = design().join("sim/gemm/run.sh");
    let folder = command::root().join("target/rtl-gemm");
    command::run(Command::new("sh").arg(script).arg(folder).arg("quick").env("STRUCTURAL", "1"))
}

/// The design's files, without those for its simulation, relative to its folder.
fn files(design: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut folders = vec![design.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(design).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            if path.is_dir() && name != "sim" {
                folders.push(path);
            } else if name.ends_with(".sv") {
                files.push(name);
            }
        }
    }
    files.sort();
    files
}

/// A bug: a piece of a file's text and what takes its place, and a test that must see it.
struct Mutant {
    file: &'static str,
    from: &'static str,
    to: &'static str,
    test: &'static str,
}

const fn mutant(file: &'static str, test: &'static str, from: &'static str, to: &'static str) -> Mutant {
    Mutant { file, from, to, test }
}

const MUTANTS: &[Mutant] = &[
    mutant("axi/axi_read_master.sv", "copy", "{1'b0, burst_beats} - 8'd1", "{1'b0, burst_beats}"),
    mutant("axi/axi_write_master.sv", "copy", "splitter_idle && outstanding == '0", "splitter_idle"),
    mutant("axi/burst_splitter.sv", "copy", "7'd64 - {1'b0, addr[11:6]}", "7'd64"),
    mutant("axi/skid_buffer.sv", "copy", "spare_valid <= 1'b1", "spare_valid <= 1'b0"),
    mutant("axi/small_fifo.sv", "copy", "put != {~take[DEPTH_LOG2], take[DEPTH_LOG2-1:0]}", "1'b1"),
    mutant("top/control.sv", "cycles_are_counted", "cycles <= cycles + 1'b1", "cycles <= cycles + 2'd2"),
    mutant(
        "top/sequencer.sv",
        "stream",
        "{1'b0, place} == expected || place == '0",
        "{1'b0, place} == expected",
    ),
    mutant(
        "top/smolvla_cu.sv",
        "copy",
        "uses_gemm ? gemm_wr_strb : vector_wr_strb",
        "{64{!uses_gemm || gemm_wr_strb[0]}}",
    ),
    mutant(
        "gemm/activation_buffer.sv",
        "gemm",
        "2'd2: words[r] <= read_data[191:128]",
        "2'd2: words[r] <= read_data[127:64]",
    ),
    mutant(
        "gemm/buffer_memory.sv",
        "gemm",
        "read_data <= words[read_address];\n  end else",
        "read_data <= ~words[read_address];\n  end else",
    ),
    mutant("gemm/column_constants.sv", "gemm", "scale_memory[read_panel]", "scale_memory[read_panel & 2'd1]"),
    mutant(
        "gemm/gemm_array_plain.sv",
        "gemm",
        "48'(signed'(sum[63:32])) + 48'(sum[31])",
        "48'(signed'(sum[63:32]))",
    ),
    mutant("gemm/gemm_loader.sv", "gemm", "last_word < 6'd16", "last_word <= 6'd16"),
    mutant("gemm/gemm_requests.sv", "gemm", "words_beats(bias_address[5:2],", "words_beats(4'd0,"),
    mutant("gemm/gemm_sequencer.sv", "gemm", "step <= pass != 2'd1", "step <= 1'b1"),
    mutant(
        "gemm/gemm_writer.sv",
        "gemm",
        "requests_done <= cols_left <= 32'd16",
        "requests_done <= cols_left < 32'd16",
    ),
    mutant("gemm/requantise_lane.sv", "gemm", "(sum + 48'sd128) >>> 8", "sum >>> 8"),
    mutant(
        "gemm/row_scales.sv",
        "gemm",
        "row == rows - 32'd1 ? {11'd0, place}",
        "row == rows - 32'd1 ? 15'd0",
    ),
    mutant("gemm/weight_buffer.sv", "gemm", "write_data_1[c%8]", "write_data_1[c%4]"),
    mutant("fp/fp_add_lane.sv", "combine", "negative2 <= aligned1.negative", "negative2 <= 1'b0"),
    mutant("fp/fp_encode_lane.sv", "activate", "exponent2 <= exponent1", "exponent2 <= exponent1 + 16'sd1"),
    mutant("fp/fp_mul_lane.sv", "combine", "x1.negative != y1.negative", "x1.negative"),
    mutant("fp/fp_pkg.sv", "combine", "half && (rest || mantissa[0])", "half && rest"),
    mutant("fp/fp_pkg.sv", "quantise", "moved[24:1] + {23'd0, moved[0]}", "moved[24:1]"),
    mutant("tables/exp2_rom.sv", "softmax", "rom[7] = {17'd64306, 8'd174}", "rom[7] = {17'd64307, 8'd174}"),
    mutant("tables/gate_rom.sv", "activate", "rom[7] = {25'd10194896,", "rom[7] = {25'd10195896,"),
    mutant("vector/activate_lane.sv", "activate", "32'd2048", "32'd2047"),
    mutant("vector/activate_unit.sv", "activate", "multiply ? product : activated", "activated"),
    mutant("vector/combine_unit.sv", "combine", "add ? sum : product", "product"),
    mutant(
        "vector/copy_unit.sv",
        "copy",
        "out_data <= in_data",
        "out_data <= {in_data[511:31], in_data[30] && !in_data[29], in_data[29:0]}",
    ),
    mutant("vector/digit_pkg.sv", "softmax", ">> 8) - 8'd127 : q[7:0]", ">> 8) - 8'd126 : q[7:0]"),
    mutant(
        "vector/digit_transposer.sv",
        "quantise",
        "block - 64'd64 + {32'd0, plane}",
        "block + {32'd0, plane}",
    ),
    mutant(
        "vector/digit_writer.sv",
        "quantise",
        "head_destination + {32'd0, plane}",
        "head_destination + {32'd0, plane} + 64'd64",
    ),
    mutant("vector/divider.sv", "quantise", "!less[WIDTH]}", "!less[WIDTH] && left != 1}"),
    mutant(
        "vector/multiplier.sv",
        "norm",
        "default: sum = upper + thrice",
        "default: sum = upper + {2'd0, once}",
    ),
    mutant("vector/norm_lane.sv", "norm", "(34'sd1 <<< right) >>> 1", "34'sd0"),
    mutant("vector/norm_unit.sv", "norm", "sum < 0 && product[23:0] != 0", "1'b0"),
    mutant("vector/quantise_lane.sv", "quantise", "(51'd1 << 33)", "((51'd1 << 33) - 51'd1)"),
    mutant("vector/quantise_unit.sv", "quantise", "25'd1023", "25'd1024"),
    mutant("vector/rope_unit.sv", "rope", "product[31] ^ negated[2]", "product[31]"),
    mutant("vector/row_loader.sv", "softmax", "in_data[8*i +: 8] != 0", "in_data[8*i]"),
    mutant("vector/row_buffer.sv", "norm", "if (read1) read_data <= first", "if (read) read_data <= first"),
    mutant(
        "vector/row_reader.sv",
        "copy",
        "{1'b0, head_offset} + count <= 5'd16",
        "{1'b0, head_offset} + count < 5'd16",
    ),
    mutant("vector/row_statistics.sv", "norm", "key < lane_low ? key", "key > lane_low ? key"),
    mutant("vector/row_walker.sv", "quantise", "rows_left <= 32'd16 :", "rows_left < 32'd16 :"),
    mutant("vector/row_writer.sv", "copy", "ends >= 6'd16 ? 4'd0 : begins_now", "begins_now"),
    mutant("vector/softmax_lane.sv", "softmax", "+ 17'd128) >> 8", "+ 17'd127) >> 8"),
    mutant("vector/softmax_unit.sv", "softmax", "divisor[44:1]}", "divisor[44:1]} - 60'd1"),
    mutant("vector/square_root.sv", "norm", "next >= trial ? less", "next > trial ? less"),
    mutant("vector/vector_engine.sv", "activate", "reserved < 7'd64", "reserved < 7'd127"),
    mutant("vector/stream_fifo.sv", "copy", "written - taken != (BITS + 1)'(DEPTH)", "1'b1"),
];

/// Files without a bug planted in them: the structural twin, which is not in that simulation but in [`structural`]'s, and
/// what only has wires or types.
#[cfg(test)]
const SPARED: [&str; 8] = [
    "gemm/dot8.sv",
    "gemm/dsp_mac.sv",
    "gemm/gemm_array.sv",
    "gemm/gemm_array_dsp.sv",
    "gemm/gemm_engine.sv",
    "gemm/requantiser.sv",
    "gemm/skew.sv",
    "smolvla_pkg.sv",
];

fn design() -> PathBuf {
    command::root().join("crates/backend-fpga/rtl")
}

fn mutants(filter: Option<&str>) -> Result<ExitCode> {
    let chosen: Vec<&Mutant> =
        MUTANTS.iter().filter(|mutant| filter.is_none_or(|part| mutant.file.contains(part))).collect();
    if chosen.is_empty() {
        return Err(format!("no bug is planted in a file with `{}` in its path", filter.unwrap_or_default()));
    }
    let copy = command::root().join("target/rtl-mutants");
    if copy.exists() {
        std::fs::remove_dir_all(&copy).map_err(|error| format!("{}: {error}", copy.display()))?;
    }
    copy_folder(&design(), &copy)?;
    println!("the design without a bug");
    if !build(&copy)? || !passes(&copy, None)? {
        return Err("tests fail without any bug planted".to_owned());
    }
    let mut survivors = 0;
    for (i, mutant) in chosen.iter().enumerate() {
        let started = Instant::now();
        let outcome = plant(&copy, mutant)?;
        survivors += usize::from(outcome != "caught");
        println!(
            "{:2}/{} {outcome:13} {:32} by {:18} {} -> {} ({:.0} s)",
            i + 1,
            chosen.len(),
            mutant.file,
            mutant.test,
            mutant.from,
            mutant.to,
            started.elapsed().as_secs_f64()
        );
    }
    println!("{} of {} bugs caught", chosen.len() - survivors, chosen.len());
    Ok(if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plants a bug, tests, and takes it out again.
fn plant(copy: &Path, mutant: &Mutant) -> Result<&'static str> {
    let file = copy.join(mutant.file);
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    if text.matches(mutant.from).count() != 1 {
        return Err(format!("`{}` is not once in {}", mutant.from, mutant.file));
    }
    let write =
        |text: &str| std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()));
    write(&text.replace(mutant.from, mutant.to))?;
    let outcome = if !build(copy)? {
        "DOES NOT BUILD"
    } else if passes(copy, Some(mutant.test))? {
        "NOT CAUGHT"
    } else {
        "caught"
    };
    write(&text)?;
    Ok(outcome)
}

fn test(copy: &Path) -> Command {
    let mut command = cargo(["test", "--release", "--locked", "--quiet", "--package", PACKAGE]);
    // The build takes longer than the tests, so little is optimised.
    command.args(FEATURES).args(["--test", "rtl"]).env(FOLDER, copy).env("CXXFLAGS", "-O0");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn build(copy: &Path) -> Result<bool> {
    succeeded(test(copy).arg("--no-run"))
}

/// Whether tests pass; an error where they neither pass nor fail.
fn passes(copy: &Path, filter: Option<&str>) -> Result<bool> {
    let mut command = test(copy);
    let output = command.args(filter).stdout(Stdio::piped()).output();
    let output = output.map_err(|error| format!("cannot start cargo: {error}"))?;
    if output.status.success() || String::from_utf8_lossy(&output.stdout).contains("test result: FAILED") {
        return Ok(output.status.success());
    }
    Err(format!("the tests ended without a result ({})", output.status))
}

fn succeeded(command: &mut Command) -> Result<bool> {
    let status = command.status().map_err(|error| format!("cannot start cargo: {error}"))?;
    Ok(status.success())
}

fn copy_folder(from: &Path, to: &Path) -> Result {
    let failed = |error: std::io::Error| format!("cannot copy {}: {error}", from.display());
    std::fs::create_dir_all(to).map_err(failed)?;
    for entry in std::fs::read_dir(from).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            std::fs::copy(&path, &target).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_can_be_planted() {
        for mutant in MUTANTS {
            let text = std::fs::read_to_string(design().join(mutant.file)).unwrap();
            assert_eq!(text.matches(mutant.from).count(), 1, "{} in {}", mutant.from, mutant.file);
            assert_ne!(mutant.from, mutant.to);
        }
    }

    #[test]
    fn every_file_of_the_design_has_a_bug_or_is_spared() {
        let files = files(&design());
        let mut known: Vec<&str> = MUTANTS.iter().map(|mutant| mutant.file).chain(SPARED).collect();
        known.sort_unstable();
        known.dedup();
        assert_eq!(files, known);
    }
}
