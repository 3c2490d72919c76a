//! Rotary position tables.

use crate::backend::{Backend, BackendError};

/// SmolVLA's own base. The `rope_theta` of the language model's configuration is not used by LeRobot.
const BASE: f64 = 10_000.0;

/// Cosines and sines of a sequence of positions, `[positions, head_dim/2]` each.
#[derive(Debug)]
pub struct RotaryTable<T> {
    /// Cosines.
    pub cos: T,
    /// Sines.
    pub sin: T,
}

/// Uploads the table for `positions`.
pub(super) fn rotary_table<B: Backend>(
    backend: &B,
    positions: &[i64],
    head_dim: usize,
) -> Result<RotaryTable<B::Tensor>, BackendError> {
    let half = head_dim / 2;
    let timescales: Vec<f32> = (0..half).map(|j| timescale(j, head_dim)).collect();
    let mut cos = Vec::with_capacity(positions.len() * half);
    let mut sin = Vec::with_capacity(positions.len() * half);
    for &position in positions {
        for &timescale in &timescales {
            // LeRobot divides in f32; the angle must be rounded the same way.
            let angle = f64::from(position as f32 / timescale);
            cos.push(angle.cos() as f32);
            sin.push(angle.sin() as f32);
        }
    }
    Ok(RotaryTable {
        cos: backend.upload(&cos, positions.len(), half)?,
        sin: backend.upload(&sin, positions.len(), half)?,
    })
}

/// `10000^(2j/head_dim)`, exponent and result rounded to f32 as LeRobot rounds them.
fn timescale(j: usize, head_dim: usize) -> f32 {
    let exponent = (2.0 / head_dim as f64) as f32 * j as f32;
    BASE.powf(f64::from(exponent)) as f32
}

#[cfg(test)]
mod tests {
    use super::timescale;

    #[test]
    fn timescale_spans_one_to_base() {
        assert_eq!(timescale(0, 64), 1.0);
        assert_eq!(timescale(16, 64), 100.0);
        assert!((timescale(31, 64) - 7498.942).abs() < 1e-3);
    }
}
