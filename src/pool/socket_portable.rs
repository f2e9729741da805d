//! Sockets for systems on which single descriptors cannot be watched: Tokio's own streams, without
//! unix sockets.
use std::io;

use tokio::net::TcpStream;

use super::transport::Io;

impl Io for TcpStream {}

#[allow(clippy::unnecessary_wraps, reason = "as in `socket.rs`, whose place this takes")]
pub fn tcp(stream: TcpStream) -> io::Result<Box<dyn Io>> {
    Ok(Box::new(stream))
}

#[allow(clippy::unused_async, reason = "as in `socket.rs`, whose place this takes")]
pub async fn unix(_: &str) -> io::Result<Box<dyn Io>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no unix sockets"))
}
