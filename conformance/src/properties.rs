//! The properties that the catalog has to cover, and which of them it does.
