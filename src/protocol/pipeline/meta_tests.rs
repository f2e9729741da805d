//! Tests of meta commands in the pipeline, among classic ones.
use super::tests::{Fixture, counted, encoded, key};
use super::*;
use crate::protocol::meta::MetaVerb;
use crate::protocol::{ArithmeticVerb, Command, GenericCommand, NodeStats, OwnedRequest, Words};

fn command<'a>(verb: MetaVerb, name: &'a str, flags: &'a str, value: &'a [u8]) -> Command<'a> {
    Command::Meta { verb, key: key(name), flags: Words::parse(flags).unwrap(), value }
}

/// Requests of every kind, and the replies.
fn mixed() -> (Fixture, Vec<u8>, Vec<&'static str>) {
    let mut fixture = Fixture::new(32);
    fixture.command("mg", command(MetaVerb::Get, "k", "v f", b""));
    fixture.gets(&["a"]);
    fixture.command("miss", command(MetaVerb::Get, "k", "v", b""));
    fixture.command("ms", command(MetaVerb::Set, "k", "T30", b"EN\r\n"));
    fixture.command("md", command(MetaVerb::Delete, "k", "", b""));
    fixture.command("ma", command(MetaVerb::Arithmetic, "k", "v", b""));
    fixture.command("stub", command(MetaVerb::Get, "k", "v N30", b""));
    fixture.command("me", command(MetaVerb::Debug, "k", "", b""));
    fixture.command("mn", Command::MetaNoOp);
    fixture.command("bad", command(MetaVerb::Get, "k", "v v", b""));
    fixture.command("last", command(MetaVerb::Get, "k", "v", b""));
    let answer =
        b"VA 12 f7 c1\r\nEN\r\nHD\r\nMN\r\n\r\nVALUE a 0 2\r\nHD\r\nEND\r\nEN\r\nHD c2\r\n\
        NF\r\nVA 2 t-1\r\n42\r\nVA 0 W\r\n\r\nME k exp=-1 la=0\r\nMN\r\nCLIENT_ERROR x\r\nVA 9\r\n\
        123456789\r\n";
    let replies = vec![
        r#"mg ["0:=EN\\r\\nHD\\r\\nMN\\r\\n 0 None"] VA [f7 c1]"#,
        r#"a ["0:a=HD 0 None"] End"#,
        r#"miss [] EN []"#,
        r#"ms [] HD [c2]"#,
        r#"md [] NF []"#,
        r#"ma ["0:=42 0 None"] VA [t-1]"#,
        r#"stub ["0:= 0 None"] VA [W]"#,
        r#"me [] ME [k exp=-1 la=0]"#,
        r#"mn [] MN []"#,
        r#"bad [] CLIENT_ERROR x"#,
        r#"last ["0:=123456789 0 None"] VA []"#,
    ];
    (fixture, answer.to_vec(), replies)
}

