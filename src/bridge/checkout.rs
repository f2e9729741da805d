//! `CoreCheckout`: a connection for exclusive use, with the commands of the connections of emcache
//! 1.3. They return the server's reply and do not convert it to an exception.
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::client::session_here;
use super::once::intern;
use super::operations::{Answer, Operations};
use super::registry::{self, AbandonedHandle};
use super::session::Session;
use super::{convert, errors};
use crate::host::fork_count;
use crate::pool::{CheckoutId, invalid_credentials_reason};
use crate::protocol::{ArithmeticVerb, Command, RetrievalVerb, StorageVerb, Words};

/// Returns the connection to its pool when it is released or dropped.
#[pyclass(frozen, module = "emcache._emcache")]
pub struct CoreCheckout {
    session: u64,
    checkout: CheckoutId,
    forks: u64,
    is_closed: Arc<AtomicBool>,
    released: AtomicBool,
    event_loop: Py<PyAny>,
    turn: Py<PyAny>,
}

type Object<'py> = Bound<'py, PyAny>;

impl CoreCheckout {
    pub fn new_object(py: Python<'_>, session: u64, checkout: CheckoutId) -> PyResult<Py<PyAny>> {
        let owner = registry::session(session).ok_or_else(errors::closed)?;
        let held = Self {
            session,
            checkout,
            forks: owner.driver.forks(),
            is_closed: owner.is_closed.clone(),
            released: AtomicBool::new(false),
            event_loop: owner.driver.event_loop(py),
            turn: owner.driver.turn_callback(py),
        };
        Ok(Py::new(py, held)?.into_any())
    }

    fn session(&self, py: Python<'_>) -> PyResult<Rc<Session>> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(errors::closed());
        }
        if self.released.load(Ordering::Acquire) {
            return Err(errors::released());
        }
        session_here(py, self.session, self.forks)
    }

    fn operations(&self, py: Python<'_>) -> PyResult<Operations<'_>> {
        self.session(py).map(Operations::Loop)
    }

    fn return_to_pool(&self, py: Python<'_>) {
        let is_over = self.is_closed.load(Ordering::Acquire) || self.forks != fork_count();
        if self.released.swap(true, Ordering::AcqRel) || is_over {
            return;
        }
        if let Some(session) = registry::session(self.session) {
            session.release_silently(py, self.checkout);
            return;
        }
        let (session, checkout, is_closed) =
            (self.session, Some(self.checkout), self.is_closed.clone());
        registry::abandon(AbandonedHandle { session, checkout, is_closed });
        // A closed loop refuses the call. The checkout then ends with the session.
        let _ =
            self.event_loop.call_method1(py, intern!(py, "call_soon_threadsafe"), (&self.turn,));
    }

    fn run(&self, py: Python<'_>, command: Command<'_>, noreply: &Object<'_>) -> Answer {
        let noreply = convert::flag("noreply", noreply)?;
        self.operations(py)?.raw_command(py, self.checkout, command, noreply)
    }

    fn run_with_reply(&self, py: Python<'_>, command: Command<'_>) -> Answer {
        self.operations(py)?.raw_command(py, self.checkout, command, false)
    }

    fn run_retrieval(&self, py: Python<'_>, verb: RetrievalVerb, keys: &Object<'_>) -> Answer {
        let keys = convert::keys(convert::objects(keys)?)?;
        if keys.is_empty() {
            return Err(PyValueError::new_err("keys must not be empty"));
        }
        self.operations(py)?.raw_fetch(py, self.checkout, keys, verb)
    }
}

impl Drop for CoreCheckout {
    fn drop(&mut self) {
        Python::attach(|py| self.return_to_pool(py));
    }
}

fn unknown(name: &Object<'_>, known: &str) -> PyErr {
    let name = name.repr().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    PyValueError::new_err(format!("command must be one of {known}, not {name}"))
}

#[pymethods]
impl CoreCheckout {
    /// Whether the connection, or its checkout, has ended.
    #[getter]
    fn closed(&self, py: Python<'_>) -> PyResult<bool> {
        if self.is_closed.load(Ordering::Acquire) || self.released.load(Ordering::Acquire) {
            return Ok(true);
        }
        Ok(!self.session(py)?.is_checked_out(py, self.checkout)?)
    }

