//! Remembers writes whose outcome is unknown, and the homes of keys at substitutes.
use std::rc::Rc;

use smallvec::SmallVec;

use crate::client::caller::Caller;
use crate::client::handler::Handler;
use crate::cluster::failover::{Failover, Spelling};
use crate::protocol::{ErrorLine, ErrorLineKind, Key, Reply, ReplyHandler};

/// The handler of a request, with what failover must know if it fails or is submitted again.
pub struct Guarded<C: Caller> {
    pub handler: Handler<C>,
    /// The home of the key, or the node that is flushed.
    pub home: usize,
    failover: Rc<Failover>,
    guards: Guards,
}

enum Guards {
    Read,
    Write { node: usize, key: SmallVec<[u8; 64]>, spelling: Spelling },
    Flush { node: usize },
}

impl<C: Caller> Guarded<C> {
    /// `home` and the node to which the write goes.
    pub fn write(
        handler: Handler<C>,
        failover: &Rc<Failover>,
        (home, node): (usize, usize),
        key: Key<'_>,
        spelling: Spelling,
    ) -> Handler<C> {
        let guards = Guards::Write { node, key: SmallVec::from_slice(key.as_bytes()), spelling };
        Self::wrap(handler, failover, home, guards)
    }

    /// A read at a substitute. It is not wrapped if the rule can choose its home again.
    pub fn read(handler: Handler<C>, failover: &Rc<Failover>, home: usize) -> Handler<C> {
        if failover.config().homes_are_given {
            Self::wrap(handler, failover, home, Guards::Read)
        } else {
            handler
        }
    }

    pub fn flush(handler: Handler<C>, failover: &Rc<Failover>, node: usize) -> Handler<C> {
        Self::wrap(handler, failover, node, Guards::Flush { node })
    }

    fn wrap(
        handler: Handler<C>,
        failover: &Rc<Failover>,
        home: usize,
        guards: Guards,
    ) -> Handler<C> {
        Handler::Guarded(Box::new(Self { handler, home, failover: failover.clone(), guards }))
    }

    /// There was no reply: the server may have executed the write, or will.
    #[cold]
    pub fn record_failure(&self) {
        match &self.guards {
            Guards::Read => {}
            Guards::Write { node, key, spelling } => {
                self.failover.write_failed(*node, key, *spelling);
            }
            Guards::Flush { node } => self.failover.flush_failed(*node),
        }
    }

    /// A proxy may report a failure of a write that it has passed on.
    pub fn reply(self, reply: &Reply<'_>, from: &str) {
        match (&self.guards, reply) {
            (Guards::Flush { node }, Reply::Ok) => self.failover.flushed_by_user(*node),
            (_, Reply::Error(ErrorLine { kind: ErrorLineKind::Server, .. })) => {
                self.record_failure();
            }
            _ => {}
        }
        self.handler.reply(reply, from);
    }
}
