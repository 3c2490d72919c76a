//! How the pages write numbers, names and times.

/// A distance with few digits: `0`, `0.0312`, `3.2e-7`. What is not finite says so.
pub(super) fn number(value: f64) -> String {
    let magnitude = value.abs();
    if !value.is_finite() {
        "not finite".to_owned()
    } else if value == 0.0 {
        // Without the sign of a negative zero.
        "0".to_owned()
    } else if value.fract() == 0.0 && magnitude < 1e6 {
        format!("{value}")
    } else if (1e-3..1e5).contains(&magnitude) {
        let decimals = (3 - magnitude.log10().floor() as i32).clamp(0, 6) as usize;
        let text = format!("{value:.decimals$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    } else {
        format!("{value:.1e}")
    }
}

/// A correlation that does not round to 1: `0.9712`, `1 − 3.2e-9`, `1` only where it is exactly that.
pub(crate) fn pcc(value: f64) -> String {
    let missing = 1.0 - value;
    if missing > 0.0 && missing < 1e-4 { format!("1 − {missing:.1e}") } else { number(value) }
}

/// `20 ms`, `1.4 s`, `41 s`, `12 min 3 s`
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".to_owned();
    }
    let whole = seconds.round() as u64;
    match (seconds < 10.0, whole / 3600, whole / 60 % 60) {
        (true, ..) if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        (true, ..) => format!("{seconds:.1} s"),
        (false, 0, 0) => format!("{whole} s"),
        (false, 0, minutes) => format!("{minutes} min {} s", whole % 60),
        (false, hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

/// `1 check`, `2 checks`
pub(super) fn count(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// The first digits of a hash; all of them are in `report.json`.
pub(super) fn short_hash(hash: &str) -> String {
    match hash.char_indices().nth(16) {
        Some((end, _)) => format!("{}…", &hash[..end]),
        None => hash.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_leading_digits() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (12.0, "12"),
            (0.031_25, "0.03125"),
            (0.1, "0.1"),
            (1234.56, "1235"),
            (-17.254_9, "-17.25"),
            (3.21e-7, "3.2e-7"),
            (f64::INFINITY, "not finite"),
            (f64::NAN, "not finite"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_correlation_below_one_never_reads_as_one() {
        for (value, text) in [
            (1.0, "1"),
            (1.0 - 3.2e-9, "1 − 3.2e-9"),
            (0.971_2, "0.9712"),
            (-0.5, "-0.5"),
            (f64::NAN, "not finite"),
        ] {
            assert_eq!(pcc(value), text);
        }
    }

    #[test]
    fn durations_suit_their_size() {
        for (seconds, text) in [
            (0.42, "420 ms"),
            (1.42, "1.4 s"),
            (41.4, "41 s"),
            (723.0, "12 min 3 s"),
            (7260.0, "2 h 1 min"),
            (f64::NAN, "unknown"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn hashes_are_cut_at_sixteen_digits() {
        assert_eq!(short_hash("0123456789abcdef0123"), "0123456789abcdef…");
        assert_eq!(short_hash("abc"), "abc");
    }
}
