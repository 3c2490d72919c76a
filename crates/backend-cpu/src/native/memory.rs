//! Aligned memory that is used again.
//!
//! Every tensor's memory comes from an [`Arena`] and returns to it when the tensor is dropped. A policy computes the same
//! shapes in every chunk, so after the first one nothing is allocated.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Alignment of all memory: a cache line, and a 512-bit register.
const LINE_BYTES: usize = 64;
/// From this size on memory is aligned to, and asked for in, pages of this size: weights are read from end to end in
/// every step, and a page table walk for each 4 KiB of them costs more than the reading.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Owned memory, initialised, of a whole number of lines.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain bytes that nobody else points to.
unsafe impl Send for Memory {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeros.
    fn zeros(bytes: usize) -> Self {
        let align = if bytes >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { LINE_BYTES };
        let Ok(layout) = Layout::from_size_align(bytes.next_multiple_of(LINE_BYTES).max(LINE_BYTES), align)
        else {
            panic!("{bytes} bytes are more than any machine has");
        };
        // SAFETY: the layout has a size.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if layout.align() == HUGE_PAGE_BYTES {
            // A wish: where it is refused, pages are small. SAFETY: the range was just allocated.
            unsafe { libc::madvise(start.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        // SAFETY: the memory is ours, of that size.
        unsafe { start.as_ptr().write_bytes(0, layout.size()) };
        Self { start, layout }
    }

    fn len(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeros` with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// Plain numbers: any bytes are a value, and no value needs more alignment than a line has.
///
/// # Safety
/// That must be true of the type.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: any bytes are a number.
unsafe impl Plain for u8 {}
// SAFETY: any bytes are a number.
unsafe impl Plain for i8 {}
// SAFETY: any bytes are a number.
unsafe impl Plain for u16 {}
// SAFETY: any bytes are a number.
unsafe impl Plain for i32 {}
// SAFETY: any bytes are a number.
unsafe impl Plain for f32 {}

/// Memory waiting to be used again, shared by all tensors of a backend.
#[derive(Clone, Default)]
pub(crate) struct Arena {
    free: Arc<Mutex<Vec<Memory>>>,
}

impl Arena {
    /// Memory for `len` elements. Its contents are unspecified numbers: zeros, or what an earlier tensor left.
    pub(crate) fn take<T: Plain>(&self, len: usize) -> Buffer {
        let bytes = len * size_of::<T>();
        let needed = bytes.next_multiple_of(LINE_BYTES).max(LINE_BYTES);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, unless most of it would lie idle.
        let best = (0..free.len())
            .filter(|&index| (needed..=2 * needed).contains(&free[index].len()))
            .min_by_key(|&index| free[index].len());
        let memory = best.map(|index| free.swap_remove(index));
        drop(free);
        Buffer {
            memory: Some(memory.unwrap_or_else(|| Memory::zeros(needed))),
            bytes,
            home: Some(self.clone()),
        }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").finish_non_exhaustive()
    }
}

/// Memory aligned to 64 bytes.
pub(crate) struct Buffer {
    /// `None` only while it is dropped.
    memory: Option<Memory>,
    bytes: usize,
    /// Where it returns to; parameters belong to nobody and are freed.
    home: Option<Arena>,
}

impl Buffer {
    /// Zeros that no arena keeps.
    pub(crate) fn zeros<T: Plain>(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        Self { memory: Some(Memory::zeros(bytes)), bytes, home: None }
    }

    fn start(&self) -> *mut u8 {
        self.memory.as_ref().map_or(std::ptr::dangling_mut::<u8>(), |memory| memory.start.as_ptr())
    }

    /// The memory as numbers.
    pub(crate) fn as_slice<T: Plain>(&self) -> &[T] {
        // SAFETY: at least `bytes` initialised bytes, aligned to 64; any bytes are a `T`.
        unsafe { std::slice::from_raw_parts(self.start().cast(), self.bytes / size_of::<T>()) }
    }

    /// The memory as numbers to write.
    pub(crate) fn as_mut_slice<T: Plain>(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start().cast(), self.bytes / size_of::<T>()) }
    }

    /// Where the memory starts, for several threads that write parts of their own.
    pub(crate) fn shared(&mut self) -> SharedMut {
        SharedMut(self.start())
    }

    /// Bytes held.
    pub(crate) fn len_bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (Some(home), Some(memory)) = (self.home.take(), self.memory.take()) {
            home.free.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        }
    }
}

/// The start of memory that several threads write, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut(*mut u8);

// SAFETY: an address; whoever writes through it answers for not overlapping.
unsafe impl Send for SharedMut {}
// SAFETY: as above.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    /// The address of element `index`.
    ///
    /// # Safety
    /// The element is within the buffer, which outlives the use, and nobody else accesses what is accessed through it.
    pub(crate) unsafe fn at<T: Plain>(self, index: usize) -> *mut T {
        // SAFETY: within the buffer.
        unsafe { self.0.cast::<T>().add(index) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arena_gives_dropped_memory_again() {
        let arena = Arena::default();
        let first = arena.take::<f32>(100);
        let address = first.as_slice::<u8>().as_ptr();
        drop(first);
        let again = arena.take::<f32>(90);
        assert_eq!((again.as_slice::<u8>().as_ptr(), again.as_slice::<f32>().len()), (address, 90));
        assert_ne!(arena.take::<f32>(100).as_slice::<u8>().as_ptr(), address, "it is in use");
    }

    #[test]
    fn arena_does_not_spend_a_large_piece_on_a_small_tensor() {
        let arena = Arena::default();
        let large = arena.take::<f32>(10_000);
        let address = large.as_slice::<u8>().as_ptr();
        drop(large);
        assert_ne!(arena.take::<f32>(16).as_slice::<u8>().as_ptr(), address);
    }

    #[test]
    fn buffers_are_aligned_for_the_widest_register() {
        for len in [0, 1, 15, 16, 17, 1000] {
            assert_eq!(Buffer::zeros::<f32>(len).start().addr() % 64, 0);
        }
    }
}
