//! Where a move stands, told from the records of both stores, and the records that each step makes of them. Pure: what is here was
//! checked in the models `models/src/store_fence.rs` and `models/src/store_seal.rs`, rule by rule.

use evstore_api::number::NUMBER_MAX;
use evstore_api::{Error, ErrorKind, Lineage, Meta, Position, Result, StoreName, StoreState};

/// Which way streams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the source to the target.
    Forth,
    /// From the target back to the source.
    Back,
}

/// Where a move stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was begun between these two stores.
    NotBegun,
    /// One store owns the streams and takes appends, the other is filled.
    Copying(Way),
    /// The streams of the owner are sealed one by one, where its record alone does not close it; the others take appends.
    Sealing(Way),
    /// The owner is closed; the rest is copied and compared.
    Fenced(Way),
    /// The owner is closed for a moment, to see how long that takes; it opens again.
    Rehearsing(Way),
    /// It is decided: the other store owns the streams, and has yet to be opened.
    Decided(Way),
    /// The other store took over. Its way back, or forth again, can be begun.
    Moved(Way),
    /// It was given up, in the record of the store that stays the owner; what was copied is left in the other one.
    GivenUp(Way),
    /// The move is over, and there is no way back.
    Finished,
}

impl Phase {
    /// The name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotBegun => "not_begun",
            Self::Copying(Way::Forth) => "copying",
            Self::Sealing(Way::Forth) => "sealing",
            Self::Fenced(Way::Forth) => "fenced",
            Self::Rehearsing(Way::Forth) => "rehearsing",
            Self::Decided(Way::Forth) => "decided",
            Self::Moved(Way::Forth) => "moved",
            Self::GivenUp(Way::Forth) => "given_up",
            Self::Copying(Way::Back) => "copying_back",
            Self::Sealing(Way::Back) => "sealing_back",
            Self::Fenced(Way::Back) => "fenced_back",
            Self::Rehearsing(Way::Back) => "rehearsing_back",
            Self::Decided(Way::Back) => "decided_back",
            Self::Moved(Way::Back) => "moved_back",
            Self::GivenUp(Way::Back) => "way_back_given_up",
            Self::Finished => "finished",
        }
    }

    /// What it means, in a sentence.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NotBegun => "nothing was begun",
            Self::Copying(Way::Forth) => "the source takes appends and is copied to the target",
            Self::Sealing(Way::Forth) => "streams of the source are sealed one by one; the others take appends",
            Self::Fenced(Way::Forth) => "the source is closed while the rest is copied and compared",
            Self::Rehearsing(_) => "the owner is closed for a moment, and opens again",
            Self::Decided(Way::Forth) => "the target owns the streams and is about to be opened",
            Self::Moved(Way::Forth) => "the target took over; nothing is copied back yet",
            Self::GivenUp(Way::Forth) => "the move was given up; the source takes appends",
            Self::Copying(Way::Back) => "the target took over and is copied back, so that there is a way back",
            Self::Sealing(Way::Back) => "streams of the target are sealed one by one; the others take appends",
            Self::Fenced(Way::Back) => "the target is closed while the rest is copied back and compared",
            Self::Decided(Way::Back) => "the source owns the streams again and is about to be opened",
            Self::Moved(Way::Back) => "the source took over again",
            Self::GivenUp(Way::Back) => "the target took over; its way back was given up",
            Self::Finished => "the move is over; there is no way back",
        }
    }
}

/// Tells where a move stands.
#[must_use]
pub fn of(source: (&StoreName, &Meta), target: (&StoreName, &Meta)) -> Phase {
    let forth = between(source, target, Way::Forth);
    match forth {
        Phase::NotBegun => between(target, source, Way::Back),
        found => found,
    }
}

