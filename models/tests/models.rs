//! Every rule of the protocol holds in every order of events, and every mistake that was sown is found.

use evstore_models::{
    Row, Scopes, feed_join, histories, log_chain, log_sequencer, store_fence, store_seal, stream_seal,
};

#[expect(clippy::print_stdout, reason = "the rows say how far each model was searched")]
fn as_expected(rows: Vec<Row>) {
    rows.iter().for_each(|row| println!("{row}"));
    let wrong: Vec<_> = rows.iter().filter(|row| row.found != row.expect).map(|row| (&row.name, &row.trace)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn one_fence_for_the_whole_store() {
    as_expected(store_fence::run(Scopes::Quick));
}

#[test]
fn one_record_and_a_seal_for_each_stream() {
    as_expected(store_seal::run(Scopes::Quick));
}

#[test]
fn a_seal_for_each_stream() {
    as_expected(stream_seal::run(Scopes::Quick));
}

#[test]
fn the_feed_of_a_target_with_a_base() {
    as_expected(feed_join::run(Scopes::Quick));
}

#[test]
fn servers_that_restart_or_lose_their_end() {
    as_expected(histories::run(Scopes::Quick));
}

#[test]
fn a_log_whose_end_is_counter_and_fence() {
    as_expected(log_chain::run(Scopes::Quick));
}

#[test]
fn a_log_that_is_written_behind_the_appends() {
    as_expected(log_sequencer::run(Scopes::Quick));
}
