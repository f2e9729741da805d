//! The operations of a client. Each call completes its caller exactly once, possibly before it
//! returns.
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::caller::Caller;
use super::gather::{Gather, Line};
use super::handler::{Handler, RawItems};
use super::hot_keys::{HotKey, HotKeys};
use super::migration::{Migration, PendingHandlers, Places};
use super::noreply::{MAX_UNANSWERED, NoReplies, NoReplyCaller};
use super::operation::{Expect, Operation, Target};
use super::outcome::{Failure, FailureKind, Outcome};
use crate::cluster::{Cluster, ClusterConfig, ClusterError, NodeChange};
use crate::pool::{Address, CheckoutId, Context, Submission};
use crate::protocol::{Key, NEVER, Nanos, Request, RetrievalVerb, Verb};

/// A handle; clones share the client.
pub struct Client<C: Caller>(Rc<Shared<C>>);

impl<C: Caller> Clone for Client<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

pub struct Shared<C: Caller> {
    context: Rc<Context>,
    cluster: Cluster<Handler<C>>,
    noreplies: Rc<NoReplies<C>>,
    migration: RefCell<Option<Rc<Migration>>>,
    pending: PendingHandlers<C>,
    timeout: Option<Duration>,
    is_closed: Cell<bool>,
    hot_keys: Option<RefCell<HotKeys>>,
}

impl<C: Caller> Client<C> {
    /// `on_change`: see [`Cluster::new`].
    pub fn new(
        context: &Rc<Context>,
        addresses: Vec<Address>,
        config: &ClusterConfig,
        on_change: impl Fn(NodeChange) + 'static,
    ) -> Self {
        let hot_keys = (config.hot_keys > 0)
            .then(|| RefCell::new(HotKeys::new(config.hot_keys, context.now())));
        let client = Self(Rc::new(Shared {
            context: context.clone(),
            cluster: Cluster::new(context, addresses, config, on_change),
            noreplies: Rc::default(),
            migration: RefCell::default(),
            pending: PendingHandlers::default(),
            timeout: config.pool.timeout,
            is_closed: Cell::new(false),
            hot_keys,
        }));
        client.start_failover();
        client
    }

    pub fn context(&self) -> &Rc<Context> {
        &self.0.context
    }

    pub fn cluster(&self) -> &Cluster<Handler<C>> {
        &self.0.cluster
    }

    pub fn timeout(&self) -> Option<Duration> {
        self.0.timeout
    }

    /// The deadline of an operation that begins now.
    pub fn deadline(&self) -> Nanos {
        match self.0.timeout {
            None => NEVER,
            limit => self.0.context.deadline_after(limit),
        }
    }

    pub fn is_closed(&self) -> bool {
        self.0.is_closed.get()
    }

    pub(super) fn noreplies(&self) -> &Rc<NoReplies<C>> {
        &self.0.noreplies
    }

    pub(super) fn migration(&self) -> Option<Rc<Migration>> {
        self.0.migration.borrow().clone()
    }

    pub(super) fn set_migration(&self, migration: Option<Rc<Migration>>) {
        self.0.migration.replace(migration);
    }

    pub(super) fn pending_handlers(&self) -> &PendingHandlers<C> {
        &self.0.pending
    }

    pub(super) fn downgrade(&self) -> Weak<Shared<C>> {
        Rc::downgrade(&self.0)
    }

    pub(super) fn upgrade(shared: &Weak<Shared<C>>) -> Option<Self> {
        shared.upgrade().map(Self)
    }

