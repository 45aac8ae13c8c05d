//! The commented config file that `evstore init` writes, made from the keys that are declared.

use super::{EMBEDDED_PATH, EMBEDDED_STORE, MIGRATE_KEYS};
use crate::layers::LAYER_KEYS;
use evstore_api::{ConfigKey, KeyDefault, KeyKind, Provider, Secrecy};
use std::fmt::Write as _;

/// Longest line of a comment.
const WIDTH: usize = 100;

/// A config with one store of this provider. What has a default is there as a comment.
pub(crate) fn template(provider: &Provider) -> String {
    let mut text = String::new();
    comment(&mut text, "Stores of evstore. A flag is stronger than the environment, that is stronger than this file.");
    comment(&mut text, "A key's variable is EVSTORE_STORES__MAIN__ and its name in capitals.");
    comment(&mut text, "Secrets stay outside: \"${VAR}\" is a variable, { file = \"path\" } the content of a file.");
    let _ = writeln!(text, "\ndefault_store = \"{EMBEDDED_STORE}\"\n\n[stores.{EMBEDDED_STORE}]");
    comment(&mut text, provider.sentence);
    let _ = writeln!(text, "provider = \"{}\"", provider.name);
    for key in provider.keys {
        write_key(&mut text, key);
    }
    text.push('\n');
    comment(&mut text, "The same for every provider: how long to wait, and how often to try.");
    for key in LAYER_KEYS {
        write_key(&mut text, key);
    }
    text.push_str("\n[migrate]\n");
    for key in MIGRATE_KEYS {
        comment(&mut text, key.sentence);
        let example = if key.kind == KeyKind::Text { " []" } else { "" };
        let _ = writeln!(text, "# {} ={example}", key.name);
    }
    text
}

fn write_key(text: &mut String, key: &ConfigKey) {
    text.push('\n');
    comment(text, &format!("{}{}", key.sentence, kind_note(key.kind)));
    let _ = match (key.default, key.secrecy) {
        (KeyDefault::Required, Secrecy::Plain) => writeln!(text, "{} = {}", key.name, example(key.kind)),
        (KeyDefault::Required, Secrecy::Secret) => writeln!(text, "{} = \"{}\"", key.name, variable(key)),
        (KeyDefault::Absent, Secrecy::Secret) => writeln!(text, "# {} = \"{}\"", key.name, variable(key)),
        (KeyDefault::Absent, Secrecy::Plain) => writeln!(text, "# {} =", key.name),
        (KeyDefault::Value(value), _) => writeln!(text, "# {} = {}", key.name, written(key.kind, value)),
    };
}

fn variable(key: &ConfigKey) -> String {
    format!("${{{}}}", key.name.to_ascii_uppercase())
}

fn kind_note(kind: KeyKind) -> String {
    match kind {
        KeyKind::OneOf(words) => format!(" One of: {}.", words.join(", ")),
        KeyKind::Bytes => " In bytes, KiB or MiB.".into(),
        KeyKind::Duration => " In ms, s, m, h or d.".into(),
        KeyKind::Path => " Relative to this file.".into(),
        KeyKind::Text | KeyKind::Count | KeyKind::Switch => String::new(),
    }
}

/// A value that can stand where one is required, until it is changed.
fn example(kind: KeyKind) -> String {
    match kind {
        KeyKind::Path => written(kind, EMBEDDED_PATH),
        KeyKind::Text => written(kind, "change-me"),
        KeyKind::OneOf(words) => written(kind, words.first().copied().unwrap_or_default()),
        KeyKind::Count => "1".into(),
        KeyKind::Bytes => written(kind, "1MiB"),
        KeyKind::Duration => written(kind, "1s"),
        KeyKind::Switch => "true".into(),
    }
}

fn written(kind: KeyKind, value: &str) -> String {
    match kind {
        KeyKind::Count | KeyKind::Switch => value.into(),
        KeyKind::Text | KeyKind::Path | KeyKind::OneOf(_) | KeyKind::Bytes | KeyKind::Duration => {
            toml::Value::from(value).to_string()
        }
    }
}

/// Writes a sentence as lines of a comment.
fn comment(text: &mut String, sentence: &str) {
    let mut line = String::from("#");
    for word in sentence.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = String::from("#");
        }
        let _ = write!(line, " {word}");
    }
    let _ = writeln!(text, "{line}");
}
