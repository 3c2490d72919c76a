//! What this processor can do at most: arithmetic on registers alone, and reading memory.
//!
//! Each number is the best of several medians, so that a neighbour's burst of work does not lower it. The only unsafe
//! code of this package: instructions that the compiler must not assume, each behind its detection.
#![allow(unsafe_code, reason = "instructions beyond the baseline are called after their detection")]

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::statistics::median;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::amx_is_there;

/// In what numbers a product is computed. Each can stand in for those before it: an 8-bit product may also be computed
/// in bfloat16 or f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Arithmetic {
    /// 32-bit floats.
    F32,
    /// bfloat16 products summed in f32.
    Bf16,
    /// 8-bit integer products summed in 32 bits.
    Int8,
}

/// The ceilings of this machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ceilings {
    /// Arithmetic by instruction, on registers alone.
    pub(crate) compute: Vec<Ceiling>,
    /// Reading, by size of the buffer.
    pub(crate) reading: Vec<Ceiling>,
    /// Instructions that were not measured, and why.
    pub(crate) skipped: Vec<String>,
}

/// One measured limit.
#[derive(Clone, Debug)]
pub(crate) struct Ceiling {
    /// The instruction or the buffer, for people.
    pub(crate) name: String,
    /// Of the instruction; `None` for reading.
    pub(crate) arithmetic: Option<Arithmetic>,
    /// By number of threads: GFLOP/s (GOP/s for integers), or GB/s.
    pub(crate) rates: Vec<(usize, f64)>,
}

impl Ceiling {
    /// The rate with this many threads.
    pub(crate) fn rate(&self, threads: usize) -> Option<f64> {
        self.rates.iter().find(|(count, _)| *count == threads).map(|(_, rate)| *rate)
    }
}

impl Ceilings {
    /// Measures everything with each number of threads; `progress` hears what comes next.
    pub(crate) fn measure(threads: &[usize], progress: &mut dyn FnMut(&str)) -> Self {
        let (kernels, skipped) = kernels();
        let mut ceilings = Self { skipped, ..Self::default() };
        for kernel in kernels {
            progress(kernel.name);
            let rates = threads.iter().map(|&threads| (threads, kernel.best_rate(threads))).collect();
            ceilings.compute.push(Ceiling {
                name: kernel.name.to_owned(),
                arithmetic: Some(kernel.arithmetic),
                rates,
            });
        }
        for buffer in buffers(threads) {
            progress(&buffer.name);
            let rates = threads.iter().map(|&threads| (threads, buffer.best_rate(threads))).collect();
            ceilings.reading.push(Ceiling { name: buffer.name, arithmetic: None, rates });
        }
        ceilings
    }

    /// How many measurements [`Ceilings::measure`] takes.
    pub(crate) fn count() -> u64 {
        (kernels().0.len() + buffers(&[1]).len()) as u64
    }

    /// The most that a product in this arithmetic can reach: the fastest instruction that may compute it.
    pub(crate) fn of(&self, arithmetic: Arithmetic, threads: usize) -> Option<f64> {
        self.compute
            .iter()
            .filter(|ceiling| ceiling.arithmetic.is_some_and(|own| own <= arithmetic))
            .filter_map(|ceiling| ceiling.rate(threads))
            .max_by(f64::total_cmp)
    }
}

/// Medians taken of a measurement, of which the best counts.
const GROUPS: usize = 48;
/// Samples of a median.
const SAMPLES: usize = 3;
/// Length of a sample: long against the start of the threads, shorter than a scheduler's slice on a busy machine.
const SAMPLE: Duration = Duration::from_millis(2);

/// A loop over registers.
struct Kernel {
    name: &'static str,
    arithmetic: Arithmetic,
    operations_per_round: f64,
    /// Runs that many rounds, at least one.
    ///
    /// # Safety
    /// The processor must have the instructions: [`kernels`] lists only those that were detected.
    run: unsafe fn(u64),
}

