//! Numbers to integers and back.

use crate::weights::GROUP;

/// Largest integer of one digit of an activation, and of a weight.
pub const ONE_DIGIT: i32 = 127;

/// Largest integer of two digits in base 255: `127 · 255 + 127`.
pub const TWO_DIGITS: i32 = 32_512;

/// Largest 4-bit integer, in a symmetric range.
const NIBBLE: f32 = 7.0;

/// Rounding of the numbers that a scale is computed from, in units of its mantissa. A row that was made from integers
/// comes back to the same scale in spite of it.
const SLACK: f64 = 1.0 / 256.0;

/// The step of one output's integers: `mantissa · 2^exponent · target`, so that an integer device whose activations
/// lie in `±target` multiplies a sum of products by `mantissa · 2^exponent`.
///
/// The targets of one and two digits differ by a power of two, so both give the same steps and the same integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelScale {
    /// From `2^12`, below `2^13`.
    pub mantissa: u16,
    /// Of two.
    pub exponent: i16,
    /// Largest integer of an activation: [`ONE_DIGIT`] or [`TWO_DIGITS`].
    pub target: i32,
}

impl ChannelScale {
    /// What an integer of 1 stands for; exact in f32.
    pub fn step(self) -> f32 {
        (f64::from(self.mantissa) * f64::from(self.target) * f64::from(self.exponent).exp2()) as f32
    }

    /// The scale that has this step, if there is one: `None` for steps that another tool chose.
    pub fn of_step(step: f32, target: i32) -> Option<Self> {
        let scale = Self::at_least(f64::from(step) / f64::from(target), target)?;
        (scale.step() == step).then_some(scale)
    }

    /// The smallest scale whose `mantissa · 2^exponent` is at least `factor`.
    fn at_least(factor: f64, target: i32) -> Option<Self> {
        let normal =
            (f64::from(f32::MIN_POSITIVE)..f64::from(f32::MAX)).contains(&(factor * f64::from(target)));
        if !normal {
            return None;
        }
        let mut exponent = factor.log2().floor() as i32 - 12;
        // The logarithm of a number just below a power of two may be rounded up to it.
        let mut mantissa = factor * f64::from(-exponent).exp2();
        if mantissa < 4096.0 {
            (mantissa, exponent) = (2.0 * mantissa, exponent - 1);
        }
        let mantissa = (mantissa - SLACK).ceil().clamp(4096.0, 8192.0) as u16;
        let (mantissa, exponent) = if mantissa == 8192 { (4096, exponent + 1) } else { (mantissa, exponent) };
        Some(Self { mantissa, exponent: i16::try_from(exponent).ok()?, target })
    }
}

/// The scale of a row of weights whose largest magnitude is `amax`, for integers in ±127: the step is `amax / 127` with
/// the mantissa of `step / target` rounded up to 13 bits.
///
/// Weights that are such integers times such a step get the same scale and the same integers again. For a row of
/// zeros, or of numbers too small for a normal step, `mantissa · 2^exponent` is 1, and its integers are zeros.
///
/// ```
/// use smolvla_core::quantise::{ONE_DIGIT, TWO_DIGITS, channel_scale};
///
/// let (one, two) = (channel_scale(0.37, ONE_DIGIT), channel_scale(0.37, TWO_DIGITS));
/// assert_eq!((one.mantissa, one.exponent), (two.mantissa, two.exponent + 8));
/// assert_eq!(one.step(), two.step());
/// assert_eq!(channel_scale(127.0 * one.step(), ONE_DIGIT), one);
/// ```
pub fn channel_scale(amax: f32, target: i32) -> ChannelScale {
    let factor = f64::from(amax) / f64::from(ONE_DIGIT) / f64::from(target);
    ChannelScale::at_least(factor, target).unwrap_or(ChannelScale {
        mantissa: 1 << 12,
        exponent: -12,
        target,
    })
}

