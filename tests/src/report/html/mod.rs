//! `report.html`: one page that needs nothing else, no script, no network, no font.
//!
//! Every text goes through `maud`, which escapes it.

mod behaviour;
mod matrix;
mod traces;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::format;
use super::model::{BackendReport, CaseReport, CheckReport, MutantsReport, Presence, Report, Status, Tier};
use super::summary::{self, Finding, HEADLINES, HEADLINES_NOTE, Metric, Variant};
use crate::evidence::Judge;

const STYLE: &str = include_str!("page.css");

/// More failures than this are folded away.
const FINDINGS_SHOWN: usize = 25;

/// More messages of one failure than this are folded away.
const MESSAGES_SHOWN: usize = 4;

/// The sections, as the page's own table of contents names them.
const SECTIONS: [(&str, &str); 13] = [
    ("backends", "Backends"),
    ("failures", "Failures"),
    ("headlines", "Checks of the first port"),
    ("stages", "Stages"),
    ("traces", "Action traces"),
    ("joints", "Per joint"),
    ("operations", "Operations"),
    ("runs", "End to end and relations"),
    ("behaviour", "Behaviour"),
    ("mutants", "Mutants"),
    ("not-run", "Not run, simulated"),
    ("cases", "Cases"),
    ("reproduce", "Reproduce"),
];

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "smolvla conformance: " (summary::verdict(report)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (header(report))
                    (section("backends", &backends(report)))
                    (section("failures", &failures(report)))
                    (section("headlines", &headlines(report)))
                    (section("stages", &stages(report)))
                    (section("traces", &traces::traces(report)))
                    (section("joints", &joints(report)))
                    (section("operations", &operations(report)))
                    (section("runs", &runs(report)))
                    (section("behaviour", &behaviour::behaviour(report.behaviour.as_ref())))
                    (section("mutants", &mutants(report.mutants.as_ref())))
                    (section("not-run", &not_run(report)))
                    (section("cases", &cases(&report.cases)))
                    (section("reproduce", &reproduce(report)))
                    footer {
                        "Every number of this page, and those it leaves out, are in report.json "
                        "(format " (report.format) ")."
                    }
                }
            }
        }
    };
    page.into_string()
}

fn section(id: &str, content: &Markup) -> Markup {
    let title = SECTIONS.iter().find(|(known, _)| *known == id).map_or(id, |(_, title)| *title);
    html! { section id=(id) { h2 { (title) } (content) } }
}

fn header(report: &Report) -> Markup {
    let color = if report.passed() { "pass" } else { "fail" };
    let machine = &report.machine;
    html! {
        header {
            p.kicker { "smolvla against LeRobot" }
            h1 { "Conformance" span.verdict.(color) { (summary::verdict(report)) } }
            p.lead { (summary::sentence(report)) }
            p.soft { (summary::scope(report)) }
            dl.facts {
                (fact("Started", &report.started))
                (fact("Took", &format::duration(report.wall_s)))
                (fact("smolvla", &report.version))
                (fact("Size", &report.size))
                (fact("System", &machine.system))
                (fact("Processor", &format!("{}, {}", machine.processor, format::count(machine.threads, "thread"))))
            }
            nav aria-label="Sections" {
                @for (id, title) in SECTIONS { a href={ "#" (id) } { (title) } }
            }
        }
    }
}

fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn scroll(label: &str, content: &Markup) -> Markup {
    html! { div.scroll tabindex="0" role="region" aria-label=(label) { (content) } }
}

fn none(text: &str) -> Markup {
    html! { p.soft { (text) } }
}

fn tag(status: Status) -> Markup {
    let (color, mark) = match status {
        Status::Passed => ("pass", "✓"),
        Status::Failed | Status::UnexpectedPass => ("fail", "✕"),
        Status::ExpectedFailure => ("note", "≈"),
        Status::Unsupported => ("quiet", "–"),
    };
    html! { span.tag.(color) { (mark) " " (status.name()) } }
}

fn backends(report: &Report) -> Markup {
    if report.backends.is_empty() {
        return none("No backend was asked for.");
    }
    scroll(
        "Backends",
        &html! {
            table.full {
                thead {
                    tr {
                        th.pin scope="col" { "Backend" }
                        th scope="col" { "Verdict" }
                        th scope="col" { "Ran on" }
                        th scope="col" { "Precisions" }
                        th.num scope="col" { "Checks" }
                        @for status in Status::ALL { th.num scope="col" { (capital(summary::plural(status))) } }
                    }
                }
                tbody { @for backend in &report.backends { (backend_row(backend)) } }
            }
        },
    )
}

