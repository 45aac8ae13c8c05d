//! Appending and expectations: properties 1 to 22. Races are in `concurrency`.

use crate::check::{Broken, Check, Outcome, check, ensure, ensure_eq, ensure_kind};
use crate::context::{Context, Fresh, event_type, revisions};
use crate::seed::Seed;
use evstore_api::capabilities::{Positioned, Support};
use evstore_api::name::{CONTENT_TYPE_BYTES_MAX, NAMESPACE_BYTES_MAX};
use evstore_api::number::NUMBER_MAX;
use evstore_api::{
    AdvanceFeed, Appended, Commit, CommitId, CommitKind, CommitNumber, Content, ContentType, Epoch, Error, Event,
    EventType, Expected, FeedFilter, FeedStart, Head, Meta, MetaSwapped, NewEvent, Origin, Position, ReadHead, Replica,
    Replicate, Revision, StoreState, StreamId, StreamState, SwapMeta, Timestamp, format,
};
use std::collections::HashMap;

pub(crate) static CHECKS: &[Check] = &[
    check!(
        "append.one-event-reads-back",
        "an event that was appended to a new stream is read back with the same bytes, type and numbers",
        [1],
        one_event_reads_back
    ),
    check!(
        "append.a-commit-keeps-its-order",
        "the events of one commit are read back in their order, with revisions without gap, as one commit",
        [2],
        a_commit_keeps_its_order
    ),
    check!(
        "append.revisions-continue-without-gap",
        "a later commit takes the revisions and the commit number directly after those of the commit before it",
        [3],
        revisions_continue_without_gap
    ),
    check!(
        "append.revisions-count-from-one",
        "the first event of a stream has revision 1, and 0 means before the first, everywhere",
        [14],
        revisions_count_from_one
    ),
    check!(
        "append.no-stream-is-expected-of-new-streams-only",
        "an expectation of no stream holds of a stream without commits only, and is the same as one of revision 0",
        [4],
        no_stream_is_expected_of_new_streams_only
    ),
    check!(
        "append.only-the-exact-head-is-expected",
        "an expectation of a revision holds at that head only: lower, higher and gappy values conflict and change nothing",
        [5, 21],
        only_the_exact_head_is_expected
    ),
    check!(
        "append.anything-is-expected-of-every-live-stream",
        "an append without an expectation is made on a new stream and on one that has events",
        [6],
        anything_is_expected_of_every_live_stream
    ),
    check!(
        "append.an-existing-stream-is-expected",
        "an expectation of existence holds of a stream with events and conflicts with one without",
        [7],
        an_existing_stream_is_expected
    ),
    check!(
        "append.a-conflict-carries-the-head",
        "a conflict carries the whole head that it found, the stream, the commit and what was expected",
        [10],
        a_conflict_carries_the_head
    ),
    check!(
        "append.a-refused-append-leaves-nothing",
        "a refused append leaves no event, no head, no name in the list of streams, no commit id and nothing in the feed",
        [11],
        a_refused_append_leaves_nothing
    ),
    check!(
        "append.a-receipt-says-where-the-commit-stands",
        "a receipt has the numbers, the time and the digest that the commit is read back with",
        [13],
        a_receipt_says_where_the_commit_stands
    ),
    check!(
        "append.a-receipt-has-a-position-as-declared",
        "a receipt has the feed's position where appends give positions, and none where they do not",
        [13, 90, 91],
        a_receipt_has_a_position_as_declared
    ),
    check!(
        "append.every-name-is-its-own-stream",
        "names that differ in case, Unicode form, spaces or signs that mean something to an engine are different streams",
        [16, 22],
        every_name_is_its_own_stream
    ),
    check!(
        "append.names-up-to-the-limit",
        "the longest declared namespaces, names and types are stored, one byte more is refused and nothing of it is stored",
        [17],
        names_up_to_the_limit
    ),
    check!(
        "append.numbers-past-2-to-the-32",
        "revisions and positions beyond 32 bits are kept exactly",
        [15],
        numbers_past_2_to_the_32
    ),
    check!(
        "append.numbers-end-below-2-to-the-53",
        "the last position below 2⁵³ is given, and an append that needs one more is refused with nothing of it stored, or stays \
         behind a feed that says so",
        [15],
        numbers_end_below_2_to_the_53
    ),
];