fn between(from: (&StoreName, &Meta), to: (&StoreName, &Meta), way: Way) -> Phase {
    use StoreState::{Fenced, Importing, Leaving, Moved, Open, Retired};
    let (e, f) = (from.1.epoch.0, to.1.epoch.0);
    match (&from.1.state, &to.1.state) {
        (Open, Importing { from: Some(name) }) if name == from.0 && f == e + 1 => Phase::Copying(way),
        (Open, Importing { from: Some(name) }) if name == from.0 && f < e => Phase::GivenUp(way),
        (Leaving { to: there }, Importing { from: Some(name) }) if there == to.0 && name == from.0 && e == f => {
            Phase::Sealing(way)
        }
        (Fenced { to: there }, Importing { from: Some(name) }) if there == to.0 && name == from.0 && e == f => {
            Phase::Fenced(way)
        }
        // It is closed in favour of itself, so that whoever helps opens it again and hands nothing over.
        (Leaving { to: there } | Fenced { to: there }, Importing { from: Some(name) })
            if there == from.0 && name == from.0 && e == f =>
        {
            Phase::Rehearsing(way)
        }
        (Moved { to: there, .. }, Importing { from: Some(name) }) if there == to.0 && name == from.0 && e == f => {
            Phase::Decided(way)
        }
        (Moved { to: there, .. }, Open) if there == to.0 && f >= e => Phase::Moved(way),
        (Retired { to: there }, Open) if there == to.0 && way == Way::Forth => Phase::Finished,
        _ => Phase::NotBegun,
    }
}

/// The record with which a store begins to be filled from another, which is open (rules A7 and A8). `empty` says whether it holds
/// nothing, `head` where its feed ends.
///
/// # Errors
/// `HistoryLost` where it holds another history than the one that is to be copied; `Conflict` where it takes part in something else.
pub fn importing(from: (&StoreName, &Meta), to: (&StoreName, &Meta), empty: bool, head: Position) -> Result<Meta> {
    let refused =
        |message| Err(Error::new(ErrorKind::Conflict, message).with("store", to.0).with("state", to.1.state.name()));
    if from.1.state != StoreState::Open {
        return Err(Error::new(ErrorKind::Conflict, "streams are moved from a store that is open")
            .with("store", from.0)
            .with("state", from.1.state.name()));
    }
    if from.1 == to.1 {
        return Err(Error::new(ErrorKind::Invalid, "the source and the target are one and the same store")
            .with("source", from.0)
            .with("target", to.0));
    }
    match &to.1.state {
        StoreState::Open if !empty => return refused("the target holds events of its own; a move needs an empty one"),
        StoreState::Open => {}
        StoreState::Moved { to: there, .. } | StoreState::Importing { from: Some(there) } if there == from.0 => {}
        StoreState::Retired { .. } => return refused("the target was left for good; move to an empty store"),
        _ => return refused("the target takes part in something else"),
    }
    let epoch = from.1.epoch.max(to.1.epoch).next();
    if epoch != from.1.epoch.next() {
        return refused("the target has changed hands more often than the source; move to a new store");
    }
    if !empty && shared_end(from.1, to.1).is_none() {
        return Err(lost(from.1, to.1));
    }
    let lineage = taken_over(from.1, to.1, head);
    Ok(Meta { epoch, lineage, state: StoreState::Importing { from: Some(from.0.clone()) }, ..to.1.clone() })
}

/// Up to where a store that is filled can hold what its owner holds, by their histories alone: where the last one that both know ended
/// in the owner, by a failover or a restart. None where they have none in common.
#[must_use]
pub fn shared_end(owner: &Meta, filled: &Meta) -> Option<Position> {
    let at = |one: &Lineage| owner.lineage.iter().position(|other| other.incarnation == one.incarnation);
    let shared = filled.lineage.iter().rev().find_map(at)?;
    Some(owner.lineage[shared..].iter().filter_map(|one| one.ended_at).min().unwrap_or(Position(NUMBER_MAX)))
}

/// The histories of a store that is filled: the owner's, so that every cursor of the owner is good in it, and before them its own, each
/// of them ended where it holds nothing more.
#[must_use]
pub fn taken_over(owner: &Meta, filled: &Meta, head: Position) -> Vec<Lineage> {
    if owner.lineage.last() == filled.lineage.last() {
        return filled.lineage.clone();
    }
    let is_own = |one: &&Lineage| owner.lineage.iter().all(|other| other.incarnation != one.incarnation);
    let closed = |one: &Lineage| Lineage { ended_at: Some(one.ended_at.map_or(head, |end| end.min(head))), ..*one };
    filled.lineage.iter().filter(is_own).map(closed).chain(owner.lineage.iter().copied()).collect()
}

