//! Everything that is printed. Results go to stdout in the format asked for and nothing else does; notes, questions and
//! failures go to stderr. Tables and colours are for terminals only.

use crate::failure::{Failure, Result};
use clap::ValueEnum;
use comfy_table::{Attribute, Cell as TableCell, Color, ContentArrangement, Table, presets};
use serde_json::{Map, Value};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// The form of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One JSON object a line, one line an item.
    Jsonl,
}

/// How a cell is meant; shown as colour where there is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Ordinary.
    Plain,
    /// As it should be.
    Good,
    /// Look here.
    Warning,
    /// Wrong.
    Bad,
    /// Less important.
    Faint,
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a tone.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Rows that are collected before a table is drawn; a longer list is drawn in parts, so that memory stays bounded.
const TABLE_ROWS_MAX: usize = 200;

/// Terminals that are narrower, or say so, wrap lines by themselves better than a table does.
const TABLE_WIDTH_MIN: u16 = 40;

/// Where results go.
pub struct Output {
    format: Format,
    quiet: bool,
    stdout: Box<dyn Write + Send>,
    terminal: bool,
    colour: bool,
}

impl Output {
    /// The process's own stdout and stderr.
    #[must_use]
    pub fn new(format: Format, quiet: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        // https://no-color.org: set and not empty.
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        // Page-sized writes; a line-buffered stdout costs a system call for each event.
        let stdout = Box::new(io::BufWriter::with_capacity(64 * 1024, io::stdout()));
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { format, quiet, stdout, terminal, colour: terminal && !refused && !dumb }
    }