async fn one_event_reads_back(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let event = context.event();
    let receipt = context.append_events(&stream, Expected::NoStream, vec![event.clone()]).await?;
    ensure_eq!(
        (receipt.first, receipt.last, receipt.number.0, receipt.repeated),
        (Revision(1), Revision(1), 1, false),
        "receipt"
    );
    let page = context.read(&stream).await?;
    ensure_eq!(revisions(&page), [Revision(1)], "revisions of the stream");
    let stored = page.events().next().map(|one| one.event.clone());
    ensure_eq!(stored, Some(Event::recorded(event, receipt.commit, 0)), "the stored event");
    ensure_eq!(page.commits[0].stream, stream, "stream of the commit that was read");
    Ok(Outcome::Held)
}

async fn a_commit_keeps_its_order(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let events = context.events(7);
    let receipt = context.append_events(&stream, Expected::NoStream, events.clone()).await?;
    ensure_eq!((receipt.first, receipt.last), (Revision(1), Revision(7)), "first and last revision of the receipt");
    let page = context.read(&stream).await?;
    ensure_eq!(page.commits.len(), 1, "commits of the stream");
    let stored: Vec<_> = page.events().map(|one| one.event.data.clone()).collect();
    let wanted: Vec<_> = events.into_iter().map(|event| event.data).collect();
    ensure_eq!(stored, wanted, "data in the order of reading");
    ensure_eq!(revisions(&page), (1..=7).map(Revision).collect::<Vec<_>>(), "revisions of the stream");
    Ok(Outcome::Held)
}

async fn revisions_continue_without_gap(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let mut next = 1;
    for (number, count) in [1, 3, 1, 2].into_iter().enumerate() {
        let receipt = context.append(&stream, Expected::At(Revision(next - 1)), count).await?;
        let last = next + u64::from(count) - 1;
        let wanted = (Revision(next), Revision(last), CommitNumber(number as u64 + 1));
        ensure_eq!((receipt.first, receipt.last, receipt.number), wanted, "numbers of the receipt");
        next = last + 1;
    }
    let page = context.read(&stream).await?;
    ensure_eq!(revisions(&page), (1..next).map(Revision).collect::<Vec<_>>(), "revisions of the stream");
    let numbers: Vec<_> = page.commits.iter().map(|commit| commit.number.0).collect();
    ensure_eq!(numbers, [1, 2, 3, 4], "commit numbers");
    Ok(Outcome::Held)
}

async fn revisions_count_from_one(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    ensure_eq!(context.head(&stream).await?, Head::missing(), "head of a missing stream");
    context.append(&stream, Expected::At(Revision(0)), 2).await?;
    let head = context.head(&stream).await?;
    ensure_eq!(
        (head.revision, head.number, head.first_retained, head.state),
        (Revision(2), CommitNumber(1), Revision(1), StreamState::Open),
        "head after one commit of two events"
    );
    let first = context.read(&stream).await?.commits.first().map(|commit| (commit.first_revision, commit.number));
    ensure_eq!(first, Some((Revision(1), CommitNumber(1))), "numbers of the first commit");
    Ok(Outcome::Held)
}

async fn no_stream_is_expected_of_new_streams_only(context: Context) -> Result<Outcome, Broken> {
    for none in [Expected::NoStream, Expected::At(Revision(0))] {
        let stream = context.stream();
        context.append(&stream, none, 1).await?;
        for again in [Expected::NoStream, Expected::At(Revision(0))] {
            let result = context.append(&stream, again, 1).await;
            ensure_kind!(result, Conflict, "an append to a stream with an event that expects {again}");
        }
        ensure_eq!(context.head(&stream).await?.revision, Revision(1), "head after two refused appends");
    }
    Ok(Outcome::Held)
}

