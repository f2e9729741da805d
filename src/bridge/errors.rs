//! Failures of the core as exceptions of the package: one match.
use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3::{PyTypeInfo, import_exception};

use super::once::intern;
use crate::client::{Failure, FailureKind};
use crate::cluster::ClusterError;
use crate::pool::ErrorKind;
use crate::protocol::meta::MetaVerb;
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
    UnsupportedError,
}

pub fn closed() -> PyErr {
    ClientClosedError::new_err(Failure::new(None, FailureKind::Closed).to_string())
}

pub fn released() -> PyErr {
    PyRuntimeError::new_err("this connection was returned to its pool")
}

pub fn stats_args() -> PyErr {
    PyValueError::new_err("stats arguments must be words of printable ASCII")
}

pub fn no_loop() -> PyErr {
    PyRuntimeError::new_err("no running event loop")
}

pub fn wrong_loop() -> PyErr {
    PyRuntimeError::new_err(
        "this client belongs to another event loop or thread; create a client in each loop",
    )
}

pub fn forked() -> PyErr {
    PyRuntimeError::new_err("this client was made before a fork; create one in the child process")
}

pub fn forked_in_call() -> PyErr {
    PyRuntimeError::new_err("the process forked during this call; its reply goes to the parent")
}

/// The exception as a value, if it is an ordinary one.
pub fn as_value(py: Python<'_>, error: PyErr) -> PyResult<Py<PyAny>> {
    if error.is_instance_of::<PyException>(py) {
        Ok(error.into_value(py).into_any())
    } else {
        Err(error)
    }
}

pub fn internal() -> PyErr {
    PyRuntimeError::new_err(Failure::new(None, FailureKind::Internal).to_string())
}

pub fn no_nodes(py: Python<'_>, error: ClusterError) -> PyErr {
    from_failure(py, &Failure::new(None, FailureKind::NoNodes(error)))
}

/// A new one each time, because raising an exception lengthens its traceback.
pub fn from_failure(py: Python<'_>, failure: &Failure) -> PyErr {
    let text = failure.to_string();
    let shape = failure.command.map(Verb::shape);
    let is_storage = matches!(shape, Some(Shape::Storage | Shape::Meta(MetaVerb::Set)));
    let error = match &failure.kind {
        FailureKind::NotStored | FailureKind::Exists => NotStoredStorageCommandError::new_err(text),
        FailureKind::NotFound if !is_storage => NotFoundCommandError::new_err(text),
        FailureKind::NotFound | FailureKind::Refused { .. } if is_storage => {
            StorageCommandError::new_err(text)
        }
        FailureKind::Refused { kind: ErrorLineKind::Client, .. }
            if matches!(shape, Some(Shape::Arithmetic | Shape::Meta(MetaVerb::Arithmetic))) =>
        {
            ArithmeticCommandError::new_err(text)
        }
        FailureKind::NotFound | FailureKind::Refused { .. } | FailureKind::Unexpected(_) => {
            CommandError::new_err(text)
        }
        FailureKind::Pool(error) => from_pool(error.kind(), text),
        FailureKind::NoNodes(_) => ClusterNoAvailableNodes::new_err(text),
        FailureKind::NotSent { .. } => OperationTimeoutError::new_err(text),
        FailureKind::Closed => ClientClosedError::new_err(text),
        FailureKind::Internal => return PyRuntimeError::new_err(text),
    };
    match set_attributes(&error, py, failure) {
        Ok(()) => error,
        Err(error) => error,
    }
}

fn from_pool(kind: ErrorKind, text: String) -> PyErr {
    match kind {
        ErrorKind::Timeout { .. } | ErrorKind::CheckoutTimeout { .. } => {
            OperationTimeoutError::new_err(text)
        }
        ErrorKind::Unsupported { .. } => UnsupportedError::new_err(text),
        ErrorKind::Protocol => ProtocolError::new_err(text),
        ErrorKind::LoginRefused => AuthenticationError::new_err(text),
        ErrorKind::Unavailable | ErrorKind::Removed => NodeUnavailableError::new_err(text),
        ErrorKind::Saturated { .. } => OverloadedError::new_err(text),
        ErrorKind::Closed => ClientClosedError::new_err(text),
        _ => ConnectionFailedError::new_err(text),
    }
}

/// The attributes of every `EmcacheError`: see `_errors.py`.
fn set_attributes(error: &PyErr, py: Python<'_>, failure: &Failure) -> PyResult<()> {
    let exception = error.value(py);
    let set = |name: &Bound<'_, PyString>, value: Option<&str>| match value {
        Some(value) => exception.setattr(name, value),
        None => Ok(()),
    };
    set(intern!(py, "node"), failure.node().as_deref())?;
    set(intern!(py, "command"), failure.command.map(Verb::name))?;
    set(intern!(py, "status"), failure.status())?;
    set(intern!(py, "_reason"), failure.reason())?;
    set(intern!(py, "_cli_text"), failure.command_line_text().as_deref())?;
    set(intern!(py, "_down_because"), failure.down_because().as_deref())
}
