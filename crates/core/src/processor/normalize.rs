//! Normalisation of state, actions and images by a dataset's statistics.

use std::path::Path;

use crate::config::NormalizationMode;
use crate::{Error, Result};

/// Statistics of one feature; each present vector has the feature's width.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FeatureStatistics {
    /// Arithmetic mean.
    pub mean: Option<Vec<f32>>,
    /// Standard deviation.
    pub std: Option<Vec<f32>>,
    /// Smallest value.
    pub min: Option<Vec<f32>>,
    /// Largest value.
    pub max: Option<Vec<f32>>,
    /// 1 % quantile.
    pub q01: Option<Vec<f32>>,
    /// 10 % quantile.
    pub q10: Option<Vec<f32>>,
    /// 90 % quantile.
    pub q90: Option<Vec<f32>>,
    /// 99 % quantile.
    pub q99: Option<Vec<f32>>,
}

impl FeatureStatistics {
    /// Every statistic with the name LeRobot's files give it, present or not.
    fn named(&self) -> [(&'static str, Option<&[f32]>); 8] {
        [
            ("mean", self.mean.as_deref()),
            ("std", self.std.as_deref()),
            ("min", self.min.as_deref()),
            ("max", self.max.as_deref()),
            ("q01", self.q01.as_deref()),
            ("q10", self.q10.as_deref()),
            ("q90", self.q90.as_deref()),
            ("q99", self.q99.as_deref()),
        ]
    }
}

/// Maps a feature to the numbers the network was trained on, and back.
///
/// Values are rows of [`Normalizer::width`] elements; all arithmetic is f32, in LeRobot's order.
///
/// ```
/// use std::path::Path;
/// use smolvla_core::config::NormalizationMode;
/// use smolvla_core::processor::{FeatureStatistics, Normalizer};
///
/// let statistics = FeatureStatistics {
///     min: Some(vec![0.0, -90.0]),
///     max: Some(vec![10.0, 90.0]),
///     ..FeatureStatistics::default()
/// };
/// let file = Path::new("policy_postprocessor_step_0_unnormalizer_processor.safetensors");
/// let normalizer =
///     Normalizer::new("action", NormalizationMode::MinMax, &statistics, Normalizer::EPSILON, file)?;
/// let mut action = [0.5, 0.0];
/// normalizer.unnormalize(&mut action)?;
/// assert_eq!(action, [7.5, 0.0]);
/// # Ok::<(), smolvla_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Normalizer {
    feature: String,
    transform: Transform,
}

#[derive(Clone, Debug, PartialEq)]
enum Transform {
    Identity,
    MeanStd(Vec<MeanStd>),
    MinMax(Vec<Range>),
    Quantiles(Vec<Range>),
}

#[derive(Clone, Debug, PartialEq)]
struct MeanStd {
    mean: f32,
    std: f32,
    /// `std + eps`: only the way in is guarded against a zero deviation.
    denominator: f32,
}

#[derive(Clone, Debug, PartialEq)]
struct Range {
    low: f32,
    /// `high − low`, or `eps` where that is zero.
    extent: f32,
}

impl Normalizer {
    /// The epsilon of LeRobot's normaliser unless the checkpoint says otherwise.
    pub const EPSILON: f32 = 1e-8;

    /// A normaliser of `feature` by `mode`, taking from `statistics` what that mode needs.
    ///
    /// `file` is where the statistics were read from; errors name it.
    ///
    /// # Errors
    /// [`Error::Statistics`] when a statistic the mode needs is absent, not finite or of another width than
    /// its partner.
    pub fn new(
        feature: impl Into<String>,
        mode: NormalizationMode,
        statistics: &FeatureStatistics,
        eps: f32,
        file: &Path,
    ) -> Result<Self> {
        let feature = feature.into();
        let pair = |low, high| find_pair(&feature, mode, statistics, low, high, file);
        let ranges = |low, high| -> Result<Vec<Range>> {
            let (low, high) = pair(low, high)?;
            Ok(low.iter().zip(high).map(|(&low, &high)| Range::new(low, high, eps)).collect())
        };
        let transform = match mode {
            NormalizationMode::Identity => Transform::Identity,
            NormalizationMode::MeanStd => {
                let (mean, std) = pair("mean", "std")?;
                let columns = mean.iter().zip(std);
                Transform::MeanStd(
                    columns.map(|(&mean, &std)| MeanStd { mean, std, denominator: std + eps }).collect(),
                )
            }
            NormalizationMode::MinMax => Transform::MinMax(ranges("min", "max")?),
            NormalizationMode::Quantiles => Transform::Quantiles(ranges("q01", "q99")?),
            NormalizationMode::Quantile10 => Transform::Quantiles(ranges("q10", "q90")?),
        };
        Ok(Self { feature, transform })
    }