async fn only_the_exact_head_is_expected(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    context.append(&stream, Expected::NoStream, 3).await?;
    context.append(&stream, Expected::At(Revision(3)), 4).await?;
    for wrong in [0, 1, 3, 5, 6, 8, 9, 100, NUMBER_MAX, u64::MAX] {
        let result = context.append(&stream, Expected::At(Revision(wrong)), 1).await;
        let error = ensure_kind!(result, Conflict, "an append at head 7 that expects {wrong}");
        ensure_eq!(error.head().map(|head| head.revision), Some(Revision(7)), "the head that the conflict carries");
    }
    ensure!(context.read(&stream).await?.events().count() == 7, "a refused append left events");
    context.append(&stream, Expected::At(Revision(7)), 1).await?;
    let missing = context.stream();
    let result = context.append(&missing, Expected::At(Revision(1)), 1).await;
    ensure_kind!(result, Conflict, "an append to a missing stream that expects revision 1");
    Ok(Outcome::Held)
}

async fn anything_is_expected_of_every_live_stream(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    for revision in 1..=3 {
        let receipt = context.append(&stream, Expected::Any, 1).await?;
        ensure_eq!(receipt.first, Revision(revision), "revision of an append without expectation");
    }
    Ok(Outcome::Held)
}

async fn an_existing_stream_is_expected(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let error = ensure_kind!(
        context.append(&stream, Expected::Exists, 1).await,
        Conflict,
        "an append to a missing stream that expects one"
    );
    ensure_eq!(error.head().map(|head| head.revision), Some(Revision(0)), "the head that the conflict carries");
    ensure_eq!(context.head(&stream).await?, Head::missing(), "head after the refused append");
    context.append(&stream, Expected::Any, 1).await?;
    let receipt = context.append(&stream, Expected::Exists, 1).await?;
    ensure_eq!(receipt.first, Revision(2), "revision of an append that expects a stream");
    Ok(Outcome::Held)
}

async fn a_conflict_carries_the_head(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    context.append(&stream, Expected::Any, 2).await?;
    context.append(&stream, Expected::Any, 1).await?;
    let head = context.head(&stream).await?;
    for wrong in [Expected::NoStream, Expected::At(Revision(2)), Expected::At(Revision(9))] {
        let request = context.request(&stream, wrong, context.commit_id(), context.events(1))?;
        let id = request.commit.id;
        let result = context.store().append(request).await;
        let error = ensure_kind!(result, Conflict, "an append at head 3 that expects {wrong}");
        ensure_eq!(error.head(), Some(&head), "the head that the conflict carries");
        ensure_eq!(error.commit(), Some(id), "the commit that the conflict carries");
        let text = error.to_string();
        for fact in [stream.name.as_str(), &wrong.to_string()] {
            ensure!(text.contains(fact), "the conflict does not name {fact}: {text}");
        }
    }
    Ok(Outcome::Held)
}

async fn a_refused_append_leaves_nothing(context: Context) -> Result<Outcome, Broken> {
    let (stream, missing) = (context.stream(), context.stream());
    context.append(&stream, Expected::Any, 2).await?;
    let before = context.head(&stream).await?;
    let refused = |stream, expected| context.request(stream, expected, context.commit_id(), context.events(3));
    for request in [refused(&stream, Expected::NoStream)?, refused(&missing, Expected::Exists)?] {
        let id = request.commit.id;
        ensure_kind!(context.store().append(request.clone()).await, Conflict, "an append with a wrong expectation");
        ensure_eq!(context.find(&request.stream, id).await?, None, "commit of a refused append");
        let page = context.read(&request.stream).await?;
        ensure!(page.commits.iter().all(|commit| commit.id != id), "the refused commit is in its stream");
    }
    ensure_eq!(context.head(&stream).await?, before, "head after a refused append");
    ensure_eq!(context.head(&missing).await?, Head::missing(), "head of a stream whose only append was refused");
    context.settle_lists().await;
    let listed = super::listing::list(&context, context.store().as_ref(), &context.own_streams()).await?;
    let listed: Vec<_> = listed.into_iter().map(|one| one.stream).collect();
    ensure_eq!(listed, std::slice::from_ref(&stream), "streams in the list");
    // The feed is looked at behind a later commit, so that one that comes late would have come.
    context.append(&stream, Expected::Any, 1).await?;
    let pages = context.feed_of_own_streams(3).await?;
    let events: Vec<_> = pages.iter().flat_map(|page| page.events()).map(|one| one.revision().0).collect();
    ensure_eq!(events, [1, 2, 3], "revisions in the feed");
    Ok(Outcome::Held)
}

