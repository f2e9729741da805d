//! Any requests, and any bytes in reply, whole and in pieces: each request is told exactly once, and
//! the pieces make no difference.
#![no_main]

use std::cell::RefCell;
use std::rc::Rc;

use _emcache::protocol::{
    ItemRef, NEVER, NodeStats, Outgoing, OwnedRequest, Pipeline, ProtocolError, Reply,
    ReplyHandler, StatLine, ValueBuf,
};
use arbitrary::Arbitrary;
use bytes::{BufMut, Bytes};
use emcache_fuzz::{Wanted, dialect, encoded, key};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    is_binary: bool,
    merged: u8,
    requests: Vec<(Wanted, bool)>,
    reply: Vec<Piece>,
    cuts: Vec<u16>,
    in_place: bool,
    /// Whether the requests that are left are taken for a retry, and how much was written.
    lost: Option<u16>,
}

#[derive(Arbitrary, Debug)]
enum Piece {
    Word(u8),
    Item { key: u8, flags: u32, len: u8, cas: Option<u64> },
    Long { key: u8, len: u16 },
    Raw(Vec<u8>),
    Frame { opcode: u8, status: u8, key: u8, extras: u8, opaque: u8, body: Vec<u8> },
}

const WORDS: &[&[u8]] = &[
    b"END\r\n",
    b"STORED\r\n",
    b"NOT_STORED\r\n",
    b"EXISTS\r\n",
    b"NOT_FOUND\r\n",
    b"DELETED\r\n",
    b"TOUCHED\r\n",
    b"OK\r\n",
    b"RESET\r\n",
    b"ERROR\r\n",
    b"CLIENT_ERROR bad command line\r\n",
    b"SERVER_ERROR out of memory\r\n",
    b"CLIENT_ERROR unauthenticated\r\n",
    b"ERROR Too many open connections\r\n",
    b"VERSION 1.6.18\r\n",
    b"STAT a 1\r\n",
    b"42\r\n",
    b"HD\r\n",
    b"HD c5 t30\r\n",
    b"EN\r\n",
    b"NF\r\n",
    b"NS\r\n",
    b"EX\r\n",
    b"MN\r\n",
    b"VA 2 c1 f0\r\nhi\r\n",
    b"VA 0\r\n\r\n",
    b"ME a exp=-1 la=0\r\n",
    b"CONFIG cluster 0 5\r\n1\na|b\r\n",
    b"VALUE a 0 99999999999\r\n",
    b"MEMLIMIT_TOO_SMALL\r\n",
    b"\r\n",
    b"VALUE ",
    b" ",
];

impl Piece {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Word(at) => out.extend_from_slice(WORDS[usize::from(*at) % WORDS.len()]),
            Self::Raw(bytes) => out.extend_from_slice(bytes),
            Self::Item { key: number, flags, len, cas } => {
                out.extend_from_slice(b"VALUE ");
                out.extend_from_slice(&key(*number));
                out.extend_from_slice(format!(" {flags} {len}").as_bytes());
                if let Some(cas) = cas {
                    out.extend_from_slice(format!(" {cas}").as_bytes());
                }
                out.extend_from_slice(b"\r\n");
                out.extend(std::iter::repeat_n(b'v', usize::from(*len)));
                out.extend_from_slice(b"\r\n");
            }
            Self::Long { key: number, len } => {
                out.extend_from_slice(b"VALUE ");
                out.extend_from_slice(&key(*number));
                out.extend_from_slice(format!(" 0 {len}\r\n").as_bytes());
                out.extend(std::iter::repeat_n(b'\r', usize::from(*len)));
                out.extend_from_slice(b"\r\n");
            }
            Self::Frame { opcode, status, key, extras, opaque, body } => {
                let len = u32::try_from(body.len()).unwrap_or(0);
                out.extend_from_slice(&[0x81, *opcode, 0, *key, *extras, 0, 0, *status]);
                out.extend_from_slice(&len.to_be_bytes());
                out.extend_from_slice(&[0, 0, 0, *opaque, 0, 0, 0, 0, 0, 0, 0, 9]);
                out.extend_from_slice(body);
            }
        }
    }
}

/// What each request was told, in the order of the replies, and which were not told anything.
#[derive(Default)]
struct Log {
    told: Vec<String>,
    dropped: usize,
}

struct Handler {
    number: usize,
    parts: Vec<String>,
    log: Rc<RefCell<Log>>,
    is_told: bool,
    is_noreply: bool,
}

impl ReplyHandler for Handler {
    type Value = Bytes;

    fn item(&mut self, index: usize, item: &ItemRef<'_>, shared: Option<&Bytes>) {
        if let Some(shared) = shared {
            assert_eq!(shared.as_bytes(), item.value);
        }
        self.parts.push(format!("{index} {item:?}"));
    }

    fn stat(&mut self, stat: &StatLine<'_>) {
        self.parts.push(format!("{stat:?}"));
    }

    fn restart(&mut self) {
        self.parts.clear();
    }

