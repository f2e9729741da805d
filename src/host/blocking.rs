//! A core that the calling thread drives while it waits for a reply: no loop, no other thread.
//!
//! One call at a time has it, on any thread. Between calls nothing drives it, so [`Core::begin`]
//! first catches up on what became due.
//!
//! A reply is awaited in one of two ways. Most calls have nothing else to wait for: their requests
//! are on connections, so `poll` on these sockets is enough, and the tasks of the connections read
//! without asking Tokio. All else (connecting, timers, a full socket) waits in Tokio.
#![allow(unsafe_code)]
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::runtime::{Builder, Runtime};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;

use super::poll::{Polled, poll};
use super::tasks::Tasks;
use crate::client::{BatchSource, Caller, Client, FailureKind, Nodes, Outcome};
use crate::cluster::{ClusterConfig, NodeChange};
use crate::pool::{Address, Context, Host, LocalFuture, Waiting};
use crate::protocol::{ItemRef, Nanos, ValueBuf};

/// A core that was not used for this long may have lost connections, or missed timers.
const IDLE_AFTER: Duration = Duration::from_millis(5);
/// The longest wait outside of Tokio: it delays what only Tokio reports.
const MAX_POLL: Duration = Duration::from_millis(10);
/// At most this long a read may block: see `pool/socket.rs`.
const BLOCKED_READ: Duration = Duration::from_millis(5);

/// How the caller stores items, and what it sends.
pub trait Receiver: 'static {
    type Item: Send + 'static;
    type Value: ValueBuf + Send;
    type Source: BatchSource + Send;

    /// Copies an item. Short values may share a block of memory.
    fn item(item: &ItemRef<'_>, shared: Option<&Self::Value>, block: &mut BytesMut) -> Self::Item;
}

/// A node, and the IP address to try before its name is resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeAt {
    pub address: Address,
    pub ip: Option<String>,
}

pub struct Core<R: Receiver> {
    client: Client<BlockingCaller<R>>,
    context: Rc<Context>,
    slot: Rc<Slot<R>>,
    changes: Rc<RefCell<Vec<NodeChange>>>,
    work: Work,
    tasks: Tasks,
    waiting: Vec<Waiting>,
    addresses: Vec<Address>,
    /// When the last call began.
    used_at: Instant,
    /// `None` once it was dropped.
    runtime: Option<Runtime>,
}

// SAFETY: the parts that are not `Send` are `Rc`s, cells, and futures and closures that hold such.
// All of them are created by methods of the core, and no method returns one or stores one outside
// of it: nothing in `pool`, `cluster` and `client` keeps state of a thread (`layering.rs` checks
// this), and the types that enter and leave (`R`, closures of `begin`) are `Send`. What other
// threads may hold are wakers, which are `Arc`s. So whoever has the core has all references to its
// parts, and moving it moves them together.
unsafe impl<R: Receiver> Send for Core<R> {}

/// The outcomes of one call.
struct Slot<R: Receiver> {
    call: Cell<u64>,
    outcomes: RefCell<Vec<(usize, Outcome<R::Item>)>>,
    /// How many were removed before the call has ended.
    taken: Cell<usize>,
    block: RefCell<BytesMut>,
}

impl<R: Receiver> Slot<R> {
    fn len(&self) -> usize {
        self.taken.get() + self.outcomes.borrow().len()
    }
}

/// Waits for one of the outcomes of a call.
pub struct BlockingCaller<R: Receiver> {
    /// `None`: completed.
    slot: Option<Rc<Slot<R>>>,
    call: u64,
    index: usize,
}

impl<R: Receiver> BlockingCaller<R> {
    fn end(&mut self, outcome: Outcome<R::Item>) {
        if let Some(slot) = self.slot.take()
            && slot.call.get() == self.call
        {
            slot.outcomes.borrow_mut().push((self.index, outcome));
        }
    }
}

/// However an operation ends, its caller is told.
impl<R: Receiver> Drop for BlockingCaller<R> {
    fn drop(&mut self) {
        if self.slot.is_some() {
            self.end(Outcome::failed(None, FailureKind::Internal));
        }
    }
}

impl<R: Receiver> Caller for BlockingCaller<R> {
    type Item = R::Item;
    type Value = R::Value;
    type Source = R::Source;

    #[inline]
    fn item(&self, item: &ItemRef<'_>, shared: Option<&R::Value>) -> Option<R::Item> {
        let slot = self.slot.as_ref().filter(|slot| slot.call.get() == self.call)?;
        Some(R::item(item, shared, &mut slot.block.borrow_mut()))
    }

    fn complete(mut self, outcome: Outcome<R::Item>) {
        self.end(outcome);
    }

