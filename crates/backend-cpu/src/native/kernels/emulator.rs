//! AMX in software, for tests: the AMX kernels executed under emulation, instruction by instruction, because this
//! processor lacks AMX.
//!
//! An AMX instruction raises SIGILL there. The handler decodes it, executes it on tiles of its own, one set a thread,
//! and continues behind it: what is tested is the kernels' machine code. Semantics are those of Intel's manual (volume 2,
//! `LDTILECFG`, `TDPBF16PS`, …), for the instructions that the kernels use. What the manual calls a fault aborts the
//! process with the reason and the instruction.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr;
use std::sync::Once;

/// Lets AMX instructions run on a processor without AMX, from now on and on all threads.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: all zeros are a valid `sigaction`, with an empty mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = on_illegal_instruction as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the handler has the signature that SA_SIGINFO asks for. It neither allocates nor locks.
        let status = unsafe { libc::sigaction(libc::SIGILL, &raw const action, ptr::null_mut()) };
        assert_eq!(status, 0, "cannot catch SIGILL");
    });
}

/// Why an instruction faults.
type Fault = &'static str;

/// The tile state of one thread.
struct Tiles {
    /// Rows and bytes of a row of each tile; zero where it is not configured.
    shapes: [(usize, usize); 8],
    tiles: [[[u8; 64]; 16]; 8],
}

impl Tiles {
    /// The state before any instruction.
    const fn new() -> Self {
        Self { shapes: [(0, 0); 8], tiles: [[[0; 64]; 16]; 8] }
    }

