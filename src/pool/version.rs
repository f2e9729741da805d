//! The maximum length of a `get` line.
//!
//! Every server accepts [`MAX_LINE_LEN`]. A longer line saves the server a system call for each
//! line, a tenth of the time of a `get` of 100 keys. memcached 1.6.13 and later accepts longer
//! lines from every network. So the first call that could use one makes the pool ask for the
//! server's version, on a connection of its own, because a proxy may close it.
use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::context::{catch_panic, unless_notified};
use super::error::Cause;
use super::exchange::exchange;
use super::health::nanos;
use super::io::Io;
use super::line_len::Knowledge;
use super::open::open;
use super::shared::{Pool, Shared};
use super::transport::DialTarget;
use super::waiter::Waiter;
use crate::protocol::{
    Command, Dialect, LONG_LINE_LEN, MAX_LINE_LEN, Nanos, Reply, Request, RetrievalVerb,
};

/// The timeout for the reply if there is no `connection_timeout`.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait after a failure before the node is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);

impl<W: Waiter> Pool<W> {
    /// The maximum length of a line with this command, for a call that could use more than
    /// [`MAX_LINE_LEN`].
    pub fn max_line_len(&self, verb: RetrievalVerb) -> usize {
        // No version accepts longer `gat` lines.
        if !matches!(verb, RetrievalVerb::Get | RetrievalVerb::Gets) {
            return MAX_LINE_LEN;
        }
        let shared = &self.0;
        if shared.config.security.is_binary() {
            // The line becomes one binary request per key.
            return LONG_LINE_LEN;
        }
        match shared.line_len.knowledge.get() {
            Knowledge::Len(len) => return len,
            Knowledge::Unknown { ask_from } if shared.may_ask_version(ask_from) => {
                shared.line_len.knowledge.set(Knowledge::Asking);
                shared.context.spawn(ask_version(Rc::downgrade(shared)));
            }
            Knowledge::Unknown { .. } | Knowledge::Asking => {}
        }
        MAX_LINE_LEN
    }
}

impl<W: Waiter> Shared<W> {
    /// Only while there is a connection: the pool's own task paces the dials to a node that is
    /// down.
    fn may_ask_version(&self, ask_from: Nanos) -> bool {
        let state = self.state();
        state.lifecycle.is_open() && !state.connections.is_empty() && self.context.now() >= ask_from
    }
}

async fn ask_version<W: Waiter>(pool: Weak<Shared<W>>) {
    let Some(strong) = pool.upgrade() else { return };
    let (context, address) = (strong.context.clone(), strong.address.clone());
    let (security, closing) = (strong.config.security.clone(), strong.closing.clone());
    let limit = strong.config.connection_timeout.unwrap_or(ANSWER_TIMEOUT);
    let (ip, server) = (strong.state().location.ip(), strong.line_len.server.get());
    drop(strong);
    let target = DialTarget { address: &address, ip, avoid: &[], limit: Some(limit) };
    let phase = Cell::default();
    let asking = catch_panic(async {
        let (stream, _) = open(&context, &target, &security, &phase).await?;
        query_line_len(stream).await
    });
    let asking = context.timeout(Some(limit), asking);
    let Some(answer) = unless_notified(&closing, asking).await else { return };
    let Some(pool) = pool.upgrade() else { return };
    if pool.line_len.server.get() != server {
        return;
    }
    pool.line_len.knowledge.set(match answer {
        Some(Some(Ok(len))) => Knowledge::Len(len),
        _ => Knowledge::Unknown { ask_from: context.now().saturating_add(nanos(ASK_AGAIN_AFTER)) },
    });
}

/// Asks for the version and returns the maximum line length.
async fn query_line_len(mut stream: Box<dyn Io>) -> Result<usize, Cause> {
    let request = Request::Command(Command::Version);
    exchange(
        &mut stream,
        Dialect::default(),
        &request,
        |_| Ok(()),
        |reply| match reply {
            Reply::Version(text) if takes_long_lines(text) => Ok(LONG_LINE_LEN),
            _ => Ok(MAX_LINE_LEN),
        },
    )
    .await
}

/// Whether this is memcached 1.6.13 or later.
fn takes_long_lines(version: &[u8]) -> bool {
    let Some(rest) = version.strip_prefix(b"1.6.") else { return false };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&rest[..digits]).ok().and_then(|digits| digits.parse().ok());
    number.is_some_and(|number: u32| number >= 13)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_for_known_versions() {
        for version in ["1.6.13", "1.6.18", "1.6.45", "1.6.100", "1.6.22-aws", "1.6.38_beta"] {
            assert!(takes_long_lines(version.as_bytes()), "{version}");
        }
        for version in [
            "1.6.12",
            "1.6.9",
            "1.6.",
            "1.6",
            "1.5.16",
            "1.4.14",
            "1.7.13",
            "11.6.18",
            "",
            "yrmcds version 1.1.9",
            "mcrouter 0.41",
            "1.6.99999999999999999999",
            "1.6.x18",
        ] {
            assert!(!takes_long_lines(version.as_bytes()), "{version}");
        }
    }
}
