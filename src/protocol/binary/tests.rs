use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::frame::{HEADER_LEN, REQUEST, RESPONSE, opcode, request_if};
use super::*;
use crate::protocol::{
    ArithmeticVerb, Command, Dialect, Expected, Frame, Key, Outgoing, OwnedRequest, ProtocolError,
    Request, RetrievalVerb, StorageVerb, Words,
};

/// The response of a server with these fields.
fn response(
    opcode: u8,
    status: u16,
    opaque: u32,
    extras: &[u8],
    key: &str,
    value: &[u8],
) -> Vec<u8> {
    let mut out = BytesMut::new();
    request_if(&mut out, opcode, opaque, extras, key.as_bytes(), value.len(), 9);
    out[0] = RESPONSE;
    out[6..8].copy_from_slice(&status.to_be_bytes());
    out.extend_from_slice(value);
    out.to_vec()
}

fn key(text: &str) -> Key<'_> {
    Key::parse(text.as_bytes()).unwrap()
}

fn storage(verb: StorageVerb, value: &[u8]) -> Command<'_> {
    Command::Storage { verb, key: key("k"), flags: 7, exptime: 9, value }
}

fn stats(args: &str) -> Command<'_> {
    Command::Stats { args: Words::parse(args).unwrap() }
}

fn incr() -> Command<'static> {
    Command::Arithmetic { verb: ArithmeticVerb::Incr, key: key("k"), delta: 2 }
}

fn counter(verb: ArithmeticVerb, exptime: i32) -> Command<'static> {
    Command::Counter { verb, key: key("k"), delta: 2, initial: 7, exptime }
}

fn encoded(request: &Request<'_>) -> (Dialect, Expected, Bytes) {
    let (mut dialect, mut out) = (Dialect::binary(), BytesMut::new());
    let expected = dialect.encode_request(request, &mut out);
    (dialect, expected, out.freeze())
}

/// The frames of `answers`, which arrive in pieces that end at `cuts`.
fn decoded(
    request: &Request<'_>,
    answers: &[u8],
    cuts: &[usize],
) -> Result<Vec<String>, ProtocolError> {
    let (mut dialect, expected, _) = encoded(request);
    let (mut frames, mut buf, mut from) = (Vec::new(), Vec::new(), 0);
    for &to in cuts.iter().chain([&answers.len()]) {
        buf.extend_from_slice(&answers[from..to]);
        from = to;
        while !buf.is_empty() {
            let Some((frame, len)) = dialect.decode(&buf, expected)? else { break };
            if frame != Frame::Ignored {
                frames.push(format!("{frame:?}"));
            }
            buf.drain(..len);
        }
    }
    assert!(buf.is_empty());
    Ok(frames)
}