/// The histories with which a store is opened that holds all that was decided on, which ended at `end`. It goes on with the history in
/// which that was decided, whatever it or the store that was left began since: every cursor of it is good.
#[must_use]
pub fn decided_on(filled: &Meta, left: &Meta, end: Position) -> Vec<Lineage> {
    let closed = |one: &Lineage| Lineage { ended_at: Some(one.ended_at.map_or(end, |at| at.min(end))), ..*one };
    let is_new = |one: &&Lineage| filled.lineage.iter().all(|other| other.incarnation != one.incarnation);
    let of_left = left.lineage.iter().filter(is_new).map(closed);
    let Some(shared) = last_shared(filled, left) else { return filled.lineage.clone() };
    let (before, since) = filled.lineage.split_at(shared + 1);
    let before =
        before.iter().map(|one| if one == &before[shared] { Lineage { ended_at: None, ..*one } } else { *one });
    of_left.chain(since.iter().map(closed)).chain(before).collect()
}

/// Where the last history stands that both know, in the first of them.
fn last_shared(filled: &Meta, left: &Meta) -> Option<usize> {
    filled.lineage.iter().rposition(|one| left.lineage.iter().any(|other| other.incarnation == one.incarnation))
}

/// The record in which the owner's streams are sealed one by one.
#[must_use]
pub fn leaving(owner: &Meta, to: &StoreName) -> Meta {
    Meta { epoch: owner.epoch.next(), state: StoreState::Leaving { to: to.clone() }, ..owner.clone() }
}

/// The record that closes the owner (rule A2), in the epoch in which its streams were sealed.
#[must_use]
pub fn fenced(owner: &Meta, to: &StoreName) -> Meta {
    let epoch = if let StoreState::Leaving { .. } = owner.state { owner.epoch } else { owner.epoch.next() };
    Meta { epoch, state: StoreState::Fenced { to: to.clone() }, ..owner.clone() }
}

/// The record that decides, once the other store was read complete up to `end` (rule A3).
#[must_use]
pub fn moved(owner: &Meta, to: &StoreName, end: Position) -> Meta {
    Meta { state: StoreState::Moved { to: to.clone(), end }, ..owner.clone() }
}

/// The record that opens the other store in the epoch of the decision (rule A4).
#[must_use]
pub fn open(filled: &Meta) -> Meta {
    Meta { state: StoreState::Open, ..filled.clone() }
}

/// The record that gives a move up: two epochs above the open one, whether it was fenced since or not (rule A5).
#[must_use]
pub fn given_up(owner: &Meta) -> Meta {
    let epoch = if owner.state == StoreState::Open { owner.epoch.next().next() } else { owner.epoch.next() };
    Meta { epoch, state: StoreState::Open, ..owner.clone() }
}

/// The record of a store that was left for good (rule A11).
#[must_use]
pub fn retired(left: &Meta, to: &StoreName) -> Meta {
    Meta { state: StoreState::Retired { to: to.clone() }, ..left.clone() }
}

/// Refuses two stores that have no history in common: one of them was made anew.
///
/// # Errors
/// `HistoryLost`.
pub fn check_related(one: &Meta, other: &Meta) -> Result<()> {
    shared_end(one, other).map(drop).ok_or_else(|| lost(one, other))
}

/// What was copied is not in the owner any more.
#[must_use]
pub fn lost(owner: &Meta, filled: &Meta) -> Error {
    Error::new(
        ErrorKind::HistoryLost,
        "one of the stores lost a part of its history, by a failover or a restore; move to a new, empty store",
    )
    .with("owner", owner.incarnation())
    .with("filled", filled.incarnation())
}

#[cfg(test)]
mod tests {
    use super::*;
    use evstore_api::{Epoch, Timestamp};

    fn name(name: &str) -> StoreName {
        StoreName::new(name).unwrap()
    }