async fn a_receipt_says_where_the_commit_stands(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    for count in [2, 1, 3] {
        let events = context.events(count);
        let request = context.request(&stream, Expected::Any, context.commit_id(), events)?;
        let (id, recorded) = (request.commit.id, request.commit.clone().recorded()?);
        let receipt = context.store().append(request).await?;
        ensure_eq!(receipt.commit, id, "commit id of the receipt");
        let digest = format::digest(&stream, id, &CommitKind::Events, &recorded);
        ensure_eq!(receipt.digest, digest, "digest of the receipt");
        let page = context.read(&stream).await?;
        let commit = page.commits.last().ok_or_else(|| Broken::new("the stream has no commit"))?;
        ensure_eq!(
            (
                commit.id,
                commit.number,
                commit.first_revision,
                commit.last_revision(),
                commit.recorded_at,
                commit.digest
            ),
            (id, receipt.number, receipt.first, receipt.last, receipt.recorded_at, receipt.digest),
            "the commit that was read"
        );
        ensure_eq!(
            (&commit.kind, commit.count, &commit.events),
            (&CommitKind::Events, count, &recorded),
            "its content"
        );
        ensure_eq!((commit.imported, commit.group, commit.content), (None, None, Content::Kept), "its frame");
    }
    Ok(Outcome::Held)
}

async fn a_receipt_has_a_position_as_declared(context: Context) -> Result<Outcome, Broken> {
    let stream = context.stream();
    let first = context.append(&stream, Expected::Any, 2).await?;
    let second = context.append(&stream, Expected::Any, 3).await?;
    let positioned = context.capabilities().positioned;
    let wanted = matches!(positioned, Positioned::ByAppend);
    for receipt in [&first, &second] {
        ensure_eq!(receipt.position.is_some(), wanted, "whether a receipt has a position");
    }
    let pages = context.feed_of_own_streams(5).await?;
    let fed: Vec<_> = pages.iter().flat_map(|page| page.commits()).cloned().collect();
    ensure_eq!(fed.len(), 2, "commits in the feed");
    for (receipt, commit) in [&first, &second].into_iter().zip(&fed) {
        ensure_eq!(commit.id, receipt.commit, "commit in the feed");
        let found = context.find(&stream, receipt.commit).await?;
        let found = found.ok_or_else(|| Broken::new("a commit of the feed is not found by its id"))?;
        ensure_eq!(found.position, commit.first_position, "position by the commit's id, and in the feed");
        if wanted {
            ensure_eq!(receipt.position, commit.first_position, "position of the receipt, and in the feed");
        }
        if let Positioned::Never { .. } = positioned {
            ensure_eq!(commit.first_position, None, "position in a feed that has none");
            continue;
        }
        let first = commit.first_position.map_or(0, |position| position.0);
        let positions: Vec<_> = commit.events().map(|one| one.position().map(|position| position.0)).collect();
        let wanted: Vec<_> = (first..first + u64::from(commit.count)).map(Some).collect();
        ensure_eq!(positions, wanted, "positions of a commit's events");
    }
    Ok(Outcome::Held)
}

