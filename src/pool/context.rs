//! The services that connections and pools need from their host: tasks, time, and when to write.
//!
//! All time goes through here, because a host that is itself driven (by asyncio's loop) must know
//! when to run next.
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::protocol::{NEVER, Nanos};

pub type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// The program that runs the core.
pub trait Host {
    /// Runs a task on this thread.
    fn spawn(&self, task: LocalFuture);
    /// Bytes wait to be written. The host must call [`Context::flush`] once the requests that
    /// belong together have been submitted.
    fn wants_flush(&self);
    /// Wakes a task that has more to do, after other ready work had a turn.
    fn wake_later(&self, waker: &Waker);
}

/// An object with deadlines and bytes to write.
pub(super) trait Member {
    fn flush(&self);
    /// The number of connections whose task may find a reply before the socket is reported as
    /// readable.
    fn waiting(&self) -> usize;
    /// Wakes the tasks of these connections.
    fn wake_waiting(&self);
    /// Lists the connections with unanswered requests. Returns false if a request waits for
    /// anything but the reply on one of them.
    fn list_waiting(&self, list: &mut Vec<Waiting>) -> bool;
    /// Lets the next poll of the connections that wait for replies wait for bytes.
    fn block_next_read(&self);
    /// Whether bytes wait to be written.
    fn has_unwritten(&self) -> bool;
    /// Ends the requests whose deadline has passed and returns the next deadline.
    fn expire(self: Rc<Self>, now: Nanos) -> Nanos;
}

/// A connection whose task waits for a reply.
pub struct Waiting {
    /// The descriptor of its socket.
    pub fd: i32,
    pub waker: Waker,
}

/// With more members it is cheaper to poll Tokio's drivers.
const FEW_MEMBERS: usize = 4;
const FEW_CONNECTIONS: usize = 2;

pub struct Context {
    host: Box<dyn Host>,
    epoch: Instant,
    wakeups: RefCell<BTreeSet<(Instant, u64)>>,
    next_wakeup_id: Cell<u64>,
    members: RefCell<Vec<Weak<dyn Member>>>,
    unflushed: RefCell<Vec<Rc<dyn Member>>>,
    /// The deadline until which the expirer sleeps.
    armed: Cell<Nanos>,
    rearmed: Notify,
}

impl Context {
    pub fn new(host: impl FnOnce(Weak<Self>) -> Box<dyn Host>) -> Rc<Self> {
        Rc::new_cyclic(|weak| {
            let context = Self {
                host: host(weak.clone()),
                epoch: Instant::now(),
                wakeups: RefCell::default(),
                next_wakeup_id: Cell::new(0),
                members: RefCell::default(),
                unflushed: RefCell::default(),
                armed: Cell::new(NEVER),
                rearmed: Notify::new(),
            };
            context.spawn(expire_members(weak.clone()));
            context
        })
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.host.spawn(Box::pin(task));
    }

    pub fn now(&self) -> Nanos {
        self.nanos_at(Instant::now())
    }

    pub fn deadline_after(&self, limit: Option<Duration>) -> Nanos {
        self.deadline_at(limit.and_then(|limit| Instant::now().checked_add(limit)))
    }

    /// `None` is never.
    pub fn deadline_at(&self, at: Option<Instant>) -> Nanos {
        at.map_or(NEVER, |at| self.nanos_at(at))
    }