    fn is_abandoned(&self) -> bool {
        self.slot.as_ref().is_none_or(|slot| slot.call.get() != self.call)
    }
}

/// What the core asked its host for.
#[derive(Clone, Default)]
struct Work {
    spawned: Rc<RefCell<Vec<LocalFuture>>>,
    wants_flush: Rc<Cell<bool>>,
}

impl Work {
    /// Runs the tasks that can go on, and writes what they submit together.
    fn run(&self, tasks: &mut Tasks, context: &Context) {
        loop {
            tasks.run(|| self.spawned.take());
            if !self.wants_flush.take() {
                return;
            }
            context.flush();
        }
    }
}

impl Host for Work {
    fn spawn(&self, task: LocalFuture) {
        self.spawned.borrow_mut().push(task);
    }

    fn wants_flush(&self) {
        self.wants_flush.set(true);
    }

    fn wake_later(&self, waker: &Waker) {
        waker.wake_by_ref();
    }
}

impl<R: Receiver> Core<R> {
    pub fn open(nodes: Vec<NodeAt>, config: &ClusterConfig) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .thread_keep_alive(Duration::from_secs(1))
            .build()?;
        let work = Work::default();
        let host = work.clone();
        let context = Context::new(|_| Box::new(host));
        let changes: Rc<RefCell<Vec<NodeChange>>> = Rc::default();
        let noted = changes.clone();
        let has_ips = nodes.iter().any(|node| node.ip.is_some());
        let addresses: Vec<_> = nodes.iter().map(|node| node.address.clone()).collect();
        let at_once = if has_ips { Vec::new() } else { addresses.clone() };
        let client =
            Client::new(&context, at_once, config, move |change| noted.borrow_mut().push(change));
        if has_ips {
            // Some rules hash the addresses too.
            let all: Vec<_> =
                nodes.into_iter().map(|node| client.add_node(node.address, node.ip)).collect();
            client.change(&all, &[], &all, &[]);
        }
        let (call, taken) = (Cell::new(0), Cell::new(0));
        let (outcomes, block) = (RefCell::default(), RefCell::default());
        Ok(Self {
            client,
            context,
            slot: Rc::new(Slot { call, outcomes, taken, block }),
            changes,
            work,
            tasks: Tasks::default(),
            waiting: Vec::new(),
            addresses,
            used_at: Instant::now(),
            runtime: Some(runtime),
        })
    }

    /// Fails what is unanswered, and closes all connections.
    pub fn close(&mut self) {
        self.client.close();
    }

    /// Questions about the nodes. The answer holds no part of the core.
    pub fn nodes(&self) -> &impl Nodes {
        &self.client
    }

    /// The addresses of its nodes, by index.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// How long ago a call used it.
    pub fn idle_for(&self) -> Duration {
        self.used_at.elapsed()
    }

    /// Begins a call. `submit` passes each of its callers to the client.
    pub fn begin(&mut self, submit: impl FnOnce(&Submitter<'_, R>)) {
        self.give_up();
        let now = Instant::now();
        if now - self.used_at > IDLE_AFTER || self.is_due(now) {
            self.turn();
        }
        self.used_at = now;
        submit(&Submitter { client: &self.client, slot: &self.slot, now });
        if self.work.wants_flush.take() {
            self.context.flush();
        }
    }

    /// Waits until the call has `count` outcomes, or `limit` passes, or a signal arrives. Returns
    /// whether it has them.
    pub fn wait(&mut self, count: usize, limit: Duration) -> bool {
        self.run_ready();
        if self.has(count) {
            return true;
        }
        match self.wait_for_replies(count, limit) {
            Some(has_them) => has_them,
            None => self.wait_for_anything(count, limit),
        }
    }

    pub fn has(&self, count: usize) -> bool {
        self.slot.len() >= count
    }

    /// Removes the outcomes that arrived, each with the index of its caller. `before`: the number
    /// that was removed before; they still count for [`Self::wait`].
    pub fn outcomes_from(&mut self, before: usize) -> Vec<(usize, Outcome<R::Item>)> {
        let outcomes = self.slot.outcomes.take();
        self.slot.taken.set(before + outcomes.len());
        outcomes
    }

    /// Ends a call with one caller.
    pub fn take(&mut self) -> Option<Outcome<R::Item>> {
        let outcome = self.slot.outcomes.borrow_mut().pop().map(|(_, outcome)| outcome);
        self.give_up();
        outcome
    }

    /// The outcomes of the call are dropped when they arrive.
    pub fn give_up(&mut self) {
        self.slot.call.set(self.slot.call.get() + 1);
        self.slot.taken.set(0);
        self.slot.outcomes.borrow_mut().clear();
    }

    /// The changes of nodes since the last call of this method.
    pub fn take_changes(&mut self) -> Vec<NodeChange> {
        self.changes.take()
    }

    /// Whether the core noticed changes of nodes.
    pub fn has_changes(&self) -> bool {
        !self.changes.borrow().is_empty()
    }

    /// Runs what is due, without waiting.
    pub fn turn(&mut self) {
        let Self { runtime, tasks, work, context, .. } = self;
        if let Some(runtime) = runtime {
            runtime.block_on(unconstrained(async {
                // Polls epoll and timers once, without waiting.
                tokio::task::yield_now().await;
                work.run(tasks, context);
            }));
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.context.next_wakeup().is_some_and(|at| at <= now)
    }

    fn run_ready(&mut self) {
        if !self.tasks.ready().any() && self.work.spawned.borrow().is_empty() {
            return;
        }
        let Self { runtime: Some(runtime), tasks, work, context, .. } = self else { return };
        let _entered = runtime.enter();
        work.run(tasks, context);
    }

    /// Waits only for the sockets of unanswered requests. `None`: that is not enough.
    fn wait_for_replies(&mut self, count: usize, limit: Duration) -> Option<bool> {
        let (mut now, mut has_blocked) = (self.used_at, false);
        let end = now + MAX_POLL.min(limit);
        loop {
            let mut waiting = std::mem::take(&mut self.waiting);
            waiting.clear();
            if !self.context.list_waiting(&mut waiting) {
                self.waiting = waiting;
                return None;
            }
            let until = self.context.next_wakeup().map_or(end, |due| due.min(end));
            let rest = until.saturating_duration_since(now);
            if let [only] = &waiting[..]
                && rest >= BLOCKED_READ
                && !std::mem::replace(&mut has_blocked, true)
            {
                // Two system calls for a request: the write, and this read.
                self.context.block_next_read();
                only.waker.wake_by_ref();
                self.waiting = waiting;
                self.run_ready();
                if self.has(count) {
                    return Some(true);
                }
                now = Instant::now();
                continue;
            }
            let polled = if rest.is_zero() { Polled::Nothing } else { poll(&waiting, rest) };
            self.waiting = waiting;
            match polled {
                Polled::Some => {}
                Polled::Nothing => return None,
                Polled::Interrupted => return Some(false),
            }
            self.run_ready();
            if self.has(count) {
                return Some(true);
            }
            now = Instant::now();
        }
    }

    fn wait_for_anything(&mut self, count: usize, limit: Duration) -> bool {
        let slot = self.slot.clone();
        self.wait_until(|_| slot.len() >= count, limit)
    }

    /// Waits until all requests are written, or `limit` passes.
    pub fn wait_written(&mut self, limit: Duration) -> bool {
        !self.context.has_unwritten() || self.wait_until(|context| !context.has_unwritten(), limit)
    }

    fn wait_until(&mut self, is_over: impl Fn(&Context) -> bool, limit: Duration) -> bool {
        let Self { runtime: Some(runtime), tasks, work, context, .. } = self else { return false };
        runtime.block_on(unconstrained(async {
            let mut sleep = pin!(tokio::time::sleep(limit));
            poll_fn(|cx| {
                loop {
                    work.run(tasks, context);
                    if is_over(context) {
                        return Poll::Ready(true);
                    }
                    if sleep.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(false);
                    }
                    if tasks.ready().park(cx.waker()) {
                        return Poll::Pending;
                    }
                }
            })
            .await
        }))
    }
}

/// Passes the callers of one call to the client.
pub struct Submitter<'a, R: Receiver> {
    pub client: &'a Client<BlockingCaller<R>>,
    slot: &'a Rc<Slot<R>>,
    now: Instant,
}

impl<R: Receiver> Submitter<'_, R> {
    /// The deadline of the call.
    pub fn deadline(&self) -> Nanos {
        let at = self.client.timeout().and_then(|limit| self.now.checked_add(limit));
        self.client.context().deadline_at(at)
    }

    /// The caller of the outcome with this index.
    pub fn caller(&self, index: usize) -> BlockingCaller<R> {
        BlockingCaller { slot: Some(self.slot.clone()), call: self.slot.call.get(), index }
    }
}

/// Closes all connections, and drops the tasks where Tokio expects it.
impl<R: Receiver> Drop for Core<R> {
    fn drop(&mut self) {
        self.give_up();
        self.client.close();
        let Some(runtime) = self.runtime.take() else { return };
        {
            let _entered = runtime.enter();
            drop(std::mem::take(&mut self.tasks));
            drop(self.work.spawned.take());
        }
        // A plain drop could wait for a name resolution.
        runtime.shutdown_background();
    }
}
