//! What the robot can be asked to do, in words.

use std::fmt;

use crate::geometry::{Colour, Corner};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Bring the gripper over a block.
    Reach(Colour),
    /// Slide a block into a marked corner.
    Push(Colour, Corner),
}

impl Goal {
    /// The block it is about.
    pub const fn colour(self) -> Colour {
        match self {
            Self::Reach(colour) | Self::Push(colour, _) => colour,
        }
    }

    /// Every goal there is.
    pub fn all() -> Vec<Self> {
        let reach = Colour::ALL.map(Self::Reach);
        let push = Corner::ALL.map(|corner| Colour::ALL.map(|colour| Self::Push(colour, corner)));
        reach.into_iter().chain(push.into_iter().flatten()).collect()
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reach(colour) => write!(f, "reach {colour}"),
            Self::Push(colour, corner) => write!(f, "push {colour} {corner}"),
        }
    }
}

/// A goal with the words it is given in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What is to be done.
    pub goal: Goal,
    /// The words, as the policy gets them.
    pub text: String,
}

/// An instruction that says nothing, or too much, about this table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\": {reason}. Understood are a verb ({}), a colour ({}) and, for pushing, a corner, as in \
     \"reach the red block\" or \"push the blue block into the left corner\"",
    VERBS.join(", "),
    Colour::ALL.map(Colour::name).join(", ")
)]
pub struct InstructionError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Ways to ask for reaching; `{c}` is the colour.
const REACH: [&str; Instruction::PHRASINGS] = [
    "reach the {c} block",
    "move to the {c} block",
    "go to the {c} block",
    "touch the {c} block",
    "put the gripper over the {c} block",
    "find the {c} block and stop there",
];
/// Ways to ask for pushing; `{s}` is the corner.
const PUSH: [&str; Instruction::PHRASINGS] = [
    "push the {c} block into the {s} corner",
    "slide the {c} block to the {s} corner",
    "bring the {c} block to the {s} corner",
    "put the {c} block in the {s} corner",
    "move the {c} block to the {s} corner",
    "get the {c} block into the {s} corner",
];

/// Words that name an action; which of the two it is, the corner tells.
const VERBS: [&str; 10] = ["reach", "move", "go", "touch", "put", "find", "push", "slide", "bring", "get"];
/// Words that ask for a block to be moved, so for a corner too.
const PUSHING: [&str; 4] = ["push", "slide", "bring", "get"];
/// Words that ask for the gripper to be moved, so for no corner.
const REACHING: [&str; 5] = ["reach", "go", "touch", "find", "gripper"];
/// Verbs for either.
const EITHER: [&str; 2] = ["move", "put"];
/// Words that, next to a verb for either, say where the gripper is to go: "move to the red block".
const WHERETO: [&str; 5] = ["to", "over", "towards", "onto", "above"];
/// Words with which an instruction says what not to do, or what to leave; `t` is what remains of "don't".
const AVERSE: [&str; 13] = [
    "not", "t", "dont", "never", "no", "cannot", "avoid", "without", "except", "but", "instead", "away",
    "from",
];
/// Words for a corner, whichever it is.
const CORNERS: [&str; 2] = ["corner", "corners"];

impl Instruction {
    /// Ways in which each goal can be put.
    pub const PHRASINGS: usize = 6;

    /// A goal in one of its phrasings.
    ///
    /// # Panics
    /// When `phrasing` is not below [`Instruction::PHRASINGS`].
    pub fn phrased(goal: Goal, phrasing: usize) -> Self {
        let text = match goal {
            Goal::Reach(colour) => REACH[phrasing].replace("{c}", colour.name()),
            Goal::Push(colour, corner) => {
                PUSH[phrasing].replace("{c}", colour.name()).replace("{s}", corner.name())
            }
        };
        Self { goal, text }
    }

    /// Every goal in every phrasing: what demonstrations are recorded with.
    pub fn all() -> Vec<Self> {
        let phrasings = |goal| (0..Self::PHRASINGS).map(move |phrasing| Self::phrased(goal, phrasing));
        Goal::all().into_iter().flat_map(phrasings).collect()
    }

