//! `report.md`: the facts of the page in compact tables.

mod behaviour;

use std::fmt::Write as _;

use super::format;
use super::model::{CheckReport, MutantsReport, Presence, Report, Status, Tier};
use super::summary::{self, Finding, HEADLINES, HEADLINES_NOTE, Metric, Running, Variant, matrix};
use crate::evidence::Judge;

pub(super) use behaviour::page as behaviour_page;

/// More messages of one failure than this are left to `report.json`.
const MESSAGES_SHOWN: usize = 4;

/// The whole text.
pub(super) fn page(report: &Report) -> String {
    let mut page = Page::default();
    header(&mut page, report);
    backends(&mut page, report);
    failures(&mut page, report);
    headlines(&mut page, report);
    stages(&mut page, report);
    joints(&mut page, report);
    checks(&mut page, "Operations", report, &[Tier::Op]);
    let runs = [Tier::EndToEnd, Tier::ActionSpace, Tier::Metamorphic];
    checks(&mut page, "End to end and relations", report, &runs);
    behaviour::section(&mut page, report.behaviour.as_ref());
    mutants(&mut page, report.mutants.as_ref());
    not_run(&mut page, report);
    cases(&mut page, report);
    reproduce(&mut page, report);
    page.0
}

/// Markdown under construction. Its methods take text as it is, already escaped.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    /// A block of its own.
    fn block(&mut self, text: &str) {
        self.line("");
        self.line(text);
    }

    fn heading(&mut self, text: &str) {
        self.block(&format!("## {text}"));
    }

    fn table<R: AsRef<[String]>>(&mut self, head: &[String], rows: impl IntoIterator<Item = R>) {
        self.block(&format!("| {} |", head.join(" | ")));
        self.line(&"|---".repeat(head.len()));
        self.0.pop();
        self.line("|");
        for row in rows {
            self.line(&format!("| {} |", row.as_ref().join(" | ")));
        }
    }
}

/// Text that shows as it is, also in a table.
fn text(raw: &str) -> String {
    let mut escaped = String::with_capacity(raw.len());
    for letter in raw.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\\' | '`' | '*' | '|' | '[' | ']' | '~' | '#' => escaped.extend(['\\', letter]),
            '_' => escaped.push_str("\\_"),
            '\n' | '\r' => escaped.push(' '),
            _ => escaped.push(letter),
        }
    }
    escaped
}

/// A name as code. In a name with a backtick or a bar, which code in a table cannot show, they are escaped text.
fn code(name: &str) -> String {
    if name.contains(['`', '|', '\n', '\r']) { text(name) } else { format!("`{name}`") }
}

fn strings<const N: usize>(cells: [&str; N]) -> [String; N] {
    cells.map(str::to_owned)
}

fn header(page: &mut Page, report: &Report) {
    page.line(&format!("# smolvla conformance: {}", summary::verdict(report)));
    page.block(&text(&summary::sentence(report)));
    page.block(&text(&summary::scope(report)));
    let machine = &report.machine;
    page.block(&format!(
        "Started {} · took {} · smolvla {} · size {} · {}, {}, {}",
        text(&report.started),
        format::duration(report.wall_s),
        text(&report.version),
        text(&report.size),
        text(&machine.system),
        text(&machine.processor),
        format::count(machine.threads, "thread")
    ));
}

fn backends(page: &mut Page, report: &Report) {
    page.heading("Backends");
    if report.backends.is_empty() {
        page.block("No backend was asked for.");
        return;
    }
    let mut head = strings(["backend", "ran on", "precisions", "checks"]).to_vec();
    head.extend(Status::ALL.map(|status| summary::plural(status).to_owned()));
    let rows = report.backends.iter().map(|backend| {
        let name = text(&backend.name) + if backend.required { " (required)" } else { "" };
        let mut row = match &backend.presence {
            Presence::Absent { reason } => {
                vec![name, format!("**absent**: {}", text(reason)), "–".to_owned(), "0".to_owned()]
            }
            Presence::Present { device, driver, emulated, precisions } => {
                let mut place = text(device);
                if let Some(driver) = driver {
                    let _ = write!(place, "; driver {}", text(driver));
                }
                if let Some(stand_in) = emulated {
                    let _ = write!(place, "; **emulated by {}**", text(stand_in));
                }
                vec![name, place, text(&precisions.join(", ")), backend.checks.len().to_string()]
            }
        };
        row.extend(Status::ALL.map(|status| backend.count(status).to_string()));
        row
    });
    page.table(&head, rows);
}

fn failures(page: &mut Page, report: &Report) {
    page.heading("Failures");
    findings(page, &summary::failures(report));
    let gaps = summary::known_gaps(report);
    if !gaps.is_empty() {
        page.heading("Known gaps");
        findings(page, &gaps);
    }
}

