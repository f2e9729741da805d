//! The requests that a migration itself makes. All but the TTL is known to every server.
use bytes::{BufMut, Bytes, BytesMut};

use super::super::caller::Caller;
use super::super::client::Client;
use super::super::handler::Handler;
use super::super::outcome::FailureKind;
use super::ItemKey;
use super::step::{Asked, End, OwnedItem, OwnedReply, Step};
use crate::pool::ErrorKind;
use crate::protocol::meta::{
    MetaAttributes, MetaDelete, MetaGet, MetaMode, MetaSet, MetaStatus, MetaVerb,
};
use crate::protocol::{
    EXPIRED, ErrorLineKind, GenericCommand, NEVER, Nanos, OwnedCommand, OwnedRequest,
    RetrievalVerb, StorageVerb,
};

/// The first bytes of a stub. No value of a program begins like this.
const MAGIC: &[u8; 16] = b"\0emcache:moving\0";
/// Seconds. A move that takes longer loses its item.
const STUB_EXPTIME: i32 = 3;
/// Servers read more seconds than these as a Unix time.
const MAX_EXPTIME: i64 = EXPIRED as i64 - 1;
/// The second place of a client without a timeout.
const SECOND_TIMEOUT: Nanos = 5_000_000_000;

/// What is under a key.
#[derive(Debug)]
pub enum Look {
    Item(OwnedItem),
    /// Another call, maybe of another process, is moving the item here.
    Stub(OwnedItem),
    Miss,
    Failed(End),
}

/// An item to move.
pub enum Movable {
    Item {
        item: OwnedItem,
        exptime: i32,
    },
    /// It was marked as stale, so it is not worth a move.
    Stale {
        cas: u64,
    },
    Stub,
    /// The server has no CAS, or it is a lease: its holder's token counts at this place only.
    Immovable,
    Miss,
    Failed,
}

#[derive(Debug)]
pub enum Written {
    Done,
    /// The condition did not hold.
    NotDone {
        is_missing: bool,
    },
    Failed(End),
}

pub fn is_stub(item: &OwnedItem) -> bool {
    item.value.starts_with(MAGIC)
}

/// Whether the item may be a lease of `Cache`.
pub fn is_lease(item: &OwnedItem) -> bool {
    item.value.is_empty() && item.flags == 0
}

pub fn new_stub() -> Bytes {
    let mut stub = BytesMut::with_capacity(MAGIC.len() + 8);
    stub.put_slice(MAGIC);
    stub.put_u64(fastrand::u64(..));
    stub.freeze()
}

pub fn get(verb: RetrievalVerb, key: &ItemKey) -> OwnedRequest {
    if key.is_base64 {
        return meta_get(key);
    }
    OwnedRequest::Retrieval { verb, keys: [key.text.clone()].into_iter().collect() }
}

fn meta_get(key: &ItemKey) -> OwnedRequest {
    let get = MetaGet { is_base64: key.is_base64, value: true, ..MetaGet::default() };
    meta(MetaVerb::Get, key, get.to_flags(), Bytes::new())
}

fn meta(verb: MetaVerb, key: &ItemKey, flags: String, value: Bytes) -> OwnedRequest {
    let (key, flags) = (key.text.clone(), flags.into_boxed_str());
    OwnedRequest::Command(OwnedCommand::Meta { verb, key, flags, value })
}

fn store(key: &ItemKey, cas: Option<u64>, item: &OwnedItem, exptime: i32) -> OwnedRequest {
    let OwnedItem { flags, value, .. } = item.clone();
    if key.is_base64 {
        let mode = if cas.is_some() { MetaMode::Set } else { MetaMode::Add };
        let set = MetaSet { is_base64: true, mode, flags, exptime, cas, ..MetaSet::default() };
        return meta(MetaVerb::Set, key, set.to_flags(), value);
    }
    let verb = cas.map_or(StorageVerb::Add, |token| StorageVerb::Cas { token });
    let key = key.text.clone();
    OwnedRequest::Command(GenericCommand::Storage { verb, key, flags, exptime, value })
}

impl<C: Caller> Client<C> {
    pub(super) fn ask(&self, node: usize, request: OwnedRequest, deadline: Nanos) -> Asked {
        let (step, asked) = Step::new();
        self.pool(node).submit_owned(request, Handler::Step(Box::new(step)), deadline);
        asked
    }

    /// The second place gets half of the time that is left, so that the first one has some too.
    pub(super) fn second_deadline(&self, deadline: Nanos) -> Nanos {
        let now = self.context().now();
        let left =
            if deadline == NEVER { SECOND_TIMEOUT * 2 } else { deadline - deadline.min(now) };
        now.saturating_add(left / 2)
    }

    /// The item with its CAS token.
    pub(super) async fn look(&self, node: usize, key: &ItemKey, deadline: Nanos) -> Look {
        let (item, end) = self.ask(node, get(RetrievalVerb::Gets, key), deadline).end().await;
        looked(item, end)
    }

