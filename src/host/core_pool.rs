//! The cores of one client whose callers wait: one for each call that is under way.
//!
//! A call takes the core that was used last, so a program of one thread uses one core, and `n`
//! threads use at most `n`. Cores that stay idle are closed, except one.
//!
//! A core with unanswered `noreply` requests waits for the thread that sent them: its next call
//! must not overtake them on another connection. If the thread ends, the core is idle once they are
//! answered.
use std::collections::HashMap;
use std::io;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::blocking::{Core, NodeAt, Receiver};
use super::forks::fork_count;
use super::totals::{Totals, add_hot_keys};
use crate::client::{HotKey, Nodes};
use crate::cluster::routing::NodeSpecs;
use crate::cluster::{ClusterConfig, NodeMetrics};

thread_local! {
    /// Lives as long as its thread.
    static THREAD: Arc<()> = Arc::new(());
}

/// A thread, which may have ended since.
struct Owner(Weak<()>);

impl Owner {
    /// The calling thread.
    fn current() -> Self {
        // Without a value the thread is about to end.
        Self(THREAD.try_with(Arc::downgrade).unwrap_or_default())
    }

    fn is_current(&self) -> bool {
        THREAD.try_with(|thread| Arc::as_ptr(thread) == self.0.as_ptr()).unwrap_or(false)
    }

    fn has_ended(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// How long a core that was not used may know that a node is down. A new core asks the node.
const OUTAGE_KNOWN_FOR: Duration = Duration::from_secs(1);

pub struct CorePool<R: Receiver> {
    config: ClusterConfig,
    is_closed: AtomicBool,
    state: Mutex<State<R>>,
}

struct State<R: Receiver> {
    /// The fork count of the process to which the cores belong.
    forks: u64,
    nodes: Vec<NodeAt>,
    specs: Arc<NodeSpecs>,
    /// Cores of another number have other nodes.
    generation: u64,
    next_id: u64,
    /// The one that was used last is at the end.
    idle: Vec<Member<R>>,
    pinned: Vec<(Owner, Member<R>)>,
    busy: Vec<u64>,
    /// Busy cores whose counters are wanted.
    uncounted: Vec<u64>,
    /// The last known counters of cores that are open.
    counters: HashMap<u64, Vec<NodeMetrics>>,
    /// The counters of cores that were closed.
    closed: Totals,
    noreply_errors: u64,
}

struct Member<R: Receiver> {
    core: Box<Core<R>>,
    id: u64,
    generation: u64,
}

impl<R: Receiver> Member<R> {
    /// Whether all requests with `noreply` are answered.
    fn is_drained(&mut self) -> bool {
        self.core.turn();
        self.core.nodes().noreply_unanswered() == 0
    }
}

#[derive(Debug)]
pub enum CheckOutError {
    Closed,
    /// It cannot be used in the child of a fork.
    Childless,
    Io(io::Error),
}

/// A core for one call. It returns to its pool at the end.
pub struct CheckedOut<'p, R: Receiver> {
    pool: &'p CorePool<R>,
    /// `None` once it was returned.
    member: Option<Member<R>>,
    forks: u64,
}

impl<R: Receiver> Deref for CheckedOut<'_, R> {
    type Target = Core<R>;

    fn deref(&self) -> &Core<R> {
        match &self.member {
            Some(member) => &member.core,
            None => unreachable!("it is returned only at the end"),
        }
    }
}

impl<R: Receiver> DerefMut for CheckedOut<'_, R> {
    fn deref_mut(&mut self) -> &mut Core<R> {
        match &mut self.member {
            Some(member) => &mut member.core,
            None => unreachable!("it is returned only at the end"),
        }
    }
}

impl<R: Receiver> CheckedOut<'_, R> {
    /// Whether the process has forked since: the core belongs to the parent, and must not be used.
    pub fn is_forked(&self) -> bool {
        self.forks != fork_count()
    }
}

impl<R: Receiver> Drop for CheckedOut<'_, R> {
    fn drop(&mut self) {
        let Some(member) = self.member.take() else { return };
        if self.is_forked() {
            // Not dropped: see `CorePool::drop`.
            mem::forget(member);
        } else {
            self.pool.check_in(member);
        }
    }
}

