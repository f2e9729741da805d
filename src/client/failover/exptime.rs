//! Caps the exptime of requests at a substitute, so that no copy is left for a later failure. Tells
//! which requests change or remove a value.
use crate::client::clock::unix_now;
use crate::cluster::failover::Spelling;
use crate::pool::Submission;
use crate::protocol::meta::MetaVerb;
use crate::protocol::{
    Command, EXPIRED, GenericCommand, OwnedRequest, Request, RetrievalVerb, Words,
};

/// The longest time that servers count from now; they read more as a Unix time.
const MAX_RELATIVE: i32 = EXPIRED - 1;

/// At most `ttl` seconds from now. A time in the past stays, because the item expires at once.
fn capped(exptime: i32, ttl: i32) -> i32 {
    match exptime {
        0 => ttl,
        ..0 => exptime,
        1..=MAX_RELATIVE => exptime.min(ttl),
        _ if i64::from(exptime) > unix_now() + i64::from(ttl) => ttl,
        _ => exptime,
    }
}

/// Whether an item with this exptime is removed.
fn is_past(exptime: i32) -> bool {
    exptime < 0 || (exptime > MAX_RELATIVE && i64::from(exptime) <= unix_now())
}

fn retrieval(verb: RetrievalVerb, ttl: i32) -> RetrievalVerb {
    match verb {
        RetrievalVerb::Gat { exptime } => RetrievalVerb::Gat { exptime: capped(exptime, ttl) },
        RetrievalVerb::Gats { exptime } => RetrievalVerb::Gats { exptime: capped(exptime, ttl) },
        other => other,
    }
}

/// The flags of a meta command: `T` and `N` are exptimes, and `ms` without `T` stores for ever.
fn flags(verb: MetaVerb, flags: &str, ttl: i32) -> String {
    let cap = |word: &str| {
        let (name, number) = word.split_at_checked(1).unwrap_or((word, ""));
        match (name, number.parse()) {
            ("T" | "N", Ok(exptime)) => format!("{name}{}", capped(exptime, ttl)),
            _ => word.to_owned(),
        }
    };
    let mut words: Vec<_> = flags.split(' ').filter(|word| !word.is_empty()).map(cap).collect();
    if verb == MetaVerb::Set && !words.iter().any(|word| word.starts_with('T')) {
        words.push(format!("T{ttl}"));
    }
    words.join(" ")
}

fn cap_command<K, V, A>(command: &mut GenericCommand<K, V, A>, ttl: i32) {
    match command {
        GenericCommand::Storage { exptime, .. }
        | GenericCommand::Touch { exptime, .. }
        | GenericCommand::Counter { exptime, .. } => *exptime = capped(*exptime, ttl),
        _ => {}
    }
}

/// The verb of a retrieval at a substitute.
pub fn capped_retrieval(verb: RetrievalVerb, ttl: i32) -> RetrievalVerb {
    retrieval(verb, ttl)
}

/// Calls `send` with the request as a substitute gets it.
pub fn with_capped(submission: Submission<'_>, ttl: i32, send: impl FnOnce(Submission<'_>)) {
    match submission {
        Submission::Borrowed(&Request::Retrieval { verb, keys }) => {
            let verb = retrieval(verb, ttl);
            send(Submission::Borrowed(&Request::Retrieval { verb, keys }));
        }
        Submission::Borrowed(&Request::Command(Command::Meta {
            verb,
            key,
            flags: words,
            value,
        })) => {
            let text = flags(verb, words.as_str(), ttl);
            let flags = Words::parse(&text).unwrap_or(words);
            let command = Command::Meta { verb, key, flags, value };
            send(Submission::Borrowed(&Request::Command(command)));
        }
        Submission::Borrowed(&Request::Command(mut command)) => {
            cap_command(&mut command, ttl);
            send(Submission::Borrowed(&Request::Command(command)));
        }
        Submission::Owned(request) => {
            match request {
                OwnedRequest::Retrieval { verb, .. } => *verb = retrieval(*verb, ttl),
                OwnedRequest::Command(GenericCommand::Meta { verb, flags: words, .. }) => {
                    *words = flags(*verb, words, ttl).into();
                }
                OwnedRequest::Command(command) => cap_command(command, ttl),
            }
            send(Submission::Owned(request));
        }
    }
}

