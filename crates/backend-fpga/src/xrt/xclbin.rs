//! Files with a design for a card: what is in one, and a small one for emulation.
//!
//! The format (`axlf`) is that of the header `xclbin.h`: a header of 456 bytes, section headers of 40 bytes, sections at
//! multiples of 8 bytes; numbers are little-endian. There is no bitstream in what is written here: emulation does without, and a
//! card's file comes from AMD's linker.

use super::kernel::{
    DESCRIPTORS, DESCRIPTORS_ARGUMENT, KERNEL, LIMIT, LIMIT_ARGUMENT, MEMORY, REGISTERS_BYTES, UNIT,
};

const MAGIC: &[u8; 8] = b"xclbin2\0";
const HEADER_BYTES: usize = 456;
/// Where the numbers of the header are.
const LENGTH: usize = 304;
const MODE: usize = 332;
const UUID: usize = 416;
const SECTIONS: usize = 448;
const SECTION_HEADER_BYTES: usize = 40;

/// What a file is for: software emulation. A card's file has 0 or 1 here.
const MODE_SOFTWARE_EMULATION: u16 = 5;

/// Kinds of sections.
const EMBEDDED_METADATA: u32 = 2;
const MEM_TOPOLOGY: u32 = 6;
const CONNECTIVITY: u32 = 7;
const IP_LAYOUT: u32 = 8;
const GROUP_TOPOLOGY: u32 = 26;
const GROUP_CONNECTIVITY: u32 = 27;

const MEMORY_BYTES: usize = 40;
const UNIT_BYTES: usize = 80;
/// `IP_KERNEL`: a unit that XRT may start.
const KERNEL_TYPE: u32 = 1;
/// `MEM_HBM`.
const HBM_TYPE: u8 = 6;

/// Where emulation has the compute unit's registers.
pub(super) const UNIT_BASE: u64 = 0x180_0000;

/// What a design has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xclbin {
    /// Names the design.
    pub uuid: [u8; 16],
    /// Whether it is for software emulation, not for a card.
    pub emulation: bool,
    /// Compute units.
    pub units: Vec<Unit>,
    /// Memories, in the order in which XRT counts them.
    pub memories: Vec<Memory>,
    /// The description of its kernels, in XML.
    pub metadata: String,
}

/// A compute unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// `kernel:unit`.
    pub name: String,
    /// Where its registers are.
    pub base: u64,
}

/// A memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Name; a bank of HBM is `HBM[0]` and so on.
    pub tag: String,
    /// Whether the design uses it.
    pub used: bool,
    /// Its size.
    pub kib: u64,
    /// Its first address.
    pub base: u64,
}

impl Xclbin {
    /// The smallest design that XRT takes in software emulation: one compute unit, connected to `banks` banks of HBM
    /// of `bank_bytes` each.
    pub fn emulation(banks: u64, bank_bytes: u64) -> Self {
        let memories = (0..banks).map(|bank| Memory {
            tag: format!("HBM[{bank}]"),
            used: true,
            kib: bank_bytes >> 10,
            base: bank * bank_bytes,
        });
        Self {
            uuid: *b"smolvla emulated",
            emulation: true,
            units: vec![Unit { name: format!("{KERNEL}:{UNIT}"), base: UNIT_BASE }],
            memories: memories.collect(),
            metadata: metadata(),
        }
    }

