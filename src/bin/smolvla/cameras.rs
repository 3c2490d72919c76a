//! Which of a policy's cameras the images are from.

use smolvla::checkpoint::Checkpoint;
use smolvla::policy::Observation;
use smolvla::processor::CameraMap;

use crate::failure::Failure;

/// The policy's cameras that no image is from; refuses an image from a camera that the policy does not have.
pub(crate) fn absent(
    checkpoint: &Checkpoint,
    user: &CameraMap,
    observation: &Observation,
) -> Result<Vec<String>, Failure> {
    let cameras: Vec<&str> = checkpoint.config.cameras().collect();
    let map = CameraMap::from_rename_map(checkpoint.processors.rename_map.clone());
    let map = map.overridden_by(user.clone());
    let mut seen = Vec::new();
    for (name, _) in &observation.images {
        let camera = map
            .resolve(name, &cameras)
            .map_err(|error| Failure::from(error).hint(advice(name, &cameras, &seen)))?;
        tracing::info!(image = name, camera, "camera resolved");
        seen.push(camera);
    }
    Ok(cameras.iter().filter(|camera| !seen.contains(camera)).map(|camera| (*camera).to_owned()).collect())
}

/// What to do about an image from a camera `name` that the policy does not have, or that is mapped to such a one.
fn advice(name: &str, cameras: &[&str], taken: &[&str]) -> String {
    let free = cameras.iter().find(|camera| !taken.contains(camera));
    let camera = free.map_or("CAMERA", |camera| short(camera));
    if cameras.iter().any(|camera| short(camera) == name) {
        return format!("leave out --camera {name}=…, or let it name one of the policy's cameras");
    }
    format!("give --image {camera}=FILE, or map the name with --camera {name}={camera}")
}

/// A feature's name without what all cameras' names begin with.
fn short(camera: &str) -> &str {
    let prefixes = ["observation.images.", "observation."];
    prefixes.iter().find_map(|prefix| camera.strip_prefix(prefix)).unwrap_or(camera)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_a_command_that_works() {
        let cameras = ["observation.images.front", "observation.images.side"];
        let said = advice("top", &cameras, &[]);
        assert!(said.contains("--image front=FILE") && said.contains("--camera top=front"), "{said}");
        let said = advice("top", &cameras, &cameras[..1]);
        assert!(said.contains("--camera top=side"), "{said}");
        let said = advice("front", &cameras, &[]);
        assert!(said.contains("leave out --camera front="), "{said}");
        let map = CameraMap::parse(["top=front"]).unwrap();
        assert_eq!(map.resolve("top", &cameras).unwrap(), cameras[0]);
    }

    #[test]
    fn short_names_have_no_prefix() {
        assert_eq!(short("observation.images.camera1"), "camera1");
        assert_eq!(short("observation.image2"), "image2");
        assert_eq!(short("top"), "top");
    }
}
