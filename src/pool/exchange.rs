//! One request and its reply, on a connection that serves nothing else yet.
use bytes::{Buf, BytesMut};
use secrecy::zeroize::Zeroize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::Cause;
use super::io::Io;
use crate::protocol::{
    CONNECTION_REFUSED, Command, Dialect, ErrorLine, Excerpt, Frame, ItemRef, ProtocolError, Reply,
    Request,
};

/// Sends a request and reads its reply: `on_item` checks each item, `on_reply` decides what the end
/// of the reply means. Bytes that follow the reply are an error. The request is wiped from memory
/// after it was sent.
///
/// # Cancel safety
/// The connection must be closed if the future is dropped.
pub(super) async fn exchange<T>(
    stream: &mut Box<dyn Io>,
    mut dialect: Dialect,
    request: &Request<'_>,
    on_item: impl Fn(&ItemRef<'_>) -> Result<(), ProtocolError>,
    on_reply: impl FnOnce(&Reply<'_>) -> Result<T, Cause>,
) -> Result<T, Cause> {
    // A buffer that grows would leave a copy of the password behind.
    let secret_len = match request {
        Request::Command(Command::Auth { credentials }) => credentials.len(),
        _ => 0,
    };
    let mut wire = BytesMut::with_capacity(512 + secret_len);
    let expected = dialect.encode_request(request, &mut wire);
    let sent = send(stream, &wire).await;
    wire[..].zeroize();
    sent?;
    let mut buf = BytesMut::new();
    loop {
        let Some((frame, used)) = dialect.decode(&buf, expected).map_err(Cause::from_protocol)?
        else {
            if stream.read_buf(&mut buf).await.map_err(Cause::from_io)? == 0 {
                return Err(Cause::Eof);
            }
            continue;
        };
        let reply = match frame {
            Frame::Reply(Reply::Error(ErrorLine { line: CONNECTION_REFUSED, .. })) => {
                return Err(Cause::TooManyConnections);
            }
            Frame::Reply(reply) => reply,
            Frame::Item(item) => {
                on_item(&item).map_err(Cause::from_protocol)?;
                buf.advance(used);
                continue;
            }
            Frame::Stat(_) | Frame::Meta(_) | Frame::Ignored => {
                buf.advance(used);
                continue;
            }
        };
        let result = on_reply(&reply)?;
        return match &buf[used..] {
            [] => Ok(result),
            surplus => {
                Err(Cause::from_protocol(ProtocolError::Unsolicited(Excerpt::from_secret(surplus))))
            }
        };
    }
}

async fn send(stream: &mut Box<dyn Io>, wire: &[u8]) -> Result<(), Cause> {
    stream.write_all(wire).await.map_err(Cause::from_io)?;
    stream.flush().await.map_err(Cause::from_io)
}