    fn meta(epoch: u64, state: StoreState) -> Meta {
        Meta { epoch: Epoch(epoch), state, ..Meta::new(Timestamp(0)) }
    }

    fn phase(source: &Meta, target: &Meta) -> Phase {
        of((&name("s"), source), (&name("t"), target))
    }

    #[test]
    fn a_store_that_lost_copies_after_the_decision_opens_in_the_history_that_was_decided_in() {
        let history = |n: u8, ended_at: Option<u64>| Lineage {
            incarnation: evstore_api::Incarnation([n; 16]),
            ended_at: ended_at.map(Position),
        };
        let with = |lineage| Meta { lineage, ..meta(1, StoreState::Open) };
        let left = with(vec![history(1, Some(3)), history(2, None)]);
        let filled = with(vec![history(9, Some(0)), history(1, Some(3)), history(2, None)]);
        // Nothing came since: nothing is changed.
        assert_eq!(decided_on(&filled, &left, Position(7)), filled.lineage);
        // It failed over and kept five of seven, was filled again, and was restarted.
        let lost = with(vec![
            history(9, Some(0)),
            history(1, Some(3)),
            history(2, Some(5)),
            history(8, Some(7)),
            history(7, None),
        ]);
        let opened =
            vec![history(8, Some(7)), history(7, Some(7)), history(9, Some(0)), history(1, Some(3)), history(2, None)];
        assert_eq!(decided_on(&lost, &left, Position(7)), opened);
        // The one that was left lost what the other one has: that is not lost.
        let left = with(vec![history(1, Some(3)), history(2, Some(4)), history(6, None)]);
        let mut both = vec![history(6, Some(7))];
        both.extend(&filled.lineage);
        assert_eq!(decided_on(&filled, &left, Position(7)), both);
        assert_eq!(decided_on(&with(both.clone()), &left, Position(7)), both, "it is done once");
    }

    #[test]
    fn each_step_leads_to_the_next_phase() {
        let (s, t) = (name("s"), name("t"));
        let source = meta(0, StoreState::Open);
        let target = meta(0, StoreState::Open);
        assert_eq!(phase(&source, &target), Phase::NotBegun);
        let target = importing((&s, &source), (&t, &target), true, Position(0)).unwrap();
        assert_eq!(phase(&source, &target), Phase::Copying(Way::Forth));
        assert_eq!(target.incarnation(), source.incarnation());
        assert_eq!(phase(&given_up(&source), &target), Phase::GivenUp(Way::Forth));
        let rehearsed = fenced(&source, &s);
        assert_eq!(phase(&rehearsed, &target), Phase::Rehearsing(Way::Forth));
        assert_eq!(phase(&given_up(&rehearsed), &target), Phase::GivenUp(Way::Forth));
        let sealing = leaving(&source, &t);
        assert_eq!(phase(&sealing, &target), Phase::Sealing(Way::Forth));
        assert_eq!(phase(&leaving(&source, &s), &target), Phase::Rehearsing(Way::Forth));
        assert_eq!(phase(&given_up(&sealing), &target), Phase::GivenUp(Way::Forth));
        assert_eq!(fenced(&sealing, &t), fenced(&source, &t));
        let source = fenced(&source, &t);
        assert_eq!(phase(&source, &target), Phase::Fenced(Way::Forth));
        assert_eq!(given_up(&source).epoch, Epoch(2));
        let source = moved(&source, &t, Position(7));
        assert_eq!(phase(&source, &target), Phase::Decided(Way::Forth));
        let target = open(&target);
        assert_eq!(phase(&source, &target), Phase::Moved(Way::Forth));
        assert_eq!(phase(&retired(&source, &t), &target), Phase::Finished);
        let back = importing((&t, &target), (&s, &source), false, Position(7)).unwrap();
        assert_eq!((phase(&back, &target), back.epoch), (Phase::Copying(Way::Back), Epoch(2)));
        let kept = given_up(&target);
        assert_eq!(phase(&back, &kept), Phase::GivenUp(Way::Back));
        assert_eq!(phase(&retired(&back, &t), &kept), Phase::Finished);
        let target = moved(&fenced(&target, &s), &s, Position(9));
        let source = open(&back);
        assert_eq!(phase(&source, &target), Phase::Moved(Way::Back));
        let again = importing((&s, &source), (&t, &target), false, Position(9)).unwrap();
        assert_eq!((phase(&source, &again), again.epoch), (Phase::Copying(Way::Forth), Epoch(3)));
    }

