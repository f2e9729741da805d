//! Requests of a client with failover: which node gets them, and what is remembered about writes.
mod deletes;
mod exptime;
mod guarded;

use std::rc::Rc;

use super::caller::Caller;
use super::client::Client;
use super::gather::{Gather, Line};
use super::handler::Handler;
use super::outcome::{Failure, FailureKind};
use crate::cluster::failover::{Failover, Home, Spelling};
use crate::pool::Submission;
use crate::protocol::{Key, Nanos, OwnedRequest, Request, RetrievalVerb};

pub use self::deletes::DeleteHandler;
pub use self::guarded::Guarded;

impl<C: Caller> Client<C> {
    /// Starts to delete outdated copies wherever they are, and to submit again what a node that went
    /// down has not received.
    pub(super) fn start_failover(&self) {
        let Some(failover) = self.cluster().failover() else { return };
        let client = self.downgrade();
        failover.on_work(move |node| {
            if let Some(client) = Self::upgrade(&client) {
                client.delete_outdated(node);
            }
        });
        let client = self.downgrade();
        self.cluster().on_stranded(move |node, request, handler, deadline| {
            match Self::upgrade(&client).filter(|client| !client.is_closed()) {
                Some(client) => client.submit_again(node, request, handler, deadline),
                None => handler.fail_with(FailureKind::Closed),
            }
        });
    }

    /// A request for its first key. `home` is the key's home, if the caller chooses it.
    pub(super) fn submit_keyed(
        &self,
        home: Option<usize>,
        submission: Submission<'_>,
        handler: Handler<C>,
        deadline: Nanos,
    ) {
        let owned;
        let key = match &submission {
            Submission::Borrowed(Request::Retrieval { keys, .. }) => keys.first().copied(),
            Submission::Borrowed(Request::Command(command)) => command.key().copied(),
            Submission::Owned(request) => {
                owned = match request {
                    OwnedRequest::Retrieval { keys, .. } => keys.first().cloned(),
                    OwnedRequest::Command(command) => command.key().cloned(),
                };
                owned.as_ref().map(|key| Key::trusted(key))
            }
        };
        let cluster = self.cluster();
        match (key, cluster.failover()) {
            (Some(key), Some(failover)) => {
                self.submit_by_failover(failover, key, home, submission, handler, deadline);
            }
            _ => cluster.pool(0).submit_any(submission, handler, deadline),
        }
    }

    /// A request for one key. `home`: as in [`Self::submit_keyed`].
    pub(super) fn submit_by_failover(
        &self,
        failover: &Rc<Failover>,
        key: Key<'_>,
        home: Option<usize>,
        submission: Submission<'_>,
        handler: Handler<C>,
        deadline: Nanos,
    ) {
        let cluster = self.cluster();
        let home = match home.map_or_else(|| cluster.home_of(key), Ok) {
            Ok(home) => home,
            Err(error) => return handler.fail_with(FailureKind::NoNodes(error)),
        };
        let writes = exptime::writes(&submission);
        if failover.is_calm() && !writes {
            return cluster.pool(home).submit_any(submission, handler, deadline);
        }
        let spelling = exptime::spelling(&submission);
        let node = match (failover.is_calm(), writes) {
            (true, _) => Ok(home),
            (false, false) => cluster.serving(failover, key, home),
            (false, true) => cluster.route_write(failover, key, spelling, home),
        };
        let node = match node {
            Ok(node) => node,
            Err(error) => return handler.fail_with(FailureKind::NoNodes(error)),
        };
        let handler = if writes {
            Guarded::write(handler, failover, (home, node), key, spelling)
        } else if node != home {
            Guarded::read(handler, failover, home)
        } else {
            handler
        };
        let pool = cluster.pool(node);
        if node == home {
            return pool.submit_any(submission, handler, deadline);
        }
        failover.count(|counters| {
            if writes {
                counters.writes += 1;
            } else {
                counters.reads += 1;
            }
        });
        exptime::with_capped(submission, failover.config().ttl, |submission| {
            pool.submit_any(submission, handler, deadline);
        });
    }

    /// A retrieval of many keys, while some may have substitutes.
    pub(super) fn get_many_by_failover(
        &self,
        failover: &Rc<Failover>,
        verb: RetrievalVerb,
        keys: &[Key<'_>],
        homes: Option<&[usize]>,
        gather: &Rc<Gather<C>>,
        deadline: Nanos,
    ) {
        let cluster = self.cluster();
        if exptime::removes(verb) {
            for (at, key) in keys.iter().enumerate() {
                let home = homes.map_or_else(|| cluster.home_of(*key), |homes| Ok(homes[at]));
                // A key without a node fails below.
                let _ = home
                    .and_then(|home| cluster.route_write(failover, *key, Spelling::Plain, home));
            }
        }
        let lines = match cluster.lines_by_failover(failover, verb, keys, homes) {
            Ok(lines) => lines,
            Err(error) => {
                let kind = FailureKind::NoNodes(error);
                return gather.fail_whole(Failure::new(Some(verb.verb()), kind));
            }
        };
        gather.expect_lines(lines.len());
        for ((node, positions), substitute_for) in lines {
            let some: Vec<_> = match &positions {
                None => keys.to_vec(),
                Some(positions) => positions.iter().map(|at| keys[*at]).collect(),
            };
            let verb = if substitute_for.is_some() {
                failover.count(|counters| counters.reads += some.len() as u64);
                exptime::capped_retrieval(verb, failover.config().ttl)
            } else {
                verb
            };
            let line = Line::new(positions, some.len());
            let handler = Handler::Line { gather: gather.clone(), line };
            let handler = match substitute_for {
                Some(Home::Given(home)) => Guarded::read(handler, failover, home),
                _ => handler,
            };
            let request = Request::Retrieval { verb, keys: &some };
            cluster.pool(node).submit(&request, handler, deadline);
        }
    }

    /// A flush of a node by the user. Gutter nodes may hold copies for the node, so they are flushed
    /// too.
    pub(super) fn flush_by_failover(
        &self,
        node: usize,
        submission: Submission<'_>,
        mut handler: Handler<C>,
        deadline: Nanos,
    ) {
        if let Some(failover) = self.cluster().failover() {
            self.cluster().outdate_gutter(failover, node);
            handler = Guarded::flush(handler, failover, node);
        }
        self.cluster().pool(node).submit_any(submission, handler, deadline);
    }

    /// Submits again what a node that is down has not received.
    fn submit_again(
        &self,
        node: usize,
        mut request: OwnedRequest,
        handler: Handler<C>,
        deadline: Nanos,
    ) {
        let (home, handler) = match handler {
            Handler::Guarded(guarded) => (guarded.home, guarded.handler),
            other => (node, other),
        };
        let failover = self.cluster().failover();
        let are_given = failover.is_some_and(|failover| failover.config().homes_are_given);
        self.submit_keyed(
            are_given.then_some(home),
            Submission::Owned(&mut request),
            handler,
            deadline,
        );
    }
}