    /// `ldtilecfg`
    fn configure(&mut self, bytes: &[u8; 64]) -> Result<(), Fault> {
        *self = Self::new();
        if bytes[0] == 0 {
            return Ok(());
        }
        if bytes[0] != 1 || bytes[1] != 0 {
            return Err("only palette 1, from row 0 on, is emulated");
        }
        let unused = [&bytes[2..16], &bytes[32..48], &bytes[56..64]];
        if unused.iter().any(|part| part.iter().any(|byte| *byte != 0)) {
            return Err("a reserved byte of the configuration is not zero");
        }
        for (tile, shape) in self.shapes.iter_mut().enumerate() {
            let rows = usize::from(bytes[48 + tile]);
            let row_bytes = usize::from(u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]]));
            if rows > 16 || row_bytes > 64 || (rows == 0) != (row_bytes == 0) {
                return Err("a tile is larger than 16 rows of 64 bytes, or half empty");
            }
            *shape = (rows, row_bytes);
        }
        Ok(())
    }

    /// `tilezero`
    fn zero(&mut self, tile: usize) -> Result<(), Fault> {
        self.shape(tile)?;
        self.tiles[tile] = [[0; 64]; 16];
        Ok(())
    }

    /// `tileloadd`
    ///
    /// # Safety
    /// The tile's rows are readable at `address`, each `stride` bytes after the one before.
    unsafe fn load(&mut self, tile: usize, address: usize, stride: usize) -> Result<(), Fault> {
        let (rows, row_bytes) = self.shape(tile)?;
        self.zero(tile)?;
        for (i, row) in self.tiles[tile][..rows].iter_mut().enumerate() {
            let from = address.wrapping_add(stride.wrapping_mul(i)) as *const u8;
            // SAFETY: the caller's; `configure` allows 64 bytes at most.
            unsafe { ptr::copy_nonoverlapping(from, row.as_mut_ptr(), row_bytes) };
        }
        Ok(())
    }

    /// `tilestored`
    ///
    /// # Safety
    /// The tile's rows are writable at `address`, each `stride` bytes after the one before.
    unsafe fn store(&self, tile: usize, address: usize, stride: usize) -> Result<(), Fault> {
        let (rows, row_bytes) = self.shape(tile)?;
        for (i, row) in self.tiles[tile][..rows].iter().enumerate() {
            let to = address.wrapping_add(stride.wrapping_mul(i)) as *mut u8;
            // SAFETY: the caller's; `configure` allows 64 bytes at most.
            unsafe { ptr::copy_nonoverlapping(row.as_ptr(), to, row_bytes) };
        }
        Ok(())
    }

    /// `tdpbf16ps`: even and odd products of a row are summed apart and from zero, then added to `sum`. Every step rounds
    /// to nearest even and takes denormals as zero.
    fn dot_bf16(&mut self, sum: usize, a: usize, b: usize) -> Result<(), Fault> {
        // Without the instruction a fused product is a call.
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has both.
            unsafe { self.dot_bf16_by_fma(sum, a, b) }
        } else {
            self.dot_bf16_anywhere(sum, a, b)
        }
    }

    #[target_feature(enable = "avx2,fma")]
    fn dot_bf16_by_fma(&mut self, sum: usize, a: usize, b: usize) -> Result<(), Fault> {
        self.dot_bf16_anywhere(sum, a, b)
    }

    #[inline(always)]
    fn dot_bf16_anywhere(&mut self, sum: usize, a: usize, b: usize) -> Result<(), Fault> {
        let (rows, columns, groups) = self.dot_shape(sum, a, b)?;
        for row in 0..rows {
            let mut parts = [[0.0_f32; 2]; 16];
            for group in 0..groups {
                let [a0, a1, a2, a3] = self.group(a, row, group);
                for (column, parts) in parts[..columns].iter_mut().enumerate() {
                    let [b0, b1, b2, b3] = self.group(b, group, column);
                    parts[0] = flush(from_bf16([a0, a1]).mul_add(from_bf16([b0, b1]), parts[0]));
                    parts[1] = flush(from_bf16([a2, a3]).mul_add(from_bf16([b2, b3]), parts[1]));
                }
            }
            for (column, [even, odd]) in parts[..columns].iter().enumerate() {
                let old = flush(f32::from_le_bytes(self.group(sum, row, column)));
                let new = flush(old + flush(even + odd));
                self.set_group(sum, row, column, new.to_le_bytes());
            }
        }
        Ok(())
    }

    /// `tdpbusd`: unsigned times signed bytes, summed modulo 2³².
    fn dot_unsigned_signed(&mut self, sum: usize, a: usize, b: usize) -> Result<(), Fault> {
        let (rows, columns, groups) = self.dot_shape(sum, a, b)?;
        for row in 0..rows {
            for column in 0..columns {
                let mut new = i32::from_le_bytes(self.group(sum, row, column));
                for group in 0..groups {
                    for (a, b) in self.group(a, row, group).into_iter().zip(self.group(b, group, column)) {
                        new = new.wrapping_add(i32::from(a) * i32::from(b.cast_signed()));
                    }
                }
                self.set_group(sum, row, column, new.to_le_bytes());
            }
        }
        Ok(())
    }

    /// The result of the instruction at `ip`, and the instruction's length. `None` where it is none of AMX's.
    ///
    /// # Safety
    /// `ip` is at an instruction that this processor refused, with these registers.
    unsafe fn execute(&mut self, ip: *const u8, registers: &[u64; 16]) -> Option<(Result<(), Fault>, usize)> {
        // SAFETY: the caller's.
        let (instruction, length) = unsafe { decode(ip, registers) }?;
        // SAFETY: what memory an instruction may use is for those to know who wrote it.
        let result = unsafe {
            match instruction {
                Instruction::Configure(address) => self.configure(&*(address as *const [u8; 64])),
                Instruction::Release => self.configure(&[0; 64]),
                Instruction::Zero(tile) => self.zero(tile),
                Instruction::Load(tile, address, stride) => self.load(tile, address, stride),
                Instruction::Store(tile, address, stride) => self.store(tile, address, stride),
                Instruction::DotBf16([sum, a, b]) => self.dot_bf16(sum, a, b),
                Instruction::DotUnsignedSigned([sum, a, b]) => self.dot_unsigned_signed(sum, a, b),
            }
        };
        Some((result, length))
    }

    /// Rows, and bytes of a row.
    fn shape(&self, tile: usize) -> Result<(usize, usize), Fault> {
        let shape = self.shapes[tile];
        if shape == (0, 0) { Err("the tile is not configured") } else { Ok(shape) }
    }

    /// Rows and columns of `sum`, and groups of four bytes in a row of `a`.
    fn dot_shape(&self, sum: usize, a: usize, b: usize) -> Result<(usize, usize, usize), Fault> {
        if sum == a || a == b || b == sum {
            return Err("the three tiles of a product must differ");
        }
        let (sum, a, b) = (self.shape(sum)?, self.shape(a)?, self.shape(b)?);
        if sum.1 % 4 != 0 || a.1 % 4 != 0 || sum.0 != a.0 || sum.1 != b.1 || a.1 / 4 != b.0 {
            return Err("the shapes of a product's tiles do not fit");
        }
        Ok((sum.0, sum.1 / 4, a.1 / 4))
    }

    fn group(&self, tile: usize, row: usize, group: usize) -> [u8; 4] {
        self.tiles[tile][row].as_chunks().0[group]
    }

    fn set_group(&mut self, tile: usize, row: usize, group: usize, bytes: [u8; 4]) {
        self.tiles[tile][row].as_chunks_mut().0[group] = bytes;
    }
}

