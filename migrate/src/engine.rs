//! The move itself: looks where it stands, and makes the next step. Nothing is remembered between two looks.

use crate::compare::{self, Compared};
use crate::copy::{self, Filling, Manner, Pace};
use crate::governor::Governor;
use crate::phase::{self, Phase, Way};
use crate::seal::Listed;
use crate::side::Side;
use crate::{News, Observer, carry, notes, seal};
use evstore_api::{
    Advice, Cursor, Deadline, Epoch, Error, ErrorKind, Meta, Position, Result, StoreName, StoreState, StreamState,
    WaitFeed,
};
use futures::future::Either;
use std::pin::pin;
use std::time::{Duration, Instant};

/// How long a look at the source's feed waits for more.
const POLL: Duration = Duration::from_secs(1);
/// How long the process that closed a store is left to finish before another one helps.
const HELP_AFTER: Duration = Duration::from_secs(2);
/// How often checkpoints are carried while the copy runs.
const CARRY_EVERY: Duration = Duration::from_secs(30);
/// Positions that may be left to copy when the source is closed.
const NEAR: u64 = 500;
/// How long a store may be closed before the move is given up and the store opened again.
const CLOSED_MAX: Duration = Duration::from_secs(20);
/// The same of one whose last streams are sealed meanwhile.
const SEALED_MAX: Duration = Duration::from_secs(60);
/// How long the others may be sealed before that.
const SEALING_MAX: Duration = Duration::from_secs(600);
/// Pause before a feed is read again that has not come up to the seals.
const BEHIND_PAUSE: Duration = Duration::from_millis(50);
/// Pauses after a store could not be reached.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Looks at two records until both belong to one moment.
const LOOKS_MAX: u32 = 20;
/// How long appends are gathered before they are copied, once there is nothing older.
const GATHER: Duration = Duration::from_millis(20);
/// Longest that is copied before a run looks again whether it still should.
const ROUND_MAX: Duration = Duration::from_secs(2);

/// Two stores of a move.
#[derive(Clone, Debug)]
pub struct Migration {
    source: Side,
    target: Side,
}

/// Both records, and what they mean together.
#[derive(Clone, Debug)]
struct Look {
    phase: Phase,
    source: Meta,
    target: Meta,
}

/// Where a move stands, for people and programs.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The phase.
    pub phase: Phase,
    /// The source's record and the last position of its feed.
    pub source: (Meta, Position),
    /// The same of the target.
    pub target: (Meta, Position),
    /// Up to which position the store that is filled was compared.
    pub compared: Position,
    /// Whether somebody paused the copy.
    pub paused: bool,
    /// How long no store took appends, at each hand-over and rehearsal that is remembered.
    pub pauses: Vec<Duration>,
}

/// Streams of both stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    /// Of the source.
    pub source: u64,
    /// Of the target.
    pub target: u64,
    /// Of the store that is closed, those that are sealed already, where each has to be.
    pub sealed: u64,
}

impl Status {
    /// Positions that the owner has and the other store has not.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let (owner, other) = self.ends();
        owner.saturating_sub(other)
    }

    /// The last positions of the store that is copied, and of the one that is filled.
    pub(crate) fn ends(&self) -> (u64, u64) {
        let (source, target) = (self.source.1.0, self.target.1.0);
        match way_of(self.phase) {
            Some(Way::Back) => (target, source),
            Some(Way::Forth) | None => (source, target),
        }
    }
}

/// What an operator may ask of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Begin to fill the target.
    Start,
    /// Hand the streams over.
    Cutover,
    /// Take them back.
    Rollback,
    /// Close the owner for a moment, as a hand-over does, and open it again.
    Rehearse,
    /// Stop copying for a while.
    Pause,
    /// Give it up before it is decided.
    Abort,
    /// Leave the source for good.
    Finish,
}

impl Verb {
    /// Refuses it in a phase in which it means nothing.
    fn check(self, phase: Phase) -> Result<()> {
        use Phase::{Copying, Decided, Fenced, Finished, GivenUp, Moved, NotBegun, Rehearsing, Sealing};
        use Way::{Back, Forth};
        let (allowed, message) = match self {
            Self::Start => (
                matches!(phase, NotBegun | Copying(Forth) | GivenUp(Forth) | Moved(Back)),
                "the move was begun already",
            ),
            Self::Cutover => (
                matches!(phase, Copying(Forth) | Sealing(Forth) | Fenced(Forth) | Decided(Forth)),
                "there is no copy to hand over to; start the move first",
            ),
            Self::Rollback => (
                matches!(
                    phase,
                    Moved(Forth) | GivenUp(Back) | Copying(Back) | Sealing(Back) | Fenced(Back) | Decided(Back)
                ),
                "there is nothing to take back",
            ),
            Self::Abort => {
                let allowed = matches!(phase, GivenUp(Forth) | Copying(Forth) | Sealing(_) | Fenced(_) | Rehearsing(_));
                (allowed, "there is nothing that can be given up")
            }
            Self::Rehearse => (matches!(phase, Copying(_) | Rehearsing(_)), "there is no copy to rehearse with"),
            Self::Pause => (matches!(phase, Copying(_)), "nothing is copied now"),
            Self::Finish => (
                matches!(phase, Finished | Copying(Back) | Moved(Forth) | GivenUp(Back)),
                "a move is finished after its cutover",
            ),
        };
        if allowed { Ok(()) } else { Err(refused(message, phase)) }
    }
}

