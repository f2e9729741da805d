//! Counters and latencies of requests, by command.
//!
//! These are plain numbers that belong to one thread, so counting costs a few additions.
use super::meta::MetaStatus;
use super::pipeline::Nanos;
use super::reply::{ErrorLineKind, Reply};
use super::verbs::{Family, Verb};

const MICRO: Nanos = 1_000;
const MILLI: Nanos = 1_000_000;
const SECOND: Nanos = 1_000_000_000;

/// The inclusive upper bounds of the buckets of a [`Latency`]. One more bucket holds everything
/// above.
pub const LATENCY_BOUNDS: [Nanos; 19] = [
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

/// A histogram of durations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// The number of durations in each bucket; buckets are not cumulative.
    pub buckets: [u64; LATENCY_BOUNDS.len() + 1],
    pub sum: Nanos,
}

/// The first candidate bucket for durations with this many bits. No two bounds have the same number
/// of bits, so the right bucket is the candidate or the next one.
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
    pub fn record(&mut self, took: Nanos) {
        let bits = Nanos::BITS - took.leading_zeros();
        let first = usize::from(FIRST_BUCKETS[bits as usize]);
        let at = first + usize::from(LATENCY_BOUNDS.get(first).is_some_and(|bound| *bound < took));
        self.buckets[at] += 1;
        self.sum = self.sum.saturating_add(took);
    }
}

/// The result of a request. Replies of the server keep the server's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallResult {
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
    /// No reply arrived in time.
    Timeout,
    /// The connection ended before the reply.
    Connection,
    /// The server sent an invalid reply.
    Protocol,
    /// The node was known to be down; nothing was sent.
    Unavailable,
    /// The node refuses the login; nothing was sent.
    Login,
    /// Too many requests were waiting for the node; nothing was sent.
    Overloaded,
    /// The client was closed before the reply.
    Closed,
    /// The caller was cancelled before the reply arrived or before anything was sent.
    Cancelled,
}

impl CallResult {
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

    fn from_reply(reply: &Reply<'_>) -> Self {
        match reply {
            Reply::Stored => Self::Stored,
            Reply::NotStored => Self::NotStored,
            Reply::Exists => Self::Exists,
            Reply::NotFound => Self::NotFound,
            Reply::Deleted => Self::Deleted,
            Reply::Touched => Self::Touched,
            Reply::Meta { status, .. } => match status {
                MetaStatus::Value => Self::Hit,
                MetaStatus::Miss => Self::Miss,
                MetaStatus::NotFound => Self::NotFound,
                MetaStatus::NotStored => Self::NotStored,
                MetaStatus::Exists => Self::Exists,
                MetaStatus::Done | MetaStatus::Debug | MetaStatus::NoOp => Self::Ok,
            },
            Reply::End | Reply::Ok | Reply::Reset | Reply::Number(_) | Reply::Version(_) => {
                Self::Ok
            }
            Reply::Error(error) => match error.kind {
                ErrorLineKind::Unknown => Self::Error,
                ErrorLineKind::Client => Self::ClientError,
                ErrorLineKind::Server | ErrorLineKind::Refused => Self::ServerError,
            },
        }
    }
}

/// The properties of a request that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    pub verb: Verb,
    /// The number of requested keys; 0 if the request is not a retrieval.
    pub keys: u32,
    pub issued_at: Nanos,
}

impl RequestInfo {
    /// A retrieval counts once for each key.
    fn weight(&self) -> u64 {
        u64::from(self.keys.max(1))
    }
}

/// The counters of one command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandStats {
    results: [u64; CallResult::COUNT],
    /// Includes requests that were answered, that timed out, and that lost their connection.
    pub latency: Latency,
}

impl CommandStats {
    /// The results that occurred, with their counts.
    pub fn results(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CallResult::NAMES.into_iter().zip(self.results).filter(|(_, count)| *count > 0)
    }

    /// Counts the reply to a request that is not a retrieval.
    pub fn record_reply(&mut self, reply: &Reply<'_>, took: Nanos) {
        self.latency.record(took);
        self.add(CallResult::from_reply(reply), 1);
    }

    /// Counts keys with and without an item.
    pub fn record_keys(&mut self, hits: u32, misses: u32) {
        self.add(CallResult::Hit, u64::from(hits));
        self.add(CallResult::Miss, u64::from(misses));
    }

