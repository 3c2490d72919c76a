//! Names of the numbers of an action.

use crate::failure::Failure;

const SO100: [&str; 6] =
    ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"];

/// Names from `--joints`: a known arm or a list separated by commas.
pub(crate) fn parse(text: &str) -> Result<Vec<String>, Failure> {
    if matches!(text, "so100" | "so101") {
        return Ok(SO100.map(str::to_owned).to_vec());
    }
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if let Some(empty) = names.iter().position(String::is_empty) {
        return Err(Failure::input(format!("--joints: name {} of `{text}` is empty", empty + 1)));
    }
    Ok(names)
}

/// `names` if they fit the width of an action; without names, `action[0]`, `action[1]`, ….
pub(crate) fn fit(names: Option<&[String]>, action_dim: usize) -> Result<Vec<String>, Failure> {
    match names {
        None => Ok((0..action_dim).map(|index| format!("action[{index}]")).collect()),
        Some(names) if names.len() == action_dim => Ok(names.to_vec()),
        Some(names) => Err(Failure::input(format!(
            "--joints: {} names ({}), but an action of this policy has {action_dim} numbers",
            names.len(),
            names.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_knows_arms_and_takes_lists() {
        assert_eq!(parse("so100").unwrap()[5], "gripper");
        assert_eq!(parse("a, b").unwrap(), ["a", "b"]);
        assert!(parse("a,,b").unwrap_err().to_string().contains("name 2"));
        assert!(parse("").is_err());
    }

    #[test]
    fn fit_refuses_another_number_of_names() {
        assert_eq!(fit(None, 2).unwrap(), ["action[0]", "action[1]"]);
        let names = ["a".to_owned()];
        assert!(fit(Some(&names), 2).unwrap_err().to_string().contains("has 2 numbers"));
    }
}
