//! Bytes in, the same bytes out: properties 37, 161 to 170.

use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, event_type, page_of};
use bytes::Bytes;
use evstore_api::capabilities::Limit;
use evstore_api::{
    CommitId, CommitNumber, ContentType, Event, EventId, EventType, Expected, Extension, Head, NewCommit, NewEvent,
    ReadCommits, Result, StreamId, Timestamp, format,
};

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "payload.every-byte-comes-back",
        "data and metadata of any bytes come back on every way as they were: empty, NUL, invalid UTF-8, long characters, large numbers",
        [161, 162, 167],
        every_byte_comes_back
    ),
    check!(
        "payload.every-field-comes-back",
        "id, type, schema, content type, extensions, time and bytes of an event come back the same on every way of reading",
        [162, 166, 168, 170],
        every_field_comes_back
    ),
    check!(
        "payload.events-up-to-the-limit",
        "an event of the declared bytes is stored, one byte more is refused and nothing of its commit is stored",
        [163, 167],
        events_up_to_the_limit
    ),
    check!(
        "payload.commits-up-to-the-limit-of-bytes",
        "a commit of the declared bytes is stored whole, one byte more is refused and nothing of it is stored",
        [37, 163],
        commits_up_to_the_limit_of_bytes
    ),
    check!(
        "payload.commits-up-to-the-limit-of-events",
        "a commit of the declared number of events is stored whole, one more is refused and nothing of it is stored; with no limit \
         declared every number is",
        [37],
        commits_up_to_the_limit_of_events
    ),
    check!(
        "payload.the-largest-event-is-read-on-every-way",
        "an event of the declared bytes comes back whole from its stream, the feed and the slots",
        [164],
        the_largest_event_is_read_on_every_way
    ),
    check!(
        "payload.a-critical-extension-is-refused",
        "an extension that a reader must understand and no release knows is refused, and nothing is stored",
        [192],
        a_critical_extension_is_refused
    ),
];

/// What is beyond the own bounds of every engine that is known, where a store declares no bound: rows of a batch, parameters
/// of a statement, items of a transaction; a packet, a document, a message of 16 MiB; a value of 4 MiB.
const EVENTS_BEYOND: [u64; 2] = [1_001, 10_001];
const COMMIT_BEYOND: u64 = 17 << 20;
pub(super) const STATE_BEYOND: usize = 5 << 20;

/// Bytes that no compression makes smaller.
pub(super) fn incompressible(context: &Context, count: usize) -> Bytes {
    let mut seed = context.seed();
    let mut data = Vec::with_capacity(count + 16);
    while data.len() < count {
        data.extend(seed.bytes());
    }
    data.truncate(count);
    data.into()
}

/// Bytes that something on the way could take for something else.
fn hostile_bytes(context: &Context) -> Vec<Bytes> {
    let every: Vec<u8> = (0..=255).collect();
    let texts = [
        "",
        "\0",
        "\0\0",
        "a\0b",
        " ",
        "\r\n",
        "null",
        "NaN",
        "{}",
        "{\"a\":12345678901234567890,\"b\":1e400,\"a\":1}",
        "[NaN]",
        "{ \"b\" : 1.0 , \"a\" : \"\\u0000\" }",
        "🦀𝒳",
        "\u{feff}bom",
        "'; drop table commits; --",
        "{\"$type\":\"x\",\"a.b\":1}",
        "e\u{301}",
        "-0",
        "aGVsbG8=",
        "\\x00",
    ];
    let raw = [
        every,
        vec![0xff, 0xfe],
        vec![0xc3, 0x28],
        vec![0xed, 0xa0, 0x80],
        vec![0x28, 0xb5, 0x2f, 0xfd],
        vec![0x1f, 0x8b, 8],
    ];
    let mut all: Vec<Bytes> = texts.into_iter().map(Bytes::from).chain(raw.into_iter().map(Bytes::from)).collect();
    all.push(vec![0; 5_000].into());
    all.push(incompressible(context, 5_000));
    all
}

async fn every_byte_comes_back(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let hostile = hostile_bytes(&context);
    let events: Vec<_> = hostile
        .iter()
        .zip(hostile.iter().rev())
        .map(|(data, metadata)| {
            let mut event = NewEvent::new(event_type("Tried"), data.clone());
            event.metadata = metadata.clone();
            event
        })
        .collect();
    for events in events.chunks(8) {
        context.append_events(&stream, Expected::Any, events.to_vec()).await?;
    }
    for (way, found) in on_every_way(&context, &stream, events.len()).await? {
        ensure_eq!(found.len(), events.len(), "events from {way}");
        for (stored, given) in found.iter().zip(&events) {
            let (stored, given) = ((&stored.data, &stored.metadata), (&given.data, &given.metadata));
            ensure_eq!(stored, given, "data and metadata from {way}");
        }
    }
    Ok(Outcome::Held)
}

