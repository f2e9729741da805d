//! Opens sockets to a node: TCP and unix.
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::address::Address;
use super::context::Context;
use super::io::Io;
use super::lookup::resolve_host;
use super::socket;

/// The timeout for a known address if the dial has no limit.
const KNOWN_ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// A peer that vanished silently is detected after idle + interval * retries.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

const KEEPALIVE_RETRIES: u32 = 3;

/// How long sent data may stay unacknowledged before the kernel closes the connection.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The destination of a dial.
pub struct DialTarget<'a> {
    pub address: &'a Address,
    /// The last known address of the node.
    pub ip: Option<IpAddr>,
    /// Addresses of the name that are not to be used.
    pub avoid: &'a [IpAddr],
    /// The timeout for the whole dial.
    pub limit: Option<Duration>,
}

/// Opens a connection to the node's known address, or else to one of its name, which is resolved
/// only then and each time. Also returns the IP address that was reached.
///
/// # Cancel safety
/// Dropping the future closes what was opened.
pub(super) async fn connect(
    context: &Context,
    target: &DialTarget<'_>,
) -> io::Result<(Box<dyn Io>, Option<IpAddr>)> {
    let (host, port) = match target.address {
        Address::Unix { path } => {
            return Ok((socket::unix(path).await?, None));
        }
        Address::Tcp { host, port } => (host.as_str(), *port),
    };
    let until = target.limit.map(|limit| Instant::now() + limit);
    // A host that is this address already has no other.
    let known = target.ip.filter(|ip| host.parse() != Ok(*ip)).map(|ip| SocketAddr::new(ip, port));
    let mut failure = None;
    if let Some(known) = known {
        // If packets to the known address are dropped, there must be time left for the others.
        let share = target.limit.map_or(KNOWN_ADDRESS_TIMEOUT, |limit| limit / 2);
        match connect_to(context, known, Some(share)).await {
            Ok(connected) => return Ok(connected),
            Err(error) => failure = Some(error),
        }
    }
    let is_other = |named: &SocketAddr| {
        Some(*named) != known && !target.avoid.contains(&named.ip().to_canonical())
    };
    let mut candidates: Vec<_> = match resolve_host(host, port).await {
        Ok(named) => named.into_iter().filter(is_other).collect(),
        Err(error) if failure.is_none() => return Err(error),
        Err(_) => Vec::new(),
    };
    if failure.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
        candidates.extend(known);
    }
    let nowhere = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut last = failure.unwrap_or_else(nowhere);
    let mut left = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
    for candidate in candidates {
        let rest = until.filter(|_| left > 1).map(|until| until - Instant::now());
        match connect_to(context, candidate, rest.map(|rest| rest / left)).await {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
        left -= 1;
    }
    Err(last)
}

async fn connect_to(
    context: &Context,
    at: SocketAddr,
    within: Option<Duration>,
) -> io::Result<(Box<dyn Io>, Option<IpAddr>)> {
    let connected = context.timeout(within, TcpStream::connect(at)).await;
    let stream = connected.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))?;
    Ok((prepare(stream)?, Some(at.ip().to_canonical())))
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
    socket::tcp(stream)
}
