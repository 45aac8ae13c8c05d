//! What an application sees of the library, from outside: one program, which is built and linked once.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its stage has failed")]

mod application_page;
mod config;
mod conveniences;
mod layers;
mod moves;
mod projection_at_least_once;
mod projection_exactly_once;
mod repository_mutants;
mod stores;
mod subscription_feed;
mod typed_events;
mod typed_repository;
mod typed_snapshots;