/// What a cutover, a rollback or a rehearsal did.
#[derive(Clone, Debug, PartialEq)]
pub struct Cutover {
    /// Which way.
    pub way: Way,
    /// The epoch of the owner.
    pub epoch: Epoch,
    /// The last position of the store that was closed.
    pub end: Position,
    /// How long no store took appends; none where another process had closed the store.
    pub pause: Option<Duration>,
    /// What was compared while the store was closed.
    pub compared: Compared,
}

/// How a cutover, a rollback or a rehearsal ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Settled {
    /// The other store took over; after a rehearsal the owner is open again.
    Done(Box<Cutover>),
    /// The copy did not come near enough in time; nothing was closed.
    Behind {
        /// Positions that were left to copy.
        lag: u64,
    },
    /// The stores differ. The owner is open, and the move given up in its record.
    Differs(Box<Compared>),
}

impl Migration {
    /// A move between two stores.
    ///
    /// # Errors
    /// `Invalid` where they are one store, `Unsupported` where one of them can't be moved in this release.
    pub fn new(source: Side, target: Side) -> Result<Self> {
        if source.name == target.name {
            return Err(Error::new(ErrorKind::Invalid, "a move has two stores").with("store", &source.name));
        }
        source.check()?;
        target.check()?;
        Ok(Self { source, target })
    }

    /// The store that streams are moved from.
    #[must_use]
    pub fn source(&self) -> &Side {
        &self.source
    }

    /// The store that streams are moved to.
    #[must_use]
    pub fn target(&self) -> &Side {
        &self.target
    }

    /// Where the move stands.
    ///
    /// # Errors
    /// As reading the stores.
    pub async fn status(&self) -> Result<Status> {
        let look = self.look().await?;
        let way = way_of(look.phase).unwrap_or(Way::Forth);
        let (source, target) = (self.source.head().await?, self.target.head().await?);
        let compared = notes::compared(self.sides(way).1, self.filled(way, &look)).await?;
        let paused = notes::is_paused(&self.source).await?;
        let mut pauses = notes::pauses(&self.source).await?;
        pauses.extend(notes::pauses(&self.target).await?);
        let (source, target) = ((look.source, source), (look.target, target));
        Ok(Status { phase: look.phase, source, target, compared, paused, pauses })
    }

    /// Counts the streams of both stores, by going through their lists.
    ///
    /// # Errors
    /// As reading the stores.
    pub async fn streams(&self) -> Result<Streams> {
        let phase = self.look().await?.phase;
        let (source, target) = futures::join!(count_streams(&self.source), count_streams(&self.target));
        let (source, target) = (source?, target?);
        let sealed = match phase {
            Phase::Sealing(Way::Forth) | Phase::Fenced(Way::Forth) => source.1,
            Phase::Sealing(Way::Back) | Phase::Fenced(Way::Back) => target.1,
            _ => 0,
        };
        Ok(Streams { source: source.0, target: target.0, sealed })
    }

    /// Stops copying until it is resumed: a run waits. A hand-over is refused meanwhile; one that has begun is finished.
    ///
    /// # Errors
    /// `Conflict` where nothing is copied.
    pub async fn pause(&self) -> Result<Phase> {
        let phase = self.check(Verb::Pause).await?;
        notes::set_paused(&self.source, true).await?;
        Ok(phase)
    }

    /// Goes on copying. Not paused is success.
    ///
    /// # Errors
    /// As the stores.
    pub async fn resume(&self) -> Result<Phase> {
        notes::set_paused(&self.source, false).await?;
        Ok(self.look().await?.phase)
    }

    /// Begins: the target is closed for appends and takes copies from now on. Begun already is success.
    ///
    /// # Errors
    /// `Conflict` where the target has something of its own or a move is in a later phase, `HistoryLost` where it holds another
    /// history. Nothing was changed.
    pub async fn start(&self) -> Result<Phase> {
        let look = self.look().await?;
        match look.phase {
            Phase::Copying(Way::Forth) => Ok(look.phase),
            Phase::NotBegun | Phase::GivenUp(Way::Forth) | Phase::Moved(Way::Back) => {
                self.refuse_archived().await?;
                self.begin(Way::Forth, &look).await
            }
            other => Err(refused("the move was begun already", other)),
        }
    }

    /// Refuses a store that has events in an archive: they are not in it, and a copy would lack them.
    ///
    /// # Errors
    /// `Unsupported`; as reading a record.
    pub(crate) async fn refuse_archived(&self) -> Result<()> {
        for side in [&self.source, &self.target] {
            if notes::is_archived(side).await? {
                let message = "events of the store are in an archive, and this release does not move those";
                return Err(side.named(Error::new(ErrorKind::Unsupported, message)));
            }
        }
        Ok(())
    }

    /// Whether a verb would be taken now; nothing is changed.
    ///
    /// # Errors
    /// `Conflict` where it would not, `HistoryLost` where one of the stores lost what the other holds.
    pub async fn check(&self, verb: Verb) -> Result<Phase> {
        let phase = self.sound_look().await?.phase;
        verb.check(phase).map(|()| phase)
    }

