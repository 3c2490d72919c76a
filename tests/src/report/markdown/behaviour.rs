//! Behaviour at the tabletop task: `rollout.md`, and a section of `report.md`.

use super::{Page, strings, text};
use crate::report::behaviour::{BEHAVIOUR_NOTE, Behaviour, BehaviourRow, COLUMNS};

/// All of `rollout.md`.
pub(in crate::report) fn page(behaviour: &Behaviour) -> String {
    let mut page = Page::default();
    page.line("# smolvla at the tabletop");
    content(&mut page, behaviour);
    page.0
}

/// The section of a conformance report.
pub(super) fn section(page: &mut Page, behaviour: Option<&Behaviour>) {
    page.heading("Behaviour");
    match behaviour {
        Some(behaviour) => content(page, behaviour),
        None => page.block("Not run. `cargo xtask rollout` runs it; `--rollout FILE` puts its results here."),
    }
}

fn content(page: &mut Page, behaviour: &Behaviour) {
    page.block(&text(&behaviour.sentence()));
    page.block(BEHAVIOUR_NOTE);
    page.table(&strings(COLUMNS), behaviour.rows.iter().map(row));
    let about = |(row, remark): &(String, String)| format!("- {}: {}", text(row), text(remark));
    let notes = behaviour.notes.iter().map(|note| format!("- {}", text(note)));
    let remarks: Vec<String> = notes.chain(behaviour.remarks().iter().map(about)).collect();
    if !remarks.is_empty() {
        page.block(&remarks.join("\n"));
    }
}

fn row(row: &BehaviourRow) -> Vec<String> {
    let mut place = text(&row.device);
    if let Some(stand_in) = &row.emulated {
        place += &format!("; emulated by {}", text(stand_in));
    }
    let emulated = if row.emulated.is_some() { " (**EMULATED**)" } else { "" };
    let mut cells = vec![text(&row.label) + emulated, row.condition.name().to_owned()];
    cells.extend(row.numbers().iter().map(|cell| text(cell)));
    cells.extend([text(&row.numerics()), place]);
    cells
}