#[test]
fn every_split_gives_the_same_answers() {
    let (mut fixture, answer, replies) = mixed();
    assert_eq!(fixture.answer(&answer, &[]).unwrap(), replies);
    assert_eq!(
        counted(&fixture.stats),
        "get: hit 1; mg: hit 3, miss 1, client_error 1; ms: ok 1; md: not_found 1; ma: hit 1; \
         me: ok 1; mn: ok 1"
    );
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
fn a_value_in_pieces_is_not_made_for_a_caller_that_gave_up() {
    let wire = b"VA 9 c1\r\n123456789\r\nEN\r\n";
    for cut in 0..=wire.len() {
        let mut fixture = Fixture::new(32);
        fixture.command("gone", command(MetaVerb::Get, "k", "v", b""));
        fixture.command("next", command(MetaVerb::Get, "k", "v", b""));
        let slots = &mut fixture.pipeline.in_flight.slots;
        slots.handler_mut(0).unwrap().is_abandoned = true;
        let log = fixture.answer(wire, &[cut]).unwrap();
        assert_eq!(log[1], "next [] EN []", "{cut}");
        assert!(!fixture.kept.take().iter().any(|kept| kept == "123456789"), "{cut}");
        assert_eq!(fixture.pipeline.in_flight(), 0);
    }
}

#[test]
fn a_value_without_an_end_is_an_error() {
    for wire in ["VA 9\r\n1234567890\r\n", "VA 9\r\n12345678\r\n\r\n"] {
        for cut in 0..wire.len() {
            let mut fixture = Fixture::new(32);
            fixture.command("mg", command(MetaVerb::Get, "k", "v", b""));
            fixture.command("next", command(MetaVerb::Get, "k", "v", b""));
            assert!(fixture.answer(wire.as_bytes(), &[cut]).is_err(), "{wire:?} {cut}");
            assert_eq!(fixture.log.borrow().len(), 0);
        }
    }
}

#[test]
fn a_refused_head_of_ms_ends_the_connection() {
    for (error, closes) in [
        ("ERROR", true),
        ("CLIENT_ERROR invalid flag", true),
        ("SERVER_ERROR object too large for cache", false),
    ] {
        for (verb, may_close) in [(MetaVerb::Set, true), (MetaVerb::Get, false)] {
            let mut fixture = Fixture::new(32);
            fixture.command("m", command(verb, "k", "", b"flush_all"));
            let answer = format!("{error}\r\n");
            fixture.answer(answer.as_bytes(), &[]).unwrap();
            let must_close = fixture.pipeline.must_close().is_some();
            assert_eq!(must_close, closes && may_close, "{error}");
        }
    }
}

#[test]
fn unsent_commands_are_written_again_as_they_were() {
    let (mut fixture, ..) = mixed();
    fixture.command(
        "counter",
        Command::Counter {
            verb: ArithmeticVerb::Decr,
            key: key("n"),
            delta: 1,
            initial: u64::MAX,
            exptime: -5,
        },
    );
    fixture.command("binary", command(MetaVerb::Debug, "IGI=", "b x", b""));
    fixture.pipeline.close_line(&mut fixture.out);
    let wire = fixture.out.copy(0, fixture.out.len()).unwrap();
    let mut again = Vec::new();
    for Orphan { retry, sent, .. } in fixture.pipeline.drain(&fixture.out, 0) {
        assert!(!sent);
        match retry {
            Some(OwnedRequest::Command(command)) => {
                again.extend_from_slice(&encoded(&command));
                let is_counter = matches!(command, GenericCommand::Counter { .. });
                assert_eq!(is_counter, encoded(&command).starts_with(b"ma n MD"));
            }
            Some(OwnedRequest::Retrieval { .. }) => again.extend_from_slice(b"get a\r\n"),
            None => panic!("not sent again"),
        }
    }
    assert_eq!(wire, again);
}

#[test]
fn a_long_value_is_written_without_a_copy() {
    let value = Bytes::from(vec![b'v'; 20_000]);
    let flags = Words::parse("T30").unwrap();
    let request = OwnedRequest::meta(MetaVerb::Set, key("k"), flags, value.clone());
    assert_eq!(request.payload_len(), 20_001);
    let mut fixture = Fixture::new(32);
    let handler = fixture.handler("ms");
    fixture.pipeline.push_owned(&request, handler, NEVER, false, &mut fixture.out);
    let wire = fixture.wire();
    assert!(wire.starts_with("ms k 20000 T30\r\nvv") && wire.ends_with("v\r\n"));
    assert_eq!(wire.len(), "ms k 20000 T30\r\n".len() + value.len() + 2);
    let replies = fixture.answer(b"HD\r\n", &[]).unwrap();
    assert_eq!(replies, ["ms [] HD []"]);
    assert_eq!(counted(&fixture.stats), counted(&NodeStats::default()) + "ms: ok 1");
}