fn findings(page: &mut Page, findings: &[Finding<'_>]) {
    if findings.is_empty() {
        page.block("None.");
        return;
    }
    page.line("");
    for finding in findings {
        page.line(&format!("- {} **{}**", code(&finding.name), finding.kind));
        for message in finding.messages.iter().take(MESSAGES_SHOWN) {
            page.line(&format!("  - {}", text(message)));
        }
        if finding.messages.len() > MESSAGES_SHOWN {
            page.line(&format!("  - and {} more, in report.json", finding.messages.len() - MESSAGES_SHOWN));
        }
    }
}

fn headlines(page: &mut Page, report: &Report) {
    page.heading("Checks of the first port");
    let variants = summary::headline_variants(report);
    if variants.is_empty() {
        page.block("No check ran.");
        return;
    }
    page.block(HEADLINES_NOTE);
    let head = labels("check", &variants);
    let rows = HEADLINES.map(|(tier, name, title)| {
        let cells = variants.iter().map(|variant| match summary::headline(*variant, tier, name) {
            None => "not run".to_owned(),
            Some(headline) => format!("{} {}", mark(headline.status), headline.value).trim_end().to_owned(),
        });
        std::iter::once(title.to_owned()).chain(cells).collect::<Vec<_>>()
    });
    page.table(&head, rows);
}

fn labels(first: &str, variants: &[Variant<'_>]) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(variants.iter().map(|variant| text(&variant.label()))).collect()
}

/// The status, loud where it makes the run fail.
fn mark(status: Status) -> String {
    if status.is_failure() {
        format!("**{}**", status.name().to_uppercase())
    } else {
        status.name().to_owned()
    }
}

fn stages(page: &mut Page, report: &Report) {
    page.heading("First stage that diverges");
    let divergences = summary::divergences(report);
    if divergences.is_empty() {
        page.block("None: no stage breaks its limits.");
    } else {
        let rows = divergences.iter().map(|found| {
            [
                text(&found.variant.label()),
                found.running.name().to_owned(),
                code(found.stage),
                format!("{} (of {})", code(found.check), format::count(found.checks, "check")),
                text(&found.message),
            ]
        });
        page.table(&strings(["backend", "run", "first stage", "seen by", "what"]), rows);
    }
    for running in Running::ALL {
        let matrix = matrix(report, running);
        page.heading(&format!("PCC by stage, {}", running.name()));
        if matrix.rows.is_empty() {
            page.block("No stage was compared.");
            continue;
        }
        page.block(
            "The lowest PCC over all cases and its NMSE; ✕: breaks its limit. A stage is a row here, a column of the page.",
        );
        let variants: Vec<_> = matrix.rows.iter().map(|(variant, _)| *variant).collect();
        let rows = matrix.columns.iter().enumerate().map(|(index, column)| {
            let cells = matrix.rows.iter().map(|(_, cells)| match &cells[index] {
                None => "–".to_owned(),
                Some(cell) if !cell.is_finite() => format!("✕ not finite ({})", cell.non_finite),
                Some(cell) => format!(
                    "{}{}; {}",
                    if cell.broken { "✕ " } else { "" },
                    format::pcc(cell.pcc),
                    format::number(cell.nmse)
                ),
            });
            let stage = format!("{}: {}", column.part.title(), text(&column.label));
            std::iter::once(stage).chain(cells).collect::<Vec<_>>()
        });
        page.table(&labels("stage", &variants), rows);
    }
}

fn joints(page: &mut Page, report: &Report) {
    page.heading("Per joint");
    let mut rows = Vec::new();
    for variant in summary::variants(report) {
        for check in Tier::ALL.into_iter().flat_map(|tier| variant.checks(tier)) {
            for joint in &check.joints {
                let metrics = &joint.metrics;
                let number = |value: f64| {
                    if metrics.non_finite > 0 { "not finite".to_owned() } else { format::number(value) }
                };
                let broken: Vec<String> =
                    joint.violations.iter().map(|violation| text(&violation.to_string())).collect();
                rows.push([
                    format!("{} {}", text(&variant.label()), code(&check.name)),
                    joint.joint.to_string(),
                    number(metrics.max_abs),
                    format::number(joint.p99),
                    format::number(joint.rms),
                    if metrics.non_finite > 0 { number(metrics.pcc) } else { format::pcc(metrics.pcc) },
                    number(metrics.slope - 1.0),
                    number(metrics.offset),
                    format::number(joint.direction),
                    if broken.is_empty() { "hold".to_owned() } else { format!("✕ {}", broken.join(", ")) },
                ]);
            }
        }
    }
    if rows.is_empty() {
        page.block("No joint was compared.");
        return;
    }
    let head =
        ["check", "joint", "max", "p99", "RMS", "PCC", "slope − 1", "offset", "same direction", "limits"];
    page.table(&strings(head), rows);
}

fn checks(page: &mut Page, title: &str, report: &Report, tiers: &[Tier]) {
    page.heading(title);
    let mut head = strings(["check", "status"]).to_vec();
    head.extend(Metric::ALL.map(|metric| metric.name().to_owned()));
    head.push("judge".to_owned());
    let mut is_empty = true;
    for variant in summary::variants(report) {
        let checks: Vec<&CheckReport> = tiers.iter().flat_map(|tier| variant.checks(*tier)).collect();
        if checks.is_empty() {
            continue;
        }
        is_empty = false;
        page.block(&format!("### {}", text(&variant.label())));
        let rows = checks.iter().flat_map(|check| {
            summary::judges(check).into_iter().map(|judge| {
                let mut row =
                    vec![code(&format!("{}::{}", check.tier.name(), check.name)), mark(check.status)];
                row.extend(Metric::ALL.map(|metric| worst(check, judge, metric)));
                row.push(judge.map_or("", Judge::name).to_owned());
                row
            })
        });
        page.table(&head, rows);
    }
    if is_empty {
        page.block("No such check ran.");
    }
}

fn worst(check: &CheckReport, judge: Option<Judge>, metric: Metric) -> String {
    let Some(worst) = summary::worst(check, judge, metric) else { return "–".to_owned() };
    let mark = if worst.broken { "✕ " } else { "" };
    let limit = worst.limit_text().map_or_else(String::new, |limit| format!(" ({limit})"));
    format!("{mark}{}{limit}", worst.value_text())
}

fn mutants(page: &mut Page, mutants: Option<&MutantsReport>) {
    page.heading("Mutants");
    let Some(mutants) = mutants else {
        page.block("Not run. `cargo xtask conform --mutants` runs them.");
        return;
    };
    page.block(&text(&summary::mutants_sentence(mutants)));
    let through = format!("PCC ≥ {} alone would have let it through", mutants.pcc_gate);
    let head = ["mutant", "defect", "killed by", "first message", "PCC", &through];
    let rows = mutants.mutants.iter().map(|mutant| {
        let killers: Vec<String> = mutant
            .killed_by
            .iter()
            .map(|kill| format!("{} ({})", code(kill.tier.name()), code(&kill.check)))
            .collect();
        [
            code(&mutant.name),
            text(&mutant.defect),
            if killers.is_empty() { "**SURVIVED**".to_owned() } else { killers.join(", ") },
            mutant.killed_by.first().map_or_else(String::new, |kill| text(&kill.message)),
            format::pcc(mutant.pcc),
            if mutant.missed_by_pcc { "**yes**" } else { "no" }.to_owned(),
        ]
    });
    page.table(&strings(head), rows);
}

fn not_run(page: &mut Page, report: &Report) {
    page.heading("Not run");
    let mut lines = Vec::new();
    for backend in &report.backends {
        if let Presence::Absent { reason } = &backend.presence {
            let required = if backend.required { " (required)" } else { "" };
            lines.push(format!("- backend {}{required}: {}", code(&backend.name), text(reason)));
        }
    }
    for group in summary::unsupported(report) {
        let names: Vec<String> = group.checks.iter().map(|name| code(name)).collect();
        let (label, reason) = (text(&group.variant.label()), text(&group.reason));
        lines.push(format!("- {label}, unsupported: {reason}: {}", names.join(", ")));
    }
    list(page, &lines);
    page.heading("Simulated");
    let simulated: Vec<String> = report
        .backends
        .iter()
        .filter_map(|backend| match &backend.presence {
            Presence::Present { emulated: Some(stand_in), .. } => {
                Some(format!("- {}: emulated by {}", code(&backend.name), text(stand_in)))
            }
            _ => None,
        })
        .collect();
    list(page, &simulated);
}

fn list(page: &mut Page, lines: &[String]) {
    if lines.is_empty() {
        page.block("None.");
    } else {
        page.block(&lines.join("\n"));
    }
}

fn cases(page: &mut Page, report: &Report) {
    page.heading("Cases");
    if report.cases.is_empty() {
        page.block("No checkpoint was used.");
        return;
    }
    let rows = report.cases.iter().map(|case| {
        [
            code(&case.name),
            text(&case.size),
            case.seed.to_string(),
            code(&format::short_hash(&case.model_sha256)),
            code(&format::short_hash(&case.golden_sha256)),
            text(&case.lerobot),
            text(&case.torch),
        ]
    });
    let head = ["case", "size", "seed", "weights, SHA-256", "golden, SHA-256", "LeRobot", "PyTorch"];
    page.table(&strings(head), rows);
}

fn reproduce(page: &mut Page, report: &Report) {
    page.heading("Reproduce");
    let commands = summary::commands(report);
    if !commands.is_empty() {
        page.block(&format!("```sh\n{}\n```", commands.join("\n")));
    }
    page.block(&format!(
        "Limits are the {} rows of one table, each with its reason: `docs/numerics.md`. Every number is in `report.json`.",
        report.tolerances.len()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_cell() {
        assert_eq!(
            text("a|b\nc <d> & \"e\" *f* g_h `i`"),
            "a\\|b c &lt;d&gt; &amp; \"e\" \\*f\\* g\\_h \\`i\\`"
        );
    }

    #[test]
    fn names_with_backticks_are_not_code() {
        assert_eq!(code("free_two_cameras"), "`free_two_cameras`");
        assert_eq!(code("a`b|c"), "a\\`b\\|c");
    }

    #[test]
    fn tables_have_one_rule_cell_a_column() {
        let mut page = Page::default();
        page.table(&strings(["a", "b"]), [strings(["1", "2"])]);
        assert_eq!(page.0, "\n| a | b |\n|---|---|\n| 1 | 2 |\n");
    }
}
