//! Tests the pipeline with scripted replies: whole, split at every byte, in one-byte pieces.
use std::cell::RefCell;
use std::rc::Rc;

use bytes::BufMut;
use proptest::prelude::*;
use smallvec::SmallVec;

use super::*;
use crate::protocol::{
    ArithmeticVerb, Command, CommandStats, ItemRef, Key, NodeStats, Outgoing, OwnedCommand,
    OwnedRequest, ProtocolError, Reply, Request, RetrievalVerb, StatLine, StorageVerb, ValueBuf,
    Words,
};

/// Writes the calls of the pipeline to a log.
#[derive(Debug)]
pub(super) struct LogHandler {
    name: String,
    items: Vec<String>,
    log: Rc<RefCell<Vec<String>>>,
    kept: Rc<RefCell<Vec<Bytes>>>,
    pub(super) is_abandoned: bool,
}

impl ReplyHandler for LogHandler {
    type Value = Bytes;
    fn item(&mut self, index: usize, item: &ItemRef<'_>, shared: Option<&Bytes>) {
        let ItemRef { key, flags, cas, value } = item;
        let (key, value) = (key.escape_ascii(), value.escape_ascii());
        self.items.push(format!("{index}:{key}={value} {flags} {cas:?}"));
        if let Some(shared) = shared {
            assert_eq!(shared.as_bytes(), item.value);
            self.kept.borrow_mut().push(shared.clone());
        }
    }
    fn stat(&mut self, stat: &StatLine<'_>) {
        let StatLine { name, value, .. } = stat;
        self.items.push(format!("{}={}", name.escape_ascii(), value.escape_ascii()));
    }
    fn restart(&mut self) {
        self.items.clear();
    }
    fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }
    fn reply(self, reply: &Reply<'_>, _from: &str) {
        let shown = match reply {
            Reply::Meta { status, flags } => {
                format!("{} [{}]", status.name(), flags.escape_ascii())
            }
            Reply::Error(error) if error.line.ends_with(b" x") => {
                error.line.escape_ascii().to_string()
            }
            other => format!("{other:?}"),
        };
        self.log.borrow_mut().push(format!("{} {:?} {shown}", self.name, self.items));
    }
}

pub(super) struct Fixture {
    pub(super) pipeline: Pipeline<LogHandler>,
    /// Whether large values are read directly into their buffers, or passed to the pipeline like
    /// all other bytes.
    pub(super) in_place: bool,
    pub(super) out: Outgoing,
    pub(super) log: Rc<RefCell<Vec<String>>>,
    pub(super) stats: NodeStats,
    pub(super) kept: Rc<RefCell<Vec<Bytes>>>,
}

pub(super) fn key(bytes: &str) -> Key<'_> {
    Key::parse(bytes.as_bytes()).unwrap()
}

impl Fixture {
    pub(super) fn new(max_merged_keys: u32) -> Self {
        let (log, kept) = (Rc::default(), Rc::default());
        let pipeline = Pipeline::new(Dialect::default(), max_merged_keys, "peer".into());
        let (out, stats) = (Outgoing::default(), NodeStats::default());
        Self { pipeline, in_place: true, out, log, stats, kept }
    }

    pub(super) fn handler(&self, name: &str) -> LogHandler {
        LogHandler {
            name: name.into(),
            items: Vec::new(),
            log: self.log.clone(),
            kept: self.kept.clone(),
            is_abandoned: false,
        }
    }

    fn get(&mut self, verb: RetrievalVerb, keys: &[&str]) -> &mut Self {
        let handler = self.handler(&keys.join("+"));
        let keys: Vec<Key<'_>> = keys.iter().map(|k| key(k)).collect();
        let request = Request::Retrieval { verb, keys: &keys };
        self.pipeline.push(&request, handler, NEVER, &mut self.out);
        self
    }

    pub(super) fn gets(&mut self, keys: &[&str]) -> &mut Self {
        self.get(RetrievalVerb::Get, keys)
    }

    pub(super) fn command(&mut self, name: &str, command: Command<'_>) -> &mut Self {
        let handler = self.handler(name);
        self.pipeline.push(&Request::Command(command), handler, NEVER, &mut self.out);
        self
    }

    fn set(&mut self, name: &str, value: &[u8]) -> &mut Self {
        let (verb, flags, exptime) = (StorageVerb::Set, 0, 0);
        self.command(name, Command::Storage { verb, key: key(name), flags, exptime, value })
    }

    pub(super) fn wire(&mut self) -> String {
        self.pipeline.close_line(&mut self.out);
        String::from_utf8(self.out.copy(0, self.out.len()).unwrap().to_vec()).unwrap()
    }

    /// Feeds `wire` in the pieces that end at `cuts`, as a connection does.
    pub(super) fn answer(
        &mut self,
        wire: &[u8],
        cuts: &[usize],
    ) -> Result<Vec<String>, ProtocolError> {
        self.pipeline.close_line(&mut self.out);
        let mut buf = Vec::new();
        let mut from = 0;
        for &cut in cuts.iter().chain([&wire.len()]) {
            if self.in_place
                && let Some(rest) = self.pipeline.rest_of_value()
            {
                let len = rest.remaining_mut().min(cut - from);
                rest.put_slice(&wire[from..from + len]);
                from += len;
            }
            buf.extend_from_slice(&wire[from..cut]);
            from = cut;
            let used = self.pipeline.feed(&buf, u64::MAX, 0, &mut self.stats)?;
            assert!(used <= buf.len());
            buf.drain(..used);
        }
        assert!(buf.is_empty() || self.pipeline.in_flight() > 0);
        Ok(self.log.take())
    }
}

