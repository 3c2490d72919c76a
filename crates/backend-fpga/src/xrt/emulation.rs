//! The process that stands for a card in XRT's software emulation: XRT's calls on one side, a device of ours on the other.
//!
//! XRT starts the program [`DEVICE_PROCESS`](super::DEVICE_PROCESS) and listens at `/tmp/$USER/$EMULATION_SOCKETID`. A request is 14
//! bytes (field 1: the body's length, field 2: the call, both fixed width) and a body, a reply 9 bytes (its body's length)
//! and a body; all of it in the wire format of Protocol Buffers. Calls and fields have the numbers of XRT's
//! `xcl_macros.h` and `rpc_messages.proto`.
//!
//! The compute unit has the registers of [`super::kernel`]. A run goes on beside the calls, so that the host's time
//! limit works.

use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use super::kernel::{
    AP_DONE, AP_IDLE, AP_START, CONTROL, CYCLES, DESCRIPTORS, ERROR, LIMIT, REFUSED, REGISTERS_BYTES,
};
use super::xclbin::UNIT_BASE;
use crate::descriptor::{Descriptor, Flags, Op};
use crate::device::{BANK_BYTES, Counters, FpgaDevice};

/// Calls that do more than say that all is well.
const CLOSE: u32 = 1;
const COPY_TO_DEVICE: u32 = 6;
const COPY_FROM_DEVICE: u32 = 7;
const WRITE_REGISTERS: u32 = 9;
const READ_REGISTERS: u32 = 11;
const WRITE_REGISTER: u32 = 51;
const READ_REGISTER: u32 = 52;

const REQUEST_HEADER_BYTES: usize = 14;

/// The longest message that is believed; XRT cuts copies at 8 MiB.
const LONGEST_BYTES: u64 = 1 << 28;

/// XRT asks without pause whether a run has ended; it is answered this late while it has not.
const PATIENCE: Duration = Duration::from_millis(1);

/// Answers XRT's calls until it closes the device or goes away; why a run failed goes to `report`.
///
/// # Errors
/// If a message is not what XRT sends, or its copy is refused by the device.
pub fn serve<D: FpgaDevice>(
    device: D,
    mut connection: impl Read + Write,
    report: impl Fn(&str),
) -> io::Result<()> {
    let mut card = Card { device: Arc::new(device), registers: [0; REGISTERS], run: None, report };
    match answer_all(&mut card, &mut connection) {
        // The host has ended, between calls or inside of one.
        Err(error) if matches!(error.kind(), UnexpectedEof | BrokenPipe | ConnectionReset) => Ok(()),
        other => other,
    }
}

fn answer_all<D: FpgaDevice, R: Fn(&str)>(
    card: &mut Card<D, R>,
    connection: &mut (impl Read + Write),
) -> io::Result<()> {
    loop {
        let mut header = [0; REQUEST_HEADER_BYTES];
        connection.read_exact(&mut header)?;
        let header = fields(&header)?;
        let (size, call) = (number(&header, 1), number(&header, 2));
        let (Ok(size), Ok(call)) = (usize::try_from(size.min(LONGEST_BYTES + 1)), u32::try_from(call)) else {
            return Err(malformed("a header"));
        };
        if size as u64 > LONGEST_BYTES {
            return Err(malformed("a length"));
        }
        let mut body = vec![0; size];
        connection.read_exact(&mut body)?;
        let request = fields(&body)?;
        let body = card.answer(call, &request)?;
        let mut reply = vec![0x09];
        reply.extend((body.len() as u64).to_le_bytes());
        reply.extend(body);
        connection.write_all(&reply)?;
        connection.flush()?;
        // Without field 3 it is the close that comes before each design is loaded.
        if call == CLOSE && number(&request, 3) != 0 {
            return Ok(());
        }
    }
}

/// Words of the compute unit's registers.
const REGISTERS: usize = REGISTERS_BYTES as usize / 4;

struct Card<D, R> {
    device: Arc<D>,
    registers: [u32; REGISTERS],
    /// What the run in progress will say.
    run: Option<Receiver<Result<Counters, String>>>,
    report: R,
}

