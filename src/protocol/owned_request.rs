//! Requests that own their bytes.
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::command::{RetrievalVerb, StorageVerb};
use super::encode::storage_head;
use super::key::Key;
use super::pipeline::LARGE_VALUE_LEN;
use super::verbs::{Scope, Verb};

/// A request that owns its bytes, used while there is no connection to encode it for.
#[derive(Clone, Debug)]
pub enum OwnedRequest {
    Retrieval {
        verb: RetrievalVerb,
        keys: SmallVec<[Bytes; 1]>,
    },
    Encoded {
        verb: Verb,
        wire: Bytes,
    },
    /// A storage command whose value is not copied.
    Storage {
        verb: Verb,
        head: Bytes,
        value: Bytes,
    },
}

impl OwnedRequest {
    pub fn storage(
        verb: StorageVerb,
        key: Key<'_>,
        flags: u32,
        exptime: i32,
        value: Bytes,
    ) -> Self {
        let mut head = BytesMut::new();
        storage_head(verb, key, flags, exptime, value.len(), &mut head);
        Self::Storage { verb: verb.verb(), head: head.freeze(), value }
    }

    pub fn verb(&self) -> Verb {
        match self {
            Self::Retrieval { verb, .. } => verb.verb(),
            Self::Encoded { verb, .. } | Self::Storage { verb, .. } => *verb,
        }
    }

    /// The number of requested keys; 0 if the request is not a retrieval.
    pub fn keys(&self) -> u32 {
        match self {
            Self::Retrieval { keys, .. } => u32::try_from(keys.len()).unwrap_or(u32::MAX),
            Self::Encoded { .. } | Self::Storage { .. } => 0,
        }
    }

    /// Copies the parts that share a block of memory with other requests, because the request may
    /// be stored for long.
    #[must_use]
    pub fn unshared(self) -> Self {
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        match self {
            Self::Retrieval { verb, keys } => {
                Self::Retrieval { verb, keys: keys.iter().map(own).collect() }
            }
            Self::Encoded { verb, wire } if wire.len() < LARGE_VALUE_LEN => {
                Self::Encoded { verb, wire: own(&wire) }
            }
            Self::Encoded { .. } | Self::Storage { .. } => self,
        }
    }

    /// The first key, which is the second word of the command line; empty if the command has no
    /// key.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Retrieval { keys, .. } => keys.first().map_or(&[], |key| key),
            Self::Encoded { wire, .. } => second_word(wire),
            Self::Storage { head, .. } => second_word(head),
        }
    }

    /// Calls `visit` with each key of the request.
    pub fn for_each_key(&self, mut visit: impl FnMut(&[u8])) {
        match self {
            Self::Retrieval { keys, .. } => keys.iter().for_each(|key| visit(key)),
            _ if self.verb().scope() == Scope::Keys => visit(self.key()),
            _ => {}
        }
    }

    /// The number of bytes that the request holds.
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Retrieval { keys, .. } => keys.iter().map(|key| key.len() + 1).sum(),
            Self::Encoded { wire, .. } => wire.len(),
            Self::Storage { head, value, .. } => head.len() + value.len(),
        }
    }
}

fn second_word(line: &[u8]) -> &[u8] {
    let Some(start) = memchr::memchr(b' ', line) else { return &[] };
    let rest = &line[start + 1..];
    let end = memchr::memchr3(b' ', b'\r', b'\n', rest).unwrap_or(rest.len());
    &rest[..end]
}