impl Kernel {
    fn best_rate(&self, threads: usize) -> f64 {
        best_rate(threads, self.operations_per_round / 1e9, &|| {
            let run = self.run;
            // SAFETY: see `Kernel::run`.
            Box::new(move |rounds| unsafe { run(rounds) })
        })
    }
}

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u64; 8]);

/// A buffer of each thread's own that is read over and over.
struct Buffer {
    name: String,
    /// Of all threads together, where they share what holds it, or of each.
    size_bytes: usize,
    shared: bool,
}

impl Buffer {
    fn best_rate(&self, threads: usize) -> f64 {
        let size = if self.shared { self.size_bytes / threads } else { self.size_bytes };
        let blocks = (size / BLOCK_BYTES).max(1);
        best_rate(threads, BLOCK_BYTES as f64 / 1e9, &|| {
            const LINES: usize = BLOCK_BYTES / size_of::<Line>();
            // Written, so that every page is there.
            let buffer = vec![Line([1; 8]); blocks * LINES];
            let read = reader();
            let mut next = 0;
            Box::new(move |rounds| {
                for _ in 0..rounds {
                    let block = black_box(&buffer[next * LINES..][..LINES]);
                    // SAFETY: `reader` returns what this processor can run.
                    black_box(unsafe { read(block) });
                    next = (next + 1) % blocks;
                }
            })
        })
    }
}

/// What is read in one round; buffers are whole numbers of it.
const BLOCK_BYTES: usize = 64 << 10;

/// Lines that a reader takes in one round, each into a sum of its own.
const LINES_AT_ONCE: usize = 8;

/// Buffers that lie in the second cache, in the last, and in neither.
fn buffers(threads: &[usize]) -> Vec<Buffer> {
    let second = cache_bytes(2).unwrap_or(512 << 10);
    let last = cache_bytes(3).unwrap_or(16 << 20);
    let most_threads = threads.iter().copied().max().unwrap_or(1);
    // Halves, because code and other programs take their share.
    let mut buffers = vec![Buffer {
        name: format!("L2 ({} KiB a thread)", (second / 2) >> 10),
        size_bytes: second / 2,
        shared: false,
    }];
    if last / 2 / most_threads > 2 * second {
        buffers.push(Buffer {
            name: format!("L3 ({} MiB in all)", (last / 2) >> 20),
            size_bytes: last / 2,
            shared: true,
        });
    }
    let memory = (4 * last).clamp(256 << 20, 1 << 30);
    buffers.push(Buffer {
        name: format!("memory ({} MiB in all)", memory >> 20),
        size_bytes: memory,
        shared: true,
    });
    buffers
}

/// Size of the first processor's cache of a level, where Linux tells.
fn cache_bytes(level: u32) -> Option<usize> {
    (0..8).find_map(|index| {
        let read = |name: &str| {
            fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{name}")).ok()
        };
        if read("level")?.trim() != level.to_string() || read("type")?.trim() == "Instruction" {
            return None;
        }
        parse_size(read("size")?.trim())
    })
}

/// `32768K` or `32M` as Linux writes sizes.
fn parse_size(text: &str) -> Option<usize> {
    let (digits, factor) = match text.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => (text.strip_suffix('M')?, 1 << 20),
    };
    digits.parse::<usize>().ok()?.checked_mul(factor)
}

