//! A request on its way into a pool.
use bytes::BytesMut;

use super::capabilities::Capabilities;
use super::connection::Connection;
use crate::protocol::meta::Lack;
use crate::protocol::{
    Command, GenericCommand, Key, OwnedRequest, ReplyHandler, Request, RequestInfo, Timing, Verb,
};

/// A request that is submitted to the pool. Only a pointer, because it passes many functions.
pub enum Submission<'a> {
    Borrowed(&'a Request<'a>),
    /// Taken from here if the request has to wait.
    Owned(&'a mut OwnedRequest),
}

impl Submission<'_> {
    #[inline]
    pub fn verb(&self) -> Verb {
        match self {
            Self::Borrowed(request) => request.verb(),
            Self::Owned(request) => request.verb(),
        }
    }

    /// The key that decides which node gets the request; `None` without keys.
    #[inline]
    pub fn key(&self) -> Option<Key<'_>> {
        match self {
            Self::Borrowed(Request::Retrieval { keys, .. }) => keys.first().copied(),
            Self::Borrowed(Request::Command(command)) => command.key().copied(),
            Self::Owned(request) => Some(Key::trusted(request.key())),
        }
    }

    /// The properties that are counted.
    pub fn info(&self) -> RequestInfo {
        let keys = match self {
            Self::Borrowed(Request::Retrieval { keys, .. }) => {
                u32::try_from(keys.len()).unwrap_or(u32::MAX)
            }
            Self::Borrowed(Request::Command(_)) => 0,
            Self::Owned(request) => request.keys(),
        };
        RequestInfo { verb: self.verb(), keys, issued_at: 0 }
    }

    /// Whether it asks for items. Such a request fits one line, so it is short.
    #[inline]
    pub fn is_retrieval(&self) -> bool {
        matches!(
            self,
            Self::Borrowed(Request::Retrieval { .. }) | Self::Owned(OwnedRequest::Retrieval { .. })
        )
    }

    #[inline]
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Borrowed(request) => request.payload_len(),
            Self::Owned(request) => request.payload_len(),
        }
    }

    /// Whether `is_one` is true for a requested key.
    pub fn asks_for(&self, is_one: impl Fn(&[u8]) -> bool) -> bool {
        match self {
            Self::Borrowed(Request::Retrieval { keys, .. }) => {
                keys.iter().any(|key| is_one(key.as_bytes()))
            }
            Self::Owned(OwnedRequest::Retrieval { keys, .. }) => keys.iter().any(|key| is_one(key)),
            _ => false,
        }
    }

    /// The feature that a node lacks for the request, if it is a meta command.
    #[cold]
    pub(super) fn meta_lack(&self, known: &Capabilities) -> Option<Lack> {
        match self {
            Self::Borrowed(Request::Command(Command::Meta { verb, flags, .. })) => {
                known.meta_lack(Some((*verb, flags.as_str())))
            }
            Self::Borrowed(Request::Command(Command::MetaNoOp)) => known.meta_lack(None),
            Self::Borrowed(_) => None,
            Self::Owned(request) => meta_lack(request, known),
        }
    }

    pub fn push<W: ReplyHandler>(self, to: &mut Connection<W>, waiter: W, timing: Timing) {
        match self {
            Self::Borrowed(request) => to.push(request, waiter, timing),
            Self::Owned(request) => to.push_owned(request, waiter, timing, false),
        }
    }

    pub fn into_owned(self) -> OwnedRequest {
        match self {
            Self::Borrowed(request) => OwnedRequest::copy_from(request),
            Self::Owned(request) => request.take(),
        }
    }

    /// See [`OwnedRequest::copy_into_block`].
    pub fn into_owned_in_block(self, block: &mut BytesMut) -> OwnedRequest {
        match self {
            Self::Borrowed(request) => OwnedRequest::copy_into_block(request, block),
            Self::Owned(request) => request.take(),
        }
    }
}

/// The feature that a node lacks for the request, if it is a meta command.
pub(super) fn meta_lack(request: &OwnedRequest, known: &Capabilities) -> Option<Lack> {
    match request {
        OwnedRequest::Command(GenericCommand::Meta { verb, flags, .. }) => {
            known.meta_lack(Some((*verb, flags)))
        }
        OwnedRequest::Command(GenericCommand::MetaNoOp) => known.meta_lack(None),
        _ => None,
    }
}
