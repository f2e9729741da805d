//! What became of requests, by command: how many, and how long they took.
//!
//! Plain numbers of one thread: to count costs no more than the additions.
use super::pipeline::Tick;
use super::reply::{ErrorKind, Reply};
use super::request::Verb;

const MICRO: Tick = 1_000;
const MILLI: Tick = 1_000_000;
const SECOND: Tick = 1_000_000_000;

/// What the buckets of a [`Latency`] reach up to, themselves included; there is one more for all above.
pub const LATENCY_BOUNDS: [Tick; 19] = [
    10 * MICRO,
    25 * MICRO,
    50 * MICRO,
    100 * MICRO,
    250 * MICRO,
    500 * MICRO,
    MILLI,
    2_500 * MICRO,
    5 * MILLI,
    10 * MILLI,
    25 * MILLI,
    50 * MILLI,
    100 * MILLI,
    250 * MILLI,
    500 * MILLI,
    SECOND,
    2_500 * MILLI,
    5 * SECOND,
    10 * SECOND,
];

/// A histogram of times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many in each bucket, those below not among them.
    pub buckets: [u64; LATENCY_BOUNDS.len() + 1],
    pub sum: Tick,
}

/// The first bucket for times of so many bits. No two bounds have the same number, so the right one is it or
/// the next.
const FIRST_BUCKETS: [u8; 65] = {
    let mut first = [0; 65];
    let (mut bits, mut at) = (1, 0);
    while bits < first.len() {
        while at < LATENCY_BOUNDS.len() && LATENCY_BOUNDS[at] < 1 << (bits - 1) {
            at += 1;
        }
        #[allow(clippy::cast_possible_truncation, reason = "there are few")]
        {
            first[bits] = at as u8;
        }
        bits += 1;
    }
    first
};

impl Latency {
    #[inline]
    pub fn record(&mut self, took: Tick) {
        let bits = Tick::BITS - took.leading_zeros();
        let first = usize::from(FIRST_BUCKETS[bits as usize]);
        let at = first + usize::from(LATENCY_BOUNDS.get(first).is_some_and(|bound| *bound < took));
        self.buckets[at] += 1;
        self.sum = self.sum.saturating_add(took);
    }
}

/// How a request ended. What a server says is called by the server's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Hit,
    Miss,
    Stored,
    NotStored,
    Exists,
    NotFound,
    Deleted,
    Touched,
    Ok,
    /// `ERROR`
    Error,
    ClientError,
    ServerError,
    /// No answer in time.
    Timeout,
    /// The connection ended before the answer.
    Connection,
    /// What came was no answer.
    Protocol,
    /// The node was known to be down; nothing was sent.
    Unavailable,
    /// The node does not let us in; nothing was sent.
    Login,
    /// Too much waited for the node; nothing was sent.
    Overloaded,
    /// The client was closed before the answer.
    Closed,
    /// Whoever asked went away, and no answer came or nothing was sent.
    Cancelled,
}

impl Outcome {
    const COUNT: usize = Self::Cancelled as usize + 1;

    const NAMES: [&'static str; Self::COUNT] = [
        "hit",
        "miss",
        "stored",
        "not_stored",
        "exists",
        "not_found",
        "deleted",
        "touched",
        "ok",
        "error",
        "client_error",
        "server_error",
        "timeout",
        "connection",
        "protocol",
        "unavailable",
        "login",
        "overloaded",
        "closed",
        "cancelled",
    ];

    fn of(reply: &Reply<'_>) -> Self {
        match reply {
            Reply::Stored => Self::Stored,
            Reply::NotStored => Self::NotStored,
            Reply::Exists => Self::Exists,
            Reply::NotFound => Self::NotFound,
            Reply::Deleted => Self::Deleted,
            Reply::Touched => Self::Touched,
            Reply::End | Reply::Ok | Reply::Reset | Reply::Number(_) | Reply::Version(_) => {
                Self::Ok
            }
            Reply::Error(error) => match error.kind {
                ErrorKind::Unknown => Self::Error,
                ErrorKind::Client => Self::ClientError,
                ErrorKind::Server | ErrorKind::Refused => Self::ServerError,
            },
        }
    }
}

/// What a request was: as much as is counted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub verb: Verb,
    /// How many were asked for; 0: no retrieval.
    pub keys: u32,
    pub made: Tick,
}

impl Asked {
    /// A retrieval counts once for each key.
    fn weight(&self) -> u64 {
        u64::from(self.keys.max(1))
    }
}

/// Of one command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandTally {
    outcomes: [u64; Outcome::COUNT],
    /// Of requests that were answered, timed out or lost their connection.
    pub latency: Latency,
}