impl<R: Receiver> CorePool<R> {
    pub fn new(nodes: Vec<NodeAt>, config: ClusterConfig) -> Self {
        let state = State {
            forks: fork_count(),
            nodes,
            specs: config.specs.clone(),
            generation: 0,
            next_id: 0,
            idle: Vec::new(),
            pinned: Vec::new(),
            busy: Vec::new(),
            uncounted: Vec::new(),
            counters: HashMap::new(),
            closed: Totals::default(),
            noreply_errors: 0,
        };
        let is_closed = AtomicBool::new(false);
        Self { config, is_closed, state: Mutex::new(state) }
    }

    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Held only for short, and never while Python code may run: a fork finds it free.
    fn state(&self) -> MutexGuard<'_, State<R>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.forks != fork_count() {
            state.forget_parent();
        }
        state
    }

    /// A core for a call of this thread.
    pub fn check_out(&self) -> Result<CheckedOut<'_, R>, CheckOutError> {
        if self.is_closed() {
            return Err(CheckOutError::Closed);
        }
        let forks = fork_count();
        let mut outdated = Vec::new();
        let mut state = self.state();
        let known = state.take(&mut outdated);
        let member = if let Some(member) = known {
            member
        } else {
            let (id, generation) = (state.next_id, state.generation);
            state.next_id += 1;
            let (nodes, specs) = (state.nodes.clone(), state.specs.clone());
            drop(state);
            let config = ClusterConfig { specs, ..self.config.clone() };
            let core = Box::new(Core::open(nodes, &config).map_err(CheckOutError::Io)?);
            state = self.state();
            Member { core, id, generation }
        };
        state.busy.push(member.id);
        drop(state);
        self.retire(outdated);
        Ok(CheckedOut { pool: self, member: Some(member), forks })
    }

    fn check_in(&self, member: Member<R>) {
        let is_pinned = member.core.nodes().noreply_unanswered() > 0;
        let unused_after = self.config.pool.purge_unused_after;
        let mut outdated = Vec::new();
        let mut state = self.state();
        state.busy.retain(|id| *id != member.id);
        if let Some(at) = state.uncounted.iter().position(|id| *id == member.id) {
            state.uncounted.swap_remove(at);
            state.counters.insert(member.id, member.core.nodes().all_metrics());
        }
        if self.is_closed() || member.generation != state.generation || thread::panicking() {
            outdated.push(member);
        } else if is_pinned {
            state.pinned.push((Owner::current(), member));
        } else {
            state.idle.push(member);
        }
        state.collect_pinned(&mut outdated);
        if state.idle.len() > 1
            && unused_after.is_some_and(|after| state.idle[0].core.idle_for() > after)
        {
            outdated.push(state.idle.remove(0));
        }
        drop(state);
        self.retire(outdated);
    }

    /// Closes cores, and keeps their counters.
    fn retire(&self, members: impl IntoIterator<Item = Member<R>>) {
        for member in members {
            let nodes = member.core.nodes();
            let (counters, errors) = (nodes.all_metrics(), nodes.noreply_errors());
            let mut state = self.state();
            state.counters.remove(&member.id);
            state.closed.add_closed(member.core.addresses(), &counters);
            state.noreply_errors += errors;
            drop(state);
            drop(member);
        }
    }

    /// Replaces the nodes, and their weights and names unless these are `None`. Calls that are
    /// under way end with the former ones.
    pub fn set_nodes(&self, nodes: Vec<NodeAt>, specs: Option<Arc<NodeSpecs>>) {
        let mut state = self.state();
        state.nodes = nodes;
        if let Some(specs) = specs {
            state.specs = specs;
        }
        state.generation += 1;
        let outdated = mem::take(&mut state.idle);
        drop(state);
        self.retire(outdated);
    }

    /// Refuses further calls. Returns the cores with unanswered `noreply` requests; the others are
    /// closed.
    pub fn close(&self) -> Vec<CheckedOut<'_, R>> {
        self.is_closed.store(true, Ordering::Release);
        let mut state = self.state();
        let idle = mem::take(&mut state.idle);
        let pinned: Vec<_> = mem::take(&mut state.pinned).into_iter().map(|(_, m)| m).collect();
        state.busy.extend(pinned.iter().map(|member| member.id));
        drop(state);
        self.retire(idle);
        let forks = fork_count();
        let checked_out = |member| CheckedOut { pool: self, member: Some(member), forks };
        pinned.into_iter().map(checked_out).collect()
    }

    /// The health of the nodes, as the core that was used last knows it. `None` if all cores are
    /// busy.
    pub fn health(&self) -> Option<(Vec<usize>, Vec<usize>)> {
        self.state().idle.last().map(|member| member.core.nodes().health())
    }

    /// How many requests with `noreply` are unanswered, except on cores that are busy.
    pub fn noreply_unanswered(&self) -> usize {
        let state = self.state();
        state.pinned.iter().map(|(_, member)| member.core.nodes().noreply_unanswered()).sum()
    }

    /// How many requests with `noreply` failed, except on cores that are busy.
    pub fn noreply_errors(&self) -> u64 {
        let mut state = self.state();
        for (_, member) in &mut state.pinned {
            member.core.turn();
        }
        let open: u64 = state.members().map(|member| member.core.nodes().noreply_errors()).sum();
        state.noreply_errors + open
    }

    /// Asks for the counters of the calls that are under way.
    pub fn request_counters(&self) {
        let mut state = self.state();
        let current: Vec<_> =
            state.members().map(|m| (m.id, m.core.nodes().all_metrics())).collect();
        state.counters.extend(current);
        let State { uncounted, busy, .. } = &mut *state;
        uncounted.clone_from(busy);
    }

    /// Whether the calls for whose counters was asked have ended.
    pub fn has_counters(&self) -> bool {
        self.state().uncounted.is_empty()
    }

    /// The keys that calls requested most often, except on cores that are busy.
    pub fn hot_keys(&self) -> Vec<(HotKey, Option<usize>)> {
        let state = self.state();
        let found: Vec<_> = state.members().map(|member| member.core.nodes().hot_keys()).collect();
        drop(state);
        add_hot_keys(found, self.config.hot_keys)
    }

    /// The counters of all cores together, by the index of the node, as far as they are known.
    pub fn metrics(&self) -> Vec<NodeMetrics> {
        let state = self.state();
        let mut totals = state.closed.clone();
        let addresses: Vec<_> = state.nodes.iter().map(|node| node.address.clone()).collect();
        for counters in state.counters.values() {
            totals.add_open(&addresses, counters);
        }
        totals.by_index(&addresses)
    }
}

