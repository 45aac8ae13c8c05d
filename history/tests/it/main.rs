//! The checker of histories, from outside: one program, which is built and linked once.

mod clean;
mod exhaustive;
mod rules;
