//! Failures of the core as exceptions of the package: one match each.
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::{import_exception, intern};

use crate::cluster::ClusterError;
use crate::pool;
use crate::protocol::{ErrorKind, Shape, Verb};

import_exception!(emcache._errors, ArithmeticCommandError);
import_exception!(emcache._errors, AuthenticationError);
import_exception!(emcache._errors, ClientClosedError);
import_exception!(emcache._errors, ClusterNoAvailableNodes);
import_exception!(emcache._errors, CommandError);
import_exception!(emcache._errors, ConnectionFailedError);
import_exception!(emcache._errors, InvalidKeyError);
import_exception!(emcache._errors, NodeUnavailableError);
import_exception!(emcache._errors, NotFoundCommandError);
import_exception!(emcache._errors, NotStoredStorageCommandError);
import_exception!(emcache._errors, OperationTimeoutError);
import_exception!(emcache._errors, OverloadedError);
import_exception!(emcache._errors, ProtocolError);
import_exception!(emcache._errors, StorageCommandError);

pub fn closed() -> PyErr {
    ClientClosedError::new_err("Emcache client is closed")
}

pub fn released() -> PyErr {
    PyRuntimeError::new_err("this connection was given back to its pool")
}

pub fn stats_args() -> PyErr {
    PyValueError::new_err("stats arguments must be words of printable ASCII")
}

pub fn foreign() -> PyErr {
    PyRuntimeError::new_err("this client belongs to another event loop (or to its thread)")
}

pub fn forked() -> PyErr {
    PyRuntimeError::new_err("this client was made before a fork: make one in the child process")
}

pub fn too_late(verb: Verb, limit: Duration) -> PyErr {
    let limit = limit.as_secs_f64();
    OperationTimeoutError::new_err(format!("not sent within {limit:?} s ({})", verb.name()))
}

/// A bug of ours, but no reason to wait for ever.
pub fn internal() -> PyErr {
    PyRuntimeError::new_err("internal error of emcache, please report it")
}

pub fn no_nodes(error: ClusterError) -> PyErr {
    ClusterNoAvailableNodes::new_err(error.to_string())
}

pub fn not_stored() -> PyErr {
    NotStoredStorageCommandError::new_err(())
}

pub fn not_found(verb: Verb) -> PyErr {
    match verb.shape() {
        Shape::Storage => StorageCommandError::new_err(format!("key not found ({})", verb.name())),
        _ => NotFoundCommandError::new_err(()),
    }
}

pub fn refused(verb: Verb, kind: ErrorKind, line: &str) -> PyErr {
    let text = format!("the server answered '{line}' ({})", verb.name());
    match (verb.shape(), kind) {
        (Shape::Storage, _) => StorageCommandError::new_err(text),
        (Shape::Arithmetic | Shape::MetaArithmetic, ErrorKind::Client) => {
            ArithmeticCommandError::new_err(text)
        }
        _ => CommandError::new_err(text),
    }
}

pub fn failed(py: Python<'_>, error: &pool::Error) -> PyErr {
    use pool::ErrorKind as Kind;
    let text = error.to_string();
    let exception = match error.kind() {
        Kind::Timeout { .. } | Kind::NoLease { .. } => OperationTimeoutError::new_err(text),
        Kind::Protocol => ProtocolError::new_err(text),
        Kind::LoginRefused => AuthenticationError::new_err(text),
        Kind::Unavailable => NodeUnavailableError::new_err(text),
        Kind::Saturated { .. } => OverloadedError::new_err(text),
        Kind::Closed => ClientClosedError::new_err(text),
        _ => ConnectionFailedError::new_err(text),
    };
    let node = error.node().to_string();
    if let Err(error) = exception.value(py).setattr(intern!(py, "node"), node) {
        return error;
    }
    exception
}
