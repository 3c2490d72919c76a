//! What reports say of behaviour.

use super::{Behaviour, BehaviourRow, Condition, Distribution, LeRobotRun, OtherCheckpoint, Pairs, Rate};

/// How to read the table.
pub(crate) const BEHAVIOUR_NOTE: &str = "Intervals are Wilson's, at 95 %. Lost and won are episodes that only LeRobot, \
    or only the contestant, finished; p is McNemar's exact test on them, two-sided, and p (Holm) the same corrected for the \
    number of rows that are tested. A large p does not show that two policies are equal, only that these episodes do not \
    tell them apart. Controls: swapped is told of another block and the other corner while the judge keeps the real \
    instruction, and may succeed by accident only; frozen sees the first pictures of its episode until the end, and must \
    do clearly worse. Velocity errors are taken on LeRobot's own observations and noise, so they do not compound; the \
    remarks say on how many.";

/// The columns of the table, as Markdown and the page have them.
pub(crate) const COLUMNS: [&str; 12] = [
    "contestant",
    "condition",
    "successes",
    "95 % interval",
    "reach",
    "push",
    "lost / won",
    "p",
    "p (Holm)",
    "velocity error, cm/s: median, mean, p95, max",
    "precision",
    "ran on",
];

/// Letters of a hash that sentences show.
const HASH_SHOWN: usize = 12;

/// Letters of a label that drawings show.
const LABEL_SHOWN: usize = 40;

/// The share in which a policy that is told of another block and the other corner may do the real task all the same: less
/// than half of what one would that does not listen and takes any block to any corner (0.24, with two to four blocks, two
/// corners, and a third of the episodes without one).
pub(crate) const SWAPPED_AT_MOST: f64 = 0.1;

/// Smaller values of p are not told apart.
const SMALLEST_P: f64 = 0.001;

impl Behaviour {
    /// What was done, in sentences: also when and by which version, as the report may be of another.
    pub fn sentence(&self) -> String {
        let last = self.first_seed + (self.episodes as u64).saturating_sub(1);
        let LeRobotRun { lerobot, torch, recorded, .. } = &self.lerobot;
        let own = env!("CARGO_PKG_VERSION");
        let stale = match self.version == own {
            true => String::new(),
            false => format!(" These are not results of this version, {own}."),
        };
        format!(
            "Checkpoint {} (SHA-256 {}…) on {} episodes (seeds {} to {last}), each contestant from the same scenes and \
             the same noise as LeRobot {lerobot} on PyTorch {torch}{}. Run at {} by smolvla {}.{stale}",
            self.checkpoint,
            self.checkpoint_sha256.chars().take(HASH_SHOWN).collect::<String>(),
            self.episodes,
            self.first_seed,
            if *recorded { ", whose results are recorded and were not computed in this run" } else { "" },
            self.started,
            self.version
        )
    }

    /// What the table has no room for, each with the row it is about.
    pub(crate) fn remarks(&self) -> Vec<(String, String)> {
        let of_row = |row: &BehaviourRow| {
            let name = row.name();
            let remarks = row.remarks().into_iter().chain(self.unmet_control(row));
            remarks.map(|remark| (name.clone(), remark)).collect::<Vec<_>>()
        };
        self.rows.iter().flat_map(of_row).collect()
    }

    /// Says what a control did not show, where it did not.
    pub(crate) fn unmet_control(&self, row: &BehaviourRow) -> Option<String> {
        if row.control_met != Some(false) {
            return None;
        }
        let is_normal =
            |other: &&BehaviourRow| other.label == row.label && other.condition == Condition::Normal;
        let normal = self.rows.iter().find(is_normal)?.overall.percent_interval();
        let what = match row.condition {
            Condition::Swapped => format!(
                "it must be below {normal} and succeed in at most {:.0} %, or these episodes do not show that the policy \
                 heeds its instruction",
                100.0 * SWAPPED_AT_MOST
            ),
            _ => format!(
                "its interval must be below {normal}, or these episodes do not show that the policy heeds its cameras"
            ),
        };
        Some(format!("CONTROL NOT MET: {what}"))
    }
}

impl BehaviourRow {
    /// The contestant, with what is not usual about it: what drawings and remarks call the row.
    pub(crate) fn name(&self) -> String {
        let mut label: String = self.label.chars().take(LABEL_SHOWN).collect();
        if label.len() < self.label.len() {
            label.push('…');
        }
        let condition = match self.condition.is_control() {
            true => format!(", {}", self.condition.name()),
            false => String::new(),
        };
        let emulated = if self.emulated.is_some() { " (EMULATED)" } else { "" };
        format!("{label}{condition}{emulated}")
    }