impl<R: Receiver> State<R> {
    fn members(&self) -> impl Iterator<Item = &Member<R>> {
        self.idle.iter().chain(self.pinned.iter().map(|(_, member)| member))
    }

    /// The best core for a call of this thread.
    fn take(&mut self, outdated: &mut Vec<Member<R>>) -> Option<Member<R>> {
        if !self.pinned.is_empty() {
            if let Some(at) = self.pinned.iter().position(|(owner, _)| owner.is_current()) {
                return Some(self.pinned.swap_remove(at).1);
            }
            self.collect_pinned(outdated);
        }
        let mut known_outage = None;
        while let Some(member) = self.idle.pop() {
            if member.generation != self.generation {
                outdated.push(member);
            } else if member.core.nodes().all_healthy() {
                self.idle.extend(known_outage);
                return Some(member);
            } else if known_outage.is_none() && member.core.idle_for() < OUTAGE_KNOWN_FOR {
                known_outage = Some(member);
            } else {
                // Another call may have found since that the node is back.
                outdated.push(member);
            }
        }
        if known_outage.is_some() {
            return known_outage;
        }
        let at = self.pinned.iter_mut().position(|(_, member)| member.is_drained())?;
        Some(self.pinned.swap_remove(at).1)
    }

    /// The cores of threads that have ended are idle, once their requests are answered.
    fn collect_pinned(&mut self, outdated: &mut Vec<Member<R>>) {
        let mut at = 0;
        while at < self.pinned.len() {
            let (owner, member) = &mut self.pinned[at];
            if !owner.has_ended() || !member.is_drained() {
                at += 1;
                continue;
            }
            let (_, member) = self.pinned.swap_remove(at);
            if member.generation == self.generation {
                // Others were used later, as far as is known.
                self.idle.insert(0, member);
            } else {
                outdated.push(member);
            }
        }
    }

    /// Forgets the cores of the parent process without dropping them: see [`CorePool::drop`].
    fn forget_parent(&mut self) {
        self.forks = fork_count();
        mem::forget(mem::take(&mut self.idle));
        mem::forget(mem::take(&mut self.pinned));
        self.busy.clear();
        self.uncounted.clear();
        self.counters.clear();
        self.closed = Totals::default();
        self.noreply_errors = 0;
    }
}

/// The cores of a parent process are not dropped: their sockets and epoll instances are shared with
/// it, and it would lose its registrations.
impl<R: Receiver> Drop for CorePool<R> {
    fn drop(&mut self) {
        drop(self.state());
    }
}
