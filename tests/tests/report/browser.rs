//! A Chromium without a window: measures a page, and takes pictures of it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

/// As `cargo xtask setup` looks for them.
const NAMES: [&str; 6] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
];

const PATIENCE: Duration = Duration::from_secs(60);

/// Pictures are cut off below.
const TALLEST_PICTURE: u32 = 12_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Light,
    Dark,
}

impl Scheme {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }

    /// The page as a reader who prefers this scheme gets it, whatever the browser would choose.
    fn choose(self, page: &str) -> String {
        let query = "@media (prefers-color-scheme: dark)";
        assert_eq!(page.matches(query).count(), 1, "the page has no dark scheme");
        let (answer, name) = match self {
            Self::Light => ("@media not all", "color-scheme: light;"),
            Self::Dark => ("@media all", "color-scheme: dark;"),
        };
        page.replace(query, answer).replace("color-scheme: light dark;", name)
    }
}

/// What a page looks like, in CSS pixels; every folded part is open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) inner_width: u32,
    pub(crate) client_width: u32,
    pub(crate) scroll_width: u32,
    pub(crate) height: u32,
    /// Elements that stick out to the right, outside any box that scrolls.
    pub(crate) overflowing: Vec<String>,
    pub(crate) sections: Vec<Extent>,
    pub(crate) heat_cells: usize,
    pub(crate) heat_cells_visible: usize,
    /// Backgrounds that differ.
    pub(crate) heat_colors: usize,
    pub(crate) polylines: usize,
    pub(crate) polylines_visible: usize,
    /// Boxes whose content is wider than they are.
    pub(crate) scrolling_boxes: usize,
    pub(crate) texts: usize,
    pub(crate) least_contrast: f64,
    pub(crate) least_contrast_text: String,
    pub(crate) least_heat_contrast: f64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Extent {
    pub(crate) width: f64,
    pub(crate) height: f64,
}

pub(crate) struct Browser {
    program: OsString,
}

impl Browser {
    /// The browser `SMOLVLA_BROWSER` names, or the first that is installed; else why there is none.
    pub(crate) fn find() -> Result<Self, String> {
        if let Some(program) = env::var_os("SMOLVLA_BROWSER").filter(|name| !name.is_empty()) {
            return Ok(Self { program });
        }
        let program = NAMES.iter().find(|name| is_installed(name)).ok_or_else(|| {
            "no Chromium is installed: run `cargo xtask setup`, or name one in SMOLVLA_BROWSER".to_owned()
        })?;
        Ok(Self { program: program.into() })
    }

    /// Lays the page out `width` pixels wide and measures it.
    pub(crate) fn measure(&self, page: &str, width: u32, scheme: Scheme) -> Result<Facts, Failed> {
        let dom =
            self.run(&framed(&scheme.choose(page), width, 2000), width, 2000, &["--dump-dom".into()])?;
        let facts = dom
            .rsplit_once("<pre id=\"facts\">")
            .and_then(|(_, rest)| rest.split_once("</pre>"))
            .map(|(facts, _)| facts)
            .filter(|facts| !facts.is_empty())
            .ok_or("the browser measured nothing")?;
        let plain = facts.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        Ok(read(&serde_json::from_str(&plain)?))
    }

    /// Takes a picture of the page, `width` by `height` pixels.
    pub(crate) fn screenshot(
        &self,
        page: &str,
        width: u32,
        height: u32,
        scheme: Scheme,
        path: &Path,
    ) -> Result<(), Failed> {
        let height = height.min(TALLEST_PICTURE);
        let mut option = OsString::from("--screenshot=");
        option.push(path);
        self.run(&framed(&scheme.choose(page), width, height), width, height, &[option])?;
        // Browsers have a least width: cut off what is beside the frame.
        let picture = image::open(path)?;
        let (wide, tall) = (picture.width().min(width), picture.height().min(height));
        picture.crop_imm(0, 0, wide, tall).save(path)?;
        Ok(())
    }

    fn run(&self, page: &str, width: u32, height: u32, options: &[OsString]) -> Result<String, Failed> {
        let folder = tempfile::tempdir()?;
        let input = folder.path().join("page.html");
        let output = folder.path().join("output");
        fs::write(&input, page)?;
        let mut profile = OsString::from("--user-data-dir=");
        profile.push(folder.path().join("profile"));
        let mut command = Command::new(&self.program);
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--hide-scrollbars", "--force-device-scale-factor=1"])
            .arg(profile)
            // The window's frame is part of its height.
            .arg(format!("--window-size={},{}", width.max(500), height + 200))
            .args(options)
            .arg(&input)
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(Stdio::null());
        wait(&mut command, PATIENCE)?;
        Ok(String::from_utf8_lossy(&fs::read(&output)?).into_owned())
    }
}

/// Waits for the browser, or ends it when it takes too long.
pub(crate) fn wait(command: &mut Command, patience: Duration) -> Result<(), Failed> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
    let started = Instant::now();
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{name} ended with {status}").into()),
            None if started.elapsed() < patience => thread::sleep(Duration::from_millis(20)),
            None => {
                end(&mut child)?;
                return Err(format!("{name} hung for {} s", patience.as_secs_f64()).into());
            }
        }
    }
}

fn end(child: &mut std::process::Child) -> io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

fn is_installed(name: &str) -> bool {
    if Path::new(name).is_absolute() {
        return Path::new(name).is_file();
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    let file = |folder: PathBuf| folder.join(name).with_extension(env::consts::EXE_EXTENSION);
    env::split_paths(OsStr::new(&folders)).any(|folder| file(folder).is_file())
}

/// The page in a frame of the width asked for, since windows have a least one, and the script that measures it.
fn framed(page: &str, width: u32, height: u32) -> String {
    let escaped = page.replace('&', "&amp;").replace('"', "&quot;");
    format!(
        "<!doctype html><meta charset=\"utf-8\"><style>body{{margin:0}}iframe{{display:block;border:0}}pre{{display:none}}</style>\
         <iframe id=\"page\" width=\"{width}\" height=\"{height}\" srcdoc=\"{escaped}\"></iframe>\
         <pre id=\"facts\"></pre><script>{MEASURE}</script>"
    )
}

const MEASURE: &str = include_str!("measure.js");

fn read(json: &serde_json::Value) -> Facts {
    let integer = |name: &str| json[name].as_u64().unwrap_or_default();
    let float = |name: &str| json[name].as_f64().unwrap_or_default();
    let list = |name: &str| json[name].as_array().cloned().unwrap_or_default();
    let extent = |section: &serde_json::Value| Extent {
        width: section["width"].as_f64().unwrap_or_default(),
        height: section["height"].as_f64().unwrap_or_default(),
    };
    Facts {
        inner_width: integer("innerWidth") as u32,
        client_width: integer("clientWidth") as u32,
        scroll_width: integer("scrollWidth") as u32,
        height: integer("height") as u32,
        overflowing: list("overflowing").iter().map(ToString::to_string).collect(),
        sections: list("sections").iter().map(extent).collect(),
        heat_cells: integer("heatCells") as usize,
        heat_cells_visible: integer("heatCellsVisible") as usize,
        heat_colors: integer("heatColors") as usize,
        polylines: integer("polylines") as usize,
        polylines_visible: integer("polylinesVisible") as usize,
        scrolling_boxes: integer("scrollingBoxes") as usize,
        texts: integer("texts") as usize,
        least_contrast: float("leastContrast"),
        least_contrast_text: json["leastContrastText"].to_string(),
        least_heat_contrast: float("leastHeatContrast"),
    }
}