    /// What drawings say beside the row.
    pub(crate) fn outcome(&self) -> String {
        match self.failed {
            Some(_) => "failed".to_owned(),
            None => {
                let Rate { successes, attempts, .. } = self.overall;
                format!("{:.1} % · {successes}/{attempts}", 100.0 * self.overall.share())
            }
        }
    }

    /// How it computes, and how its weights are stored where that is another question.
    pub(crate) fn numerics(&self) -> String {
        let integers = self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.integers.as_ref());
        integers
            .map_or_else(|| self.precision.clone(), |stored| format!("{}; stored: {stored}", self.precision))
    }

    /// The row's cells from the successes to the action errors.
    pub(crate) fn numbers(&self) -> [String; 8] {
        let absent = || "–".to_owned();
        if self.failed.is_some() {
            let mut cells = [(); 8].map(|()| absent());
            cells[0] = "failed".to_owned();
            return cells;
        }
        let rate = |rate: &Rate| format!("{}/{}", rate.successes, rate.attempts);
        let pairs = self.pairs.as_ref();
        let p = |p: f64| match p < SMALLEST_P {
            true => format!("< {SMALLEST_P}"),
            false => format!("{p:.3}"),
        };
        [
            format!("{} ({:.1} %)", rate(&self.overall), 100.0 * self.overall.share()),
            self.overall.percent_interval(),
            rate(&self.reach),
            rate(&self.push),
            pairs.map_or_else(absent, |pairs| format!("{} / {}", pairs.lost.len(), pairs.won.len())),
            pairs.map_or_else(absent, |pairs| p(pairs.p)),
            pairs.map_or_else(absent, |pairs| p(pairs.p_holm)),
            self.actions.as_ref().map_or_else(absent, |actions| {
                let Distribution { median, mean, p95, max, .. } = actions.velocity_cm_s;
                format!("{median:.1e}, {mean:.1e}, {p95:.1e}, {max:.1e}")
            }),
        ]
    }

    /// Seeds that differ, the other numbers of the actions, notices.
    fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<String> =
            self.failed.iter().map(|reason| format!("FAILED, without results: {reason}")).collect();
        remarks.extend(self.pairs.as_ref().map(|pairs| pairs.remark(self.periods.len())));
        if let Some(actions) = &self.actions {
            let Distribution { median, p95, max, count, .. } = actions.press;
            remarks.push(format!(
                "actions are compared in {} predictions of {} episodes: press differs by {median:.1e} (median), {p95:.1e} \
                 (p95), {max:.1e} (largest), and {} of {count} actions press where LeRobot's do not, or do not where \
                 LeRobot's do",
                actions.moments, actions.episodes, actions.press_flips
            ));
        }
        if let Some(OtherCheckpoint { folder, sha256, .. }) = &self.checkpoint {
            let sha256: String = sha256.chars().take(HASH_SHOWN).collect();
            remarks.push(format!("runs the checkpoint {folder} (SHA-256 {sha256}…)"));
        }
        remarks.extend(self.notices.iter().cloned());
        remarks
    }
}

impl Pairs {
    /// The 95 % point of the share of episodes that end otherwise than LeRobot's, exact (binomial) and one-sided, where
    /// none of `episodes` did.
    fn bound_of_none(episodes: usize) -> f64 {
        1.0 - 0.05_f64.powf(1.0 / episodes.max(1) as f64)
    }

    fn remark(&self, episodes: usize) -> String {
        let seeds = |seeds: &[u64]| seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let mut text =
            format!("{} of {episodes} episodes end as LeRobot's do, after as many periods", self.identical);
        for (what, list) in
            [("LeRobot alone finishes seeds", &self.lost), ("it alone finishes seeds", &self.won)]
        {
            if !list.is_empty() {
                text += &format!("; {what} {}", seeds(list));
            }
        }
        if self.lost.is_empty() && self.won.is_empty() {
            let percent = 100.0 * Self::bound_of_none(episodes);
            text += &format!(
                "; LeRobot and it succeed in the same episodes, so at most {percent:.1} % of all episodes tell them \
                 apart (exact, one-sided, 95 %)"
            );
        }
        text
    }
}