/// Units of work a second, with `work` units a round on each of `threads` threads that start together.
fn best_rate(threads: usize, work: f64, make: &(dyn Fn() -> Box<dyn FnMut(u64)> + Sync)) -> f64 {
    let rounds = calibrate(&mut make());
    let line = StartLine { threads, arrived: AtomicUsize::new(0) };
    let origin = Instant::now();
    // When each sample of each thread began and ended.
    let samples: Vec<Vec<[f64; 2]>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut run = make();
                    run(rounds);
                    (0..GROUPS * SAMPLES)
                        .map(|sample| {
                            line.wait(sample);
                            let started = origin.elapsed().as_secs_f64();
                            run(rounds);
                            [started, origin.elapsed().as_secs_f64()]
                        })
                        .collect()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a measuring loop does not panic")).collect()
    });
    // A sample lasts from the first start to the last end.
    let seconds: Vec<f64> = (0..GROUPS * SAMPLES)
        .map(|sample| {
            let first = samples.iter().map(|thread| thread[sample][0]).fold(f64::INFINITY, f64::min);
            samples.iter().map(|thread| thread[sample][1]).fold(0.0, f64::max) - first
        })
        .collect();
    let medians = seconds.chunks_exact(SAMPLES).map(|group| median(group.iter().copied()));
    threads as f64 * rounds as f64 * work / medians.fold(f64::INFINITY, f64::min)
}

/// Where threads wait for one another, awake: waking up takes longer than a sample may be off.
struct StartLine {
    threads: usize,
    arrived: AtomicUsize,
}

impl StartLine {
    /// Waits until every thread has come for the start of this number.
    fn wait(&self, start: usize) {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0_u32;
        while self.arrived.load(Ordering::Acquire) < (start + 1) * self.threads {
            spins += 1;
            if spins.is_multiple_of(4096) {
                // The other one may need this processor.
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// How many rounds make a sample.
fn calibrate(run: &mut dyn FnMut(u64)) -> u64 {
    let mut rounds = 1;
    loop {
        let started = Instant::now();
        run(rounds);
        let elapsed = started.elapsed();
        if elapsed >= SAMPLE / 4 {
            let needed = rounds as f64 * SAMPLE.as_secs_f64() / elapsed.as_secs_f64();
            return (needed as u64).max(1);
        }
        rounds *= 2;
    }
}

/// Sums the lines, eight sums at a time. Inlined, so that a caller with wider registers has it compiled for those.
#[inline(always)]
fn read_portable(lines: &[Line]) -> u64 {
    let mut sums = [Line([0; 8]); LINES_AT_ONCE];
    for block in lines.chunks_exact(LINES_AT_ONCE) {
        for (sum, line) in sums.iter_mut().zip(block) {
            for (sum, value) in sum.0.iter_mut().zip(line.0) {
                *sum ^= value;
            }
        }
    }
    sums.iter().flat_map(|line| line.0).fold(0, |sum, value| sum ^ value)
}

#[cfg(not(target_arch = "x86_64"))]
fn reader() -> unsafe fn(&[Line]) -> u64 {
    read_portable
}

/// Loops for processors without a module of their own here: whatever the compiler makes of a fused multiply-add.
#[cfg(not(target_arch = "x86_64"))]
fn kernels() -> (Vec<Kernel>, Vec<String>) {
    const LANES: usize = 64;
    fn run(rounds: u64) {
        let (a, b) = (black_box(0.999_f32), black_box(1e-3_f32));
        let mut sums = [0.0_f32; LANES];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = sum.mul_add(a, b);
            }
        }
        black_box(sums);
    }
    let kernel = Kernel {
        name: "f32 FMA",
        arithmetic: Arithmetic::F32,
        operations_per_round: 2.0 * LANES as f64,
        run,
    };
    (vec![kernel], Vec::new())
}

#[cfg(target_arch = "x86_64")]
use x86::{kernels, reader};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __cpuid, __cpuid_count, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm512_cvtne2ps_pbh,
        _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_set1_epi8, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_setzero_si512, _xgetbv,
    };
    use std::hint::black_box;

    use super::{Arithmetic, Kernel, Line, read_portable};

    /// Sums in flight: more than latency times throughput of any multiply-add, and few enough for the registers.
    const SUMS_512: usize = 16;
    const SUMS_256: usize = 12;