/// Keys that engines, paths, patterns and people take for the same, or for something else. A check puts its own category
/// in front.
pub(super) fn hostile_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "order",
        "Order",
        "ORDER",
        "order ",
        " order",
        "order  ",
        "or\u{ad}der",
        "ordér",
        "orde\u{301}r",
        "order\u{301}",
        "straße",
        "strasse",
        "ıi",
        "Ii",
        "İi",
        "ﬁ",
        "fi",
        "Å",
        "A\u{30a}",
        "\u{212b}",
        "\u{202e}redro",
        "שלום",
        "日本語",
        "𝒳🦀",
        "\u{10ffff}",
        "\u{feff}order",
        "order\u{200b}",
        "$",
        "$all",
        "/",
        "//",
        "a/b",
        "a/",
        "/a",
        "%",
        "a%b",
        "%2F",
        "%00",
        "_",
        "a_b",
        "*",
        "?",
        "[a]",
        ":",
        "a:b",
        "::",
        "-",
        "--",
        "a-b",
        "a--b",
        "{a}",
        "{",
        "}",
        "#",
        "##",
        "a#b",
        "'",
        "''",
        "\"",
        "`",
        "; --",
        "'; drop table commits; --",
        "' or '1'='1",
        "\\",
        "\\\\",
        "\\0",
        "../a",
        "..",
        ".",
        "../../etc",
        "~",
        "a\u{a0}b",
        "a b",
        "a+b",
        "a%20b",
        "&",
        "=",
        "a=b",
        "@",
        "!",
        "|",
        ">",
        "<",
        ",",
        "null",
        "NULL",
        "0",
        "00",
        "1",
        "01",
        "1.0",
        "1e0",
        "true",
    ]
    .iter()
    .map(|&key| key.to_owned())
    .collect();
    keys.sort_unstable();
    keys
}

/// Keys whose names have the same hash by one of the hashes that stores are built with: two for each.
fn colliding_keys(category: &str) -> Vec<String> {
    // CRC-32, which every common beginning keeps; then h·31 + c and h·33 + c.
    let mut keys: Vec<String> = ["plumless", "buckeroo", "Aa", "BB", "Ab", "BA"].map(str::to_owned).into();
    // Of 32 bits, so that some of so many names meet.
    for hash in [fnv_1a as fn(&[u8]) -> u32, murmur_3] {
        let mut seen = HashMap::new();
        // Drawn, not counted: names that differ in their last signs only do not meet.
        let mut seed = Seed(0);
        for _ in 0..400_000 {
            let key = format!("h{:016x}", seed.next_u64());
            if let Some(other) = seen.insert(hash(format!("{category}-{key}").as_bytes()), key.clone()) {
                keys.extend([other, key]);
                break;
            }
        }
    }
    keys.sort();
    keys.dedup();
    keys
}