    /// A normaliser that changes nothing, for features that are used in raw units.
    pub fn identity(feature: impl Into<String>) -> Self {
        Self { feature: feature.into(), transform: Transform::Identity }
    }

    /// Whether values pass unchanged.
    pub fn is_identity(&self) -> bool {
        self.transform == Transform::Identity
    }

    /// Elements of one row; `None` where any width will do because nothing is changed.
    pub fn width(&self) -> Option<usize> {
        match &self.transform {
            Transform::Identity => None,
            Transform::MeanStd(columns) => Some(columns.len()),
            Transform::MinMax(columns) | Transform::Quantiles(columns) => Some(columns.len()),
        }
    }

    /// From the dataset's units to the network's, in place. `values: [rows, width]`.
    ///
    /// # Errors
    /// [`Error::Input`] when `values` is not whole rows.
    pub fn normalize(&self, values: &mut [f32]) -> Result<()> {
        self.check_width(values)?;
        match &self.transform {
            Transform::Identity => {}
            Transform::MeanStd(columns) => apply(values, columns, |x, c| (x - c.mean) / c.denominator),
            Transform::MinMax(columns) | Transform::Quantiles(columns) => {
                apply(values, columns, |x, c| 2.0 * (x - c.low) / c.extent - 1.0);
            }
        }
        Ok(())
    }

    /// From the network's units to the dataset's, in place. `values: [rows, width]`.
    ///
    /// # Errors
    /// [`Error::Input`] when `values` is not whole rows.
    pub fn unnormalize(&self, values: &mut [f32]) -> Result<()> {
        self.check_width(values)?;
        match &self.transform {
            Transform::Identity => {}
            Transform::MeanStd(columns) => apply(values, columns, |x, c| x * c.std + c.mean),
            // LeRobot halves before it multiplies in one mode and after in the other; they round differently.
            Transform::MinMax(columns) => apply(values, columns, |x, c| (x + 1.0) / 2.0 * c.extent + c.low),
            Transform::Quantiles(columns) => {
                apply(values, columns, |x, c| (x + 1.0) * c.extent / 2.0 + c.low)
            }
        }
        Ok(())
    }

    fn check_width(&self, values: &[f32]) -> Result<()> {
        match self.width() {
            Some(width) if !values.len().is_multiple_of(width) => Err(Error::input(
                &self.feature,
                format!("{} values, but its statistics are {width} wide", values.len()),
            )),
            _ => Ok(()),
        }
    }
}

impl Range {
    fn new(low: f32, high: f32, eps: f32) -> Self {
        let extent = high - low;
        Self { low, extent: if extent == 0.0 { eps } else { extent } }
    }
}

fn apply<C>(values: &mut [f32], columns: &[C], f: impl Fn(f32, &C) -> f32) {
    for row in values.chunks_exact_mut(columns.len()) {
        for (value, column) in row.iter_mut().zip(columns) {
            *value = f(*value, column);
        }
    }
}

