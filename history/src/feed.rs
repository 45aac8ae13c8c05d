//! Rules F1 to F9: the feed, as every subscriber saw it over its restarts, against the final logs and a final replay.
//! What the store claims beyond the minimum is a [`FeedClaims`].

use std::collections::{BTreeMap, HashMap, HashSet};

use super::log::{Kept, Log, Logs, Shape};
use super::record::{
    Append, AppendOutcome, Call, CommitId, Delivery, Digest, FeedEntry, FeedItem, FinalFeed, Moment, PrefixPoll,
    Returned, RunEnd, SubscriptionRun, feed_chain,
};
use super::rule::Rule;
use super::spread::Spread;
use super::violation::{Violation, Violations};

/// What a store claims of its feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedClaims {
    /// How entries are ordered.
    pub order: FeedOrder,
    /// What positions are.
    pub positions: FeedPositions,
    /// Whether commits may be mixed.
    pub commits: FeedCommits,
    /// Whether the order is that of real time.
    pub real_time: FeedRealtime,
    /// How late an event may be.
    pub lag: FeedLag,
}

/// How the entries of a feed are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedOrder {
    /// All of them, the same for every reader.
    Total,
    /// Those of one stream, or of one partition of streams.
    PerStream,
    /// Those of one stream, and events may arrive late.
    BestEffort,
}

/// What the positions of a feed are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedPositions {
    /// Numbers from 1 without a hole: rule F5.
    Contiguous,
    /// Numbers that grow.
    Increasing,
    /// No numbers: rules F1, F6, F7 and F8 have nothing to hold on to.
    Opaque,
}

/// Whether commits may be mixed in a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedCommits {
    /// The events of a commit stand together: rule F7.
    Whole,
    /// Events of other commits may stand between them.
    MayInterleave,
}

/// Whether a feed is in the order of real time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedRealtime {
    /// A commit that returned before another was invoked stands before it: rule F8.
    Ordered,
    /// Only within a stream.
    NotPromised,
}

/// How late an event may be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedLag {
    /// At most this long after its append returned, its subscriber started, and the faults were healed: rule F9.
    Within {
        /// The bound in nanoseconds.
        lag_ns: u64,
        /// When the last fault was healed; the beginning where there were none.
        healed_at: Moment,
    },
    /// The lag is measured and not judged.
    Measured,
}

impl FeedClaims {
    /// What every ordered store of ours claims: total, contiguous, whole commits; the lag is measured.
    pub const STRICT: FeedClaims = FeedClaims {
        order: FeedOrder::Total,
        positions: FeedPositions::Contiguous,
        commits: FeedCommits::Whole,
        real_time: FeedRealtime::Ordered,
        lag: FeedLag::Measured,
    };

    /// True if a position is a place that readers can be compared by.
    fn are_placed(&self) -> bool {
        self.order == FeedOrder::Total && self.positions != FeedPositions::Opaque
    }
}

/// What a check of the feed found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FeedVerdict {
    /// The broken rules.
    pub violations: Violations,
    /// How long after its append returned, or its subscriber started, an event arrived first at each subscriber.
    pub lag: Spread,
}

/// Checks the feed of a history, which needs a final replay.
pub fn check_feed(logs: &Logs<'_>, claims: &FeedClaims) -> FeedVerdict {
    let mut verdict = FeedVerdict::default();
    let Some(feed) = &logs.history.final_feed else {
        verdict.violations.add(Violation::of_store(Rule::Record, "the history has no final replay of the feed"));
        return verdict;
    };
    let replay = Replay::of(feed, claims);
    let mut check = Check { logs, claims, replay: &replay, violations: &mut verdict.violations };
    check.replay(feed);
    check.runs(feed);
    check.receipts();
    check.polls(feed);
    let lags = check.lags(feed);
    verdict.lag = Spread::of(lags);
    verdict
}

/// The final replay, by position and by revision.
struct Replay<'h> {
    /// By position; in the order of reading where there are no positions.
    entries: Vec<&'h FeedEntry>,
    /// Position of each event, by stream and revision.
    places: HashMap<(&'h str, u64), u64>,
}

