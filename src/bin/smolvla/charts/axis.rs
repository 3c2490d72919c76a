//! Axes: where values stand, where the ticks are, and how numbers are written.

/// Ticks of one axis have no room beyond this.
const MOST_DECADES: f64 = 9.0;

/// A logarithmic axis from one pixel to another.
pub(super) struct LogAxis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl LogAxis {
    /// An axis over these powers of ten, `from` the pixel of the lower one.
    pub(super) fn new((low, high): (f64, f64), from: f64, to: f64) -> Self {
        Self { low, high, from, to }
    }

    /// Where a value stands.
    pub(super) fn at(&self, value: f64) -> f64 {
        self.at_log(value.log10())
    }

    /// Where a power of ten stands; sums of logarithms do not overflow as products do.
    pub(super) fn at_log(&self, log: f64) -> f64 {
        self.from + (log - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// The powers of ten that have a label.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let step = ((self.high - self.low) / MOST_DECADES).ceil().max(1.0);
        // Whole multiples of the step, so that 1 is among them.
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        (first..=last).map(|tick| tick as f64 * step).collect()
    }

    /// The powers of the values 2 to 9 between them; none where they would stand too dense.
    pub(super) fn fine_ticks(&self) -> Vec<f64> {
        if self.high - self.low > MOST_DECADES {
            return Vec::new();
        }
        (self.low.floor() as i64..=self.high.floor() as i64)
            .flat_map(|decade| (2..=9).map(move |digit| decade as f64 + f64::from(digit).log10()))
            .filter(|log| (self.low..=self.high).contains(log))
            .collect()
    }
}

/// Round values from zero to at least `most`, about `count` of them, and how their labels are written.
pub(super) fn linear_ticks(most: f64, count: usize) -> Vec<(f64, String)> {
    let most = if most < 1e-290 { 1.0 } else { most };
    let rough = most / count as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|digit| digit * power)
        .into_iter()
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(10.0 * power);
    let steps = (most / step * 0.999_999).ceil().max(1.0) as u32;
    let plain = (1e-4..1e7).contains(&step) && most < 1e7;
    // 2.5 needs a decimal more than its power of ten.
    let decimals = (0..8).find(|decimals| {
        let scaled = step * 10_f64.powi(*decimals);
        (scaled - scaled.round()).abs() < 1e-6 * scaled
    });
    let decimals = decimals.unwrap_or(0) as usize;
    (0..=steps)
        .map(|tick| f64::from(tick) * step)
        .map(|value| (value, if plain { format!("{value:.decimals$}") } else { number(value) }))
        .collect()
}

/// A number with three digits that count, with an exponent where it would be long.
pub(super) fn number(value: f64) -> String {
    match decimals(value) {
        Some(decimals) => trimmed(&format!("{value:.decimals$}")).to_owned(),
        None => {
            let text = format!("{value:.2e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}", trimmed(mantissa))
        }
    }
}

/// Numbers like [`number`]'s, to stand beside each other: 84 is 84.0 where another is 81.1.
pub(super) fn numbers(values: &[f64]) -> Vec<String> {
    let plain: Vec<_> = values.iter().map(|value| number(*value)).collect();
    let fraction = |text: &String| text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let most = plain
        .iter()
        .zip(values)
        .filter(|(_, value)| decimals(**value).is_some())
        .map(|(text, _)| fraction(text))
        .max();
    let extended = |(text, value): (String, &f64)| match (decimals(*value), most) {
        (Some(decimals), Some(most)) if *value != 0.0 => format!("{value:.0$}", decimals.min(most)),
        _ => text,
    };
    plain.into_iter().zip(values).map(extended).collect()
}

/// How many decimals show three digits that count; `None` where an exponent is shorter.
fn decimals(value: f64) -> Option<usize> {
    if value == 0.0 {
        return Some(0);
    }
    let digits = value.abs().log10().floor();
    (-3.0..7.0).contains(&digits).then(|| (2.0 - digits).max(0.0) as usize)
}

/// A number with its unit, in thousands of it where it is large: "460 GB/s".
pub(super) fn engineering(value: f64, unit: &str) -> String {
    const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    // What is rounded up to a thousand is one of the next prefix.
    let thousands = ((value.log10() + 2.2e-4) / 3.0).floor().clamp(0.0, 6.0);
    let value = value / 10_f64.powf(3.0 * thousands);
    format!("{} {}{unit}", number(value), PREFIXES[thousands as usize])
}

fn trimmed(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        for (value, text) in [
            (0.0, "0"),
            (18.695, "18.7"),
            (8.6, "8.6"),
            (99.96, "100"),
            (1234.5, "1234"),
            (0.001234, "0.00123"),
            (1e-9, "1e-9"),
            (1.5e20, "1.5e20"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn numbers_beside_each_other_have_the_decimals_of_the_others() {
        assert_eq!(numbers(&[81.1, 84.0, 0.0]), ["81.1", "84.0", "0"]);
        assert_eq!(numbers(&[0.02, 0.9, 14.7, 1234.0, 1e9]), ["0.02", "0.90", "14.7", "1234", "1e9"]);
        assert_eq!(numbers(&[2.0, 4.0]), ["2", "4"]);
    }

    #[test]
    fn engineering_takes_the_prefix_that_fits() {
        for (value, text) in [
            (460e9, "460 GB/s"),
            (8.6e12, "8.6 TB/s"),
            (999.9e9, "1 TB/s"),
            (999.4e9, "999 GB/s"),
            (1.0, "1 B/s"),
            (0.25, "0.25 B/s"),
            (1e30, "1e12 EB/s"),
        ] {
            assert_eq!(engineering(value, "B/s"), text);
        }
    }

    #[test]
    fn linear_ticks_reach_the_largest_value() {
        for most in [0.0, 1e-300, 3e-5, 0.7, 1.0, 9.99, 10.0, 123.0, 1e6, 7e22, 1e300] {
            let ticks = linear_ticks(most, 6);
            let last = ticks[ticks.len() - 1].0;
            assert!(
                (3..=8).contains(&ticks.len()) && last.is_finite() && last >= most * 0.999,
                "{most}: {ticks:?}"
            );
            let mut labels: Vec<_> = ticks.iter().map(|(_, label)| label).collect();
            labels.dedup();
            assert_eq!(labels.len(), ticks.len(), "{ticks:?}");
        }
        assert_eq!(
            linear_ticks(12.0, 6).iter().map(|tick| &*tick.1).collect::<Vec<_>>().join(" "),
            "0 2 4 6 8 10 12"
        );
        assert_eq!(linear_ticks(1.4, 6)[1].1, "0.25");
    }

    #[test]
    fn logarithmic_ticks_are_powers_of_ten_and_few() {
        let axis = LogAxis::new((0.5, 3.2), 100.0, 370.0);
        assert_eq!(axis.ticks(), [1.0, 2.0, 3.0]);
        assert_eq!(axis.fine_ticks().len(), 6 + 8 + 8);
        assert!((axis.at(10.0) - 150.0).abs() < 1e-9);
        let wide = LogAxis::new((-300.0, 300.0), 0.0, 1000.0);
        assert!((5..=10).contains(&wide.ticks().len()) && wide.ticks().contains(&0.0));
        assert!(wide.fine_ticks().is_empty());
    }
}
