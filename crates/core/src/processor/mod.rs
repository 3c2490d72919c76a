//! From raw observations to what the graph takes, and from its actions back to the robot's units.
//!
//! The steps are LeRobot's processor pipeline: cameras are renamed ([`CameraMap`]), images resized and padded
//! ([`prepare_image`]), the instruction tokenized ([`Tokenizer`]), state and actions normalised
//! ([`Normalizer`]) and, for Aloha robots, converted between joint conventions ([`aloha`]). Everything is
//! computed in f32 in LeRobot's order of operations, so that results agree to rounding.

pub mod aloha;
mod camera;
mod image;
mod normalize;
mod text;

pub use camera::CameraMap;
pub(crate) use image::prepare_image_in;
pub use image::{Image, Planes, prepare_image, resize_with_pad};
pub use normalize::{FeatureStatistics, Normalizer};
pub use text::{TextSettings, TokenBatch, Tokenizer};
