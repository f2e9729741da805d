//! Dialling a node: TCP and unix sockets.
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::address::Address;
use super::context::Context;

/// A connected byte stream.
pub trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// A peer that vanished without a word is noticed after idle + interval * retries.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// Sent data may stay unacknowledged this long before the kernel gives the connection up.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens a connection: to `ip`, where the node was last said to be, or else to an address of its name,
/// which is resolved anew each time.
///
/// # Cancel safety
/// Dropping the future closes what was opened.
pub async fn connect(
    context: &Context,
    address: &Address,
    ip: Option<&str>,
    limit: Option<Duration>,
) -> io::Result<Box<dyn Io>> {
    match address {
        Address::Tcp { host, port } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            let known = ip.and_then(|ip| ip.parse::<IpAddr>().ok());
            let mut candidates: Vec<_> =
                known.map(|ip| SocketAddr::new(ip, *port)).into_iter().collect();
            match lookup_host((host.as_str(), *port)).await {
                Ok(named) => candidates.extend(named.filter(|named| Some(named.ip()) != known)),
                // A name that cannot be resolved now is no loss while the address is known.
                Err(error) if candidates.is_empty() => return Err(error),
                Err(_) => {}
            }
            // One that swallows everything must leave time for the others.
            let share = limit.zip(u32::try_from(candidates.len()).ok()).map(|(all, n)| all / n);
            let last_at = candidates.len().saturating_sub(1);
            for (at, candidate) in candidates.into_iter().enumerate() {
                let share = share.filter(|_| at < last_at);
                match context.timeout(share, TcpStream::connect(candidate)).await {
                    Some(Ok(stream)) => return prepare(stream),
                    Some(Err(error)) => last = error,
                    None => last = io::ErrorKind::TimedOut.into(),
                }
            }
            Err(last)
        }
        Address::Unix { path } => Ok(Box::new(UnixStream::connect(path).await?)),
    }
}

fn prepare(stream: TcpStream) -> io::Result<Box<dyn Io>> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(Box::new(stream))
}
