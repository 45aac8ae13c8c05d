//! A store whose backward reads are not its forward reads.

use super::Mutant;
use super::defect::{Defect, mutant};
use async_trait::async_trait;
use evstore_api::{Direction, EventStore, ReadStream, Result, StreamPage, StreamStart};

pub(super) static MUTANTS: &[Mutant] = &[mutant::<ExclusiveBackward>(
    "streams.backward-begins-below",
    "a backward read begins below the revision that was asked for",
    &["streams.are-read-from-anywhere-in-both-directions"],
)];

#[derive(Debug, Default)]
struct ExclusiveBackward;

#[async_trait]
impl Defect for ExclusiveBackward {
    async fn read_stream(&self, store: &dyn EventStore, mut request: ReadStream) -> Result<StreamPage> {
        if let (Direction::Backward, StreamStart::At(revision)) = (request.direction, &mut request.from)
            && revision.0 > 1
        {
            revision.0 -= 1;
        }
        store.read_stream(request).await
    }
}