/// Events that differ in every field.
fn all_fields(context: &Context) -> Result<Vec<NewEvent>> {
    let mut seed = context.seed();
    let plain = context.event();
    let json = NewEvent {
        id: Some(EventId(seed.bytes())),
        event_type: EventType::new("order.placed/v2 – ünïcode 🦀")?,
        schema: u32::MAX,
        content_type: ContentType::json(),
        data: "{\"amount\":1}".into(),
        metadata: "{\"correlation\":\"c-1\",\"causation\":\"c-0\",\"a.b\":null,\"$c\":[]}".into(),
        occurred_at: Some(Timestamp(1_234_567_890_123_456)),
        extensions: vec![
            Extension { tag: 1 << 31, critical: false, value: Bytes::new() },
            Extension { tag: u32::MAX, critical: false, value: vec![0, 255, 0].into() },
        ],
    };
    let bare = NewEvent { schema: 0, content_type: ContentType::new("")?, data: Bytes::new(), ..context.event() };
    let own = NewEvent { content_type: ContentType::new("application/avro; v=\"1\"")?, ..context.event() };
    let unknown = NewEvent::new(EventType::new("$unknown-to-every-reader")?, vec![0xff; 10]);
    Ok(vec![plain, json, bare, own, unknown])
}

/// The stored events of a stream, by every way of reading them.
async fn on_every_way(context: &Context, stream: &StreamId, count: usize) -> Result<Vec<(&'static str, Vec<Event>)>> {
    let mut ways = Vec::new();
    let events = |commits: &[evstore_api::Commit]| commits.iter().flat_map(|commit| commit.events.clone()).collect();
    ways.push(("the stream", events(&context.read(stream).await?.commits)));
    let other = context.another_client().await?;
    ways.push(("another client", events(&context.read_from(&*other, stream).await?.commits)));
    other.close().await?;
    let pages = context.feed_of_own_streams(count).await?;
    let of_stream = pages.iter().flat_map(|page| page.commits()).filter(|commit| commit.stream == *stream);
    ways.push(("the feed", of_stream.flat_map(|commit| commit.events.clone()).collect()));
    let (mut slots, mut next) = (Vec::new(), Some(CommitNumber(1)));
    while let Some(from) = next {
        let (stream, deadline) = (stream.clone(), context.deadline());
        let limit = page_of(context.capabilities());
        let request = ReadCommits { stream, from, limit, max_bytes: 1 << 20, deadline };
        let page = context.admin().read_commits(request).await?;
        slots.extend(page.commits);
        next = page.next;
    }
    ways.push(("the slots", events(&slots)));
    Ok(ways)
}

async fn every_field_comes_back(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let events = all_fields(&context)?;
    let (count, id) = (events.len(), context.commit_id());
    let request = context.request(&stream, Expected::Any, id, events)?;
    let wanted = request.commit.clone().recorded()?;
    context.store().append(request).await?;
    for (way, found) in on_every_way(&context, &stream, count).await? {
        ensure_eq!(found.len(), wanted.len(), "events from {way}");
        for (found, wanted) in found.iter().zip(&wanted) {
            ensure_eq!(found, wanted, "event from {way}");
        }
    }
    Ok(Outcome::Held)
}

/// Ends a check as broken unless a commit of these events comes back whole on every way of reading, with nothing else.
async fn whole_on_every_way(context: &Context, events: Vec<NewEvent>, what: &str) -> Result<(), Broken> {
    let stream = context.stream();
    let request = context.request(&stream, Expected::NoStream, context.commit_id(), events)?;
    let wanted = request.commit.clone().recorded()?;
    let made = context.store().append(request).await;
    let receipt = made.map_err(|error| Broken::new(format!("{what}: the append failed: {error:?}")))?;
    ensure_eq!(receipt.last.0, wanted.len() as u64, "{what}: last revision of the receipt");
    for (way, found) in on_every_way(context, &stream, wanted.len()).await? {
        ensure_eq!(found.len(), wanted.len(), "{what}: events from {way}");
        ensure!(found == wanted, "{what}: events are read with other bytes from {way}");
    }
    Ok(())
}