impl<'h> Replay<'h> {
    fn of(feed: &'h FinalFeed, claims: &FeedClaims) -> Self {
        let mut entries: Vec<&FeedEntry> = feed.entries.iter().collect();
        if claims.are_placed() {
            entries.sort_by_key(|entry| entry.position);
        }
        let mut places = HashMap::with_capacity(entries.len());
        for entry in &entries {
            if let FeedItem::Event { stream, revision, .. } = &entry.item {
                places.entry((stream.as_str(), *revision)).or_insert(entry.position);
            }
        }
        Replay { entries, places }
    }

    /// The entries that account for a position after `after`, up to `up_to`.
    fn between(&self, after: u64, up_to: u64) -> &[&'h FeedEntry] {
        let start = self.entries.partition_point(|entry| entry.end() <= after);
        let end = self.entries.partition_point(|entry| entry.position <= up_to);
        &self.entries[start.min(end)..end]
    }

    /// The entry that accounts for a position.
    fn at(&self, position: u64) -> Option<&'h FeedEntry> {
        self.between(position.saturating_sub(1), position).first().copied()
    }
}

/// Who read the entries that are being judged.
#[derive(Clone, Copy)]
enum Reader<'h> {
    Replay,
    Run(&'h SubscriptionRun),
}

impl std::fmt::Display for Reader<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reader::Replay => formatter.write_str("the final replay"),
            Reader::Run(run) => {
                write!(formatter, "run {} of subscriber {} after {}", run.run, run.subscriber, run.after)
            }
        }
    }
}

struct Check<'c, 'h> {
    logs: &'c Logs<'h>,
    claims: &'c FeedClaims,
    replay: &'c Replay<'h>,
    violations: &'c mut Violations,
}