    /// The item with its exptime, as far as the server tells it.
    pub(super) async fn look_to_move(
        &self,
        node: usize,
        key: &ItemKey,
        unknown_ttl: i32,
        deadline: Nanos,
    ) -> Movable {
        let (item, end) = self.ask(node, meta_get(key), deadline).end().await;
        let attributes = match &end {
            End::Replied { reply: OwnedReply::Meta { status, flags }, .. } => match status {
                MetaStatus::Value => MetaAttributes::parse(flags).unwrap_or_default(),
                _ => return Movable::Miss,
            },
            End::Replied {
                reply:
                    OwnedReply::Error { kind: ErrorLineKind::Unknown | ErrorLineKind::Client, .. },
                ..
            } if !key.is_base64 => {
                return self.look_classic(node, key, unknown_ttl, deadline).await;
            }
            End::Failed(FailureKind::Pool(error))
                if !key.is_base64
                    && matches!(
                        error.kind(),
                        ErrorKind::Unsupported { .. } | ErrorKind::Unanswered { .. }
                    ) =>
            {
                return self.look_classic(node, key, unknown_ttl, deadline).await;
            }
            _ => return Movable::Failed,
        };
        let Some(mut item) = item else { return Movable::Failed };
        item.flags = attributes.flags.unwrap_or(0);
        item.cas = attributes.cas;
        let Some(cas) = item.cas.filter(|cas| *cas != 0) else { return Movable::Immovable };
        if is_stub(&item) {
            return Movable::Stub;
        }
        if is_lease(&item) {
            return Movable::Immovable;
        }
        if attributes.stale || attributes.won || attributes.lost {
            return Movable::Stale { cas };
        }
        let exptime = match attributes.ttl {
            None => unknown_ttl,
            Some(-1) => 0,
            Some(ttl) => i32::try_from(ttl.clamp(1, MAX_EXPTIME)).unwrap_or(unknown_ttl),
        };
        Movable::Item { item, exptime }
    }

    async fn look_classic(
        &self,
        node: usize,
        key: &ItemKey,
        unknown_ttl: i32,
        deadline: Nanos,
    ) -> Movable {
        match self.look(node, key, deadline).await {
            Look::Item(item) if item.cas.is_none_or(|cas| cas == 0) || is_lease(&item) => {
                Movable::Immovable
            }
            Look::Item(item) => Movable::Item { item, exptime: unknown_ttl },
            Look::Stub(_) => Movable::Stub,
            Look::Miss => Movable::Miss,
            Look::Failed(_) => Movable::Failed,
        }
    }

    /// Claims the place of a missing item.
    pub(super) async fn add_stub(
        &self,
        node: usize,
        key: &ItemKey,
        stub: &Bytes,
        deadline: Nanos,
    ) -> Written {
        let item = OwnedItem { flags: 0, cas: None, value: stub.clone() };
        self.written(node, store(key, None, &item, STUB_EXPTIME), deadline).await
    }

    /// Replaces the item with this token.
    pub(super) async fn store_at(
        &self,
        node: usize,
        key: &ItemKey,
        cas: u64,
        item: &OwnedItem,
        exptime: i32,
        deadline: Nanos,
    ) -> Written {
        self.written(node, store(key, Some(cas), item, exptime), deadline).await
    }

    /// Deletes the item with this token: no classic command does, but one that stores an item that
    /// has expired.
    pub(super) async fn delete_at(
        &self,
        node: usize,
        key: &ItemKey,
        cas: u64,
        deadline: Nanos,
    ) -> Written {
        if key.is_base64 {
            let delete = MetaDelete { is_base64: true, cas: Some(cas), ..MetaDelete::default() };
            let request = meta(MetaVerb::Delete, key, delete.to_flags(), Bytes::new());
            return self.written(node, request, deadline).await;
        }
        let nothing = OwnedItem { flags: 0, cas: None, value: Bytes::new() };
        self.store_at(node, key, cas, &nothing, EXPIRED, deadline).await
    }

    pub(super) async fn delete(&self, node: usize, key: &ItemKey, deadline: Nanos) -> Written {
        let request = if key.is_base64 {
            let delete = MetaDelete { is_base64: true, ..MetaDelete::default() };
            meta(MetaVerb::Delete, key, delete.to_flags(), Bytes::new())
        } else {
            OwnedRequest::Command(GenericCommand::Delete { key: key.text.clone() })
        };
        self.written(node, request, deadline).await
    }

    async fn written(&self, node: usize, request: OwnedRequest, deadline: Nanos) -> Written {
        let end = self.ask(node, request, deadline).end().await.1;
        let End::Replied { reply, .. } = &end else { return Written::Failed(end) };
        match reply {
            OwnedReply::Stored
            | OwnedReply::Deleted
            | OwnedReply::Meta { status: MetaStatus::Done, .. } => Written::Done,
            OwnedReply::NotStored | OwnedReply::Exists => Written::NotDone { is_missing: false },
            OwnedReply::NotFound => Written::NotDone { is_missing: true },
            OwnedReply::Meta { status, .. } => {
                Written::NotDone { is_missing: *status == MetaStatus::NotFound }
            }
            _ => Written::Failed(end),
        }
    }
}

/// Reads the reply to [`get`].
pub fn looked(item: Option<OwnedItem>, end: End) -> Look {
    let attributes = match &end {
        End::Replied { reply: OwnedReply::End, .. } => None,
        End::Replied { reply: OwnedReply::Meta { flags, .. }, .. } => MetaAttributes::parse(flags),
        _ => return Look::Failed(end),
    };
    let Some(mut item) = item else { return Look::Miss };
    if let Some(attributes) = attributes {
        (item.flags, item.cas) = (attributes.flags.unwrap_or(0), attributes.cas);
    }
    if is_stub(&item) { Look::Stub(item) } else { Look::Item(item) }
}