/// The largest magnitude of some numbers.
pub(crate) fn amax(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// A weight as it is stored: integers in ±127, and for each output the step.
pub(crate) struct Int8 {
    /// `[outputs, inputs]`.
    pub(crate) digits: Vec<i8>,
    pub(crate) steps: Vec<f32>,
}

impl Int8 {
    /// The integers nearest to `weight`, `[outputs, inputs]`.
    pub(crate) fn new(weight: &[f32], inputs: usize) -> Self {
        let mut digits = Vec::with_capacity(weight.len());
        let mut steps = Vec::with_capacity(weight.len() / inputs.max(1));
        for row in weight.chunks_exact(inputs) {
            let step = channel_scale(amax(row), ONE_DIGIT).step();
            digits.extend(row.iter().map(|w| (w / step).round().clamp(-127.0, 127.0) as i8));
            steps.push(step);
        }
        Self { digits, steps }
    }

    /// What the integers stand for.
    pub(crate) fn values(&self) -> Vec<f32> {
        let inputs = self.digits.len() / self.steps.len().max(1);
        let rows = self.digits.chunks_exact(inputs.max(1)).zip(&self.steps);
        rows.flat_map(|(row, step)| row.iter().map(move |digit| f32::from(*digit) * step)).collect()
    }
}

/// A weight in 4 bits: integers in ±7, for each [`GROUP`] of an output's inputs a multiplier, and for each output the
/// step. Integer times multiplier has 8 bits, so a device for [`Int8`] takes it too.
pub(crate) struct Int4 {
    /// `[outputs, inputs]`.
    digits: Vec<i8>,
    /// `[outputs, inputs / GROUP]`, from 1 to 18.
    pub(crate) multipliers: Vec<u8>,
    pub(crate) steps: Vec<f32>,
}

impl Int4 {
    /// Integers and multipliers near `weight`, `[outputs, inputs]`; `None` where a row is no whole number of groups.
    pub(crate) fn new(weight: &[f32], inputs: usize) -> Option<Self> {
        if inputs == 0 || !inputs.is_multiple_of(GROUP) {
            return None;
        }
        let mut new =
            Self { digits: Vec::with_capacity(weight.len()), multipliers: Vec::new(), steps: Vec::new() };
        for row in weight.chunks_exact(inputs) {
            let step = channel_scale(amax(row), ONE_DIGIT).step();
            for group in row.chunks_exact(GROUP) {
                let multiplier = multiplier(group, step);
                let unit = f32::from(multiplier) * step;
                new.digits.extend(group.iter().map(|w| nibble(*w, unit) as i8));
                new.multipliers.push(multiplier);
            }
            new.steps.push(step);
        }
        Some(new)
    }

    /// What the integers stand for.
    pub(crate) fn values(&self) -> Vec<f32> {
        let groups_a_row = self.multipliers.len() / self.steps.len().max(1);
        let groups = self.digits.chunks_exact(GROUP).zip(&self.multipliers).enumerate();
        groups
            .flat_map(|(index, (group, multiplier))| {
                let step = self.steps[index / groups_a_row];
                group.iter().map(move |digit| f32::from(*digit * multiplier.cast_signed()) * step)
            })
            .collect()
    }

    /// The integers two in a byte, the lower half first.
    pub(crate) fn packed(&self) -> Vec<u8> {
        let (pairs, _) = self.digits.as_chunks::<2>();
        pairs.iter().map(|[low, high]| low.cast_unsigned() & 0xf | high.cast_unsigned() << 4).collect()
    }
}

fn nibble(weight: f32, unit: f32) -> f32 {
    (weight / unit).round().clamp(-NIBBLE, NIBBLE)
}

/// The multiplier that leaves the smallest squared error: the one that cuts nothing off, or a little less.
fn multiplier(group: &[f32], step: f32) -> u8 {
    let largest = f32::from(crate::checkpoint::LARGEST_MULTIPLIER);
    let whole = (amax(group) / (NIBBLE * step)).ceil().clamp(1.0, largest);
    let error = |multiplier: f32| -> f32 {
        let unit = multiplier * step;
        group.iter().map(|w| (w - nibble(*w, unit) * unit).powi(2)).sum()
    };
    let candidates = (0..4).map(|less| whole - less as f32).filter(|multiplier| *multiplier >= 1.0);
    let best =
        candidates.map(|multiplier| (error(multiplier), multiplier)).min_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or(whole, |(_, multiplier)| multiplier) as u8
}

/// Rounds each row of activations to integers in `±target` times the row's own step.
pub(crate) fn round_rows(values: &mut [f32], cols: usize, target: i32) {
    for row in values.chunks_exact_mut(cols.max(1)) {
        let step = amax(row) / target as f32;
        if step > 0.0 {
            row.iter_mut().for_each(|x| *x = (*x / step).round() * step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between −1 and 1 that look like none in particular.
    fn numbers(count: usize) -> Vec<f32> {
        (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
    }

    #[test]
    fn scales_have_thirteen_bits_and_cover_the_largest_number() {
        for (index, x) in numbers(20_000).into_iter().enumerate() {
            let amax = x.abs() * ((index % 200) as f32 - 100.0).exp2();
            for target in [ONE_DIGIT, TWO_DIGITS] {
                let scale = channel_scale(amax, target);
                assert!((4096..8192).contains(&scale.mantissa), "{amax}: {scale:?}");
                let ratio = f64::from(amax) / f64::from(scale.step());
                // Rounded up by less than one in 4096, but for the slack.
                assert!(
                    ratio <= 127.0 * (1.0 + 1e-6) && ratio > 127.0 * (1.0 - 1.0 / 4096.0),
                    "{amax}: {ratio}"
                );
                assert_eq!(ChannelScale::of_step(scale.step(), target), Some(scale), "{amax}");
            }
        }
    }

    #[test]
    fn powers_of_two_and_their_neighbours_are_scaled_too() {
        for exponent in -60..60 {
            let exact = 127.0_f32 * 127.0 * 2.0_f32.powi(exponent);
            for amax in [exact.next_down(), exact, exact.next_up()] {
                let step = channel_scale(amax, ONE_DIGIT).step();
                assert_eq!(step, 127.0 * 2.0_f32.powi(exponent), "{amax}");
            }
        }
    }

    #[test]
    fn zeros_and_numbers_without_a_normal_step_have_a_scale_of_one() {
        for amax in [0.0, f32::from_bits(1), f32::MIN_POSITIVE] {
            let scale = channel_scale(amax, ONE_DIGIT);
            assert_eq!((scale.step(), (amax / scale.step()).round()), (127.0, 0.0));
        }
        assert_eq!(ChannelScale::of_step(0.1, ONE_DIGIT), None);
    }

    #[test]
    fn integers_of_a_quantised_weight_are_the_same_integers() {
        let size = |row: usize| ((row % 37) as f32 - 18.5).exp2();
        let weight: Vec<f32> = numbers(64 * 200).iter().enumerate().map(|(i, w)| w * size(i / 64)).collect();
        let once = Int8::new(&weight, 64);
        let twice = Int8::new(&once.values(), 64);
        assert_eq!((&once.digits, &once.steps), (&twice.digits, &twice.steps));
        assert!(once.digits.chunks(64).all(|row| row.iter().any(|digit| digit.abs() == 127)));
        for (row, (weight, value)) in weight.iter().zip(once.values()).enumerate().map(|(i, x)| (i / 64, x)) {
            assert!((weight - value).abs() <= 0.5001 * once.steps[row], "{weight} {value}");
        }
    }

    #[test]
    fn nibbles_times_multipliers_stay_within_eight_bits_and_near_the_weight() {
        let weight: Vec<f32> =
            numbers(4 * 256).iter().enumerate().map(|(i, w)| w * [1.0, 0.1, 0.5, 0.02][i / 64 % 4]).collect();
        let int4 = Int4::new(&weight, 256).unwrap();
        assert!(int4.multipliers.iter().all(|m| (1..=18).contains(m)));
        assert!(int4.multipliers.iter().any(|m| *m > 14) && int4.multipliers.iter().any(|m| *m < 3));
        let values = int4.values();
        let error: f32 = weight.iter().zip(&values).map(|(a, b)| (a - b).powi(2)).sum();
        let size: f32 = weight.iter().map(|w| w.powi(2)).sum();
        // A uniform group in fifteen steps: (2/14)²/12 of its mean square of 1/3.
        assert!(error / size < 0.0055, "{}", error / size);
        let scales: Vec<u8> = int4.steps.iter().flat_map(|step| step.to_le_bytes()).collect();
        let packed = int4.packed();
        let view =
            crate::weights::TensorView::quantised4(4, 256, &packed, &scales, &int4.multipliers).unwrap();
        assert_eq!(view.to_f32(), values);
        assert!(Int4::new(&weight, 32).is_none());
    }

    #[test]
    fn rows_are_rounded_by_their_own_largest_number() {
        let mut rows = [1.27, 0.014, -0.0349, 0.0, 0.0, 0.0, 12.7, 0.06, -0.04];
        round_rows(&mut rows, 3, ONE_DIGIT);
        for (got, expected) in rows.iter().zip([1.27, 0.01, -0.03, 0.0, 0.0, 0.0, 12.7, 0.1, 0.0]) {
            assert!((got - expected).abs() < 1e-6, "{rows:?}");
        }
    }
}