impl<'h> Check<'_, 'h> {
    fn replay(&mut self, feed: &'h FinalFeed) {
        self.walk(Reader::Replay, 0, feed.entries.iter());
        self.agreement_within(feed);
        self.completeness();
        if self.claims.are_placed() {
            match self.claims.commits {
                FeedCommits::Whole => self.whole_commits(),
                FeedCommits::MayInterleave => {}
            }
            match self.claims.real_time {
                FeedRealtime::Ordered => self.real_time(),
                FeedRealtime::NotPromised => {}
            }
        }
    }

    fn runs(&mut self, feed: &'h FinalFeed) {
        let earliest = self.earliest_deliveries(feed);
        let runs = &self.logs.history.runs;
        for run in runs {
            self.walk(Reader::Run(run), run.after, run.deliveries.iter().map(|delivery| &delivery.entry));
            if run.incarnation == feed.incarnation {
                self.against_replay(run);
                self.not_too_early(run);
                if self.claims.are_placed() {
                    self.nothing_skipped(run, &earliest);
                }
            }
        }
        if !self.claims.are_placed() {
            self.nothing_missing(runs, feed);
        }
        self.agreement_between(runs, feed);
    }

    // --- F1, F3, F5 and the content: what one reader saw, entry by entry

    fn walk(&mut self, reader: Reader<'h>, after: u64, entries: impl Iterator<Item = &'h FeedEntry>) {
        let mut steps = Steps { reader, end: None, revisions: HashMap::new(), removed: 0, after };
        for entry in entries {
            if self.claims.are_placed() {
                self.step_position(&mut steps, entry);
            }
            // Whatever the order over all streams: that within a stream always holds.
            self.step_revision(&mut steps, entry);
            if self.is_current(reader) {
                self.known_event(reader, entry);
            }
        }
    }

    fn is_current(&self, reader: Reader<'h>) -> bool {
        match (reader, &self.logs.history.final_feed) {
            (Reader::Run(run), Some(feed)) => run.incarnation == feed.incarnation,
            (Reader::Run(_), None) | (Reader::Replay, _) => true,
        }
    }

    fn step_position(&mut self, steps: &mut Steps<'h>, entry: &FeedEntry) {
        let contiguous = self.claims.positions == FeedPositions::Contiguous;
        match (steps.end, steps.reader) {
            (Some(end), reader) if entry.position <= end => {
                let says = format!("{reader} got position {} after {end}", entry.position);
                self.violations.add(Violation::of_store(Rule::FeedForward, says));
            }
            (Some(end), reader) if contiguous && entry.position > end + 1 => {
                self.hole(reader, end, entry.position);
            }
            (None, Reader::Replay) if contiguous && entry.position > 1 => {
                self.hole(steps.reader, 0, entry.position);
            }
            (None, Reader::Run(run)) => self.first_of_run(run, entry.position, contiguous),
            (Some(_), _) | (None, Reader::Replay) => {}
        }
        if entry.position == 0 || entry.end() < entry.position {
            let says = format!("{} got a range from {} to {}", steps.reader, entry.position, entry.end());
            self.violations.add(Violation::of_store(Rule::FeedForward, says));
        }
        steps.end = Some(steps.end.unwrap_or(0).max(entry.end()));
    }

    fn hole(&mut self, reader: Reader<'h>, end: u64, next: u64) {
        let says = format!("{reader} got nothing between positions {end} and {next}");
        self.violations.add(Violation::of_store(Rule::FeedContiguous, says));
    }

    fn first_of_run(&mut self, run: &'h SubscriptionRun, first: u64, contiguous: bool) {
        let missed = self.replay.between(run.after, first.saturating_sub(1)).first();
        let known = self.is_current(Reader::Run(run));
        if (contiguous && first > run.after + 1) || (known && missed.is_some()) {
            let says = format!("{} begins with position {first}", Reader::Run(run));
            let violation = Violation::of_store(Rule::FeedForward, says);
            let violation = missed.filter(|_| known).into_iter().fold(violation, |violation, entry| {
                violation.with_fact(format!("the final replay has {}", shown(entry)))
            });
            self.violations.add(violation);
        }
    }

    fn step_revision(&mut self, steps: &mut Steps<'h>, entry: &'h FeedEntry) {
        let (stream, revision) = match &entry.item {
            FeedItem::Event { stream, revision, .. } => (stream.as_str(), *revision),
            FeedItem::Removed { last } => {
                steps.removed += last.saturating_add(1).saturating_sub(entry.position);
                return;
            }
            FeedItem::Marker { .. } => return,
        };
        let before = steps.revisions.insert(stream, revision);
        // A run that starts in the middle may meet a stream anywhere; what it misses there is rule F4.
        let expected = match before {
            Some(before) => before + 1,
            None if steps.after == 0 => 1,
            None => return,
        };
        // Removed positions do not say whose they were: as many revisions may be missing as positions were removed.
        if revision > expected && revision - expected <= steps.removed {
            steps.removed -= revision - expected;
        } else if revision != expected {
            let says = format!("{} got revision {revision} where {expected} belongs", steps.reader);
            let violation = Violation::new(Rule::FeedStreamOrder, stream, says).with_fact(shown(entry));
            self.violations.add(violation);
        }
    }

    /// F4: the entry is an event that its stream holds.
    fn known_event(&mut self, reader: Reader<'h>, entry: &FeedEntry) {
        let FeedItem::Event { stream, revision, commit, event } = &entry.item else { return };
        let log = self.logs.streams.get(stream.as_str());
        // Where the stream's own log has holes, the revisions of the log say nothing.
        if log.is_some_and(|log| log.shape == Shape::Broken) {
            return;
        }
        let stored = log.and_then(|log| Some((log, &log.commits[log.commit_holding(*revision)?])));
        let same_event = |log: &Log<'_>| log.event(*revision).is_none_or(|stored| stored == event);
        if stored.is_some_and(|(log, placed)| placed.id == *commit && same_event(log)) {
            return;
        }
        let says = format!("{reader} got an event that its stream does not hold");
        let violation = Violation::new(Rule::FeedComplete, stream, says).with_fact(shown(entry));
        let violation = match stored {
            Some((log, placed)) => violation.with_fact(log.place(placed)),
            None => violation,
        };
        self.violations.add(violation);
    }

    /// F4: nothing is delivered before it was asked for.
    fn not_too_early(&mut self, run: &'h SubscriptionRun) {
        for delivery in &run.deliveries {
            let FeedItem::Event { stream, revision, commit, .. } = &delivery.entry.item else { continue };
            let Some(log) = self.logs.streams.get(stream.as_str()) else { continue };
            let Some(placed) = log.commit_holding(*revision).map(|placed| &log.commits[placed]) else { continue };
            if placed.id == *commit && delivery.delivered_at < placed.window.invoked_at {
                let says = format!("{} got an event before its append was invoked", Reader::Run(run));
                let violation = Violation::new(Rule::FeedComplete, stream, says)
                    .shown_by(placed.window.invoked_by)
                    .with_fact(shown(&delivery.entry));
                self.violations.add(violation);
            }
        }
    }

    // --- F2: everyone sees the same

    fn agreement_within(&mut self, feed: &'h FinalFeed) {
        if !self.claims.are_placed() {
            return;
        }
        for entry in &feed.entries {
            let FeedItem::Event { stream, revision, .. } = &entry.item else { continue };
            let place = self.replay.places.get(&(stream.as_str(), *revision));
            if place.is_some_and(|place| *place != entry.position) {
                let says = "the final replay holds an event twice";
                let violation = Violation::new(Rule::FeedAgreement, stream, says)
                    .with_fact(shown(entry))
                    .with_fact(format!("the same event stands at position {}", place.copied().unwrap_or(0)));
                self.violations.add(violation);
            }
        }
    }

    fn against_replay(&mut self, run: &'h SubscriptionRun) {
        if !self.claims.are_placed() {
            return;
        }
        for delivery in &run.deliveries {
            let entry = &delivery.entry;
            let replayed = self.replay.at(entry.position);
            if replayed.is_some_and(|replayed| is_same_or_removed(entry, replayed)) {
                continue;
            }
            let says = format!("{} got another entry than the final replay", Reader::Run(run));
            let violation =
                Violation::of_store(Rule::FeedAgreement, says).with_fact(format!("it got {}", shown(entry)));
            self.violations.add(match replayed {
                Some(replayed) => violation.with_fact(format!("the replay has {}", shown(replayed))),
                None => violation.with_fact("the replay has nothing there"),
            });
        }
    }

    /// Runs of an incarnation that is gone agree with each other; those of the last one agree with the replay already.
    fn agreement_between(&mut self, runs: &'h [SubscriptionRun], feed: &FinalFeed) {
        if !self.claims.are_placed() {
            return;
        }
        let mut seen: HashMap<(&str, u64), (&SubscriptionRun, &FeedEntry)> = HashMap::new();
        for run in runs.iter().filter(|run| run.incarnation != feed.incarnation) {
            for entry in run.deliveries.iter().map(|delivery| &delivery.entry) {
                let key = (run.incarnation.as_str(), entry.position);
                let (other, before) = *seen.entry(key).or_insert((run, entry));
                if !is_same_or_removed(before, entry) && !is_same_or_removed(entry, before) {
                    let says = format!("{} and {} got different entries", Reader::Run(other), Reader::Run(run));
                    let violation =
                        Violation::of_store(Rule::FeedAgreement, says).with_fact(shown(before)).with_fact(shown(entry));
                    self.violations.add(violation);
                }
            }
        }
    }

    /// The position in a receipt is the one in the feed.
    fn receipts(&mut self) {
        if !self.claims.are_placed() {
            return;
        }
        for operation in &self.logs.history.operations {
            let Call::Append(Append { outcome: AppendOutcome::Ok(receipt), .. }) = &operation.call else { continue };
            let place = self.replay.places.get(&(operation.stream.as_str(), receipt.first));
            if let (Some(position), Some(place)) = (receipt.position, place)
                && position != *place
            {
                let says = format!("the receipt says position {position}, the feed has the event at {place}");
                let violation = Violation::new(Rule::FeedAgreement, &operation.stream, says).shown_by([operation]);
                self.violations.add(violation);
            }
        }
    }

    // --- F4 and F6: nothing is missing

    fn completeness(&mut self) {
        for log in self.logs.streams.values() {
            for commit in log.commits.iter().filter(|commit| commit.kept == Kept::Stored) {
                for revision in commit.first..=commit.last {
                    if !self.replay.places.contains_key(&(log.stream, revision)) {
                        let says = format!("the final replay does not have revision {revision}");
                        let violation = Violation::new(Rule::FeedComplete, log.stream, says)
                            .shown_by(commit.window.invoked_by)
                            .with_fact(log.place(commit));
                        self.violations.add(violation);
                    }
                }
            }
        }
    }

    /// By position, the first moment at which any subscriber had it.
    fn earliest_deliveries(&self, feed: &FinalFeed) -> HashMap<u64, Moment> {
        let mut earliest: HashMap<u64, Moment> = HashMap::new();
        for run in self.logs.history.runs.iter().filter(|run| run.incarnation == feed.incarnation) {
            for delivery in &run.deliveries {
                let moment = earliest.entry(delivery.entry.position).or_insert(delivery.delivered_at);
                *moment = delivery.delivered_at.min(*moment);
            }
        }
        earliest
    }

    /// A run got every entry between its checkpoint and its last delivery, and all others too if it was drained.
    fn nothing_skipped(&mut self, run: &'h SubscriptionRun, earliest: &HashMap<u64, Moment>) {
        let delivered: HashSet<u64> = run.deliveries.iter().map(|delivery| delivery.entry.position).collect();
        let last = run.deliveries.iter().map(|delivery| delivery.entry.end()).max().unwrap_or(run.after);
        let up_to = match run.ended {
            RunEnd::Drained => u64::MAX,
            RunEnd::Cut => last,
        };
        let removed: Vec<&FeedEntry> =
            run.deliveries.iter().map(|delivery| &delivery.entry).filter(|entry| is_removed(entry)).collect();
        let passes = Passes::of(run);
        for entry in self.replay.between(run.after, up_to) {
            // A range that the run saw as removed accounts for the entry; that they differ is rule F2.
            let accounted = delivered.contains(&entry.position)
                || is_removed(entry)
                || removed.iter().any(|range| range.position <= entry.position && entry.end() <= range.end());
            if !accounted {
                self.violations.add(skipped(run, entry, passes.over(entry), earliest.get(&entry.position)));
            }
        }
    }

    /// Without positions: a subscriber that began at the beginning and was drained in the end got every event, in one of its
    /// runs. Each begins where an earlier one was, so that whatever a run leaves out at its beginning nobody else gives.
    fn nothing_missing(&mut self, runs: &'h [SubscriptionRun], feed: &FinalFeed) {
        let mut subscribers: BTreeMap<u64, Vec<&SubscriptionRun>> = BTreeMap::new();
        for run in runs.iter().filter(|run| run.incarnation == feed.incarnation) {
            subscribers.entry(run.subscriber).or_default().push(run);
        }
        for mut runs in subscribers.into_values() {
            runs.sort_by_key(|run| run.run);
            let drained = runs.iter().copied().rfind(|run| run.ended == RunEnd::Drained);
            let (Some(first), Some(drained)) = (runs.first(), drained) else { continue };
            if first.after > 0 || first.run > 0 {
                continue;
            }
            let deliveries = runs.iter().flat_map(|run| &run.deliveries);
            let delivered: HashSet<(&str, u64)> =
                deliveries.filter_map(|delivery| event_key(&delivery.entry)).collect();
            for entry in &self.replay.entries {
                if event_key(entry).is_some_and(|key| !delivered.contains(&key)) {
                    self.violations.add(skipped(drained, entry, None, None));
                }
            }
        }
    }

    /// F6: what was read of the beginning of the feed while it grew is what stands there at the end.
    fn polls(&mut self, feed: &FinalFeed) {
        if !self.claims.are_placed() {
            return;
        }
        let mut polls: Vec<&PrefixPoll> =
            self.logs.history.polls.iter().filter(|poll| poll.incarnation == feed.incarnation).collect();
        polls.sort_by_key(|poll| poll.up_to);
        let mut folded = (0, Digest::default(), 0);
        let mut entries = self.replay.entries.iter().peekable();
        for poll in polls {
            while let Some(entry) = entries.next_if(|entry| entry.position <= poll.up_to) {
                folded = (folded.0 + 1, feed_chain(folded.1, entry), folded.2 + u64::from(is_removed(entry)));
            }
            let (count, chain, removed) = folded;
            // What was removed since then is no longer there to be compared.
            if removed == 0 && (count, chain) != (poll.entries, poll.chain) {
                self.violations.add(changed_prefix(poll, count));
            }
        }
    }

    // --- F7 and F8: the order of commits

    fn whole_commits(&mut self) {
        let mut ended: HashSet<(&str, CommitId)> = HashSet::new();
        let mut current: Option<(&str, CommitId)> = None;
        for entry in &self.replay.entries {
            let here = match &entry.item {
                FeedItem::Event { stream, commit, .. } => Some((stream.as_str(), *commit)),
                FeedItem::Marker { .. } => None,
                // A part of the commit itself may be what was removed.
                FeedItem::Removed { .. } => continue,
            };
            if here == current {
                continue;
            }
            ended.extend(current);
            current = here;
            if let Some((stream, commit)) = here.filter(|here| ended.contains(here)) {
                let says = format!("commit {commit} goes on after something else stood in the feed");
                let violation = Violation::new(Rule::FeedWholeCommits, stream, says).with_fact(shown(entry));
                self.violations.add(violation);
            }
        }
    }

    fn real_time(&mut self) {
        let mut latest = None;
        let mut placed_before = None;
        for entry in &self.replay.entries {
            let FeedItem::Event { stream, revision, commit, .. } = &entry.item else { continue };
            let Some(log) = self.logs.streams.get(stream.as_str()) else { continue };
            let Some(placed) = log.commit_holding(*revision).map(|placed| &log.commits[placed]) else { continue };
            if placed.id != *commit || placed_before == Some((log.stream, placed.id)) {
                continue;
            }
            placed_before = Some((log.stream, placed.id));
            let window = placed.window;
            match latest {
                Some((moment, begun)) if window.returned_at.is_before(moment) => {
                    let says = "a commit returned before another was invoked, and stands after it in the feed";
                    let shown_by = [begun, window.returned_by].into_iter().flatten();
                    let violation = Violation::of_store(Rule::FeedRealtime, says).shown_by(shown_by);
                    self.violations.add(violation.with_fact(shown(entry)));
                }
                Some(_) | None => {}
            }
            if latest.is_none_or(|(moment, _)| moment < window.invoked_at) {
                latest = Some((window.invoked_at, window.invoked_by));
            }
        }
    }

    // --- F9: how late

    /// The lags of all first deliveries, in nanoseconds.
    fn lags(&mut self, feed: &FinalFeed) -> Vec<u64> {
        let mut arrivals = Vec::new();
        for run in self.logs.history.runs.iter().filter(|run| run.incarnation == feed.incarnation) {
            for delivery in &run.deliveries {
                let event = event_key(&delivery.entry);
                arrivals.extend(event.map(|event| (run.subscriber, event, delivery.delivered_at, run)));
            }
        }
        arrivals.sort_by_key(|(subscriber, event, moment, _)| (*subscriber, *event, *moment));
        arrivals.dedup_by_key(|(subscriber, event, _, _)| (*subscriber, *event));
        let mut lags = Vec::with_capacity(arrivals.len());
        for (_, event, delivered_at, run) in arrivals {
            let Some(appended_at) = self.appended_at(event.0, event.1) else { continue };
            let ready = appended_at.max(run.started_at);
            lags.push(delivered_at.0.saturating_sub(ready.0));
            self.judge_lag(event, ready, delivered_at, run);
        }
        lags
    }

    fn appended_at(&self, stream: &str, revision: u64) -> Option<Moment> {
        let log = self.logs.streams.get(stream)?;
        match log.commits[log.commit_holding(revision)?].window.returned_at {
            Returned::At(moment) => Some(moment),
            Returned::Never => None,
        }
    }

    fn judge_lag(&mut self, event: (&str, u64), ready: Moment, delivered_at: Moment, run: &SubscriptionRun) {
        let (lag_ns, healed_at) = match self.claims.lag {
            FeedLag::Within { lag_ns, healed_at } => (lag_ns, healed_at),
            FeedLag::Measured => return,
        };
        let lag = delivered_at.0.saturating_sub(ready.max(healed_at).0);
        if lag > lag_ns {
            let says = format!("{} got revision {} after {lag} ns, promised are {lag_ns}", Reader::Run(run), event.1);
            self.violations.add(Violation::new(Rule::FeedLag, event.0, says));
        }
    }
}