fn backend_row(backend: &BackendReport) -> Markup {
    html! {
        tr {
            th.pin scope="row" {
                (backend.name)
                @if backend.required { div.small.soft { "required" } }
            }
            td { (backend_verdict(backend)) }
            @match &backend.presence {
                Presence::Present { device, driver, emulated, precisions } => {
                    td.prose {
                        (device)
                        @if let Some(driver) = driver { div.small.soft { "driver " (driver) } }
                        @if let Some(stand_in) = emulated { div { span.tag.wide.note { "Emulated by " (stand_in) } } }
                    }
                    td { (precisions.join(", ")) }
                    td.num { (backend.checks.len()) }
                    @for status in Status::ALL {
                        @let count = backend.count(status);
                        td.num.bad[status.is_failure() && count > 0] { (count) }
                    }
                }
                Presence::Absent { reason } => {
                    td.prose { "Absent: " (reason) }
                    @for _ in 0..Status::ALL.len() + 2 { td.num.soft { "–" } }
                }
            }
        }
    }
}

fn backend_verdict(backend: &BackendReport) -> Markup {
    let (color, words) = match (summary::is_absent(backend), backend.failures()) {
        (true, 0) => ("quiet", "– absent"),
        (true, _) => ("fail", "✕ required, absent"),
        (false, 0) => ("pass", "✓ passed"),
        (false, _) => ("fail", "✕ failed"),
    };
    html! { span.tag.(color) { (words) } }
}

fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn failures(report: &Report) -> Markup {
    let failures = summary::failures(report);
    let gaps = summary::known_gaps(report);
    html! {
        @if failures.is_empty() { (none("None.")) }
        (folded(&failures, "finding", "more failures"))
        @if !gaps.is_empty() {
            h3 { "Known gaps: these fail as the backend’s expectations say" }
            (folded(&gaps, "finding gap", "more known gaps"))
        }
    }
}

