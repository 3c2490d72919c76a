//! Linear layers on their way to the card: digits in panels, and a scale for each output.

use smolvla_core::quantise::ChannelScale;
use smolvla_core::weights::TensorView;

use crate::arith::{Scale, digits};
use crate::descriptor::{TILE_COLS, TILE_DEPTH, padded};
use crate::lower::Places;

/// A layer as it will lie in the card's memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Panels, one after the other.
    pub(crate) panels: Vec<u8>,
    /// Of each output, with the activations' target in it.
    pub(crate) scales: Vec<Scale>,
}

/// Bytes of a panel's plane.
pub(crate) const fn plane_bytes(inputs: usize) -> usize {
    padded(inputs) * TILE_COLS
}

/// Quantises and packs the matrices of a layer, `[outputs_i, inputs]` each, in digits of `places`; its activations will
/// be in `±target`.
///
/// # Errors
/// The place of a weight that is not finite.
pub(crate) fn pack(matrices: &[TensorView<'_>], places: Places, target: i32) -> Result<Packed, String> {
    let inputs = matrices.first().map_or(0, TensorView::cols);
    let outputs = matrices.iter().map(TensorView::rows).sum::<usize>();
    let (plane, planes) = (plane_bytes(inputs), places.planes());
    let mut panels = vec![0; outputs.div_ceil(TILE_COLS) * planes * plane];
    let mut scales = Vec::with_capacity(outputs);
    let mut row = vec![0.0; inputs];
    let mut numbers = vec![0; inputs];
    let mut bytes = vec![0; padded(inputs)];
    let mut stored_digits = vec![0; inputs];
    let rows = matrices.iter().flat_map(|weight| (0..weight.rows()).map(move |row| (weight, row)));
    for (output, (weight, stored)) in rows.enumerate() {
        // Integers that another tool's step belongs to are rounded again, and so are those that become 16-bit ones.
        let step = weight.row_scale(stored).filter(|_| places == Places::One);
        if let Some(scale) = step.and_then(|step| ChannelScale::of_step(step, target))
            && weight.read_digits(stored, &mut stored_digits)
        {
            scales.push(Scale { mantissa: scale.mantissa, exponent: scale.exponent });
            for (number, digit) in numbers.iter_mut().zip(&stored_digits) {
                *number = i16::from(*digit);
            }
        } else {
            weight.read_row(stored, &mut row);
            scales.push(quantise_row(&row, output, places, target, &mut numbers)?);
        }
        let panel = &mut panels[output / TILE_COLS * planes * plane..][..planes * plane];
        for (index, plane) in panel.chunks_exact_mut(plane).enumerate() {
            for (byte, number) in bytes.iter_mut().zip(&numbers) {
                *byte = match (places, index) {
                    (Places::One, _) => *number as u8,
                    (Places::Two, 0) => digits(i32::from(*number)).0 as u8,
                    (Places::Two, _) => digits(i32::from(*number)).1 as u8,
                };
            }
            let words = plane.chunks_exact_mut(TILE_COLS * TILE_DEPTH);
            for (word, eight) in words.zip(bytes.chunks_exact(TILE_DEPTH)) {
                word[TILE_DEPTH * (output % TILE_COLS)..][..TILE_DEPTH].copy_from_slice(eight);
            }
        }
    }
    Ok(Packed { panels, scales })
}

/// An output's weights, looked at first.
fn quantise_row(
    row: &[f32],
    output: usize,
    places: Places,
    target: i32,
    numbers: &mut [i16],
) -> Result<Scale, String> {
    if let Some(input) = row.iter().position(|w| !w.is_finite()) {
        return Err(format!("the weight of output {output} and input {input} is {}", row[input]));
    }
    Ok(quantise(row, places.target(), target, numbers))
}

/// An output's weights in `±own`, and their step over `target`.
fn quantise(row: &[f32], own: i32, target: i32, numbers: &mut [i16]) -> Scale {
    /// Added to a number, it leaves the nearest integer in the sum's lowest bits.
    const ROUND: f64 = (3_u64 << 51) as f64;
    let largest = row.iter().fold(0.0_f32, |largest, w| largest.max(w.abs()));
    let scale = scale(largest, own, target);
    if scale.mantissa == 0 {
        numbers.fill(0);
        return scale;
    }
    let step = f64::from(target) * f64::from(scale.mantissa) * f64::from(scale.exponent).exp2();
    let inverse = step.recip();
    for (number, w) in numbers.iter_mut().zip(row) {
        *number = (f64::from(*w) * inverse + ROUND).to_bits() as i16;
    }
    scale
}

/// The scale by which the largest weight becomes `own`: with a mantissa of 2^12 to 2^13, rounded up.
///
/// A layer that was quantised before keeps its numbers: its largest weight is 127 steps but for a rounding of
/// binary32, and 2^-18 is more than that.
fn scale(largest: f32, own: i32, target: i32) -> Scale {
    if largest == 0.0 {
        return Scale::default();
    }
    let factor = f64::from(largest) / (f64::from(own) * f64::from(target));
    // The exponent of a normal f64.
    let exponent = (factor.to_bits() >> 52) as i32 - 1023 - 12;
    let mantissa = factor * f64::from(-exponent).exp2();
    let mantissa = (mantissa * (1.0 - f64::from(-18).exp2())).ceil();
    Scale { mantissa: mantissa as u16, exponent: exponent as i16 }
}

#[cfg(test)]
mod tests {
    use smolvla_core::weights::StorageType;

    use super::*;
    use crate::arith::{BASE, DIGIT, TWO_DIGITS};

    fn packed_in(places: Places, values: &[f32], outputs: usize, target: i32) -> Packed {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = TensorView::new(StorageType::F32, outputs, values.len() / outputs, &bytes).unwrap();
        pack(&[view], places, target).unwrap()
    }

    fn packed(values: &[f32], outputs: usize, target: i32) -> Packed {
        packed_in(Places::One, values, outputs, target)
    }

    /// What the card multiplies by: numbers times the step.
    fn unpacked_of(places: Places, packed: &Packed, inputs: usize, target: i32) -> Vec<f32> {
        let plane = plane_bytes(inputs);
        let one = |output: usize, input: usize| {
            let at = output / 16 * places.planes() * plane + input / 8 * 128 + output % 16 * 8 + input % 8;
            let digit = |plane: usize| i32::from(packed.panels[at + plane] as i8);
            let number = match places {
                Places::One => digit(0),
                Places::Two => BASE * digit(0) + digit(plane),
            };
            let Scale { mantissa, exponent } = packed.scales[output];
            let step = f64::from(target) * f64::from(mantissa) * f64::from(exponent).exp2();
            (f64::from(number) * step) as f32
        };
        (0..packed.scales.len())
            .flat_map(|o| (0..inputs).map(move |i| (o, i)))
            .map(|(o, i)| one(o, i))
            .collect()
    }

    fn unpacked(packed: &Packed, inputs: usize, target: i32) -> Vec<f32> {
        unpacked_of(Places::One, packed, inputs, target)
    }

    fn values(count: usize) -> Vec<f32> {
        // A row of zeros, and rows of very different sizes.
        let size = |i: usize| ((i / 70 % 40) as f32 * 6.0 - 120.0).exp2();
        (0..count)
            .map(|i| if i < 70 { 0.0 } else { ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * size(i) })
            .collect()
    }

    #[test]
    fn weights_come_back_within_half_a_step() {
        let weights = values(37 * 70);
        for target in [DIGIT, TWO_DIGITS] {
            let packed = packed(&weights, 37, target);
            assert_eq!(packed.panels.len(), 3 * 128 * 16);
            let back = unpacked(&packed, 70, target);
            for (row, (own, back)) in weights.chunks(70).zip(back.chunks(70)).enumerate() {
                let largest = own.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
                for (own, back) in own.iter().zip(back) {
                    // A mantissa of 2^12 adds at most its last place to the step.
                    assert!((own - back).abs() <= largest / 127.0 * 0.5002, "row {row}: {own} {back}");
                }
            }
            for scale in &packed.scales[1..] {
                assert!((1 << 12..=1 << 13).contains(&scale.mantissa), "{scale:?}");
            }
            assert_eq!(packed.scales[0], Scale::default());
        }
    }

    #[test]
    fn two_digits_hold_256_times_finer_steps() {
        let weights = values(37 * 70);
        let packed = packed_in(Places::Two, &weights, 37, TWO_DIGITS);
        assert_eq!(packed.panels.len(), 3 * 2 * 128 * 16);
        let back = unpacked_of(Places::Two, &packed, 70, TWO_DIGITS);
        for (own, back) in weights.chunks(70).zip(back.chunks(70)) {
            let largest = own.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
            for (own, back) in own.iter().zip(back) {
                assert!((own - back).abs() <= largest / 32_512.0 * 0.5002, "{own} {back}");
            }
        }
    }

    #[test]
    fn places_beyond_the_layer_are_zero() {
        let packed = packed(&vec![1.0; 17 * 9], 17, DIGIT);
        assert_eq!(packed.panels.iter().filter(|digit| **digit != 0).count(), 17 * 9);
        assert_eq!(packed.panels.iter().map(|digit| u32::from(*digit)).max(), Some(127));
    }

    #[test]
    fn what_was_quantised_before_keeps_its_digits() {
        let weights = values(37 * 70);
        for (first, second) in [(DIGIT, DIGIT), (DIGIT, TWO_DIGITS), (TWO_DIGITS, DIGIT)] {
            let once = packed(&weights, 37, first);
            let twice = packed(&unpacked(&once, 70, first), 37, second);
            assert_eq!(once.panels, twice.panels);
            if first == second {
                assert_eq!(once.scales, twice.scales);
            }
        }
        // With any scale, as another quantiser writes them in binary32.
        for scale in [0.1_f32, 3.3e-5, 0.007_812_5, 1.234_567] {
            let weights: Vec<f32> = (-127..=127).map(|q: i32| q as f32 * scale).collect();
            let digits: Vec<i32> = unpacked(&packed(&weights, 1, DIGIT), 255, DIGIT)
                .iter()
                .map(|w| (w / scale).round() as i32)
                .collect();
            assert_eq!(digits, (-127..=127).collect::<Vec<_>>(), "{scale}");
        }
    }

    #[test]
    fn weights_that_are_not_finite_are_named() {
        let bytes: Vec<u8> = [1.0, 2.0, f32::NAN, 3.0].iter().flat_map(|v: &f32| v.to_le_bytes()).collect();
        let view = TensorView::new(StorageType::F32, 2, 2, &bytes).unwrap();
        assert_eq!(
            pack(&[view], Places::One, DIGIT).unwrap_err(),
            "the weight of output 1 and input 0 is NaN"
        );
    }

    #[test]
    fn stored_integers_are_taken_as_they_are() {
        // A row whose largest integer is not 127: rounding it anew would give other integers.
        let stored: Vec<u8> = [100_i8, -3, 0, 77].map(i8::cast_unsigned).to_vec();
        for target in [DIGIT, TWO_DIGITS] {
            let scale = smolvla_core::quantise::channel_scale(0.37, target);
            let steps = scale.step().to_le_bytes();
            let view = TensorView::quantised(1, 4, &stored, &steps).unwrap();
            let packed = pack(&[view], Places::One, target).unwrap();
            assert_eq!(packed.panels[..4], stored[..]);
            assert_eq!(packed.scales, [Scale { mantissa: scale.mantissa, exponent: scale.exponent }]);
        }
    }
}