/// An event of so many bytes, some of them metadata where asked.
fn event_of(context: &Context, bytes: usize, metadata: usize) -> NewEvent {
    let mut event = NewEvent::new(event_type("T"), incompressible(context, bytes - metadata));
    event.metadata = incompressible(context, metadata);
    event
}

/// Most bytes of data and metadata, however divided, of an event of [`event_of`] that is alone in a commit of so many bytes.
pub(super) fn room_of_one(commit_bytes: u64) -> u64 {
    let id = CommitId([0; 16]);
    let frame = format::content_bytes(id, &[Event::recorded(NewEvent::new(event_type("T"), ""), id, 0)]);
    // Two lengths take a byte more for every seven bits.
    let more = |bytes: u64| u64::from((64 - bytes.leading_zeros()).div_ceil(7).max(1)) - 1;
    commit_bytes.saturating_sub(frame).saturating_sub(2 * more(commit_bytes))
}

/// What fits both limits, that of an event and that of its commit; what is beyond every engine's own where there is none.
fn largest_event(context: &Context) -> usize {
    let limits = context.capabilities().limits;
    let max = |limit| if let Limit::Max(max) = limit { Some(max) } else { None };
    let in_commit = max(limits.commit_bytes).map(room_of_one);
    max(limits.event_bytes).into_iter().chain(in_commit).min().unwrap_or(COMMIT_BEYOND) as usize
}

async fn events_up_to_the_limit(context: Context) -> Result<Outcome, Broken> {
    let max = largest_event(&context);
    let Limit::Max(declared) = context.capabilities().limits.event_bytes else {
        let event = event_of(&context, max, max / 2);
        whole_on_every_way(&context, vec![event], &format!("an event of {max} bytes, and no limit is declared"))
            .await?;
        return Ok(Outcome::Held);
    };
    ensure!(declared == max as u64, "events of {declared} bytes are declared, and no commit holds more than {max}");
    let stream = context.stream();
    let mut revision = 0;
    // Made once: it is the most of what this check costs.
    let bytes = incompressible(&context, max + 1);
    let sized = |size: usize, metadata: usize| {
        let mut event = NewEvent::new(event_type("T"), bytes.slice(metadata..size));
        event.metadata = bytes.slice(..metadata);
        event
    };
    for metadata in [0, max / 2, max] {
        let event = sized(max, metadata);
        context.append_events(&stream, Expected::Any, vec![event.clone()]).await?;
        revision += 1;
        let last = context.store().read_stream(context.read_request(&stream, evstore_api::StreamStart::Last)).await?;
        let stored = last.events().next().map(|one| (one.event.data.clone(), one.event.metadata.clone()));
        let same = stored == Some((event.data, event.metadata));
        ensure!(same, "the largest event, {metadata} bytes of it metadata, is read with other bytes");
        let events = vec![context.event(), sized(max + 1, metadata)];
        let result = context.append_events(&stream, Expected::Any, events).await;
        ensure_kind!(result, TooLarge, "an event of one byte too much");
        ensure_eq!(context.head(&stream).await?.revision.0, revision, "head after a refused append");
    }
    Ok(Outcome::Held)
}

/// Events whose commit has exactly so many bytes as limits count them.
fn commit_of(context: &Context, bytes: u64) -> Result<Option<NewCommit>> {
    let id = context.commit_id();
    let largest = largest_event(context);
    let count = |events: &[NewEvent]| {
        let recorded: Vec<_> = events.iter().cloned().zip(0..).map(|(one, at)| Event::recorded(one, id, at)).collect();
        format::content_bytes(id, &recorded)
    };
    let mut events = Vec::new();
    // A little room is left before each event for the frame of a last one, which makes up the rest.
    while count(&events) + (largest as u64) + 200 < bytes {
        events.push(event_of(context, largest, 0));
    }
    for _ in 0..2 {
        let missing = bytes.saturating_sub(count(&events)).saturating_sub(40) as usize;
        // Two events, so that the last one's bytes can be fitted one by one.
        let size = if events.len().is_multiple_of(2) { missing / 2 } else { missing };
        events.push(event_of(context, size.min(largest), 0));
    }
    for _ in 0..200 {
        let now = count(&events);
        let last = events.last().map_or(0, |event| event.data.len()) as u64;
        if now == bytes {
            return Ok(Some(NewCommit { id, events: evstore_api::Events::new(events)? }));
        }
        let wanted = if now < bytes { last + (bytes - now) } else { last.saturating_sub(now - bytes) };
        let at = events.len() - 1;
        events[at] = event_of(context, wanted as usize, 0);
    }
    Ok(None)
}