    fn reply(mut self, reply: &Reply<'_>, _from: &str) {
        self.is_told = true;
        let text = format!("{} {:?} {reply:?}", self.number, self.parts);
        self.log.borrow_mut().told.push(text);
    }

    fn is_noreply(&self) -> bool {
        self.is_noreply
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        if !self.is_told {
            self.log.borrow_mut().dropped += 1;
        }
    }
}

fn counted(stats: &NodeStats) -> Vec<String> {
    stats
        .commands()
        .map(|(verb, command)| {
            format!("{} {:?}", verb.name(), command.results().collect::<Vec<_>>())
        })
        .collect()
}

type Outcome = (Result<(), ProtocolError>, Vec<String>, Vec<String>);

/// Sends the requests, and gives the reply in pieces that end at `cuts`.
fn run(input: &Input, requests: &[(OwnedRequest, bool)], reply: &[u8], cuts: &[usize]) -> Outcome {
    let log = Rc::new(RefCell::new(Log::default()));
    let merged = u32::from(input.merged).max(1);
    let mut pipeline = Pipeline::new(dialect(input.is_binary), merged, "peer".into());
    let mut out = Outgoing::default();
    for (number, (request, is_noreply)) in requests.iter().enumerate() {
        // Only commands are sent without waiting.
        let is_noreply = *is_noreply && matches!(request, OwnedRequest::Command(_));
        let log = log.clone();
        let handler = Handler { number, parts: Vec::new(), log, is_told: false, is_noreply };
        pipeline.push_owned(request, handler, NEVER, false, &mut out);
    }
    pipeline.close_line(&mut out);
    assert_eq!(pipeline.in_flight(), requests.len());
    let mut stats = NodeStats::default();
    let result = feed(&mut pipeline, &mut stats, input.in_place, reply, cuts);
    // After an error in the middle of a line, those that were told keep their places.
    let waiting = pipeline.in_flight() - pipeline.abandoned();
    let told = log.borrow().told.len();
    assert_eq!(told + waiting, requests.len());
    let mut left: Vec<Handler> = match input.lost {
        None => pipeline.into_handlers().map(|(handler, _)| handler).collect(),
        Some(written) => {
            let written = (out.len() as u64).min(u64::from(written));
            out.advance(usize::try_from(written).unwrap_or(0));
            let orphans = pipeline.drain(&out, written);
            for orphan in &orphans {
                let (original, _) = &requests[orphan.handler.number];
                match (&orphan.retry, original) {
                    (Some(OwnedRequest::Command(retry)), OwnedRequest::Command(original)) => {
                        let [retry, original] = [retry, original]
                            .map(|command| encoded(&mut dialect(input.is_binary), command).0);
                        assert_eq!(retry, original);
                    }
                    (Some(retry), original) if orphan.missing.is_none() => {
                        assert_eq!(retry, original);
                    }
                    _ => {}
                }
            }
            orphans.into_iter().map(|orphan| orphan.handler).collect()
        }
    };
    assert_eq!(left.len(), waiting);
    left.iter_mut().for_each(|handler| handler.is_told = true);
    drop(left);
    assert_eq!(log.borrow().dropped, 0, "a request was told nothing");
    let told = std::mem::take(&mut log.borrow_mut().told);
    (result, told, counted(&stats))
}

fn feed(
    pipeline: &mut Pipeline<Handler>,
    stats: &mut NodeStats,
    in_place: bool,
    reply: &[u8],
    cuts: &[usize],
) -> Result<(), ProtocolError> {
    let mut buffer = Vec::new();
    let mut from = 0;
    for &cut in cuts.iter().chain([&reply.len()]) {
        if in_place && let Some(rest) = pipeline.rest_of_value() {
            let len = rest.remaining_mut().min(cut - from);
            rest.put_slice(&reply[from..from + len]);
            from += len;
        }
        buffer.extend_from_slice(&reply[from..cut]);
        from = cut;
        let used = pipeline.feed(&buffer, u64::MAX, 0, stats)?;
        assert!(used <= buffer.len());
        buffer.drain(..used);
        if pipeline.must_close().is_some() {
            return Ok(());
        }
        assert!(buffer.is_empty() || pipeline.in_flight() > 0);
    }
    Ok(())
}

fuzz_target!(|input: Input| {
    let requests: Vec<_> = input
        .requests
        .iter()
        .take(40)
        .filter_map(|(wanted, is_noreply)| Some((wanted.request()?, *is_noreply)))
        .collect();
    let mut reply = Vec::new();
    input.reply.iter().take(60).for_each(|piece| piece.write(&mut reply));
    let mut cuts: Vec<usize> =
        input.cuts.iter().take(20).map(|cut| usize::from(*cut) % (reply.len() + 1)).collect();
    cuts.sort_unstable();
    let (whole, told, counts) = run(&input, &requests, &reply, &[]);
    let (split, told_split, counts_split) = run(&input, &requests, &reply, &cuts);
    assert_eq!(whole.is_ok(), split.is_ok(), "{whole:?} {split:?}");
    assert_eq!(told, told_split);
    if whole.is_ok() {
        assert_eq!(counts, counts_split);
    }
});