    /// Counts keys that were answered with an error.
    pub fn record_error(&mut self, reply: &Reply<'_>, keys: u32) {
        if keys > 0 {
            self.add(CallResult::from_reply(reply), u64::from(keys));
        }
    }

    /// Adds the counters of the same command elsewhere.
    pub fn merge(&mut self, other: &Self) {
        for (result, more) in self.results.iter_mut().zip(other.results) {
            *result += more;
        }
        for (bucket, more) in self.latency.buckets.iter_mut().zip(other.latency.buckets) {
            *bucket += more;
        }
        self.latency.sum = self.latency.sum.saturating_add(other.latency.sum);
    }

    fn answers(&self) -> u64 {
        self.results[..=CallResult::Ok as usize].iter().sum()
    }

    fn add(&mut self, result: CallResult, count: u64) {
        self.results[result as usize] += count;
    }
}

/// The counters of all commands to one node.
#[derive(Clone, Debug, Default)]
pub struct NodeStats([Option<Box<CommandStats>>; Verb::COUNT]);

impl NodeStats {
    pub fn command_mut(&mut self, verb: Verb) -> &mut CommandStats {
        self.0[verb as usize].get_or_insert_default()
    }

    /// Counts a request that ended at `now` while its caller was waiting.
    pub fn record_with_latency(&mut self, info: RequestInfo, result: CallResult, now: Nanos) {
        self.command_mut(info.verb).latency.record(now.saturating_sub(info.issued_at));
        self.record(info, result);
    }

    /// Counts a request whose duration says nothing about the node.
    pub fn record(&mut self, info: RequestInfo, result: CallResult) {
        self.command_mut(info.verb).add(result, info.weight());
    }

    /// The number of commands of a family that were answered, other than by an error line.
    pub fn answers(&self, family: Family) -> u64 {
        let commands = self.commands().filter(|(verb, _)| verb.family() == family);
        commands.map(|(_, command)| command.answers()).sum()
    }

    /// The commands that occurred.
    pub fn commands(&self) -> impl Iterator<Item = (Verb, &CommandStats)> {
        let all = Verb::all().zip(&self.0);
        all.filter_map(|(verb, command)| Some((verb, command.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::ErrorLine;
    use super::*;

    const GET: RequestInfo = RequestInfo { verb: Verb::Get, keys: 3, issued_at: 100 };
    const SET: RequestInfo = RequestInfo { verb: Verb::Set, keys: 0, issued_at: 100 };

    fn results(stats: &NodeStats, verb: Verb) -> Vec<(&'static str, u64)> {
        let found = stats.commands().find(|(known, _)| *known == verb);
        found.map(|(_, command)| command.results().collect()).unwrap_or_default()
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
        latency.record(Nanos::MAX);
        latency.record(Nanos::MAX);
        assert_eq!((latency.buckets[0], latency.buckets[LATENCY_BOUNDS.len()]), (1, 2));
        assert_eq!(latency.sum, Nanos::MAX);
    }

    #[test]
    fn a_retrieval_counts_its_keys() {
        let mut stats = NodeStats::default();
        stats.command_mut(Verb::Get).record_keys(2, 1);
        stats.record_with_latency(GET, CallResult::Timeout, 200);
        // If the clock went backwards, the duration is zero.
        stats.record_with_latency(GET, CallResult::Timeout, 50);
        let error = Reply::Error(ErrorLine { kind: ErrorLineKind::Server, line: b"SERVER_ERROR" });
        stats.command_mut(Verb::Get).record_error(&error, 3);
        let expected = [("hit", 2), ("miss", 1), ("server_error", 3), ("timeout", 6)];
        assert_eq!(results(&stats, Verb::Get), expected);
        let (_, command) = stats.commands().next().unwrap();
        assert_eq!((command.latency.buckets[0], command.latency.sum), (2, 100));
    }

    #[test]
    fn other_commands_count_once() {
        let mut stats = NodeStats::default();
        stats.command_mut(Verb::Set).record_reply(&Reply::Stored, 100);
        stats.record(SET, CallResult::Overloaded);
        stats.command_mut(Verb::Stats).record_reply(&Reply::End, 100);
        assert_eq!(results(&stats, Verb::Set), [("stored", 1), ("overloaded", 1)]);
        assert_eq!(results(&stats, Verb::Stats), [("ok", 1)]);
        assert_eq!(stats.commands().count(), 2);
    }
}
