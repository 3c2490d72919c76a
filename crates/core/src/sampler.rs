//! Forward Euler from noise (`t = 1`) to actions (`t = 0`).

use std::f64::consts::PI;

/// Time of a step: `1 − step/steps`, computed in f64 and rounded to f32 as LeRobot does.
pub fn time(step: usize, steps: usize) -> f32 {
    (1.0 + step as f64 * step_size(steps)) as f32
}

/// The signed step `−1/steps` in f64; the update multiplies by its f32 rounding.
pub fn step_size(steps: usize) -> f64 {
    -1.0 / steps as f64
}

/// Sine-cosine embedding of a time: `[sin(θ), cos(θ)]`, `θ_i = t·2π/period_i`, periods from `min_period` to
/// `max_period` in geometric progression. Computed in f64, returned as f32, `width` values (`width` is even).
pub fn time_embedding(time: f32, width: usize, min_period: f64, max_period: f64) -> Vec<f32> {
    let half = width / 2;
    let angles: Vec<f64> = (0..half)
        .map(|i| {
            let fraction = if half > 1 { i as f64 / (half - 1) as f64 } else { 0.0 };
            let period = min_period * (max_period / min_period).powf(fraction);
            1.0 / period * 2.0 * PI * f64::from(time)
        })
        .collect();
    angles.iter().map(|a| a.sin() as f32).chain(angles.iter().map(|a| a.cos() as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_runs_from_one_to_one_step_above_zero() {
        assert_eq!(time(0, 10), 1.0);
        assert_eq!(time(9, 10), 0.1_f64 as f32);
        assert_eq!(time(0, 1), 1.0);
    }

    #[test]
    fn time_embedding_starts_with_the_shortest_period() {
        let embedding = time_embedding(1.0, 720, 4e-3, 4.0);
        assert_eq!(embedding.len(), 720);
        // t = 1 is 250 whole turns of the 4 ms period and a quarter turn of the 4 s period.
        assert!(embedding[0].abs() < 1e-10, "{}", embedding[0]);
        assert!((embedding[360] - 1.0).abs() < 1e-10, "{}", embedding[360]);
        assert!((embedding[359] - 1.0).abs() < 1e-6, "{}", embedding[359]);
        assert!(embedding[719].abs() < 1e-6, "{}", embedding[719]);
    }
}
