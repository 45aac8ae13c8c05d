//! A TOML file as dotted keys with their lines: all that the config needs of it.

use evstore_api::{Error, ErrorKind, Result};
use std::ops::Range;
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// A key and what stands behind it.
#[derive(Debug)]
pub struct Entry {
    /// The parts of its name: `["stores", "main", "url"]`.
    pub key: Vec<String>,
    /// What stands there.
    pub value: Value,
    /// Its line, from 1.
    pub line: usize,
}

/// What a config file can say.
pub enum Value {
    /// A text, number or switch, as text.
    Text(String),
    /// `{ file = "…" }`.
    File(String),
    /// A list of texts.
    List(Vec<String>),
    /// A table without entries.
    Empty,
}

/// What it is stays unsaid: it may be a secret.
impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text",
            Self::File(_) => "File",
            Self::List(_) => "List",
            Self::Empty => "Empty",
        })
    }
}

/// Reads a document into its entries, in no particular order.
///
/// # Errors
/// `Invalid`, with file and line, for what is not TOML or has a kind of value that no key takes.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Entry>> {
    let document = Document { text, path };
    // The parser's own error shows the line's text, which may hold a secret: only its sentence and its place are kept.
    let table = DeTable::parse(text).map_err(|error| {
        let refused = Error::new(ErrorKind::Invalid, "the config file is not valid TOML");
        document.at(refused, error.span().unwrap_or(0..0)).with("reason", error.message())
    })?;
    let mut entries = Vec::new();
    document.flatten(&mut Vec::new(), table.get_ref(), &mut entries)?;
    Ok(entries)
}

struct Document<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Document<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        self.text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count() + 1
    }

    fn at(&self, error: Error, span: Range<usize>) -> Error {
        error.with("file", format_args!("{}:{}", self.path.display(), self.line(&span)))
    }

    fn flatten(&self, key: &mut Vec<String>, table: &DeTable<'_>, entries: &mut Vec<Entry>) -> Result<()> {
        for (name, value) in table {
            key.push(name.get_ref().to_string());
            match value.get_ref() {
                DeValue::Table(table) if is_nested(table, key.len()) => {
                    self.flatten(key, table, entries)?;
                }
                other => {
                    let value = value_of(other)
                        .ok_or_else(|| Error::new(ErrorKind::Invalid, "a value is a text, a number or a switch"))
                        .map_err(|error| self.at(error.with("key", key.join(".")), name.span()))?;
                    entries.push(Entry { key: key.clone(), value, line: self.line(&name.span()) });
                }
            }
            key.pop();
        }
        Ok(())
    }
}

fn value_of(value: &DeValue<'_>) -> Option<Value> {
    match value {
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| text_of(item.get_ref()));
            texts.collect::<Option<_>>().map(Value::List)
        }
        DeValue::Table(table) if table.is_empty() => Some(Value::Empty),
        DeValue::Table(table) => file_of(table).map(Value::File),
        scalar => text_of(scalar).map(Value::Text),
    }
}

fn text_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Boolean(switch) => Some(switch.to_string()),
        DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// Whether a table holds keys. `[stores.file]` is a store; one level further in, a lone `file` is a value kept in a file.
fn is_nested(table: &DeTable<'_>, depth: usize) -> bool {
    let is_value = depth >= 3 && file_of(table).is_some();
    !table.is_empty() && !is_value
}

/// The path of `{ file = "…" }`.
fn file_of(table: &DeTable<'_>) -> Option<String> {
    let mut entries = table.iter();
    match (entries.next(), entries.next()) {
        (Some((name, value)), None) if name.get_ref() == "file" => text_of(value.get_ref()),
        _ => None,
    }
}