    /// Copies, and goes on copying what is appended, until the move is over: the way back too, once there is one. Helps on whoever
    /// closed a store and did not come back. May run in several processes.
    ///
    /// # Errors
    /// What does not pass by itself: differences (`Corrupt`), `HistoryLost`, `Denied`. What passes is waited out.
    ///
    /// # Cancel safety
    /// It can be dropped anywhere.
    pub async fn run(&self, pace: Pace, observer: Option<&Observer>) -> Result<Phase> {
        let mut runner = Runner { pace, governor: None, closed_since: None, carried_at: None, pause: PAUSE_MIN };
        loop {
            match self.run_step(&mut runner, observer).await {
                Ok(Some(phase)) => return Ok(phase),
                Ok(None) => runner.pause = PAUSE_MIN,
                Err(error) if passes(&error) => {
                    tracing::warn!(%error, pause = ?runner.pause, "a move waits for its stores");
                    if let Some(observer) = observer {
                        observer(News::Waits(&error));
                    }
                    tokio::time::sleep(runner.pause).await;
                    runner.pause = (runner.pause * 2).min(PAUSE_MAX);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn run_step(&self, runner: &mut Runner, observer: Option<&Observer>) -> Result<Option<Phase>> {
        let look = self.sound_look().await?;
        if !matches!(look.phase, Phase::Sealing(_) | Phase::Fenced(_) | Phase::Decided(_) | Phase::Rehearsing(_)) {
            runner.closed_since = None;
        }
        match look.phase {
            Phase::Copying(_) if notes::is_paused(&self.source).await? => {
                if let Some(observer) = observer {
                    observer(News::Paused);
                }
                tokio::time::sleep(POLL).await;
            }
            Phase::Copying(way) => self.copy_on(way, &look, runner, observer).await?,
            Phase::Sealing(way) | Phase::Fenced(way) | Phase::Decided(way) | Phase::Rehearsing(way) => {
                let since = *runner.closed_since.get_or_insert_with(Instant::now);
                let help_after = match look.phase {
                    // It is ended and not finished by a helper, and seals take their time: who rehearses needs all of it.
                    Phase::Rehearsing(_) if seal::is_needed(self.sides(way).0) => SEALED_MAX,
                    _ => HELP_AFTER,
                };
                if since.elapsed() < help_after {
                    tokio::time::sleep(PAUSE_MIN).await;
                } else if let Phase::Rehearsing(_) = look.phase {
                    self.end_rehearsal(way).await?;
                } else if let Settled::Differs(compared) = self.settle(way, None, None).await? {
                    return Err(differs(&compared));
                }
            }
            Phase::Moved(Way::Forth) => drop(self.begin(Way::Back, &look).await?),
            Phase::NotBegun => return Err(refused("nothing was begun between these stores", look.phase)),
            Phase::Moved(Way::Back) | Phase::GivenUp(_) | Phase::Finished => return Ok(Some(look.phase)),
        }
        Ok(None)
    }

    async fn copy_on(&self, way: Way, look: &Look, runner: &mut Runner, observer: Option<&Observer>) -> Result<()> {
        let (from, to) = self.sides(way);
        let filling = Filling::of(self.filled(way, look));
        if runner.governor.as_ref().is_none_or(|(of, _)| *of != way) {
            runner.governor = Some((way, Governor::begin(from).await));
        }
        let governor = runner.governor.as_mut().map(|(_, governor)| governor);
        let manner = Manner { pace: runner.pace, governor, most: Some(ROUND_MAX), ..Manner::default() };
        let copied = self.copy(way, filling, manner, observer).await?;
        if copied.positions > NEAR {
            return Ok(());
        }
        let compares_at = Instant::now();
        let compared = self.compare_new(way, observer).await?;
        if compared.count() > 0 {
            return Err(differs(&compared));
        }
        if let Some((_, governor)) = &mut runner.governor {
            let worked = compares_at.elapsed();
            governor.look(from).await;
            tokio::time::sleep(governor.rest(worked)).await;
        }
        // Snapshots are as many as streams: once here, and once more before and after a hand-over.
        if runner.carried_at.is_none() {
            carry::snapshots(from, to, filling).await?;
        }
        if runner.carried_at.is_none_or(|at| at.elapsed() > CARRY_EVERY) {
            carry::checkpoints(from, to, filling).await?;
            // One who took over and was killed may not have told those who can only read.
            self.tell_owner(way).await?;
            runner.carried_at = Some(Instant::now());
        }
        // One by one would cost the owner a read for each append.
        tokio::time::sleep(GATHER).await;
        if copied.positions == 0 {
            let after = Cursor::total(look.source.incarnation(), copied.through);
            from.store.wait_feed(WaitFeed { after, deadline: Deadline::within(POLL) }).await?;
        }
        Ok(())
    }

    async fn copy(
        &self,
        way: Way,
        mut filling: Filling,
        mut manner: Manner<'_>,
        observer: Option<&Observer>,
    ) -> Result<copy::Copied> {
        let (from, to) = self.sides(way);
        for _ in 0..LOOKS_MAX {
            let Manner { pace, most, behind, ref mut governor } = manner;
            let manner = Manner { pace, governor: governor.as_deref_mut(), most, behind };
            let error = match copy::round(from, to, filling, manner, observer).await {
                Ok(copied) => return Ok(copied),
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Fenced) => error,
                Err(error) => return Err(error),
            };
            // A restart or a failover that came after the look is why, perhaps: then what was read has to be read again.
            let look = self.sound_look().await?;
            let now = Filling::of(self.filled(way, &look));
            if error.kind() == ErrorKind::Conflict || now == filling || now.epoch != filling.epoch {
                return Err(error);
            }
            filling = now;
        }
        Err(contended())
    }

    /// Copies once, up to where the owner's feed ends now.
    ///
    /// # Errors
    /// As the stores; `Conflict` where nothing is to be copied now.
    pub async fn catch_up(&self, pace: Pace, observer: Option<&Observer>) -> Result<Position> {
        let look = self.sound_look().await?;
        let Phase::Copying(way) = look.phase else {
            return Err(refused("nothing is copied now", look.phase));
        };
        let manner = Manner { pace, ..Manner::default() };
        Ok(self.copy(way, Filling::of(self.filled(way, &look)), manner, observer).await?.through)
    }

    /// Reads both stores and compares all that the one that is filled holds, or after a move what both do. What is found stands in the
    /// way of a hand-over: that compares all of it again.
    ///
    /// # Errors
    /// As the stores; `Conflict` where nothing was begun; `Corrupt` where one of them is damaged.
    pub async fn verify(&self, observer: Option<&Observer>) -> Result<Compared> {
        let look = self.sound_look().await?;
        let Some(way) = way_of(look.phase) else {
            return Err(refused("nothing was begun between these stores", look.phase));
        };
        let (from, to) = self.sides(way);
        let (one, other) = (from.settled_head().await?, to.head().await?);
        let owner_has_more = matches!(look.phase, Phase::Moved(_) | Phase::Finished | Phase::GivenUp(_));
        let through = if owner_has_more { one.min(other) } else { other };
        let filled = self.filled(way, &look);
        let compared = compare::run(from, to, Position(0), through, observer).await;
        match &compared {
            Ok(found) if found.count() == 0 => notes::set_compared(to, filled, through).await?,
            Err(error) if error.kind() != ErrorKind::Corrupt => {}
            Ok(_) | Err(_) => notes::set_compared(to, filled, Position(0)).await?,
        }
        compared
    }

    /// Hands the streams over to the target. The source is closed for as long as the rest takes, and never again after that.
    ///
    /// # Errors
    /// As the stores. A failure before the decision opens the source again, if it can be reached; else a repeat goes on.
    pub async fn cutover(&self, patience: Duration, observer: Option<&Observer>) -> Result<Settled> {
        Verb::Cutover.check(self.sound_look().await?.phase)?;
        self.hand_over(Way::Forth, patience, observer).await
    }

    /// Hands the streams back to the source, with all that was appended since.
    ///
    /// # Errors
    /// As [`cutover`](Self::cutover).
    pub async fn rollback(&self, patience: Duration, observer: Option<&Observer>) -> Result<Settled> {
        let look = self.sound_look().await?;
        Verb::Rollback.check(look.phase)?;
        if matches!(look.phase, Phase::Moved(Way::Forth) | Phase::GivenUp(Way::Back)) {
            self.begin(Way::Back, &look).await?;
        }
        self.hand_over(Way::Back, patience, observer).await
    }

    /// Gives the move up before it is decided, or a rollback that has closed the target. The owner stays the owner.
    ///
    /// # Errors
    /// `Conflict` where it is decided already.
    pub async fn abort(&self) -> Result<Phase> {
        for way in [Way::Forth, Way::Back] {
            let (from, to) = self.sides(way);
            if from.release(&to.name).await? || from.release(&from.name).await? {
                return Ok(Phase::GivenUp(way));
            }
        }
        for _ in 0..LOOKS_MAX {
            let look = self.look().await?;
            Verb::Abort.check(look.phase)?;
            let (Phase::Copying(way) | Phase::Sealing(way) | Phase::Fenced(way)) = look.phase else {
                return Ok(look.phase);
            };
            let owner = self.owner(way, &look);
            if self.sides(way).0.swap(owner, phase::given_up(owner)).await? {
                return Ok(Phase::GivenUp(way));
            }
        }
        Err(contended())
    }

    /// Ends the move: the source is left for good, and there is no way back. Ended already is success.
    ///
    /// # Errors
    /// `Conflict` where the target has not taken over, or a rollback is under way.
    pub async fn finish(&self) -> Result<Phase> {
        for _ in 0..LOOKS_MAX {
            let look = self.sound_look().await?;
            Verb::Finish.check(look.phase)?;
            let made = match look.phase {
                Phase::Finished => return Ok(look.phase),
                // The way back is given up in the owner's record, where a rollback would have to close it.
                Phase::Copying(_) => self.target.swap(&look.target, phase::given_up(&look.target)).await?,
                _ => self.source.swap(&look.source, phase::retired(&look.source, &self.target.name)).await?,
            };
            tracing::debug!(made, "a step of finishing");
        }
        Err(contended())
    }

    async fn begin(&self, way: Way, look: &Look) -> Result<Phase> {
        let (from, to) = self.sides(way);
        let (owner, filled) = (self.owner(way, look), self.filled(way, look));
        let empty = is_empty(to).await?;
        let continues = phase::shared_end(owner, filled).is_some() && owner.incarnation() != filled.incarnation();
        let head = if continues { self.check_prefix(way, owner, filled).await? } else { to.head().await? };
        let importing = phase::importing((&from.name, owner), (&to.name, filled), empty, head)?;
        if !to.swap(filled, importing.clone()).await? {
            return Err(contended());
        }
        if filled.state == StoreState::Open && !is_empty(to).await? {
            // An append came in between the look and the closing of the store: it is somebody's store, and stays it.
            to.swap(&importing, Meta { epoch: importing.epoch.next(), ..phase::open(&importing) }).await?;
            return Err(Error::new(ErrorKind::Conflict, "the target is in use; a move needs an empty one")
                .with("store", &to.name));
        }
        Ok(Phase::Copying(way))
    }

    async fn hand_over(&self, way: Way, patience: Duration, observer: Option<&Observer>) -> Result<Settled> {
        let look = self.sound_look().await?;
        if look.phase != Phase::Copying(way) {
            return self.settle(way, None, None).await;
        }
        let listed = match self.come_near(way, &look, patience, observer).await? {
            Near::Closes(listed) => listed,
            Near::Not(settled) => return Ok(settled),
        };
        let (from, to) = self.sides(way);
        let owner = self.owner(way, &look);
        let closed_at = Instant::now();
        if !from.swap(owner, closed(from, owner, &to.name)).await? {
            return Err(contended());
        }
        self.settle(way, Some(closed_at), listed).await
    }

    /// Copies until so little is left that the owner can be closed for it; else says why not.
    async fn come_near(&self, way: Way, look: &Look, patience: Duration, observer: Option<&Observer>) -> Result<Near> {
        if notes::is_paused(&self.source).await? {
            let message = "the copy is paused; resume it first";
            return Err(Error::new(ErrorKind::Conflict, message).with("phase", look.phase.name()));
        }
        let (from, to) = self.sides(way);
        let filling = Filling::of(self.filled(way, look));
        let began = Instant::now();
        carry::snapshots(from, to, filling).await?;
        let listed = match seal::is_needed(from) {
            true => Some(Listed::look(from, None).await?),
            false => None,
        };
        loop {
            // While others append, a feed that comes about behind them is never settled, and waiting for that would let more come than may be left.
            let manner = Manner { behind: NEAR, ..Manner::default() };
            let copied = self.copy(way, filling, manner, observer).await?;
            let compared = self.compare_new(way, observer).await?;
            if compared.count() > 0 {
                return Ok(Near::Not(Settled::Differs(Box::new(compared))));
            }
            if copied.positions <= NEAR {
                break;
            }
            if began.elapsed() > patience {
                return Ok(Near::Not(Settled::Behind { lag: copied.positions }));
            }
        }
        carry::checkpoints(from, to, filling).await?;
        Ok(Near::Closes(listed))
    }

    /// Closes the owner as a hand-over does, copies and compares the rest, and opens it again: what is measured is the pause, and what is
    /// found is what a hand-over would have met. Nothing moves.
    ///
    /// # Errors
    /// As [`cutover`](Self::cutover). A process that is killed inside leaves the owner closed until a run, an abort or another rehearsal
    /// opens it.
    pub async fn rehearse(&self, patience: Duration, observer: Option<&Observer>) -> Result<Settled> {
        let look = self.sound_look().await?;
        Verb::Rehearse.check(look.phase)?;
        if let Phase::Rehearsing(way) = look.phase {
            self.end_rehearsal(way).await?;
            return Err(contended());
        }
        let Phase::Copying(way) = look.phase else {
            return Err(refused("there is no copy to rehearse with", look.phase));
        };
        let listed = match self.come_near(way, &look, patience, observer).await? {
            Near::Closes(listed) => listed,
            Near::Not(settled) => return Ok(settled),
        };
        let from = self.sides(way).0;
        let owner = self.owner(way, &look);
        let closed_at = Instant::now();
        if !from.swap(owner, closed(from, owner, &from.name)).await? {
            return Err(contended());
        }
        let rest = self.while_closed(way, listed, self.copy_rest(way, Filling::of(self.filled(way, &look)))).await;
        from.release(&from.name).await.map_err(|error| error.with("closed", &from.name))?;
        let pause = closed_at.elapsed();
        self.end_rehearsal(way).await?;
        match rest? {
            Rest::Same { end, compared } => {
                notes::add_pause(from, pause).await?;
                let epoch = from.meta().await?.epoch;
                Ok(Settled::Done(Box::new(Cutover { way, epoch, end, pause: Some(pause), compared })))
            }
            Rest::Differs(compared) => Ok(Settled::Differs(Box::new(compared))),
        }
    }

    /// Opens the owner again and goes on copying, from wherever a rehearsal was left.
    async fn end_rehearsal(&self, way: Way) -> Result<()> {
        let from = self.sides(way).0;
        from.release(&from.name).await.map_err(|error| error.with("closed", &from.name))?;
        let look = self.look().await?;
        match look.phase {
            Phase::GivenUp(of) if of == way => match self.begin(way, &look).await {
                // Another one was faster.
                Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
                begun => begun.map(drop),
            },
            _ => Ok(()),
        }
    }

    /// Copies the rest, compares, decides and opens, from wherever that stands. What fails before the decision gives the move up, so
    /// that the owner is closed for no longer than it has to be.
    async fn settle(&self, way: Way, closed_at: Option<Instant>, listed: Option<Listed>) -> Result<Settled> {
        let (from, to) = self.sides(way);
        let decided = self.while_closed(way, listed, self.decide(way)).await;
        let compared = match decided {
            Ok(Decision::Made(compared)) => compared,
            Ok(Decision::Differs(compared)) => {
                from.release(&to.name).await?;
                return Ok(Settled::Differs(Box::new(compared)));
            }
            Err(error) => {
                // The other store may be the one that failed: it is not asked. A decision whose answer was lost stands.
                let released = from.release(&to.name).await;
                let is_decided = self.is_decided(way).await && error.kind() != ErrorKind::HistoryLost;
                match (is_decided, released) {
                    (true, _) => Compared::default(),
                    (false, Ok(_)) => return Err(error),
                    (false, Err(other)) => {
                        tracing::warn!(error = %other, "the store that was closed could not be opened again");
                        return Err(error.with("closed", &from.name));
                    }
                }
            }
        };
        self.open(way).await?;
        let pause = closed_at.map(|at| at.elapsed());
        let told = async {
            self.tell_owner(way).await?;
            match pause {
                Some(pause) => notes::add_pause(to, pause).await,
                None => Ok(()),
            }
        };
        // It is done, and a run tells them as well.
        if let Err(error) = told.await {
            tracing::warn!(%error, "what is told beside a move was left out");
        }
        let look = self.look().await?;
        let end = self.owner(way, &look).state.end().unwrap_or(compared.through);
        let epoch = self.filled(way, &look).epoch;
        // They are hints: a store that can't take them is not worse off than without a move.
        if let Err(error) = carry::later_snapshots(from, to).await {
            tracing::warn!(%error, "snapshots that were taken last were left behind");
        }
        Ok(Settled::Done(Box::new(Cutover { way, epoch, end, pause, compared })))
    }

    /// Does what is to be done once an owner is closed, in the time for which it may be; most streams are sealed before, where each has to be.
    async fn while_closed<T>(
        &self,
        way: Way,
        listed: Option<Listed>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        in_time(SEALING_MAX, self.seal_quiet(way, listed)).await?;
        in_time(closed_max(self.sides(way).0), work).await
    }

    /// Seals most streams of an owner whose record alone does not close it, while the others go on, and then closes the record. Any other owner
    /// is closed already.
    async fn seal_quiet(&self, way: Way, mut listed: Option<Listed>) -> Result<()> {
        let from = self.sides(way).0;
        for _ in 0..LOOKS_MAX {
            let look = self.sound_look().await?;
            let owner = self.owner(way, &look);
            let StoreState::Leaving { to: there } = &owner.state else { return Ok(()) };
            let filling = Filling::of(self.filled(way, &look));
            let seals = async {
                let listed = match listed.take() {
                    Some(listed) => listed,
                    None => Listed::look(from, Some(owner.epoch)).await?,
                };
                seal::quiet(from, there, owner.epoch, listed).await
            };
            // Beside it, so that little is left to copy and compare when the last ones are sealed.
            match futures::future::select(pin!(seals), pin!(self.copy_beside(way, filling))).await {
                Either::Left((sealed, _)) => sealed?,
                Either::Right((error, _)) => return Err(error),
            }
            self.copy(way, filling, Manner { behind: NEAR, ..Manner::default() }, None).await?;
            self.compare_new(way, None).await?;
            from.swap(owner, phase::fenced(owner, there)).await?;
        }
        Err(contended())
    }

    /// Copies and compares what there is, again and again until it is dropped. What differs is found again once all is copied.
    async fn copy_beside(&self, way: Way, filling: Filling) -> Error {
        loop {
            let copied = async {
                // As far as the feed has come: what is sealed gets its positions in the meantime.
                let manner = Manner { most: Some(ROUND_MAX), behind: u64::MAX, ..Manner::default() };
                self.copy(way, filling, manner, None).await?;
                self.compare_new(way, None).await
            };
            if let Err(error) = copied.await {
                return error;
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    async fn is_decided(&self, way: Way) -> bool {
        self.look().await.is_ok_and(|look| took_over(look.phase, way))
    }

    async fn decide(&self, way: Way) -> Result<Decision> {
        let (from, to) = self.sides(way);
        for _ in 0..LOOKS_MAX {
            let look = self.sound_look().await?;
            if took_over(look.phase, way) {
                return Ok(Decision::Made(Compared::default()));
            }
            if look.phase != Phase::Fenced(way) {
                return Err(refused("another command changed the move meanwhile", look.phase));
            }
            let owner = self.owner(way, &look);
            let (end, compared) = match self.copy_rest(way, Filling::of(self.filled(way, &look))).await? {
                Rest::Same { end, compared } => (end, compared),
                Rest::Differs(compared) => return Ok(Decision::Differs(compared)),
            };
            if from.swap(owner, phase::moved(owner, &to.name, end)).await? {
                return Ok(Decision::Made(compared));
            }
        }
        Err(contended())
    }

    /// Copies and compares what is left of a store that is closed.
    async fn copy_rest(&self, way: Way, filling: Filling) -> Result<Rest> {
        let (from, to) = self.sides(way);
        let copied = if seal::is_needed(from) {
            self.seal_and_copy(way, filling).await?
        } else {
            self.copy(way, filling, Manner::default(), None).await?
        };
        let compared = self.compare_new(way, None).await?;
        if compared.count() > 0 {
            return Ok(Rest::Differs(compared));
        }
        carry::checkpoints(from, to, filling).await?;
        carry::check_checkpoints(from, to).await?;
        let end = to.head().await?;
        if end != copied.through || end != compared.through {
            return Err(Error::new(ErrorKind::Conflict, "the copy does not end where its source does")
                .with("source_last", copied.through)
                .with("last", end));
        }
        Ok(Rest::Same { end, compared })
    }

    /// Seals what is left of a store that is closed, and copies up to the seals.
    async fn seal_and_copy(&self, way: Way, filling: Filling) -> Result<copy::Copied> {
        let (from, to) = self.sides(way);
        let closed = from.meta().await?;
        // Of another attempt, or decided: whoever closed it sees to it.
        let StoreState::Fenced { to: there } = &closed.state else { return Err(contended()) };
        seal::all(from, there, closed.epoch).await?;
        // The time that a store may be closed ends it.
        loop {
            let copied = self.copy(way, filling, Manner::default(), None).await?;
            if seal::is_copied(from, to).await? {
                return Ok(copied);
            }
            tokio::time::sleep(BEHIND_PAUSE).await;
        }
    }

    /// Tells those who may only read which of the two stores is the owner; they can't ask.
    async fn tell_owner(&self, way: Way) -> Result<()> {
        let look = self.look().await?;
        let (left, owner) = match look.phase {
            Phase::Moved(of) if of == way => self.sides(way),
            Phase::Copying(of) => (self.sides(of).1, self.sides(of).0),
            _ => return Ok(()),
        };
        notes::set_owner(owner, None).await?;
        notes::set_owner(left, Some(&owner.name)).await
    }

    /// Opens the store that the decision names. It has to succeed: nobody else takes appends any more.
    async fn open(&self, way: Way) -> Result<()> {
        let to = self.sides(way).1;
        for _ in 0..LOOKS_MAX {
            // It may have lost, by a failover since it was compared, what it is opened with.
            let look = self.sound_look().await?;
            if look.phase != Phase::Decided(way) {
                return Ok(());
            }
            let (filled, owner) = (self.filled(way, &look), self.owner(way, &look));
            // Nothing is left to compare, unless a history began here since: then it may have lost something, and a copy may have come
            // late that was read from a history which is lost.
            let head = to.head().await?;
            if owner.state.end() != Some(head) || self.compare_new(way, None).await?.count() > 0 {
                return Err(phase::lost(owner, filled).with("last", head));
            }
            to.swap(filled, phase::open(filled)).await?;
        }
        Err(contended())
    }

    /// Compares what came since it was compared last.
    async fn compare_new(&self, way: Way, observer: Option<&Observer>) -> Result<Compared> {
        let (from, to) = self.sides(way);
        let (filled, through) = (to.meta().await?, to.head().await?);
        let after = notes::compared(to, &filled).await?;
        let after = if after > through { Position(0) } else { after };
        let compared = compare::run(from, to, after, through, observer).await?;
        if compared.count() == 0 && through > after {
            notes::set_compared(to, &filled, through).await?;
        }
        Ok(compared)
    }

    async fn look(&self) -> Result<Look> {
        let mut target = self.target.meta().await?;
        for _ in 0..LOOKS_MAX {
            let source = self.source.meta().await?;
            let again = self.target.meta().await?;
            if again == target {
                let phase = phase::of((&self.source.name, &source), (&self.target.name, &target));
                return Ok(Look { phase, source, target });
            }
            target = again;
        }
        Err(contended())
    }

    /// A look before something is copied, compared or decided: both stores have to be of one history. A server that was restarted may
    /// have begun a new one; where nothing is lost, the store that is filled takes it over.
    async fn sound_look(&self) -> Result<Look> {
        for _ in 0..LOOKS_MAX {
            let look = self.look().await?;
            let (way, is_decided) = match look.phase {
                Phase::NotBegun => return Ok(look),
                Phase::Copying(way) | Phase::Sealing(way) | Phase::Fenced(way) | Phase::Rehearsing(way) => (way, false),
                Phase::Decided(way) => (way, true),
                Phase::Moved(_) | Phase::GivenUp(_) | Phase::Finished => {
                    phase::check_related(&look.source, &look.target)?;
                    return Ok(look);
                }
            };
            let (owner, filled) = (self.owner(way, &look), self.filled(way, &look));
            if owner.incarnation() == filled.incarnation() {
                return Ok(look);
            }
            let lineage = if is_decided {
                self.fill_again(way, owner, filled).await?;
                // It has all there is, and the other one may have lost it since.
                phase::decided_on(filled, owner, owner.state.end().unwrap_or_default())
            } else {
                let head = self.check_prefix(way, owner, filled).await?;
                phase::taken_over(owner, filled, head)
            };
            if lineage == filled.lineage {
                return Ok(look);
            }
            self.sides(way).1.swap(filled, Meta { lineage, ..filled.clone() }).await?;
        }
        Err(contended())
    }

    /// Copies once more what the store has lost that is about to be opened: it owns all of it, and takes no appends yet. It is compared
    /// before it is opened.
    async fn fill_again(&self, way: Way, owner: &Meta, filled: &Meta) -> Result<()> {
        let (from, to) = self.sides(way);
        let end = owner.state.end().unwrap_or_default();
        if to.head().await? < end {
            copy::round(from, to, Filling::of(filled), Manner::default(), None).await?;
        }
        Ok(())
    }

    /// Checks that a store holds nothing that its owner has lost; gives where it ends.
    async fn check_prefix(&self, way: Way, owner: &Meta, filled: &Meta) -> Result<Position> {
        let (from, to) = self.sides(way);
        let Some(shared) = phase::shared_end(owner, filled) else { return Err(phase::lost(owner, filled)) };
        let head = to.head().await?;
        if head > shared {
            // Copied after the restart, perhaps, and not lost by it: the content tells.
            let compared = compare::run(from, to, shared, head, None).await?;
            if compared.count() > 0 {
                return Err(phase::lost(owner, filled).with("lost_after", shared));
            }
        }
        Ok(head)
    }

    fn sides(&self, way: Way) -> (&Side, &Side) {
        match way {
            Way::Forth => (&self.source, &self.target),
            Way::Back => (&self.target, &self.source),
        }
    }

    fn owner<'a>(&self, way: Way, look: &'a Look) -> &'a Meta {
        match way {
            Way::Forth => &look.source,
            Way::Back => &look.target,
        }
    }

    fn filled<'a>(&self, way: Way, look: &'a Look) -> &'a Meta {
        match way {
            Way::Forth => &look.target,
            Way::Back => &look.source,
        }
    }
}

/// What a run remembers between two steps. All of it may be forgotten.
struct Runner {
    pace: Pace,
    /// Of the store that is copied; learnt anew when the way changes.
    governor: Option<(Way, Governor)>,
    closed_since: Option<Instant>,
    carried_at: Option<Instant>,
    pause: Duration,
}

/// Whether so little is left that an owner can be closed for it.
enum Near {
    /// It is, with the streams that are to be sealed, where each has to be.
    Closes(Option<Listed>),
    Not(Settled),
}

/// What was left to copy once the owner was closed.
enum Rest {
    Same { end: Position, compared: Compared },
    Differs(Compared),
}

enum Decision {
    Made(Compared),
    Differs(Compared),
}

/// Which way a phase goes; none where nothing was begun.
fn way_of(phase: Phase) -> Option<Way> {
    match phase {
        Phase::Copying(way)
        | Phase::Sealing(way)
        | Phase::Fenced(way)
        | Phase::Rehearsing(way)
        | Phase::Decided(way)
        | Phase::Moved(way)
        | Phase::GivenUp(way) => Some(way),
        Phase::Finished => Some(Way::Forth),
        Phase::NotBegun => None,
    }
}

/// Whether a hand-over is decided, by whomever; what comes after it may have begun too.
fn took_over(phase: Phase, way: Way) -> bool {
    match (phase, way) {
        (Phase::Decided(done) | Phase::Moved(done), _) => done == way,
        (Phase::Copying(Way::Back) | Phase::GivenUp(Way::Back) | Phase::Finished, Way::Forth) => true,
        _ => false,
    }
}

/// All of them, and those that are sealed.
async fn count_streams(side: &Side) -> Result<(u64, u64)> {
    let (mut pages, mut count, mut sealed) = (crate::pages::Streams::all(&*side.store), 0, 0);
    while let Some(page) = pages.next(&*side.store).await.map_err(|error| side.named(error))? {
        count += page.len() as u64;
        let is_sealed = |state: &StreamState| matches!(state, StreamState::Sealed { to, .. } if *to != side.name);
        sealed += page.iter().filter(|listed| is_sealed(&listed.head.state)).count() as u64;
    }
    Ok((count, sealed))
}

/// The record that closes an owner, or that begins to where each of its streams has to be.
fn closed(from: &Side, owner: &Meta, to: &StoreName) -> Meta {
    if seal::is_needed(from) { phase::leaving(owner, to) } else { phase::fenced(owner, to) }
}

fn closed_max(side: &Side) -> Duration {
    if seal::is_needed(side) { SEALED_MAX } else { CLOSED_MAX }
}

async fn in_time<T>(most: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(most, work).await.unwrap_or_else(|_| {
        let message = "the rest was not copied and compared in time";
        Err(Error::new(ErrorKind::DeadlineExceeded, message).with("seconds", most.as_secs()))
    })
}

async fn is_empty(side: &Side) -> Result<bool> {
    let first = crate::pages::Streams::all(&*side.store).at_most(1).next(&*side.store).await?;
    Ok(side.settled_head().await?.0 == 0 && first.is_none_or(|streams| streams.is_empty()))
}

fn passes(error: &Error) -> bool {
    matches!(error.advice(), Advice::RetryLater | Advice::AllowMoreTime | Advice::RepeatSameCommit)
}

fn refused(message: &'static str, phase: Phase) -> Error {
    Error::new(ErrorKind::Conflict, message).with("phase", phase.name())
}

fn contended() -> Error {
    Error::new(ErrorKind::Conflict, "another command changed the stores at the same time; look again")
}

fn differs(compared: &Compared) -> Error {
    let error =
        Error::new(ErrorKind::Corrupt, "the copy differs from its source").with("differences", compared.count());
    match compared.differences.first() {
        Some(first) => error.with("first", format_args!("position {}: {}", first.position, first.detail)),
        None => error,
    }
}