fn fnv_1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// MurmurHash3, 32 bits, seed 0.
fn murmur_3(bytes: &[u8]) -> u32 {
    let mix = |word: u32| word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = 0_u32;
    let words = bytes.chunks_exact(4);
    let rest = words.remainder().iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
    for word in words {
        let word = word.iter().rev().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        hash = (hash ^ mix(word)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    hash ^= mix(rest);
    hash ^= bytes.len() as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

async fn every_name_is_its_own_stream(context: Context) -> Result<Outcome, Broken> {
    let category = context.category();
    let mut streams = Vec::new();
    for key in hostile_keys() {
        streams.push(StreamId::new(format!("{category}-{key}"))?);
    }
    // As long as a name can be, in characters of four bytes.
    let room = context.capabilities().limits.stream_name_bytes as usize - category.as_str().len() - 1;
    let longest = format!("{}{}", "x".repeat(room % 4), "🦀".repeat(room / 4));
    streams.push(StreamId::new(format!("{category}-{longest}"))?);
    for key in colliding_keys(category.as_str()) {
        streams.push(StreamId::new(format!("{category}-{key}"))?);
    }
    for stream in &streams {
        let event = NewEvent::new(event_type("Named"), stream.name.as_str().as_bytes().to_vec());
        let made = context.append_events(stream, Expected::NoStream, vec![event]).await;
        made.map_err(|error| Broken::new(format!("the first append to {:?} failed: {error:?}", stream.name.as_str())))?;
    }
    for stream in &streams {
        let page = context.read(stream).await?;
        let data: Vec<_> = page.events().map(|one| one.event.data.to_vec()).collect();
        ensure_eq!(data, [stream.name.as_str().as_bytes()], "events of the stream named {:?}", stream.name.as_str());
        ensure_eq!(&page.commits[0].stream, stream, "name that the commit is read with");
    }
    let pages = context.feed_of_own_streams(streams.len()).await?;
    let mut fed: Vec<_> = pages.iter().flat_map(|page| page.events()).map(|one| one.stream().clone()).collect();
    fed.sort();
    streams.sort();
    ensure_eq!(fed, streams, "streams in the feed");
    Ok(Outcome::Held)
}

async fn names_up_to_the_limit(context: Context) -> Result<Outcome, Broken> {
    let limits = context.capabilities().limits;
    let category = context.category();
    let named = |bytes: u64| {
        let key = bytes as usize - category.as_str().len() - 1;
        StreamId::new(format!("{category}-{}", "n".repeat(key)))
    };
    let stream = named(limits.stream_name_bytes)?;
    let typed = |bytes: u64| EventType::new("t".repeat(bytes as usize));
    let event = NewEvent::new(typed(limits.event_type_bytes)?, "longest");
    context.append_events(&stream, Expected::NoStream, vec![event.clone()]).await?;
    let page = context.read(&stream).await?;
    let stored = page.events().next().map(|one| (one.stream().clone(), one.event.event_type.clone()));
    ensure_eq!(stored, Some((stream.clone(), event.event_type)), "the longest names");
    every_part_as_long_as_it_can_be(&context).await?;
    // A name beyond what the types take can't even be made; one between that and the store's limit is refused by the store.
    match named(limits.stream_name_bytes + 1) {
        Err(error) => drop(ensure_kind!(Err::<(), _>(error), Invalid, "the shortest name that is too long")),
        Ok(longer) => {
            ensure_kind!(
                context.append(&longer, Expected::Any, 1).await,
                TooLarge,
                "a stream name of one byte too much"
            );
            ensure_eq!(context.head(&longer).await?, Head::missing(), "head of a stream with too long a name");
        }
    }
    match typed(limits.event_type_bytes + 1) {
        Err(error) => drop(ensure_kind!(Err::<(), _>(error), Invalid, "the shortest type that is too long")),
        Ok(longer) => {
            let events = vec![context.event(), NewEvent::new(longer, "")];
            let result = context.append_events(&stream, Expected::Any, events).await;
            ensure_kind!(result, TooLarge, "an event type of one byte too much");
            ensure_eq!(context.head(&stream).await?.revision, Revision(1), "head after the refused append");
        }
    }
    Ok(Outcome::Held)
}

/// As many bytes in signs of four bytes each, with what is left over in front and one sign of choice at the end.
pub(super) fn longest(prefix: &str, bytes: usize, last: char) -> String {
    let room = bytes - prefix.len() - last.len_utf8();
    format!("{prefix}{}{}{last}", "x".repeat(room % 4), "🦀".repeat(room / 4))
}

/// The longest namespace, name, type and content type at once, which some engines put into one key, and others beside them that
/// differ in the last sign only.
async fn every_part_as_long_as_it_can_be(context: &Context) -> Result<(), Broken> {
    let limits = context.capabilities().limits;
    let own = format!("{}-", context.category());
    let mut made = Vec::new();
    for last in ['🦀', '𝒳'] {
        let namespace = longest("", NAMESPACE_BYTES_MAX, last);
        let name = longest(&own, limits.stream_name_bytes as usize, last);
        let event = NewEvent {
            event_type: EventType::new(longest("", limits.event_type_bytes as usize, last))?,
            content_type: ContentType::new(longest("", CONTENT_TYPE_BYTES_MAX, last))?,
            ..context.event()
        };
        made.push((StreamId::within(namespace, name)?, event));
    }
    for (stream, event) in &made {
        let result = context.append_events(stream, Expected::NoStream, vec![event.clone()]).await;
        result.map_err(|error| Broken::new(format!("an append under the longest names failed: {error:?}")))?;
    }
    let pages = context.feed_of_own_streams(made.len() + 1).await?;
    for (stream, event) in &made {
        let page = context.read(stream).await?;
        let fed = pages.iter().flat_map(|page| page.events()).filter(|one| one.stream() == stream);
        let found = |one: evstore_api::EventRef<'_>| {
            (one.stream().clone(), one.event.event_type.clone(), one.event.content_type.clone(), one.event.data.clone())
        };
        let wanted = (stream.clone(), event.event_type.clone(), event.content_type.clone(), event.data.clone());
        let (read, fed): (Vec<_>, Vec<_>) = (page.events().map(found).collect(), fed.map(found).collect());
        ensure_eq!(read, std::slice::from_ref(&wanted), "the stream of the longest names");
        ensure_eq!(fed, [wanted], "the stream of the longest names in the feed");
    }
    Ok(())
}

/// Why numbers can't be moved far up, if so.
fn without_far_numbers(context: &Context) -> Option<Outcome> {
    let capabilities = context.capabilities();
    match (capabilities.replication, capabilities.positioned) {
        (Support::Refused, _) => Some(Outcome::NotRun("only a copy could move numbers that far".into())),
        (Support::Promised, Positioned::ByAppend) => None,
        // A sequencer of a restored store goes on from where the copy ends; the copy has the positions.
        (Support::Promised, Positioned::BySequencer { .. }) => None,
        (Support::Promised, Positioned::Never { .. }) => {
            Some(Outcome::NotApplicable("positions are opaque and have no bound that could be reached".into()))
        }
    }
}

/// Fills a store of its own with a copy and opens it again.
async fn restore(context: &Context, fresh: &Fresh, items: Vec<Replica>) -> Result<(), Broken> {
    let closed = fresh.admin.read_meta(context.deadline()).await?;
    let importing =
        Meta { epoch: Epoch(closed.epoch.0 + 1), state: StoreState::Importing { from: None }, ..closed.clone() };
    let open = Meta { epoch: Epoch(closed.epoch.0 + 2), state: StoreState::Open, ..closed.clone() };
    let swap = |expected: &Meta, new: &Meta| SwapMeta {
        expected: expected.clone(),
        new: new.clone(),
        deadline: context.deadline(),
    };
    let swapped = fresh.admin.swap_meta(swap(&closed, &importing)).await?;
    ensure_eq!(swapped, MetaSwapped::Done, "closing a new store for a restore");
    let (epoch, deadline) = (importing.epoch, context.deadline());
    fresh.admin.replicate(Replicate { epoch, origin: Origin::Restore, items, deadline }).await?;
    let swapped = fresh.admin.swap_meta(swap(&importing, &open)).await?;
    ensure_eq!(swapped, MetaSwapped::Done, "opening a restored store");
    Ok(())
}

/// The stub of a commit of so many events that were removed since.
fn stub(stream: &StreamId, number: u64, first: u64, count: u32, position: u64) -> Commit {
    let id = CommitId::derive(&[stream.name.as_str().as_bytes(), &number.to_le_bytes()]);
    Commit {
        stream: stream.clone(),
        id,
        number: CommitNumber(number),
        kind: CommitKind::Events,
        first_revision: Revision(first),
        count,
        first_position: Some(Position(position)),
        recorded_at: Timestamp(number as i64),
        digest: format::digest(stream, id, &CommitKind::Events, &[]),
        imported: None,
        group: None,
        extensions: Vec::new(),
        content: Content::Stripped,
        events: Vec::new(),
    }
}

async fn numbers_past_2_to_the_32(context: Context) -> Result<Outcome, Broken> {
    if let Some(outcome) = without_far_numbers(&context) {
        return Ok(outcome);
    }
    let (fresh, stream) = (context.fresh().await?, context.stream());
    let far = u64::from(u32::MAX);
    let items = [stub(&stream, 1, 1, u32::MAX, 1), stub(&stream, 2, far + 1, u32::MAX, far + 1)];
    restore(&context, &fresh, items.into_iter().map(Replica::Commit).collect()).await?;
    let request = context.request(&stream, Expected::At(Revision(far * 2)), context.commit_id(), context.events(2))?;
    let receipt = fresh.store.append(request).await?;
    ensure_eq!((receipt.first.0, receipt.last.0), (far * 2 + 1, far * 2 + 2), "revisions of the receipt");
    let page = context.read_from(&*fresh.store, &stream).await?;
    ensure_eq!(revisions(&page), [far * 2 + 1, far * 2 + 2].map(Revision), "revisions that are read");
    ensure_eq!(page.head.first_retained, Revision(far * 2 + 1), "the first event that is still there");
    let pages = context.feed_until(&*fresh.store, FeedStart::First, FeedFilter::none(), 2).await?;
    let positions: Vec<_> = pages.iter().flat_map(|page| page.events()).filter_map(|one| one.position()).collect();
    ensure_eq!(positions, [far * 2 + 1, far * 2 + 2].map(Position), "positions in the feed");
    Ok(Outcome::Held)
}

async fn numbers_end_below_2_to_the_53(context: Context) -> Result<Outcome, Broken> {
    if let Some(outcome) = without_far_numbers(&context) {
        return Ok(outcome);
    }
    let (fresh, stream) = (context.fresh().await?, context.stream());
    let removed = Replica::Removed { first: Position(1), last: Position(NUMBER_MAX - 3) };
    restore(&context, &fresh, vec![removed]).await?;
    let append = |count| {
        let request = context.request(&stream, Expected::Any, context.commit_id(), context.events(count));
        let store = fresh.store.clone();
        async move { store.append(request?).await }
    };
    append(2).await?;
    if context.capabilities().positioned != Positioned::ByAppend {
        return numbers_end_under_a_sequencer(&context, &fresh, [append(2).await, append(1).await]).await;
    }
    ensure_kind!(append(2).await, TooLarge, "an append that needs one position too much");
    let last = append(1).await?;
    ensure_eq!(last.position, Some(Position(NUMBER_MAX)), "the last position");
    ensure_kind!(append(1).await, TooLarge, "an append after the last position");
    let request = ReadHead { stream: stream.clone(), deadline: context.deadline() };
    let head = fresh.store.head(request).await?;
    ensure_eq!((head.revision, head.number), (Revision(3), CommitNumber(2)), "head after two refused appends");
    Ok(Outcome::Held)
}

/// What becomes of two commits for which two positions and one are not left, where a sequencer gives them: they are refused, or
/// stay behind a feed that says so.
async fn numbers_end_under_a_sequencer(
    context: &Context,
    fresh: &Fresh,
    appends: [Result<Appended, Error>; 2],
) -> Result<Outcome, Broken> {
    let mut behind = 0;
    for append in appends {
        match append {
            Ok(_) => behind += 1,
            Err(error) => drop(ensure_kind!(Err::<(), _>(error), TooLarge, "an append without a position left")),
        }
    }
    for _ in 0..3 {
        match fresh.admin.advance_feed(AdvanceFeed { deadline: context.deadline() }).await {
            Ok(_) => {}
            Err(error) => {
                drop(ensure_kind!(Err::<(), _>(error), TooLarge, "a step of the feed without a position left"))
            }
        }
    }
    let pages = context.feed_until(&*fresh.store, FeedStart::First, FeedFilter::none(), 2).await?;
    let fed: Vec<_> = pages.iter().flat_map(|page| page.commits()).map(|one| (one.first_position, one.count)).collect();
    let [first, last] = [(NUMBER_MAX - 2, 2), (NUMBER_MAX, 1)].map(|(first, count)| (Some(Position(first)), count));
    // The last one may be left, or be that of a commit of one event: the only one that fits.
    let fits = fed == [first] || fed == [first, last];
    ensure!(fits, "the feed ends with commits at {fed:?}, and {NUMBER_MAX} is the last position that there is");
    let head = fresh.store.feed_head(context.deadline()).await?;
    ensure!(head.position <= Some(Position(NUMBER_MAX)), "the head of the feed is at {:?}", head.position);
    ensure_eq!(
        head.lag.commits,
        behind + 1 - fed.len() as u64,
        "commits that a feed without a position left is behind"
    );
    Ok(Outcome::Held)
}

#[cfg(test)]
mod tests {
    use super::{colliding_keys, fnv_1a, murmur_3};

    #[test]
    fn hashes_are_those_that_are_meant_and_collide() {
        assert_eq!((fnv_1a(b"a"), murmur_3(b"hello")), (0xe40c_292c, 0x248b_fa47));
        assert_eq!(colliding_keys("some").len(), 10);
    }
}
