//! Figures as people read them: three digits that count, a unit that fits.

/// A rate: `512`, `36,835`, `1.2M`.
#[must_use]
pub fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 10_000_000.0 => format!("{:.0}M", rate / 1e6),
        rate if rate >= 1_000_000.0 => format!("{:.1}M", rate / 1e6),
        rate if rate >= 100.0 => grouped(rate.round() as u64),
        rate if rate >= 10.0 => format!("{rate:.0}"),
        rate => format!("{rate:.1}"),
    }
}

/// A time: `8.2 µs`, `1.25 ms`, `3.0 s`.
#[must_use]
pub fn time(micros: f64) -> String {
    let (value, unit) = match micros {
        micros if micros >= 1_000_000.0 => (micros / 1e6, "s"),
        micros if micros >= 1_000.0 => (micros / 1e3, "ms"),
        micros => (micros, "µs"),
    };
    match value {
        value if value >= 100.0 => format!("{value:.0} {unit}"),
        value if value >= 10.0 => format!("{value:.1} {unit}"),
        value => format!("{value:.2} {unit}"),
    }
}

/// A share: `99.8 %`. What is not whole is never shown as whole.
#[must_use]
pub fn share(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        percent if percent >= 100.0 => "100 %".into(),
        percent if percent > 99.99 => "99.99 %".into(),
        percent if percent >= 99.0 => format!("{percent:.2} %"),
        percent if percent >= 10.0 => format!("{percent:.1} %"),
        percent => format!("{percent:.2} %"),
    }
}

/// Money: cents count until there are hundreds.
#[must_use]
pub fn dollars(usd: f64) -> String {
    match usd {
        usd if usd >= 100.0 => format!("${}", grouped(usd.round() as u64)),
        usd if usd >= 0.1 || usd == 0.0 => format!("${usd:.2}"),
        usd => format!("${usd:.4}"),
    }
}

/// A whole number, in groups of three.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of bytes: `400 KiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 1 << 20 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        bytes if bytes >= 1 << 10 => format!("{:.1} KiB", bytes as f64 / f64::from(1 << 10)),
        bytes => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_do_not_round_a_failure_away() {
        assert_eq!((rate(36_835.4), rate(0.25), rate(1_234_567.0)), ("36,835".into(), "0.2".into(), "1.2M".into()));
        assert_eq!(
            (time(8.2), time(1_250.0), time(3_000_000.0)),
            ("8.20 µs".into(), "1.25 ms".into(), "3.00 s".into())
        );
        assert_eq!((share(1.0), share(0.999_999), share(0.5)), ("100 %".into(), "99.99 %".into(), "50.0 %".into()));
        assert_eq!(
            (grouped(999), grouped(1_000), grouped(1_234_567)),
            ("999".into(), "1,000".into(), "1,234,567".into())
        );
    }
}
