//! What is behind an error of the SDK: whether anything was sent, and the words of the whole chain.

use aws_credential_types::provider::error::CredentialsError;
use std::error::Error;

/// The words of an error and of all that caused it.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        words = format!("{words}: {one}");
        cause = one.source();
    }
    words
}

/// Whether no credentials were found.
#[must_use]
pub fn is_without_credentials(error: &dyn Error) -> bool {
    any(error, |cause| cause.is::<CredentialsError>())
}

/// Whether the connection was refused, so that nothing can have been written.
#[must_use]
pub fn was_never_sent(error: &dyn Error) -> bool {
    any(error, |cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused)
    })
}

fn any(error: &dyn Error, holds: impl Fn(&(dyn Error + 'static)) -> bool) -> bool {
    let mut cause = error.source();
    while let Some(one) = cause {
        if holds(one) {
            return true;
        }
        cause = one.source();
    }
    false
}
