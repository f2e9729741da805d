//! Failures of the core as exceptions of the package: one match per source.
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::{PyTypeInfo, import_exception};

use super::once::intern;
use crate::cluster::ClusterError;
use crate::pool;
use crate::protocol::{ErrorLineKind, Shape, Verb};

macro_rules! exceptions {
    ($($name:ident),+ $(,)?) => {
        $(import_exception!(emcache._errors, $name);)+

        /// Imports all exceptions. `PyO3` would import each when it is first raised, under a lock
        /// that a fork may find held.
        pub fn prepare(py: Python<'_>) {
            $($name::type_object(py);)+
        }
    };
}

exceptions! {
    ArithmeticCommandError,
    AuthenticationError,
    ClientClosedError,
    ClusterNoAvailableNodes,
    CommandError,
    ConnectionFailedError,
    InvalidKeyError,
    NodeUnavailableError,
    NotFoundCommandError,
    NotStoredStorageCommandError,
    OperationTimeoutError,
    OverloadedError,
    ProtocolError,
    StorageCommandError,
}

pub fn closed() -> PyErr {
    ClientClosedError::new_err("Emcache client is closed")
}

pub fn released() -> PyErr {
    PyRuntimeError::new_err("this connection was returned to its pool")
}

pub fn stats_args() -> PyErr {
    PyValueError::new_err("stats arguments must be words of printable ASCII")
}

pub fn wrong_loop() -> PyErr {
    PyRuntimeError::new_err(
        "this client belongs to another event loop or thread; create a client in each loop",
    )
}

pub fn forked() -> PyErr {
    PyRuntimeError::new_err("this client was made before a fork; create one in the child process")
}

/// A bug in emcache. It must not make a call wait for ever.
pub fn internal() -> PyErr {
    PyRuntimeError::new_err("internal error in emcache; please report it")
}

pub fn deadline_passed(py: Python<'_>, verb: Verb, limit: Duration) -> PyErr {
    let limit = limit.as_secs_f64();
    let text = format!("not sent within {limit:?} s ({})", verb.name());
    attributed(py, OperationTimeoutError::new_err(text), None, Some(verb))
}

pub fn no_nodes(py: Python<'_>, error: ClusterError, verb: Option<Verb>) -> PyErr {
    attributed(py, ClusterNoAvailableNodes::new_err(error.to_string()), None, verb)
}

/// `node` answered `NOT_STORED` or `EXISTS`.
pub fn not_stored(py: Python<'_>, verb: Verb, node: &str) -> PyErr {
    let why = match verb {
        Verb::Add => "the key exists",
        Verb::Cas => "the value has changed since it was read",
        _ => "the key does not exist",
    };
    let text = format!("{node} did not store the value: {why} ({})", verb.name());
    attributed(py, NotStoredStorageCommandError::new_err(text), Some(node), Some(verb))
}

pub fn not_found(py: Python<'_>, verb: Verb, node: &str) -> PyErr {
    let text = format!("key not found on {node} ({})", verb.name());
    let error = match verb.shape() {
        Shape::Storage => StorageCommandError::new_err(text),
        _ => NotFoundCommandError::new_err(text),
    };
    attributed(py, error, Some(node), Some(verb))
}

pub fn refused(py: Python<'_>, verb: Verb, kind: ErrorLineKind, line: &str, node: &str) -> PyErr {
    let text = format!("{node} answered '{line}' ({})", verb.name());
    let error = match (verb.shape(), kind) {
        (Shape::Storage, _) => StorageCommandError::new_err(text),
        (Shape::Arithmetic | Shape::MetaArithmetic, ErrorLineKind::Client) => {
            ArithmeticCommandError::new_err(text)
        }
        _ => CommandError::new_err(text),
    };
    attributed(py, error, Some(node), Some(verb))
}

pub fn failed(py: Python<'_>, error: &pool::Error, verb: Option<Verb>) -> PyErr {
    use pool::ErrorKind as Kind;
    let text = error.to_string();
    let exception = match error.kind() {
        Kind::Timeout { .. } | Kind::CheckoutTimeout { .. } => OperationTimeoutError::new_err(text),
        Kind::Protocol => ProtocolError::new_err(text),
        Kind::LoginRefused => AuthenticationError::new_err(text),
        Kind::Unavailable | Kind::Removed => NodeUnavailableError::new_err(text),
        Kind::Saturated { .. } => OverloadedError::new_err(text),
        Kind::Closed => ClientClosedError::new_err(text),
        _ => ConnectionFailedError::new_err(text),
    };
    if matches!(error.kind(), Kind::Unanswered { .. })
        && let Err(error) = exception.value(py).setattr(intern!(py, "_is_unanswered"), true)
    {
        return error;
    }
    attributed(py, exception, Some(&error.node().to_string()), verb)
}

/// Sets the attributes that every `EmcacheError` has in addition to its text.
fn attributed(py: Python<'_>, error: PyErr, node: Option<&str>, verb: Option<Verb>) -> PyErr {
    let set = || {
        let exception = error.value(py);
        if let Some(node) = node {
            exception.setattr(intern!(py, "node"), node)?;
        }
        if let Some(verb) = verb {
            exception.setattr(intern!(py, "command"), verb.name())?;
        }
        PyResult::Ok(())
    };
    match set() {
        Ok(()) => error,
        Err(error) => error,
    }
}
