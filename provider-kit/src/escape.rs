//! Names as parts of keys and paths: injective, reversible, and the same on every file system and in every engine.

use std::fmt::Write as _;

/// Escapes a name: `a-z`, `0-9`, `_` and `-` stay, every other byte of its UTF-8 becomes `=` and two hexadecimal digits.
///
/// The result is ASCII without capitals, so that no engine folds case or Unicode forms of two names into one; it has no
/// separator, dot, brace, wildcard or percent sign. It is up to three times as long, and empty only for an empty name.
#[must_use]
pub fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => escaped.push(char::from(byte)),
            _ => write!(escaped, "={byte:02x}").expect("writing to a string does not fail"),
        }
    }
    escaped
}

/// Reads what [`escape`] wrote; none for anything else.
#[must_use]
pub fn unescape(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'=' {
            let (digits, tail) = tail.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    // One name has one escaped form: `=61` must not be taken for `a`.
    (escape(&name) == escaped).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn hostile_names_stay_apart_and_read_back() {
        let long = "ü".repeat(256);
        let names = [
            "", ".", "..", "../", "../a", "a", "A", "a ", "%2e", "%2E", ".", "=2e", "{}", "{a}", "a/b", "a\\b", "a:b",
            "a*", "a?", "a'b", "a\"b", "$", "\u{e9}", "e\u{301}", "order-42", "order_42", &long,
        ];
        let distinct: HashSet<&str> = names.into_iter().collect();
        let escaped: HashSet<String> = distinct.iter().map(|name| escape(name)).collect();
        assert_eq!(escaped.len(), distinct.len());
        for name in distinct {
            let escaped = escape(name);
            assert!(escaped.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'=')));
            assert_eq!(unescape(&escaped).as_deref(), Some(name));
        }
    }

    #[test]
    fn what_escape_never_writes_is_not_read() {
        for bad in ["A", "=", "=2", "=61", "=2E", "=+1", "=ff", "a.b"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }
}