/// A decoded instruction: tiles by number, memory as address and stride in bytes.
enum Instruction {
    Configure(usize),
    Release,
    Zero(usize),
    Load(usize, usize, usize),
    Store(usize, usize, usize),
    /// Sum, left and right operand.
    DotBf16([usize; 3]),
    /// Sum, left and right operand.
    DotUnsignedSigned([usize; 3]),
}

/// The memory operand of an instruction.
struct Memory {
    /// Base and displacement, and the index unless it is a stride.
    address: usize,
    /// The scaled index; only where the operand has a SIB byte.
    stride: Option<usize>,
}

/// The bytes of an instruction, one after the other.
struct Bytes(*const u8);

impl Bytes {
    /// # Safety
    /// The instruction has another byte.
    unsafe fn next(&mut self) -> u8 {
        // SAFETY: the caller's.
        unsafe {
            let byte = *self.0;
            self.0 = self.0.add(1);
            byte
        }
    }

    /// A signed displacement of one byte.
    ///
    /// # Safety
    /// The instruction has another byte.
    unsafe fn displacement_8(&mut self) -> usize {
        // SAFETY: the caller's.
        isize::from(unsafe { self.next() }.cast_signed()).cast_unsigned()
    }

    /// A signed displacement of four bytes.
    ///
    /// # Safety
    /// The instruction has four more bytes.
    unsafe fn displacement_32(&mut self) -> usize {
        // SAFETY: the caller's.
        let bytes = [(); 4].map(|()| unsafe { self.next() });
        i32::from_le_bytes(bytes) as usize
    }
}

