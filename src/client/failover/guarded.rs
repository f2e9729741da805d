//! Remembers writes whose outcome is unknown.
use std::rc::Rc;

use smallvec::SmallVec;

use crate::client::caller::Caller;
use crate::client::handler::Handler;
use crate::cluster::failover::{Failover, Spelling};
use crate::protocol::{ErrorLine, ErrorLineKind, Key, Reply, ReplyHandler};

/// The handler of a write, with what is recorded if the write fails. The key is empty for a flush.
pub struct Guarded<C: Caller> {
    pub handler: Handler<C>,
    failover: Rc<Failover>,
    node: usize,
    key: SmallVec<[u8; 64]>,
    spelling: Spelling,
}

impl<C: Caller> Guarded<C> {
    pub fn wrap(
        handler: Handler<C>,
        failover: &Rc<Failover>,
        node: usize,
        key: Key<'_>,
        spelling: Spelling,
    ) -> Handler<C> {
        let (failover, key) = (failover.clone(), SmallVec::from_slice(key.as_bytes()));
        Handler::Guarded(Box::new(Self { handler, failover, node, key, spelling }))
    }

    pub fn wrap_flush(handler: Handler<C>, failover: &Rc<Failover>, node: usize) -> Handler<C> {
        let (failover, key, spelling) = (failover.clone(), SmallVec::new(), Spelling::Plain);
        Handler::Guarded(Box::new(Self { handler, failover, node, key, spelling }))
    }

    /// There was no reply: the server may have executed the write, or will.
    #[cold]
    pub fn record_failure(&self) {
        if self.key.is_empty() {
            self.failover.flush_failed(self.node);
        } else {
            self.failover.write_failed(self.node, &self.key, self.spelling);
        }
    }

    /// A proxy may report a failure of a write that it has passed on.
    pub fn reply(self, reply: &Reply<'_>, from: &str) {
        if self.key.is_empty() && matches!(reply, Reply::Ok) {
            self.failover.flushed_by_user(self.node);
        } else if matches!(reply, Reply::Error(ErrorLine { kind: ErrorLineKind::Server, .. })) {
            self.record_failure();
        }
        self.handler.reply(reply, from);
    }
}
