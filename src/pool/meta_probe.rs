//! Whether a node knows the meta protocol.
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::io::Io;

/// Sends the meta protocol's no-op, followed by `version`. A server behind a proxy would answer
/// `version` even if the proxy does not know the meta protocol.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub(super) async fn supports_meta(mut stream: Box<dyn Io>) -> bool {
    let sent = async {
        stream.write_all(b"mn\r\nversion\r\n").await?;
        stream.flush().await
    };
    if sent.await.is_err() {
        return false;
    }
    let mut answer = BytesMut::new();
    while memchr::memchr_iter(b'\n', &answer).count() < 2 {
        let is_meta = b"MN\r\n".iter().zip(&answer).all(|(expected, found)| expected == found);
        let read = stream.read_buf(&mut answer).await;
        if !is_meta || answer.len() > MAX_ANSWER || !read.is_ok_and(|read| read > 0) {
            return false;
        }
    }
    answer.strip_prefix(b"MN\r\nVERSION ").is_some_and(is_recent)
}

const MAX_ANSWER: usize = 512;

/// Whether a version, such as `1.6.12-elasticache`, is [`META_SINCE`] or later.
fn is_recent(text: &[u8]) -> bool {
    let end = text.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.');
    let numbers = std::str::from_utf8(&text[..end.unwrap_or(text.len())]).unwrap_or_default();
    let numbers = numbers.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>();
    numbers.is_some_and(|numbers| numbers.as_slice() >= META_SINCE)
}

/// Proxies that forward meta commands answer `version` themselves. Earlier servers speak another
/// dialect.
const META_SINCE: &[u32] = &[1, 6, 9];

#[cfg(test)]
mod tests {
    use super::is_recent;

    #[test]
    fn versions_with_meta_arithmetic() {
        for recent in ["1.6.9", "1.6.18\r\n", "1.6.45-rc1", "1.6.12-elasticache", "1.10.0", "2.0"] {
            assert!(is_recent(recent.as_bytes()), "{recent}");
        }
        for other in
            ["1.6.8", "1.6", "1.4.39", "1.6.x", "", "mcrouter 0.41.0", "1..9", "99999999999.0.0"]
        {
            assert!(!is_recent(other.as_bytes()), "{other}");
        }
    }
}