    /// The format asked for.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether notes and progress are unwanted.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Prints one result: an object for programs, its facts line by line for people.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub fn facts(&mut self, json: &impl Display, facts: &[(&str, Cell)]) -> Result {
        match self.format {
            Format::Json | Format::Jsonl => self.line(&json.to_string())?,
            Format::Table => {
                let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
                for (name, cell) in facts {
                    let name = self.paint(&format!("{name:width$}"), Tone::Faint);
                    let text = self.paint(&cell.text, cell.tone);
                    self.line(&format!("{name}  {text}"))?;
                }
            }
        }
        self.flush()
    }

    /// Prints one result whose text for people is already made.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub fn text(&mut self, json: &impl Display, text: &str) -> Result {
        match self.format {
            Format::Json | Format::Jsonl => self.line(&json.to_string())?,
            Format::Table => self.line(text.trim_end_matches('\n'))?,
        }
        self.flush()
    }

    /// Begins a list: `name` is its key in a JSON document, `facts` stand before it there. Nothing is printed before the
    /// first item or the end, so that a failure before them leaves no half document.
    pub fn list(&mut self, name: &str, facts: Map<String, Value>, columns: &[&'static str]) -> List<'_> {
        let mut head = String::new();
        if self.format == Format::Json {
            head = Value::Object(facts).to_string();
            head.pop();
            let comma = if head.len() > 1 { "," } else { "" };
            head.push_str(&format!("{comma}{}:[", Value::from(name)));
        }
        List { output: self, columns: columns.to_vec(), head, rows: Vec::new(), items: 0 }
    }

    /// Prints bytes as they are, for what has a form of its own: an export.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result {
        self.stdout.write_all(bytes).map_err(stdout_failed)
    }

    /// Sends what is collected.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub fn flush(&mut self) -> Result {
        self.stdout.flush().map_err(stdout_failed)
    }

    /// Tells a person something that is no result; programs and quiet people do not hear it.
    pub fn note(&self, text: &str) {
        if self.format == Format::Table && !self.quiet {
            // Nothing is to be done about a stderr that can't be written.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// A text in the colour of its tone, where there are colours.
    #[must_use]
    pub fn paint(&self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Plain => "",
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "1;31",
            Tone::Faint => "2",
        };
        if self.colour && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Prints a line for people.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub fn line(&mut self, text: &str) -> Result {
        self.raw(text)?;
        self.raw("\n")
    }

    fn raw(&mut self, text: &str) -> Result {
        self.bytes(text.as_bytes())
    }

    fn table(&mut self, columns: &[&'static str], rows: &[Vec<Cell>]) -> Result {
        let mut table = Table::new();
        if self.terminal {
            // A terminal that does not know its width (serial lines, some containers) says 0.
            let fits = table.width().is_some_and(|width| width >= TABLE_WIDTH_MIN);
            let arrangement = if fits { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
            table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(arrangement);
        } else {
            table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
        }
        if !self.colour {
            table.force_no_tty();
        }
        let header = columns.iter().map(|name| TableCell::new(name).add_attribute(Attribute::Bold));
        table.set_header(header);
        for row in rows {
            table.add_row(row.iter().map(styled));
        }
        let text = if self.terminal { table.to_string() } else { plain_rows(&table.to_string()) };
        self.line(&text)
    }
}

/// Without borders a table still pads its first column on the left and its last on the right.
fn plain_rows(text: &str) -> String {
    let rows = text.lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end());
    rows.collect::<Vec<_>>().join("\n")
}

fn styled(cell: &Cell) -> TableCell {
    let table_cell = TableCell::new(&cell.text);
    match cell.tone {
        Tone::Plain => table_cell,
        Tone::Good => table_cell.fg(Color::Green),
        Tone::Warning => table_cell.fg(Color::Yellow),
        Tone::Bad => table_cell.fg(Color::Red).add_attribute(Attribute::Bold),
        Tone::Faint => table_cell.add_attribute(Attribute::Dim),
    }
}

fn stdout_failed(cause: io::Error) -> Failure {
    Failure::io("stdout can't be written", cause)
}

/// Prints a failure: a sentence for people, one JSON object for programs.
pub fn failure(format: Format, failure: &Failure) {
    let text = match format {
        Format::Table => failure.text().map(|text| format!("error: {text}")),
        Format::Json | Format::Jsonl => failure.json().map(|json| json.to_string()),
    };
    if let Some(text) = text {
        // Nothing is to be done about a stderr that can't be written.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// A list that is being printed.
pub struct List<'a> {
    output: &'a mut Output,
    columns: Vec<&'static str>,
    /// What a document begins with, until it is printed.
    head: String,
    rows: Vec<Vec<Cell>>,
    items: u64,
}

impl List<'_> {
    /// Adds an item: its JSON for programs, its cells for people.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub fn item(&mut self, json: &str, cells: impl FnOnce() -> Vec<Cell>) -> Result {
        self.items += 1;
        match self.output.format {
            Format::Jsonl => self.output.line(json),
            Format::Json => {
                let before = if self.items > 1 { ",".to_owned() } else { std::mem::take(&mut self.head) };
                self.output.raw(&before)?;
                self.output.raw("\n")?;
                self.output.raw(json)
            }
            Format::Table => {
                self.rows.push(cells());
                if self.rows.len() >= TABLE_ROWS_MAX { self.draw() } else { Ok(()) }
            }
        }
    }

    /// Shows what is collected, for a list that goes on later.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub fn show(&mut self) -> Result {
        self.draw()?;
        self.output.flush()
    }

    /// Ends the list; `facts` stand after it in a JSON document. An empty one says `none` to people.
    ///
    /// # Errors
    /// When stdout can't be written.
    pub fn end(mut self, facts: Map<String, Value>, none: &str) -> Result {
        self.draw()?;
        match self.output.format {
            Format::Json => {
                let tail = Value::Object(facts).to_string();
                let comma = if tail.len() > 2 { "," } else { "" };
                let newline = if self.items > 0 { "\n" } else { "" };
                let head = &self.head;
                self.output.line(&format!("{head}{newline}]{comma}{}", &tail[1..]))?;
            }
            Format::Table if self.items == 0 && !none.is_empty() => self.output.note(none),
            Format::Table | Format::Jsonl => {}
        }
        self.output.flush()
    }

    fn draw(&mut self) -> Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        self.output.table(&self.columns, &rows)
    }
}
