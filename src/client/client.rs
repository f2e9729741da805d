//! The operations of a client. Each call completes its caller exactly once, possibly before it
//! returns.
use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::caller::Caller;
use super::gather::{Gather, Line};
use super::handler::{Handler, RawItems};
use super::noreply::{MAX_UNANSWERED, NoReplies, NoReplyCaller};
use super::operation::{Expect, Operation, Target};
use super::outcome::{Failure, FailureKind, Outcome};
use crate::cluster::{Cluster, ClusterConfig, ClusterError, NodeChange};
use crate::pool::{Address, CheckoutId, Context, Submission};
use crate::protocol::{Key, NEVER, Nanos, OwnedRequest, Request, RetrievalVerb, Verb};

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
    timeout: Option<Duration>,
    is_closed: Cell<bool>,
}

impl<C: Caller> Client<C> {
    /// `on_change`: see [`Cluster::new`].
    pub fn new(
        context: &Rc<Context>,
        addresses: Vec<Address>,
        config: &ClusterConfig,
        on_change: impl Fn(NodeChange) + 'static,
    ) -> Self {
        let client = Self(Rc::new(Shared {
            context: context.clone(),
            cluster: Cluster::new(context, addresses, config, on_change),
            noreplies: Rc::default(),
            timeout: config.pool.timeout,
            is_closed: Cell::new(false),
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
        match target {
            Target::Key if cluster.failover().is_some() => {
                let handler = self.handler(expect, submission.verb(), caller);
                self.submit_keyed(submission, handler, deadline);
            }
            Target::Key => match self.node_of(&submission) {
                Ok(node) => {
                    let handler = self.handler(expect, submission.verb(), caller);
                    cluster.pool(node).submit_any(submission, handler, deadline);
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
    pub fn get_many(
        &self,
        verb: RetrievalVerb,
        keys: &[Key<'_>],
        is_partial: bool,
        deadline: Nanos,
        caller: C,
    ) {
        let gather = Rc::new(Gather::new(caller, verb.verb(), is_partial));
        let cluster = &self.0.cluster;
        if keys.is_empty() {
            return gather.expect_lines(0);
        }
        if let Some(failover) = cluster.failover().filter(|failover| !failover.is_calm()) {
            return self.get_many_by_failover(failover, verb, keys, &gather, deadline);
        }
        let lines = match cluster.lines_for(verb, keys) {
            Ok(lines) => lines,
            Err(error) => {
                let kind = FailureKind::NoNodes(error);
                return gather.fail_whole(Failure::new(Some(verb.verb()), kind));
            }
        };
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
            Operation::Submit { target, expect, request } => {
                self.submit(target, expect, Submission::Owned(request), deadline, caller);
            }
            Operation::GetMany { verb, keys, is_partial } => {
                let keys: Vec<Key<'_>> = keys.iter().map(|key| Key::trusted(key)).collect();
                self.get_many(verb, &keys, is_partial, deadline, caller);
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

    pub(super) fn submit_to_key(
        &self,
        key: Key<'_>,
        submission: Submission<'_>,
        handler: Handler<C>,
        deadline: Nanos,
    ) {
        let cluster = &self.0.cluster;
        if let Some(failover) = cluster.failover() {
            return self.submit_by_failover(failover, key, submission, handler, deadline);
        }
        match cluster.index_for(key) {
            Ok(node) => cluster.pool(node).submit_any(submission, handler, deadline),
            Err(error) => handler.fail_with(FailureKind::NoNodes(error)),
        }
    }

    fn node_of(&self, submission: &Submission<'_>) -> Result<usize, ClusterError> {
        let key = match submission {
            Submission::Borrowed(Request::Retrieval { keys, .. }) => keys.first().copied(),
            Submission::Borrowed(Request::Command(command)) => command.key().copied(),
            Submission::Owned(request) => Some(Key::trusted(OwnedRequest::key(request))),
        };
        key.map_or(Ok(0), |key| self.0.cluster.index_for(key))
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
