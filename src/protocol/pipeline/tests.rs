//! The pipeline against scripted answers: whole, split at every byte, in one-byte pieces.
use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::protocol::{ArithmeticVerb, Command, CommandTally, StatsArgs, StorageVerb};

/// Writes what it was told into a log that the test reads.
#[derive(Debug)]
struct Logged {
    name: String,
    items: Vec<String>,
    log: Rc<RefCell<Vec<String>>>,
    kept: Rc<RefCell<Vec<Bytes>>>,
    is_abandoned: bool,
}

impl Sink for Logged {
    type Kept = Bytes;
    fn item(&mut self, index: usize, item: &ItemRef<'_>, kept: Option<&Bytes>) {
        let ItemRef { key, flags, cas, value } = item;
        let (key, value) = (key.escape_ascii(), value.escape_ascii());
        self.items.push(format!("{index}:{key}={value} {flags} {cas:?}"));
        if let Some(kept) = kept {
            assert_eq!(kept.as_bytes(), item.value);
            self.kept.borrow_mut().push(kept.clone());
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
        self.log.borrow_mut().push(format!("{} {:?} {reply:?}", self.name, self.items));
    }
}

struct Bed {
    pipeline: Pipeline<Logged>,
    /// Whether long values are read into their place, or given to the pipeline as all else.
    in_place: bool,
    out: Outgoing,
    log: Rc<RefCell<Vec<String>>>,
    tally: Tally,
    kept: Rc<RefCell<Vec<Bytes>>>,
}

fn key(bytes: &str) -> Key<'_> {
    Key::parse(bytes.as_bytes()).unwrap()
}

impl Bed {
    fn new(max_merged_keys: u32) -> Self {
        let (log, kept) = (Rc::default(), Rc::default());
        let pipeline = Pipeline::new(max_merged_keys, "peer".into());
        let (out, tally) = (Outgoing::default(), Tally::default());
        Self { pipeline, in_place: true, out, log, tally, kept }
    }

    fn sink(&self, name: &str) -> Logged {
        Logged {
            name: name.into(),
            items: Vec::new(),
            log: self.log.clone(),
            kept: self.kept.clone(),
            is_abandoned: false,
        }
    }

    fn get(&mut self, verb: RetrievalVerb, keys: &[&str]) -> &mut Self {
        let sink = self.sink(&keys.join("+"));
        let keys: Vec<Key<'_>> = keys.iter().map(|k| key(k)).collect();
        let request = Request::Retrieval { verb, keys: &keys };
        self.pipeline.push(&request, sink, NEVER, &mut self.out);
        self
    }

    fn gets(&mut self, keys: &[&str]) -> &mut Self {
        self.get(RetrievalVerb::Get, keys)
    }

    fn command(&mut self, name: &str, command: Command<'_>) -> &mut Self {
        let sink = self.sink(name);
        self.pipeline.push(&Request::Command(command), sink, NEVER, &mut self.out);
        self
    }

    fn set(&mut self, name: &str, value: &[u8]) -> &mut Self {
        let (verb, flags, exptime) = (StorageVerb::Set, 0, 0);
        self.command(name, Command::Storage { verb, key: key(name), flags, exptime, value })
    }

    fn wire(&mut self) -> String {
        self.pipeline.close_line(&mut self.out);
        String::from_utf8(self.out.copy(0, self.out.len()).unwrap().to_vec()).unwrap()
    }

    /// Feeds `wire` in the pieces that end at `cuts`, as a connection would.
    fn answer(&mut self, wire: &[u8], cuts: &[usize]) -> Result<Vec<String>, ProtocolError> {
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
            let used = self.pipeline.feed(&buf, u64::MAX, 0, &mut self.tally)?;
            assert!(used <= buf.len());
            buf.drain(..used);
        }
        assert!(buf.is_empty() || self.pipeline.in_flight() > 0);
        Ok(self.log.take())
    }
}

/// What was counted.
fn counted(tally: &Tally) -> String {
    let of_command = |(verb, command): (Verb, &CommandTally)| {
        let outcomes: Vec<_> = command.outcomes().map(|(name, n)| format!("{name} {n}")).collect();
        format!("{}: {}", verb.name(), outcomes.join(", "))
    };
    tally.commands().map(of_command).collect::<Vec<_>>().join("; ")
}