impl CommandTally {
    /// Those that there were.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Outcome::NAMES.into_iter().zip(self.outcomes).filter(|(_, count)| *count > 0)
    }

    /// A request that is no retrieval was answered.
    pub fn answered(&mut self, reply: &Reply<'_>, took: Tick) {
        self.latency.record(took);
        self.add(Outcome::of(reply), 1);
    }

    /// Keys were answered with and without an item.
    pub fn retrieved(&mut self, hits: u32, misses: u32) {
        self.add(Outcome::Hit, u64::from(hits));
        self.add(Outcome::Miss, u64::from(misses));
    }

    /// Keys were answered with an error.
    pub fn refused(&mut self, reply: &Reply<'_>, keys: u32) {
        if keys > 0 {
            self.add(Outcome::of(reply), u64::from(keys));
        }
    }

    fn add(&mut self, outcome: Outcome, count: u64) {
        self.outcomes[outcome as usize] += count;
    }
}

/// Of all commands to one node.
#[derive(Clone, Debug, Default)]
pub struct Tally([Option<Box<CommandTally>>; Verb::COUNT]);

impl Tally {
    pub fn of(&mut self, verb: Verb) -> &mut CommandTally {
        self.0[verb as usize].get_or_insert_default()
    }

    /// A request ended at `now`, after it was waited for.
    pub fn failed(&mut self, asked: Asked, outcome: Outcome, now: Tick) {
        self.of(asked.verb).latency.record(now.saturating_sub(asked.made));
        self.ended(asked, outcome);
    }

    /// A request ended, and how long that took says nothing of its node.
    pub fn ended(&mut self, asked: Asked, outcome: Outcome) {
        self.of(asked.verb).add(outcome, asked.weight());
    }

    /// The commands that there were.
    pub fn commands(&self) -> impl Iterator<Item = (Verb, &CommandTally)> {
        let all = Verb::ALL.into_iter().zip(&self.0);
        all.filter_map(|(verb, command)| Some((verb, command.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::ErrorLine;
    use super::*;

    const GET: Asked = Asked { verb: Verb::Get, keys: 3, made: 100 };
    const SET: Asked = Asked { verb: Verb::Set, keys: 0, made: 100 };

    fn outcomes(tally: &Tally, verb: Verb) -> Vec<(&'static str, u64)> {
        let found = tally.commands().find(|(known, _)| *known == verb);
        found.map(|(_, command)| command.outcomes().collect()).unwrap_or_default()
    }

    #[test]
    fn bounds_rise_and_belong_to_their_buckets() {
        assert!(LATENCY_BOUNDS.is_sorted_by(|a, b| a < b));
        for (at, bound) in LATENCY_BOUNDS.into_iter().enumerate() {
            let mut latency = Latency::default();
            latency.record(bound);
            latency.record(bound + 1);
            assert_eq!((latency.buckets[at], latency.buckets[at + 1]), (1, 1), "{bound}");
            assert_eq!(latency.sum, 2 * bound + 1);
        }
    }

    #[test]
    fn every_time_has_the_bucket_of_its_bound() {
        for bits in 0..64 {
            for near in [-2, -1, 0, 1, 2] {
                let took = (1_u64 << bits).saturating_add_signed(near);
                let mut latency = Latency::default();
                latency.record(took);
                let at = LATENCY_BOUNDS.partition_point(|bound| *bound < took);
                assert_eq!(latency.buckets[at], 1, "{took}");
            }
        }
    }

    #[test]
    fn the_ends_have_buckets_too() {
        let mut latency = Latency::default();
        latency.record(0);
        latency.record(Tick::MAX);
        latency.record(Tick::MAX);
        assert_eq!((latency.buckets[0], latency.buckets[LATENCY_BOUNDS.len()]), (1, 2));
        assert_eq!(latency.sum, Tick::MAX);
    }

    #[test]
    fn a_retrieval_counts_its_keys() {
        let mut tally = Tally::default();
        tally.of(Verb::Get).retrieved(2, 1);
        tally.failed(GET, Outcome::Timeout, 200);
        // A clock that went back is no time.
        tally.failed(GET, Outcome::Timeout, 50);
        let error = Reply::Error(ErrorLine { kind: ErrorKind::Server, line: b"SERVER_ERROR" });
        tally.of(Verb::Get).refused(&error, 3);
        let expected = [("hit", 2), ("miss", 1), ("server_error", 3), ("timeout", 6)];
        assert_eq!(outcomes(&tally, Verb::Get), expected);
        let (_, command) = tally.commands().next().unwrap();
        assert_eq!((command.latency.buckets[0], command.latency.sum), (2, 100));
    }

    #[test]
    fn other_commands_count_once() {
        let mut tally = Tally::default();
        tally.of(Verb::Set).answered(&Reply::Stored, 100);
        tally.ended(SET, Outcome::Overloaded);
        tally.of(Verb::Stats).answered(&Reply::End, 100);
        assert_eq!(outcomes(&tally, Verb::Set), [("stored", 1), ("overloaded", 1)]);
        assert_eq!(outcomes(&tally, Verb::Stats), [("ok", 1)]);
        assert_eq!(tally.commands().count(), 2);
    }

    #[test]
    fn every_verb_has_a_place_of_its_own() {
        for (at, verb) in Verb::ALL.into_iter().enumerate() {
            assert_eq!(verb as usize, at);
        }
    }
}