impl<D: FpgaDevice, R: Fn(&str)> Card<D, R> {
    /// The body of the reply.
    fn answer(&mut self, call: u32, request: &[(u32, Value<'_>)]) -> io::Result<Vec<u8>> {
        let mut reply = Vec::new();
        match call {
            COPY_TO_DEVICE => {
                let bytes = content(request, 4);
                self.copy(number(request, 3), bytes.len(), |device, address, range| {
                    device.write(address, &bytes[range]).map_err(|error| error.message)
                })?;
                put_number(&mut reply, 1, bytes.len() as u64);
            }
            COPY_FROM_DEVICE => {
                let len = number(request, 5).min(LONGEST_BYTES) as usize;
                let mut bytes = vec![0; len];
                self.copy(number(request, 4), len, |device, address, range| {
                    device.read(address, &mut bytes[range]).map_err(|error| error.message)
                })?;
                put_number(&mut reply, 1, len as u64);
                put_content(&mut reply, 2, &bytes);
            }
            WRITE_REGISTERS => {
                self.write_registers(number(request, 2), content(request, 4))?;
                put_number(&mut reply, 1, 1);
            }
            WRITE_REGISTER => {
                self.write_registers(number(request, 1) + number(request, 2), content(request, 3))?;
                put_number(&mut reply, 1, 1);
            }
            READ_REGISTERS | READ_REGISTER => {
                let address = match call {
                    READ_REGISTERS => number(request, 2),
                    _ => number(request, 1) + number(request, 2),
                };
                let value = self.read_register(register(address)?);
                put_number(&mut reply, 1, 1);
                put_content(&mut reply, 2, &value.to_le_bytes());
            }
            // Open, load, allocate, free and what else there is: field 1 of their replies says yes.
            _ => put_number(&mut reply, 1, 1),
        }
        Ok(reply)
    }

    /// Copies in pieces, because ours do not cross banks and XRT's may.
    fn copy(
        &self,
        address: u64,
        len: usize,
        mut piece: impl FnMut(&D, u64, std::ops::Range<usize>) -> Result<(), String>,
    ) -> io::Result<()> {
        let mut from = 0;
        while from < len {
            let at = address + from as u64;
            let in_bank = BANK_BYTES - at % BANK_BYTES;
            let to = usize::try_from(in_bank).map_or(len, |in_bank| len.min(from + in_bank));
            piece(&self.device, at, from..to).map_err(io::Error::other)?;
            from = to;
        }
        Ok(())
    }

    /// Stores words, and then starts if they say so: XRT writes the control register and the arguments at once.
    fn write_registers(&mut self, address: u64, bytes: &[u8]) -> io::Result<()> {
        let first = register(address)?;
        for (word, bytes) in bytes.chunks_exact(4).enumerate() {
            let Some(register) = self.registers.get_mut(first + word) else { break };
            let value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
            match first + word {
                0 => *register |= value & AP_START,
                _ => *register = value,
            }
        }
        if self.registers[CONTROL as usize / 4] & AP_START != 0 && self.run.is_none() {
            let [low, high, limit] =
                [DESCRIPTORS, DESCRIPTORS + 4, LIMIT].map(|at| self.registers[at as usize / 4]);
            let stream = u64::from(high) << 32 | u64::from(low);
            let (sender, receiver) = mpsc::channel();
            let device = Arc::clone(&self.device);
            std::thread::Builder::new().spawn(move || {
                // Nobody listens once the host has gone.
                let _ = sender.send(run(&*device, stream, limit));
            })?;
            self.run = Some(receiver);
        }
        Ok(())
    }

    fn read_register(&mut self, index: usize) -> u32 {
        if index != CONTROL as usize / 4 {
            return self.registers.get(index).copied().unwrap_or(0);
        }
        let Some(run) = &self.run else { return AP_IDLE };
        let ended = match run.recv_timeout(PATIENCE) {
            Ok(ended) => ended,
            Err(RecvTimeoutError::Timeout) => return AP_START,
            Err(RecvTimeoutError::Disconnected) => Err("the device panicked".to_owned()),
        };
        self.run = None;
        self.registers[CONTROL as usize / 4] = 0;
        let (cycles, error) = match ended {
            Ok(counters) => (counters.cycles, 0),
            Err(reason) => {
                (self.report)(&reason);
                (0, REFUSED)
            }
        };
        self.registers[CYCLES as usize / 4] = cycles as u32;
        self.registers[CYCLES as usize / 4 + 1] = (cycles >> 32) as u32;
        self.registers[ERROR as usize / 4] = error;
        AP_DONE | AP_IDLE
    }
}

/// The index of a register of the compute unit.
fn register(address: u64) -> io::Result<usize> {
    match address.checked_sub(UNIT_BASE) {
        Some(offset) if offset < REGISTERS_BYTES && offset % 4 == 0 => Ok(offset as usize / 4),
        _ => Err(malformed("the address of a register")),
    }
}

/// Fetches a stream as the sequencer does, and runs it.
fn run<D: FpgaDevice>(device: &D, stream: u64, limit: u32) -> Result<Counters, String> {
    let mut descriptors = Vec::new();
    for index in 0..u64::from(limit) {
        let mut bytes = [0; Descriptor::BYTES];
        let address = stream + index * Descriptor::BYTES as u64;
        device.read(address, &mut bytes).map_err(|error| error.message)?;
        let descriptor = descriptor(&bytes)?;
        if descriptor.op == Op::End {
            return device.run(&descriptors).map_err(|error| error.message);
        }
        descriptors.push(descriptor);
    }
    Err(format!("the stream has no end within {limit} descriptors"))
}

/// The inverse of [`Descriptor::to_bytes`].
fn descriptor(bytes: &[u8; Descriptor::BYTES]) -> Result<Descriptor, String> {
    let word = |at: usize| bytes[at..at + 4].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
    let address = |at: usize| u64::from(word(at + 4)) << 32 | u64::from(word(at));
    let op = match word(0) & 0xff {
        0 => Op::End,
        1 => Op::Gemm,
        2 => Op::Quantise,
        3 => Op::Norm,
        4 => Op::Softmax,
        5 => Op::Activate,
        6 => Op::Rope,
        7 => Op::Combine,
        8 => Op::Copy,
        op => return Err(format!("there is no operation {op}")),
    };
    Ok(Descriptor {
        op,
        flags: Flags(word(0) >> 8),
        rows: word(4),
        cols: word(8),
        depth: word(12),
        repeat: word(76),
        source: [16, 24, 32, 40].map(address),
        destination: [48, 56].map(address),
        pitch: [64, 68, 72].map(word),
        plane: [80, 84].map(word),
        immediate: [88, 92].map(word),
    })
}

/// A field of a message.
enum Value<'a> {
    Number(u64),
    Content(&'a [u8]),
}

/// The fields of a message, in order.
fn fields(mut bytes: &[u8]) -> io::Result<Vec<(u32, Value<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => Value::Number(u64::from_le_bytes(take(&mut bytes)?)),
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).unwrap_or(usize::MAX);
                let (content, rest) = bytes.split_at_checked(len).ok_or_else(|| malformed("a field"))?;
                bytes = rest;
                Value::Content(content)
            }
            5 => Value::Number(u64::from(u32::from_le_bytes(take(&mut bytes)?))),
            _ => return Err(malformed("the kind of a field")),
        };
        found.push((u32::try_from(key >> 3).map_err(|_| malformed("a field"))?, value));
    }
    Ok(found)
}

