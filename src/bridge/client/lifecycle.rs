//! The life of a client: opened, closed, abandoned by its last reference, or inherited by a fork.
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::super::blocking::BlockingClient;
use super::super::errors;
use super::super::operations::Operations;
use super::super::registry::{self, AbandonedHandle};
use super::super::router::PyRouter;
use super::super::session::Session;
use super::super::shared_client::SharedClient;
use super::{CoreClient, Home, LoopHome};
use crate::cluster::ClusterConfig;
use crate::host::fork_count;
use crate::pool::Address;

impl CoreClient {
    pub(super) fn open_session(
        py: Python<'_>,
        forks: u64,
        event_loop: Bound<'_, PyAny>,
        addresses: Vec<Address>,
        config: ClusterConfig,
        build: Option<Py<PyAny>>,
        on_change: Py<PyAny>,
    ) -> PyResult<Self> {
        let driver = registry::driver_for(&event_loop)?;
        let id = registry::next_id();
        let purge_unhealthy_nodes = config.purge_unhealthy_nodes;
        let router =
            build.map(|build| PyRouter::new(build, addresses.len(), purge_unhealthy_nodes));
        let session = Session::open(id, driver, addresses, config, router, on_change);
        session.driver.add_session(&session);
        registry::add_session(id, session.clone());
        session.driver.schedule_pending(py)?;
        let turn = session.driver.turn_callback(py);
        let closed = AtomicBool::new(false);
        let is_closed = session.is_closed.clone();
        let event_loop = event_loop.unbind();
        let home = LoopHome { id, forks, is_closed, event_loop, turn };
        Ok(Self { closed, home: Home::Loop(home) })
    }

    pub(super) fn close_session(&self, py: Python<'_>) -> PyResult<()> {
        if self.closed() {
            return Ok(());
        }
        match &self.home {
            Home::Loop(home) if home.forks != fork_count() => return Ok(()),
            Home::Loop(home) => home.close(py)?,
            Home::Blocking(client) => client.close(py)?,
            Home::Shared(client) => client.close(py)?,
        }
        self.closed.store(true, Ordering::Release);
        Ok(())
    }

    pub(super) fn abandon_session(&self, py: Python<'_>) {
        match &self.home {
            Home::Loop(home) => home.abandon(py, &self.closed),
            Home::Blocking(client) => self.closed_quietly(py, client.close(py)),
            Home::Shared(client) => self.closed_quietly(py, client.close(py)),
        }
    }

    /// An error comes from a signal handler.
    fn closed_quietly(&self, py: Python<'_>, closed: PyResult<()>) {
        self.closed.store(true, Ordering::Release);
        if let Err(error) = closed {
            error.write_unraisable(py, None);
        }
    }

    /// Checked first, so that a closed client raises before any argument error.
    pub(super) fn open(&self) -> PyResult<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(errors::closed());
        }
        Ok(())
    }

    /// Called after all arguments are converted, because a conversion may run user code that closes
    /// the client.
    pub fn session(&self, py: Python<'_>) -> PyResult<Operations<'_>> {
        self.open()?;
        match &self.home {
            Home::Loop(home) => session_here(py, home.id, home.forks).map(Operations::Loop),
            Home::Blocking(client) => Ok(Operations::Blocking(client)),
            Home::Shared(client) => Ok(Operations::Shared(client)),
        }
    }

    /// For queries that send no request, so the loop need not be running.
    pub fn operations_on_thread(&self) -> PyResult<Operations<'_>> {
        self.open()?;
        match &self.home {
            Home::Loop(home) => home.session_on_thread().map(Operations::Loop),
            Home::Blocking(client) => Ok(Operations::Blocking(client)),
            Home::Shared(client) => Ok(Operations::Shared(client)),
        }
    }

    /// The session of a client that a loop drives.
    pub fn loop_session(&self, py: Python<'_>) -> PyResult<Rc<Session>> {
        match self.session(py)? {
            Operations::Loop(session) => Ok(session),
            Operations::Blocking(_) | Operations::Shared(_) => Err(errors::internal()),
        }
    }

    /// Only of a client whose callers share a core.
    pub fn shared(&self) -> Option<&SharedClient> {
        match &self.home {
            Home::Shared(client) => Some(client),
            Home::Loop(_) | Home::Blocking(_) => None,
        }
    }

    pub fn blocking(&self) -> PyResult<&BlockingClient> {
        match &self.home {
            Home::Blocking(client) => Ok(client),
            Home::Loop(_) | Home::Shared(_) => Err(errors::internal()),
        }
    }
}

impl LoopHome {
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let is_in_loop = match registry::session(self.id) {
            Some(session) => session.driver.is_running(py)?,
            None => false,
        };
        // When its loop is closed, a client may be closed from any thread.
        if !is_in_loop && !self.event_loop.call_method0(py, "is_closed")?.is_truthy(py)? {
            return Err(errors::wrong_loop());
        }
        if !self.is_closed.load(Ordering::Acquire) && !registry::close_session(py, self.id) {
            registry::abandon(self.to_abandoned_handle());
        }
        Ok(())
    }

    fn abandon(&self, py: Python<'_>, closed: &AtomicBool) {
        if self.forks != fork_count() || self.is_closed.load(Ordering::Acquire) {
            return;
        }
        if !closed.swap(true, Ordering::AcqRel) && !registry::abandon_session(py, self.id) {
            registry::abandon(self.to_abandoned_handle());
            // A closed loop refuses the call. Its thread closes the session the next time it
            // creates a client or runs a turn.
            let _ = self.event_loop.call_method1(py, "call_soon_threadsafe", (&self.turn,));
        }
    }

    fn to_abandoned_handle(&self) -> AbandonedHandle {
        AbandonedHandle { session: self.id, checkout: None, is_closed: self.is_closed.clone() }
    }

    fn session_on_thread(&self) -> PyResult<Rc<Session>> {
        registry::session(self.id).ok_or_else(|| {
            if self.forks == fork_count() { errors::wrong_loop() } else { errors::forked() }
        })
    }
}

/// Returns a session that was opened at this fork count, if the calling code runs in its loop.
pub fn session_here(py: Python<'_>, id: u64, forks: u64) -> PyResult<Rc<Session>> {
    match registry::session(id) {
        Some(session) if session.driver.is_running(py)? => Ok(session),
        _ if forks != fork_count() => Err(errors::forked()),
        _ => Err(errors::wrong_loop()),
    }
}

/// Checks a number of seconds; `None` is no limit.
pub fn seconds(name: &str, value: Option<f64>) -> PyResult<Option<Duration>> {
    value
        .map(|secs| {
            // Longer than any program runs, and short enough to be added to any time.
            const MAX_SECONDS: f64 = 100.0 * 365.0 * 86_400.0;
            let secs = if secs > MAX_SECONDS { MAX_SECONDS } else { secs };
            Duration::try_from_secs_f64(secs).map_err(|_| {
                PyValueError::new_err(format!("{name} must be a number of seconds >= 0, or None"))
            })
        })
        .transpose()
}
