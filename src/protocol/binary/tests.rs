use proptest::prelude::*;

use super::*;

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

fn encoded(text: &str) -> (Translator, Vec<u8>) {
    let (mut translator, mut out) = (Translator::default(), BytesMut::new());
    translator.encode(text.as_bytes(), &mut out);
    (translator, out.to_vec())
}

/// The decoded text of `answers`, fed in pieces that end at `cuts`.
fn decoded(text: &str, answers: &[u8], cuts: &[usize]) -> Result<String, ProtocolError> {
    let (mut translator, _) = encoded(text);
    let (mut out, mut from) = (BytesMut::new(), 0);
    for &to in cuts.iter().chain([&answers.len()]) {
        translator.decode(&answers[from..to], &mut out)?;
        from = to;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[test]
fn the_frames_of_every_family() {
    for (text, opcode, extras, key, value) in [
        ("set k 7 9 2\r\nab\r\n", opcode::SET, "0000000700000009", "k", "ab"),
        ("add k 0 -1 0\r\n\r\n", opcode::ADD, "0000000000278d01", "k", ""),
        ("append k 0 0 4\r\n\r\n\r\n\r\n", opcode::APPEND, "", "k", "\r\n\r\n"),
        ("incr k 2\r\n", opcode::INCREMENT, "00000000000000020000000000000000ffffffff", "k", ""),
        (
            "ma k MI N60 J7 D2 v\r\n",
            opcode::INCREMENT,
            "000000000000000200000000000000070000003c",
            "k",
            "",
        ),
        (
            "ma k MD N-1 J0 D1 v\r\n",
            opcode::DECREMENT,
            "0000000000000001000000000000000000278d01",
            "k",
            "",
        ),
        ("touch k 5\r\n", opcode::TOUCH, "00000005", "k", ""),
        ("delete k\r\n", opcode::DELETE, "", "k", ""),
        ("flush_all\r\n", opcode::FLUSH, "00000000", "", ""),
        ("stats detail on\r\n", opcode::STAT, "", "detail on", ""),
        ("stats detail off at once\r\n", opcode::STAT, "", "detail off", ""),
        ("stats items of all\r\n", opcode::STAT, "", "items", ""),
        ("stats settingsfoo\r\n", opcode::NOOP, "", "", ""),
        ("stats detail onward\r\n", opcode::NOOP, "", "", ""),
        ("version\r\n", opcode::VERSION, "", "", ""),
    ] {
        let (_, sent) = encoded(text);
        assert_eq!((sent[0], sent[1]), (REQUEST, opcode), "{text:?}");
        assert_eq!(sent[24..24 + extras.len() / 2], unhex(extras), "{text:?}");
        assert_eq!(&sent[24 + extras.len() / 2..], format!("{key}{value}").as_bytes(), "{text:?}");
        assert_eq!(sent[8..12], u32::try_from(sent.len() - 24).unwrap().to_be_bytes());
    }
}

#[test]
fn commands_without_a_binary_form_are_a_noop_and_an_error() {
    for text in ["cache_memlimit 64\r\n", "verbosity 1\r\n", "set _ _ _ 9\r\nuser pass\r\n"] {
        let (_, sent) = encoded(text);
        assert_eq!((sent[1], sent.len()), (opcode::NOOP, HEADER_LEN), "{text:?}");
        let reply = decoded(text, &response(opcode::NOOP, 0, 0, &[], "", b""), &[]).unwrap();
        assert_eq!(reply, NOT_IN_BINARY);
    }
}

#[test]
fn statuses_are_the_words_of_the_text_protocol() {
    use opcode as o;
    for (text, opcode, status, words) in [
        ("set k 0 0 0\r\n\r\n", o::SET, 0, "STORED\r\n"),
        ("set k 0 0 0\r\n\r\n", o::SET, 3, "SERVER_ERROR object too large for cache\r\n"),
        ("set k 0 0 0\r\n\r\n", o::SET, 0x82, "SERVER_ERROR out of memory storing object\r\n"),
        ("add k 0 0 0\r\n\r\n", o::ADD, 2, "NOT_STORED\r\n"),
        ("replace k 0 0 0\r\n\r\n", o::REPLACE, 1, "NOT_STORED\r\n"),
        ("prepend k 0 0 0\r\n\r\n", o::PREPEND, 5, "NOT_STORED\r\n"),
        ("cas k 0 0 0 7\r\n\r\n", o::REPLACE, 1, "NOT_FOUND\r\n"),
        ("cas k 0 0 0 7\r\n\r\n", o::REPLACE, 2, "EXISTS\r\n"),
        ("cas k 0 0 0 0\r\n\r\n", o::GETK, 1, "NOT_FOUND\r\n"),
        ("delete k\r\n", o::DELETE, 1, "NOT_FOUND\r\n"),
        ("incr k 1\r\n", o::INCREMENT, 1, "NOT_FOUND\r\n"),
        ("ma k MI N0 J1 D1 v\r\n", o::INCREMENT, 1, "NF\r\n"),
        (
            "incr k 1\r\n",
            o::INCREMENT,
            6,
            "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
        ),
        ("touch k 1\r\n", o::TOUCH, 0x20, "CLIENT_ERROR unauthenticated\r\n"),
        ("version\r\n", o::VERSION, 0x81, "ERROR\r\n"),
        ("stats nonsense\r\n", o::STAT, 1, "ERROR\r\n"),
        ("stats reset\r\n", o::STAT, 0, "RESET\r\n"),
    ] {
        let answer = response(opcode, status, 0, &[], "", b"");
        assert_eq!(decoded(text, &answer, &[]).unwrap(), words, "{text:?} {status}");
    }
}

/// A get of three keys, a counter, statistics, and a token that never matches.
fn conversation() -> (&'static str, Vec<u8>, &'static str) {
    let text = "gets a b c\r\nincr n 1\r\nstats\r\ncas a 0 0 3 0\r\nxyz\r\ngat 5 a\r\nma m MI N0 J7 D1 v\r\n";
    let answers = [
        response(opcode::GETKQ, 0, 0, &[0, 0, 0, 7], "a", b"END\r\n"),
        response(opcode::GETKQ, 0, 2, &[0, 0, 0, 0], "c", b""),
        response(opcode::NOOP, 0, 3, &[], "", b""),
        response(opcode::INCREMENT, 0, 4, &[], "", &u64::MAX.to_be_bytes()),
        response(opcode::STAT, 0, 5, &[], "pid", b"1"),
        response(opcode::STAT, 0, 5, &[], "", b""),
        response(opcode::GETK, 0, 6, &[0, 0, 0, 0], "a", b"value"),
        response(opcode::GATKQ, 0x85, 7, &[], "", b"Busy"),
        response(opcode::NOOP, 0, 8, &[], "", b""),
        response(opcode::INCREMENT, 0, 9, &[], "", &70u64.to_be_bytes()),
    ];
    let expected = "VALUE a 7 5 9\r\nEND\r\n\r\nVALUE c 0 0 9\r\n\r\nEND\r\n18446744073709551615\r\n\
                STAT pid 1\r\nEND\r\nEXISTS\r\nSERVER_ERROR Busy (status 0x85)\r\nVA 2\r\n70\r\n";
    (text, answers.concat(), expected)
}

#[test]
fn answers_split_at_every_byte() {
    let (text, answers, expected) = conversation();
    for cut in 0..=answers.len() {
        assert_eq!(decoded(text, &answers, &[cut]).unwrap(), expected, "{cut}");
    }
    let bytes: Vec<usize> = (0..answers.len()).collect();
    assert_eq!(decoded(text, &answers, &bytes).unwrap(), expected);
}

#[test]
fn commands_split_at_every_byte() {
    let (text, ..) = conversation();
    let (_, whole) = encoded(text);
    for cut in 0..=text.len() {
        let (mut translator, mut out) = (Translator::default(), BytesMut::new());
        translator.encode(&text.as_bytes()[..cut], &mut out);
        translator.encode(&text.as_bytes()[cut..], &mut out);
        assert_eq!(out, whole, "{cut}");
    }
}

#[test]
#[rustfmt::skip]
fn invalid_responses_are_rejected() {
    let good = response(opcode::DELETE, 0, 0, &[], "", b"");
    let with = |at: usize, byte: u8| { let mut bad = good.clone(); bad[at] = byte; bad };
    for (text, bad) in [
        ("delete k\r\n", with(0, b'E')), ("delete k\r\n", with(1, opcode::SET)), ("delete k\r\n", with(15, 1)),
        ("delete k\r\n", with(3, 251)), ("delete k\r\n", with(4, 8)), ("delete k\r\n", with(8, 0xff)),
        ("delete k\r\n", with(9, 0x7f)), ("delete k\r\n", [good.clone(), good.clone()].concat()),
        ("get a b\r\n", response(opcode::GETKQ, 0, 0, &[0; 4], "a", b"").repeat(2)),
        ("get a b\r\n", response(opcode::GETKQ, 0, 0, &[0; 3], "a", b"")),
        ("get a b\r\n", response(opcode::GETKQ, 0, 2, &[0; 4], "a", b"")),
        ("incr a 1\r\n", response(opcode::INCREMENT, 0, 0, &[], "", b"1")),
        ("", good.clone()),
    ] {
        assert!(decoded(text, &bad, &[]).is_err(), "{text:?} {bad:?}");
    }
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
    fn arbitrary_input_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
        let (text, mut answers, _) = conversation();
        let at = cut.min(answers.len());
        answers.splice(at.., bytes);
        let _ = decoded(text, &answers, &[at]);
    }
}