/// The text of the error line or the name of the reply.
fn reply(command: Command<'_>, answer: &[u8]) -> String {
    let (mut dialect, expected, _) = encoded(&Request::Command(command));
    match dialect.decode(answer, expected).unwrap() {
        Some((Frame::Reply(crate::protocol::Reply::Error(error)), _)) => {
            String::from_utf8(error.line.to_vec()).unwrap()
        }
        Some((Frame::Reply(reply), _)) => format!("{reply:?}"),
        other => panic!("{other:?}"),
    }
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// Each command with its opcode, the digits of its extras, its key and its value.
#[rustfmt::skip]
fn commands() -> Vec<(Command<'static>, u8, &'static str, &'static str, &'static str)> {
    let expired = Command::Storage { verb: StorageVerb::Add, key: key("k"), flags: 0, exptime: -1, value: b"" };
    vec![
        (storage(StorageVerb::Set, b"ab"), opcode::SET, "0000000700000009", "k", "ab"),
        (expired, opcode::ADD, "0000000000278d01", "k", ""),
        (storage(StorageVerb::Replace, b"\r\n"), opcode::REPLACE, "0000000700000009", "k", "\r\n"),
        (storage(StorageVerb::Append, b"\r\n\r\n"), opcode::APPEND, "", "k", "\r\n\r\n"),
        (storage(StorageVerb::Prepend, b"x"), opcode::PREPEND, "", "k", "x"),
        (storage(StorageVerb::Cas { token: 5 }, b"x"), opcode::REPLACE, "0000000700000009", "k", "x"),
        (storage(StorageVerb::Cas { token: 0 }, b"x"), opcode::GETK, "", "k", ""),
        (incr(), opcode::INCREMENT, "00000000000000020000000000000000ffffffff", "k", ""),
        (counter(ArithmeticVerb::Incr, 60), opcode::INCREMENT, "000000000000000200000000000000070000003c", "k", ""),
        (counter(ArithmeticVerb::Decr, -1), opcode::DECREMENT, "0000000000000002000000000000000700278d01", "k", ""),
        (Command::Touch { key: key("k"), exptime: 5 }, opcode::TOUCH, "00000005", "k", ""),
        (Command::Delete { key: key("k") }, opcode::DELETE, "", "k", ""),
        (Command::FlushAll { delay: 0 }, opcode::FLUSH, "00000000", "", ""),
        (stats("detail on"), opcode::STAT, "", "detail on", ""),
        (stats("detail off at once"), opcode::STAT, "", "detail off", ""),
        (stats("items of all"), opcode::STAT, "", "items", ""),
        (stats("settingsfoo"), opcode::NOOP, "", "", ""),
        (stats("detail onward"), opcode::NOOP, "", "", ""),
        (Command::Version, opcode::VERSION, "", "", ""),
        (Command::ConfigGetCluster, opcode::NOOP, "", "", ""),
        (Command::Verbosity { level: 1 }, opcode::NOOP, "", "", ""),
        (Command::CacheMemlimit { megabytes: 64 }, opcode::NOOP, "", "", ""),
    ]
}

#[test]
fn the_frames_of_every_family() {
    for (command, opcode, extras, key, value) in commands() {
        let (_, _, sent) = encoded(&Request::Command(command));
        assert_eq!((sent[0], sent[1]), (REQUEST, opcode), "{command:?}");
        assert_eq!(sent[24..24 + extras.len() / 2], unhex(extras), "{command:?}");
        let rest = format!("{key}{value}");
        assert_eq!(&sent[24 + extras.len() / 2..], rest.as_bytes(), "{command:?}");
        assert_eq!(sent[8..12], u32::try_from(sent.len() - 24).unwrap().to_be_bytes());
    }
}

#[test]
fn a_retrieval_is_quiet_and_ends_with_a_noop() {
    let keys = [key("a"), key("b")];
    let verb = RetrievalVerb::Gat { exptime: 5 };
    let (_, _, sent) = encoded(&Request::Retrieval { verb, keys: &keys });
    let codes: Vec<_> = sent.chunks(HEADER_LEN + 5).map(|request| request[1]).collect();
    assert_eq!(codes, [opcode::GATKQ, opcode::GATKQ, opcode::NOOP]);
}

#[test]
fn what_was_not_sent_can_be_sent_again() {
    for (command, ..) in commands() {
        let (dialect, expected, sent) = encoded(&Request::Command(command));
        let again = dialect.decode_command(&sent, expected).unwrap();
        let (_, expected_again, sent_again) = encoded(&Request::Command(again.as_command()));
        assert_eq!((sent_again, expected_again), (sent, expected), "{command:?}");
    }
}

#[test]
fn long_values_are_shared_and_encoded_alike() {
    let value = Bytes::from(vec![b'v'; 64 * 1024]);
    for token in [0, 1] {
        let verb = StorageVerb::Cas { token };
        let (_, expected, sent) = encoded(&Request::Command(storage(verb, &value)));
        let request = OwnedRequest::storage(verb, key("k"), 7, 9, value.clone());
        let OwnedRequest::Command(command) = request else { panic!("a retrieval") };
        let (mut dialect, mut out) = (Dialect::binary(), Outgoing::default());
        assert_eq!(dialect.encode_owned(&command, &mut out), expected);
        assert_eq!(out.copy(0, out.len()).unwrap(), sent);
    }
}

#[test]
fn commands_without_a_binary_form_are_answered_with_an_error() {
    let answer = response(opcode::NOOP, 0, 0, &[], "", b"");
    for command in [Command::CacheMemlimit { megabytes: 64 }, Command::Verbosity { level: 1 }] {
        let words = "CLIENT_ERROR there is no such command in the binary protocol";
        assert_eq!(reply(command, &answer), words);
    }
    assert_eq!(reply(Command::ConfigGetCluster, &answer), "ERROR");
    assert_eq!(reply(stats("settingsfoo"), &answer), "ERROR");
    let words = "CLIENT_ERROR usage: stats detail on|off|dump";
    assert_eq!(reply(stats("detail onward"), &answer), words);
}

#[test]
#[rustfmt::skip]
fn statuses_are_the_replies_of_the_text_protocol() {
    use opcode as o;
    let (add, replace, prepend) = (StorageVerb::Add, StorageVerb::Replace, StorageVerb::Prepend);
    let set = storage(StorageVerb::Set, b"");
    for (command, opcode, status, words) in [
        (set, o::SET, 0, "Stored"),
        (set, o::SET, 3, "SERVER_ERROR object too large for cache"),
        (set, o::SET, 0x82, "SERVER_ERROR out of memory storing object"),
        (storage(add, b""), o::ADD, 2, "NotStored"),
        (storage(replace, b""), o::REPLACE, 1, "NotStored"),
        (storage(prepend, b""), o::PREPEND, 5, "NotStored"),
        (storage(StorageVerb::Cas { token: 7 }, b""), o::REPLACE, 1, "NotFound"),
        (storage(StorageVerb::Cas { token: 7 }, b""), o::REPLACE, 2, "Exists"),
        (storage(StorageVerb::Cas { token: 0 }, b""), o::GETK, 1, "NotFound"),
        (Command::Delete { key: key("k") }, o::DELETE, 0, "Deleted"),
        (Command::Delete { key: key("k") }, o::DELETE, 1, "NotFound"),
        (incr(), o::INCREMENT, 1, "NotFound"),
        (counter(ArithmeticVerb::Incr, 0), o::INCREMENT, 1, "NotFound"),
        (incr(), o::INCREMENT, 6, "CLIENT_ERROR cannot increment or decrement non-numeric value"),
        (Command::Touch { key: key("k"), exptime: 1 }, o::TOUCH, 0x20, "CLIENT_ERROR unauthenticated"),
        (Command::Touch { key: key("k"), exptime: 1 }, o::TOUCH, 0, "Touched"),
        (Command::FlushAll { delay: 0 }, o::FLUSH, 0, "Ok"),
        (Command::Version, o::VERSION, 0x81, "ERROR"),
        (stats("nonsense"), o::STAT, 1, "ERROR"),
        (stats("reset"), o::STAT, 0, "Reset"),
        (stats("detail on"), o::STAT, 0, "Ok"),
        (stats(""), o::STAT, 0, "End"),
    ] {
        let answer = response(opcode, status, 0, &[], "", b"");
        assert_eq!(reply(command, &answer), words, "{command:?} {status}");
    }
    let number = response(o::INCREMENT, 0, 0, &[], "", &u64::MAX.to_be_bytes());
    assert_eq!(reply(incr(), &number), "Number(18446744073709551615)");
    let busy = response(o::DELETE, 0x85, 0, &[], "", b"Bu\r\nsy");
    assert_eq!(reply(Command::Delete { key: key("k") }, &busy), "SERVER_ERROR Busy (status 0x85)");
}

const KEYS: [&str; 3] = ["a", "b", "c"];

fn with_gets<T>(run: impl FnOnce(&Request<'_>) -> T) -> T {
    run(&Request::Retrieval { verb: RetrievalVerb::Gets, keys: &KEYS.map(key) })
}

/// Checks the frames of a reply that is split at every byte.
fn assert_frames(request: &Request<'_>, answers: &[Vec<u8>], expected: &[&str]) {
    let answers = answers.concat();
    for cut in 0..=answers.len() {
        assert_eq!(decoded(request, &answers, &[cut]).unwrap(), expected, "{cut}");
    }
    let bytes: Vec<usize> = (0..answers.len()).collect();
    assert_eq!(decoded(request, &answers, &bytes).unwrap(), expected);
}

#[test]
fn answers_split_at_every_byte() {
    let items = [
        response(opcode::GETKQ, 0, 0, &[0, 0, 0, 7], "a", b"END\r\n"),
        response(opcode::GETKQ, 0, 0, &[0, 0, 0, 0], "c", b""),
        response(opcode::NOOP, 0, 0, &[], "", b""),
    ];
    let expected = [
        "Item(ItemRef { key: [97], flags: 7, cas: Some(9), value: [69, 78, 68, 13, 10] })",
        "Item(ItemRef { key: [99], flags: 0, cas: Some(9), value: [] })",
        "Reply(End)",
    ];
    with_gets(|gets| assert_frames(gets, &items, &expected));
    let failed = [
        response(opcode::GETKQ, 0x85, 0, &[], "", b"Busy"),
        response(opcode::GETKQ, 0x82, 0, &[], "", b"other"),
        response(opcode::NOOP, 0, 0, &[], "", b""),
    ];
    let line = b"SERVER_ERROR Busy (status 0x85)";
    let expected = format!("Reply(Error(ErrorLine {{ kind: Server, line: {line:?} }}))");
    with_gets(|gets| assert_frames(gets, &failed, &[&expected]));
    let statistics = [
        response(opcode::STAT, 0, 0, &[], "pid", b"1 2"),
        response(opcode::STAT, 0, 0, &[], "", b""),
    ];
    let line = b"STAT pid 1 2";
    let stat =
        format!("Stat(StatLine {{ line: {line:?}, name: {:?}, value: {:?} }})", b"pid", b"1 2");
    assert_frames(&Request::Command(stats("")), &statistics, &[&stat, "Reply(End)"]);
    let dump = [
        response(
            opcode::STAT,
            0,
            0,
            &[],
            "detailed",
            b"PREFIX a get 1\r\nPREFIX b get 2\r\nEND\r\n",
        ),
        response(opcode::STAT, 0, 0, &[], "", b""),
    ];
    let line = |line: &[u8]| {
        let (name, value) = (&line[7..8], &line[9..]);
        format!("Stat(StatLine {{ line: {line:?}, name: {name:?}, value: {value:?} }})")
    };
    let expected = [&*line(b"PREFIX a get 1"), &*line(b"PREFIX b get 2"), "Reply(End)"];
    assert_frames(&Request::Command(stats("detail dump")), &dump, &expected);
    let no_match = Request::Command(storage(StorageVerb::Cas { token: 0 }, b"xyz"));
    let exists = [response(opcode::GETK, 0, 0, &[0, 0, 0, 0], "k", b"value")];
    assert_frames(&no_match, &exists, &["Reply(Exists)"]);
}

#[test]
fn a_large_value_is_announced_by_its_header() {
    with_gets(|gets| {
        let (mut dialect, expected, _) = encoded(gets);
        let answer = response(opcode::GETKQ, 0, 0, &[0, 0, 0, 7], "a", &[b'v'; 1000]);
        for arrived in 0..answer.len() {
            let buf = &answer[..arrived];
            assert_eq!(dialect.decode(buf, expected), Ok(None), "{arrived}");
            let item = dialect.large_item(buf, expected, 100);
            let head_len = HEADER_LEN + 5;
            assert_eq!(
                item.is_some(),
                (head_len..=answer.len() - 100).contains(&arrived),
                "{arrived}"
            );
            if let Some((item, len)) = item {
                assert_eq!((item.key, item.flags, len), (&b"a"[..], 7, 1000));
                assert_eq!(item.value.len(), arrived - head_len);
            }
        }
    });
}

#[test]
fn invalid_responses_are_rejected() {
    let good = response(opcode::DELETE, 0, 0, &[], "", b"");
    let delete = Request::Command(Command::Delete { key: key("k") });
    assert!(decoded(&delete, &good, &[]).is_ok());
    let places = [(0, b'E'), (1, opcode::SET), (15, 1), (3, 251), (4, 8), (8, 0xff), (9, 0x7f)];
    for (at, byte) in places {
        let mut bad = good.clone();
        bad[at] = byte;
        assert!(decoded(&delete, &bad, &[]).is_err(), "{at}");
    }
    with_gets(|gets| {
        for bad in [
            response(opcode::GETKQ, 0, 0, &[0; 3], "a", b""),
            response(opcode::GETKQ, 0, 1, &[0; 4], "a", b""),
            response(opcode::GATKQ, 0, 0, &[0; 4], "a", b""),
            response(opcode::GETKQ, 0, 0, &[0; 4], "a b", b""),
        ] {
            assert!(decoded(gets, &bad, &[]).is_err(), "{bad:?}");
        }
    });
    let number = response(opcode::INCREMENT, 0, 0, &[], "", b"1");
    assert!(decoded(&Request::Command(incr()), &number, &[]).is_err());
}

#[test]
fn a_login_is_answered() {
    let mut out = BytesMut::new();
    sasl_plain("user", "pass", &mut out);
    assert_eq!(&out[24..], b"PLAIN\0user\0pass");
    let refusal = response(opcode::SASL_AUTH, 0x20, 0, &[], "", b"Auth failure.");
    for cut in 0..refusal.len() {
        assert_eq!(sasl_answer(&refusal[..cut]), Ok(None));
    }
    let refused = SaslAnswer::Refused(b"Auth failure.".to_vec());
    assert_eq!(sasl_answer(&refusal), Ok(Some((refused, refusal.len()))));
    assert!(sasl_answer(b"ERROR\r\n").is_err());
}

proptest! {
    #[test]
    fn arbitrary_input_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200, which in 0usize..22,
    ) {
        let (command, code, ..) = commands()[which];
        for request in [Request::Command(command), Request::Retrieval { verb: RetrievalVerb::Get, keys: &[key("k")] }] {
            let (mut dialect, expected, _) = encoded(&request);
            let mut answer = response(code, 0, 0, &[0; 4], "k", b"value");
            answer.splice(cut.min(answer.len()).., bytes.clone());
            let mut pos = 0;
            while pos < answer.len()
                && let Ok(Some((_, len))) = dialect.decode(&answer[pos..], expected)
            {
                pos += len;
            }
            let _ = dialect.large_item(&answer[pos..], expected, 1);
        }
    }

    /// A command that waits for a connection is written as if it had not waited.
    #[test]
    fn text_commands_can_be_written_again(
        which in 0usize..22, value: Vec<u8>, flags: u32, exptime: i32, token: u64,
    ) {
        let (command, ..) = commands()[which];
        let command = match command {
            Command::Storage { verb, key, .. } => {
                let is_cas = matches!(verb, StorageVerb::Cas { .. });
                let verb = if is_cas { StorageVerb::Cas { token } } else { verb };
                Command::Storage { verb, key, flags, exptime, value: &value }
            }
            other => other,
        };
        let (mut dialect, mut out) = (Dialect::default(), BytesMut::new());
        let expected = dialect.encode(&command, &mut out);
        let again = dialect.decode_command(&out.freeze(), expected);
        prop_assert_eq!(again.as_ref().map(|again| again.as_command()), Some(command));
    }
}
