//! The archived commits in the order of the feed. Segments overlap where only some streams were archived at first.

use crate::archive::Archive;
use crate::catalog::{Catalog, Segment};
use crate::segment::Index;
use evstore_api::{Commit, Deadline, Position, Result, Usage};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

/// A walk over what is archived from a position on.
#[derive(Debug)]
pub struct Cold<'a> {
    archive: &'a Archive,
    catalog: Arc<Catalog>,
    from: u64,
    deadline: Deadline,
    /// Segments that were not begun, by their first positions.
    segments: VecDeque<usize>,
    /// Segments that were, with their indexes.
    begun: Vec<(usize, Arc<Index>)>,
    /// Frames of those that were not read: first position, which of the begun, which frame.
    frames: BinaryHeap<Reverse<(u64, usize, usize)>>,
    /// Commits that were read and not given, by their first positions.
    ready: BTreeMap<u64, Commit>,
}

impl<'a> Cold<'a> {
    /// From a position on.
    pub fn new(archive: &'a Archive, catalog: Arc<Catalog>, from: Position, deadline: Deadline) -> Self {
        let mut segments: Vec<usize> =
            (0..catalog.segments.len()).filter(|at| catalog.segments[*at].last >= from.0).collect();
        segments.sort_by_key(|at| catalog.segments[*at].first);
        let (begun, frames, ready) = (Vec::new(), BinaryHeap::new(), BTreeMap::new());
        Self { archive, catalog, from: from.0, deadline, segments: segments.into(), begun, frames, ready }
    }

    /// The next commit that ends at a position or behind it and begins no later than another one; what was truncated or deleted since
    /// is left out. None where there is no such.
    ///
    /// # Errors
    /// As reading objects; `Corrupt`, saying where.
    pub async fn next(&mut self, from: Position, until: Position, usage: &mut Usage) -> Result<Option<Commit>> {
        loop {
            while let Some(entry) = self.ready.first_entry() {
                if self.frames.peek().is_some_and(|Reverse((first, ..))| *first <= *entry.key())
                    || self.segments.front().is_some_and(|at| self.catalog.segments[*at].first <= *entry.key())
                {
                    break;
                }
                if *entry.key() > until.0 {
                    return Ok(None);
                }
                let commit = entry.remove();
                let behind = commit.last_position().is_none_or(|last| last < from);
                if !behind && !self.catalog.is_gone(&commit) {
                    return Ok(Some(commit));
                }
            }
            if !self.read_more(until, usage).await? {
                return Ok(None);
            }
        }
    }

    /// Reads the frame that comes next; false where it begins too late, or there is none.
    async fn read_more(&mut self, until: Position, usage: &mut Usage) -> Result<bool> {
        let next_frame = self.frames.peek().map(|Reverse((first, ..))| *first);
        let next_segment = self.segments.front().map(|at| self.catalog.segments[*at].first);
        match (next_frame, next_segment) {
            (None, None) => Ok(false),
            (frame, Some(segment)) if frame.is_none_or(|frame| segment <= frame) => {
                if segment > until.0 {
                    return Ok(false);
                }
                self.begin(usage).await?;
                Ok(true)
            }
            (Some(frame), _) if frame > until.0 => Ok(false),
            _ => {
                let Some(Reverse((_, begun, at))) = self.frames.pop() else { return Ok(false) };
                let (segment, index) = (self.segment(begun).clone(), self.begun[begun].1.clone());
                let commits = self.archive.frame(&segment, &index, at, self.deadline, usage).await?;
                let positioned = commits.into_iter().filter_map(|commit| Some((commit.first_position?.0, commit)));
                self.ready.extend(positioned);
                Ok(true)
            }
        }
    }

    fn segment(&self, begun: usize) -> &Segment {
        &self.catalog.segments[self.begun[begun].0]
    }

    async fn begin(&mut self, usage: &mut Usage) -> Result<()> {
        let Some(at) = self.segments.front().copied() else { return Ok(()) };
        let index = self.archive.index(&self.catalog.segments[at], self.deadline, usage).await?;
        self.segments.pop_front();
        let begun = self.begun.len();
        for (number, frame) in index.frames.iter().enumerate().filter(|(_, frame)| frame.last >= self.from) {
            self.frames.push(Reverse((frame.first, begun, number)));
        }
        self.begun.push((at, index));
        Ok(())
    }
}