    #[test]
    fn every_step_is_one_that_a_store_takes() {
        let (s, t) = (name("s"), name("t"));
        let (source, target) = (meta(4, StoreState::Open), meta(1, StoreState::Open));
        let filled = importing((&s, &source), (&t, &target), true, Position(0)).unwrap();
        target.check_next(&filled).unwrap();
        let closed = fenced(&source, &t);
        source.check_next(&closed).unwrap();
        let sealing = leaving(&source, &t);
        source.check_next(&sealing).unwrap();
        sealing.check_next(&closed).unwrap();
        sealing.check_next(&given_up(&sealing)).unwrap();
        source.check_next(&given_up(&source)).unwrap();
        closed.check_next(&given_up(&closed)).unwrap();
        let gone = moved(&closed, &t, Position(3));
        closed.check_next(&gone).unwrap();
        filled.check_next(&open(&filled)).unwrap();
        gone.check_next(&retired(&gone, &t)).unwrap();
    }

    #[test]
    fn a_target_with_something_of_its_own_is_refused() {
        let (s, t) = (name("s"), name("t"));
        let source = meta(0, StoreState::Open);
        let itself = importing((&s, &source), (&t, &source), true, Position(0)).unwrap_err();
        assert_eq!(itself.kind(), ErrorKind::Invalid);
        let refused =
            |target: &Meta, empty| importing((&s, &source), (&t, target), empty, Position(1)).unwrap_err().kind();
        assert_eq!(refused(&meta(0, StoreState::Open), false), ErrorKind::Conflict);
        assert_eq!(refused(&meta(0, StoreState::Retired { to: name("x") }), true), ErrorKind::Conflict);
        assert_eq!(refused(&meta(0, StoreState::Importing { from: Some(name("x")) }), true), ErrorKind::Conflict);
        // It was filled before, from a source that has lost something since.
        let other = meta(0, StoreState::Importing { from: Some(name("s")) });
        assert_eq!(refused(&other, false), ErrorKind::HistoryLost);
    }
    #[test]
    fn a_store_that_is_filled_follows_the_histories_of_its_owner() {
        let restarted = |meta: &Meta, end| {
            let mut lineage = meta.lineage.clone();
            lineage.last_mut().unwrap().ended_at = Some(Position(end));
            lineage.extend(Meta::new(Timestamp(0)).lineage);
            Meta { lineage, ..meta.clone() }
        };
        let (s, t) = (name("s"), name("t"));
        let (source, target) = (meta(0, StoreState::Open), meta(0, StoreState::Open));
        let filled = importing((&s, &source), (&t, &target), true, Position(0)).unwrap();
        assert_eq!(shared_end(&source, &filled), Some(Position(NUMBER_MAX)));
        // The owner was restarted at its end: what is copied up to there is good.
        let owner = restarted(&source, 5);
        assert_eq!(shared_end(&owner, &filled), Some(Position(5)));
        let next = Meta { lineage: taken_over(&owner, &filled, Position(3)), ..filled.clone() };
        filled.check_next(&next).unwrap();
        assert_eq!(next.lineage[1..], owner.lineage);
        // The other one was: cursors of the owner that are ahead of it stay good.
        let own = restarted(&filled, 2);
        let next = Meta { lineage: taken_over(&source, &own, Position(3)), ..own.clone() };
        own.check_next(&next).unwrap();
        assert_eq!((next.incarnation(), next.lineage.len()), (source.incarnation(), 3));
        assert_eq!(next.lineage[1].ended_at, Some(Position(3)));
        // Two that have nothing in common.
        assert_eq!(check_related(&source, &meta(0, StoreState::Open)).unwrap_err().kind(), ErrorKind::HistoryLost);
    }
}