    /// Understands an instruction in these or similar words, and puts it in lower case, as all that the policy has learnt.
    ///
    /// ```
    /// use smolvla_tabletop::{Colour, Corner, Goal, Instruction};
    ///
    /// let instruction = Instruction::parse("push the blue block into the left corner")?;
    /// assert_eq!(instruction.goal, Goal::Push(Colour::Blue, Corner::Left));
    /// # Ok::<(), smolvla_tabletop::InstructionError>(())
    /// ```
    ///
    /// # Errors
    /// Where the verb, the colour or the corner is missing, unknown or there twice; where a corner is meant for the
    /// gripper; where it says what not to do. The words are the policy's to understand; this only tells the judge what to
    /// look for.
    pub fn parse(text: &str) -> Result<Self, InstructionError> {
        let error = |reason: &str| InstructionError { text: text.to_owned(), reason: reason.to_owned() };
        let lower = text.to_lowercase();
        let words: Vec<&str> =
            lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let has = |known: &[&str]| words.iter().any(|word| known.contains(word));
        if !has(&VERBS) {
            return Err(error("it has no verb this robot knows"));
        }
        if has(&AVERSE) {
            return Err(error(
                "it says what not to do, or what to leave, and this robot only knows what to do",
            ));
        }
        let colours: Vec<Colour> =
            Colour::ALL.into_iter().filter(|colour| words.contains(&colour.name())).collect();
        let corners: Vec<Corner> =
            Corner::ALL.into_iter().filter(|corner| words.contains(&corner.name())).collect();
        let moves_gripper = has(&REACHING)
            || words.windows(2).any(|pair| EITHER.contains(&pair[0]) && WHERETO.contains(&pair[1]));
        let goal = match (colours.as_slice(), corners.as_slice()) {
            ([], _) => return Err(error("it names no colour of a block")),
            ([_, _, ..], _) => return Err(error("it names more than one colour")),
            (_, [_, _, ..]) => return Err(error("it names both corners")),
            ([_], []) if has(&PUSHING) || has(&CORNERS) => {
                return Err(error("it does not say which corner, left or right"));
            }
            ([_], []) if !moves_gripper => {
                return Err(error(
                    "it does not say which corner, left or right, nor that the gripper is to move",
                ));
            }
            ([_], [_]) if moves_gripper => {
                return Err(error(
                    "a corner is where blocks are pushed, and it asks for the gripper to move",
                ));
            }
            ([colour], []) => Goal::Reach(*colour),
            ([colour], [corner]) => Goal::Push(*colour, *corner),
        };
        Ok(Self { goal, text: lower.trim().to_owned() })
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phrasing_is_understood_as_its_goal() {
        let all = Instruction::all();
        assert_eq!(all.len(), 12 * Instruction::PHRASINGS);
        for instruction in all {
            assert_eq!(Instruction::parse(&instruction.text).as_ref(), Ok(&instruction));
        }
    }

    #[test]
    fn words_of_ones_own_are_understood() {
        let goal = |text| Instruction::parse(text).map(|instruction| instruction.goal);
        assert_eq!(goal("  Go to the RED one!"), Ok(Goal::Reach(Colour::Red)));
        let shouted = Instruction::parse(" Reach the BLUE block ").unwrap();
        assert_eq!(shouted, Instruction::phrased(Goal::Reach(Colour::Blue), 0));
        assert_eq!(goal("please slide yellow right"), Ok(Goal::Push(Colour::Yellow, Corner::Right)));
        assert_eq!(goal("move over to the green block"), Ok(Goal::Reach(Colour::Green)));
        assert_eq!(goal("move the gripper to the green block"), Ok(Goal::Reach(Colour::Green)));
        assert_eq!(goal("move the red block left"), Ok(Goal::Push(Colour::Red, Corner::Left)));
    }

    #[test]
    fn what_is_missing_or_too_much_is_said() {
        let cases = [
            ("", "no verb"),
            ("paint the red block", "no verb"),
            ("reach the purple block", "no colour"),
            ("reach the red or the blue block", "more than one colour"),
            ("push the red block", "which corner"),
            ("move the red block", "which corner"),
            ("put the red block over there", "which corner"),
            ("move the red block to the front", "which corner"),
            ("go to the corner with the red block", "which corner"),
            ("push the red block left and right", "both corners"),
            ("reach the red block in the left corner", "gripper to move"),
            ("put the gripper over the red block in the left corner", "gripper to move"),
            ("move to the red block in the left corner", "gripper to move"),
            ("do not reach the red block", "not to do"),
            ("Don't push the red block left", "not to do"),
            ("don’t touch the red block", "not to do"),
            ("never go to the red block", "not to do"),
            ("push the red block away from the left corner", "not to do"),
        ];
        for (text, expected) in cases {
            let message = Instruction::parse(text).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("red, green, blue, yellow"), "{message}");
        }
    }
}