    /// The loops this processor can run, and why it cannot run the others.
    pub(super) fn kernels() -> (Vec<Kernel>, Vec<String>) {
        let (mut kernels, mut skipped) = (Vec::new(), Vec::new());
        let mut offer = |there: bool, kernel: Kernel| {
            if there {
                kernels.push(kernel);
            } else {
                skipped.push(format!("{}: this processor has no such instruction", kernel.name));
            }
        };
        let kernel = |name, arithmetic, operations_per_round: usize, run| Kernel {
            name,
            arithmetic,
            operations_per_round: operations_per_round as f64,
            run,
        };
        let avx512 = is_x86_feature_detected!("avx512f");
        offer(
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            kernel("f32 FMA (AVX2)", Arithmetic::F32, SUMS_256 * 16, avx2_f32),
        );
        offer(avx512, kernel("f32 FMA (AVX-512)", Arithmetic::F32, SUMS_512 * 32, avx512_f32));
        offer(
            avx512 && is_x86_feature_detected!("avx512bf16"),
            kernel("bf16 dot product (AVX512-BF16)", Arithmetic::Bf16, SUMS_512 * 64, avx512_bf16),
        );
        offer(
            avx512 && is_x86_feature_detected!("avx512vnni"),
            kernel("int8 dot product (AVX512-VNNI)", Arithmetic::Int8, SUMS_512 * 128, avx512_int8),
        );
        for (int8, kernel) in [
            (
                false,
                kernel(
                    "bf16 tiles (AMX)",
                    Arithmetic::Bf16,
                    4 * 16 * 16 * 32 * 2,
                    amx_bf16 as unsafe fn(u64),
                ),
            ),
            (true, kernel("int8 tiles (AMX)", Arithmetic::Int8, 4 * 16 * 16 * 64 * 2, amx_int8)),
        ] {
            match amx(int8) {
                Ok(()) => kernels.push(kernel),
                Err(reason) => skipped.push(format!("{}: {reason}", kernel.name)),
            }
        }
        (kernels, skipped)
    }

    /// The fastest way to read that this processor has.
    pub(super) fn reader() -> unsafe fn(&[Line]) -> u64 {
        if is_x86_feature_detected!("avx512f") {
            read_avx512
        } else if is_x86_feature_detected!("avx2") {
            read_avx2
        } else {
            read_portable
        }
    }

