//! The reports of a made-up run: what they say, and how the page looks in a real browser.

mod browser;
mod sample;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use browser::{Browser, Facts, Scheme};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use sample::{SAMPLES, Sample};
use serde_json::Value;
use smolvla_conformance::report::{Files, Report};

type Outcome = Result<(), Failed>;

fn main() {
    let mut trials = vec![
        Trial::test("json_holds_the_report", json_holds_the_report),
        Trial::test("markdown_holds_the_report", markdown_holds_the_report),
        Trial::test("html_needs_nothing_else", html_needs_nothing_else),
        Trial::test("html_escapes_what_it_shows", html_escapes_what_it_shows),
        Trial::test("reports_without_checks_are_written", reports_without_checks_are_written),
        Trial::test("errors_name_the_file", errors_name_the_file),
    ];
    if cfg!(unix) {
        trials.push(Trial::test("browsers_that_hang_are_ended", browsers_that_hang_are_ended));
    }
    for sample in &SAMPLES {
        for (width, scheme) in sample.views {
            trials.push(Trial::ignorable_test(
                format!("page_is_readable::{}_{width}_{}", sample.name, scheme.name()),
                move || page_is_readable(sample, *width, *scheme),
            ));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn json_holds_the_report() -> Outcome {
    let (_folder, files) = written(&sample::report())?;
    let text = fs::read_to_string(&files.json)?;
    let json: Value = serde_json::from_str(&text)?;
    assert_eq!(json["format"], 1);
    assert_eq!(json["backends"][1]["presence"]["emulated"], sample::EMULATOR);
    assert_eq!(json["backends"][2]["presence"]["state"], "absent");
    let checks = json["backends"][1]["checks"].as_array().expect("an array");
    let broken = checks.iter().find(|check| check["name"] == "free_two_cameras").expect("the check");
    assert_eq!(broken["status"], "failed");
    let infinite = |measurement: &&Value| measurement["metrics"]["nmse"] == "inf";
    assert!(broken["measurements"].as_array().expect("an array").iter().any(|m| infinite(&m)));
    assert_eq!(json["mutants"]["mutants"][0]["missed_by_pcc"], true);
    assert!(json["tolerances"].as_array().is_some_and(|rows| !rows.is_empty()));
    // One measurement a line: the file can be searched and compared.
    let line = text.lines().find(|line| line.contains("\"steps.9.velocity\"")).expect("a measurement");
    assert!(line.contains("\"what\"") && line.contains("\"pcc\""), "{line}");
    Ok(())
}

fn markdown_holds_the_report() -> Outcome {
    let (_folder, files) = written(&sample::report())?;
    let text = fs::read_to_string(&files.markdown)?;
    for fact in [
        "# smolvla conformance: FAILED",
        "**emulated by a software model of the card**",
        "**absent**: no card found; load its driver",
        "- `sim::f32::op::linear_one_row` **failed**",
        "| PCC (1-step) | passed 1 − ",
        "| Determinism | passed equal bits |",
        "| sim · f32 | free running | `text.layers.2` |",
        "✕ not finite",
        "`op::rope` | unsupported",
        "3 mutants killed on cpu; PCC ≥ 0.99 alone would have let 2 through.",
        "under Behaviour, where it is shown and not judged",
        "| cpu | swapped |",
        "31/40 (77.5 %)",
        "LeRobot alone finishes seeds 31, 32",
        "- sim · f32, unsupported: no rotation: `op::rope`",
        "cargo xtask conform --backend cpu,sim,card --size tiny --require cpu",
    ] {
        assert!(text.contains(fact), "{fact:?} is missing in:\n{text}");
    }
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    let tables = text.lines().collect::<Vec<_>>();
    for rows in tables.windows(2).filter(|rows| rows.iter().all(|line| line.starts_with('|'))) {
        assert_eq!(columns(rows[0]), columns(rows[1]), "{}\n{}", rows[0], rows[1]);
    }
    assert!(!text.contains(sample::HOSTILE), "markup was not escaped");
    Ok(())
}

fn html_needs_nothing_else() -> Outcome {
    let (_folder, files) = written(&sample::report())?;
    let page = fs::read_to_string(&files.html)?;
    for forbidden in ["<script", "src=", "<link", "@import", "url(", "http://", "https://"] {
        assert!(!page.contains(forbidden), "the page has {forbidden}");
    }
    for (fact, count) in
        [("prefers-color-scheme: dark", 1), ("<h1>", 1), ("class=\"verdict fail\">FAILED</span>", 1)]
    {
        assert_eq!(page.matches(fact).count(), count, "{fact}");
    }
    let two_classes =
        page.split('<').find(|tag| tag.split('>').next().is_some_and(|t| t.matches(" class=").count() > 1));
    assert_eq!(two_classes, None, "browsers take the first class attribute only");
    Ok(())
}

fn html_escapes_what_it_shows() -> Outcome {
    let (_folder, files) = written(&sample::report())?;
    let page = fs::read_to_string(&files.html)?;
    assert!(!page.contains(sample::HOSTILE), "markup was not escaped");
    assert!(page.contains("&lt;b onclick=&quot;x&quot;&gt;&amp;&lt;/b&gt;"), "the text itself is missing");
    Ok(())
}

fn reports_without_checks_are_written() -> Outcome {
    let nothing = Report { backends: Vec::new(), ..sample::absent() };
    for report in [nothing, sample::absent()] {
        let (_folder, files) = written(&report)?;
        let markdown = fs::read_to_string(&files.markdown)?;
        assert!(
            markdown.contains("No check ran.") && markdown.contains("No stage was compared."),
            "{markdown}"
        );
        assert!(fs::read_to_string(&files.html)?.contains("No joint was compared."));
        assert!(serde_json::from_str::<Value>(&fs::read_to_string(&files.json)?)?["backends"].is_array());
    }
    Ok(())
}

fn errors_name_the_file() -> Outcome {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("taken");
    fs::write(&file, "")?;
    let error = sample::absent().write(&file).expect_err("a file is no folder");
    assert_eq!(error.path, file);
    // A folder stands where the page should go.
    let page = folder.path().join("report.html");
    fs::create_dir_all(page.join("full"))?;
    let error = sample::absent().write(folder.path()).expect_err("a folder is no file");
    assert!(error.to_string().contains("report.html"), "{error}");
    let names: Vec<_> = fs::read_dir(folder.path())?.map(|entry| entry.map(|e| e.file_name())).collect();
    assert!(names.iter().flatten().all(|name| !name.to_string_lossy().contains("partial")), "{names:?}");
    Ok(())
}

fn browsers_that_hang_are_ended() -> Outcome {
    let mut hanging = Command::new("sleep");
    let error = browser::wait(hanging.arg("60"), Duration::from_millis(100)).expect_err("it hangs");
    assert_eq!(error.message(), Some("sleep hung for 0.1 s"));
    Ok(())
}

/// Looks at the page through a browser: nothing overflows, nothing is empty, every text can be read.
fn page_is_readable(sample: &Sample, width: u32, scheme: Scheme) -> Result<Completion, Failed> {
    let browser = match Browser::find() {
        Ok(browser) => browser,
        Err(reason) => return Ok(Completion::ignored_with(reason)),
    };
    let (_folder, files) = written(&(sample.report)())?;
    let page = fs::read_to_string(&files.html)?;
    let facts = browser.measure(&page, width, scheme)?;
    let screenshot = screenshot_path(sample.name, width, scheme);
    browser.screenshot(&page, width, facts.height, scheme, &screenshot)?;
    check_layout(&facts, width);
    check_content(&facts, sample);
    check_contrast(&facts);
    check_screenshot(&screenshot)?;
    Ok(Completion::Completed)
}

fn check_layout(facts: &Facts, width: u32) {
    assert_eq!(facts.inner_width, width, "the page was laid out at another width");
    assert!(
        facts.scroll_width <= facts.client_width,
        "the page is {} px wide in a window of {}: {:?}",
        facts.scroll_width,
        facts.client_width,
        facts.overflowing
    );
    assert_eq!(facts.sections.len(), 13);
    for section in &facts.sections {
        assert!(section.height > 40.0 && section.width > 300.0, "{section:?}");
    }
}

fn check_content(facts: &Facts, sample: &Sample) {
    assert_eq!(facts.heat_cells, sample.heat_cells, "cells of the heat maps");
    assert_eq!(facts.heat_cells_visible, sample.heat_cells, "cells of the heat maps that can be seen");
    assert_eq!(facts.polylines, sample.polylines, "curves");
    assert_eq!(facts.polylines_visible, sample.polylines, "curves with an extent");
    assert!(facts.heat_colors >= sample.heat_colors, "{} colours", facts.heat_colors);
    assert!(facts.texts >= sample.texts, "{} texts", facts.texts);
    if sample.name == "large" {
        assert!(facts.scrolling_boxes > 0, "wide tables scroll inside their boxes");
    }
}

fn check_contrast(facts: &Facts) {
    // WCAG 2.2, level AA.
    assert!(facts.least_contrast >= 4.5, "{}: {}", facts.least_contrast, facts.least_contrast_text);
    assert!(facts.least_heat_contrast >= 4.5, "{}", facts.least_heat_contrast);
}

/// Something other than one colour, all the way down.
fn check_screenshot(path: &Path) -> Outcome {
    let picture = image::open(path)?.to_rgb8();
    let background = *picture.get_pixel(1, 1);
    let bands = 4;
    for band in 0..bands {
        let rows = picture.height() * band / bands..picture.height() * (band + 1) / bands;
        let total = rows.len() * picture.width() as usize;
        let ink = rows
            .flat_map(|y| (0..picture.width()).map(move |x| (x, y)))
            .filter(|(x, y)| *picture.get_pixel(*x, *y) != background)
            .count();
        assert!(ink * 500 > total, "part {band} of {} is blank: {ink} of {total}", path.display());
    }
    Ok(())
}

fn written(report: &Report) -> Result<(tempfile::TempDir, Files), Failed> {
    let folder = tempfile::tempdir()?;
    // A folder that is not there yet.
    let files = report.write(&folder.path().join("deep/report"))?;
    Ok((folder, files))
}

fn screenshot_path(name: &str, width: u32, scheme: Scheme) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("report-{name}-{width}-{}.png", scheme.name()))
}