fn folded(findings: &[Finding<'_>], class: &str, rest: &str) -> Markup {
    let (shown, hidden) = findings.split_at(findings.len().min(FINDINGS_SHOWN));
    html! {
        div { @for one in shown { (finding(one, class)) } }
        @if !hidden.is_empty() {
            details {
                summary { (hidden.len()) " " (rest) }
                div { @for one in hidden { (finding(one, class)) } }
            }
        }
    }
}

fn finding(finding: &Finding<'_>, class: &str) -> Markup {
    html! {
        div class=(class) {
            span.mono { (finding.name) } span.kind { (finding.kind) }
            @match &finding.messages[..] {
                [] => {},
                [message] => p { (message) },
                messages => {
                    @let (shown, hidden) = messages.split_at(messages.len().min(MESSAGES_SHOWN));
                    ul { @for message in shown { li { (message) } } }
                    @if !hidden.is_empty() {
                        details {
                            summary { "and " (hidden.len()) " more" }
                            ul { @for message in hidden { li { (message) } } }
                        }
                    }
                }
            }
        }
    }
}

fn headlines(report: &Report) -> Markup {
    let variants = summary::headline_variants(report);
    if variants.is_empty() {
        return none("No check ran.");
    }
    scroll(
        "Checks of the first port",
        &html! {
            p.soft { (HEADLINES_NOTE) }
            table {
                thead {
                    tr {
                        th.pin scope="col" { "Check" }
                        @for variant in &variants { th scope="col" { (variant.label()) } }
                    }
                }
                tbody {
                    @for (tier, name, title) in HEADLINES {
                        tr {
                            th.pin.nowrap scope="row" { (title) }
                            @for variant in &variants { (headline(*variant, tier, name)) }
                        }
                    }
                }
            }
        },
    )
}

fn headline(variant: Variant<'_>, tier: Tier, name: &str) -> Markup {
    html! {
        td.nowrap {
            @match summary::headline(variant, tier, name) {
                Some(headline) => {
                    (tag(headline.status))
                    @if !headline.value.is_empty() { " " (headline.value) }
                }
                None => span.soft { "not run" },
            }
        }
    }
}

fn stages(report: &Report) -> Markup {
    let divergences = summary::divergences(report);
    html! {
        h3 { "First stage that diverges" }
        @if divergences.is_empty() { (none("None: no stage breaks its limits.")) }
        @else {
            (scroll("First stage that diverges", &html! {
                table {
                    thead { tr { th.pin scope="col" { "Backend" } th scope="col" { "Run" } th scope="col" { "First stage" } th scope="col" { "Seen by" } th scope="col" { "What" } } }
                    tbody {
                        @for found in &divergences {
                            tr {
                                th.pin.nowrap scope="row" { (found.variant.label()) }
                                td.nowrap { (found.running.name()) }
                                td.nowrap.bad { (found.stage) }
                                td {
                                    (found.check)
                                    @if found.checks > 1 { span.soft { " and " (format::count(found.checks - 1, "more check")) } }
                                }
                                td.prose { (found.message) }
                            }
                        }
                    }
                }
            }))
        }
        h3 { "PCC by backend and stage" }
        (matrix::matrices(report))
        h3 { "Stage checks" }
        (check_tables(report, &[Tier::Stage]))
    }
}

fn joints(report: &Report) -> Markup {
    let mut tables = summary::variants(report)
        .into_iter()
        .flat_map(|variant| {
            Tier::ALL
                .into_iter()
                .flat_map(move |tier| variant.checks(tier))
                .map(move |check| (variant, check))
        })
        .filter(|(_, check)| !check.joints.is_empty())
        .peekable();
    html! {
        @if tables.peek().is_none() { (none("No joint was compared.")) }
        @else { p.text.soft { "Physical units, over all observations and noises. A joint’s row error is in its own standard deviations." } }
        @for (index, (variant, check)) in tables.enumerate() {
            details open[index < 4] {
                summary { (variant.label()) " " span.soft { (check.name) } " " (tag(check.status)) }
                (scroll("Joints", &joint_table(check)))
                (notes(check))
            }
        }
    }
}

fn joint_table(check: &CheckReport) -> Markup {
    let unit = check.traces.first().map_or_else(String::new, |trace| format!(" ({})", trace.unit));
    html! {
        table {
            thead {
                tr {
                    th.pin.num scope="col" { "Joint" }
                    th.num scope="col" { "Spread" (unit) }
                    th.num scope="col" { "Max" (unit) }
                    th.num scope="col" { "p99" }
                    th.num scope="col" { "RMS" }
                    th.num scope="col" { "Row error" }
                    th.num scope="col" { "PCC" }
                    th.num scope="col" { "Slope − 1" }
                    th.num scope="col" { "Offset" (unit) }
                    th.num scope="col" { "Same direction" }
                    th scope="col" { "Limits" }
                }
            }
            tbody {
                @for joint in &check.joints {
                    @let metrics = &joint.metrics;
                    @let broken = |name: &str| metrics.non_finite > 0 || joint.violations.iter().any(|v| v.metric == name);
                    @let number = |value: f64| if metrics.non_finite > 0 { "not finite".to_owned() } else { format::number(value) };
                    tr {
                        th.pin.num scope="row" { (joint.joint) }
                        td.num { (format::number(joint.spread)) }
                        td.num.bad[broken("max abs")] { (number(metrics.max_abs)) }
                        td.num { (format::number(joint.p99)) }
                        td.num { (format::number(joint.rms)) }
                        td.num.bad[broken("row error")] { (number(metrics.row_error)) }
                        td.num.bad[broken("PCC")] { (if metrics.non_finite > 0 { "not finite".to_owned() } else { format::pcc(metrics.pcc) }) }
                        td.num.bad[broken("slope − 1")] { (number(metrics.slope - 1.0)) }
                        td.num { (number(metrics.offset)) }
                        td.num.bad[broken("same direction")] { (format::number(joint.direction)) }
                        td.prose {
                            @if joint.violations.is_empty() { span.tag.pass { "✓ holds" } }
                            @for violation in &joint.violations { div.bad { "✕ " (violation) } }
                        }
                    }
                }
            }
        }
    }
}

fn operations(report: &Report) -> Markup {
    let tables = check_tables(report, &[Tier::Op]);
    html! {
        p.text.soft { "Each value is the worst of its check, with the limit it is held to under it." }
        (tables)
    }
}

fn runs(report: &Report) -> Markup {
    html! {
        p.text.soft { "Whole runs against LeRobot, actions in physical units, and relations between runs." }
        (check_tables(report, &[Tier::EndToEnd, Tier::ActionSpace, Tier::Metamorphic]))
    }
}

/// One folded table a variant, with its checks of these tiers.
fn check_tables(report: &Report, tiers: &[Tier]) -> Markup {
    let variants = summary::variants(report);
    let tables: Vec<(Variant<'_>, Vec<&CheckReport>)> = variants
        .into_iter()
        .map(|variant| (variant, tiers.iter().flat_map(|tier| variant.checks(*tier)).collect()))
        .filter(|(_, checks): &(_, Vec<_>)| !checks.is_empty())
        .collect();
    html! {
        @if tables.is_empty() { (none("No such check ran.")) }
        @for (index, (variant, checks)) in tables.iter().enumerate() {
            @let failed = checks.iter().filter(|check| check.status.is_failure()).count();
            details open[index == 0 && tiers != [Tier::Stage]] {
                summary {
                    (variant.label()) " " span.soft { (format::count(checks.len(), "check")) }
                    @if failed > 0 { " " span.tag.fail { "✕ " (failed) " failed" } }
                }
                (scroll(&variant.label(), &check_table(checks)))
            }
        }
    }
}

fn check_table(checks: &[&CheckReport]) -> Markup {
    let with_tiers = checks.iter().any(|check| check.tier != checks[0].tier);
    let are_operations = checks.iter().all(|check| check.tier == Tier::Op);
    let metrics = if checks.iter().any(|check| summary::is_measured(check)) { &Metric::ALL[..] } else { &[] };
    // Beside the metrics: name, status, judge, time.
    let columns = metrics.len() + 4 + usize::from(are_operations) + usize::from(with_tiers);
    html! {
        table {
            thead {
                tr {
                    th.pin scope="col" { (if are_operations { "Operation" } else { "Check" }) }
                    @if are_operations { th scope="col" { "Case" } }
                    @if with_tiers { th scope="col" { "Tier" } }
                    th scope="col" { "Status" }
                    @for metric in metrics { th.num scope="col" { (capital(metric.name())) } }
                    th scope="col" { "Judge" }
                    th.num scope="col" { "Time" }
                }
            }
            tbody {
                @for check in checks {
                    @let has_remarks = !check.reasons.is_empty() || !check.notes.is_empty();
                    @let (operation, case) = if are_operations { summary::operation(&check.name) } else { (check.name.as_str(), "") };
                    @let judges = summary::judges(check);
                    @for (index, judge) in judges.iter().enumerate() {
                        @let is_first = index == 0;
                        tr.open[has_remarks || index + 1 < judges.len()] {
                            th.pin.name scope="row" { @if is_first { (operation) } }
                            @if are_operations { td { @if is_first { (case) } } }
                            @if with_tiers { td.nowrap { @if is_first { (check.tier.name()) } } }
                            td { @if is_first { (tag(check.status)) } }
                            @for metric in metrics { (worst(check, *judge, *metric)) }
                            td.nowrap { (judge.map_or("", Judge::name)) }
                            td.num { @if is_first { (format::duration(check.wall_s)) } }
                        }
                    }
                    @if has_remarks { tr { td.remarks colspan=(columns) { (reasons(check)) (notes(check)) } } }
                }
            }
        }
    }
}

fn worst(check: &CheckReport, judge: Option<Judge>, metric: Metric) -> Markup {
    match summary::worst(check, judge, metric) {
        None => html! { td.num.soft { "–" } },
        Some(worst) => html! {
            td.num {
                @if worst.broken { span.bad { "✕ " (worst.value_text()) } } @else { (worst.value_text()) }
                @if let Some(limit) = worst.limit_text() { span.lim { (limit) } }
            }
        },
    }
}

fn reasons(check: &CheckReport) -> Markup {
    let (shown, hidden) = check.reasons.split_at(check.reasons.len().min(MESSAGES_SHOWN));
    html! {
        @for reason in shown { div { (reason) } }
        @if !hidden.is_empty() { div.soft { "and " (hidden.len()) " more, under Failures" } }
    }
}

fn notes(check: &CheckReport) -> Markup {
    html! { @for note in &check.notes { div.small.soft { (note) } } }
}

fn mutants(mutants: Option<&MutantsReport>) -> Markup {
    let Some(mutants) = mutants else { return none("Not run. `cargo xtask conform --mutants` runs them.") };
    let table = html! {
        table {
            thead {
                tr {
                    th.pin scope="col" { "Mutant" }
                    th scope="col" { "Defect" }
                    th scope="col" { "Killed by" }
                    th.num scope="col" { "PCC" }
                    th scope="col" { "PCC ≥ " (mutants.pcc_gate) " alone would have let it through" }
                }
            }
            tbody {
                @for mutant in &mutants.mutants {
                    tr {
                        th.pin.name scope="row" { (mutant.name) }
                        td.prose { (mutant.defect) }
                        td.prose {
                            @if mutant.killed_by.is_empty() { span.tag.fail { "✕ survived" } }
                            @for (index, kill) in mutant.killed_by.iter().enumerate() {
                                div { b { (kill.tier.name()) } " " span.soft { "(" (kill.check) ")" } }
                                @if index == 0 { div.small.soft { (kill.message) } }
                            }
                        }
                        td.num { (format::pcc(mutant.pcc)) }
                        td { @if mutant.missed_by_pcc { b { "yes" } } @else { "no" } }
                    }
                }
            }
        }
    };
    html! {
        p.text { b { (summary::mutants_sentence(mutants)) } }
        (scroll("Mutants", &table))
    }
}

fn not_run(report: &Report) -> Markup {
    let absent: Vec<_> = report.backends.iter().filter(|backend| summary::is_absent(backend)).collect();
    let unsupported = summary::unsupported(report);
    let emulated: Vec<(&str, &str)> = report.backends.iter().filter_map(emulation).collect();
    html! {
        h3 { "Backends that were absent" }
        @if absent.is_empty() { (none("None.")) }
        ul {
            @for backend in absent {
                li {
                    b { (backend.name) }
                    @if backend.required { " (required)" }
                    @if let Presence::Absent { reason } = &backend.presence { ": " (reason) }
                }
            }
        }
        h3 { "Checks that are unsupported" }
        @if unsupported.is_empty() { (none("None.")) }
        @for group in &unsupported {
            details {
                summary { (group.variant.label()) ": " (format::count(group.checks.len(), "check")) " " span.soft { (group.reason) } }
                p.small { (group.checks.join(", ")) }
            }
        }
        h3 { "Simulated devices" }
        @if emulated.is_empty() { (none("None.")) }
        ul { @for (name, stand_in) in emulated { li { b { (name) } ": emulated by " (stand_in) } } }
    }
}

fn emulation(backend: &BackendReport) -> Option<(&str, &str)> {
    match &backend.presence {
        Presence::Present { emulated: Some(stand_in), .. } => Some((&backend.name, stand_in)),
        _ => None,
    }
}

fn cases(cases: &[CaseReport]) -> Markup {
    if cases.is_empty() {
        return none("No checkpoint was used.");
    }
    scroll(
        "Cases",
        &html! {
            table {
                thead {
                    tr {
                        th.pin scope="col" { "Case" }
                        th scope="col" { "Size" }
                        th.num scope="col" { "Seed" }
                        th scope="col" { "Weights, SHA-256" }
                        th scope="col" { "Golden, SHA-256" }
                        th scope="col" { "LeRobot" }
                        th scope="col" { "PyTorch" }
                    }
                }
                tbody {
                    @for case in cases {
                        tr {
                            th.pin scope="row" { (case.name) }
                            td { (case.size) }
                            td.num { (case.seed) }
                            td { code title=(case.model_sha256) { (format::short_hash(&case.model_sha256)) } }
                            td { code title=(case.golden_sha256) { (format::short_hash(&case.golden_sha256)) } }
                            td { (case.lerobot) }
                            td { (case.torch) }
                        }
                    }
                }
            }
        },
    )
}

fn reproduce(report: &Report) -> Markup {
    html! {
        @for command in summary::commands(report) { pre { code { (command) } } }
        p.text {
            "Limits are the " (report.tolerances.len()) " rows of one table, by what is compared, storage and accumulation, "
            "each with its reason: see " code { "docs/numerics.md" } "."
        }
    }
}