async fn commits_up_to_the_limit_of_bytes(context: Context) -> Result<Outcome, Broken> {
    let Limit::Max(max) = context.capabilities().limits.commit_bytes else {
        let Some(commit) = commit_of(&context, COMMIT_BEYOND)? else {
            return Ok(Outcome::NotRun(format!("no commit of exactly {COMMIT_BEYOND} bytes could be made")));
        };
        let (events, what) = (commit.events.as_slice().to_vec(), "a commit of 17 MiB, and no limit is declared");
        whole_on_every_way(&context, events, what).await?;
        return Ok(Outcome::Held);
    };
    let stream = context.stream();
    let (Some(fits), Some(larger)) = (commit_of(&context, max)?, commit_of(&context, max + 1)?) else {
        return Ok(Outcome::NotRun(format!("no commit of exactly {max} bytes could be made")));
    };
    let request = |commit| evstore_api::Append {
        stream: stream.clone(),
        expected: Expected::Any,
        commit,
        deadline: context.deadline(),
    };
    ensure_kind!(context.store().append(request(larger)).await, TooLarge, "a commit of one byte too much");
    ensure_eq!(context.head(&stream).await?, Head::missing(), "head after the refused append");
    let wanted = fits.clone().recorded()?;
    context.store().append(request(fits)).await?;
    let page = context.read(&stream).await?;
    let found: Vec<_> = page.events().map(|one| one.event).collect();
    ensure_eq!(found.len(), wanted.len(), "events of the largest commit");
    ensure!(found.into_iter().eq(&wanted), "the largest commit is read with other bytes");
    Ok(Outcome::Held)
}

async fn commits_up_to_the_limit_of_events(context: Context) -> Result<Outcome, Broken> {
    let events = |count: u64| (0..count).map(|_| NewEvent::new(event_type("T"), "")).collect::<Vec<_>>();
    let Limit::Max(max) = context.capabilities().limits.commit_events else {
        let id = context.commit_id();
        for count in EVENTS_BEYOND {
            let recorded: Vec<_> =
                events(count).into_iter().zip(0..).map(|(one, at)| Event::recorded(one, id, at)).collect();
            if !context.capabilities().limits.commit_bytes.allows(format::content_bytes(id, &recorded)) {
                return Ok(Outcome::NotRun(format!("a commit of {count} events has more bytes than the store takes")));
            }
            let what = format!("a commit of {count} events, and no limit is declared");
            whole_on_every_way(&context, events(count), &what).await?;
        }
        return Ok(Outcome::Held);
    };
    let stream = context.stream();
    let result = context.append_events(&stream, Expected::Any, events(max + 1)).await;
    ensure_kind!(result, TooLarge, "a commit of one event too much");
    ensure_eq!(context.head(&stream).await?, Head::missing(), "head after the refused append");
    let receipt = context.append_events(&stream, Expected::Any, events(max)).await?;
    ensure_eq!(receipt.last.0, max, "last revision of the longest commit");
    let page = context.read(&stream).await?;
    ensure_eq!(page.events().count() as u64, max, "events of the longest commit");
    // A page of the feed holds whole commits: the longest one too.
    let pages = context.feed_of_own_streams(max as usize).await?;
    let lengths: Vec<_> =
        pages.iter().flat_map(|page| page.commits()).map(|commit| commit.events.len() as u64).collect();
    ensure_eq!(lengths, [max], "events of the commits in the feed");
    Ok(Outcome::Held)
}

async fn the_largest_event_is_read_on_every_way(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let size = largest_event(&context);
    let large = event_of(&context, size, 10);
    // Small ones beside it: a page that is full of it must not lose them.
    context.append(&stream, Expected::Any, 2).await?;
    context.append_events(&stream, Expected::Any, vec![large.clone()]).await?;
    context.append(&stream, Expected::Any, 2).await?;
    for (way, found) in on_every_way(&context, &stream, 5).await? {
        ensure_eq!(found.len(), 5, "events from {way}");
        let same = found[2].data == large.data && found[2].metadata == large.metadata;
        ensure!(same, "the largest event is read with other bytes from {way}");
    }
    Ok(Outcome::Held)
}

async fn a_critical_extension_is_refused(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let mut event = context.event();
    event.extensions = vec![Extension { tag: u32::MAX, critical: true, value: "x".into() }];
    let events = vec![context.event(), event];
    let result = context.append_events(&stream, Expected::Any, events).await;
    ensure_kind!(result, Invalid, "an event with a critical extension");
    ensure_eq!(context.head(&stream).await?, Head::missing(), "head after the refused append");
    Ok(Outcome::Held)
}