/// A numeric field; zero where there is none.
fn number(fields: &[(u32, Value<'_>)], name: u32) -> u64 {
    let found = fields.iter().find_map(|(found, value)| match value {
        Value::Number(value) if *found == name => Some(*value),
        _ => None,
    });
    found.unwrap_or(0)
}

/// A field of bytes; empty where there is none.
fn content<'a>(fields: &[(u32, Value<'a>)], name: u32) -> &'a [u8] {
    let found = fields.iter().find_map(|(found, value)| match value {
        Value::Content(value) if *found == name => Some(*value),
        _ => None,
    });
    found.unwrap_or(&[])
}

fn varint(bytes: &mut &[u8]) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = take(bytes)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(malformed("a number"))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> io::Result<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk().ok_or_else(|| malformed("the end of a message"))?;
    *bytes = rest;
    Ok(*taken)
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn put_number(bytes: &mut Vec<u8>, field: u32, value: u64) {
    put_varint(bytes, u64::from(field) << 3);
    put_varint(bytes, value);
}

fn put_content(bytes: &mut Vec<u8>, field: u32, content: &[u8]) {
    put_varint(bytes, u64::from(field) << 3 | 2);
    put_varint(bytes, content.len() as u64);
    bytes.extend(content);
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} in XRT's request is not as expected"))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;

    use smolvla_core::backend::{BackendErrorKind, Execution};

    use super::*;
    use crate::device::{DeviceError, DeviceInfo};
    use crate::plain::PlainDevice;

    /// XRT's side of the connection.
    struct Host(UnixStream);

    impl Host {
        /// Sends a request; gives the body of the reply.
        fn call(&mut self, call: u32, body: &[u8]) -> Vec<u8> {
            let mut request = vec![0x09];
            request.extend((body.len() as u64).to_le_bytes());
            request.push(0x15);
            request.extend(call.to_le_bytes());
            assert_eq!(request.len(), REQUEST_HEADER_BYTES);
            request.extend(body);
            self.0.write_all(&request).unwrap();
            let mut header = [0; 9];
            self.0.read_exact(&mut header).unwrap();
            assert_eq!(header[0], 0x09);
            let mut reply = vec![0; number(&fields(&header).unwrap(), 1) as usize];
            self.0.read_exact(&mut reply).unwrap();
            reply
        }

        fn write(&mut self, address: u64, bytes: &[u8]) {
            let mut body = Vec::new();
            put_number(&mut body, 3, address);
            put_content(&mut body, 4, bytes);
            put_number(&mut body, 5, bytes.len() as u64);
            assert_eq!(number(&fields(&self.call(COPY_TO_DEVICE, &body)).unwrap(), 1), bytes.len() as u64);
        }

        fn read(&mut self, address: u64, len: u64) -> Vec<u8> {
            let mut body = Vec::new();
            put_number(&mut body, 4, address);
            put_number(&mut body, 5, len);
            content(&fields(&self.call(COPY_FROM_DEVICE, &body)).unwrap(), 2).to_vec()
        }

        /// Writes control register and arguments at once, as XRT does.
        fn start(&mut self, stream: u64, limit: u32) {
            let mut words = [0_u32; 8];
            words[0] = AP_START;
            words[4..6].copy_from_slice(&[stream as u32, (stream >> 32) as u32]);
            words[7] = limit;
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut body = Vec::new();
            put_number(&mut body, 2, UNIT_BASE);
            put_content(&mut body, 4, &bytes);
            self.call(WRITE_REGISTERS, &body);
        }

        fn register(&mut self, offset: u32) -> u32 {
            let mut body = Vec::new();
            put_number(&mut body, 1, UNIT_BASE);
            put_number(&mut body, 2, u64::from(offset));
            let reply = self.call(READ_REGISTER, &body);
            u32::from_le_bytes(content(&fields(&reply).unwrap(), 2).try_into().unwrap())
        }

        /// Waits for a run's end; gives the error register.
        fn finish(&mut self) -> u32 {
            while self.register(CONTROL) == AP_START {}
            assert_eq!(self.register(CONTROL), AP_IDLE, "done is said once");
            self.register(ERROR)
        }
    }

    /// What happens at the host while a device answers; then the outcome and the reports.
    fn with_host<D: FpgaDevice>(device: D, act: impl FnOnce(&mut Host)) -> (io::Result<()>, Vec<String>) {
        let (host, card) = UnixStream::pair().unwrap();
        let reports = Mutex::new(Vec::new());
        let outcome = std::thread::scope(|scope| {
            let served =
                scope.spawn(|| serve(device, card, |reason| reports.lock().unwrap().push(reason.to_owned())));
            act(&mut Host(host));
            served.join().unwrap()
        });
        (outcome, reports.into_inner().unwrap())
    }

    fn copy() -> Descriptor {
        Descriptor {
            rows: 1,
            cols: 2,
            depth: 1,
            source: [0x100, 0, 0, 0],
            destination: [0x5_0000_0000 >> 4, 0],
            pitch: [64; 3],
            ..Descriptor::new(Op::Copy)
        }
    }

    #[test]
    fn descriptor_is_read_as_it_was_written() {
        let full = Descriptor {
            op: Op::Rope,
            flags: Flags(0x2ff),
            rows: 1,
            cols: 2,
            depth: 3,
            repeat: 4,
            source: [5 << 32, 6, 7, 8],
            destination: [9, 10 << 40],
            pitch: [11, 12, 13],
            plane: [14, 15],
            immediate: [16, 17],
        };
        for op in [
            Op::End,
            Op::Gemm,
            Op::Quantise,
            Op::Norm,
            Op::Softmax,
            Op::Activate,
            Op::Rope,
            Op::Combine,
            Op::Copy,
        ] {
            let written = Descriptor { op, ..full };
            assert_eq!(descriptor(&written.to_bytes()), Ok(written));
        }
        let mut bytes = full.to_bytes();
        bytes[0] = 9;
        assert!(descriptor(&bytes).is_err());
    }

    #[test]
    fn serve_copies_and_runs() {
        let (outcome, reports) = with_host(PlainDevice::new(), |host| {
            // Across two banks.
            let edge = (1 << 28) - 3;
            host.write(edge, b"abcdefg");
            assert_eq!(host.read(edge + 1, 5), b"bcdef");
            host.write(0x100, &[1, 2, 3, 4, 5, 6, 7, 8]);
            let stream: Vec<u8> =
                [copy(), Descriptor::new(Op::End)].iter().flat_map(Descriptor::to_bytes).collect();
            host.write(0x3000_0000, &stream);
            assert_eq!(host.register(CONTROL), AP_IDLE);
            host.start(0x3000_0000, 2);
            assert_eq!(host.finish(), 0);
            assert_eq!(host.read(copy().destination[0], 8), [1, 2, 3, 4, 5, 6, 7, 8]);
            // A load closes first, and only a close of all ends.
            host.call(CLOSE, &[]);
            host.call(CLOSE, &[0x18, 1]);
        });
        outcome.unwrap();
        assert!(reports.is_empty(), "{reports:?}");
    }

    #[test]
    fn serve_reports_what_it_refuses() {
        let (outcome, reports) = with_host(PlainDevice::new(), |host| {
            host.write(0x3000_0000, &copy().to_bytes());
            host.start(0x3000_0000, 1);
            assert_eq!(host.finish(), REFUSED);
            let mut unknown = copy().to_bytes();
            unknown[0] = 77;
            host.write(0x3000_0000, &unknown);
            host.start(0x3000_0000, 2);
            assert_eq!(host.finish(), REFUSED);
        });
        // The host has gone without a word.
        outcome.unwrap();
        assert_eq!(reports, ["the stream has no end within 1 descriptors", "there is no operation 77"]);
    }

    #[test]
    fn serve_refuses_what_xrt_does_not_send() {
        let send = |bytes: &'static [u8]| {
            with_host(PlainDevice::new(), move |host| host.0.write_all(bytes).unwrap())
                .0
                .unwrap_err()
                .to_string()
        };
        assert!(send(b"GET / HTTP/1.1").contains("not as expected"));
        assert!(send(&[0x09, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0x15, 6, 0, 0, 0]).contains("a length"));
        // A field that is longer than its message.
        assert!(send(&[0x09, 2, 0, 0, 0, 0, 0, 0, 0, 0x15, 6, 0, 0, 0, 0x22, 5]).contains("a field"));
    }

    /// Runs for as long as its sender lives, then says how many cycles that took.
    struct Slow(Mutex<Receiver<()>>);

    impl FpgaDevice for Slow {
        fn info(&self) -> DeviceInfo {
            DeviceInfo { name: String::new(), driver: None, execution: Execution::Native }
        }

        fn write(&self, _: u64, _: &[u8]) -> Result<(), DeviceError> {
            Err(DeviceError { kind: BackendErrorKind::Other, message: "no memory".to_owned() })
        }

        fn read(&self, _: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
            bytes.fill(0);
            Ok(())
        }

        fn run(&self, _: &[Descriptor]) -> Result<Counters, DeviceError> {
            let ended = self.0.lock().unwrap().recv();
            assert!(ended.is_err());
            Ok(Counters { cycles: 0x7_0000_0009 })
        }
    }

    #[test]
    fn serve_answers_while_it_runs() {
        let (sender, receiver) = mpsc::channel();
        let (outcome, _) = with_host(Slow(Mutex::new(receiver)), |host| {
            host.start(0, 1);
            for _ in 0..3 {
                assert_eq!(host.register(CONTROL), AP_START);
            }
            drop(sender);
            assert_eq!(host.finish(), 0);
            assert_eq!([CYCLES, CYCLES + 4].map(|at| host.register(at)), [9, 7]);
        });
        outcome.unwrap();
    }
}