/// Some of everything, and its answer.
fn mixed() -> (Bed, Vec<u8>, Vec<&'static str>) {
    let mut bed = Bed::new(32);
    bed.gets(&["a"]).gets(&["b"]).gets(&["a"]).gets(&["c"]);
    bed.set("s", b"v").gets(&["m1", "m2", "m3"]).get(RetrievalVerb::Gets, &["g"]);
    bed.get(RetrievalVerb::Gat { exptime: 5 }, &["t"]);
    bed.command("n", Command::Arithmetic { verb: ArithmeticVerb::Incr, key: key("n"), delta: 1 });
    bed.command("d", Command::Delete { key: key("d") });
    bed.command("touch", Command::Touch { key: key("t"), exptime: 1 });
    bed.command("version", Command::Version);
    let args = StatsArgs::parse("settings").unwrap();
    bed.command("stats", Command::Stats { args });
    bed.command("flush", Command::FlushAll { delay: 0 });
    let answer = b"VALUE a 1 5\r\nEND\r\n\r\nVALUE c 0 0\r\n\r\nEND\r\nSTORED\r\n\
        VALUE m1 0 2\r\n\r\n\r\nVALUE m3 4294967295 13\r\nVALUE m2 0 1\r\r\nEND\r\n\
        VALUE g 0 1 18446744073709551615\r\nx\r\nEND\r\nEND\r\n18446744073709551615\r\nNOT_FOUND\r\n\
        TOUCHED\r\nVERSION 1.6.18\r\nSTAT a 1\r\nSTAT inter 127.0.0.1 x\r\nSTAT empty\r\nEND\r\nOK\r\n";
    let told = vec![
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
    (bed, answer.to_vec(), told)
}

#[test]
fn every_split_gives_the_same_answers() {
    let (mut bed, answer, told) = mixed();
    assert_eq!(bed.answer(&answer, &[]).unwrap(), told);
    for cut in 0..=answer.len() {
        assert_eq!(mixed().0.answer(&answer, &[cut]).unwrap(), told, "cut at {cut}");
    }
    let every: Vec<usize> = (0..answer.len()).collect();
    for in_place in [true, false] {
        let (mut bed, ..) = mixed();
        bed.in_place = in_place;
        assert_eq!(bed.answer(&answer, &every).unwrap(), told);
    }
}

#[test]
fn a_value_that_comes_in_pieces_is_made_once_for_all_who_asked() {
    let mut bed = Bed::new(32);
    bed.gets(&["a"]).gets(&["b"]).gets(&["a"]).get(RetrievalVerb::Gets, &["g"]).gets(&["z"]);
    let answer = b"VALUE b 7 9\r\n123456789\r\nVALUE a 0 8\r\nabcdefgh\r\nEND\r\n\
        VALUE g 1 10 5\r\n1234567890\r\nEND\r\nEND\r\n";
    let told = bed.answer(answer, &[15, 40, 70]).unwrap();
    let a = r#"a ["0:a=abcdefgh 0 None"] End"#;
    let g = r#"g ["0:g=1234567890 1 Some(5)"] End"#;
    assert_eq!(told, [a, r#"b ["0:b=123456789 7 None"] End"#, a, g, "z [] End"]);
    let kept = bed.kept.take();
    let [b, first, second, g] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!(first.as_ptr(), second.as_ptr());
    assert_eq!([&**b, &**g], [&b"123456789"[..], b"1234567890"]);
}

#[test]
fn a_value_in_pieces_that_nobody_asked_for_or_that_goes_on_is_an_error() {
    for (answer, error) in [
        ("VALUE x 0 9\r\n123456789\r\nEND\r\n", "not asked for: 'x'"),
        ("VALUE a 0 9\r\n1234567890\r\nEND\r\n", "not followed by CRLF"),
    ] {
        let mut bed = Bed::new(32);
        bed.gets(&["a"]);
        let told = bed.answer(answer.as_bytes(), &[15, 18]).unwrap_err().to_string();
        assert!(told.contains(error), "{told}");
    }
}

#[test]
fn a_value_in_pieces_is_not_made_for_a_caller_that_gave_up() {
    let wire = b"VALUE a 1 12\r\nEND\r\n\r\nVALUE\r\nVALUE b 2 9\r\nbbbb\r\nEND\r\nEND\r\n";
    for cut in 0..=wire.len() {
        for in_place in [true, false] {
            for abandoned in [[true, false], [false, true], [true, true]] {
                let mut bed = Bed::new(32);
                bed.in_place = in_place;
                bed.gets(&["a"]).gets(&["b"]);
                for (slot, abandoned) in bed.pipeline.slots.iter_mut().zip(abandoned) {
                    slot.sink.as_mut().unwrap().is_abandoned = abandoned;
                }
                // What was whole in one read is not copied before, but told.
                let log = bed.answer(wire, &[cut]).unwrap();
                assert_eq!(log.len(), 2, "{log:?}");
                let kept: Vec<_> = bed.kept.take();
                for (value, abandoned) in
                    [(&wire[14..26], abandoned[0]), (&wire[41..50], abandoned[1])]
                {
                    assert!(!abandoned || !kept.iter().any(|kept| kept == value), "{cut} {log:?}");
                }
                assert!(abandoned[0] || log[0].contains("a=END"), "{cut} {log:?}");
                assert!(abandoned[1] || log[1].contains("b=bbbb"), "{cut} {log:?}");
                assert_eq!(counted(&bed.tally), "get: hit 2");
            }
        }
    }
}

#[test]
fn whoever_is_told_that_its_time_is_up_gets_no_rest_of_a_value() {
    let mut bed = Bed::new(32);
    let sink = bed.sink("late");
    let keys = [key("a")];
    let request = Request::Retrieval { verb: RetrievalVerb::Get, keys: &keys };
    bed.pipeline.push(&request, sink, 5, &mut bed.out);
    bed.gets(&["b"]).gets(&["a"]);
    bed.pipeline.close_line(&mut bed.out);
    assert_eq!(bed.pipeline.feed(b"VALUE a 0 9\r\n12", u64::MAX, 0, &mut bed.tally).unwrap(), 15);
    assert_eq!(bed.pipeline.missing(0), 9);
    let mut expired = 0;
    bed.pipeline.expire(5, u64::MAX, |_| expired += 1);
    assert_eq!(expired, 1);
    let told = bed.answer(b"3456789\r\nVALUE b 0 0\r\n\r\nEND\r\n", &[3]).unwrap();
    assert_eq!(told, [r#"b ["0:b= 0 None"] End"#, r#"a ["0:a=123456789 0 None"] End"#]);
}

#[test]
fn what_is_too_long_to_be_believed_is_known_to_be_missing() {
    let mut bed = Bed::new(32);
    bed.gets(&["a"]);
    bed.pipeline.close_line(&mut bed.out);
    let head = b"VALUE a 0 70000000\r\nab";
    assert_eq!(bed.pipeline.feed(head, u64::MAX, 0, &mut bed.tally).unwrap(), 0);
    assert!(bed.pipeline.rest_of_value().is_none());
    assert_eq!(bed.pipeline.missing(head.len()), 70_000_000);
}

#[test]
fn a_long_item_is_expected_only_after_one() {
    let mut bed = Bed::new(1);
    let long = b"VALUE a 0 9\r\n123456789\r\nEND\r\n";
    for next in ["short", "miss", "other"] {
        bed.gets(&["a"]);
        bed.answer(long, &[15]).unwrap();
        assert!(bed.pipeline.expects_long());
        let answer: &[u8] = match next {
            "short" => {
                bed.gets(&["b"]);
                b"VALUE b 0 1\r\n1\r\nEND\r\n"
            }
            "miss" => {
                bed.gets(&["b"]);
                b"END\r\n"
            }
            _ => {
                bed.set("b", b"v");
                b"STORED\r\n"
            }
        };
        bed.answer(answer, &[]).unwrap();
        assert!(!bed.pipeline.expects_long(), "{next}");
    }
}

#[test]
fn a_connection_that_dies_within_a_value_hands_its_requests_back() {
    let mut bed = Bed::new(32);
    bed.gets(&["a"]).gets(&["b"]);
    bed.pipeline.close_line(&mut bed.out);
    bed.pipeline.feed(b"VALUE a 0 9\r\n12", u64::MAX, 0, &mut bed.tally).unwrap();
    let orphans = bed.pipeline.drain(&bed.out, u64::MAX);
    let asked: Vec<_> = orphans.iter().map(|orphan| orphan.again.is_some()).collect();
    assert_eq!(asked, [true, true]);
    assert!(bed.pipeline.rest_of_value().is_none());
}

#[test]
fn gets_share_a_line_and_nothing_else_does() {
    let mut bed = Bed::new(3);
    bed.gets(&["a"]).gets(&["b"]).gets(&["a"]).gets(&["c"]);
    bed.get(RetrievalVerb::Gets, &["c"]).gets(&["d"]).gets(&["e", "f"]).gets(&["g"]);
    bed.set("s", b"v").gets(&["h"]);
    assert_eq!(
        bed.wire(),
        "get a b\r\nget c\r\ngets c\r\nget d\r\nget e f\r\nget g\r\nset s 0 0 1\r\nv\r\nget h\r\n"
    );
    let mut single = Bed::new(1);
    single.gets(&["a"]).gets(&["b"]).gets(&["a"]);
    assert_eq!(single.wire(), "get a\r\nget b\r\nget a\r\n");
}

#[test]
fn a_line_stays_under_its_limit() {
    let mut bed = Bed::new(u32::MAX);
    let keys: Vec<String> = (0..100).map(|i| format!("{i:0>250}")).collect();
    for key in &keys {
        bed.gets(&[key]);
    }
    let wire = bed.wire();
    assert!(wire.split_inclusive("\r\n").all(|line| line.len() <= MAX_LINE_LEN));
    assert_eq!(wire.split_inclusive("\r\n").count(), 100_usize.div_ceil(3));
}

#[test]
fn commands_end_where_a_record_may_end() {
    let mut bed = Bed::new(32);
    bed.set("a", b"v").gets(&["b"]).gets(&["c"]).set("d", &[b'v'; 100]).gets(&["e"]);
    let ends: Vec<u64> = ["set a 0 0 1\r\nv\r\n", "get b c\r\n", &"-".repeat(117), "get e\r\n"]
        .iter()
        .scan(0, |end, command| {
            *end += command.len() as u64;
            Some(*end)
        })
        .collect();
    bed.pipeline.close_line(&mut bed.out);
    assert_eq!(bed.out.len() as u64, ends[3]);
    for most in 1..200 {
        let mut from = 0;
        while from < ends[3] {
            let end = bed.pipeline.commands_end(from, most);
            assert!(ends.contains(&end) && end > from);
            let is_one = ends.iter().filter(|known| (from + 1..=end).contains(known)).count() == 1;
            assert!(is_one || end - from <= most);
            // No further command would have fitted.
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
        let mut bed = Bed::new(32);
        bed.command("stats", Command::Stats { args: StatsArgs::parse("").unwrap() });
        bed.wire();
        let lines = line.repeat(1000).into_bytes();
        let most = MAX_STATS_SIZE / (line.len() - 2 + STAT_OVERHEAD);
        let mut tally = Tally::default();
        let mut feed = || bed.pipeline.feed(&lines, u64::MAX, 0, &mut tally);
        for _ in 0..most / 1000 {
            assert_eq!(feed(), Ok(lines.len()));
        }
        assert_eq!(feed(), Err(ProtocolError::TooManyLines));
    }
}

#[test]
fn each_answer_to_stats_is_counted_by_itself() {
    let mut bed = Bed::new(32);
    let lines = [b"STAT a 1\r\n".repeat(200_000), b"END\r\n".to_vec()].concat();
    let mut tally = Tally::default();
    for _ in 0..3 {
        bed.command("stats", Command::Stats { args: StatsArgs::parse("").unwrap() });
        assert_eq!(bed.pipeline.feed(&lines, u64::MAX, 0, &mut tally), Ok(lines.len()));
    }
}

#[test]
fn items_in_another_order_find_their_callers() {
    let mut bed = Bed::new(32);
    bed.gets(&["a"]).gets(&["b"]).gets(&["c"]).gets(&["a"]);
    let answer = b"VALUE c 0 1\r\nC\r\nVALUE a 0 1\r\nA\r\nVALUE b 0 1\r\nB\r\nEND\r\n";
    let a = r#"a ["0:a=A 0 None"] End"#;
    let told = [a, r#"b ["0:b=B 0 None"] End"#, r#"c ["0:c=C 0 None"] End"#, a];
    assert_eq!(bed.answer(answer, &[]).unwrap(), told);
}

#[test]
fn the_same_key_twice_in_one_request() {
    let mut bed = Bed::new(32);
    bed.gets(&["a", "b", "a"]);
    let answer = b"VALUE a 0 1\r\n1\r\nVALUE b 0 1\r\n2\r\nVALUE a 0 1\r\n3\r\nEND\r\n";
    let told = [r#"a+b+a ["0:a=1 0 None", "1:b=2 0 None", "2:a=3 0 None"] End"#];
    assert_eq!(bed.answer(answer, &[]).unwrap(), told);
}

#[test]
fn a_foreign_or_surplus_answer_is_an_error() {
    for (answer, error) in [
        ("VALUE x 0 1\r\nv\r\nEND\r\n", "not asked for: 'x'"),
        ("VALUE a 0 1\r\nv\r\nVALUE a 0 1\r\nv\r\nEND\r\n", "not asked for: 'a'"),
        ("END\r\nEND\r\n", "unsolicited reply: END"),
        ("END\r\nERROR Too many open connections\r\n", "too many open connections"),
        ("ERROR Too many open connections\r\n", "too many open connections"),
        ("STORED\r\n", "unexpected reply: STORED"),
    ] {
        let mut bed = Bed::new(32);
        bed.gets(&["a"]);
        let told = bed.answer(answer.as_bytes(), &[]).unwrap_err().to_string();
        assert!(told.contains(error), "{answer:?}: {told}");
    }
}

#[test]
fn an_answer_to_what_was_not_written_is_an_error() {
    let mut bed = Bed::new(32);
    bed.gets(&["a"]);
    assert!(matches!(
        bed.pipeline.feed(b"END\r\n", 0, 0, &mut Tally::default()),
        Err(ProtocolError::Unsolicited(_))
    ));
}

#[test]
fn an_error_line_answers_one_key() {
    for error in ["ERROR", "CLIENT_ERROR no", "SERVER_ERROR out of memory"] {
        let mut bed = Bed::new(32);
        // The same key twice is one key.
        bed.gets(&["a"]).gets(&["a"]).set("s", b"v");
        let told = bed.answer(format!("{error}\r\nSTORED\r\n").as_bytes(), &[]).unwrap();
        assert!(told[..2].iter().all(|told| told.starts_with("a [] Error(")), "{told:?}");
        assert_eq!(told[2], "s [] Stored");
        assert_eq!(bed.pipeline.must_close(), None);
        let word = error.split(' ').next().unwrap().to_lowercase();
        assert_eq!(counted(&bed.tally), format!("get: {word} 2; set: stored 1"));
    }
}

/// The keys that are to be asked for, and their indexes where the answer to their line broke off.
type Again = (Vec<String>, Option<Vec<usize>>);

fn asked_again(bed: &mut Bed) -> Vec<Again> {
    let orphans = bed.pipeline.drain(&bed.out, u64::MAX);
    let of = |orphan: Orphan<Logged>| {
        let keys = match orphan.again {
            Some(OwnedRequest::Retrieval { keys, .. }) => {
                keys.iter().map(|key| key.escape_ascii().to_string()).collect()
            }
            _ => Vec::new(),
        };
        (keys, orphan.missing.map(SmallVec::into_vec))
    };
    orphans.into_iter().map(of).collect()
}

#[test]
fn an_error_line_among_several_keys_ends_the_trust() {
    // Where an error line is the end of an answer, and where it stands for a key.
    for rest in ["", "VALUE c 0 1\r\n3\r\nEND\r\n"] {
        let mut bed = Bed::new(32);
        bed.gets(&["a"]).gets(&["b"]).gets(&["c"]).set("s", b"v").gets(&["d"]);
        let answer = format!("VALUE a 0 1\r\n1\r\nSERVER_ERROR no\r\n{rest}STORED\r\nEND\r\n");
        bed.pipeline.close_line(&mut bed.out);
        bed.pipeline.feed(answer.as_bytes(), u64::MAX, 0, &mut bed.tally).unwrap();
        assert_eq!(bed.log.take(), [r#"a ["0:a=1 0 None"] End"#]);
        assert_eq!(bed.pipeline.must_close(), Some(MustClose::KeyRefused));
        let (kind, line) = bed.pipeline.line_error().unwrap();
        assert_eq!((*kind, line.as_ref()), (ErrorKind::Server, b"SERVER_ERROR no".as_ref()));
        assert_eq!(counted(&bed.tally), "get: hit 1");
        let alone = |key: &str| (vec![key.to_owned()], Some(vec![0]));
        let expected = [alone("b"), alone("c"), (vec![], None), (vec!["d".to_owned()], None)];
        assert_eq!(asked_again(&mut bed), expected);
    }
}

#[test]
fn what_is_missing_of_many_keys_is_known_wherever_an_error_line_comes() {
    let names = ["a", "b", "c", "d", "e"];
    for found in 0..names.len() {
        let mut bed = Bed::new(32);
        bed.gets(&names).gets(&["z"]);
        // Every second key has its item; the others are missing or still to come.
        let had: Vec<_> = names[..found].iter().step_by(2).collect();
        let items: Vec<_> = had.iter().map(|key| format!("VALUE {key} 0 1\r\n1\r\n")).collect();
        let items = items.concat();
        let answer = format!("{items}SERVER_ERROR no\r\nEND\r\nEND\r\n");
        bed.pipeline.close_line(&mut bed.out);
        bed.pipeline.feed(answer.as_bytes(), u64::MAX, 0, &mut bed.tally).unwrap();
        let missing: Vec<usize> =
            (0..names.len()).filter(|at| !had.contains(&&names[*at])).collect();
        let keys = missing.iter().map(|at| names[*at].to_owned()).collect();
        let expected = [(keys, Some(missing)), (vec!["z".to_owned()], None)];
        assert_eq!(asked_again(&mut bed), expected);
        assert!(bed.log.take().is_empty());
    }
}

fn taken(bed: &mut Bed, must_stay: &str) -> Vec<String> {
    let taken = bed.pipeline.take_held_up(u64::MAX, |key| key == must_stay.as_bytes());
    let keys = |orphan: Orphan<Logged>| match orphan.again {
        Some(OwnedRequest::Retrieval { keys, .. }) => String::from_utf8(keys.join(&b' ')).unwrap(),
        _ => unreachable!("only reads are taken"),
    };
    taken.into_iter().map(keys).collect()
}

#[test]
fn reads_that_are_held_up_are_taken_and_their_answers_dropped() {
    let mut bed = Bed::new(1);
    bed.gets(&["first"]).gets(&["a"]).set("s", b"v").gets(&["b", "c"]).gets(&["pinned"]);
    assert!(bed.pipeline.is_held_up());
    assert_eq!(taken(&mut bed, "pinned"), ["a", "b c"]);
    assert_eq!(taken(&mut bed, "pinned"), Vec::<String>::new());
    assert_eq!((bed.pipeline.in_flight(), bed.pipeline.moved()), (5, 2));
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
    let told = bed.answer(answer.concat().as_bytes(), &[]).unwrap();
    let expected =
        [r#"first ["0:first=1 0 None"] End"#, "s [] Stored", r#"pinned ["0:pinned=1 0 None"] End"#];
    assert_eq!(told, expected);
    assert_eq!((bed.pipeline.in_flight(), bed.pipeline.moved()), (0, 0));
}

#[test]
fn keys_that_share_the_first_line_hold_each_other_up() {
    let mut bed = Bed::new(32);
    bed.gets(&["a"]);
    assert!(!bed.pipeline.is_held_up());
    bed.gets(&["b"]).gets(&["c"]);
    assert!(bed.pipeline.is_held_up());
    assert_eq!(taken(&mut bed, ""), ["a", "b", "c"]);
    assert!(!bed.pipeline.is_held_up() && !bed.pipeline.has_waiters());
    // A command has no other in its line.
    let mut bed = Bed::new(32);
    bed.set("s", b"v").gets(&["a"]);
    assert_eq!(taken(&mut bed, ""), ["a"]);
    assert!(bed.pipeline.has_waiters());
}

#[test]
fn an_error_line_behind_the_item_of_one_key_ends_the_trust() {
    let mut bed = Bed::new(1);
    bed.gets(&["a"]).gets(&["b"]);
    let answer = b"VALUE a 0 1\r\n1\r\nSERVER_ERROR no\r\nEND\r\n";
    bed.pipeline.feed(answer, u64::MAX, 0, &mut bed.tally).unwrap();
    assert_eq!(bed.log.take(), [r#"a ["0:a=1 0 None"] End"#]);
    assert_eq!(asked_again(&mut bed), [(vec!["b".to_owned()], None)]);
}

#[test]
fn a_server_that_wants_a_login_says_so_to_all() {
    let mut bed = Bed::new(32);
    bed.gets(&["a"]).gets(&["b"]).set("s", b"v").gets(&["c"]);
    bed.pipeline.close_line(&mut bed.out);
    let answer = b"CLIENT_ERROR unauthenticated\r\n";
    bed.pipeline.feed(answer, u64::MAX, 0, &mut bed.tally).unwrap();
    let told = bed.log.take();
    assert_eq!(told.len(), 4);
    assert!(told.iter().all(|told| told.contains("unauthenticated") || told.contains("Error(")));
    assert_eq!(bed.pipeline.must_close(), Some(MustClose::Unauthenticated));
    assert_eq!(counted(&bed.tally), "get: client_error 3; set: client_error 1");
    assert_eq!(asked_again(&mut bed), []);
}

#[test]
fn every_answer_is_counted_once_wherever_it_is_split() {
    let expected = "get: hit 5, miss 2; gets: hit 1; gat: miss 1; set: stored 1; \
        delete: not_found 1; incr: ok 1; touch: touched 1; flush_all: ok 1; version: ok 1; stats: ok 1";
    let (_, answer, _) = mixed();
    for cut in 0..answer.len() {
        let (mut bed, answer, _) = mixed();
        bed.answer(&answer, &[cut]).unwrap();
        assert_eq!(counted(&bed.tally), expected, "{cut}");
        assert_eq!(bed.pipeline.shared_keys(), 1);
    }
}

#[test]
fn a_refused_storage_head_ends_the_connection() {
    for (error, closes) in [
        ("ERROR", true),
        ("CLIENT_ERROR bad data chunk", true),
        ("SERVER_ERROR object too large for cache", false),
    ] {
        let mut bed = Bed::new(32);
        bed.set("s", b"flush_all").gets(&["a"]);
        let answer = format!("{error}\r\nOK\r\n");
        let fed = bed.pipeline.feed(answer.as_bytes(), u64::MAX, 0, &mut Tally::default());
        assert_eq!(bed.pipeline.must_close().is_some(), closes, "{error}");
        // The surplus answer is not given to the get behind.
        assert_eq!(fed.is_ok(), closes, "{fed:?}");
        assert_eq!(bed.log.borrow().len(), 1);
    }
}

#[test]
fn an_expired_request_leaves_its_slot() {
    let mut bed = Bed::new(32);
    for (name, deadline) in [("a", 10), ("b", 20), ("c", 30)] {
        let (sink, keys) = (bed.sink(name), [key(name)]);
        let request = Request::Retrieval { verb: RetrievalVerb::Get, keys: &keys };
        bed.pipeline.push(&request, sink, deadline, &mut bed.out);
    }
    let mut expired = Vec::new();
    let next = bed.pipeline.expire(20, 0, |gone| expired.push((gone.sink.name, gone.asked.verb)));
    assert_eq!(next, 30);
    assert_eq!(expired, [("a".to_owned(), Verb::Get), ("b".to_owned(), Verb::Get)]);
    assert_eq!((bed.pipeline.in_flight(), bed.pipeline.abandoned()), (3, 2));
    let answer = b"VALUE a 0 1\r\n1\r\nVALUE b 0 1\r\n2\r\nVALUE c 0 1\r\n3\r\nEND\r\n";
    assert_eq!(bed.answer(answer, &[]).unwrap(), [r#"c ["0:c=3 0 None"] End"#]);
    assert_eq!((bed.pipeline.in_flight(), bed.pipeline.abandoned()), (0, 0));
    // Late answers are of requests that were counted when they expired.
    assert_eq!(counted(&bed.tally), "get: hit 1");
}

#[test]
fn a_dead_connection_gives_back_what_may_be_asked_again() {
    let mut bed = Bed::new(32);
    bed.gets(&["a"]).gets(&["b"]).set("sent", b"1").gets(&["c", "d"]).set("unsent", b"2");
    bed.gets(&["e"]).set("last", b"3");
    let wire = bed.wire();
    // Cut within the second set: it was begun, so it may have been done.
    for (cut, again) in [
        (
            wire.find("set unsent").unwrap(),
            vec!["set unsent 0 0 1\r\n2\r\n", "set last 0 0 1\r\n3\r\n"],
        ),
        (wire.find("set unsent").unwrap() + 1, vec!["set last 0 0 1\r\n3\r\n"]),
        (wire.len() - 1, vec![]),
    ] {
        let mut bed = Bed::new(32);
        bed.gets(&["a"]).gets(&["b"]).set("sent", b"1").gets(&["c", "d"]).set("unsent", b"2");
        bed.gets(&["e"]).set("last", b"3");
        bed.pipeline.close_line(&mut bed.out);
        bed.out.advance(cut);
        let orphans = bed.pipeline.drain(&bed.out, cut as u64);
        assert_eq!(orphans.len(), 7);
        let mut reads = Vec::new();
        let mut writes = Vec::new();
        for orphan in orphans {
            match orphan.again {
                Some(OwnedRequest::Retrieval { keys, .. }) => reads.push(keys.concat()),
                Some(OwnedRequest::Encoded { wire, .. }) => writes.push(wire),
                Some(OwnedRequest::Storage { .. }) => unreachable!("an orphan's bytes are copied"),
                None => assert_eq!(orphan.asked.verb, Verb::Set),
            }
        }
        assert_eq!(reads, [b"a".as_slice(), b"b", b"cd", b"e"]);
        assert_eq!(writes, again);
        assert_eq!(bed.pipeline.in_flight(), 0);
    }
}

#[test]
fn an_owned_request_is_asked_as_the_first_was() {
    let mut bed = Bed::new(32);
    for keys in [vec!["a"], vec!["b"], vec!["c", "d"]] {
        let keys = keys.into_iter().map(|k| Bytes::from_static(k.as_bytes())).collect();
        let request = OwnedRequest::Retrieval { verb: RetrievalVerb::Get, keys };
        let sink = bed.sink("r");
        bed.pipeline.push_owned(&request, sink, NEVER, true, &mut bed.out);
    }
    let request = OwnedRequest::Encoded { verb: Verb::Delete, wire: Bytes::from("delete k\r\n") };
    let sink = bed.sink("d");
    bed.pipeline.push_owned(&request, sink, NEVER, false, &mut bed.out);
    let (verb, value) = (StorageVerb::Set, Bytes::from_static(b"value"));
    let request = OwnedRequest::storage(verb, key("k"), 1, 2, value);
    assert_eq!(request.payload_len(), "set k 1 2 5\r\nvalue".len());
    let sink = bed.sink("s");
    bed.pipeline.push_owned(&request, sink, NEVER, false, &mut bed.out);
    bed.gets(&["e"]);
    let wire = bed.wire();
    assert_eq!(wire, "get a b\r\nget c d\r\ndelete k\r\nset k 1 2 5\r\nvalue\r\nget e\r\n");
}

proptest! {
    /// Whatever a server sends, at whatever cuts: no panic, nothing beyond the frame, and the same
    /// answers (and error) as in one piece.
    #[test]
    fn garbage_is_survived(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "VALUE a 0 1\r\n", "VALUE b 1 3\r\n", "x", "\r\n", "END\r\n", "STORED\r\n", "1",
                    "VALUE ", "-1", " ", "STAT a b\r\n", "ERROR\r\n", "SERVER_ERROR x\r\n", "NOT_FOUND\r\n",
                    "VALUE a 0 99999999999\r\n",
                ]).prop_map(|s| s.as_bytes().to_vec()),
                prop::collection::vec(any::<u8>(), 0..8),
            ],
            0..20,
        ),
        seed in any::<u64>(),
    ) {
        let wire = pieces.concat();
        let whole = mixed().0.answer(&wire, &[]);
        let mut bed = mixed().0;
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut cuts: Vec<usize> = (0..5).map(|_| rng.usize(..=wire.len())).collect();
        cuts.sort_unstable();
        let split = bed.answer(&wire, &cuts);
        prop_assert_eq!(whole.is_ok(), split.is_ok());
        if let (Ok(whole), Ok(split)) = (whole, split) {
            prop_assert_eq!(whole, split);
        }
    }

    /// A merged burst of gets with any hits, misses and repeats: everybody gets the value of the own
    /// key, at any cut.
    #[test]
    fn everybody_gets_the_own_value(
        asked in prop::collection::vec((0..12u8, any::<bool>()), 1..80),
        merged in 1..40u32,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bed = Bed::new(merged);
        for (k, _) in &asked {
            bed.gets(&[&format!("key{k}")]);
        }
        let mut answer = Vec::new();
        for line in bed.wire().lines() {
            for key in line.split(' ').skip(1) {
                let k: u8 = key[3..].parse().unwrap();
                if asked.iter().any(|&(a, hit)| a == k && hit) {
                    let value = format!("{key}\r\nEND\r\n{key}");
                    answer.extend_from_slice(format!("VALUE {key} 0 {}\r\n{value}\r\n", value.len()).as_bytes());
                }
            }
            answer.extend_from_slice(b"END\r\n");
        }
        let told = bed.answer(&answer, &[cut.index(answer.len())]).unwrap();
        prop_assert_eq!(told.len(), asked.len());
        for ((k, _), told) in asked.iter().zip(told) {
            let hit = asked.iter().any(|&(a, hit)| a == *k && hit);
            let expected = if hit {
                format!(r#"key{k} ["0:key{k}=key{k}\\r\\nEND\\r\\nkey{k} 0 None"] End"#)
            } else {
                format!("key{k} [] End")
            };
            prop_assert_eq!(told, expected);
        }
    }
}
