//! Requests that own their bytes: what waits for a connection, and what is sent again.
use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::command::{Command, GenericCommand, Request, RetrievalVerb, StorageVerb, Words};
use super::key::Key;
use super::meta::MetaVerb;
use super::verbs::Verb;

/// A command that owns its bytes. Its key and its arguments were validated.
pub type OwnedCommand = GenericCommand<Bytes, Bytes, Box<str>>;

/// A request that owns its bytes. The connection that takes it encodes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedRequest {
    /// As [`Request::Retrieval`].
    Retrieval {
        verb: RetrievalVerb,
        keys: SmallVec<[Bytes; 1]>,
    },
    Command(OwnedCommand),
}

impl OwnedCommand {
    pub fn as_command(&self) -> Command<'_> {
        self.convert(|key| Key::trusted(key), |value| &value[..], |args| Words::trusted(args))
    }
}

impl OwnedRequest {
    pub fn has_key(&self) -> bool {
        match self {
            Self::Retrieval { keys, .. } => !keys.is_empty(),
            Self::Command(command) => command.key().is_some(),
        }
    }

    /// Moves the request out, and leaves one without data.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Command(GenericCommand::Version))
    }

    /// A storage command whose value is not copied.
    pub fn storage(
        verb: StorageVerb,
        key: Key<'_>,
        flags: u32,
        exptime: i32,
        value: Bytes,
    ) -> Self {
        let key = Bytes::copy_from_slice(key.as_bytes());
        Self::Command(GenericCommand::Storage { verb, key, flags, exptime, value })
    }

    /// A meta command whose value is not copied.
    pub fn meta(verb: MetaVerb, key: Key<'_>, flags: Words<'_>, value: Bytes) -> Self {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let flags = flags.as_str().into();
        Self::Command(GenericCommand::Meta { verb, key, flags, value })
    }

    /// Copies what a request borrows.
    pub fn copy_from(request: &Request<'_>) -> Self {
        Self::copy_with(request, Bytes::copy_from_slice)
    }

    /// Like [`Self::copy_from`], for one of many: they share blocks of memory, and a block lives as
    /// long as any request in it. `block` is empty, before and after.
    pub fn copy_into_block(request: &Request<'_>, block: &mut BytesMut) -> Self {
        Self::copy_with(request, |bytes| copy_into_block(bytes, block))
    }

    fn copy_with(request: &Request<'_>, mut copy: impl FnMut(&[u8]) -> Bytes) -> Self {
        match request {
            Request::Retrieval { verb, keys } => {
                let keys = keys.iter().map(|key| copy(key.as_bytes())).collect();
                Self::Retrieval { verb: *verb, keys }
            }
            Request::Command(command) => {
                let copy = RefCell::new(copy);
                Self::Command(command.convert(
                    |key| (copy.borrow_mut())(key.as_bytes()),
                    |value| (copy.borrow_mut())(value),
                    |args| args.as_str().into(),
                ))
            }
        }
    }

    /// Copies the parts that share a block of memory with other requests, because the request may
    /// be stored for long.
    #[must_use]
    pub fn unshared(self) -> Self {
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let own_if_short = |bytes: &Bytes| {
            if bytes.len() > MAX_BLOCK_ITEM_LEN { bytes.clone() } else { own(bytes) }
        };
        match &self {
            Self::Retrieval { verb, keys } => {
                Self::Retrieval { verb: *verb, keys: keys.iter().map(own).collect() }
            }
            Self::Command(command) => {
                Self::Command(command.convert(own, own_if_short, Clone::clone))
            }
        }
    }

    pub fn verb(&self) -> Verb {
        match self {
            Self::Retrieval { verb, .. } => verb.verb(),
            Self::Command(command) => command.verb(),
        }
    }

    /// The number of requested keys; 0 if the request is not a retrieval.
    pub fn keys(&self) -> u32 {
        match self {
            Self::Retrieval { keys, .. } => u32::try_from(keys.len()).unwrap_or(u32::MAX),
            Self::Command(_) => 0,
        }
    }

    /// The first key; empty if the command has no key.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Retrieval { keys, .. } => keys.first().map_or(&[], |key| key),
            Self::Command(command) => command.key().map_or(&[], |key| key),
        }
    }

    /// Calls `visit` with each key of the request.
    pub fn for_each_key(&self, mut visit: impl FnMut(&[u8])) {
        match self {
            Self::Retrieval { keys, .. } => keys.iter().for_each(|key| visit(key)),
            Self::Command(command) => command.key().into_iter().for_each(|key| visit(key)),
        }
    }

    /// The number of bytes that count toward the limits of the queues.
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Retrieval { keys, .. } => keys.iter().map(|key| key.len() + 1).sum(),
            Self::Command(
                GenericCommand::Storage { key, value, .. }
                | GenericCommand::Meta { key, value, .. },
            ) => key.len() + value.len(),
            Self::Command(command) => command.key().map_or(0, Bytes::len),
        }
    }
}

const BLOCK_LEN: usize = 16 * 1024;
/// Longer pieces have memory of their own.
const MAX_BLOCK_ITEM_LEN: usize = BLOCK_LEN / 8;

/// Copies into a block of memory that many pieces share. `block` is empty, before and after.
pub fn copy_into_block(bytes: &[u8], block: &mut BytesMut) -> Bytes {
    if bytes.len() > MAX_BLOCK_ITEM_LEN {
        return Bytes::copy_from_slice(bytes);
    }
    if block.capacity() < bytes.len().max(MAX_BLOCK_ITEM_LEN / 4) {
        *block = BytesMut::with_capacity(BLOCK_LEN);
    }
    block.extend_from_slice(bytes);
    block.split().freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_not_copied() {
        let value = Bytes::from(vec![b'v'; MAX_BLOCK_ITEM_LEN + 1]);
        let key = Key::parse(b"k").unwrap();
        let request = OwnedRequest::storage(StorageVerb::Set, key, 0, 0, value.clone()).unshared();
        let OwnedRequest::Command(GenericCommand::Storage { value: kept, .. }) = request else {
            panic!("another command");
        };
        assert_eq!(kept.as_ptr(), value.as_ptr());
    }

    #[test]
    fn requests_of_one_block_survive_each_other() {
        let mut block = BytesMut::new();
        let keys = [Key::parse(b"a").unwrap(), Key::parse(b"b").unwrap()];
        let request = Request::Retrieval { verb: RetrievalVerb::Get, keys: &keys };
        let first = OwnedRequest::copy_into_block(&request, &mut block);
        let value = vec![b'v'; 100];
        for _ in 0..1000 {
            let (verb, key) = (StorageVerb::Set, keys[0]);
            let set = Command::Storage { verb, key, flags: 7, exptime: 0, value: &value };
            let owned = OwnedRequest::copy_into_block(&Request::Command(set), &mut block);
            let OwnedRequest::Command(owned) = owned.unshared() else { panic!("a retrieval") };
            assert_eq!(owned.as_command(), set);
            assert!(block.is_empty());
        }
        assert_eq!(first, OwnedRequest::copy_from(&request));
    }
}
