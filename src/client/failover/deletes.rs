//! Deletes the outdated copies of a node that can be reached, and lets it serve keys again.
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::client::caller::Caller;
use crate::client::client::{Client, Shared};
use crate::client::handler::Handler;
use crate::cluster::failover::{Failover, FailoverChange, OutdatedKey, Spelling, Step};
use crate::pool::{Context, Pool, Waiter};
use crate::protocol::meta::MetaVerb;
use crate::protocol::{Command, Key, Nanos, Reply, Request, Words};

/// The deletes that are sent together.
const WINDOW: usize = 1024;
/// How long a node that answers again has to close the connections on which it may execute failed
/// requests.
const LINGER_LIMIT: Nanos = 5_000_000_000;
const LINGER_POLL: Duration = Duration::from_millis(20);
/// The time for requests that no connection shows: behind a proxy, or on a connection of their own.
const SETTLE: Duration = Duration::from_millis(500);
/// The pause after a failure doubles between these.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Commands that are awaited together.
pub struct Deletes {
    failover: Rc<Failover>,
    node: usize,
    missing: Cell<usize>,
    has_failed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Waits for the reply to one of them: a delete, or without a key a flush.
pub struct DeleteHandler {
    deletes: Rc<Deletes>,
    key: Option<OutdatedKey>,
}

impl Deletes {
    fn new(failover: &Rc<Failover>, node: usize, count: usize) -> Rc<Self> {
        let (missing, has_failed) = (Cell::new(count), Cell::new(false));
        let (failover, waker) = (failover.clone(), RefCell::default());
        Rc::new(Self { failover, node, missing, has_failed, waker })
    }

    fn ended(&self, is_done: bool) {
        self.has_failed.set(self.has_failed.get() || !is_done);
        self.missing.set(self.missing.get() - 1);
        if self.missing.get() == 0
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// Returns whether all succeeded, once all are answered.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    async fn all_done(&self) -> bool {
        poll_fn(|cx| {
            if self.missing.get() == 0 {
                return Poll::Ready(!self.has_failed.get());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl DeleteHandler {
    pub fn reply(self, reply: &Reply<'_>) {
        let is_done = !matches!(reply, Reply::Error(_));
        if let Some(key) = self.key.as_ref().filter(|_| is_done) {
            self.deletes.failover.deleted(self.deletes.node, key);
        }
        self.deletes.ended(is_done);
    }

    pub fn fail(self) {
        self.deletes.ended(false);
    }
}

impl<C: Caller> Client<C> {
    /// Starts to delete the outdated copies of a node, unless that is under way.
    pub(super) fn delete_outdated(&self, node: usize) {
        let Some(failover) = self.cluster().failover() else { return };
        if failover.begin_deletes(node) {
            let failover = failover.clone();
            self.context().spawn(delete_outdated(self.downgrade(), failover, node));
        }
    }

    fn send_deletes(
        &self,
        failover: &Rc<Failover>,
        node: usize,
        keys: Vec<OutdatedKey>,
    ) -> Rc<Deletes> {
        let deletes = Deletes::new(failover, node, keys.len());
        let pool = self.cluster().pool(node);
        for (key, spelling) in keys {
            let text = key.clone();
            let handler = DeleteHandler { deletes: deletes.clone(), key: Some((key, spelling)) };
            let key = Key::trusted(&text);
            let command = match (spelling, Words::parse("b")) {
                (Spelling::Base64, Some(flags)) => {
                    Command::Meta { verb: MetaVerb::Delete, key, flags, value: b"" }
                }
                _ => Command::Delete { key },
            };
            pool.submit(&Request::Command(command), Handler::Delete(handler), self.deadline());
        }
        deletes
    }

    fn send_flush(&self, failover: &Rc<Failover>, node: usize) -> Rc<Deletes> {
        let deletes = Deletes::new(failover, node, 1);
        let handler = Handler::Delete(DeleteHandler { deletes: deletes.clone(), key: None });
        let request = Request::Command(Command::FlushAll { delay: 0 });
        self.cluster().pool(node).submit(&request, handler, self.deadline());
        deletes
    }
}

/// Works until nothing is outdated at the node, or until it cannot be reached.
async fn delete_outdated<C: Caller>(shared: Weak<Shared<C>>, failover: Rc<Failover>, node: usize) {
    let Some(context) = Client::upgrade(&shared).map(|client| client.context().clone()) else {
        return;
    };
    let mut pause = FIRST_PAUSE;
    // The server's epoch for which the node has had time to settle.
    let mut settled = None;
    loop {
        let Some(client) = Client::upgrade(&shared) else { return };
        let pool = client.cluster().pool(node);
        let step = failover.next_step(node, WINDOW);
        if client.is_closed() || !pool.is_healthy() || step == Step::Done {
            return failover.end_deletes(node);
        }
        let is_outdated = !matches!(step, Step::Return { outdated: 0 });
        let epoch = pool.server_epoch();
        if failover.is_out(node) && is_outdated && settled != Some(epoch) {
            settled = Some(epoch);
            drop(client);
            settle(&context, pool).await;
            continue;
        }
        let is_flush = step == Step::Flush;
        let sent = match step {
            Step::Done => continue,
            Step::KeepOut => {
                client.cluster().announce(node, FailoverChange::KeptOut);
                return failover.end_deletes(node);
            }
            Step::Return { outdated } => {
                client.cluster().readmit(&failover, node);
                if outdated > 0 {
                    let change = FailoverChange::Returning { outdated };
                    client.cluster().announce(node, change);
                }
                continue;
            }
            Step::Flush => client.send_flush(&failover, node),
            Step::Delete(keys) => client.send_deletes(&failover, node, keys),
        };
        drop((client, pool));
        if !sent.all_done().await {
            context.sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
            continue;
        }
        pause = FIRST_PAUSE;
        if is_flush {
            failover.flushed(node);
            failover.count(|counters| counters.flushes += 1);
            if let Some(client) = Client::upgrade(&shared) {
                client.cluster().announce(node, FailoverChange::Flushed);
            }
        }
    }
}

/// Waits until the node has executed what it had received before it answered again.
///
/// # Cancel safety
/// May be dropped at any time.
async fn settle<W: Waiter>(context: &Context, pool: Pool<W>) {
    let until = context.now().saturating_add(LINGER_LIMIT);
    while pool.is_lingering() && context.now() < until {
        context.sleep(LINGER_POLL).await;
    }
    pool.end_lingering();
    drop(pool);
    context.sleep(SETTLE).await;
}