/// How far one reader got.
struct Steps<'h> {
    reader: Reader<'h>,
    after: u64,
    end: Option<u64>,
    revisions: HashMap<&'h str, u64>,
    removed: u64,
}

fn event_key(entry: &FeedEntry) -> Option<(&str, u64)> {
    match &entry.item {
        FeedItem::Event { stream, revision, .. } => Some((stream.as_str(), *revision)),
        FeedItem::Marker { .. } | FeedItem::Removed { .. } => None,
    }
}

/// True if `later` shows what `earlier` showed, or that it was removed since.
fn is_same_or_removed(earlier: &FeedEntry, later: &FeedEntry) -> bool {
    match later.item {
        FeedItem::Removed { .. } => later.position <= earlier.position && later.end() >= earlier.end(),
        FeedItem::Event { .. } | FeedItem::Marker { .. } => earlier == later,
    }
}

fn is_removed(entry: &FeedEntry) -> bool {
    matches!(entry.item, FeedItem::Removed { .. })
}

/// The deliveries of a run by position, each with the earliest of those that stand at or after it.
struct Passes<'h>(Vec<(u64, &'h Delivery)>);

impl<'h> Passes<'h> {
    fn of(run: &'h SubscriptionRun) -> Self {
        let mut passes: Vec<(u64, &Delivery)> =
            run.deliveries.iter().map(|delivery| (delivery.entry.position, delivery)).collect();
        passes.sort_by_key(|(position, _)| *position);
        for index in (1..passes.len()).rev() {
            if passes[index].1.delivered_at < passes[index - 1].1.delivered_at {
                passes[index - 1].1 = passes[index].1;
            }
        }
        Passes(passes)
    }