impl Rate {
    fn percent_interval(&self) -> String {
        format!("{:.1}–{:.1} %", 100.0 * self.interval.0, 100.0 * self.interval.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{BEHAVIOUR_FORMAT, BEHAVIOUR_KIND};

    fn row(condition: Condition, successes: usize, interval: (f64, f64)) -> BehaviourRow {
        let rate = Rate { successes, attempts: 100, interval };
        BehaviourRow {
            label: "cpu".to_owned(),
            condition,
            device: "a processor".to_owned(),
            emulated: None,
            precision: "f32".to_owned(),
            checkpoint: None,
            batch: 50,
            periods: (0..100).map(|seed| (seed < successes).then_some(30)).collect(),
            overall: rate,
            reach: rate,
            push: rate,
            pairs: None,
            actions: None,
            control_met: condition.is_control().then_some(successes <= 60),
            notices: Vec::new(),
            failed: None,
            wall_s: None,
        }
    }

    fn behaviour(rows: Vec<BehaviourRow>) -> Behaviour {
        Behaviour {
            kind: BEHAVIOUR_KIND.to_owned(),
            format: BEHAVIOUR_FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: "2026-01-31T12:00:00Z".to_owned(),
            wall_s: 1.0,
            checkpoint: "assets/mini".to_owned(),
            checkpoint_sha256: "0123456789abcdef".to_owned(),
            first_seed: 0,
            episodes: 100,
            lerobot: LeRobotRun {
                lerobot: "0".to_owned(),
                torch: "0".to_owned(),
                recorded: false,
                threads: Some(2),
            },
            notes: Vec::new(),
            rows,
        }
    }

    #[test]
    fn controls_that_do_not_do_worse_are_remarked_on() {
        let normal = row(Condition::Normal, 90, (0.8, 0.95));
        let remarks = |condition, successes, interval| {
            behaviour(vec![normal.clone(), row(condition, successes, interval)]).remarks()
        };
        assert_eq!(remarks(Condition::Swapped, 1, (0.0, 0.1)), []);
        assert_eq!(remarks(Condition::Frozen, 60, (0.5, 0.7)), []);
        let unmet = remarks(Condition::Swapped, 80, (0.7, 0.86));
        assert_eq!(unmet[0].0, "cpu, swapped");
        assert!(unmet[0].1.contains("CONTROL NOT MET") && unmet[0].1.contains("80.0–95.0 %"), "{unmet:?}");
        assert!(remarks(Condition::Frozen, 90, (0.8, 0.95))[0].1.contains("its cameras"));
    }

    #[test]
    fn values_of_p_and_bounds_are_not_rounded_to_nothing() {
        let mut row = row(Condition::Normal, 90, (0.8, 0.95));
        row.pairs =
            Some(Pairs { lost: (0..30).collect(), won: Vec::new(), identical: 70, p: 2e-9, p_holm: 0.02 });
        assert_eq!(row.numbers()[5..7], ["< 0.001", "0.020"]);
        row.pairs = Some(Pairs { lost: vec![3], won: Vec::new(), identical: 99, p: 1.0, p_holm: 1.0 });
        assert_eq!(row.numbers()[5], "1.000");
        assert!(!row.remarks()[0].contains("at most"));
        row.pairs = Some(Pairs { lost: Vec::new(), won: Vec::new(), identical: 98, p: 1.0, p_holm: 1.0 });
        // 1 - 0.05^(1/100); the "rule of three" gives 3 %.
        assert!(row.remarks()[0].contains("at most 3.0 %"), "{:?}", row.remarks());
        assert!((Pairs::bound_of_none(500) - 0.005_973_5).abs() < 1e-6, "{}", Pairs::bound_of_none(500));
    }

    #[test]
    fn rows_that_failed_say_so_and_show_no_numbers() {
        let mut row = row(Condition::Normal, 0, (0.0, 1.0));
        row.failed = Some("out of memory".to_owned());
        assert_eq!(row.numbers(), ["failed", "–", "–", "–", "–", "–", "–", "–"]);
        assert_eq!(row.outcome(), "failed");
        assert!(row.remarks()[0].contains("out of memory"));
    }

    #[test]
    fn sentence_says_which_run_it_was_and_marks_another_version() {
        let mut behaviour = behaviour(Vec::new());
        let text = behaviour.sentence();
        assert!(text.contains("0123456789ab…") && text.contains("2026-01-31T12:00:00Z"), "{text}");
        assert!(!text.contains("not results"), "{text}");
        behaviour.version = "0.0.1".to_owned();
        assert!(behaviour.sentence().contains("not results of this version"));
    }
}