pub(super) fn encoded(command: &OwnedCommand) -> Bytes {
    let mut out = Outgoing::default();
    Dialect::default().encode_owned(command, &mut out);
    out.copy(0, out.len()).unwrap()
}

/// The counters as text.
pub(super) fn counted(stats: &NodeStats) -> String {
    let command_results = |(verb, command): (Verb, &CommandStats)| {
        let results: Vec<_> = command.results().map(|(name, n)| format!("{name} {n}")).collect();
        format!("{}: {}", verb.name(), results.join(", "))
    };
    stats.commands().map(command_results).collect::<Vec<_>>().join("; ")
}

/// A request of every kind, and the replies.
fn mixed() -> (Fixture, Vec<u8>, Vec<&'static str>) {
    let mut fixture = Fixture::new(32);
    fixture.gets(&["a"]).gets(&["b"]).gets(&["a"]).gets(&["c"]);
    fixture.set("s", b"v").gets(&["m1", "m2", "m3"]).get(RetrievalVerb::Gets, &["g"]);
    fixture.get(RetrievalVerb::Gat { exptime: 5 }, &["t"]);
    fixture
        .command("n", Command::Arithmetic { verb: ArithmeticVerb::Incr, key: key("n"), delta: 1 });
    fixture.command("d", Command::Delete { key: key("d") });
    fixture.command("touch", Command::Touch { key: key("t"), exptime: 1 });
    fixture.command("version", Command::Version);
    let args = Words::parse("settings").unwrap();
    fixture.command("stats", Command::Stats { args });
    fixture.command("flush", Command::FlushAll { delay: 0 });
    let answer = b"VALUE a 1 5\r\nEND\r\n\r\nVALUE c 0 0\r\n\r\nEND\r\nSTORED\r\n\
        VALUE m1 0 2\r\n\r\n\r\nVALUE m3 4294967295 13\r\nVALUE m2 0 1\r\r\nEND\r\n\
        VALUE g 0 1 18446744073709551615\r\nx\r\nEND\r\nEND\r\n18446744073709551615\r\n\
        NOT_FOUND\r\nTOUCHED\r\nVERSION 1.6.18\r\nSTAT a 1\r\n\
        STAT inter 127.0.0.1 x\r\nSTAT empty\r\nEND\r\nOK\r\n";
    let replies = vec![
        r#"a ["0:a=END\\r\\n 1 None"] End"#,
        r#"b [] End"#,
        r#"a ["0:a=END\\r\\n 1 None"] End"#,
        r#"c ["0:c= 0 None"] End"#,
        r#"s [] Stored"#,
        r#"m1+m2+m3 ["0:m1=\\r\\n 0 None", "2:m3=VALUE m2 0 1\\r 4294967295 None"] End"#,
        r#"g ["0:g=x 0 Some(18446744073709551615)"] End"#,
        r#"t [] End"#,
        r#"n [] Number(18446744073709551615)"#,
        r#"d [] NotFound"#,
        r#"touch [] Touched"#,
        r#"version [] Version([49, 46, 54, 46, 49, 56])"#,
        r#"stats ["a=1", "inter=127.0.0.1 x", "empty="] End"#,
        r#"flush [] Ok"#,
    ];
    (fixture, answer.to_vec(), replies)
}

#[test]
fn every_split_gives_the_same_answers() {
    let (mut fixture, answer, replies) = mixed();
    assert_eq!(fixture.answer(&answer, &[]).unwrap(), replies);
    for cut in 0..=answer.len() {
        assert_eq!(mixed().0.answer(&answer, &[cut]).unwrap(), replies, "cut at {cut}");
    }
    let every: Vec<usize> = (0..answer.len()).collect();
    for in_place in [true, false] {
        let (mut fixture, ..) = mixed();
        fixture.in_place = in_place;
        assert_eq!(fixture.answer(&answer, &every).unwrap(), replies);
    }
}