    /// The first delivery that stands after an entry.
    fn over(&self, entry: &FeedEntry) -> Option<&'h Delivery> {
        let after = self.0.partition_point(|(position, _)| *position <= entry.position);
        self.0.get(after).map(|(_, delivery)| *delivery)
    }
}

/// The run passed over an entry: if others had it only later, it was not there yet.
fn skipped(
    run: &SubscriptionRun,
    entry: &FeedEntry,
    passed: Option<&Delivery>,
    earliest: Option<&Moment>,
) -> Violation {
    let (rule, says) = match (passed, earliest) {
        (Some(passed), Some(earliest)) if *earliest > passed.delivered_at => {
            (Rule::FeedLateArrival, "passed over an entry that others got afterwards")
        }
        (Some(_), _) => (Rule::FeedComplete, "passed over an entry"),
        (None, _) => (Rule::FeedComplete, "was drained and did not get an entry"),
    };
    let violation = Violation::of_store(rule, format!("{} {says}", Reader::Run(run)));
    let violation = violation.with_fact(format!("missing: {}", shown(entry)));
    match passed {
        Some(passed) => violation.with_fact(format!("it got {}", shown(&passed.entry))),
        None => violation,
    }
}

fn changed_prefix(poll: &PrefixPoll, count: u64) -> Violation {
    let says = format!(
        "client {} read {} entries up to position {}, the final replay has {count} there",
        poll.client, poll.entries, poll.up_to
    );
    // As many entries, but others: nothing arrived late, something changed.
    let rule = if poll.entries == count { Rule::FeedAgreement } else { Rule::FeedLateArrival };
    Violation::of_store(rule, says)
}

fn shown(entry: &FeedEntry) -> String {
    let position = entry.position;
    match &entry.item {
        FeedItem::Event { stream, revision, commit, event } => {
            format!("position {position}: {stream} revision {revision}, event {}, commit {commit}", event.id)
        }
        FeedItem::Marker { stream, number } => format!("position {position}: marker {number} of {stream}"),
        FeedItem::Removed { last } => format!("positions {position}..={last}: removed"),
    }
}