    /// One request.
    pub fn submit(
        &self,
        target: Target,
        expect: Expect,
        submission: Submission<'_>,
        deadline: Nanos,
        caller: C,
    ) {
        let cluster = &self.0.cluster;
        if self.0.hot_keys.is_some()
            && let Some(key) = submission.key()
        {
            self.note_key(key);
        }
        match target {
            Target::Key if cluster.failover().is_some() => {
                let handler = self.handler(expect, submission.verb(), caller);
                self.submit_keyed(None, submission, handler, deadline);
            }
            Target::KeyAt(node) => {
                let handler = self.handler(expect, submission.verb(), caller);
                if cluster.failover().is_some() {
                    return self.submit_keyed(Some(node), submission, handler, deadline);
                }
                cluster.pool(node).submit_any(submission, handler, deadline);
            }
            Target::Key => match self.node_of(&submission) {
                Ok(node) => {
                    let handler = self.handler(expect, submission.verb(), caller);
                    if let Some((migration, places)) = self.migrating(&submission) {
                        self.migrate(&migration, places, submission, handler, deadline);
                    } else {
                        cluster.pool(node).submit_any(submission, handler, deadline);
                    }
                }
                Err(error) => {
                    let kind = FailureKind::NoNodes(error);
                    caller.complete(Outcome::failed(Some(submission.verb()), kind));
                }
            },
            Target::Node(node) => {
                let handler = self.handler(expect, submission.verb(), caller);
                if submission.verb() == Verb::FlushAll && cluster.failover().is_some() {
                    return self.flush_by_failover(node, submission, handler, deadline);
                }
                cluster.pool(node).submit_any(submission, handler, deadline);
            }
            Target::Isolated(node) => {
                let handler = self.handler(expect, submission.verb(), caller);
                cluster.pool(node).submit_isolated(submission, handler, deadline);
            }
            Target::Checkout(checkout) => {
                let handler = self.handler(expect, submission.verb(), caller);
                let request = submission.into_owned();
                cluster.pool(0).submit_checked_out(checkout, request, handler, deadline);
            }
        }
    }

