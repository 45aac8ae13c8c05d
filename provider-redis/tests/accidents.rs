//! What happens to a server while it is used.