/// The two statistics a mode needs, checked.
fn find_pair<'a>(
    feature: &str,
    mode: NormalizationMode,
    statistics: &'a FeatureStatistics,
    first: &str,
    second: &str,
    file: &Path,
) -> Result<(&'a [f32], &'a [f32])> {
    let refuse = |reason| Error::Statistics { file: file.to_path_buf(), reason };
    let named = statistics.named();
    let find = |name: &str| named.iter().find_map(|(n, values)| if *n == name { *values } else { None });
    let (Some(a), Some(b)) = (find(first), find(second)) else {
        let missing: Vec<_> = [first, second].into_iter().filter(|n| find(n).is_none()).collect();
        let present: Vec<_> = named.iter().filter(|(_, v)| v.is_some()).map(|(n, _)| *n).collect();
        let present = if present.is_empty() { "no statistics of it".into() } else { present.join(", ") };
        return Err(refuse(format!(
            "{feature} is to be normalised by {mode:?}, which needs {first} and {second}, but {} missing; \
             the file has {present}",
            if missing.len() == 2 { "both are".to_owned() } else { format!("{} is", missing[0]) },
        )));
    };
    if a.is_empty() || a.len() != b.len() {
        return Err(refuse(format!(
            "{feature}.{first} has {} elements and {feature}.{second} has {}; expected the same number, \
             at least one",
            a.len(),
            b.len()
        )));
    }
    for (name, values) in [(first, a), (second, b)] {
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            return Err(refuse(format!(
                "{feature}.{name}[{index}] is {}; statistics that were never set are saved as infinity",
                values[index]
            )));
        }
    }
    Ok((a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics() -> FeatureStatistics {
        FeatureStatistics {
            mean: Some(vec![12.5, -3.25, 0.1]),
            std: Some(vec![33.3, 0.0, 1e-3]),
            min: Some(vec![-90.0, 2.0, 0.1]),
            max: Some(vec![87.0, 2.0, 0.7]),
            q01: Some(vec![-80.0, 1.0, 0.15]),
            q10: Some(vec![-55.0, 0.5, 0.2]),
            q90: Some(vec![41.0, 0.75, 0.2]),
            q99: Some(vec![79.0, 1.0, 0.61]),
        }
    }

    fn normalizer(mode: NormalizationMode, statistics: &FeatureStatistics) -> Result<Normalizer> {
        Normalizer::new("action", mode, statistics, Normalizer::EPSILON, Path::new("stats.safetensors"))
    }

    /// LeRobot 0.6.1's `NormalizerProcessorStep` and `UnnormalizerProcessorStep` on two rows; the second and,
    /// for quantiles, the third column have no range.
    #[test]
    fn every_mode_matches_lerobot() {
        let raw = [1.7, -3.25, 0.3, -44.4, 2.0, 0.123_456];
        let unit = [0.3, -1.0, 1.0, -0.77, 0.25, -0.5];
        let cases = [
            (
                NormalizationMode::MeanStd,
                [-0.324_324_34, 0.0, 199.998, -1.708_708_8, 525_000_000.0, 23.455_765],
                [22.49, -3.25, 0.101, -13.140_999, -3.25, 0.0995],
            ),
            (
                NormalizationMode::MinMax,
                [0.036_158_204, -1_050_000_000.0, -0.333_333_25, -0.484_745_8, -1.0, -0.921_813_3],
                [25.049_995, 2.0, 0.7, -69.645, 2.0, 0.25],
            ),
            (
                NormalizationMode::Quantiles,
                [0.027_672_887, -850_000_000.0, -0.347_826_06, -0.552_201_3, 200_000_000.0, -1.115_408_7],
                [23.349_998, 1.0, 0.61, -61.714_996, 1.0, 0.265_000_02],
            ),
            (
                NormalizationMode::Quantile10,
                [0.181_249_98, -31.0, 20_000_000.0, -0.779_166_7, 11.0, -15_308_801.0],
                [7.399_997_7, 0.5, 0.200_000_02, -43.96, 0.656_25, 0.2],
            ),
            (NormalizationMode::Identity, raw, unit),
        ];
        for (mode, normalized, unnormalized) in cases {
            let normalizer = normalizer(mode, &statistics()).unwrap();
            let (mut forward, mut back) = (raw, unit);
            normalizer.normalize(&mut forward).unwrap();
            normalizer.unnormalize(&mut back).unwrap();
            assert_eq!(forward, normalized, "{mode:?}");
            assert_eq!(back, unnormalized, "{mode:?}");
        }
    }

    #[test]
    fn missing_statistics_are_named_beside_those_that_exist() {
        let statistics = FeatureStatistics { q01: None, q99: None, std: None, ..statistics() };
        let message = normalizer(NormalizationMode::Quantiles, &statistics).unwrap_err().to_string();
        assert_eq!(
            message,
            "stats.safetensors: action is to be normalised by Quantiles, which needs q01 and q99, but both are \
             missing; the file has mean, min, max, q10, q90"
        );
        let message = normalizer(NormalizationMode::MeanStd, &statistics).unwrap_err().to_string();
        assert!(message.contains("needs mean and std, but std is missing"), "{message}");
        let nothing = FeatureStatistics::default();
        let message = normalizer(NormalizationMode::MinMax, &nothing).unwrap_err().to_string();
        assert!(message.ends_with("the file has no statistics of it"), "{message}");
        assert!(normalizer(NormalizationMode::Identity, &nothing).unwrap().is_identity());
    }

    #[test]
    fn unset_and_uneven_statistics_are_refused() {
        let unset = FeatureStatistics { mean: Some(vec![0.0, f32::INFINITY, 0.0]), ..statistics() };
        let message = normalizer(NormalizationMode::MeanStd, &unset).unwrap_err().to_string();
        assert!(message.contains("action.mean[1] is inf"), "{message}");
        let uneven = FeatureStatistics { mean: Some(vec![0.0]), ..statistics() };
        let message = normalizer(NormalizationMode::MeanStd, &uneven).unwrap_err().to_string();
        assert!(message.contains("action.mean has 1 elements and action.std has 3"), "{message}");
    }

    #[test]
    fn partial_row_is_refused() {
        let normalizer = normalizer(NormalizationMode::MeanStd, &statistics()).unwrap();
        assert_eq!(normalizer.width(), Some(3));
        let message = normalizer.normalize(&mut [0.0; 4]).unwrap_err().to_string();
        assert_eq!(message, "action: 4 values, but its statistics are 3 wide");
    }
}
