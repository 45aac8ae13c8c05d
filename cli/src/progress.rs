//! Progress of long work, on stderr and only for a person who looks.

use crate::output::{Format, Output};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

/// A bar, a spinner, or nothing.
#[derive(Clone, Debug)]
pub struct Progress(ProgressBar, Notes);

/// Whether somebody reads what is told beside the bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notes {
    Shown,
    Hidden,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of a file.
    Bytes,
    /// Events, streams, checks.
    Items(&'static str),
}

impl Progress {
    /// A bar up to `total`, or a spinner where nobody knows how much there is. Hidden from pipes, programs and `-q`.
    #[must_use]
    pub fn new(output: &Output, doing: &'static str, unit: Unit, total: Option<u64>) -> Self {
        if output.is_quiet() || output.format() != Format::Table {
            return Self(ProgressBar::hidden(), Notes::Hidden);
        }
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden(), Notes::Shown);
        }
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        if let Ok(style) = ProgressStyle::with_template(&template(unit, total.is_some())) {
            bar.set_style(style);
        }
        bar.set_prefix(doing);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar, Notes::Shown)
    }

    /// Tells something that is not progress, in a line of its own.
    pub fn note(&self, text: &str) {
        if self.1 == Notes::Shown {
            self.0.suspend(|| {
                // Nothing is to be done about a stderr that can't be written.
                let _ = writeln!(std::io::stderr(), "{text}");
            });
        }
    }

    /// Something else is being done from now on.
    pub fn doing(&self, doing: &'static str) {
        self.0.set_prefix(doing);
    }

    /// There is so much of it by now.
    pub fn of(&self, total: u64) {
        self.0.set_length(total);
    }

    /// So much is done in all.
    pub fn at(&self, done: u64) {
        self.0.set_position(done);
    }

    /// What is being worked on.
    pub fn on(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn template(unit: Unit, bounded: bool) -> String {
    match (unit, bounded) {
        (Unit::Bytes, true) => "{prefix} {wide_bar} {bytes}/{total_bytes} {msg} {eta}".into(),
        (Unit::Bytes, false) => "{prefix} {spinner} {bytes} {msg}".into(),
        (Unit::Items(name), true) => format!("{{prefix}} {{wide_bar}} {{pos}}/{{len}} {name} {{msg}} {{eta}}"),
        (Unit::Items(name), false) => format!("{{prefix}} {{spinner}} {{pos}} {name} {{per_sec}} {{msg}}"),
    }
}