    /// A retrieval of many keys, each from its node. With `is_partial`, the outcome holds the items
    /// that arrived and the failures of the rest; otherwise one failure fails the whole call.
    /// `nodes` are the nodes of the keys, if the caller chooses them.
    pub fn get_many(
        &self,
        verb: RetrievalVerb,
        keys: &[Key<'_>],
        nodes: Option<&[usize]>,
        is_partial: bool,
        deadline: Nanos,
        caller: C,
    ) {
        let gather = Rc::new(Gather::new(caller, verb.verb(), is_partial));
        let cluster = &self.0.cluster;
        if keys.is_empty() {
            return gather.expect_lines(0);
        }
        if let Some(migration) = self.migration() {
            let sent = self.get_many_migrating(&migration, verb, keys, deadline, &gather);
            return sent.unwrap_or_else(|error| Self::no_nodes(&gather, verb, error));
        }
        if let Some(failover) = cluster.failover().filter(|failover| !failover.is_calm()) {
            return self.get_many_by_failover(failover, verb, keys, nodes, &gather, deadline);
        }
        let lines = match cluster.lines_for(verb, keys, nodes) {
            Ok(lines) => lines,
            Err(error) => {
                let kind = FailureKind::NoNodes(error);
                return gather.fail_whole(Failure::new(Some(verb.verb()), kind));
            }
        };
        if self.0.hot_keys.is_some() {
            for key in keys {
                self.note_key(*key);
            }
        }
        gather.expect_lines(lines.len());
        let mut some = Vec::new();
        for (node, positions) in lines {
            let keys = match &positions {
                None => keys,
                Some(positions) => {
                    some.clear();
                    some.extend(positions.iter().map(|at| keys[*at]));
                    &some
                }
            };
            let line = Line::new(positions, keys.len());
            let handler = Handler::Line { gather: gather.clone(), line };
            cluster.pool(node).submit(&Request::Retrieval { verb, keys }, handler, deadline);
        }
    }

    /// A connection of the first node for the caller alone, until it is released.
    pub fn check_out(&self, checkout: CheckoutId, deadline: Nanos, caller: C) {
        self.0.cluster.pool(0).check_out(checkout, Handler::Checkout { caller }, deadline);
    }

    /// Done when no request with `noreply` is unanswered.
    pub fn drain(&self, caller: C) {
        self.0.noreplies.drain(caller);
    }

    pub fn run(&self, operation: Operation<C::Source>, deadline: Nanos, caller: C) {
        match operation {
            Operation::Submit { target, expect, mut request } => {
                self.submit(target, expect, Submission::Owned(&mut request), deadline, caller);
            }
            Operation::GetMany { verb, keys, nodes, is_partial } => {
                let keys: Vec<Key<'_>> = keys.iter().map(|key| Key::trusted(key)).collect();
                self.get_many(verb, &keys, nodes.as_deref(), is_partial, deadline, caller);
            }
            Operation::Batch { action, source, noreply } => {
                self.batch(action, source, noreply, deadline, caller);
            }
            Operation::CheckOut(checkout) => self.check_out(checkout, deadline, caller),
            Operation::Drain => self.drain(caller),
        }
    }

    /// Fails all that is unanswered and closes all connections.
    pub fn close(&self) {
        self.0.is_closed.set(true);
        self.0.context.flush();
        self.0.cluster.close();
        self.0.pending.close();
    }

    /// Calls `then` when no request with `noreply` is unanswered, at the latest after `limit`. If a
    /// socket is closed before its replies have arrived, the server drops the requests that it has
    /// not read.
    pub fn when_drained(&self, limit: Duration, then: impl FnOnce() + 'static) {
        let Shared { context, noreplies, .. } = &*self.0;
        context.flush();
        noreplies.set_on_drained(Box::new(then));
        let (timer, noreplies) = (context.clone(), noreplies.clone());
        context.spawn(async move {
            timer.sleep(limit).await;
            noreplies.call_on_drained();
        });
    }

    /// To the node of the key, or to `node` if the caller chooses it.
    pub(super) fn submit_to_key(
        &self,
        key: Key<'_>,
        node: Option<usize>,
        submission: Submission<'_>,
        handler: Handler<C>,
        deadline: Nanos,
    ) {
        self.note_key(key);
        if let Some(migration) = self.migration()
            && let Some(places) = self.places(&migration, key)
        {
            return self.migrate(&migration, places, submission, handler, deadline);
        }
        let cluster = &self.0.cluster;
        if let Some(failover) = cluster.failover() {
            return self.submit_by_failover(failover, key, node, submission, handler, deadline);
        }
        match node.map_or_else(|| cluster.index_for(key), Ok) {
            Ok(node) => cluster.pool(node).submit_any(submission, handler, deadline),
            Err(error) => handler.fail_with(FailureKind::NoNodes(error)),
        }
    }

    fn node_of(&self, submission: &Submission<'_>) -> Result<usize, ClusterError> {
        submission.key().map_or(Ok(0), |key| self.0.cluster.index_for(key))
    }

    fn migrating(&self, submission: &Submission<'_>) -> Option<(Rc<Migration>, Places)> {
        let migration = self.migration()?;
        let places = self.places(&migration, submission.key()?)?;
        Some((migration, places))
    }

    fn note_key(&self, key: Key<'_>) {
        if let Some(hot_keys) = &self.0.hot_keys
            && !key.as_bytes().is_empty()
        {
            hot_keys.borrow_mut().note(key.as_bytes(), || self.0.context.now());
        }
    }

    /// The keys that were requested most often, with the index of their node. It is `None` if no
    /// node takes keys.
    pub fn hot_keys(&self) -> Vec<(HotKey, Option<usize>)> {
        let Some(hot_keys) = &self.0.hot_keys else { return Vec::new() };
        let hottest = hot_keys.borrow_mut().hottest(self.0.context.now());
        let with_node = |hot: HotKey| {
            let node = self.0.cluster.index_for(Key::trusted(&hot.key)).ok();
            (hot, node)
        };
        hottest.into_iter().map(with_node).collect()
    }

    fn handler(&self, expect: Expect, verb: Verb, caller: C) -> Handler<C> {
        match expect {
            Expect::Item => Handler::Item { caller, verb, item: None },
            Expect::Command => Handler::Command { caller, verb },
            Expect::Counter => Handler::Counter { caller, number: None },
            Expect::Meta => Handler::Meta { caller, verb, item: None },
            Expect::Probe => Handler::Probe { caller },
            Expect::Stats => Handler::Stats { caller, stats: Vec::new() },
            Expect::RawReply => Handler::RawReply { caller, verb, text: Vec::new() },
            Expect::RawItems => {
                Handler::RawItems { caller, verb, items: Box::new(RawItems::default()) }
            }
            Expect::NoReply => {
                let noreplies = self.0.noreplies.clone();
                noreplies.begin(1);
                let caller = if noreplies.unanswered() <= MAX_UNANSWERED {
                    NoReplyCaller::UntilAccepted(caller)
                } else {
                    NoReplyCaller::UntilAnswered(caller)
                };
                Handler::NoReply { noreplies, verb, caller }
            }
        }
    }
}