    /// Reads what is asked here; of what else a file has, nothing is checked.
    ///
    /// # Errors
    /// If the bytes are not such a file; says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if !bytes.starts_with(MAGIC) {
            return Err("it does not begin with `xclbin2`".to_owned());
        }
        let header = Reader { bytes, what: "header" };
        let length = header.at(LENGTH)?.u64()?;
        if length != bytes.len() as u64 {
            return Err(format!("it has {} bytes, and its header says {length}", bytes.len()));
        }
        let emulation = header.at(MODE)?.u16()? == MODE_SOFTWARE_EMULATION;
        let uuid = header.at(UUID)?.array()?;
        let count = header.at(SECTIONS)?.u32()?;
        let mut units = None;
        let mut memories = None;
        let mut metadata = None;
        for index in 0..count as usize {
            let at = index.checked_mul(SECTION_HEADER_BYTES).and_then(|at| at.checked_add(HEADER_BYTES));
            let mut section = header.at(at.unwrap_or(usize::MAX))?;
            let kind = section.u32()?;
            // A name of 16 bytes, and padding.
            let mut section = section.at(20)?;
            let (offset, len) = (section.u64()?, section.u64()?);
            let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok());
            let content = range
                .and_then(|(offset, len)| bytes.get(offset..offset.checked_add(len)?))
                .ok_or_else(|| format!("section {index} (kind {kind}) ends after the file"))?;
            match kind {
                EMBEDDED_METADATA => {
                    let text = content.strip_suffix(&[0]).unwrap_or(content);
                    metadata = Some(String::from_utf8_lossy(text).into_owned());
                }
                MEM_TOPOLOGY => memories = Some(parse_memories(content)?),
                IP_LAYOUT => units = Some(parse_units(content)?),
                _ => {}
            }
        }
        let missing = |what: &str| format!("it has no section {what}");
        Ok(Self {
            uuid,
            emulation,
            units: units.ok_or_else(|| missing("IP_LAYOUT"))?,
            memories: memories.ok_or_else(|| missing("MEM_TOPOLOGY"))?,
            metadata: metadata.ok_or_else(|| missing("EMBEDDED_METADATA"))?,
        })
    }

    /// As a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let memories = list(8, self.memories.iter().map(memory_bytes));
        let units = list(8, self.units.iter().map(unit_bytes));
        // The one pointer argument reaches every memory.
        let pairs = (0..self.units.len()).flat_map(|unit| (0..self.memories.len()).map(move |at| (unit, at)));
        let connections = list(
            4,
            pairs.map(|(unit, memory)| {
                [MEMORY_ARGUMENT, unit as u32, memory as u32]
                    .iter()
                    .flat_map(|word| word.to_le_bytes())
                    .collect()
            }),
        );
        let sections = [
            (EMBEDDED_METADATA, self.metadata.as_bytes()),
            (MEM_TOPOLOGY, &memories),
            (IP_LAYOUT, &units),
            (CONNECTIVITY, &connections),
            (GROUP_TOPOLOGY, &memories),
            (GROUP_CONNECTIVITY, &connections),
        ];
        let mut bytes = vec![0; HEADER_BYTES + sections.len() * SECTION_HEADER_BYTES];
        for (index, (kind, content)) in sections.into_iter().enumerate() {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            let at = HEADER_BYTES + index * SECTION_HEADER_BYTES;
            put(&mut bytes, at, &kind.to_le_bytes());
            let offset = bytes.len() as u64;
            put(&mut bytes, at + 24, &offset.to_le_bytes());
            put(&mut bytes, at + 32, &(content.len() as u64).to_le_bytes());
            bytes.extend(content);
        }
        put(&mut bytes, 0, MAGIC);
        // No signature; the bytes after it are reserved and set.
        put(&mut bytes, 8, &(-1_i32).to_le_bytes());
        put(&mut bytes, 12, &[0xff; 28]);
        let length = bytes.len() as u64;
        put(&mut bytes, LENGTH, &length.to_le_bytes());
        put(&mut bytes, MODE, &if self.emulation { MODE_SOFTWARE_EMULATION } else { 0 }.to_le_bytes());
        put(&mut bytes, UUID, &self.uuid);
        put(&mut bytes, SECTIONS, &(sections.len() as u32).to_le_bytes());
        bytes
    }
}

/// The argument after the scalars.
const MEMORY_ARGUMENT: u32 = 2;

/// What XRT wants to know of the kernel: a project with one device, one core and our kernel.
fn metadata() -> String {
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<project name="smolvla"><platform vendor="xilinx" boardid="u280" name="emulation" featureRomTime="0"><device name="fpga0">
<core name="OCL_REGION_0" target="sw_em" type="clc_region">
<kernel name="{KERNEL}" language="c" hwControlProtocol="ap_ctrl_hs">
<port name="M_AXI_GMEM" mode="master" range="0xFFFFFFFFFFFFFFFF" dataWidth="512" portType="addressable" base="0x0"/>
<port name="S_AXI_CONTROL" mode="slave" range="{REGISTERS_BYTES:#x}" dataWidth="32" portType="addressable" base="0x0"/>
<arg name="descriptors" addressQualifier="0" id="{DESCRIPTORS_ARGUMENT}" port="S_AXI_CONTROL" size="0x8" offset="{DESCRIPTORS:#x}" hostOffset="0x0" hostSize="0x8" type="ulong"/>
<arg name="limit" addressQualifier="0" id="{LIMIT_ARGUMENT}" port="S_AXI_CONTROL" size="0x4" offset="{LIMIT:#x}" hostOffset="0x0" hostSize="0x4" type="uint"/>
<arg name="memory" addressQualifier="1" id="{MEMORY_ARGUMENT}" port="M_AXI_GMEM" size="0x8" offset="{MEMORY:#x}" hostOffset="0x0" hostSize="0x8" type="void*"/>
<instance name="{UNIT}"><addrRemap base="{UNIT_BASE:#x}" port="S_AXI_CONTROL"/></instance>
</kernel></core></device></platform></project>
"#
    )
}

/// The number of entries, and the entries from byte `start`.
fn list(start: usize, entries: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut bytes = vec![0; start];
    let mut count = 0_u32;
    for entry in entries {
        bytes.extend(entry);
        count += 1;
    }
    put(&mut bytes, 0, &count.to_le_bytes());
    bytes
}

