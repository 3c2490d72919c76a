//! A card's memory in software.

use smolvla_core::backend::BackendErrorKind;

use crate::arith::Scale;
use crate::descriptor::{BANK_BITS, BANKS, Descriptor};
use crate::device::DeviceError;

/// Banks that grow to the highest byte that was named; what was never written is zero.
#[derive(Debug)]
pub(crate) struct Memory {
    banks: Vec<Vec<u8>>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { banks: vec![Vec::new(); BANKS] }
    }

    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.cover(address, bytes.len() as u64)?;
        self.bytes_mut(address, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.cover(address, bytes.len() as u64)?;
        bytes.copy_from_slice(self.bytes(address, bytes.len()));
        Ok(())
    }

    /// Grows to what a descriptor reads and writes, after [`Descriptor::check`].
    pub(crate) fn prepare(&mut self, descriptor: &Descriptor) -> Result<(), DeviceError> {
        descriptor.check()?;
        let operands = descriptor.operands();
        for region in operands.reads.iter().chain(&operands.writes) {
            self.cover(region.start, region.extent())?;
        }
        Ok(())
    }

    fn cover(&mut self, address: u64, length: u64) -> Result<(), DeviceError> {
        let (bank, offset) = place(address);
        let end = (offset as u64).checked_add(length).filter(|end| *end <= 1 << BANK_BITS);
        let (Some(bank), Some(end)) = (self.banks.get_mut(bank), end) else {
            return Err(DeviceError {
                kind: BackendErrorKind::InvalidArgument,
                message: format!("{length} bytes at {address:#x} are not in one bank of the card's memory"),
            });
        };
        if bank.len() < end as usize {
            bank.resize(end as usize, 0);
        }
        Ok(())
    }

    /// Bytes that are covered.
    pub(crate) fn bytes(&self, address: u64, length: usize) -> &[u8] {
        let (bank, offset) = place(address);
        &self.banks[bank][offset..offset + length]
    }

    /// Bytes that are covered, to be written.
    pub(crate) fn bytes_mut(&mut self, address: u64, length: usize) -> &mut [u8] {
        let (bank, offset) = place(address);
        &mut self.banks[bank][offset..offset + length]
    }

    /// Copies covered bytes that do not overlap.
    pub(crate) fn copy(&mut self, from: u64, to: u64, length: usize) {
        let ((source, from), (destination, to)) = (place(from), place(to));
        match self.banks.get_disjoint_mut([source, destination]) {
            Ok([source, destination]) => {
                destination[to..to + length].copy_from_slice(&source[from..from + length]);
            }
            Err(_) => self.banks[source].copy_within(from..from + length, to),
        }
    }

    pub(crate) fn words(&self, address: u64, count: usize) -> impl Iterator<Item = f32> {
        self.bits(address, count).map(f32::from_bits)
    }

    pub(crate) fn scales(&self, address: u64, count: usize) -> impl Iterator<Item = Scale> {
        self.bits(address, count).map(Scale::from_word)
    }

    fn bits(&self, address: u64, count: usize) -> impl Iterator<Item = u32> {
        self.bytes(address, count * 4).as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
    }

    pub(crate) fn set_words(&mut self, address: u64, words: &[f32]) {
        let bytes = self.bytes_mut(address, words.len() * 4);
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
    }

    pub(crate) fn set_scale(&mut self, address: u64, scale: Scale) {
        self.bytes_mut(address, 4).copy_from_slice(&scale.to_word().to_le_bytes());
    }
}

fn place(address: u64) -> (usize, usize) {
    ((address >> BANK_BITS) as usize, (address & ((1 << BANK_BITS) - 1)) as usize)
}
