//! Descriptors with our addresses, `bank << 28 | offset`, become descriptors with the card's.

use crate::descriptor::{Descriptor, Flags, Op};

/// Replaces each address that the operation uses; the other fields stay zero.
pub(super) fn relocate<E>(
    descriptor: &Descriptor,
    mut address: impl FnMut(u64) -> Result<u64, E>,
) -> Result<Descriptor, E> {
    let has = |flag| descriptor.flags.has(flag);
    let (sources, destinations): (&[bool], &[bool]) = match descriptor.op {
        Op::End => (&[], &[]),
        Op::Gemm => (&[true; 4], &[true, has(Flags::BIAS)]),
        Op::Quantise => (&[true], &[true; 2]),
        Op::Norm => (&[true, true, has(Flags::BIAS)], &[true]),
        Op::Softmax => (&[true, has(Flags::MASK)], &[true; 2]),
        Op::Activate => (&[true, has(Flags::MULTIPLY)], &[true]),
        Op::Rope => (&[true; 3], &[true]),
        Op::Combine => (&[true, has(Flags::ADD)], &[true]),
        Op::Copy => (&[true], &[true]),
    };
    let mut moved = *descriptor;
    let sources = moved.source.iter_mut().zip(sources);
    for (field, used) in sources.chain(moved.destination.iter_mut().zip(destinations)) {
        if *used {
            *field = address(*field)?;
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field an address that tells which it is.
    fn full(op: Op, flags: Flags) -> Descriptor {
        Descriptor { flags, source: [1, 2, 3, 4], destination: [5, 6], pitch: [7; 3], ..Descriptor::new(op) }
    }

    #[test]
    fn relocate_moves_what_the_operation_reads_and_writes() {
        for (op, flags, expected) in [
            (Op::End, Flags(0), [1, 2, 3, 4, 5, 6]),
            (Op::Gemm, Flags(0), [101, 102, 103, 104, 105, 6]),
            (Op::Gemm, Flags::BIAS, [101, 102, 103, 104, 105, 106]),
            (Op::Quantise, Flags::TRANSPOSE, [101, 2, 3, 4, 105, 106]),
            (Op::Norm, Flags(0), [101, 102, 3, 4, 105, 6]),
            (Op::Norm, Flags::BIAS, [101, 102, 103, 4, 105, 6]),
            (Op::Softmax, Flags(0), [101, 2, 3, 4, 105, 106]),
            (Op::Softmax, Flags::MASK, [101, 102, 3, 4, 105, 106]),
            (Op::Activate, Flags::GELU, [101, 2, 3, 4, 105, 6]),
            (Op::Activate, Flags::MULTIPLY, [101, 102, 3, 4, 105, 6]),
            (Op::Rope, Flags(0), [101, 102, 103, 4, 105, 6]),
            (Op::Combine, Flags(0), [101, 2, 3, 4, 105, 6]),
            (Op::Combine, Flags::ADD, [101, 102, 3, 4, 105, 6]),
            (Op::Copy, Flags(0), [101, 2, 3, 4, 105, 6]),
        ] {
            let moved = relocate(&full(op, flags), |address| Ok::<_, ()>(address + 100));
            let Ok(moved) = moved else { panic!("{op:?}") };
            let [a, b, c, d] = moved.source;
            assert_eq!(
                [a, b, c, d, moved.destination[0], moved.destination[1]],
                expected,
                "{op:?} {flags:?}"
            );
            assert_eq!((moved.op, moved.flags, moved.pitch), (op, flags, [7; 3]));
        }
    }

    #[test]
    fn relocate_passes_errors_on() {
        assert_eq!(relocate(&full(Op::Copy, Flags(0)), Err::<u64, _>), Err(1));
    }
}