fn memory_bytes(memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; MEMORY_BYTES];
    put(&mut bytes, 0, &[HBM_TYPE, u8::from(memory.used)]);
    put(&mut bytes, 8, &memory.kib.to_le_bytes());
    put(&mut bytes, 16, &memory.base.to_le_bytes());
    put(&mut bytes, 24, &memory.tag.as_bytes()[..memory.tag.len().min(15)]);
    bytes
}

fn unit_bytes(unit: &Unit) -> Vec<u8> {
    let mut bytes = vec![0; UNIT_BYTES];
    put(&mut bytes, 0, &KERNEL_TYPE.to_le_bytes());
    put(&mut bytes, 8, &unit.base.to_le_bytes());
    put(&mut bytes, 16, &unit.name.as_bytes()[..unit.name.len().min(63)]);
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn parse_memories(bytes: &[u8]) -> Result<Vec<Memory>, String> {
    entries(Reader { bytes, what: "section MEM_TOPOLOGY" }, MEMORY_BYTES, |mut entry| {
        let [_, used] = entry.array()?;
        let mut sizes = entry.at(6)?;
        let (kib, base) = (sizes.u64()?, sizes.u64()?);
        Ok(Some(Memory { tag: sizes.text(16)?, used: used != 0, kib, base }))
    })
}

fn parse_units(bytes: &[u8]) -> Result<Vec<Unit>, String> {
    entries(Reader { bytes, what: "section IP_LAYOUT" }, UNIT_BYTES, |mut entry| {
        let kind = entry.u32()?;
        let mut rest = entry.at(4)?;
        let unit = Unit { base: rest.u64()?, name: rest.text(64)? };
        Ok((kind == KERNEL_TYPE).then_some(unit))
    })
}

fn entries<T>(
    mut section: Reader<'_>,
    bytes: usize,
    read: impl Fn(Reader<'_>) -> Result<Option<T>, String>,
) -> Result<Vec<T>, String> {
    let entries = section.at(8)?;
    let count = section.u32()?;
    let mut found = Vec::new();
    for index in 0..count as usize {
        // Also the last one is there in full.
        let entry = entries.at(index.saturating_mul(bytes))?;
        entry.at(bytes)?;
        found.extend(read(entry)?);
    }
    Ok(found)
}

/// Reads what may be cut short.
#[derive(Clone, Copy)]
struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    fn at(self, offset: usize) -> Result<Self, String> {
        let bytes = self.bytes.get(offset..).ok_or_else(|| self.short())?;
        Ok(Self { bytes, ..self })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (value, rest) = self.bytes.split_first_chunk().ok_or_else(|| self.short())?;
        self.bytes = rest;
        Ok(*value)
    }

    fn u16(&mut self) -> Result<u16, String> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// Text that ends at a zero byte, in `len` bytes at most.
    fn text(&self, len: usize) -> Result<String, String> {
        let bytes: &'a [u8] = self.bytes.get(..len).ok_or_else(|| self.short())?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(len);
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    fn short(&self) -> String {
        format!("its {} is cut short", self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xclbin_is_read_as_it_was_written() {
        let written = Xclbin::emulation(32, 1 << 28);
        let bytes = written.to_bytes();
        assert_eq!(Xclbin::parse(&bytes), Ok(written.clone()));
        assert_eq!(written.memories[31].base, 31 << 28);
        assert_eq!(written.units[0].name, "smolvla_cu:smolvla_cu_1");
        for argument in ["offset=\"0x10\"", "offset=\"0x1c\"", "offset=\"0x24\""] {
            assert!(written.metadata.contains(argument), "{argument}");
        }
        let other = Xclbin { emulation: false, uuid: [7; 16], ..Xclbin::emulation(2, 1 << 20) };
        assert_eq!(Xclbin::parse(&other.to_bytes()), Ok(other));
    }

    #[test]
    fn parse_rejects_what_is_cut_or_changed() {
        let bytes = Xclbin::emulation(4, 1 << 20).to_bytes();
        assert!(Xclbin::parse(b"ELF").unwrap_err().contains("xclbin2"));
        for len in (MAGIC.len()..bytes.len()).step_by(7) {
            assert!(Xclbin::parse(&bytes[..len]).is_err(), "{len}");
            // Also where the header agrees with the length.
            if len > LENGTH + 8 {
                let mut cut = bytes[..len].to_vec();
                put(&mut cut, LENGTH, &(len as u64).to_le_bytes());
                assert!(Xclbin::parse(&cut).is_err(), "{len}");
            }
        }
        let mut changed = bytes.clone();
        put(&mut changed, HEADER_BYTES + SECTION_HEADER_BYTES, &EMBEDDED_METADATA.to_le_bytes());
        assert!(Xclbin::parse(&changed).unwrap_err().contains("MEM_TOPOLOGY"));
        let mut changed = bytes;
        put(&mut changed, HEADER_BYTES + 32, &u64::MAX.to_le_bytes());
        assert!(Xclbin::parse(&changed).unwrap_err().contains("section 0 (kind 2) ends after"));
    }
}