/// Decodes an AMX instruction: a VEX prefix of three bytes, the opcode, ModRM, and as ModRM says SIB and displacement.
///
/// # Safety
/// `ip` is at an instruction.
unsafe fn decode(ip: *const u8, registers: &[u64; 16]) -> Option<(Instruction, usize)> {
    let mut bytes = Bytes(ip);
    // SAFETY: no more bytes are read than those before say that there are.
    unsafe {
        if bytes.next() != 0xc4 {
            return None;
        }
        // R, X and B, all inverted, and the opcode map; then W, the inverted third operand, L and the prefix.
        let (high_bits, operand) = (bytes.next(), bytes.next());
        let map_0f38 = 2;
        if high_bits & 0x1f != map_0f38 || operand & 0b1000_0100 != 0 {
            return None;
        }
        let high_bits = !high_bits;
        let third = usize::from(!operand >> 3 & 0xf);
        let prefix = operand & 3;
        let opcode = bytes.next();
        let modrm = bytes.next();
        let (mode, reg, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
        if high_bits & 0x80 != 0 {
            return None;
        }
        const NONE: u8 = 0;
        const P66: u8 = 1;
        const PF3: u8 = 2;
        const PF2: u8 = 3;
        let instruction = if mode == 3 {
            match (opcode, prefix) {
                (0x49, NONE) if modrm == 0xc0 && third == 0 => Instruction::Release,
                (0x49, PF2) if rm == 0 && third == 0 => Instruction::Zero(reg),
                (0x5c, PF3) if third < 8 => Instruction::DotBf16([reg, rm, third]),
                (0x5e, P66) if third < 8 => Instruction::DotUnsignedSigned([reg, rm, third]),
                _ => return None,
            }
        } else {
            let memory = memory(&mut bytes, mode, rm, high_bits, registers);
            match (opcode, prefix, memory.stride) {
                _ if third != 0 => return None,
                (0x49, NONE, stride) if reg == 0 => {
                    Instruction::Configure(memory.address.wrapping_add(stride.unwrap_or(0)))
                }
                (0x4b, PF2, Some(stride)) => Instruction::Load(reg, memory.address, stride),
                (0x4b, PF3, Some(stride)) => Instruction::Store(reg, memory.address, stride),
                _ => return None,
            }
        };
        Some((instruction, bytes.0.offset_from_unsigned(ip)))
    }
}

/// Decodes a memory operand.
///
/// # Safety
/// `bytes` is behind the ModRM byte of `mode`, not 3, and `rm`.
unsafe fn memory(bytes: &mut Bytes, mode: u8, rm: usize, high_bits: u8, registers: &[u64; 16]) -> Memory {
    let register = |number: usize| registers[number] as usize;
    let (high_x, high_b) = (usize::from(high_bits >> 6 & 1) << 3, usize::from(high_bits >> 5 & 1) << 3);
    // SAFETY: no more bytes are read than those before say that there are.
    unsafe {
        let has_sib = rm == 4;
        let sib = if has_sib { bytes.next() } else { 0 };
        let base = if has_sib { usize::from(sib & 7) } else { rm };
        let displacement = match mode {
            1 => bytes.displacement_8(),
            2 => bytes.displacement_32(),
            _ if base == 5 => bytes.displacement_32(),
            _ => 0,
        };
        let base = match (mode, base) {
            (0, 5) if has_sib => 0,
            // Relative to the next instruction: the displacement is the last of this one.
            (0, 5) => bytes.0 as usize,
            _ => register(base | high_b),
        };
        let no_index = 4;
        let stride = has_sib.then(|| match usize::from(sib >> 3 & 7) | high_x {
            index if index == no_index => 0,
            index => register(index) << (sib >> 6),
        });
        Memory { address: base.wrapping_add(displacement), stride }
    }
}

/// The SIGILL handler. It may run inside anything, and therefore neither allocates nor locks.
extern "C" fn on_illegal_instruction(_signal: c_int, _info: *mut libc::siginfo_t, context: *mut c_void) {
    thread_local! {
        static TILES: RefCell<Tiles> = const { RefCell::new(Tiles::new()) };
    }
    /// Where the context holds the registers, in the order of their numbers.
    const REGISTERS: [c_int; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];
    // SAFETY: with SA_SIGINFO the third argument is the interrupted thread's context.
    let state = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let registers = REGISTERS.map(|register| state[register as usize].cast_unsigned());
    let ip = &mut state[libc::REG_RIP as usize];
    let at = *ip as *const u8;
    // SAFETY: the signal says that the processor refused the instruction there.
    match TILES.with_borrow_mut(|tiles| unsafe { tiles.execute(at, &registers) }) {
        Some((Ok(()), length)) => *ip += length as i64,
        // SAFETY: the decoded instruction has that many bytes.
        Some((Err(fault), length)) => abort(fault, unsafe { std::slice::from_raw_parts(at, length) }),
        // No instruction of ours: it is executed again and ends the process, as without a handler.
        // SAFETY: `signal` may be called from a handler.
        None => unsafe {
            libc::signal(libc::SIGILL, libc::SIG_DFL);
        },
    }
}

/// Ends the process, saying which instruction faults and why, by means that a signal handler may use.
fn abort(fault: Fault, instruction: &[u8]) -> ! {
    let print = |text: &[u8]| {
        // SAFETY: `write` may be called from a handler; the buffer is `text`.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    };
    print(b"emulated AMX: ");
    print(fault.as_bytes());
    print(b":");
    for byte in instruction {
        let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
        print(&[b' ', digit(byte >> 4), digit(byte & 15)]);
    }
    print(b"\n");
    // SAFETY: `abort` may be called from a handler.
    unsafe { libc::abort() }
}

/// The value of a bf16, given as its bytes; zero where it is denormal.
fn from_bf16([low, high]: [u8; 2]) -> f32 {
    flush(f32::from_le_bytes([0, 0, low, high]))
}

/// `value`, or a zero of its sign where it is denormal.
fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0.0_f32.copysign(value) } else { value }
}

#[cfg(test)]
mod tests {
    use std::arch::asm;
    use std::array;

    use super::super::amx;
    use super::*;

