//! The report of `evstore compare`, opened in a real browser: nothing on its console, nothing wider than the screen, every text large and
//! dark enough to be read, on a desk and on a telephone, by day and by night.

use crate::engines::chromium::{Chromium, Scheme};
use crate::run::{evstore, output, run, target};
use crate::setup::{Setup, Shown};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::Command;

/// Smallest text, in pixels of the screen.
const TEXT_PIXELS_MIN: f64 = 10.0;
/// Least contrast of text, as the accessibility guidelines ask for (WCAG 2, level AA).
const CONTRAST_MIN: f64 = 4.5;

/// Looks at the report from within: in frames of two widths.
const LOOK: &str = include_str!("look.html");

/// Height of the pictures that are kept: the answers, the guarantees and the first plots.
const PICTURE_HEIGHT: u32 = 4_000;

/// Measures, opens the report, looks at it, and keeps pictures of it below the target folder, for people to look at.
///
/// # Errors
/// When something about the page is wrong, naming it.
pub fn check() -> Result<()> {
    let evstore = evstore()?;
    let shown = Shown::start(&[("embedded", Setup::Sqlite), ("in-memory", Setup::Memory)])?;
    // The standard workloads, for a moment each: it is the page that is looked at.
    let standard = output(Command::new(&evstore).args(["compare", "--print-workload"]))?;
    let brief = |line| match str::split_once(line, " = ") {
        Some(("measure", _)) => "measure = \"80ms\"\n",
        Some(("warm_up", _)) => "warm_up = \"20ms\"\n",
        _ => line,
    };
    let short: String = standard.split_inclusive('\n').map(brief).collect();
    ensure!(short != standard, "the standard workloads say otherwise how long each is measured");
    std::fs::write(shown.folder().join("short.toml"), short)?;
    let workloads = ["--workload", "short.toml", "--only", "append-1", "--only", "contended", "--only", "visibility"];
    let compare = |out: &str, more: &[&str]| {
        let mut command = Command::new(&evstore);
        shown.tell(&mut command);
        command.current_dir(shown.folder()).args(["compare", "--rounds", "1", "--quiet", "--out", out]);
        run("a short comparison", command.args(workloads).args(more))
    };
    compare("before", &[])?;
    compare("now", &["--against", "before/report.json", "--conformance", "idempotency."])?;
    let folder = shown.folder().join("now");
    std::fs::write(folder.join("look.html"), LOOK)?;
    // The browser does not run as root, and the folder is ours.
    run("let the browser read the report", Command::new("chmod").args(["-R", "a+rX"]).arg(shown.folder()))?;
    let browser = Chromium::fetched()?;
    browser.open(&folder.join("report.html"), Scheme::Light, &[])?;
    let pictures = target().join("report");
    std::fs::create_dir_all(&pictures)?;
    for scheme in [Scheme::Light, Scheme::Dark] {
        for width in [1280, 390] {
            let picture = browser.picture(&folder.join("report.html"), scheme, (width, PICTURE_HEIGHT))?;
            std::fs::write(pictures.join(format!("{width}-{scheme:?}.png").to_lowercase()), picture)?;
        }
        let seen = browser.open(&folder.join("look.html"), scheme, &["--window-size=1300,1000"])?;
        let seen = seen.split_once("<pre id=\"seen\">").and_then(|(_, rest)| rest.split_once("</pre>"));
        let seen: Value = serde_json::from_str(seen.context("the page was not looked at")?.0)?;
        for view in seen.as_array().context("a list of views")? {
            look(view, scheme).with_context(|| format!("{scheme:?}: {view}"))?;
        }
    }
    Ok(())
}

fn look(view: &Value, scheme: Scheme) -> Result<()> {
    let figure = |name: &str| view[name].as_f64().with_context(|| format!("{name} is a number"));
    let width = figure("width")?;
    ensure!(figure("texts")? > 100.0, "there is little on the page");
    ensure!(figure("drawings")? >= 4.0, "plots are missing");
    ensure!(figure("scroll_width")? <= width, "the page is wider than the screen");
    ensure!(figure("smallest")? >= TEXT_PIXELS_MIN, "a text is too small: {}", view["smallest_text"]);
    ensure!(figure("contrast")? >= CONTRAST_MIN, "a text is too faint: {}", view["faintest_text"]);
    ensure!((view["dark"] == true) == (scheme == Scheme::Dark), "the page does not follow the scheme");
    println!(
        "   {scheme:?}, {width} pixels: smallest text {:.1} pixels, least contrast {:.1}",
        figure("smallest")?,
        figure("contrast")?
    );
    Ok(())
}