#[test]
fn a_value_in_pieces_is_shared_by_all_its_requests() {
    let mut fixture = Fixture::new(32);
    fixture.gets(&["a"]).gets(&["b"]).gets(&["a"]).get(RetrievalVerb::Gets, &["g"]).gets(&["z"]);
    let answer = b"VALUE b 7 9\r\n123456789\r\nVALUE a 0 8\r\nabcdefgh\r\nEND\r\n\
        VALUE g 1 10 5\r\n1234567890\r\nEND\r\nEND\r\n";
    let replies = fixture.answer(answer, &[15, 40, 70]).unwrap();
    let a = r#"a ["0:a=abcdefgh 0 None"] End"#;
    let g = r#"g ["0:g=1234567890 1 Some(5)"] End"#;
    assert_eq!(replies, [a, r#"b ["0:b=123456789 7 None"] End"#, a, g, "z [] End"]);
    let kept = fixture.kept.take();
    let [b, first, second, g] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!(first.as_ptr(), second.as_ptr());
    assert_eq!([&**b, &**g], [&b"123456789"[..], b"1234567890"]);
}

#[test]
fn a_value_in_pieces_for_a_foreign_key_or_without_an_end_is_an_error() {
    for (answer, error) in [
        ("VALUE x 0 9\r\n123456789\r\nEND\r\n", "not requested: 'x'"),
        ("VALUE a 0 9\r\n1234567890\r\nEND\r\n", "not followed by CRLF"),
    ] {
        let mut fixture = Fixture::new(32);
        fixture.gets(&["a"]);
        let replies = fixture.answer(answer.as_bytes(), &[15, 18]).unwrap_err().to_string();
        assert!(replies.contains(error), "{replies}");
    }
}

#[test]
fn a_value_in_pieces_is_not_made_for_a_caller_that_gave_up() {
    let wire = b"VALUE a 1 12\r\nEND\r\n\r\nVALUE\r\nVALUE b 2 9\r\nbbbb\r\nEND\r\nEND\r\n";
    for cut in 0..=wire.len() {
        for in_place in [true, false] {
            for abandoned in [[true, false], [false, true], [true, true]] {
                let mut fixture = Fixture::new(32);
                fixture.in_place = in_place;
                fixture.gets(&["a"]).gets(&["b"]);
                for (at, abandoned) in abandoned.into_iter().enumerate() {
                    let slots = &mut fixture.pipeline.in_flight.slots;
                    slots.handler_mut(at).unwrap().is_abandoned = abandoned;
                }
                // A value that arrived in one read is not copied in advance, but passed on.
                let log = fixture.answer(wire, &[cut]).unwrap();
                assert_eq!(log.len(), 2, "{log:?}");
                let kept: Vec<_> = fixture.kept.take();
                for (value, abandoned) in
                    [(&wire[14..26], abandoned[0]), (&wire[41..50], abandoned[1])]
                {
                    assert!(!abandoned || !kept.iter().any(|kept| kept == value), "{cut} {log:?}");
                }
                assert!(abandoned[0] || log[0].contains("a=END"), "{cut} {log:?}");
                assert!(abandoned[1] || log[1].contains("b=bbbb"), "{cut} {log:?}");
                assert_eq!(counted(&fixture.stats), "get: hit 2");
            }
        }
    }
}

#[test]
fn an_expired_request_gets_no_rest_of_a_value() {
    let mut fixture = Fixture::new(32);
    let handler = fixture.handler("late");
    let keys = [key("a")];
    let request = Request::Retrieval { verb: RetrievalVerb::Get, keys: &keys };
    fixture.pipeline.push(&request, handler, 5, &mut fixture.out);
    fixture.gets(&["b"]).gets(&["a"]);
    fixture.pipeline.close_line(&mut fixture.out);
    assert_eq!(
        fixture.pipeline.feed(b"VALUE a 0 9\r\n12", u64::MAX, 0, &mut fixture.stats).unwrap(),
        15
    );
    assert_eq!(fixture.pipeline.missing_len(0), 9);
    let mut expired = 0;
    fixture.pipeline.expire(5, u64::MAX, |_| expired += 1);
    assert_eq!(expired, 1);
    let replies = fixture.answer(b"3456789\r\nVALUE b 0 0\r\n\r\nEND\r\n", &[3]).unwrap();
    assert_eq!(replies, [r#"b ["0:b= 0 None"] End"#, r#"a ["0:a=123456789 0 None"] End"#]);
}

#[test]
fn a_value_above_the_limit_is_not_received_in_place() {
    let mut fixture = Fixture::new(32);
    fixture.gets(&["a"]);
    fixture.pipeline.close_line(&mut fixture.out);
    let head = b"VALUE a 0 70000000\r\nab";
    assert_eq!(fixture.pipeline.feed(head, u64::MAX, 0, &mut fixture.stats).unwrap(), 0);
    assert!(fixture.pipeline.rest_of_value().is_none());
    assert_eq!(fixture.pipeline.missing_len(head.len()), 70_000_000);
}

#[test]
fn a_long_item_is_expected_only_after_one() {
    let mut fixture = Fixture::new(1);
    let long = b"VALUE a 0 9\r\n123456789\r\nEND\r\n";
    for next in ["short", "miss", "other"] {
        fixture.gets(&["a"]);
        fixture.answer(long, &[15]).unwrap();
        assert!(fixture.pipeline.expects_large_value());
        let answer: &[u8] = match next {
            "short" => {
                fixture.gets(&["b"]);
                b"VALUE b 0 1\r\n1\r\nEND\r\n"
            }
            "miss" => {
                fixture.gets(&["b"]);
                b"END\r\n"
            }
            _ => {
                fixture.set("b", b"v");
                b"STORED\r\n"
            }
        };
        fixture.answer(answer, &[]).unwrap();
        assert!(!fixture.pipeline.expects_large_value(), "{next}");
    }
}

#[test]
fn a_connection_that_dies_within_a_value_hands_its_requests_back() {
    let mut fixture = Fixture::new(32);
    fixture.gets(&["a"]).gets(&["b"]);
    fixture.pipeline.close_line(&mut fixture.out);
    fixture.pipeline.feed(b"VALUE a 0 9\r\n12", u64::MAX, 0, &mut fixture.stats).unwrap();
    let orphans = fixture.pipeline.drain(&fixture.out, u64::MAX);
    let asked: Vec<_> = orphans.iter().map(|orphan| orphan.retry.is_some()).collect();
    assert_eq!(asked, [true, true]);
    assert!(fixture.pipeline.rest_of_value().is_none());
}

#[test]
fn gets_share_a_line_and_nothing_else_does() {
    let mut fixture = Fixture::new(3);
    fixture.gets(&["a"]).gets(&["b"]).gets(&["a"]).gets(&["c"]);
    fixture.get(RetrievalVerb::Gets, &["c"]).gets(&["d"]).gets(&["e", "f"]).gets(&["g"]);
    fixture.set("s", b"v").gets(&["h"]);
    assert_eq!(
        fixture.wire(),
        "get a b c\r\ngets c\r\nget d\r\nget e f\r\nget g\r\nset s 0 0 1\r\nv\r\nget h\r\n"
    );
    let mut single = Fixture::new(1);
    single.gets(&["a"]).gets(&["b"]).gets(&["a"]);
    assert_eq!(single.wire(), "get a\r\nget b\r\nget a\r\n");
}

#[test]
fn a_line_is_full_with_128_requests_for_one_key() {
    let mut fixture = Fixture::new(32);
    for _ in 0..129 {
        fixture.gets(&["a"]);
    }
    assert_eq!(fixture.wire(), "get a\r\nget a\r\n");
}

#[test]
fn requests_for_one_key_count_as_one_key_of_their_line() {
    let mut fixture = Fixture::new(2);
    for _ in 0..100 {
        fixture.gets(&["a"]);
    }
    fixture.gets(&["b"]).gets(&["a"]);
    assert_eq!(fixture.wire(), "get a b\r\nget a\r\n");
    let replies = fixture.answer(b"VALUE a 0 1\r\n1\r\nEND\r\nEND\r\n", &[]).unwrap();
    let hits = replies.iter().filter(|reply| *reply == r#"a ["0:a=1 0 None"] End"#).count();
    assert_eq!((replies.len(), hits), (102, 100));
}

#[test]
fn a_line_stays_under_its_limit() {
    let mut fixture = Fixture::new(u32::MAX);
    let keys: Vec<String> = (0..100).map(|i| format!("{i:0>250}")).collect();
    for key in &keys {
        fixture.gets(&[key]);
    }
    let wire = fixture.wire();
    assert!(wire.split_inclusive("\r\n").all(|line| line.len() <= MAX_LINE_LEN));
    assert_eq!(wire.split_inclusive("\r\n").count(), 100_usize.div_ceil(3));
}

#[test]
fn commands_end_where_a_record_may_end() {
    let mut fixture = Fixture::new(32);
    fixture.set("a", b"v").gets(&["b"]).gets(&["c"]).set("d", &[b'v'; 100]).gets(&["e"]);
    let ends: Vec<u64> = ["set a 0 0 1\r\nv\r\n", "get b c\r\n", &"-".repeat(117), "get e\r\n"]
        .iter()
        .scan(0, |end, command| {
            *end += command.len() as u64;
            Some(*end)
        })
        .collect();
    fixture.pipeline.close_line(&mut fixture.out);
    assert_eq!(fixture.out.len() as u64, ends[3]);
    for most in 1..200 {
        let mut from = 0;
        while from < ends[3] {
            let end = fixture.pipeline.commands_end(from, most);
            assert!(ends.contains(&end) && end > from);
            let is_one = ends.iter().filter(|known| (from + 1..=end).contains(known)).count() == 1;
            assert!(is_one || end - from <= most);
            // No further command would fit.
            assert!(ends.iter().all(|known| *known <= end || known - from > most));
            from = end;
        }
    }
}

#[test]
fn an_answer_to_stats_has_an_end() {
    for line in
        ["STAT a 1\r\n".to_owned(), format!("STAT {} {}\r\n", "n".repeat(500), "v".repeat(500))]
    {
        let mut fixture = Fixture::new(32);
        fixture.command("stats", Command::Stats { args: Words::parse("").unwrap() });
        fixture.wire();
        let lines = line.repeat(1000).into_bytes();
        let most = MAX_STATS_SIZE / (line.len() - 2 + STAT_OVERHEAD);
        let mut stats = NodeStats::default();
        let mut feed = || fixture.pipeline.feed(&lines, u64::MAX, 0, &mut stats);
        for _ in 0..most / 1000 {
            assert_eq!(feed(), Ok(lines.len()));
        }
        assert_eq!(feed(), Err(ProtocolError::TooManyLines));
    }
}

#[test]
fn each_answer_to_stats_is_counted_by_itself() {
    let mut fixture = Fixture::new(32);
    let lines = [b"STAT a 1\r\n".repeat(200_000), b"END\r\n".to_vec()].concat();
    let mut stats = NodeStats::default();
    for _ in 0..3 {
        fixture.command("stats", Command::Stats { args: Words::parse("").unwrap() });
        assert_eq!(fixture.pipeline.feed(&lines, u64::MAX, 0, &mut stats), Ok(lines.len()));
    }
}

#[test]
fn items_in_another_order_find_their_callers() {
    let mut fixture = Fixture::new(32);
    fixture.gets(&["a"]).gets(&["b"]).gets(&["c"]).gets(&["a"]);
    let answer = b"VALUE c 0 1\r\nC\r\nVALUE a 0 1\r\nA\r\nVALUE b 0 1\r\nB\r\nEND\r\n";
    let a = r#"a ["0:a=A 0 None"] End"#;
    let replies = [a, r#"b ["0:b=B 0 None"] End"#, r#"c ["0:c=C 0 None"] End"#, a];
    assert_eq!(fixture.answer(answer, &[]).unwrap(), replies);
}

#[test]
fn the_same_key_twice_in_one_request() {
    let mut fixture = Fixture::new(32);
    fixture.gets(&["a", "b", "a"]);
    let answer = b"VALUE a 0 1\r\n1\r\nVALUE b 0 1\r\n2\r\nVALUE a 0 1\r\n3\r\nEND\r\n";
    let replies = [r#"a+b+a ["0:a=1 0 None", "1:b=2 0 None", "2:a=3 0 None"] End"#];
    assert_eq!(fixture.answer(answer, &[]).unwrap(), replies);
}

#[test]
fn a_foreign_or_surplus_answer_is_an_error() {
    for (answer, error) in [
        ("VALUE x 0 1\r\nv\r\nEND\r\n", "not requested: 'x'"),
        ("VALUE a 0 1\r\nv\r\nVALUE a 0 1\r\nv\r\nEND\r\n", "not requested: 'a'"),
        ("END\r\nEND\r\n", "unsolicited reply: END"),
        ("END\r\nERROR Too many open connections\r\n", "too many open connections"),
        ("ERROR Too many open connections\r\n", "too many open connections"),
        ("STORED\r\n", "unexpected reply: STORED"),
    ] {
        let mut fixture = Fixture::new(32);
        fixture.gets(&["a"]);
        let replies = fixture.answer(answer.as_bytes(), &[]).unwrap_err().to_string();
        assert!(replies.contains(error), "{answer:?}: {replies}");
    }
}

#[test]
fn an_answer_to_an_unwritten_request_is_an_error() {
    let mut fixture = Fixture::new(32);
    fixture.gets(&["a"]);
    assert!(matches!(
        fixture.pipeline.feed(b"END\r\n", 0, 0, &mut NodeStats::default()),
        Err(ProtocolError::Unsolicited(_))
    ));
}

#[test]
fn an_error_line_answers_one_key() {
    for error in ["ERROR", "CLIENT_ERROR no", "SERVER_ERROR out of memory"] {
        let mut fixture = Fixture::new(32);
        // Both requests share one key.
        fixture.gets(&["a"]).gets(&["a"]).set("s", b"v");
        let replies = fixture.answer(format!("{error}\r\nSTORED\r\n").as_bytes(), &[]).unwrap();
        assert!(
            replies[..2].iter().all(|replies| replies.starts_with("a [] Error(")),
            "{replies:?}"
        );
        assert_eq!(replies[2], "s [] Stored");
        assert_eq!(fixture.pipeline.must_close(), None);
        let word = error.split(' ').next().unwrap().to_lowercase();
        assert_eq!(counted(&fixture.stats), format!("get: {word} 2; set: stored 1"));
    }
}

/// The retried keys, and their indexes if the reply to their line was cut short.
type Retried = (Vec<String>, Option<Vec<usize>>);

fn retried_keys(fixture: &mut Fixture) -> Vec<Retried> {
    let orphans = fixture.pipeline.drain(&fixture.out, u64::MAX);
    let keys_and_missing = |orphan: Orphan<LogHandler>| {
        let keys = match orphan.retry {
            Some(OwnedRequest::Retrieval { keys, .. }) => {
                keys.iter().map(|key| key.escape_ascii().to_string()).collect()
            }
            _ => Vec::new(),
        };
        (keys, orphan.missing.map(SmallVec::into_vec))
    };
    orphans.into_iter().map(keys_and_missing).collect()
}

#[test]
fn an_error_line_among_several_keys_closes_the_connection() {
    // The error line may end the reply, or stand for one key.
    for rest in ["", "VALUE c 0 1\r\n3\r\nEND\r\n"] {
        let mut fixture = Fixture::new(32);
        fixture.gets(&["a"]).gets(&["b"]).gets(&["c"]).set("s", b"v").gets(&["d"]);
        let answer = format!("VALUE a 0 1\r\n1\r\nSERVER_ERROR no\r\n{rest}STORED\r\nEND\r\n");
        fixture.pipeline.close_line(&mut fixture.out);
        fixture.pipeline.feed(answer.as_bytes(), u64::MAX, 0, &mut fixture.stats).unwrap();
        assert_eq!(fixture.log.take(), [r#"a ["0:a=1 0 None"] End"#]);
        assert_eq!(fixture.pipeline.must_close(), Some(MustClose::KeyRefused));
        let (kind, line) = fixture.pipeline.line_error().unwrap();
        assert_eq!((*kind, line.as_ref()), (ErrorLineKind::Server, b"SERVER_ERROR no".as_ref()));
        assert_eq!(counted(&fixture.stats), "get: hit 1");
        let alone = |key: &str| (vec![key.to_owned()], Some(vec![0]));
        let expected = [alone("b"), alone("c"), (vec![], None), (vec!["d".to_owned()], None)];
        assert_eq!(retried_keys(&mut fixture), expected);
    }
}

#[test]
fn what_is_missing_of_many_keys_is_known_wherever_an_error_line_comes() {
    let names = ["a", "b", "c", "d", "e"];
    for found in 0..names.len() {
        let mut fixture = Fixture::new(32);
        fixture.gets(&names).gets(&["z"]);
        // Every second key has its item; the others are missing or have not arrived.
        let had: Vec<_> = names[..found].iter().step_by(2).collect();
        let items: Vec<_> = had.iter().map(|key| format!("VALUE {key} 0 1\r\n1\r\n")).collect();
        let items = items.concat();
        let answer = format!("{items}SERVER_ERROR no\r\nEND\r\nEND\r\n");
        fixture.pipeline.close_line(&mut fixture.out);
        fixture.pipeline.feed(answer.as_bytes(), u64::MAX, 0, &mut fixture.stats).unwrap();
        let missing: Vec<usize> =
            (0..names.len()).filter(|at| !had.contains(&&names[*at])).collect();
        let keys = missing.iter().map(|at| names[*at].to_owned()).collect();
        let expected = [(keys, Some(missing)), (vec!["z".to_owned()], None)];
        assert_eq!(retried_keys(&mut fixture), expected);
        assert!(fixture.log.take().is_empty());
    }
}

fn taken(fixture: &mut Fixture, must_stay: &str) -> Vec<String> {
    let taken = fixture.pipeline.take_held_up(u64::MAX, |key| key == must_stay.as_bytes());
    let keys = |orphan: Orphan<LogHandler>| match orphan.retry {
        Some(OwnedRequest::Retrieval { keys, .. }) => String::from_utf8(keys.join(&b' ')).unwrap(),
        _ => unreachable!("only reads are taken"),
    };
    taken.into_iter().map(keys).collect()
}

#[test]
fn reads_that_are_held_up_are_taken_and_their_answers_dropped() {
    let mut fixture = Fixture::new(1);
    fixture.gets(&["first"]).gets(&["a"]).set("s", b"v").gets(&["b", "c"]).gets(&["pinned"]);
    assert!(fixture.pipeline.is_held_up());
    assert_eq!(taken(&mut fixture, "pinned"), ["a", "b c"]);
    assert_eq!(taken(&mut fixture, "pinned"), Vec::<String>::new());
    assert_eq!((fixture.pipeline.in_flight(), fixture.pipeline.moved()), (5, 2));
    let items = |keys: &[&str]| {
        let items: Vec<_> = keys.iter().map(|key| format!("VALUE {key} 0 1\r\n1\r\n")).collect();
        items.concat() + "END\r\n"
    };
    let answer = [
        items(&["first"]),
        items(&["a"]),
        "STORED\r\n".to_owned(),
        items(&["c"]),
        items(&["pinned"]),
    ];
    let replies = fixture.answer(answer.concat().as_bytes(), &[]).unwrap();
    let expected =
        [r#"first ["0:first=1 0 None"] End"#, "s [] Stored", r#"pinned ["0:pinned=1 0 None"] End"#];
    assert_eq!(replies, expected);
    assert_eq!((fixture.pipeline.in_flight(), fixture.pipeline.moved()), (0, 0));
}

#[test]
fn keys_that_share_the_first_line_hold_each_other_up() {
    let mut fixture = Fixture::new(32);
    fixture.gets(&["a"]);
    assert!(!fixture.pipeline.is_held_up());
    fixture.gets(&["b"]).gets(&["c"]);
    assert!(fixture.pipeline.is_held_up());
    assert_eq!(taken(&mut fixture, ""), ["a", "b", "c"]);
    assert!(!fixture.pipeline.is_held_up() && !fixture.pipeline.has_waiters());
    // A command has a line of its own.
    let mut fixture = Fixture::new(32);
    fixture.set("s", b"v").gets(&["a"]);
    assert_eq!(taken(&mut fixture, ""), ["a"]);
    assert!(fixture.pipeline.has_waiters());
}

#[test]
fn an_error_line_after_the_item_of_one_key_closes_the_connection() {
    let mut fixture = Fixture::new(1);
    fixture.gets(&["a"]).gets(&["b"]);
    let answer = b"VALUE a 0 1\r\n1\r\nSERVER_ERROR no\r\nEND\r\n";
    fixture.pipeline.feed(answer, u64::MAX, 0, &mut fixture.stats).unwrap();
    assert_eq!(fixture.log.take(), [r#"a ["0:a=1 0 None"] End"#]);
    assert_eq!(retried_keys(&mut fixture), [(vec!["b".to_owned()], None)]);
}

#[test]
fn a_server_that_wants_a_login_says_so_to_all() {
    let mut fixture = Fixture::new(32);
    fixture.gets(&["a"]).gets(&["b"]).set("s", b"v").gets(&["c"]);
    fixture.pipeline.close_line(&mut fixture.out);
    let answer = b"CLIENT_ERROR unauthenticated\r\n";
    fixture.pipeline.feed(answer, u64::MAX, 0, &mut fixture.stats).unwrap();
    let replies = fixture.log.take();
    assert_eq!(replies.len(), 4);
    assert!(
        replies
            .iter()
            .all(|replies| replies.contains("unauthenticated") || replies.contains("Error("))
    );
    assert_eq!(fixture.pipeline.must_close(), Some(MustClose::Unauthenticated));
    assert_eq!(counted(&fixture.stats), "get: client_error 3; set: client_error 1");
    assert_eq!(retried_keys(&mut fixture), []);
}

#[test]
fn every_answer_is_counted_once_wherever_it_is_split() {
    let expected = "get: hit 5, miss 2; gets: hit 1; gat: miss 1; set: stored 1; \
        delete: not_found 1; incr: ok 1; touch: touched 1; flush_all: ok 1; version: ok 1; \
        stats: ok 1";
    let (_, answer, _) = mixed();
    for cut in 0..answer.len() {
        let (mut fixture, answer, _) = mixed();
        fixture.answer(&answer, &[cut]).unwrap();
        assert_eq!(counted(&fixture.stats), expected, "{cut}");
        assert_eq!(fixture.pipeline.shared_keys(), 1);
    }
}

#[test]
fn a_refused_storage_head_ends_the_connection() {
    for (error, closes) in [
        ("ERROR", true),
        ("CLIENT_ERROR bad data chunk", true),
        ("SERVER_ERROR object too large for cache", false),
    ] {
        let mut fixture = Fixture::new(32);
        fixture.set("s", b"flush_all").gets(&["a"]);
        let answer = format!("{error}\r\nOK\r\n");
        let fed = fixture.pipeline.feed(answer.as_bytes(), u64::MAX, 0, &mut NodeStats::default());
        assert_eq!(fixture.pipeline.must_close().is_some(), closes, "{error}");
        // The surplus reply is not passed to the get behind.
        assert_eq!(fed.is_ok(), closes, "{fed:?}");
        assert_eq!(fixture.log.borrow().len(), 1);
    }
}

#[test]
fn an_expired_request_leaves_its_slot() {
    let mut fixture = Fixture::new(32);
    for (name, deadline) in [("a", 10), ("b", 20), ("c", 30)] {
        let (handler, keys) = (fixture.handler(name), [key(name)]);
        let request = Request::Retrieval { verb: RetrievalVerb::Get, keys: &keys };
        fixture.pipeline.push(&request, handler, deadline, &mut fixture.out);
    }
    let mut expired = Vec::new();
    let next =
        fixture.pipeline.expire(20, 0, |late| expired.push((late.handler.name, late.info.verb)));
    assert_eq!(next, 30);
    assert_eq!(expired, [("a".to_owned(), Verb::Get), ("b".to_owned(), Verb::Get)]);
    assert_eq!((fixture.pipeline.in_flight(), fixture.pipeline.abandoned()), (3, 2));
    let answer = b"VALUE a 0 1\r\n1\r\nVALUE b 0 1\r\n2\r\nVALUE c 0 1\r\n3\r\nEND\r\n";
    assert_eq!(fixture.answer(answer, &[]).unwrap(), [r#"c ["0:c=3 0 None"] End"#]);
    assert_eq!((fixture.pipeline.in_flight(), fixture.pipeline.abandoned()), (0, 0));
    // Late replies belong to requests that were counted when they expired.
    assert_eq!(counted(&fixture.stats), "get: hit 1");
}

#[test]
fn a_lost_connection_returns_requests_to_retry() {
    let mut fixture = Fixture::new(32);
    fixture.gets(&["a"]).gets(&["b"]).set("sent", b"1").gets(&["c", "d"]).set("unsent", b"2");
    fixture.gets(&["e"]).set("last", b"3");
    let wire = fixture.wire();
    // The cut is within the second set, so the server may have executed it.
    for (cut, again) in [
        (
            wire.find("set unsent").unwrap(),
            vec!["set unsent 0 0 1\r\n2\r\n", "set last 0 0 1\r\n3\r\n"],
        ),
        (wire.find("set unsent").unwrap() + 1, vec!["set last 0 0 1\r\n3\r\n"]),
        (wire.len() - 1, vec![]),
    ] {
        let mut fixture = Fixture::new(32);
        fixture.gets(&["a"]).gets(&["b"]).set("sent", b"1").gets(&["c", "d"]).set("unsent", b"2");
        fixture.gets(&["e"]).set("last", b"3");
        fixture.pipeline.close_line(&mut fixture.out);
        fixture.out.advance(cut);
        let orphans = fixture.pipeline.drain(&fixture.out, cut as u64);
        assert_eq!(orphans.len(), 7);
        let mut reads = Vec::new();
        let mut writes = Vec::new();
        for orphan in orphans {
            match orphan.retry {
                Some(OwnedRequest::Retrieval { keys, .. }) => reads.push(keys.concat()),
                Some(OwnedRequest::Command(command)) => writes.push(encoded(&command)),
                None => assert_eq!(orphan.info.verb, Verb::Set),
            }
        }
        assert_eq!(reads, [b"a".as_slice(), b"b", b"cd", b"e"]);
        assert_eq!(writes, again);
        assert_eq!(fixture.pipeline.in_flight(), 0);
    }
}

#[test]
fn an_owned_request_is_encoded_like_a_borrowed_one() {
    let mut fixture = Fixture::new(32);
    for keys in [vec!["a"], vec!["b"], vec!["c", "d"]] {
        let keys = keys.into_iter().map(|k| Bytes::from_static(k.as_bytes())).collect();
        let request = OwnedRequest::Retrieval { verb: RetrievalVerb::Get, keys };
        let handler = fixture.handler("r");
        fixture.pipeline.push_owned(&request, handler, NEVER, true, &mut fixture.out);
    }
    let request = OwnedRequest::Command(OwnedCommand::Delete { key: Bytes::from("k") });
    let handler = fixture.handler("d");
    fixture.pipeline.push_owned(&request, handler, NEVER, false, &mut fixture.out);
    let (verb, value) = (StorageVerb::Set, Bytes::from_static(b"value"));
    let request = OwnedRequest::storage(verb, key("k"), 1, 2, value);
    assert_eq!(request.payload_len(), "k".len() + "value".len());
    let handler = fixture.handler("s");
    fixture.pipeline.push_owned(&request, handler, NEVER, false, &mut fixture.out);
    fixture.gets(&["e"]);
    let wire = fixture.wire();
    assert_eq!(wire, "get a b\r\nget c d\r\ndelete k\r\nset k 1 2 5\r\nvalue\r\nget e\r\n");
}

#[test]
fn records_of_the_binary_dialect_end_where_requests_end() {
    let mut fixture = Fixture::new(32);
    fixture.pipeline = Pipeline::new(Dialect::binary(), 32, "peer".into());
    fixture.gets(&["a"]).gets(&["b"]).gets(&["a"]).set("k", b"value").gets(&["c", "dd", "e"]);
    fixture.pipeline.close_line(&mut fixture.out);
    let all = fixture.out.copy(0, fixture.out.len()).unwrap();
    let mut ends = vec![0];
    while let Some(len) = all.get(ends[ends.len() - 1] + 8..ends[ends.len() - 1] + 12) {
        let len = u32::from_be_bytes(len.try_into().unwrap()) as usize;
        ends.push(ends[ends.len() - 1] + 24 + len);
    }
    assert_eq!(ends.len(), 9, "2 keys, a no-op, a set, 3 keys, a no-op");
    for from in 0..all.len() {
        for most in 1..all.len() {
            let end = fixture.pipeline.commands_end(from as u64, most as u64);
            let end = usize::try_from(end).unwrap();
            let fitting = ends.iter().rfind(|end| (from + 1..=from + most).contains(*end));
            assert!(fitting.is_none_or(|fitting| *fitting == end), "{from} {most} {end}");
            assert!(ends.contains(&end) && end > from);
        }
    }
}

#[test]
fn a_binary_conversation_split_at_every_byte() {
    let response = |code: u8, extras: &[u8], opaque: u8, key: &str, value: &[u8]| {
        let body = u32::try_from(extras.len() + key.len() + value.len()).unwrap();
        let short = |len: usize| u8::try_from(len).unwrap();
        let (key_len, extras_len) = (short(key.len()), short(extras.len()));
        let mut bytes = vec![0x81, code, 0, key_len, extras_len, 0, 0, 0];
        bytes.extend(body.to_be_bytes());
        bytes.extend([0, 0, 0, opaque, 0, 0, 0, 0, 0, 0, 0, 9]);
        bytes.extend([extras, key.as_bytes(), value].concat());
        bytes
    };
    let answers = [
        response(0x0d, &[0, 0, 0, 1], 0, "a", b"a value of some length"),
        response(0x0d, &[0, 0, 0, 2], 0, "b", b""),
        response(0x0a, &[], 0, "", b""),
        response(0x01, &[], 1, "", b""),
        response(0x0d, &[0, 0, 0, 3], 2, "dd", b"another value"),
        response(0x0a, &[], 2, "", b""),
    ];
    let answers = answers.concat();
    for cut in 0..=answers.len() {
        for in_place in [true, false] {
            let mut fixture = Fixture::new(32);
            fixture.in_place = in_place;
            fixture.pipeline = Pipeline::new(Dialect::binary(), 32, "peer".into());
            fixture.gets(&["a"]).gets(&["b"]).gets(&["a"]).set("k", b"value").gets(&["c", "dd"]);
            let expected = [
                r#"a ["0:a=a value of some length 1 None"] End"#,
                r#"b ["0:b= 2 None"] End"#,
                r#"a ["0:a=a value of some length 1 None"] End"#,
                "k [] Stored",
                r#"c+dd ["1:dd=another value 3 None"] End"#,
            ];
            assert_eq!(fixture.answer(&answers, &[cut]).unwrap(), expected, "{cut}");
        }
    }
}

proptest! {
    /// Any bytes at any cuts: no panic, nothing beyond the frame, and the same result as in one
    /// piece.
    #[test]
    fn garbage_is_survived(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "VALUE a 0 1\r\n", "VALUE b 1 3\r\n", "x", "\r\n", "END\r\n", "STORED\r\n", "1",
                    "VALUE ", "-1", " ", "STAT a b\r\n", "ERROR\r\n", "SERVER_ERROR x\r\n",
                    "NOT_FOUND\r\n", "VALUE a 0 99999999999\r\n",
                ]).prop_map(|s| s.as_bytes().to_vec()),
                prop::collection::vec(any::<u8>(), 0..8),
            ],
            0..20,
        ),
        seed in any::<u64>(),
    ) {
        let wire = pieces.concat();
        let whole = mixed().0.answer(&wire, &[]);
        let mut fixture = mixed().0;
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut cuts: Vec<usize> = (0..5).map(|_| rng.usize(..=wire.len())).collect();
        cuts.sort_unstable();
        let split = fixture.answer(&wire, &cuts);
        prop_assert_eq!(whole.is_ok(), split.is_ok());
        if let (Ok(whole), Ok(split)) = (whole, split) {
            prop_assert_eq!(whole, split);
        }
    }

    /// A merged burst of gets with any hits, misses and repeats: every request gets the value of
    /// its key, at any cut.
    #[test]
    fn every_request_gets_its_own_value(
        asked in prop::collection::vec((0..12u8, any::<bool>()), 1..80),
        merged in 1..40u32,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut fixture = Fixture::new(merged);
        for (k, _) in &asked {
            fixture.gets(&[&format!("key{k}")]);
        }
        let mut answer = Vec::new();
        for line in fixture.wire().lines() {
            for key in line.split(' ').skip(1) {
                let k: u8 = key[3..].parse().unwrap();
                if asked.iter().any(|&(a, hit)| a == k && hit) {
                    let value = format!("{key}\r\nEND\r\n{key}");
                    let item = format!("VALUE {key} 0 {}\r\n{value}\r\n", value.len());
                    answer.extend_from_slice(item.as_bytes());
                }
            }
            answer.extend_from_slice(b"END\r\n");
        }
        let replies = fixture.answer(&answer, &[cut.index(answer.len())]).unwrap();
        prop_assert_eq!(replies.len(), asked.len());
        for ((k, _), replies) in asked.iter().zip(replies) {
            let hit = asked.iter().any(|&(a, hit)| a == *k && hit);
            let expected = if hit {
                format!(r#"key{k} ["0:key{k}=key{k}\\r\\nEND\\r\\nkey{k} 0 None"] End"#)
            } else {
                format!("key{k} [] End")
            };
            prop_assert_eq!(replies, expected);
        }
    }
}
