//! What is said to `tools/reference/serve_policy.py`, and what it says.

use serde::Deserialize;
use smolvla_core::processor::{Image, resize_with_pad};
use smolvla_tabletop::{ACTION_DIM, CHUNK, Camera, Moment, SIDE, STATE_DIM};

/// What the program says of itself and the policy.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Hello {
    pub(super) lerobot: String,
    pub(super) torch: String,
    chunk: usize,
    action_dim: usize,
    max_action_dim: usize,
    pub(super) n_action_steps: usize,
    cameras: Vec<String>,
    state_dim: usize,
}

impl Hello {
    /// Refuses a policy that is not made for the table.
    pub(super) fn check(&self) -> Result<(), String> {
        let sizes = [
            ("chunk", self.chunk, CHUNK),
            ("action_dim", self.action_dim, ACTION_DIM),
            ("state_dim", self.state_dim, STATE_DIM),
        ];
        for (what, found, expected) in sizes {
            if found != expected {
                return Err(format!("LeRobot: the policy's {what} is {found}; the table's is {expected}"));
            }
        }
        if self.n_action_steps == 0 || self.n_action_steps > CHUNK || self.max_action_dim < ACTION_DIM {
            return Err(format!(
                "LeRobot: the policy has n_action_steps {} and max_action_dim {}",
                self.n_action_steps, self.max_action_dim
            ));
        }
        let known = |camera: &String| Camera::ALL.iter().any(|own| own.feature() == camera);
        if self.cameras.is_empty() || !self.cameras.iter().all(known) {
            return Err(format!(
                "LeRobot: the policy's cameras are {:?}; the table has top and wrist",
                self.cameras
            ));
        }
        Ok(())
    }

    /// Numbers of noise that a chunk starts from.
    pub(super) fn noise_len(&self) -> usize {
        self.chunk * self.max_action_dim
    }

    /// The bytes of a request.
    pub(super) fn request(&self, moments: &[Moment<'_>]) -> Result<Vec<u8>, String> {
        let tasks: Vec<&str> = moments.iter().map(|moment| moment.observation.task.as_str()).collect();
        let header = serde_json::json!({ "count": moments.len(), "tasks": tasks, "side": SIDE }).to_string();
        let mut bytes = (header.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        for moment in moments {
            for camera in &self.cameras {
                let image = moment.observation.images.iter().find(|(name, _)| name == camera);
                let (_, image) = image.ok_or_else(|| format!("LeRobot: no picture of camera {camera}"))?;
                bytes.extend(pixels(image)?);
            }
            let numbers = moment.observation.state.iter().chain(&moment.noise);
            bytes.extend(numbers.flat_map(|number| number.to_le_bytes()));
        }
        Ok(bytes)
    }
}

/// Bytes of a reply that holds `count` chunks of actions.
pub(super) fn reply_len_bytes(count: usize) -> usize {
    count * CHUNK * ACTION_DIM * size_of::<f32>()
}

/// The chunks that such a reply holds.
pub(super) fn chunks(bytes: &[u8]) -> Vec<Vec<f32>> {
    let numbers: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    numbers.chunks_exact(CHUNK * ACTION_DIM).map(<[f32]>::to_vec).collect()
}

/// Rows of red, green and blue bytes.
pub(in crate::rollout) fn pixels(image: &Image) -> Result<Vec<u8>, String> {
    if (image.width(), image.height()) != (SIDE, SIDE) {
        return Err(format!("LeRobot: the picture {} is not {SIDE} pixels wide and high", image.name()));
    }
    let planes = resize_with_pad(image, None).map_err(|error| error.to_string())?;
    let size = planes.width * planes.height;
    // The planes are in [-1, 1].
    let byte = |value: f32| ((value + 1.0) / 2.0 * 255.0).round() as u8;
    Ok((0..size).flat_map(|at| [0, 1, 2].map(|plane| byte(planes.data[plane * size + at]))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_keep_every_byte() {
        let bytes: Vec<u8> = (0..SIDE * SIDE * 3).map(|index| (index % 256) as u8).collect();
        let image = Image::from_rgb8("top", SIDE, SIDE, bytes.clone()).unwrap();
        assert_eq!(pixels(&image).unwrap(), bytes);
        let small = Image::from_rgb8("top", 1, 1, vec![0; 3]).unwrap();
        assert!(pixels(&small).unwrap_err().contains("64 pixels"));
    }
}
