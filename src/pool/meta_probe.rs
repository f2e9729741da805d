//! Whether a node knows the meta commands, and its version.
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::io::Io;
use crate::protocol::meta::Version;

/// What a probe has found out.
pub(super) enum MetaSupport {
    Version(Version),
    Missing,
    /// There was no result.
    Undecided,
}

/// Sends the meta protocol's no-op, followed by `version`. A server behind a proxy would answer
/// `version` even if the proxy does not know the meta protocol. `None` if the node does not know it.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub(super) async fn meta_version(mut stream: Box<dyn Io>) -> Option<Version> {
    let sent = async {
        stream.write_all(b"mn\r\nversion\r\n").await?;
        stream.flush().await
    };
    if sent.await.is_err() {
        return None;
    }
    let mut answer = BytesMut::new();
    while memchr::memchr_iter(b'\n', &answer).count() < 2 {
        let is_meta = b"MN\r\n".iter().zip(&answer).all(|(expected, found)| expected == found);
        let read = stream.read_buf(&mut answer).await;
        if !is_meta || answer.len() > MAX_ANSWER || !read.is_ok_and(|read| read > 0) {
            return None;
        }
    }
    let version = Version::parse(answer.strip_prefix(b"MN\r\nVERSION ")?)?;
    (version >= COUNTERS_SINCE).then_some(version)
}

const MAX_ANSWER: usize = 512;

/// Earlier servers speak another dialect. This one knows the counters that emcache creates, and
/// later ones know all commands: see [`crate::protocol::meta::META_SINCE`].
const COUNTERS_SINCE: Version = Version::new(1, 6, 9);
