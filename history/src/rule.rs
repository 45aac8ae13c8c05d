//! The rules that a history is held to, with their names and what each of them says. The names are never changed.

use serde::Serialize;

macro_rules! rules {
    ($($variant:ident $name:literal $promise:literal;)*) => {
        /// A rule that a history is held to.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum Rule {
            $(#[doc = $promise] #[serde(rename = $name)] $variant,)*
        }

        impl Rule {
            /// Every rule, in the order of the checks.
            pub const ALL: &[Rule] = &[$(Rule::$variant,)*];

            /// The rule's name, as reports show it.
            pub fn name(self) -> &'static str {
                match self { $(Rule::$variant => $name,)* }
            }

            /// What the rule says, in one sentence.
            pub fn promise(self) -> &'static str {
                match self { $(Rule::$variant => $promise,)* }
            }
        }
    };
}

rules! {
    Record "record" "The history itself makes sense; otherwise the recorder is broken, not the store.";
    LogShape "S0.shape" "Revisions and commit numbers of a stream count up from 1 without a hole.";
    DuplicateId "S0.duplicate" "No commit and no event is in a stream twice.";
    Phantom "S0.phantom" "Every commit in a stream was asked for.";
    RemovedUnasked "S0.removed" "Nothing is truncated, deleted or moved that nobody asked for.";
    Corrupt "S0.corrupt" "A commit is stored with the events that were given.";
    TornCommit "S0.torn" "A commit's events are stored together, in order, all or none.";
    LostAck "S1.lost" "An acknowledged commit stays in its stream.";
    WrongRevision "S1.revision" "A receipt has the revisions and the number under which the commit is stored.";
    RefusedButPresent "S1.refused" "A commit whose attempts were all refused is not in the stream.";
    Idempotence "S1.repeat" "A repeated commit is written once, and answered with the first receipt.";
    Expectation "S2.expected" "A commit is only written where its expectation holds.";
    SpuriousConflict "S2.spurious" "A conflict names a head at which the expectation does not hold.";
    ReadFromFuture "S3.future" "No answer shows an append that was not yet invoked, or that never happened.";
    TornRead "S3.torn" "No answer shows a part of a commit.";
    WrongRead "S3.content" "A read returns the events that the stream holds.";
    StaleRead "S4.stale" "A strong answer shows every append that returned before it was asked for.";
    RealtimeOrder "S4.order" "A commit that returned before another was invoked stands before it.";
    EventualFuture "E1.future" "An eventual read shows a beginning of the stream, with no append that was not yet invoked.";
    MonotonicReads "E2.reads" "A client's later read shows no less than its earlier one.";
    ReadYourWrites "E3.own" "A client's read shows what this client appended before.";
    MonotonicWrites "E4.writes" "A client's appends stand in the order in which it made them.";
    WritesFollowReads "E5.follow" "A client's append stands after what this client read before.";
    FeedForward "F1" "Positions strictly increase in a run, which starts no later than right after its checkpoint.";
    FeedAgreement "F2" "A position holds the same event for every subscriber and every replay, and an event has one position.";
    FeedStreamOrder "F3" "The events of a stream come in the order of their revisions, without a hole.";
    FeedComplete "F4" "Every event of every stream is delivered, and nothing else is.";
    FeedContiguous "F5" "Every position is accounted for: an event, a marker or removed.";
    FeedLateArrival "F6" "Nothing becomes readable before a position that was delivered.";
    FeedWholeCommits "F7" "The events of a commit stand next to each other in the feed.";
    FeedRealtime "F8" "A commit that returned before another was invoked stands before it in the feed.";
    FeedLag "F9" "An event is delivered within the promised time.";
    SnapshotState "P1.state" "A snapshot at a revision holds the fold of the events up to it.";
    SnapshotAhead "P2.ahead" "No snapshot is ahead of its stream.";
    SnapshotRegressed "P3.regressed" "After an acknowledged save no load shows an older snapshot.";
    SnapshotOverwritten "P4.overwritten" "An older save never overwrites a newer one.";
}

impl std::fmt::Display for Rule {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}