    /// Whether this processor has AMX tiles and the system lets this process use them.
    pub(crate) fn amx_is_there() -> bool {
        amx(false).is_ok()
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2_f32(rounds: u64) {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(1e-3)));
        let mut sums = [_mm256_setzero_ps(); SUMS_256];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    fn avx512_f32(rounds: u64) {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(1e-3)));
        let mut sums = [_mm512_setzero_ps(); SUMS_512];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn avx512_bf16(rounds: u64) {
        let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
        let (a, b) = (_mm512_cvtne2ps_pbh(a, a), _mm512_cvtne2ps_pbh(b, b));
        let mut sums = [_mm512_setzero_ps(); SUMS_512];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn avx512_int8(rounds: u64) {
        let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-5)));
        let mut sums = [_mm512_setzero_si512(); SUMS_512];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }

    /// As the baseline's, compiled for wider registers.
    #[target_feature(enable = "avx2")]
    fn read_avx2(lines: &[Line]) -> u64 {
        read_portable(lines)
    }

    #[target_feature(enable = "avx512f")]
    fn read_avx512(lines: &[Line]) -> u64 {
        use std::arch::x86_64::{_mm512_load_si512, _mm512_reduce_add_epi64, _mm512_xor_si512};
        let mut sums = [_mm512_setzero_si512(); super::LINES_AT_ONCE];
        for block in lines.chunks_exact(super::LINES_AT_ONCE) {
            for (sum, line) in sums.iter_mut().zip(block) {
                // SAFETY: a line is 64 readable bytes, aligned to 64.
                let line = unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
                *sum = _mm512_xor_si512(*sum, line);
            }
        }
        let sum = sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_xor_si512(a, b));
        _mm512_reduce_add_epi64(sum).cast_unsigned()
    }

    /// Rows and bytes a row of every tile: 16 × 64, all a tile can hold. As LDTILECFG reads it.
    #[repr(C, align(64))]
    struct TileConfig {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    impl TileConfig {
        /// Eight tiles; the entries after them must be zero.
        fn full() -> Self {
            let mut config =
                Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
            config.row_bytes[..8].fill(64);
            config.rows[..8].fill(16);
            config
        }
    }

    /// One tile's bytes.
    #[repr(C, align(64))]
    struct TileData([u16; 512]);

    macro_rules! amx_loop {
        ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
            $(#[$doc])*
            ///
            /// # Safety
            /// [`amx`] must have said that the instruction may be used; `rounds` must not be 0.
            unsafe fn $name(rounds: u64) {
                let config = TileConfig::full();
                // Ones in bfloat16: nothing becomes infinite or subnormal.
                let data = TileData([0x3F80; 512]);
                // SAFETY: the caller vouches for the instructions. Tiles are configured before their use and released
                // after it within this block; it reads the 64 bytes of `config` and, 16 rows of 64 bytes apart by 64,
                // the 1,024 bytes of `data`; it writes no memory, and every tile register is declared as clobbered.
                unsafe {
                    std::arch::asm!(
                        "ldtilecfg [{config}]",
                        "tilezero tmm0",
                        "tilezero tmm1",
                        "tilezero tmm2",
                        "tilezero tmm3",
                        "tileloadd tmm4, [{data} + {stride}*1]",
                        "tileloadd tmm5, [{data} + {stride}*1]",
                        "tileloadd tmm6, [{data} + {stride}*1]",
                        "tileloadd tmm7, [{data} + {stride}*1]",
                        "2:",
                        concat!($instruction, " tmm0, tmm4, tmm6"),
                        concat!($instruction, " tmm1, tmm4, tmm7"),
                        concat!($instruction, " tmm2, tmm5, tmm6"),
                        concat!($instruction, " tmm3, tmm5, tmm7"),
                        "dec {rounds}",
                        "jnz 2b",
                        "tilerelease",
                        config = in(reg) &raw const config,
                        data = in(reg) &raw const data,
                        stride = in(reg) 64_usize,
                        rounds = inout(reg) rounds => _,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack, readonly),
                    );
                }
            }
        };
    }

    amx_loop!(
        /// Four sums of 16 × 16 f32, each a product of 16 × 32 by 32 × 16 bfloat16.
        amx_bf16,
        "tdpbf16ps"
    );
    amx_loop!(
        /// Four sums of 16 × 16 32-bit integers, each a product of 16 × 64 by 64 × 16 signed bytes.
        amx_int8,
        "tdpbssd"
    );

    /// Whether AMX can be used, in 8-bit integers or in bfloat16; asks the system for the tiles' state.
    fn amx(int8: bool) -> Result<(), String> {
        const BF16: u32 = 1 << 22;
        const TILE: u32 = 1 << 24;
        const INT8: u32 = 1 << 25;
        let needed = TILE | if int8 { INT8 } else { BF16 };
        let highest = __cpuid(0).eax;
        if highest < 7 || __cpuid_count(7, 0).edx & needed != needed {
            return Err("this processor has no such instruction".to_owned());
        }
        // Both tile components must be switched on by the system: XTILECFG and XTILEDATA.
        // SAFETY: XSAVE is detected first, and the detection includes that the system has enabled it.
        let enabled = is_x86_feature_detected!("xsave") && unsafe { _xgetbv(0) } >> 17 & 3 == 3;
        if !enabled {
            return Err("the operating system has not switched tiles on".to_owned());
        }
        permission()
    }

    /// Asks Linux once to let this process's threads use tiles.
    #[cfg(target_os = "linux")]
    fn permission() -> Result<(), String> {
        use std::sync::OnceLock;

        static ANSWER: OnceLock<i64> = OnceLock::new();
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XTILEDATA: i64 = 18;
        let answer = *ANSWER.get_or_init(|| {
            let answer: i64;
            // SAFETY: arch_prctl with these arguments changes no memory of this process; the system call clobbers
            // rcx and r11 and returns in rax.
            unsafe {
                std::arch::asm!(
                    "syscall",
                    inlateout("rax") ARCH_PRCTL => answer,
                    in("rdi") ARCH_REQ_XCOMP_PERM,
                    in("rsi") XTILEDATA,
                    lateout("rcx") _,
                    lateout("r11") _,
                    options(nostack),
                );
            }
            answer
        });
        match answer {
            0 => Ok(()),
            error => Err(format!("Linux refuses the use of tiles (arch_prctl returned {error})")),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn permission() -> Result<(), String> {
        Err("only Linux is asked for the use of tiles".to_owned())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn tile_configuration_has_the_layout_of_ldtilecfg() {
            assert_eq!((size_of::<TileConfig>(), size_of::<TileData>()), (64, 1024));
            assert_eq!(std::mem::offset_of!(TileConfig, row_bytes), 16);
            assert_eq!(std::mem::offset_of!(TileConfig, rows), 48);
            let config = TileConfig::full();
            assert_eq!((config.row_bytes[7], config.row_bytes[8]), (64, 0));
            assert_eq!((config.rows[7], config.rows[8]), (16, 0));
        }

        #[test]
        fn readers_agree() {
            let lines: Vec<Line> = (0..32).map(|index| Line([index * 77; 8].map(|v| v << 3))).collect();
            // Eight equal numbers: their exclusive or is nothing, whatever the order.
            assert_eq!(read_portable(&lines), 0);
            let lines: Vec<Line> = (0..8).map(|index| Line([1 << index, 0, 0, 0, 0, 0, 0, 0])).collect();
            assert_eq!(read_portable(&lines), 255);
            // SAFETY: `reader` returns what this processor can run.
            assert_eq!(unsafe { reader()(&lines) }, 255);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceiling(name: &str, arithmetic: Arithmetic, rate: f64) -> Ceiling {
        Ceiling { name: name.to_owned(), arithmetic: Some(arithmetic), rates: vec![(2, rate)] }
    }

    #[test]
    fn the_ceiling_of_a_precision_is_the_fastest_instruction_that_may_compute_it() {
        let ceilings = Ceilings {
            compute: vec![
                ceiling("fma", Arithmetic::F32, 200.0),
                ceiling("bf16", Arithmetic::Bf16, 100.0),
                ceiling("vnni", Arithmetic::Int8, 800.0),
            ],
            ..Ceilings::default()
        };
        assert_eq!(ceilings.of(Arithmetic::F32, 2), Some(200.0));
        // A bfloat16 instruction slower than f32's is no ceiling.
        assert_eq!(ceilings.of(Arithmetic::Bf16, 2), Some(200.0));
        assert_eq!(ceilings.of(Arithmetic::Int8, 2), Some(800.0));
        assert_eq!(ceilings.of(Arithmetic::Int8, 1), None);
    }

    #[test]
    fn sizes_are_read_as_linux_writes_them() {
        assert_eq!(parse_size("1024K"), Some(1 << 20));
        assert_eq!(parse_size("32M"), Some(32 << 20));
        assert_eq!(parse_size("32"), None);
    }

    #[test]
    fn rates_count_the_work_of_all_threads() {
        // A round of a millisecond's sleep on each of two threads: at most 2,000 rounds a second, and not far below.
        let rate = best_rate(2, 1.0, &|| Box::new(|rounds| thread::sleep(Duration::from_millis(rounds))));
        assert!((500.0..=2000.0).contains(&rate), "{rate}");
    }

    #[test]
    fn every_instruction_is_measured_or_said_to_be_skipped() {
        let (kernels, skipped) = kernels();
        let expected = if cfg!(target_arch = "x86_64") { 6 } else { 1 };
        assert_eq!(kernels.len() + skipped.len(), expected, "{skipped:?}");
        for kernel in &kernels {
            assert!(kernel.best_rate(1) > 1.0, "{}", kernel.name);
        }
    }
}
