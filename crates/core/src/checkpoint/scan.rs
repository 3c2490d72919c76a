//! A look at every number that inference reads.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::compare::Finding;
use super::file::WeightsFile;
use super::layout::{ExpectedTensor, expected};
use crate::config::{Architecture, PolicyConfig};
use crate::weights::StorageType;

/// Finds tensors that inference reads and that hold NaN, infinity or an integer out of range, in the order of the state
/// dict.
///
/// Tensors of another shape than expected are left to [`super::compare`].
///
/// Reads the whole file once, on all cores, and keeps none of it in memory.
pub fn non_finite(file: &WeightsFile, policy: &PolicyConfig, architecture: &Architecture) -> Vec<Finding> {
    let tensors: Vec<ExpectedTensor> =
        expected(policy, architecture).into_iter().filter(|tensor| tensor.needed).collect();
    let next = AtomicUsize::new(0);
    let scan = || {
        let mut found = Vec::new();
        while let Some((order, tensor)) = claim(&next, &tensors) {
            // Absent tensors, other shapes and other element types are reported by the comparison.
            if file.entry(&tensor.name).is_none_or(|entry| entry.shape != tensor.shape()) {
                continue;
            }
            let Ok(Some(view)) = file.get(&tensor.name) else { continue };
            let place = (0..view.rows())
                .find_map(|row| Some((row, first_non_finite(view.dtype(), view.row_bytes(row))?)));
            file.release(&tensor.name);
            if let Some((row, column)) = place {
                let mut values = vec![0.0; view.cols()];
                view.read_row(row, &mut values);
                let (index, value) = (row * view.cols() + column, values[column]);
                let reason = if view.dtype().is_quantised() {
                    format!(
                        "element {index} is below the symmetric range of its type (-128, or -8 of 4 bits)"
                    )
                } else {
                    format!("element {index} is {value}; expected finite numbers")
                };
                found.push((order, Finding { tensor: tensor.name.clone(), reason }));
            }
        }
        found
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let mut found: Vec<(usize, Finding)> = thread::scope(|scope| {
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(scan)).collect();
        let mut found = scan();
        for worker in workers {
            found.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        found
    });
    found.sort_by_key(|(order, _)| *order);
    found.into_iter().map(|(_, finding)| finding).collect()
}

/// The next tensor nobody has taken yet.
fn claim<'a, T>(next: &AtomicUsize, items: &'a [T]) -> Option<(usize, &'a T)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    items.get(index).map(|item| (index, item))
}

/// Index of the first element that is NaN or infinite as an f32 (its exponent bits are all ones), or an integer that
/// the symmetric range of its type leaves out: devices cannot multiply it.
fn first_non_finite(dtype: StorageType, bytes: &[u8]) -> Option<usize> {
    match dtype {
        StorageType::F64 => position(bytes, |b: [u8; 8]| !(f64::from_le_bytes(b) as f32).is_finite()),
        StorageType::F32 => position(bytes, |b: [u8; 4]| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
        StorageType::F16 => position(bytes, |b: [u8; 2]| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        StorageType::Bf16 => position(bytes, |b: [u8; 2]| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        // Their scales were looked at when the view was made.
        StorageType::I8 => position(bytes, |[b]: [u8; 1]| b == 0x80),
        StorageType::I4 => {
            let byte = position(bytes, |[b]: [u8; 1]| b & 0x0f == 0x08 || b & 0xf0 == 0x80)?;
            Some(2 * byte + usize::from(bytes[byte] & 0x0f != 0x08))
        }
    }
}

fn position<const N: usize>(bytes: &[u8], special: impl Fn([u8; N]) -> bool) -> Option<usize> {
    // A block is first folded without branches, which compiles to vector code, and searched only on a hit.
    const BLOCK: usize = 1024;
    let (elements, _) = bytes.as_chunks::<N>();
    elements.chunks(BLOCK).enumerate().find_map(|(block, elements)| {
        if !elements.iter().fold(false, |any, element| any | special(*element)) {
            return None;
        }
        elements.iter().position(|element| special(*element)).map(|index| block * BLOCK + index)
    })
}
