//! The steps that open a connection: connect, TLS, login.
use std::cell::Cell;
use std::net::IpAddr;

use super::context::Context;
use super::error::{Cause, Phase};
use super::io::Io;
use super::login::{Login, Mechanism};
use super::tls::Tls;
use super::transport::{DialTarget, connect};
use crate::protocol::Dialect;

/// The security settings for connections to a node.
#[derive(Debug, Default)]
pub struct Security {
    pub tls: Option<Tls>,
    pub login: Option<Login>,
}

impl Security {
    /// The protocol that the server speaks after the login.
    pub fn dialect(&self) -> Dialect {
        if self.is_binary() { Dialect::binary() } else { Dialect::default() }
    }

    /// A server with SASL accepts the binary protocol only.
    pub(super) fn is_binary(&self) -> bool {
        self.login.as_ref().is_some_and(|login| login.mechanism == Mechanism::Sasl)
    }
}

/// # Cancel safety
/// Dropping the future closes what was opened.
pub(super) async fn open(
    context: &Context,
    target: &DialTarget<'_>,
    security: &Security,
    phase: &Cell<Phase>,
) -> Result<(Box<dyn Io>, Option<IpAddr>), Cause> {
    phase.set(Phase::Connect);
    let (mut stream, peer) = connect(context, target).await.map_err(Cause::from_io)?;
    if let Some(tls) = &security.tls {
        phase.set(Phase::Tls);
        stream = tls.handshake(stream, target.address).await?;
    }
    if let Some(login) = &security.login {
        phase.set(Phase::Login);
        let done = login.perform(stream).await;
        stream =
            done.map_err(|cause| if security.tls.is_some() { cause } else { cause.when_silent() })?;
    }
    Ok((stream, peer))
}