/// Whether a retrieval removes its items.
pub fn removes(verb: RetrievalVerb) -> bool {
    match verb {
        RetrievalVerb::Gat { exptime } | RetrievalVerb::Gats { exptime } => is_past(exptime),
        RetrievalVerb::Get | RetrievalVerb::Gets => false,
    }
}

fn command_writes<K, V, A>(command: &GenericCommand<K, V, A>, flags: impl Fn(&A) -> bool) -> bool {
    match command {
        GenericCommand::Storage { .. }
        | GenericCommand::Delete { .. }
        | GenericCommand::Arithmetic { .. }
        | GenericCommand::Counter { .. } => true,
        GenericCommand::Touch { exptime, .. } => is_past(*exptime),
        GenericCommand::Meta { verb, flags: words, .. } => match verb {
            MetaVerb::Set | MetaVerb::Delete | MetaVerb::Arithmetic => true,
            _ => flags(words),
        },
        _ => false,
    }
}

/// Whether `mg` with these flags removes the item.
fn flags_remove(flags: &str) -> bool {
    let mut exptimes = flags.split(' ').filter_map(|word| word.strip_prefix('T'));
    exptimes.any(|number| number.parse().is_ok_and(is_past))
}

/// Whether a request may change or remove a value. A request that only sets an exptime does not.
pub fn writes(submission: &Submission<'_>) -> bool {
    match submission {
        Submission::Borrowed(Request::Retrieval { verb, .. })
        | Submission::Owned(OwnedRequest::Retrieval { verb, .. }) => removes(*verb),
        Submission::Borrowed(Request::Command(command)) => {
            command_writes(command, |words| flags_remove(words.as_str()))
        }
        Submission::Owned(OwnedRequest::Command(command)) => {
            command_writes(command, |words| flags_remove(words))
        }
    }
}

/// How the key of a request is spelled.
pub fn spelling(submission: &Submission<'_>) -> Spelling {
    let flags = match submission {
        Submission::Borrowed(Request::Command(Command::Meta { flags, .. })) => flags.as_str(),
        Submission::Owned(OwnedRequest::Command(GenericCommand::Meta { flags, .. })) => flags,
        _ => return Spelling::Plain,
    };
    if flags.split(' ').any(|word| word == "b") { Spelling::Base64 } else { Spelling::Plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exptimes_are_capped() {
        let now = i32::try_from(unix_now()).unwrap();
        for (exptime, expected) in [
            (0, 60),
            (5, 5),
            (61, 60),
            (MAX_RELATIVE, 60),
            (-1, -1),
            (EXPIRED, EXPIRED),
            (now + 1000, 60),
            (now + 20, now + 20),
            (i32::MAX, 60),
        ] {
            assert_eq!(capped(exptime, 60), expected, "{exptime}");
        }
    }

    #[test]
    fn meta_flags_are_capped() {
        for (verb, given, expected) in [
            (MetaVerb::Set, "", "T60"),
            (MetaVerb::Set, "C5 T0 c", "C5 T60 c"),
            (MetaVerb::Set, "MA N300", "MA N60 T60"),
            (MetaVerb::Get, "v N30 t", "v N30 t"),
            (MetaVerb::Get, "T500 v", "T60 v"),
            (MetaVerb::Arithmetic, "N0 J5 D1 T90", "N60 J5 D1 T60"),
            (MetaVerb::Delete, "I T-1", "I T-1"),
            (MetaVerb::Delete, "", ""),
        ] {
            assert_eq!(flags(verb, given, 60), expected, "{given}");
        }
    }

    #[test]
    fn a_touch_into_the_past_removes() {
        assert!(!removes(RetrievalVerb::Gat { exptime: 0 }) && !removes(RetrievalVerb::Gets));
        assert!(removes(RetrievalVerb::Gats { exptime: EXPIRED }));
        assert!(flags_remove("v T-1") && !flags_remove("v T60 N30"));
    }
}
