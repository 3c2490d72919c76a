//! Who owns which bytes of the card's memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::descriptor::BANKS;
use crate::device::{BANK_BYTES, STREAM_BYTES};

/// Buffers begin at multiples of this and take multiples of it: no burst of AXI crosses one.
const PAGE: u64 = 4096;

/// Free ranges of each bank.
///
/// A buffer is free again when its [`Block`] is dropped, even if operations on it have not run yet: they run in
/// order, so whatever takes the place afterwards is written after they are done.
#[derive(Debug)]
pub(crate) struct Allocator {
    banks: Mutex<Banks>,
}

#[derive(Debug)]
struct Banks {
    /// Free bytes by where they begin.
    free: Vec<BTreeMap<u64, u64>>,
    /// The bank that is asked first: each buffer goes to another one, so that what is read together lies apart.
    next: usize,
}

/// A buffer, which gives itself back.
#[derive(Debug)]
pub(crate) struct Block {
    allocator: Arc<Allocator>,
    address: u64,
    bytes: u64,
}

/// There is no place for a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom {
    /// Bytes that were asked for.
    pub(crate) asked: u64,
    /// Bytes that are free over all banks.
    pub(crate) free: u64,
    /// Most of them in one piece.
    pub(crate) largest: u64,
}

impl Allocator {
    /// All of a card's memory but the device's own part.
    pub(crate) fn new() -> Arc<Self> {
        Self::of((0..BANKS).map(|bank| BANK_BYTES - if bank + 1 == BANKS { STREAM_BYTES } else { 0 }))
    }

    fn of(banks: impl IntoIterator<Item = u64>) -> Arc<Self> {
        let free = banks.into_iter().map(|bytes| BTreeMap::from([(0, bytes)])).collect();
        Arc::new(Self { banks: Mutex::new(Banks { free, next: 0 }) })
    }

    /// A buffer of at least one byte, in one bank.
    pub(crate) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Block, NoRoom> {
        let asked = bytes as u64;
        let bytes = asked.max(1).next_multiple_of(PAGE);
        // A panic elsewhere leaves the lists whole: each change of them is one call here or in `release`.
        let mut banks = self.banks.lock().unwrap_or_else(PoisonError::into_inner);
        let count = banks.free.len();
        for bank in (0..count).map(|i| (banks.next + i) % count) {
            let Some((&offset, &size)) = banks.free[bank].iter().find(|(_, size)| **size >= bytes) else {
                continue;
            };
            banks.free[bank].remove(&offset);
            if size > bytes {
                banks.free[bank].insert(offset + bytes, size - bytes);
            }
            banks.next = (bank + 1) % count;
            let address = bank as u64 * BANK_BYTES + offset;
            return Ok(Block { allocator: Arc::clone(self), address, bytes });
        }
        let sizes = || banks.free.iter().flat_map(BTreeMap::values).copied();
        Err(NoRoom { asked, free: sizes().sum(), largest: sizes().max().unwrap_or(0) })
    }

    fn release(&self, address: u64, bytes: u64) {
        let mut banks = self.banks.lock().unwrap_or_else(PoisonError::into_inner);
        let free = &mut banks.free[(address / BANK_BYTES) as usize];
        let (mut start, mut size) = (address % BANK_BYTES, bytes);
        if let Some(after) = free.remove(&(start + size)) {
            size += after;
        }
        if let Some((&before, &length)) = free.range(..start).next_back()
            && before + length == start
        {
            (start, size) = (before, size + length);
        }
        free.insert(start, size);
    }
}

impl Block {
    /// Where it begins.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.allocator.release(self.address, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_go_to_one_bank_after_another_and_never_into_two() {
        let memory = Allocator::new();
        let blocks: Vec<Block> = (0..40).map(|_| memory.allocate(200 << 20).ok()).map_while(|b| b).collect();
        // 200 MiB fit once into each bank, and the last has 240 MiB.
        assert_eq!(blocks.len(), 32);
        for (bank, block) in blocks.iter().enumerate() {
            assert_eq!(block.address(), bank as u64 * BANK_BYTES);
        }
        let refused = memory.allocate(200 << 20).unwrap_err();
        assert_eq!(refused.largest, 56 << 20);
        assert_eq!(refused.free, 31 * (56 << 20) + (40 << 20));
        assert_eq!(memory.allocate(257 << 20).unwrap_err().asked, 257 << 20);
    }

    #[test]
    fn what_is_dropped_is_used_again_in_one_piece() {
        let memory = Allocator::of([4 * PAGE]);
        let blocks: Vec<Block> = (0..4).map(|_| memory.allocate(1).unwrap()).collect();
        let addresses: Vec<u64> = blocks.iter().map(Block::address).collect();
        assert_eq!(addresses, [0, PAGE, 2 * PAGE, 3 * PAGE]);
        assert_eq!(memory.allocate(1).unwrap_err(), NoRoom { asked: 1, free: 0, largest: 0 });
        let mut blocks = blocks.into_iter();
        let [first, second, third, fourth] = std::array::from_fn(|_| blocks.next().unwrap());
        // Neighbours join whichever goes first.
        drop((first, third));
        assert_eq!(memory.allocate(2 * PAGE as usize).unwrap_err().largest, PAGE);
        drop(second);
        let large = memory.allocate(3 * PAGE as usize).unwrap();
        assert_eq!(large.address(), 0);
        drop((large, fourth));
        assert_eq!(memory.allocate(4 * PAGE as usize).unwrap().address(), 0);
    }

    #[test]
    fn the_end_of_the_last_bank_is_the_devices() {
        let memory = Allocator::new();
        let whole: Vec<Block> = (0..31).map(|_| memory.allocate(BANK_BYTES as usize).unwrap()).collect();
        assert_eq!(whole.len(), 31);
        let last = memory.allocate((BANK_BYTES - STREAM_BYTES) as usize).unwrap();
        assert_eq!(last.address(), 31 * BANK_BYTES);
        assert!(memory.allocate(1).is_err());
    }
}
