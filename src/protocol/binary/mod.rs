//! The binary protocol (memcached doc/protocol-binary.txt), for servers that require a SASL login
//! and then accept nothing else.
//!
//! Every command has one request. A retrieval has one quiet request for each key and a no-op, whose
//! response ends the reply. The requests of a line share an opaque number.
//!
//! Invariant: responses arrive in the order of the requests, so a response belongs to the request
//! at the head and repeats its opaque number.
mod decode;
mod encode;
mod frame;
mod sasl;
#[cfg(test)]
mod tests;

pub use sasl::{SaslAnswer, sasl_answer, sasl_mechanisms, sasl_plain};

/// One connection's state.
#[derive(Debug, Default)]
pub struct Binary {
    next_opaque: u32,
    reply: decode::ReplyState,
}