    /// Closes the connection and does not return it to the pool. A second call has no effect.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_closed.load(Ordering::Acquire) || self.released.load(Ordering::Acquire) {
            return Ok(());
        }
        self.session(py)?.close_checked_out(py, self.checkout)
    }

    fn release(&self, py: Python<'_>) {
        self.return_to_pool(py);
    }

    fn fetch(&self, py: Python<'_>, command: &Object<'_>, keys: &Object<'_>) -> Answer {
        let verb = match command.extract::<&[u8]>() {
            Ok(b"get") => RetrievalVerb::Get,
            Ok(b"gets") => RetrievalVerb::Gets,
            _ => return Err(unknown(command, "b'get', b'gets'")),
        };
        self.run_retrieval(py, verb, keys)
    }

    fn get_and_touch(
        &self,
        py: Python<'_>,
        command: &Object<'_>,
        exptime: &Object<'_>,
        keys: &Object<'_>,
    ) -> Answer {
        let verb = match command.extract::<&[u8]>() {
            Ok(b"gat") => RetrievalVerb::Gat { exptime: convert::exptime(exptime)? },
            Ok(b"gats") => RetrievalVerb::Gats { exptime: convert::exptime(exptime)? },
            _ => return Err(unknown(command, "b'gat', b'gats'")),
        };
        self.run_retrieval(py, verb, keys)
    }

    #[allow(clippy::too_many_arguments, reason = "these are the arguments of the command")]
    fn store(
        &self,
        py: Python<'_>,
        command: &Object<'_>,
        key: &Object<'_>,
        value: &Object<'_>,
        flags: &Object<'_>,
        exptime: &Object<'_>,
        noreply: &Object<'_>,
        cas: &Object<'_>,
    ) -> Answer {
        let verb = match command.extract::<&[u8]>() {
            Ok(b"set") => StorageVerb::Set,
            Ok(b"add") => StorageVerb::Add,
            Ok(b"replace") => StorageVerb::Replace,
            Ok(b"append") => StorageVerb::Append,
            Ok(b"prepend") => StorageVerb::Prepend,
            Ok(b"cas") => StorageVerb::Cas { token: convert::integer("cas", cas)? },
            _ => {
                let known = "b'set', b'add', b'replace', b'append', b'prepend', b'cas'";
                return Err(unknown(command, known));
            }
        };
        if !matches!(verb, StorageVerb::Cas { .. }) && !cas.is_none() {
            return Err(PyValueError::new_err("cas applies only to the command b'cas'"));
        }
        let key = convert::key(key)?;
        let value = convert::value(value)?;
        let flags = convert::integer("flags", flags)?;
        let exptime = convert::exptime(exptime)?;
        let value = value.as_bytes();
        self.run(py, Command::Storage { verb, key, flags, exptime, value }, noreply)
    }

    fn count(
        &self,
        py: Python<'_>,
        command: &Object<'_>,
        key: &Object<'_>,
        value: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        let verb = match command.extract::<&[u8]>() {
            Ok(b"incr") => ArithmeticVerb::Incr,
            Ok(b"decr") => ArithmeticVerb::Decr,
            _ => return Err(unknown(command, "b'incr', b'decr'")),
        };
        let key = convert::key(key)?;
        let delta = convert::integer("value", value)?;
        self.run(py, Command::Arithmetic { verb, key, delta }, noreply)
    }

    fn touch(
        &self,
        py: Python<'_>,
        key: &Object<'_>,
        exptime: &Object<'_>,
        noreply: &Object<'_>,
    ) -> Answer {
        let key = convert::key(key)?;
        let exptime = convert::exptime(exptime)?;
        self.run(py, Command::Touch { key, exptime }, noreply)
    }

    fn delete(&self, py: Python<'_>, key: &Object<'_>, noreply: &Object<'_>) -> Answer {
        let key = convert::key(key)?;
        self.run(py, Command::Delete { key }, noreply)
    }

    fn flush_all(&self, py: Python<'_>, delay: &Object<'_>, noreply: &Object<'_>) -> Answer {
        let delay = convert::integer("delay", delay)?;
        self.run(py, Command::FlushAll { delay }, noreply)
    }

    fn version(&self, py: Python<'_>) -> Answer {
        self.run_with_reply(py, Command::Version)
    }

    fn stats(&self, py: Python<'_>, args: &str) -> Answer {
        let args = Words::parse(args).ok_or_else(errors::stats_args)?;
        self.run_with_reply(py, Command::Stats { args })
    }

    fn verbosity(&self, py: Python<'_>, level: &Object<'_>, noreply: &Object<'_>) -> Answer {
        let level = convert::integer("level", level)?;
        self.run(py, Command::Verbosity { level }, noreply)
    }

    fn cache_memlimit(&self, py: Python<'_>, value: &Object<'_>, noreply: &Object<'_>) -> Answer {
        let megabytes = convert::integer("value", value)?;
        self.run(py, Command::CacheMemlimit { megabytes }, noreply)
    }

    /// The payload, or the line that the server sent in its place.
    fn config_get_cluster(&self, py: Python<'_>) -> Answer {
        self.run_with_reply(py, Command::ConfigGetCluster)
    }

    /// Neither may contain a line end, and the name must not contain a space.
    fn auth(&self, py: Python<'_>, username: &str, password: &str) -> Answer {
        if let Some(why) = invalid_credentials_reason(username, password) {
            return Err(PyValueError::new_err(why));
        }
        let credentials = format!("{username} {password}");
        self.run_with_reply(py, Command::Auth { credentials: credentials.as_bytes() })
    }

    /// Checks that all keys are valid.
    #[staticmethod]
    fn check_keys(keys: Vec<Object<'_>>) -> PyResult<()> {
        keys.iter().try_for_each(|key| convert::key(key).map(drop))
    }
}