    fn nanos_at(&self, at: Instant) -> Nanos {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(NEVER)
    }

    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn sleep_until(&self, at: Instant) {
        // Tokio rounds a deadline up to the next millisecond. A host that wakes earlier would find
        // nothing to do, and nothing would wake it again.
        let _wakeup = Wakeup::register(self, at + Duration::from_millis(1));
        tokio::time::sleep_until(at).await;
    }

    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(Instant::now() + duration).await;
    }

    /// `None` if the limit passed first.
    ///
    /// # Cancel safety
    /// As safe as `future`.
    pub async fn timeout<T>(
        &self,
        limit: Option<Duration>,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let Some(limit) = limit else { return Some(future.await) };
        let (mut future, mut sleep) = (pin!(future), pin!(self.sleep(limit)));
        poll_fn(|cx| {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            sleep.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    /// The time at which the host must run next, if no other event occurs before.
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.wakeups.borrow().first().map(|(at, _)| *at)
    }

    /// Makes sure that a request with this deadline ends in time.
    pub(super) fn arm(&self, deadline: Nanos) {
        if deadline < self.armed.get() {
            self.armed.set(deadline);
            self.rearmed.notify_one();
        }
    }

    pub(super) fn register(&self, member: Weak<dyn Member>) {
        let mut members = self.members.borrow_mut();
        members.retain(|member| member.strong_count() > 0);
        members.push(member);
    }

    pub(super) fn flush_later(&self, member: Rc<dyn Member>) {
        let mut unflushed = self.unflushed.borrow_mut();
        unflushed.push(member);
        if unflushed.len() == 1 {
            self.host.wants_flush();
        }
    }

    /// For a host that knows that some socket is readable: wakes the tasks that wait for a reply
    /// and can read without polling the drivers, if they are few.
    pub fn wake_waiting(&self) -> bool {
        let members = self.members.borrow();
        let upgraded = || members.iter().filter_map(Weak::upgrade);
        if members.len() > FEW_MEMBERS {
            return false;
        }
        let waiting: usize = upgraded().map(|member| member.waiting()).sum();
        let are_few = (1..=FEW_CONNECTIONS).contains(&waiting);
        if are_few {
            upgraded().for_each(|member| member.wake_waiting());
        }
        are_few
    }

    /// For a host that waits for replies itself: lists the connections on which they will arrive.
    /// Returns false if Tokio's drivers are needed for anything else.
    pub fn list_waiting(&self, list: &mut Vec<Waiting>) -> bool {
        let members = self.members.borrow();
        let mut upgraded = members.iter().filter_map(Weak::upgrade);
        upgraded.all(|member| member.list_waiting(list)) && !list.is_empty()
    }

    /// For a host that waits for the reply on the only connection of [`Self::list_waiting`]: the
    /// next poll of its task waits for it, for a few milliseconds.
    pub fn block_next_read(&self) {
        self.members.borrow().iter().filter_map(Weak::upgrade).for_each(|m| m.block_next_read());
    }

    /// Whether bytes wait to be written, on any connection.
    pub fn has_unwritten(&self) -> bool {
        let members = self.members.borrow();
        members.iter().filter_map(Weak::upgrade).any(|member| member.has_unwritten())
    }

    pub(super) fn wake_later(&self, waker: &Waker) {
        self.host.wake_later(waker);
    }

    /// Writes the collected requests.
    pub fn flush(&self) {
        // A flush does not add members, so the list is returned empty and keeps its capacity.
        let mut unflushed = std::mem::take(&mut *self.unflushed.borrow_mut());
        for member in unflushed.drain(..) {
            member.flush();
        }
        let mut list = self.unflushed.borrow_mut();
        if list.is_empty() {
            *list = unflushed;
        }
    }

    fn expire(&self, now: Nanos) -> Nanos {
        let members: Vec<_> = self.members.borrow().iter().filter_map(Weak::upgrade).collect();
        members.into_iter().map(|member| member.expire(now)).min().unwrap_or(NEVER)
    }
}

/// A time at which the host must run, as long as a future waits for it.
struct Wakeup<'c> {
    context: &'c Context,
    at: (Instant, u64),
}

impl<'c> Wakeup<'c> {
    fn register(context: &'c Context, at: Instant) -> Self {
        let id = context.next_wakeup_id.get();
        context.next_wakeup_id.set(id + 1);
        context.wakeups.borrow_mut().insert((at, id));
        Self { context, at: (at, id) }
    }
}

impl Drop for Wakeup<'_> {
    fn drop(&mut self) {
        self.context.wakeups.borrow_mut().remove(&self.at);
    }
}

/// Returns the future's result, or `None` if it panicked.
///
/// # Cancel safety
/// As safe as `future`.
pub async fn catch_panic<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(polled) => polled.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// Returns the future's result, or `None` if `notify` is notified first. Notifications count from
/// the call on.
///
/// # Cancel safety
/// As safe as `future`.
pub(super) async fn unless_notified<T>(
    notify: &Notify,
    future: impl Future<Output = T>,
) -> Option<T> {
    let (mut notified, mut future) = (pin!(notify.notified()), pin!(future));
    poll_fn(|cx| match notified.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => future.as_mut().poll(cx).map(Some),
    })
    .await
}

/// One timer for all deadlines. It sleeps until the earliest one.
async fn expire_members(context: Weak<Context>) {
    loop {
        let Some(strong) = context.upgrade() else { return };
        let armed = strong.armed.get();
        if armed == NEVER {
            strong.rearmed.notified().await;
            continue;
        }
        let limit = Duration::from_nanos(armed.saturating_sub(strong.now()));
        if strong.timeout(Some(limit), strong.rearmed.notified()).await.is_some() {
            continue;
        }
        // Sockets that became readable together with this timer are read first: a reply that is
        // already in the socket beats its deadline.
        yield_once().await;
        strong.armed.set(NEVER);
        // All deadlines depend on this task, so it survives a panic.
        let expired = catch_unwind(AssertUnwindSafe(|| strong.expire(strong.now())));
        let soon = || strong.now().saturating_add(1_000_000_000);
        let next = expired.unwrap_or_else(|_| soon());
        if next < strong.armed.get() {
            strong.armed.set(next);
        }
    }
}

/// Lets the tasks that are ready run first. (Tokio's own `yield_now` waits for the next poll of its
/// drivers, which a driven host may not reach.)
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A host inside a running [`tokio::task::LocalSet`], for Rust programs, tests and benches.
pub struct LocalSetHost(Weak<Context>);

impl LocalSetHost {
    /// Must be called inside the `LocalSet`.
    pub fn context() -> Rc<Context> {
        Context::new(|context| Box::new(Self(context)))
    }
}

impl Host for LocalSetHost {
    fn spawn(&self, task: LocalFuture) {
        tokio::task::spawn_local(task);
    }

    fn wake_later(&self, waker: &Waker) {
        waker.wake_by_ref();
    }

    fn wants_flush(&self) {
        let context = self.0.clone();
        self.spawn(Box::pin(async move {
            if let Some(context) = context.upgrade() {
                context.flush();
            }
        }));
    }
}
