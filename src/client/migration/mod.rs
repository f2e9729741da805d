//! The move of a client's keys from one list of nodes, or rule, to another while it works.
//!
//! A key whose node differs has an *old* and a *new* place, and at any time its item is at one of
//! them. docs/design/migration.md derives the order of the steps in these files.
//!
//! | file | |
//! |---|---|
//! | `state` | phase, places, counters; nodes that are not asked |
//! | `control` | begins, advances, takes back and ends a migration |
//! | `pending` | the callers of requests that take several steps |
//! | `step` | a request whose reply is owned data |
//! | `place` | the few requests that a migration itself makes |
//! | `mover` | the move of one item, and the moves in the background |
//! | `read`, `read_many` | `get` and `get_many` |
//! | `write`, `remove` | `set`, `delete` |
//! | `settle`, `conditional` | all commands that depend on the item: found or moved first |
mod conditional;
mod control;
mod mover;
mod pending;
mod place;
mod read;
mod read_many;
mod remove;
mod settle;
mod state;
mod step;
mod write;

use std::future::Future;
use std::rc::Rc;
use std::task::{Context as TaskContext, Waker};

use bytes::Bytes;

pub use self::control::{MigrationOptions, MigrationStatus};
use self::pending::Pending;
pub(super) use self::pending::PendingHandlers;
use self::state::InFlight;
pub use self::state::{Counters, Phase};
pub(super) use self::state::{Migration, Places};
pub use self::step::Step;
use super::caller::Caller;
use super::client::Client;
use super::handler::Handler;
use crate::pool::{Pool, Submission};
use crate::protocol::{
    GenericCommand, Key, Nanos, OwnedCommand, OwnedRequest, RetrievalVerb, StorageVerb,
};

/// A request for a key that has two places.
struct Request {
    key: ItemKey,
    command: OwnedRequest,
    places: Places,
    deadline: Nanos,
}

/// A key as it is written. One in base64 is known to meta commands only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ItemKey {
    text: Bytes,
    is_base64: bool,
}

impl ItemKey {
    fn as_key(&self) -> Key<'_> {
        Key::trusted(&self.text)
    }
}

impl<C: Caller> Client<C> {
    /// The places of a key, if there is a migration and they differ.
    pub(super) fn places(&self, migration: &Migration, key: Key<'_>) -> Option<Places> {
        let new = self.cluster().index_for(key).ok()?;
        let old = self.cluster().former_index_for(key)?;
        (old != new).then(|| Places { phase: migration.phase(), old, new })
    }

    /// Sends a request for a key with two places.
    pub(super) fn migrate(
        &self,
        migration: &Rc<Migration>,
        places: Places,
        submission: Submission<'_>,
        handler: Handler<C>,
        deadline: Nanos,
    ) {
        let request = match submission {
            Submission::Owned(request) => request.take().unshared(),
            borrowed @ Submission::Borrowed(_) => borrowed.into_owned(),
        };
        let text = Bytes::copy_from_slice(request.key());
        let key = ItemKey { text, is_base64: is_base64(&request) };
        let kind = Kind::of(&request);
        let request = Request { key, command: request, places, deadline };
        let (client, guard) = (self.clone(), InFlight::new(migration, places.phase));
        let pending = Pending::new(self, handler);
        match kind {
            Kind::Get => self.run_now(async move { client.read(&guard, request, pending).await }),
            Kind::Set => self.run_now(async move { client.write(&guard, request, pending).await }),
            Kind::Delete => {
                self.run_now(async move { client.remove(&guard, request, pending).await });
            }
            Kind::Conditional => {
                self.run_now(async move { client.conditional(&guard, request, pending).await });
            }
        }
    }

    /// Starts a task at once, so that its first request leaves with others of this call.
    fn run_now(&self, task: impl Future<Output = ()> + 'static) {
        let mut task = Box::pin(task);
        if task.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())).is_pending() {
            self.context().spawn(task);
        }
    }

    fn pool(&self, node: usize) -> Pool<Handler<C>> {
        self.cluster().pool(node)
    }
}

/// What a command needs of its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Get,
    /// Replaces whatever there is.
    Set,
    Delete,
    /// Depends on the item, or returns its CAS token.
    Conditional,
}

impl Kind {
    fn of(request: &OwnedRequest) -> Self {
        use GenericCommand::{Delete, Storage};
        match request {
            OwnedRequest::Retrieval { verb: RetrievalVerb::Get, .. } => Self::Get,
            OwnedRequest::Command(Storage { verb: StorageVerb::Set, .. }) => Self::Set,
            OwnedRequest::Command(Delete { .. }) => Self::Delete,
            _ => Self::Conditional,
        }
    }
}

fn is_base64(request: &OwnedRequest) -> bool {
    let OwnedRequest::Command(OwnedCommand::Meta { flags, .. }) = request else { return false };
    flags.split(' ').any(|word| word == "b")
}