    const SUM: usize = 3;
    const LEFT: usize = 6;
    const RIGHT: usize = 1;

    /// What `ldtilecfg` reads, for tiles of different shapes: sums of 5 rows by 7 columns, of 9 groups each.
    static CONFIGURATION: [u8; 64] = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        (bytes[16 + 2 * SUM], bytes[48 + SUM]) = (7 * 4, 5);
        (bytes[16 + 2 * LEFT], bytes[48 + LEFT]) = (9 * 4, 5);
        (bytes[16 + 2 * RIGHT], bytes[48 + RIGHT]) = (7 * 4, 9);
        bytes
    };

    /// Memory for a tile of 16 rows, of which not all are used.
    #[derive(Clone)]
    #[repr(C, align(64))]
    struct Lines([[u8; 64]; 16]);

    impl Lines {
        /// The same four bytes everywhere.
        fn all(group: [u8; 4]) -> Self {
            Self([array::from_fn(|i| group[i % 4]); 16])
        }

        /// Bytes of every value.
        fn of_bytes(factor: usize) -> Self {
            Self(array::from_fn(|row| array::from_fn(|i| ((factor * (row * 64 + i + 1)) >> 3) as u8)))
        }

        /// bf16 from -8 to 8.
        fn of_bf16(factor: usize) -> Self {
            let mut lines = Self::all([0; 4]);
            for (i, bytes) in lines.0.as_flattened_mut().as_chunks_mut().0.iter_mut().enumerate() {
                let value = (i * factor % 4096) as f32 / 256.0 - 8.0;
                *bytes = ((value.to_bits() >> 16) as u16).to_le_bytes();
            }
            lines
        }

        fn to_f32(&self) -> impl Iterator<Item = f32> {
            self.0.as_flattened().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
        }
    }

    /// Executes the product `$dot` by AMX instructions, emulated where there is no AMX, with registers and addresses of
    /// all the kinds that encodings distinguish.
    macro_rules! execute {
        ($dot:literal, $sum:expr, $a:expr, $b:expr) => {
            if !amx::available() {
                install();
            }
            // SAFETY: the operands are larger than the tiles.
            unsafe {
                asm!(
                    "ldtilecfg [rip + {configuration}]",
                    "tileloadd tmm3, [r12 + 2 * r15]",
                    "tileloadd tmm6, [r13 + 2 * r15 - 64]",
                    "tileloadd tmm1, [rax + 8 * rcx - 4096]",
                    concat!($dot, " tmm3, tmm6, tmm1"),
                    "tilestored [r12 + 2 * r15], tmm3",
                    "tilerelease",
                    configuration = sym CONFIGURATION,
                    in("r12") $sum.0.as_mut_ptr(),
                    in("r13") $a.0.as_ptr().wrapping_add(1),
                    in("r15") 32_usize,
                    in("rax") $b.0.as_ptr().wrapping_add(64),
                    in("rcx") 8_usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        };
    }

    /// The same without machine code.
    fn emulate(
        dot: fn(&mut Tiles, usize, usize, usize) -> Result<(), Fault>,
        sum: &mut Lines,
        a: &Lines,
        b: &Lines,
    ) {
        let mut run = || {
            let mut tiles = Tiles::new();
            tiles.configure(&CONFIGURATION)?;
            // SAFETY: the operands are larger than the tiles.
            unsafe {
                tiles.load(SUM, sum.0.as_ptr() as usize, 64)?;
                tiles.load(LEFT, a.0.as_ptr() as usize, 64)?;
                tiles.load(RIGHT, b.0.as_ptr() as usize, 64)?;
                dot(&mut tiles, SUM, LEFT, RIGHT)?;
                tiles.store(SUM, sum.0.as_mut_ptr() as usize, 64)
            }
        };
        assert_eq!(run(), Ok(()));
    }

    #[test]
    fn integer_products_match_the_processor_and_the_plain_loop() {
        let (a, b, start) = (Lines::of_bytes(977), Lines::of_bytes(1409), Lines::of_bytes(3001));
        let (mut executed, mut emulated, mut plain) = (start.clone(), start.clone(), start);
        execute!("tdpbusd", executed, a, b);
        emulate(Tiles::dot_unsigned_signed, &mut emulated, &a, &b);
        for row in 0..5 {
            for column in 0..7 {
                let sum: &mut [u8; 4] = &mut plain.0[row].as_chunks_mut().0[column];
                let b = |k: usize| b.0[k / 4][column * 4 + k % 4].cast_signed();
                let products = (0..36).map(|k| i32::from(a.0[row][k]) * i32::from(b(k)));
                *sum = products.fold(i32::from_le_bytes(*sum), i32::wrapping_add).to_le_bytes();
            }
        }
        assert_eq!(emulated.0, plain.0);
        assert_eq!(executed.0, plain.0);
    }

    #[test]
    fn bf16_products_match_the_processor() {
        let (a, b, start) = (Lines::of_bf16(1031), Lines::of_bf16(2741), Lines::of_bf16(523));
        let (mut executed, mut emulated) = (start.clone(), start.clone());
        execute!("tdpbf16ps", executed, a, b);
        emulate(Tiles::dot_bf16, &mut emulated, &a, &b);
        assert_ne!(emulated.0, start.0);
        // A processor might add the 18 products, of 64 at most, in another order than the manual.
        for (executed, emulated) in executed.to_f32().zip(emulated.to_f32()) {
            assert!((executed - emulated).abs() <= 18.0 * 64.0 * f32::EPSILON, "{executed} {emulated}");
        }
    }

    #[test]
    fn denormals_are_zero() {
        let all = |value: f32| Lines::all(value.to_le_bytes());
        let (zero, one, smallest) = (all(0.0), all(1.0), all(f32::MIN_POSITIVE));
        let denormal = Lines::all([0, 0, 1, 0]);
        let cases = [
            ("operand", &zero, &denormal, &all(2_f32.powi(100))),
            ("product", &zero, &smallest, &all(0.5)),
            ("start", &denormal, &zero, &zero),
            ("sum", &all(-9.5 * f32::MIN_POSITIVE), &smallest, &one),
        ];
        for (what, start, a, b) in cases {
            let (mut executed, mut emulated, mut expected) = (start.clone(), start.clone(), start.clone());
            execute!("tdpbf16ps", executed, a, b);
            emulate(Tiles::dot_bf16, &mut emulated, a, b);
            for row in &mut expected.0[..5] {
                row[..28].fill(0);
            }
            // Zeros of either sign.
            assert!(emulated.to_f32().eq(expected.to_f32()), "{what}: {:x?}", emulated.0[0]);
            assert!(executed.to_f32().eq(expected.to_f32()), "{what}: {:x?}", executed.0[0]);
        }
    }

    #[test]
    fn invalid_instructions_fault() {
        let mut tiles = Tiles::new();
        assert!(tiles.dot_bf16(SUM, LEFT, RIGHT).is_err(), "nothing is configured");
        for (byte, value, wrong) in
            [(0, 2, "palette"), (2, 1, "reserved"), (48 + SUM, 17, "rows"), (48, 1, "no bytes")]
        {
            let mut configuration = CONFIGURATION;
            configuration[byte] = value;
            assert!(tiles.configure(&configuration).is_err(), "{wrong}");
        }
        assert_eq!(tiles.configure(&CONFIGURATION), Ok(()));
        assert_eq!(tiles.dot_bf16(SUM, LEFT, RIGHT), Ok(()));
        assert!(tiles.dot_bf16(SUM, LEFT, LEFT).is_err(), "the same tile twice");
        assert!(tiles.dot_bf16(SUM, RIGHT, LEFT).is_err(), "shapes that do not fit");
        assert!(tiles.zero(0).is_err(), "a tile that is not configured");
    }

    #[test]
    fn other_instructions_are_not_decoded() {
        let undefined = [0x0f, 0x0b];
        let vector_addition = [0xc4, 0xe1, 0x78, 0x58, 0xc1];
        let product_with_wide_operands = [0xc4, 0xe2, 0xf2, 0x5c, 0xc2];
        let load_without_index = [0xc4, 0xe2, 0x7b, 0x4b, 0x00];
        for bytes in [&undefined[..], &vector_addition, &product_with_wide_operands, &load_without_index] {
            // SAFETY: the bytes are whole instructions, of which none is executed.
            assert!(unsafe { decode(bytes.as_ptr(), &[0; 16]) }.is_none(), "{bytes:x?}");
        }
    }
}
